"""Print the versions of Lexivid's dependencies in this environment, extras included, as a constraints file for pip."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tomllib

PROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
EXTRAS = ("lite", "demo", "flow", "dis", "train")

print("# What the tests ran with; written by `make constraints`. Use: pip install -c constraints.txt ...")
needed = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra])]
for name in sorted({re.split(r"[<>=!~; \[]", line)[0].lower() for line in needed}):
    try:
        print(f"{name}=={version(name).partition('+')[0]}")
    except PackageNotFoundError:
        raise SystemExit(f"{name} is not installed here") from None
