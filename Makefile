# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set themselves up in .venv.
# `make demo-world` makes the first table of the MOV paper; `make wheel` a file to install elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Your own: make demo VIDEO=holiday.mp4 LABELS="surfing, playing chess"
export VIDEO LABELS
REPORT ?= demo-report/index.html
# Options of the tests: make test PYTEST="-k decode"
PYTEST ?=

.PHONY: demo demo-world test lint format wheel constraints clean

demo: $(VENV)/.demo
	$(BIN)/lexivid demo $${VIDEO:+"$$VIDEO"} $${LABELS:+--labels "$$LABELS"} --report $(REPORT)

demo-world: $(VENV)/.demo
	$(BIN)/lexivid reproduce table1 --world --quick --out $(dir $(REPORT))world

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# The versions of what Lexivid needs that this environment has: what the tests ran with.
constraints: $(VENV)/.dev
	$(BIN)/python .ci/constraints.py > constraints.txt.new && mv constraints.txt.new constraints.txt

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Lexivid needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --progress-bar on -e '.[lite,demo,flow,train]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet -e '.[lite,demo,flow,dis,train,dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo-report build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
