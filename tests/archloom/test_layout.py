"""The six folders of the root are the packages `archloom.<folder>`, under no other name, and all of a wheel.

`docs/decisions/0001-layout.md` says why.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRONT_DOOR = ROOT / "src" / "archloom"
FOLDERS = ("agents", "dashboards", "db", "evaluator", "kernels", "search_space")
YIELDING = ("agents", "kernels")
"""Folders whose bare names belong to well-known packages."""


def run_python(code: str, *path: Path) -> str:
    """What the code prints in a process of its own, with the root as working directory and `path` after it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_link_of_the_front_door_is_a_relative_link_to_a_folder_of_the_root() -> None:
    links = {path.name: os.readlink(path) for path in FRONT_DOOR.iterdir() if path.is_symlink()}
    assert links == {folder: f"../../{folder}" for folder in FOLDERS}
    assert all((ROOT / folder).is_dir() and not (ROOT / folder).is_symlink() for folder in FOLDERS)


def test_a_folder_is_a_package_unless_its_bare_name_is_taken() -> None:
    marked = {folder for folder in FOLDERS if (ROOT / folder / "__init__.py").exists()}
    assert marked == set(FOLDERS) - set(YIELDING)


@pytest.mark.parametrize("name", YIELDING)
def test_an_installed_package_of_the_same_name_wins_at_the_root(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("owner = 'someone else'")
    module = next(iter(sorted((ROOT / name).glob("*.py")))).stem
    code = f"import {name}, archloom.{name}.{module} as ours; print({name}.owner); print(ours.__file__)"
    owner, file = run_python(code, tmp_path, ROOT / "src").splitlines()
    assert owner == "someone else"
    assert Path(file).resolve() == ROOT / name / f"{module}.py"


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_imports_at_the_root() -> None:
    run_python("import transformers; transformers.AutoModel", ROOT / "src")


@pytest.mark.slow
def test_a_wheel_holds_every_module_and_data_file_and_nothing_else(tmp_path: Path) -> None:
    tree, built = tmp_path / "tree", tmp_path / "built"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("src", *FOLDERS):
        leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=leave)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = built.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted_files()


def wanted_files() -> set[str]:
    """Every file of the front door and of the folders except their documentation, by its name in a wheel."""
    places = {FRONT_DOOR: "archloom", **{ROOT / folder: f"archloom/{folder}" for folder in FOLDERS}}
    return {
        f"{name}/{path.relative_to(place).as_posix()}"
        for place, name in places.items()
        for path in place.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and (path.suffix != ".md" or path.parent.name == "prompts")  # a prompt is no documentation
    }
