"""What modules of the project import, read from their sources."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.dockerfile import REPOSITORY

ROOMS = ("bentos", "tasks", "plugins", "dags")


def modules(room: str) -> list[str]:
    """Every module of a room."""
    files = (REPOSITORY / room).rglob("*.py")
    names = (".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files)
    return sorted(name.removesuffix(".__init__") for name in names)


def outside(roots: list[str], calls: bool) -> dict[str, set[str]]:
    """Packages from elsewhere that the roots, and what these import of the project, import: package to importers.

    What a module imports when it is imported is followed. What its functions import when they are called counts for the
    roots alone, and only with `calls`.
    """
    found: dict[str, set[str]] = {}
    seen: set[str] = set()
    todo = [(root, calls) for root in roots]
    while todo:
        module, deep = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in _imported(module, deep):
            top = name.partition(".")[0]
            if top in ROOMS:
                todo.extend((each, False) for each in {name, name.rpartition(".")[0]} if _file(each))
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, set()).add(module)
    return found


def _file(module: str) -> Path | None:
    path = REPOSITORY.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.exists()), None)


def _imported(module: str, calls: bool) -> Iterator[str]:
    file = _file(module)
    assert file is not None, module
    todo: list[ast.AST] = [ast.parse(file.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # a name may be a submodule
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo.extend(node.orelse)
        elif calls or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo.extend(ast.iter_child_nodes(node))
