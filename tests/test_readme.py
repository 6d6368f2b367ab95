"""The docs' commands and files exist, and README's test command is that of CI."""

import re
import shlex
from pathlib import Path

import pytest

from allaprima.command_line import build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path: path.read_text() for path in sorted(ROOT.rglob("README.md")) if not {"node_modules", ".venv", ".git"} & {*path.parts}
}
README, ALL = PAGES[ROOT / "README.md"], "\n".join(PAGES.values())
COMMANDS = [
    re.sub(r"^torchrun .* -m ", "", line.strip().removeprefix("$ ").split(" && ")[-1].split("  #")[0])
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", ALL, re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(\$ )?((pip install .* && )|torchrun .* -m )?allaprima ", line.strip())
]


def test_the_docs_show_every_command():
    shown = {shlex.split(command)[1] for command in COMMANDS}
    commands = set(re.findall(r"^    (\w+)(?: |$)", build_parser().format_help(), re.MULTILINE))
    assert len(commands) >= 16
    assert shown == commands


def test_readme_is_short_and_no_line_of_prose_is_long():
    assert len(README.splitlines()) <= 150
    for path, text in PAGES.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for line in prose.splitlines():
            assert len(line) <= 128 or line.startswith(("|", "!", "`")), f"{path}: {line}"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_docs_parse(command):
    build_parser().parse_args(shlex.split(command)[1:])


def test_the_table_of_keys_agrees_with_the_webcam():
    from allaprima.inference.live.webcam import KEYS

    for key, what in KEYS:
        assert f"| {key} | {what} |" in PAGES[ROOT / "inference" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page):
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose) + re.findall(r'src="([^"]+)"', prose)
    for target in targets:
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_source_file_is_listed_in_its_folders_readme():
    for folder in ("models", "training", "inference"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__init__.py" and "node_modules" not in path.parts:
                page = next(parent / "README.md" for parent in path.parents if parent / "README.md" in PAGES)
                assert re.search(rf"^ +{re.escape(path.name)}\s", PAGES[page], re.MULTILINE), path


def test_files_that_the_docs_name_exist():
    names = {path.name for path in ROOT.rglob("*.py")}
    for name in re.findall(r"`(?:\w+/)?(\w+\.py)`", ALL):
        assert name in names, name


def test_the_docs_install_the_pages_packages_as_the_program_says():
    assert "npm ci --prefix inference/page" in ALL


def test_readmes_test_command_is_that_of_ci():
    assert "pip install -e '.[dev]' && pytest" in README
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install" in ci
    assert "'.[dev]'" in ci
    assert "pytest" in ci
