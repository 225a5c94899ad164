"""The order of layers in docs/architecture.md, and the sizes of modules and functions, hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "kvgit_hamt"
MODULE_LINES = 600
FUNCTION_LINES = 60
PARAMETERS = 6
COMPILED = "_kernel"  # no Python file; only `kernel` may import it
PRINTING = {"demo", "__main__"}


def _module_name(path: Path) -> str:
    """ "backend.lmdb" for a file of the package; a package's own file bears the package's name."""
    parts = list(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {_module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
each_module = pytest.mark.parametrize("module", [pytest.param(name, id=name or PACKAGE) for name in PATHS])


def _table() -> dict[str, list[int]]:
    """Module or package -> the layers that name it."""
    table: dict[str, list[int]] = {}
    for row in re.finditer(
        r"^\| *(\d+) *\| *([^|]+?) *\|", (ROOT / "docs/architecture.md").read_text(), re.M
    ):
        for module in row[2].split(","):
            table.setdefault(module.strip(" `"), []).append(int(row[1]))
    return table


TABLE = _table()


def _layers_of(module: str) -> list[int]:
    """The layers a module belongs to: those of its own name or of a package it lies in.

    A package's own file, where the table names only modules in it, is in the last layer of these; so is
    the file of the whole package, in the last layer that a user may import: the facade's.
    """
    if module == "":
        return [max(TABLE["repo"])]
    own = [
        layer
        for name, layers in TABLE.items()
        if module == name or module.startswith(f"{name}.")
        for layer in layers
    ]
    if own or PATHS[module].name != "__init__.py":
        return own
    return [max(layer for name, layers in TABLE.items() if name.startswith(f"{module}.") for layer in layers)]


def _tree(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text())


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and module of each import from this package, wherever it stands."""
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            found = [alias.name for alias in item.names]
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"line {item.lineno}: imports name their module in full"
            found = [f"{item.module}.{alias.name}" for alias in item.names]
        else:
            continue
        for name in found:
            if name == PACKAGE or name.startswith(f"{PACKAGE}."):
                inner = name[len(PACKAGE) + 1 :]
                if inner.split(".")[0] == COMPILED:
                    continue
                while inner and inner not in PATHS:  # the last part names a thing in the module
                    inner = inner.rpartition(".")[0]
                yield item.lineno, inner


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (item for item in ast.walk(tree) if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_the_table_is_read():
    assert TABLE["errors"] == [1]
    assert len(TABLE) > 15


@each_module
def test_a_module_belongs_to_exactly_one_layer(module):
    assert len(_layers_of(module)) == 1, f"{module}: give it one place in the table of docs/architecture.md"


@each_module
def test_a_module_imports_from_its_own_or_an_earlier_layer_only(module):
    (own,) = _layers_of(module)
    late = [
        f"line {line}: {name or PACKAGE} is in layer {_layers_of(name)[0]}, {module} in {own}"
        for line, name in _imports(_tree(module))
        if _layers_of(name)[0] > own
    ]
    assert not late


@each_module
def test_only_the_kernel_imports_the_compiled_one(module):
    has_it = re.search(rf"^ *(from|import) .*\b{COMPILED}\b", PATHS[module].read_text(), re.M)
    assert bool(has_it) == (module == "kernel")


@each_module
def test_a_module_stays_small(module):
    line_count = len(PATHS[module].read_text().splitlines())
    assert line_count <= MODULE_LINES


@pytest.mark.parametrize("path", sorted((ROOT / PACKAGE).glob("*.p[yx][xi]")), ids=lambda path: path.name)
def test_a_part_of_the_compiled_kernel_stays_small(path):
    assert len(path.read_text().splitlines()) <= MODULE_LINES


@each_module
def test_functions_stay_short(module):
    long = [
        f"{item.name}: {item.end_lineno - item.lineno + 1} lines"
        for item in _functions(_tree(module))
        if item.end_lineno - item.lineno >= FUNCTION_LINES
    ]
    assert not long


@each_module
def test_functions_take_few_parameters(module):
    """``# noqa: PLR0913`` is respected where users give options by name: views, facade and LMDB backend."""
    lines = PATHS[module].read_text().splitlines()
    may_be_wide = _layers_of(module)[0] >= max(TABLE["worktree"]) or module == "backend.lmdb"
    wide = []
    for item in _functions(_tree(module)):
        arguments = item.args
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        header = lines[item.lineno - 1 : item.body[0].lineno]
        if count > PARAMETERS and not (may_be_wide and any("noqa: PLR0913" in line for line in header)):
            wide.append(f"{item.name}: {count} parameters")
    assert not wide


@each_module
def test_only_the_demo_prints(module):
    prints = [
        item.lineno
        for item in ast.walk(_tree(module))
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "print"
    ]
    assert not prints or module in PRINTING
