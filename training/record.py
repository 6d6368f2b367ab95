"""What a training leaves in its run folder besides checkpoints: metrics, skipped photos, the card."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from allaprima.inference.atomic import write_atomically
from allaprima.models.errors import PictureError, TrainingError
from allaprima.training.config import TrainConfig
from allaprima.training.device import device_name, pick_device
from allaprima.training.photos.folder import MAX_BAD

LOG_EVERY = 25  # steps between two lines of metrics.jsonl, and between two looks at the losses


class MetricsLog:
    """metrics.jsonl, and TensorBoard's files if tensorboard is installed. A full disk does not stop the training."""

    def __init__(self, run_folder: Path, start: int, batch_size: int, console: Console) -> None:
        self.path, self.batch_size, self.console = run_folder / "metrics.jsonl", batch_size, console
        self.photos_per_s = 0.0
        self._board: Any = None
        self.rewind(start)
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            with spared(console, "TensorBoard's files"):
                self._board = SummaryWriter(str(run_folder / "tensorboard"), purge_step=start or None)

    def rewind(self, step: int) -> None:
        """Drop the rows after a step: a training that goes back writes them again."""
        self._began, self._step = time.monotonic(), step
        if self.path.exists():
            with spared(self.console, str(self.path)):
                lines = self.path.read_text().splitlines()
                kept = [line for line in lines if _step_of(line) <= step]
                write_atomically(self.path, "".join(line + "\n" for line in kept).encode())

    def add(self, step: int, parts: dict[str, float]) -> None:
        """A row with the mean losses since the last one."""
        self.photos_per_s = self.batch_size * (step - self._step) / (time.monotonic() - self._began)
        row = {"step": step, **{k: round(v, 6) for k, v in parts.items()}, "photos_per_s": round(self.photos_per_s, 3)}
        with spared(self.console, str(self.path)), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._to_board(lambda board: [board.add_scalar(name, row[name], step) for name in row if name != "step"])
        self._began, self._step = time.monotonic(), step

    def add_preview(self, step: int, sheet: np.ndarray, parts: dict[str, float]) -> None:
        self._to_board(lambda board: board.add_image("preview", sheet, step, dataformats="HWC"))
        self._to_board(lambda board: [board.add_scalar(f"preview/{name}", value, step) for name, value in parts.items()])

    def _to_board(self, write: Callable[[Any], object]) -> None:
        if self._board:
            try:
                write(self._board)
            except OSError as error:
                self.console.print(f"TensorBoard's files get no more lines: {error.strerror or error}", soft_wrap=True)
                self._board = None


@contextmanager
def spared(console: Console, what: str) -> Iterator[None]:
    """If a file other than the weights cannot be written, say so and go on."""
    try:
        yield
    except (OSError, PictureError) as error:
        console.print(f"{what} could not be written ({error}); the training goes on", soft_wrap=True, markup=False)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line that a kill cut short
        return math.inf


class BadPhotos:
    """The photos that could not be used, each listed once in skipped.txt.

    Args:
        photos: how many there are; math.inf for a stream.
        path: skipped.txt, perhaps with names from before a resume; None in a process that does not write.
    Attributes:
        names: "file: why" in the order of discovery, including those from before a resume.
    """

    def __init__(self, source: str, photos: float, path: Path | None, console: Console) -> None:
        self.source, self.photos, self.path, self.console = source, photos, path, console
        self.names: dict[str, None] = {}
        self._met: set[str] = set()  # in this process: photos listed earlier may have been repaired
        if path and path.exists():
            self.names = dict.fromkeys(path.read_text().splitlines())

    def note(self, bad: Iterable[str]) -> None:
        """Count and name each new one.

        Raises:
            TrainingError: they are more than the share `MAX_BAD` of the folder.
        """
        # File names need not be valid UTF-8.
        met = {photo.replace("\n", " ").encode("utf-8", "backslashreplace").decode() for photo in bad} - self._met
        self._met |= met
        new = met - self.names.keys()
        for photo in sorted(new):
            self.names[photo] = None
            self.console.print(f"skipped: {photo}", soft_wrap=True, markup=False)
        if new and self.path:
            with spared(self.console, str(self.path)):
                write_atomically(self.path, "".join(photo + "\n" for photo in self.names).encode())
        if met and len(self._met) > MAX_BAD * self.photos:
            raise TrainingError(
                f"{len(self._met)} photos in {self.source} are damaged, more than {MAX_BAD:.0%} of them "
                f"(skipped.txt in the run folder lists them); mend or remove them, or give another folder"
            )


def _public(value: Any) -> Any:
    """A file's name without its folders: a card is passed on, and the trainer's paths are private."""
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def make_card(
    config: TrainConfig, step: int, newest: dict[str, float], seconds: float, bad_photos: int, processes: int = 1
) -> dict[str, Any]:
    """What a network is and where it came from; goes next to the weights and into the .onnx."""
    count = f"{processes} x " if processes > 1 else ""
    started_from = {"started_from": "/".join(Path(config.init).with_suffix("").parts[-2:])} if config.init != "none" else {}
    return started_from | {
        "title": config.style_title,
        "painter": config.painter,
        "year": config.year,
        "license": config.license,
        "tier": config.tier,
        "strokes": config.strokes,
        "step": step,
        "photos_seen": step * config.batch_size,
        "seconds": round(seconds, 1),
        "device": f"{count}{device_name(pick_device(config.device))}, torch {torch.__version__}",
        "losses": {name: round(value, 5) for name, value in newest.items()},
        "bad_photos": bad_photos,
        "options": {
            name: [_public(each) for each in value] if isinstance(value, tuple) else _public(value)
            for name, value in dataclasses.asdict(config).items()
            if name != "preview"
        },
    }
