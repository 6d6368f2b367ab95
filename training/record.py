"""What a training leaves in its run folder besides weights: metrics, previews, skipped photos, the card."""

import dataclasses
import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from inference.pictures import Picture, contact_sheet, write_atomically, write_picture
from models.errors import TrainingError
from training.config import TrainConfig
from training.device import device_name, pick_device
from training.photos import MOST_BAD, Batch, is_folder, list_photos, to_image

LOG_EVERY = 25  # steps between two lines of metrics.jsonl


class MetricsLog:
    """metrics.jsonl, and TensorBoard's files where tensorboard is installed."""

    def __init__(self, run_folder: Path, start: int, batch_size: int) -> None:
        self.path, self.batch_size = run_folder / "metrics.jsonl", batch_size
        self.photos_per_s = 0.0
        self._began, self._photos = time.monotonic(), 0
        if self.path.exists():  # a resumed run repeats the steps after its checkpoint
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= start]
            write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        self._board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_folder / "tensorboard"), purge_step=start or None)

    def add(self, step: int, parts: dict[str, float]) -> None:
        self._photos += self.batch_size
        seconds = time.monotonic() - self._began
        self.photos_per_s = self._photos / seconds
        if step % LOG_EVERY and step != 1:
            return
        row = {"step": step, **{k: round(v, 6) for k, v in parts.items()}, "photos_per_s": round(self.photos_per_s, 3)}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._board:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)
        self._began, self._photos = time.monotonic(), 0

    def add_image(self, step: int, frame: np.ndarray) -> None:
        if self._board:
            self._board.add_image("preview", frame, step, dataformats="HWC")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line a kill cut short
        return math.inf


class BadPhotos:
    """The photos that could not be used, each listed once in skipped.txt.

    Attributes:
        names: "file: why", in the order they were met, those before a resume included.
    """

    def __init__(self, config: TrainConfig, run_folder: Path, resumed: bool) -> None:
        self.folder, self.path = config.photos, run_folder / "skipped.txt"
        photos = len(list_photos(Path(config.photos))) if is_folder(config.photos) else math.inf
        self.most = MOST_BAD * photos
        self.names: dict[str, None] = {}
        if resumed and self.path.exists():
            self.names = dict.fromkeys(self.path.read_text().splitlines())

    def note(self, batch: Batch, console: Console) -> None:
        """Count and name each new one.

        Raises:
            TrainingError: they are more than `MOST_BAD` of the folder.
        """
        new = [photo.replace("\n", " ") for photo in batch.bad]
        for photo in new:
            if photo not in self.names:
                self.names[photo] = None
                console.print(f"skipped: {photo}", soft_wrap=True, markup=False)
                with self.path.open("a") as file:
                    file.write(photo + "\n")
        if len(self.names) > self.most:
            raise TrainingError(
                f"{len(self.names)} photos in {self.folder} are damaged, more than {MOST_BAD:.0%} of them "
                f"({self.path} lists them); mend or remove them, or give another folder"
            )


def write_preview(
    run_folder: Path,
    step: int,
    net: torch.nn.Module,
    frames: list[np.ndarray],
    style_frame: np.ndarray,
    newest: dict[str, float],
    log: MetricsLog,
) -> None:
    """The fixed photos above what the averaged network makes of them now, as preview_000500.png."""
    painted = [stylize_frame(net, frame) for frame in frames]
    text = " ".join(f"{name} {newest[name]:.3f}" for name in ("content", "style") if name in newest)
    sheet = contact_sheet(
        [[style_frame, *frames], [style_frame, *painted]],
        [["painting", *("photo" for _ in frames)], [f"step {step}", *(text for _ in frames)]],
    )
    write_picture(run_folder / f"preview_{step:06d}.png", Picture(sheet))
    log.add_image(step, sheet)


@torch.no_grad()
def stylize_frame(net: torch.nn.Module, frame: np.ndarray) -> np.ndarray:
    """A (H, W, 3) uint8 frame through a torch network, float32, cropped to the network's stride."""
    stride = int(net.stride_px)  # type: ignore[arg-type]
    height, width = (side - side % stride for side in frame.shape[:2])
    device = next(net.parameters()).device
    stylized_image = net(to_image(torch.tensor(frame[:height, :width])[None], device))
    pixels = (stylized_image[0].permute(1, 2, 0) * 255.0).round().clamp(0, 255)
    return np.asarray(pixels.to(torch.uint8).cpu())


def make_card(config: TrainConfig, step: int, newest: dict[str, float], seconds: float, bad_photos: int) -> dict[str, Any]:
    """What a network is and where it came from; goes beside the weights and into the .onnx."""
    return {
        "title": config.style_title,
        "painter": config.painter,
        "year": config.year,
        "license": config.license,
        "tier": config.tier,
        "step": step,
        "photos_seen": step * config.batch_size,
        "seconds": round(seconds, 1),
        "device": f"{device_name(pick_device(config.device))}, torch {torch.__version__}",
        "losses": {name: round(value, 5) for name, value in newest.items()},
        "bad_photos": bad_photos,
        # File names without folders: a card travels, the trainer's paths are nobody's business.
        "options": {
            name: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
            for name, value in dataclasses.asdict(config).items()
            if name != "preview"
        },
    }
