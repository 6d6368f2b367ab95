"""Mixes of styles: "great_wave:0.6,starry_night:0.4" is one network, however many styles are in it.

The palette is one body with numbers of its own for each painting (conditional instance normalization, Dumoulin, Shlens,
Kudlur 2017) and for the photo itself, so that a mix with "photo" has gentler strokes. What lies between the numbers of two
paintings paints between them. `training.gallery.palette` writes it.
"""

import atexit
import dataclasses
import difflib
import functools
import io
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from allaprima.models import __version__
from allaprima.models.contract import Contract
from allaprima.models.errors import StyleError

PALETTE = Path(__file__).resolve().parents[2] / "checkpoints" / "base" / "palette.npz"
TEMPLATE, NAMES = "template", "names"  # beside these the file holds initializers, (styles, ...) each


def parse_mix(text: str) -> dict[str, float] | None:
    """Names and weights of "great_wave:0.6,starry_night:0.4"; None where a text is nothing of that kind."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, colon, weight = part.strip().rpartition(":")
        try:
            number = float(weight)
        except ValueError:
            return None
        if not colon or not name or "/" in name or "\\" in name:
            return None
        name = name.strip().lower().replace("-", "_").replace(" ", "_")
        weights[name] = weights.get(name, 0.0) + number
    return weights


def mixed_style(weights: Mapping[str, float], palette: Path = PALETTE) -> bytes:
    """An ordinary style file that paints a mix.

    Args:
        weights: of the palette's names; what counts is their share.
    Raises:
        StyleError: there is no such name, or no share.
    """
    import onnx

    arrays = _read(palette)
    names = [str(name) for name in arrays[NAMES]]
    for name in weights:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else "."
            raise StyleError(f'there is no "{name}" to mix with{hint} There are {", ".join(names)}')
    total = math.fsum(weights.values())
    if not all(0.0 <= weight < math.inf for weight in weights.values()) or not 0.0 < total < math.inf:
        given = ",".join(f"{name}:{weight:g}" for name, weight in weights.items())
        raise StyleError(f"{given} is no mix; weights of at least 0 are wanted, and one above it")
    shares = np.zeros(len(names))
    for name, weight in weights.items():
        shares[names.index(name)] += weight / total
    model = onnx.load_model_from_string(arrays[TEMPLATE].tobytes())
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.raw_data = np.tensordot(shares, arrays[tensor.name], 1).astype("<f4").tobytes()
    contract = Contract.from_metadata({each.key: each.value for each in model.metadata_props}, str(palette))
    parts = sorted(((share, name) for share, name in zip(shares, names, strict=True) if share), reverse=True)
    card = {**contract.card, "title": " + ".join(f"{share:.0%} {name}" for share, name in parts), "painter": "", "year": ""}
    mixed = dataclasses.replace(contract, card=card)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, mixed.to_metadata(__version__))
    return bytes(model.SerializeToString())


def mixed_file(weights: Mapping[str, float], palette: Path = PALETTE) -> Path:
    """`mixed_style` as a file that is there as long as this program runs."""
    name = "_".join(f"{name}_{weight:g}" for name, weight in weights.items())[:100]
    path = _folder() / f"{name}.onnx"
    path.write_bytes(mixed_style(weights, palette))
    return path


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="allaprima_mix_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _read(palette: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(palette.read_bytes()), allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError as error:
        raise StyleError(f"there is no palette to mix from at {palette}") from error
    except (OSError, ValueError) as error:
        raise StyleError(f"{palette} is damaged: {error}; get it again") from error
