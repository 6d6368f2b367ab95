"""The shipped styles: checkpoints/<style>/<tier>.onnx with a card, <tier>.json, next to it; other flavors of the same
network are <tier>.frame.onnx, <tier>.int8.onnx, <tier>.fp16.onnx."""

import difflib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allaprima.inference.style.palette import as_shipped, gentler, mixed_file, parse_mix
from allaprima.models.errors import StyleError

FOLDER = Path(__file__).resolve().parents[2] / "checkpoints"
PAINTING = "painting.jpg"  # a small picture of the painting, next to its networks
LARGER_FIRST = ("quality", "realtime")  # order of tiers if the judges have not scored them
EVEN = 0.005  # two networks whose distances from the painting (SWD) differ by less are equally good
PREFERRED_LIVE = ("realtime", "quality")


@dataclass(frozen=True)
class Style:
    """One shipped network; `card` holds title, painter, year, license, options, losses, ..."""

    name: str
    tier: str
    path: Path
    card: dict[str, Any]

    @property
    def full_name(self) -> str:
        return f"{self.name}/{self.tier}"

    @property
    def flavors(self) -> list[str]:
        """Other flavors of the network: "frame", "int8", ..."""
        return sorted(path.stem.removeprefix(f"{self.tier}.") for path in self.path.parent.glob(f"{self.tier}.*.onnx"))


def shipped_styles(folder: Path = FOLDER, tiers: Sequence[str] | None = None) -> list[Style]:
    """All shipped styles by name.

    Args:
        tiers: in order of preference; None prefers the tier that the judges find nearer to the painting, or the faster one
            if they are equally good.
    """
    styles = []
    for path in folder.glob("*/*.onnx"):
        if "." in path.stem:
            continue  # a flavor
        card_path = path.with_suffix(".json")
        card = json.loads(card_path.read_text()) if card_path.is_file() else {}
        styles.append(Style(path.parent.name, path.stem, path, card))
    order = {tier: i for i, tier in enumerate(tiers or LARGER_FIRST)}

    def place(style: Style) -> tuple[str, float, int]:
        distance = 0.0
        if tiers is None:
            distance = style.card.get("judged", {}).get("256", {}).get("swd", math.inf)
            distance += EVEN if style.tier != PREFERRED_LIVE[0] else 0.0
        return style.name, distance, order.get(style.tier, len(order))

    return sorted(styles, key=place)


def flavor_of(path: Path, flavor: str) -> Path | None:
    """A shipped network's file in another flavor, "int8", "frame", ...; None if there is none, or `path` is one itself."""
    other = path.with_name(f"{path.stem}.{flavor}.onnx")
    return other if "." not in path.stem and other.is_file() else None


def find_style(name: str, folder: Path = FOLDER, tiers: Sequence[str] | None = None) -> Path:
    """The .onnx file that a user means.

    Args:
        name: a shipped style ("great_wave"), one of its tiers ("great_wave/realtime"), a flavor of it
            ("great_wave/realtime.int8"), a mix ("great_wave:0.6,starry_night:0.4", see `palette`), or a path to an .onnx file,
            or to the .npz file of a painting's own numbers in the palette.
        tiers: which one a bare name means, see `shipped_styles`.
    Raises:
        StyleError: no such style; the message suggests the nearest name.
    """
    path = Path(name)
    if weights := mix_of(name):
        return mixed_file(weights)
    if path.suffix.lower() == ".onnx":
        if not path.is_file():
            raise StyleError(f"{name} is a folder" if path.is_dir() else f"there is no file {name}")
        return path
    if path.suffix.lower() == ".safetensors" and path.is_file():
        raise StyleError(f"{name} is a checkpoint; make a style of it first: allaprima export {name}")
    if path.is_file():
        raise StyleError(f"{name} is not an .onnx file; give a style's name or an .onnx file")
    styles = shipped_styles(folder, tiers)
    wanted = as_shipped(name)
    for style in styles:
        if wanted in (style.name, style.full_name):
            return style.path
        for flavor in style.flavors:
            if wanted == f"{style.full_name}.{flavor}":
                return style.path.with_name(f"{style.tier}.{flavor}.onnx")
    names = sorted({style.name for style in styles} | {style.full_name for style in styles})
    flavors = [f"{style.full_name}.{flavor}" for style in styles for flavor in style.flavors]
    nearest = difflib.get_close_matches(wanted, names + flavors, n=1)
    hint = f'; did you mean "{nearest[0]}"?' if nearest else "."
    more = f" (some as .{', .'.join(sorted({name.rpartition('.')[2] for name in flavors}))}, too)" if flavors else ""
    raise StyleError(f'there is no style "{name}"{hint} There are {", ".join(names)}{more}, or give an .onnx file')


def find_styles(names: Sequence[str], strength: float, tiers: Sequence[str] | None = None) -> tuple[list[Path], float]:
    """`find_style` for each name, at a strength: where all are mixes, that is in the strokes of what is found.

    Returns:
        the files, and the strength that is left: 1, or as it was, to fade the painting into the photo.
    """
    mixes = [weights for weights in map(mix_of, names) if weights]
    if 0.0 < strength < 1.0 and len(mixes) == len(names):
        return [mixed_file(gentler(weights, strength)) for weights in mixes], 1.0
    return [find_style(name, tiers=tiers) for name in names], strength


def mix_of(name: str) -> dict[str, float] | None:
    """The weights in a style's name if it is a mix, and no file."""
    path = Path(name)
    return parse_mix(name) if path.suffix.lower() == ".npz" or not path.exists() else None


def faster_tier(name: str, folder: Path = FOLDER) -> Path | None:
    """The realtime tier of a style that a user names without a tier, if that name means another tier; else None."""
    wanted = as_shipped(name)
    paths = {style.tier: style.path for style in shipped_styles(folder) if style.name == wanted}
    return paths.get("realtime") if next(iter(paths), "realtime") != "realtime" else None


def style_name(style: str) -> str:
    """What a user called a style, as a part of a file's name."""
    if style.lower().endswith((".onnx", ".npz")):
        return Path(style).stem
    return re.sub("[/ :,@]+", "_", re.sub(r"[^,]*[/\\]([^/\\,]*)\.npz(?=:)", r"\1", style))
