"""Lays .links/allaprima out as an installed Alla Prima lies: for type checkers and editors, which do not see where
pyproject.toml maps the packages to. New files are seen at once; a new folder at the top is not, so run it again."""

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
    elif target.is_dir():  # a junction and a hard link need no rights on Windows, a symbolic link does
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        os.link(target, link)
