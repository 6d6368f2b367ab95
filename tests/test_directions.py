"""Imports point one way; a folder can be understood without those above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folder -> what it may not import. test_command_line.py checks the rules of inference and models by importing them.
NEVER = {
    "training/classic": (
        "training.loop",
        "training.update",
        "training.runs",
        "training.record",
        "training.gallery",
        "training.studies",
    ),
    "training/photos": (
        "training.loop",
        "training.update",
        "training.runs",
        "training.record",
        "training.classic",
        "training.gallery",
    ),
    "training/export": ("training.loop", "training.update", "training.gallery", "training.classic"),
    "training/studies": ("training.gallery",),
    "inference/style": ("inference.film", "inference.live", "inference.page"),
    "inference/film": ("inference.live", "inference.page"),
}
TRAINING_TAKES = (
    "atomic",
    "color",
    "console",
    "film.steadiness",
    "interrupt",
    "landscape",
    "levels",
    "options",
    "painter",
    "pictures",
    "style",
)  # parts of inference


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports anywhere, even inside functions."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


@pytest.mark.parametrize("room", NEVER)
def test_a_folder_imports_nothing_from_those_above_it(room):
    files = [path for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
    assert files
    for path in files:
        for module in imports_of(path):
            assert not f"{module}.".startswith(tuple(f"allaprima.{above}." for above in NEVER[room])), f"{path}: {module}"


def test_training_imports_only_some_parts_of_inference():
    allowed = tuple(f"allaprima.inference.{name}." for name in TRAINING_TAKES)
    for path in (ROOT / "training").rglob("*.py"):
        for module in imports_of(path):
            if module.startswith("allaprima.inference."):
                assert f"{module}.".startswith(allowed), f"{path}: {module}"


def test_nothing_is_imported_without_the_package_name():
    """In the repository's root, that would load a second copy of every class."""
    for folder in ("allaprima", "models", "training", "inference", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if "node_modules" not in path.parts:
                for module in imports_of(path):
                    assert module.split(".")[0] not in ("models", "training", "inference", "checkpoints"), f"{path}: {module}"
