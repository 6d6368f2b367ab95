"""README's commands exist, its files exist, and its test command is the one that CI runs."""

import re
import shlex
from pathlib import Path

import pytest

from allaprima import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GPU_PAGE = (ROOT / "training" / "README.md").read_text()
COMMANDS = [
    re.sub(r"^torchrun .* -m ", "", line.strip().removeprefix("$ ").split(" && ")[-1].split("  #")[0])
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README + GPU_PAGE, re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(\$ )?((pip install .* && )|torchrun .* -m )?allaprima ", line.strip())
]


def test_readme_shows_every_command():
    shown = {shlex.split(command)[1] for command in COMMANDS}
    assert shown >= {
        "demo",
        "stylize",
        "video",
        "webcam",
        "train",
        "sweep",
        "export",
        "import",
        "styles",
        "doctor",
        "optimize",
        "reconstruct",
        "evaluate",
        "bench",
        "info",
        "web",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_readmes_commands_parse(command):
    build_parser().parse_args(shlex.split(command)[1:])


def test_readmes_key_table_is_the_webcams():
    from inference.live.webcam import KEYS

    for key, what in KEYS:
        assert f"| {key} | {what} |" in README


def test_readme_has_no_gaps():
    assert "@@" not in README


def test_readmes_links_and_pictures_exist():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)\)", prose) + re.findall(r'src="([^"]+)"', prose)
    for target in targets:
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_readmes_file_tree_names_every_source_file():
    for folder in ("models", "training", "inference"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__init__.py" and "node_modules" not in path.parts:
                assert re.search(rf"^\s+{re.escape(path.name)}\s", README, re.MULTILINE), path


def test_readme_installs_the_pages_runtime_as_the_program_says():
    assert "npm ci --prefix inference/page" in README


def test_readmes_test_command_is_cis():
    assert "pip install -e '.[dev]' && pytest" in README
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install" in ci
    assert "'.[dev]'" in ci
    assert "pytest" in ci


def test_the_gpu_page_names_files_that_are_there():
    for name in re.findall(r"`(\w+\.py)`", GPU_PAGE):
        assert (ROOT / "training" / name).is_file(), name
