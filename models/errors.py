"""What goes wrong for a user. Standard library only: every package raises these, and the command line prints them."""

import re
from pathlib import Path


def without_secrets(text: str) -> str:
    """The text, safe to show: in every address, name and password before the host and everything after a ? are masked."""
    text = re.sub(r"\b([a-z][a-z0-9+.-]*://)\S*@", r"\1***@", text, flags=re.IGNORECASE)
    return re.sub(r"\b([a-z][a-z0-9+.-]*://[^\s?]*)\?\S*", r"\1?***", text, flags=re.IGNORECASE)


def install_line(extra: str) -> str:
    """The command that installs an optional extra, from a checkout or for the wheel."""
    checkout = (Path(__file__).parents[1] / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]'" if checkout else f"pip install 'allaprima[{extra}]'"


class AllaPrimaError(Exception):
    """A mistake or situation the user can fix; the message is one line that says what to do, without secrets."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


class PictureError(AllaPrimaError):
    """A picture that cannot be read or written."""


class VideoError(AllaPrimaError):
    """A film that cannot be read or written, a camera or a window that cannot be opened."""


class StyleError(AllaPrimaError):
    """A style, an .onnx file or a checkpoint that does not exist or is not ours."""


class WeightsError(AllaPrimaError):
    """VGG-19 weights that cannot be found, downloaded or used."""


class TrainingError(AllaPrimaError):
    """A training that cannot start or cannot go on."""


class OptimizeError(AllaPrimaError):
    """A classic optimization that cannot start or cannot go on."""


class WebError(AllaPrimaError):
    """A page that cannot be served or written."""


class Interrupted(AllaPrimaError):
    """Ctrl-C or SIGTERM: finished work is saved, and the message says where, or how to go on."""
