"""Finds the tools that the tests and measure.py use: node and its packages, a browser."""

import os
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
NPM = "npm ci --ignore-scripts --prefix tests/apps"


def find_node_modules() -> Path | None:
    """$ALLAPRIMA_NODE_MODULES, or the nearest node_modules folder from here upward."""
    if named := os.environ.get("ALLAPRIMA_NODE_MODULES"):
        return Path(named).resolve()
    return next((folder / "node_modules" for folder in (HERE, *HERE.parents) if (folder / "node_modules").is_dir()), None)


def find_chromium() -> str | None:
    """$CHROMIUM, or the one in PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def why_no_node(*packages: str) -> str:
    """What is missing to run these packages in node, with the command that installs it; empty if nothing is."""
    if shutil.which("node") is None:
        return "no node: apt-get install nodejs"
    modules = find_node_modules()
    missing = [package for package in packages if modules is None or not (modules / package).is_dir()]
    return f"no {', '.join(missing)} in node_modules (or $ALLAPRIMA_NODE_MODULES): {NPM}" if missing else ""


def node_folder(folder: Path) -> Path:
    """Copies our scripts into `folder`, next to a link to node's packages, the only place where `import` looks."""
    for path in HERE.iterdir():
        if path.suffix in (".mjs", ".html"):
            shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(find_node_modules(), target_is_directory=True)
    return folder
