"""Several styles in training at once, or one: what the loop does with all of them."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from allaprima.models.errors import Interrupted, TrainingError
from allaprima.training.config import TrainConfig
from allaprima.training.photos.batch import Batch
from allaprima.training.ranks import Ranks
from allaprima.training.record import LOG_EVERY, Run, not_finite
from allaprima.training.start import load_checkpoints


@dataclass(frozen=True)
class Due:
    """What is to be done after a step; on a GPU reading the losses waits, so not at every one."""

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
        say: prints a line. show: the losses of a style, for the progress bar. speaks: whether they are lines, too.
    Attributes:
        faults: for each style what is wrong with its picture since the last step that was read, None if nothing is.
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
        self.config = runs[0].config  # as the others' in all that is asked for here
        self.faults: list[str | None] = []
        self._skipped: list[int] = []
        self._bad: list[str] = []

    def note_photos(self, batch: Batch) -> None:
        """List damaged photos for every style.

        Raises:
            TrainingError: there are too many.
        """
        self._bad += batch.bad
        if self.ranks.world == 1 and self._bad:
            self._list_bad(self._bad)
        for note in batch.notes:
            self.say(note)

    def is_stopped(self, interrupted: Sequence[int], due: Due) -> bool:
        """Whether to end here: all processes at the same step, so on GPUs only where they talk to each other anyway."""
        if self.ranks.world == 1:
            return bool(interrupted)
        return self.ranks.any(bool(interrupted)) if self.device.type == "cpu" or due.log else False

    def read(self, step: int, due: Due, stopped: bool) -> None:
        """Read and log the losses, where it is time for that."""
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
        """Look at the preview photos, where it is time for that."""
        if due.look and not any(self.faults):
            found = [run.look(step) for run in self.runs] if self.ranks.writes else self.faults
            self.faults = self.ranks.gather(found)[0]

    def save(self, step: int, due: Due, stopped: bool) -> None:
        """Write checkpoints, where it is time for that or an earlier one could not be written.

        Raises:
            Interrupted: it was stopped before its end. TrainingError: and could not be saved.
        """
        for run in self.runs:
            # A checkpoint between two bad steps would be a place to go back to that is no better.
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
