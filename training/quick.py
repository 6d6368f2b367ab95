"""A preview training that shows in minutes what a style will look like, and sweeps of them over weights and sizes."""

import dataclasses
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from allaprima.inference.atomic import write_atomically
from allaprima.inference.console import duration_text
from allaprima.inference.pictures import Picture, contact_sheet, write_picture
from allaprima.training.checkpoint import load_net
from allaprima.training.config import TrainConfig
from allaprima.training.images import to_frame
from allaprima.training.loop import train
from allaprima.training.photos.folder import is_folder, list_photos
from allaprima.training.preview import load_preview_frames, stylize_frame
from allaprima.training.style_image import read_style_image

QUICK = {"steps": 120, "size_px": 160, "preview_every": 40, "checkpoint_every": 40}
# Of `--into palette`: many small steps, as so few numbers take a high learning rate; steadiness and borders are the body's.
PALETTE = {
    "steps": 160,
    "batch_size": 1,
    "size_px": 160,
    "lr": 0.05,
    "steady": 0.0,
    "border_weight": 0.0,
    "preview_every": 160,
    "checkpoint_every": 80,
}


def quick_config(config: TrainConfig) -> TrainConfig:
    """The options of a quick training: small crops, few steps; options that the user set are kept."""
    return with_preset(config, QUICK)


def with_preset(config: TrainConfig, preset: Mapping[str, Any]) -> TrainConfig:
    """The options of `QUICK` or `PALETTE` where the user set none."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    changed: dict[str, Any] = {name: value for name, value in preset.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **changed)


def full_training_text(config: TrainConfig, run_folder: Path) -> str:
    """How long the full training would take here, from the photos per second of a quick one."""
    full = TrainConfig(config.style_image, config.photos)
    speeds = []
    with suppress(OSError, ValueError, KeyError):  # a full disk may have truncated the log
        speeds = [json.loads(line)["photos_per_s"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    if not speeds:
        return "this was a preview; metrics.jsonl does not say how fast it went"
    photos_per_s = float(np.median(speeds[1:] or speeds))
    seconds = full.steps * full.batch_size / photos_per_s * (full.size_px / config.size_px) ** 2
    command = f"allaprima train {shlex.quote(config.style_image)} --photos {shlex.quote(config.photos)} --tier {config.tier}"
    return (
        f"this was a preview: {photos_per_s:.1f} photos/s at {config.size_px} px. The full training "
        f"({full.steps:,} steps of {full.batch_size} photos at {full.size_px} px) would take about "
        f"{duration_text(seconds)} here:\n{command}"
    )


def sweep(
    config: TrainConfig, style_weights: Sequence[float], style_sizes_px: Sequence[int], folder: Path, console: Console
) -> Path:
    """Train a quick preview for every pair of style weight and style size, and lay them out on one sheet.

    Args:
        config: of every training, except for those two.
        folder: gets a run folder for each pair; trainings found there are continued, finished ones are kept.
    Returns:
        the contact sheet, one row per pair.
    """
    rows: list[list[np.ndarray | None]] = []
    labels: list[list[str]] = []
    photos = list_photos(Path(config.photos)) if is_folder(config.photos) else []
    frames = load_preview_frames(config, photos)
    for size_px, weight in itertools.product(style_sizes_px, style_weights):
        one = quick_config(dataclasses.replace(config, style_weight=weight, style_size_px=size_px))
        run_folder = folder / f"weight_{weight:g}_size_{size_px}"
        run_folder.mkdir(parents=True, exist_ok=True)
        options = run_folder / "options.json"
        same = options.is_file() and options.read_bytes() == one.to_json().encode() + b"\n"
        weights = run_folder / "weights.safetensors"
        if not (same and weights.is_file()):
            console.print(f"style weight {weight:g}, style size {size_px} px", soft_wrap=True)
            if not same:  # left by another sweep
                for old in [*run_folder.glob("step_*"), weights]:
                    old.unlink(missing_ok=True)
                write_atomically(options, one.to_json().encode() + b"\n")
            train(one, run_folder, console, resume=True)
        net, card = load_net(weights)
        painted = [to_frame(stylize_frame(net, frame)) for frame in frames]
        rows.append(
            [read_style_image(one.style_image, one.style_size_px, one.max_pixels, crop_border=one.crop_border), *painted]
        )
        losses = card["losses"]
        text = f"content {losses['content']:.2f} style {losses['style']:.2f}"
        labels.append([f"weight {weight:g}, size {size_px} px", text, *("" for _ in frames[1:])])
    sheet = folder / "sweep.png"
    top: list[np.ndarray | None] = [None, *frames]
    write_picture(sheet, Picture(contact_sheet([top, *rows], [["", *("photo" for _ in frames)], *labels])))
    return sheet
