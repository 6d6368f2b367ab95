"""Fills .links/allaprima with links in the layout of an installed Alla Prima, for type checkers and editors, which do not
understand pyproject.toml's mapping of packages. New files in `FOLDERS` are seen at once; for others, run it again."""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINKS = ROOT / ".links" / "allaprima"
FOLDERS = ("models", "training", "inference", "checkpoints")

shutil.rmtree(LINKS.parent, ignore_errors=True)
LINKS.mkdir(parents=True)
for target in [*(ROOT / name for name in FOLDERS), *(ROOT / "allaprima").glob("*.py*")]:
    link = LINKS / target.name
    if sys.platform != "win32":
        link.symlink_to(os.path.relpath(target, LINKS), target.is_dir())
    elif target.is_dir():  # on Windows, junctions and hard links need no special rights; symbolic links do
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        os.link(target, link)
