"""Who may import whom, read from the sources: imports inside functions count like those at the top of a file."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a folder may import beside itself and the standard library: parts of the project, and other packages."""

    ours: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


LAYERS = {
    "kernels": Layer(packages=("torch", "triton")),
    "search_space": Layer(packages=("networkx",)),
    "evaluator": Layer(ours=("kernels", "search_space", "db.records"), packages=("torch", "numpy", "ray")),
    "db": Layer(ours=("search_space",), packages=("sqlalchemy", "alembic", "numpy", "scipy")),
    "agents": Layer(ours=("search_space", "db.records"), packages=("openai", "numpy")),
    "dashboards": Layer(ours=("db", "search_space")),
}
EVERYWHERE = ("errors", "search_space.GRAMMAR_VERSION")

HOMES = {
    "ray": ("evaluator/executors/cluster.py",),
    "openai": ("agents/language_model/endpoints.py",),
    "sqlalchemy": ("db/",),
    "alembic": ("db/",),
}
"""The only files or folders, the front door's included, that may import a package."""

BROAD = {"evaluator/trial.py": 1}
"""How many handlers of each file catch whatever is raised and do not raise it again."""


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the project by its path from the root."""
    paths = [path for folder in (*LAYERS, "src/archloom") for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), str(path)) for path in paths}


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a module imports; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.ImportFrom():
                yield node.lineno, "." * node.level
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module")):
                yield node.lineno, "an import by name"


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def allowed(name: str, folder: str) -> bool:
    top, _, rest = name.partition(".")
    layer = LAYERS[folder]
    if top == "archloom":
        return any(within(rest, part) for part in (folder, *layer.ours, *EVERYWHERE))
    return top in sys.stdlib_module_names or top in layer.packages


def strangers(tree: ast.Module, folder: str) -> list[tuple[int, str]]:
    """What a module of a folder imports and may not."""
    return [(line, name) for line, name in imports(tree) if not allowed(name, folder)]


@pytest.mark.parametrize("folder", LAYERS)
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    found = [
        f"{path}:{line} imports {name}"
        for path, tree in sources().items()
        if path.startswith(f"{folder}/")
        for line, name in strangers(tree, folder)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("folder", "code", "refused"),
    [
        ("search_space", "def late():\n    import torch.nn", "torch.nn"),
        ("evaluator", "from archloom.db import store", "archloom.db.store"),
        ("evaluator", "from archloom import agents", "archloom.agents"),
        ("dashboards", "import archloom.evaluator.model", "archloom.evaluator.model"),
        ("kernels", "from archloom.search_space import operations", "archloom.search_space.operations"),
        ("db", "from archloom.config import Config", "archloom.config.Config"),
        ("agents", "from . import proposer", "."),
        ("db", "import importlib\nimportlib.import_module('torch')", "an import by name"),
    ],
)
def test_the_reading_finds_what_is_forbidden(folder: str, code: str, refused: str) -> None:
    assert [name for _, name in strangers(ast.parse(code), folder)] == [refused]


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("evaluator", "from archloom.db import records"),
        ("kernels", "from archloom.search_space import GRAMMAR_VERSION"),
        ("agents", "from archloom.errors import ArchloomError\nimport math"),
    ],
)
def test_the_reading_passes_what_is_allowed(folder: str, code: str) -> None:
    assert strangers(ast.parse(code), folder) == []


@pytest.mark.parametrize("package", HOMES)
def test_a_package_is_imported_only_where_it_is_at_home(package: str) -> None:
    users = {path for path, tree in sources().items() if any(within(name, package) for _, name in imports(tree))}
    assert users, f"nothing imports {package}"
    assert not {path for path in users if not path.startswith(HOMES[package])}


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes every exception and ends otherwise than by raising it again."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds
    )
    last = handler.body[-1]
    return broad and not (isinstance(last, ast.Raise) and last.exc is None)


def test_one_handler_of_the_project_catches_every_exception() -> None:
    found = {
        path: sum(isinstance(node, ast.ExceptHandler) and catches_all(node) for node in ast.walk(tree))
        for path, tree in sources().items()
    }
    assert {path: count for path, count in found.items() if count} == BROAD


@pytest.mark.parametrize(
    ("handler", "broad"),
    [
        ("except Exception as error: print(error)", True),
        ("except: pass", True),
        ("except (ValueError, BaseException): pass", True),
        ("except ValueError: pass", False),
        ("except BaseException:\n    print()\n    raise", False),
    ],
)
def test_a_broad_handler_is_recognised(handler: str, broad: bool) -> None:
    (tried,) = ast.parse(f"try:\n    pass\n{handler}").body
    assert isinstance(tried, ast.Try)
    assert catches_all(tried.handlers[0]) is broad
