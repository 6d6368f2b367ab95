"""What a long run prints: a progress bar, how long it takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def duration_text(seconds: float) -> str:
    """ "40 seconds", "35 minutes" or "2.6 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def progress_bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextmanager
def film_progress() -> Iterator[Callable[[int, float, float | None], None]]:
    """A progress bar on stderr, if that is a terminal: call it with the frames and seconds of film done so far, and the total
    seconds, if known."""
    columns = (
        TextColumn("{task.fields[frames]} frames"),
        BarColumn(),
        TextColumn("{task.fields[fps]:.1f} fps"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None, frames=0, fps=0.0)
        start_s = time.perf_counter()

        def update(frames: int, done_s: float, length_s: float | None) -> None:
            fps = frames / (time.perf_counter() - start_s)
            bar.update(task, completed=done_s, total=length_s, frames=frames, fps=fps)

        yield update
