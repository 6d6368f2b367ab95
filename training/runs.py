"""The runs of styles that are trained together: what the loop does with each of them, and with all."""

import copy
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from allaprima.inference.atomic import remove_partial_files
from allaprima.inference.console import duration_text
from allaprima.models.errors import Interrupted, TrainingError
from allaprima.training import balance
from allaprima.training.checkpoint import (
    BEST,
    TrainingState,
    drop_states_after,
    load_newest_state,
    save_checkpoint,
    save_weights,
)
from allaprima.training.config import TrainConfig
from allaprima.training.photos.batch import Batch
from allaprima.training.preview import look_at, write_sheet
from allaprima.training.ranks import Ranks
from allaprima.training.record import LOG_EVERY, BadPhotos, MetricsLog, make_card, spared
from allaprima.training.update import Update, weights_of

MAX_NOT_FINITE = 3  # so many steps in a row with a non-finite loss send a training back
MAX_ROLLBACKS = 3
LAST_SAVES_S = (1, 5, 15, 30, 60)  # waits between attempts to save the result; someone may free disk space meanwhile


class Run:
    """One style in training: its network and optimizer, its folder, and what is known about it so far.

    Args:
        config: as actually trained, with "auto" replaced by what was chosen.
        folder: gets metrics.jsonl, checkpoints, previews, and at the end weights.safetensors; only the first of several
            processes writes there.
        found: the checkpoint to go on from, with its card.
        resume: whether the folder's contents belong to this training.
        photos: how many there are; math.inf for a stream.
        names_photos: whether this run reports the damaged ones; one of several styles does so for all.
        console: for what the user should know.
    Attributes:
        newest: mean losses in the newest line of the log.
        best: lowest loss on the preview photos so far.
        rollbacks: how often this style's picture went bad and the training went back.
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
        self.first_state = copy.deepcopy(update.pack(start))  # to go back to until there is a checkpoint
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
        """Log the mean losses since the last call, and say what the user should know; returns them as text."""
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
        """What is wrong with the picture at this step, if anything; saves the sheet, and the weights if they are the best."""
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
        """Write a checkpoint; if that fails, tell the user, and `unsaved` asks the loop to try again."""
        try:
            save_checkpoint(self.folder, self.update.pack(step), self.card(step))
            self.unsaved = False
        except TrainingError as error:
            self.unsaved = True
            self.say(f"step {step} is NOT saved: {error}. Older checkpoints are intact; trying again every {LOG_EVERY} steps")

    def go_back_(self, state: TrainingState, step: int, fault: str | None) -> None:
        """Go back to an earlier state, with half the learning rate if it was this style's picture that went bad.

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
        """Write the averaged weights, with retries: hours of work must not be lost to a temporarily full disk.

        Returns:
            the path of weights.safetensors.
        Raises:
            TrainingError: even the last attempt failed.
        """
        path = self.folder / "weights.safetensors"
        if not self.newest:
            raise TrainingError(
                "nothing was learned: loss or gradient was not finite at any step; train with a smaller --lr or --style-weight"
            )
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
    """What is wrong after so many skipped steps, whose loss or gradient was not finite; None if too few."""
    if skipped_in_a_row >= MAX_NOT_FINITE:
        return f"loss or gradient was not finite in {skipped_in_a_row} steps in a row"
    return None


@dataclass(frozen=True)
class Due:
    """What is to be done after a step. Reading the losses makes a GPU wait, so it is not done at every step."""

    save: bool
    look: bool
    log: bool
    done: bool

    @classmethod
    def after(cls, step: int, config: TrainConfig) -> "Due":
        done = step == config.steps
        save = step % config.checkpoint_every == 0 or done
        return cls(save, step % config.preview_every == 0 or save, step % LOG_EVERY == 0 or step == 1 or done, done)


class Runs:
    """The runs of styles that are trained together.

    Args:
        runs: one for each style.
        say: prints a line. show: puts a style's losses on the progress bar. speaks: whether they are printed as lines, too.
    Attributes:
        faults: for each style what the last reading or look found wrong, None if nothing.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        ranks: Ranks,
        device: torch.device,
        *,
        say: Callable[[str], None],
        show: Callable[[str], None],
        speaks: bool,
    ) -> None:
        self.runs, self.ranks, self.device = runs, ranks, device
        self.say, self.show, self.speaks = say, show, speaks
        self.config = runs[0].config  # the styles share every option that is read here
        self.faults: list[str | None] = []
        self._skipped: list[int] = []
        self._bad: list[str] = []

    def note_photos(self, batch: Batch) -> None:
        """Record damaged photos for every style.

        Raises:
            TrainingError: there are too many.
        """
        self._bad += batch.bad
        if self.ranks.world == 1 and self._bad:
            self._list_bad(self._bad)
        for note in batch.notes:
            self.say(note)

    def is_stopped(self, interrupted: Sequence[int], due: Due) -> bool:
        """Whether to end here. All processes must end at the same step, so GPUs check only when they communicate anyway."""
        if self.ranks.world == 1:
            return bool(interrupted)
        return self.ranks.any(bool(interrupted)) if self.device.type == "cpu" or due.log else False

    def read(self, step: int, due: Due, stopped: bool) -> None:
        """Read and log the losses, if they are due."""
        self.faults, self._skipped = [], []
        if due.log or due.look or stopped or self.device.type == "cpu":
            self._skipped = [run.update.peek().skipped_in_a_row for run in self.runs]
            self.faults = [not_finite(count) for count in self._skipped]
        if not due.log:
            return
        if self.ranks.world > 1:
            self._list_bad([photo for part in self.ranks.gather(self._bad) for photo in part])
        self._bad.clear()
        for run in self.runs:
            text = run.note_losses(step)
            self.show(text)
            if self.ranks.writes and self.speaks and step > 1:
                name = f"{run.config.style_title}: " if len(self.runs) > 1 else ""
                self.say(f"step {step}/{self.config.steps} {name}{text}")

    def look(self, step: int, due: Due) -> None:
        """Look at the preview photos, if that is due."""
        if due.look and not any(self.faults):
            found = [run.look(step) for run in self.runs] if self.ranks.writes else self.faults
            self.faults = self.ranks.gather(found)[0]

    def save(self, step: int, due: Due, stopped: bool) -> None:
        """Write checkpoints, if they are due or an earlier one could not be written.

        Raises:
            Interrupted: the training was stopped early. TrainingError: it was, and could not be saved.
        """
        for run in self.runs:
            # Going back to a checkpoint made between two bad steps would not help.
            run.unsaved = run.unsaved or due.save
            again = not any(self._skipped) and run.unsaved and (due.save or due.log)
            if (stopped or due.done or again) and self.ranks.writes:
                run.save(step)
        if stopped and not due.done:
            if any(run.unsaved for run in self.runs if self.ranks.writes):
                raise TrainingError(f"stopped at step {step}, which could not be saved; older checkpoints are intact")
            where = " ".join(shlex.quote(str(run.folder)) for run in self.runs)
            raise Interrupted(f"stopped at step {step}; go on with: allaprima train --resume {where}")

    def go_back_(self, step: int) -> int:
        """Go back to where the pictures were good; returns that step."""
        states = load_checkpoints([run.folder for run in self.runs], self.ranks, self.say, resuming=False)
        for i, run in enumerate(self.runs):
            run.go_back_(states[i][0] if states else run.first_state, step, self.faults[i])
        self.faults = []
        return states[0][0].step if states else self.runs[0].first_state.step

    def _list_bad(self, photos: Sequence[str]) -> None:
        for run in self.runs:
            run.bad_photos.note(photos)


def load_checkpoints(
    run_folders: Sequence[Path], ranks: Ranks, say: Callable[[str], None], resuming: bool = True
) -> list[tuple[TrainingState, dict[str, Any]]] | None:
    """The newest checkpoint of each folder, all of the same step and the same in all processes; None if there is none.

    Args:
        resuming: False while training: if one folder has no checkpoint, the result is None and all start over.
    Raises:
        TrainingError: there are none of the same step. StyleError: none in a folder can be read.
    """
    found = [load_newest_state(run_folder, say) for run_folder in run_folders]
    while any(found) and len({state and state[0].step for state in found}) > 1:
        steps = [state[0].step if state else None for state in found]
        if None in steps and not resuming:
            found = [None for _ in found]
            break
        if None in steps:
            raise TrainingError(
                f"{', '.join(map(str, run_folders))}: these trainings are not at the same step; go on with each alone"
            )
        oldest = min(step for step in steps if step is not None)
        found = [load_newest_state(run_folder, say, oldest) for run_folder in run_folders]
    steps = ranks.gather(found[0][0].step if found[0] else None)
    if len(set(steps)) > 1:
        raise TrainingError(
            f"the processes found checkpoints of different steps in {run_folders[0]}: {steps}; they have to share it"
        )
    return [state for state in found if state] or None
