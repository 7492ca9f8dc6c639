"""The order of the library's layers (docs/architecture.md), held against the imports that the code has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from layers import LAYERS

import lexivid

ROOT = Path(lexivid.__file__).parent
# Imports inside functions, and what they are good for.
LAZY = {
    "__init__": "`import lexivid` answers at once",
    "__main__": "Ctrl-C may come while modules are read",
    "cli": "`lexivid --help` answers at once",
    "backbones.base": "a family's libraries are read when one of its models is asked for",
}

# Public names that stand in two modules, and why. (The command line's functions are called as their verbs.)
TWICE = {
    "CUBIC": "the same constant, for kernels that import nothing",
    "T": "a type variable",
    "is_plain": "of the private modules of media: colours there, channels here",
}


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


NAMES = {name for name, _ in _modules()}


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module below lexivid, whether the import stands at the top of the file); those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lexivid":
            inner = [f"{node.module}.{name.name}".removeprefix("lexivid.") for name in node.names]
            below = node.module.removeprefix("lexivid").lstrip(".")
            modules = [name if name in NAMES else below for name in inner]
        elif isinstance(node, ast.Import):
            modules = [n.name.removeprefix("lexivid.") for n in node.names if n.name.startswith("lexivid.")]
        for module in modules:
            if module:
                yield module, node in tree.body


def _layer_of(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if module.split(".")[0] in layer)


def test_every_module_has_a_layer() -> None:
    top = {name.split(".")[0] for name in NAMES if name != "__init__"}
    assert top == set().union(*LAYERS)


def test_imports_run_downward() -> None:
    upward = [
        (name, module)
        for name, path in _modules()
        if name != "__init__"
        for module, _ in _imports(path)
        if _layer_of(module) < _layer_of(name)
    ]
    assert upward == []


def test_no_import_hides_inside_a_function() -> None:
    hidden = [
        (name, module)
        for name, path in _modules()
        if not {name, name.split(".")[0]} & LAZY.keys()
        for module, at_top in _imports(path)
        if not at_top
    ]
    assert hidden == []


def test_general_code_does_not_import_the_synthetic_world() -> None:
    general = [
        (name, module)
        for name, path in _modules()
        if name.split(".")[0] not in ("cli", "synthetic")
        for module, _ in _imports(path)
        if module.split(".")[0] == "synthetic"
    ]
    assert general == []


def test_a_public_name_has_one_meaning() -> None:
    defined: dict[str, list[str]] = {}
    for module, path in _modules():
        if module.split(".")[0] == "cli":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = [item for to in node.targets for item in (to.elts if isinstance(to, ast.Tuple) else [to])]
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            for name in names:
                if not name.startswith("_"):
                    defined.setdefault(name, []).append(module)
    assert {name: modules for name, modules in defined.items() if len(modules) > 1 and name not in TWICE} == {}
