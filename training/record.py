"""What a training knows of itself and leaves in its run folder: checkpoints, metrics, previews, skipped photos, the card."""

import copy
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

from allaprima.inference.atomic import remove_partial_files, write_atomically
from allaprima.inference.console import duration_text
from allaprima.models.errors import PictureError, TrainingError
from allaprima.training import balance
from allaprima.training.checkpoint import BEST, TrainingState, drop_states_after, save_checkpoint, save_weights
from allaprima.training.config import TrainConfig
from allaprima.training.device import device_name, pick_device
from allaprima.training.photos.folder import MAX_BAD
from allaprima.training.preview import look_at, write_sheet
from allaprima.training.ranks import Ranks
from allaprima.training.update import Update, weights_of

LOG_EVERY = 25  # steps between two lines of metrics.jsonl, and between two looks at the losses
MAX_NOT_FINITE = 3  # steps with a non-finite loss, in a row, that send a training back
MAX_ROLLBACKS = 3
LAST_SAVES_S = (1, 5, 15, 30, 60)  # waits between the attempts to save the result; a disk may be given room meanwhile


class Run:
    """One style in training: its network and optimizer, its folder, and what is known about it so far.

    Args:
        config: as it is really trained: with what "auto" stood for.
        folder: gets metrics.jsonl, checkpoints, previews, and at the end weights.safetensors; only the first of several
            processes writes there.
        found: the checkpoint to go on from, with its card.
        resume: whether what lies in the folder belongs to this training.
        photos: how many there are; math.inf for a stream.
        names_photos: whether the damaged ones are named here; of several styles one does it for all.
        console: for what the user should know.
    Attributes:
        newest: mean losses of the newest line of the log.
        best: lowest loss on the preview photos so far.
        rollbacks: how often this style's picture went bad, and the training back.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        update: Update,
        style_frame: np.ndarray,
        preview_frames: list[np.ndarray],
        found: tuple[TrainingState, dict[str, Any]] | None,
        resume: bool,
        photos: float,
        names_photos: bool,
        console: Console,
        ranks: Ranks,
    ) -> None:
        self.config, self.folder, self.update = config, folder, update
        self.style_frame, self.preview_frames = style_frame, preview_frames
        self.console, self.ranks = console, ranks
        start, card = (found[0].step, found[1]) if found else (0, {})
        if found:
            update.unpack_(found[0])
        update.lr_scale = card.get("lr_scale", 1.0)
        self.newest: dict[str, float] = dict(card.get("losses", {}))
        self.best, self.rollbacks = card.get("best", math.inf), card.get("rollbacks", 0)
        self.first_state = copy.deepcopy(update.pack(start))  # to go back to while there is no checkpoint
        self._seconds_before, self._began = float(card.get("seconds", 0.0)), time.monotonic()
        self._is_judged = start * config.batch_size >= balance.MEASURED_AT
        self.unsaved = False
        skipped = folder / "skipped.txt" if ranks.writes else None
        if ranks.writes:
            remove_partial_files(folder)
            if resume:
                drop_states_after(folder, start)
            elif skipped:
                skipped.unlink(missing_ok=True)
        self.log = MetricsLog(folder, start, config.batch_size, console) if ranks.writes else None
        self.bad_photos = BadPhotos(config.photos, photos, skipped, console if names_photos else Console(quiet=True))

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def card(self, step: int) -> dict[str, Any]:
        """What the network is at this step, for the files that hold it."""
        seconds = self._seconds_before + time.monotonic() - self._began
        card = make_card(self.config, step, self.newest, seconds, len(self.bad_photos.names), self.ranks.world)
        card |= {"lr_scale": self.update.lr_scale, "rollbacks": self.rollbacks}
        return card | ({"best": self.best} if self.best < math.inf else {})

    def note_losses(self, step: int) -> str:
        """Log the mean losses since the last note, and say what the user should know; returns them as a text."""
        reading = self.update.read()
        self.newest = reading.losses or self.newest
        if reading.skipped:
            self.say(f"step {step}: {reading.skipped} steps had a loss or gradient that was not finite; skipped")
        photos = step * self.config.batch_size
        if not self._is_judged and self.newest and photos >= balance.MEASURED_AT:
            self._is_judged = True
            weights = weights_of(self.config)
            of_both = weights["content"], weights["style"]
            self.say(balance.verdict(self.newest["content"], self.newest["style"], *of_both, photos))
        if not self.log:
            return ""
        self.log.add(step, self.newest)
        losses = " ".join(f"{name} {value:.3f}" for name, value in self.newest.items())
        left_s = (self.config.steps - step) * self.config.batch_size / self.log.photos_per_s
        left = f", about {duration_text(left_s)} left" if step < self.config.steps else ""
        return f"{losses} {self.log.photos_per_s:.1f} photos/s{left}"

    def look(self, step: int) -> str | None:
        """What is wrong with the picture at this step, if anything; keeps the sheet, and the weights if they are the best."""
        seen = look_at(self.update.averaged_net, self.update.target, self.preview_frames, self.config)
        if step % self.config.preview_every == 0 or step == self.config.steps or seen.fault:
            with spared(self.console, "the preview sheet"):
                sheet = write_sheet(self.folder, step, seen, self.preview_frames, self.style_frame)
                assert self.log is not None
                self.log.add_preview(step, sheet, seen.losses)
        if seen.fault is None and seen.losses["total"] < self.best:
            card = self.card(step) | {"preview": seen.losses, "best": seen.losses["total"]}
            try:
                save_weights(self.folder / BEST, self.update.averaged_net.state_dict(), card)
                self.best = seen.losses["total"]
            except TrainingError as error:
                self.say(str(error))
        return seen.fault

    def save(self, step: int) -> None:
        """Write a checkpoint; if that fails the user knows, and `unsaved` asks the loop to try again."""
        try:
            save_checkpoint(self.folder, self.update.pack(step), self.card(step))
            self.unsaved = False
        except TrainingError as error:
            self.unsaved = True
            self.say(f"step {step} is NOT saved: {error}. Older checkpoints are intact; trying again every {LOG_EVERY} steps")

    def go_back_(self, state: TrainingState, step: int, fault: str | None) -> None:
        """Take up an earlier state; where it was this style's picture that went bad, with half the learning rate.

        Raises:
            TrainingError: it went bad more than `MAX_ROLLBACKS` times.
        """
        if fault:
            self.rollbacks += 1
            if self.rollbacks > MAX_ROLLBACKS:
                raise TrainingError(
                    f"step {step}: {fault}; {MAX_ROLLBACKS} times the training went back and halved its learning rate. "
                    f"Checkpoints are in {self.folder}; train again with a smaller --lr (was {self.config.lr}), "
                    "--precision fp32, or a smaller --style-weight"
                )
            self.update.lr_scale *= 0.5
            self.say(
                f"step {step}: {fault}; back to step {state.step} with half the learning rate "
                f"(time {self.rollbacks} of at most {MAX_ROLLBACKS})"
            )
        self.update.unpack_(state)
        if self.log:
            self.log.rewind(state.step)

    def keep_result(self) -> Path:
        """Write the averaged weights, with patience: the work of hours must not be lost to a disk that is full for now.

        Returns:
            the path of weights.safetensors.
        Raises:
            TrainingError: it could not be written even at the last attempt.
        """
        path = self.folder / "weights.safetensors"
        if not self.ranks.writes:
            return path
        if self.bad_photos.names:
            self.say(f"{len(self.bad_photos.names)} damaged photos were skipped, listed in {self.bad_photos.path}")
        card = self.card(self.config.steps)
        for wait_s in (*LAST_SAVES_S, None):
            try:
                save_weights(path, self.update.averaged_net.state_dict(), card)
                break
            except TrainingError as error:
                if wait_s is None:
                    raise
                self.say(f"{error}; trying again in {wait_s} s")
                time.sleep(wait_s)
        if self.unsaved:
            self.say("the last checkpoint is not there, but the result is")
        return path


def not_finite(skipped_in_a_row: int) -> str | None:
    """What is wrong if so many steps had a loss or gradient that was not finite."""
    if skipped_in_a_row >= MAX_NOT_FINITE:
        return f"loss or gradient was not finite in {skipped_in_a_row} steps in a row"
    return None


class MetricsLog:
    """metrics.jsonl, and TensorBoard's files where tensorboard is installed. A disk that is full does not stop a training."""

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
        """Forget the rows after a step: a training that goes back repeats them."""
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
    """Say that something beside the weights could not be written, and go on."""
    try:
        yield
    except (OSError, PictureError) as error:
        console.print(f"{what} could not be written ({error}); the training goes on", soft_wrap=True, markup=False)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line a kill cut short
        return math.inf


class BadPhotos:
    """The photos that could not be used, each listed once in skipped.txt.

    Args:
        photos: how many there are; math.inf for a stream.
        path: skipped.txt, perhaps with names from before a resume; None in a process that does not write.
    Attributes:
        names: "file: why", in the order they were met, those before a resume included.
    """

    def __init__(self, source: str, photos: float, path: Path | None, console: Console) -> None:
        self.source, self.photos, self.path, self.console = source, photos, path, console
        self.names: dict[str, None] = {}
        self._met: set[str] = set()  # in this process: those listed before may have been mended
        if path and path.exists():
            self.names = dict.fromkeys(path.read_text().splitlines())

    def note(self, bad: Iterable[str]) -> None:
        """Count and name each new one.

        Raises:
            TrainingError: they are more than `MAX_BAD` of the folder.
        """
        # Names on a disk need not be UTF-8.
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


def make_card(
    config: TrainConfig, step: int, newest: dict[str, float], seconds: float, bad_photos: int, processes: int = 1
) -> dict[str, Any]:
    """What a network is and where it came from; goes beside the weights and into the .onnx."""
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
        # File names without folders: a card travels, the trainer's paths are nobody's business.
        "options": {
            name: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
            for name, value in dataclasses.asdict(config).items()
            if name != "preview"
        },
    }
