"""Films as numbered pictures, frames/%05d.png, as compositing programs read and write them."""

import contextlib
import re
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from allaprima.inference.pictures import FORMATS, Picture, check_folder, write_picture
from allaprima.models.errors import PictureError, VideoError

NUMBER = re.compile(r"%(?:0(\d+))?d")
RATE = 25  # pictures per second, as in FFmpeg: a sequence itself has no rate
UNREAD = (".gif", ".avif")  # FFmpeg reads these only as films


def is_sequence(path: Path) -> bool:
    """Whether a name stands for numbered pictures; an existing file of that name counts as a file."""
    return path.suffix.lower() in FORMATS and bool(NUMBER.search(path.name)) and not path.exists()


def numbers_of(path: Path) -> list[int]:
    """The numbers of a sequence's existing pictures, in order."""
    before, width, after = NUMBER.split(path.name, maxsplit=1)
    name = re.compile(rf"{re.escape(before)}(\d{{{width or 1},}}){re.escape(after)}")
    with contextlib.suppress(OSError):
        return sorted(int(found[1]) for file in path.parent.iterdir() if (found := name.fullmatch(file.name)))
    return []


def picture_of(path: Path, number: int) -> Path:
    """The name of one of a sequence's pictures."""
    return path.with_name(NUMBER.sub(lambda found: f"{number:0{found[1] or 1}d}", path.name, count=1))


def sequence_options(path: Path) -> tuple[str, dict[str, str]]:
    """The name and options with which FFmpeg reads a sequence.

    Raises:
        VideoError: no such pictures, an unsupported format, or a number whose picture is missing or empty, where FFmpeg would
            silently end.
    """
    if path.suffix.lower() in UNREAD:
        suffixes = ", ".join(suffix for suffix in FORMATS if suffix not in UNREAD)
        raise VideoError(f"{path}: numbered pictures are not read as {path.suffix}; convert them to one of {suffixes}")
    numbers = numbers_of(path)
    if not numbers:
        raise VideoError(f"{path}: there is no picture of such a name with a number in it")
    missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    if missing:
        raise VideoError(f"{path}: number {missing[0]} is missing between {numbers[0]} and {numbers[-1]}; a film has no gaps")
    empty = [number for number in numbers if (file := picture_of(path, number)).exists() and not file.stat().st_size]
    if empty:
        raise VideoError(f"{picture_of(path, empty[0])} is empty; a film has no gaps: write it anew, or copy the one before it")
    found = NUMBER.search(path.name)
    assert found
    before, after = path.name[: found.start()], path.name[found.end() :]
    folder = str(path.parent.absolute() / before)
    name = f"{folder.replace('%', '%%')}{'' if before else '/'}{found[0]}{after.replace('%', '%%')}"
    return name, {"start_number": str(numbers[0]), "framerate": str(RATE)}


class SequenceWriter:
    """Writes numbered pictures, from 1; each appears as soon as it is painted. The counterpart of `VideoWriter`.

    Args:
        path: .png, .jpg, ... with %05d where the number goes.
        time_base: seconds per unit of the timestamps.
        others: streams of a source, which pictures cannot hold.
        overwrite: whether existing pictures may be replaced.
    Attributes:
        as in `VideoWriter`.
    Raises:
        VideoError: the folder cannot be written to, or such pictures exist.
    """

    def __init__(
        self, path: Path, *, rate: Fraction, time_base: Fraction, others: tuple[Any, ...] = (), overwrite: bool = False
    ) -> None:
        check_sequence_writable(path, overwrite)
        self.path, self.time_base, self._rate = path, time_base, rate
        self.encoder, self.pixel_format = FORMATS[path.suffix.lower()], "rgb24"
        self.keeps_aspect, self.encoded_anew = False, list[str]()
        self.left_out = [stream.type for stream in others]
        self.frames, self.end_s, self.skipped = 0, 0.0, 0

    def write(self, frame: np.ndarray, pts: int, duration: int = 0, alpha: np.ndarray | None = None) -> None:
        """Write a frame, (H, W, 3) uint8 RGB, and its transparency, (H, W) uint8, if it has any.

        Raises:
            VideoError: the disk is full, ...
        """
        self.frames += 1
        try:
            write_picture(picture_of(self.path, self.frames), Picture(frame, alpha))
        except PictureError as error:
            raise VideoError(str(error)) from error
        self.end_s = float(pts * self.time_base) + float(duration * self.time_base or 1 / self._rate)

    def mux(self, packet: Any) -> None:
        """Does nothing: pictures hold no sound."""

    def keep_existing(self) -> None:
        """Does nothing: each picture already has its name."""

    def __enter__(self) -> "SequenceWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Does nothing: no file is open."""


def check_sequence_writable(path: Path, overwrite: bool) -> None:
    """Raises VideoError if such pictures cannot be written, as far as can be told beforehand."""
    check_folder(path, VideoError)
    numbers = numbers_of(path)
    if numbers and not overwrite:
        raise VideoError(f"{path}: {len(numbers)} such pictures exist; give --overwrite to replace them, or another name")
