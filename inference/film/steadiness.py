"""How steady a painted film is: the warp error, which is how much a picture differs from the previous one, moved along with
the film (Ruder et al. 2016, "Artistic style transfer for videos"; Lai et al. 2018, "Learning blind video temporal
consistency").

Nothing here is learned, and only the style's network is needed: the movement is OpenCV's DIS flow (Kroeger et al. 2016).
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from allaprima.inference.console import progress_bar
from allaprima.inference.film.frames import Moment, VideoReader
from allaprima.inference.levels import scaled
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import FilmPainter
from allaprima.inference.pictures import check_folder, check_no_input, fitted, write_encoded
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import VideoError

MAX_SIDE_PX = 640  # of the compared frames
MOVING_PX = 0.5  # from one frame to the next; less counts as standing still
FILM = "the film itself"
EACH_ALONE = " --steady 0"


class Movement:
    """What moved where from one frame to the next.

    Args:
        before, after: (H, W, 3) uint8 RGB.
    Attributes:
        sure: (H, W) bool: visible in both frames, and the movements there and back agree.
        moving: (H, W) bool: moves by more than `MOVING_PX`.
    """

    def __init__(self, before: np.ndarray, after: np.ndarray) -> None:
        gray = (cv2.cvtColor(before, cv2.COLOR_RGB2GRAY), cv2.cvtColor(after, cv2.COLOR_RGB2GRAY))
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        height, width = gray[0].shape
        nothing = np.zeros((height, width, 2), np.float32)  # where the search begins; it is overwritten
        forth, back = (dis.calc(one, other, nothing.copy()) for one, other in (gray, gray[::-1]))
        y, x = np.mgrid[:height, :width].astype(np.float32)
        self._from = x + back[..., 0], y + back[..., 1]
        there_and_back = back + cv2.remap(forth, *self._from, cv2.INTER_LINEAR)
        lengths = [(flow**2).sum(-1) for flow in (there_and_back, back, forth)]
        inside = (self._from[0] >= 0) & (self._from[0] <= width - 1) & (self._from[1] >= 0) & (self._from[1] <= height - 1)
        # Sundaram et al. 2010, "Dense point trajectories by GPU-accelerated large displacement optical flow".
        self.sure = inside & (lengths[0] <= 0.01 * (lengths[1] + lengths[2]) + 0.5)
        self.moving = lengths[1] > MOVING_PX**2

    def error(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """How much `after` differs from `before`, moved along: (H, W) float32, levels of 255, mean of the channels."""
        moved = cv2.remap(before, *self._from, cv2.INTER_LINEAR)
        return np.asarray(cv2.transform(cv2.absdiff(moved, after).astype(np.float32), np.full((1, 3), 1 / 3)))


def measure(
    film: Path,
    styles: Mapping[str, Path],
    options: StylizeOptions,
    *,
    progress: Callable[[float], object] = lambda _: None,
) -> dict[str, Any]:
    """The warp error of a film, and of its paintings by `allaprima video`.

    Args:
        film: a film file.
        styles: name -> .onnx file.
        options: how to paint.
        progress: receives the finished share.
    Returns:
        "film", "size", "pairs" of frames, "moving": the share of moving pixels among the sure ones; "errors" -> `FILM`, a
        style's name, or that and `EACH_ALONE` -> "whole" and "moving": mean levels of 255.
    Raises:
        VideoError: it cannot be read, or has fewer than two frames. StyleError: a style cannot be used.
    """
    sums = {name: np.zeros(2) for name in (FILM, *(f"{style}{way}" for style in styles for way in ("", EACH_ALONE)))}
    counts = np.zeros(3)  # of sure pixels, of moving ones among them, and of pairs
    with VideoReader(film) as reader:
        alone = dataclasses.replace(options, steady=0.0)
        painters = [[FilmPainter(session, how) for how in (options, alone)] for session in map(StyleSession, styles.values())]
        before: list[np.ndarray] = []
        moments = (moment for moment in reader if isinstance(moment, Moment))
        for moment in moments:
            content = scaled(moment.frame, fitted(moment.frame.shape[0], moment.frame.shape[1], MAX_SIDE_PX)).copy()
            seconds = float(moment.pts * reader.time_base)
            after = [content]
            for painter, other in painters:
                stylized_image = painter.stylize(content)
                after += [each.finish(content, stylized_image, seconds) for each in (painter, other)]
            if before:
                movement = Movement(before[0], content)
                moving = movement.sure & movement.moving
                counts += movement.sure.sum(), moving.sum(), 1
                for total, *pictures in zip(sums.values(), before, after, strict=True):
                    error = movement.error(*pictures)
                    total += error[movement.sure].sum(), error[moving].sum()
            before = after
            progress(min(1.0, seconds / (reader.length_s or np.inf)))
    if not counts[2]:
        raise VideoError(f"{film} has less than two frames; there is nothing to compare")
    means = {name: total / np.maximum(counts[:2], 1) for name, total in sums.items()}
    return {
        "film": film.name,
        "size": list(content.shape[1::-1]),
        "pairs": int(counts[2]),
        "moving": round(float(counts[1] / max(counts[0], 1)), 3),
        "errors": {name: dict(zip(("whole", "moving"), mean.round(2).tolist(), strict=True)) for name, mean in means.items()},
    }


def evaluate_films(films: Sequence[Path], styles: Mapping[str, Path], output: Path, console: Console) -> list[dict[str, Any]]:
    """`measure` for each film, with the default options of `allaprima video`.

    Args:
        output: gets the result as JSON, complete after every film.
        console: for progress.
    """
    check_folder(output)
    check_no_input(output, films)
    results = []
    for film in films:
        with progress_bar(console) as bar:
            bar.add_task("", total=100, losses=film.name)

            def report(share: float, bar: Progress = bar) -> None:
                bar.update(bar.task_ids[0], completed=round(100 * share))

            results.append(measure(film, styles, StylizeOptions(), progress=report))
        date = datetime.date.today().isoformat()
        write_encoded(output, (json.dumps({"date": date, "films": results}, indent=2) + "\n").encode())
    return results


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as text."""
    lines = []
    for result in results:
        width, height = result["size"]
        name = f"{result['film']}, {result['pairs']} pairs of {width}x{height}, {100 * result['moving']:.0f} % moving"
        lines.append(f"{name:56} whole  moving")
        lines += [f"{name:54} {error['whole']:7.1f} {error['moving']:7.1f}" for name, error in result["errors"].items()]
    return "\n".join([*lines, "warp error, levels of 255: what a picture has else than the one before it, moved along"])
