"""Trains the shipped styles, ships those that improved, and writes what the docs say of them."""

import dataclasses
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from allaprima.inference.atomic import write_atomically
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import paint_photo
from allaprima.inference.pictures import Picture, contact_sheet, read_picture, write_picture
from allaprima.inference.style.engines import REFERENCE_PHOTOS
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import FOLDER, shipped_styles
from allaprima.models.errors import TrainingError
from allaprima.training.checkpoint import find_weights, load_net
from allaprima.training.conditional_instance_norm import load_base
from allaprima.training.config import TrainConfig
from allaprima.training.gallery.ship import SIZES_PX, ship_net, shipped_swd
from allaprima.training.loop import train_together
from allaprima.training.record import make_card

GALLERY = FOLDER / "gallery.toml"
README = FOLDER / "README.md"
SHEET = FOLDER / "pictures" / "contact_sheet.jpg"
TABLE_COLUMNS = ("style", "SWD", "SS", "grid", "palette", "border", "SWD, SS at 512 px", "content", "Gram")
TABLE_HEAD = f"| {' | '.join(TABLE_COLUMNS)} |\n|{'---|' * len(TABLE_COLUMNS)}\n"
CHECKPOINT_EVERY = 50  # steps; a step of many styles takes many seconds
TURN_STEPS = 500  # of one style, if the time is limited
GO_ON_LR = 1e-3  # for a network that is already trained


def read_gallery(path: Path = GALLERY) -> dict[str, dict[str, Any]]:
    """The shipped styles by name: title, painter, year and options of `TrainConfig`.

    Raises:
        TrainingError: it is not such a file.
    """
    try:
        gallery = tomllib.loads(path.read_text())
        for name, entry in gallery.items():
            TrainConfig(style_image=name, photos="", **entry)
        return gallery
    except (OSError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is not a gallery: {error}") from error


def config_of(name: str, entry: Mapping[str, Any], style_images: Path, **options: Any) -> TrainConfig:
    """How a style is trained: as its entry says, except for `options`.

    Raises:
        TrainingError: its painting is missing.
    """
    found = sorted(style_images.glob(f"{name}.*"))
    if not found:
        raise TrainingError(f"{style_images} holds no painting {name}.jpg or the like")
    defaults = {"checkpoint_every": CHECKPOINT_EVERY, "preview_every": CHECKPOINT_EVERY}
    return TrainConfig(style_image=str(found[0].resolve()), license="public domain", **defaults | dict(entry) | options)


def train_gallery(configs: Mapping[str, TrainConfig], runs: Path, heldout: Path, console: Console) -> None:
    """Train styles together on the same photos, or go on with that, and ship those that improved."""
    folders = [runs / f"{name}-{config.tier}" for name, config in configs.items()]
    begin_or_go_on(list(configs.values()), folders, console)
    for (name, config), folder in zip(configs.items(), folders, strict=True):
        net, card = load_net(find_weights(folder))
        ship_net(net, card, config, heldout, name, only_if_better=True)


def train_for(minutes: float, configs: Mapping[str, TrainConfig], runs: Path, heldout: Path, console: Console) -> None:
    """Train one style after another, the worst first, each for a while from its shipped network; ship those that improved."""
    end = time.monotonic() + 60 * minutes
    turns = dict.fromkeys(configs, 0)
    while time.monotonic() < end:
        name = min(turns, key=lambda name: (turns[name], -shipped_swd(name, configs[name].tier)))
        turns[name] += 1
        config = configs[name]
        config = from_shipped(name, dataclasses.replace(config, steps=TURN_STEPS))
        number = len(list(runs.glob(f"{name}-{config.tier}-*/weights.safetensors"))) + 1
        folder = runs / f"{name}-{config.tier}-{number}"
        console.print(f"{name}: {shipped_swd(name, config.tier)}, turn {turns[name]}")
        begin_or_go_on([config], [folder], console)
        net, card = load_net(find_weights(folder))
        ship_net(net, card, config, heldout, name, only_if_better=True)


def from_shipped(name: str, config: TrainConfig) -> TrainConfig:
    """The same training, but starting from the shipped network, if there is one."""
    own = FOLDER / name / f"{config.tier}.safetensors"
    return dataclasses.replace(config, init=str(own), lr=GO_ON_LR) if own.is_file() else config


def begin_or_go_on(configs: Sequence[TrainConfig], folders: Sequence[Path], console: Console) -> None:
    """`train_together`, from existing checkpoints; a finished training is not repeated."""
    if all((folder / "weights.safetensors").is_file() for folder in folders):
        return
    for config, folder in zip(configs, folders, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "options.json", config.to_json().encode() + b"\n")
    train_together(configs, folders, console, resume=True)


def ship_base(configs: Mapping[str, TrainConfig], heldout: Path) -> None:
    """Ship the base's version of each style that is better than the shipped one."""
    for name, config in configs.items():
        base = load_base(config.tier)
        if name not in base.names:
            continue
        config = dataclasses.replace(config, **base.card["options"])
        photos = base.card["photos_seen"] // len(base.names)
        card = make_card(config, photos // config.batch_size, base.card["losses"], base.card["seconds"], 0)
        card |= {"started_from": "base", "photos_seen": photos, "paintings_together": len(base.names)}
        net = base.network(name).eval()
        net.upsampling = config.upsampling
        ship_net(net, card, config, heldout, name, only_if_better=True)


def write_table(readme: Path = README) -> None:
    """Write the judges' table in checkpoints/README.md, from the cards."""
    rows = []
    for style in shipped_styles():
        judged, larger = (style.card["judged"][str(size)] for size in SIZES_PX)
        losses = style.card["heldout"][str(SIZES_PX[0])]
        rows.append(
            f"| {style.full_name} | {judged['swd']:.3f} | {judged['ss']:.3f} | {judged['grid']:.1%} | {judged['palette']:.2f} "
            f"| {style.card['border_band']} | {larger['swd']:.3f}, {larger['ss']:.3f} "
            f"| {losses['content']:.3f} | {losses['style']:.3f} |\n"
        )
    text = readme.read_text()
    old = re.search(re.escape(TABLE_HEAD) + r"(\|.*\n)*", text)
    if not old:
        raise TrainingError(f"{readme} has no table that begins with {TABLE_HEAD.splitlines()[0]}")
    write_atomically(readme, (text[: old.start()] + TABLE_HEAD + "".join(rows) + text[old.end() :]).encode())


def write_sheet(path: Path = SHEET) -> None:
    """Write the sheet: the reference photos, and under them every shipped style's paintings of them, two styles per row."""
    frames = [read_picture(photo).frame for photo in sorted(REFERENCE_PHOTOS.glob("*.jpg"))]
    cells: list[list[np.ndarray | None]] = [list(frames)]
    labels = [["photo" for _ in frames]]
    for style in shipped_styles():
        session = StyleSession(style.path)
        cells.append([paint_photo(session, frame, StylizeOptions()) for frame in frames])
        labels.append([style.full_name, *("" for _ in frames[1:])])
    if len(cells) % 2:
        cells.append([None for _ in frames])
        labels.append(["" for _ in frames])
    rows = [one + other for one, other in zip(cells[::2], cells[1::2], strict=True)]
    texts = [one + other for one, other in zip(labels[::2], labels[1::2], strict=True)]
    write_picture(path, Picture(contact_sheet(rows, texts)))
