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
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allaprima.models import __version__
from allaprima.models.contract import Contract
from allaprima.models.errors import StyleError

if TYPE_CHECKING:
    from onnx import ModelProto

PALETTE = Path(__file__).resolve().parents[2] / "checkpoints" / "base" / "palette.npz"
# What the file holds besides each painting's own numbers, which are (paintings, ...) by the names of the network's parameters:
# a style file to put them into, the paintings' names, and which body they were learned in. A file of a single painting's
# numbers lacks the first.
TEMPLATE, NAMES, BODY = "template", "names", "body"
PHOTO = "photo"  # the name whose numbers paint the photo itself
MAX_BYTES = 2**22  # of either, unpacked


def parse_mix(text: str) -> dict[str, float] | None:
    """Names and weights of "great_wave:0.6,starry_night:0.4"; None if a text is nothing of the kind.

    A name may also be an .npz file, "udnie.npz:0.5", that `allaprima train --into palette` wrote; alone it needs no weight.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, colon, weight = part.strip().rpartition(":")
        if _is_file(part):
            name, colon, weight = part, ":", "1"
        try:
            number = float(weight)
        except ValueError:
            return None
        name = name.strip()
        if not colon or not name or (("/" in name or "\\" in name) and not _is_file(name)):
            return None
        name = name if _is_file(name) else as_shipped(name)
        weights[name] = weights.get(name, 0.0) + number
    return weights


def as_shipped(name: str) -> str:
    """A style's name as it is spelled in checkpoints/: "Great Wave" is "great_wave"."""
    return name.lower().replace("-", "_").replace(" ", "_")


def _is_file(name: str) -> bool:
    return name.strip().lower().endswith(".npz")


@dataclass(frozen=True)
class Mix:
    """What lies between paintings.

    Attributes:
        own: its numbers, by the names of the network's parameters.
        title: "60% great_wave + 40% starry_night".
        template: a style file of the palette's network. body: which network that is.
    """

    own: dict[str, np.ndarray]
    title: str
    template: bytes
    body: str


def mix(weights: Mapping[str, float], palette: Path = PALETTE) -> Mix:
    """The numbers of a mix.

    Args:
        weights: of the palette's names, or of files of a painting's own numbers; what counts is their share.
    Raises:
        StyleError: there is no such name or file, a file belongs to another palette, or there is no share.
    """
    opened = _Palette(palette)
    own = {name: np.zeros(array.shape[1:]) for name, array in opened.own.items()}
    parts = []
    for name, share in shares_of(weights).items():
        title, numbers = opened.row(name)
        own = {key: mixed + share * numbers[key] for key, mixed in own.items()}
        parts.append((share, title))
    title = " + ".join(f"{share:.0%} {name}" for share, name in sorted(parts, reverse=True) if share)
    return Mix({key: each.astype(np.float32) for key, each in own.items()}, title, opened.template, opened.body)


def all_styles(weights: Mapping[str, float], palette: Path = PALETTE) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """All that can be mixed, for a file that leaves the weights to its caller.

    Args:
        weights: as of `mix`.
    Returns:
        the weights of all the palette's names, and of the files among `weights`, most of them 0; and what each has of its own,
        as `initializers`, (S, ...).
    """
    opened = _Palette(palette)
    found, own = {}, []
    for name in [*opened.names, *(name for name in weights if name not in opened.names)]:
        title, numbers = opened.row(name)
        found[title] = float(weights.get(name, 0.0))
        own.append(initializers(numbers))
    return found, {key: np.stack([each[key] for each in own]) for key in own[0]}


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights whose sum is 1.

    Raises:
        StyleError: one is below 0 or not finite, or all are 0.
    """
    total = math.fsum(weights.values())
    if not all(0.0 <= weight < math.inf for weight in weights.values()) or not 0.0 < total < math.inf:
        given = ",".join(f"{name}:{weight:g}" for name, weight in weights.items())
        raise StyleError(f"{given} is no mix; weights of at least 0 are wanted, and one above it")
    return {name: weight / total for name, weight in weights.items()}


def unknown(name: str, names: Sequence[str]) -> StyleError:
    """The error for a name that is not among those that can be mixed."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    return StyleError(f'there is no "{name}" to mix with{hint} There are {", ".join(names)}')


class _Palette:
    """A palette's file, read.

    Attributes:
        names: of its paintings. own: what each has of its own, (paintings, ...) by the names of the network's parameters.
        template, body: as of `Mix`.
    """

    def __init__(self, path: Path) -> None:
        arrays = _read(path, {TEMPLATE, NAMES, BODY}, "get it again")
        self.template, self.body = arrays.pop(TEMPLATE).tobytes(), str(arrays.pop(BODY))
        self.names, self.own = [str(name) for name in arrays.pop(NAMES)], arrays

    def row(self, name: str) -> tuple[str, dict[str, np.ndarray]]:
        """Title and numbers of one of its paintings, or of a single painting's file."""
        if _is_file(name):
            return _painting(Path(name), {key: array.shape[1:] for key, array in self.own.items()}, self.body)
        if name not in self.names:
            raise unknown(name, self.names)
        return name, {key: array[self.names.index(name)] for key, array in self.own.items()}


def mixed_style(weights: Mapping[str, float], palette: Path = PALETTE) -> bytes:
    """An ordinary style file that paints a `mix`."""
    import onnx

    mixed = mix(weights, palette)
    model = onnx.load_model_from_string(mixed.template)
    arrays = initializers(mixed.own)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.raw_data = arrays[tensor.name].astype("<f4").tobytes()
    return _titled(model, mixed.title, {})


def palette_style(palette: Path = PALETTE) -> bytes:
    """A style file of all the palette's paintings, whose caller says how much of each counts (`StyleSession.weights`)."""
    import onnx

    from allaprima.models.frame_model import with_weights

    shares, own = all_styles({PHOTO: 1.0}, palette)
    model = onnx.load_model_from_string(_Palette(palette).template)
    return _titled(with_weights(model, own), "the palette", shares)


def _titled(model: "ModelProto", title: str, shares: Mapping[str, float]) -> bytes:
    """The template, changed into a style file, with what it is in its metadata."""
    import onnx

    contract = Contract.from_metadata({each.key: each.value for each in model.metadata_props}, "the palette's template")
    contract = dataclasses.replace(contract, card={**contract.card, "title": title, "painter": "", "year": ""}, mix=shares)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, contract.to_metadata(__version__))
    return bytes(model.SerializeToString())


def initializers(own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A painting's own numbers as a style file holds them: `skip` and `bias` as in `models.image_transform_net.photo_part`."""
    skip, bias = own["skip"], own["bias"]
    phases = [np.pad(skip, ((0, 0), (0, 0), (dy, 1 - dy), (dx, 1 - dx))) for dy in (0, 1) for dx in (0, 1)]
    centered = bias - 0.5 * skip.sum((1, 2, 3))
    return {**own, "skip": np.stack(phases, 1).reshape(-1, *phases[0].shape[1:]), "bias": centered.repeat(4)}


def _painting(path: Path, wanted: Mapping[str, tuple[int, ...]], body: str) -> tuple[str, dict[str, np.ndarray]]:
    """Name and numbers of a single painting's file."""
    arrays = _read(path, {NAMES, BODY}, "make it with allaprima train --into palette")
    names, of = arrays.pop(NAMES), str(arrays.pop(BODY))
    if of != body:
        raise StyleError(f"{path} was learned in another palette; learn it again: allaprima train PAINTING --into palette")
    shapes = {name: (1, *shape) for name, shape in wanted.items()}
    if names.shape != (1,) or {name: array.shape for name, array in arrays.items()} != shapes:
        raise StyleError(f"{path} does not hold the numbers of one painting; make it with allaprima train --into palette")
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()):
        raise StyleError(f"{path} holds numbers that are not finite; make it with allaprima train --into palette")
    return str(names[0])[:80], {name: array[0] for name, array in arrays.items()}


def gentler(weights: Mapping[str, float], strength: float) -> dict[str, float]:
    """A mix with the photo itself in it, so that its strokes are gentler: a strength of 1 is the mix, 0 the photo.

    Halfway the picture is halfway: over six styles and three photos, a strength of 0.5 changed the photo 0.47 times as much
    as 1 (0.42 to 0.51; 2026-12-01).
    """
    shares = {name: strength * share for name, share in shares_of(weights).items()}
    return shares | {PHOTO: shares.get(PHOTO, 0.0) + 1.0 - strength}


def mixed_file(weights: Mapping[str, float], palette: Path = PALETTE) -> Path:
    """`mixed_style` as a file that is there as long as this program runs."""
    name = "_".join(f"{Path(name).stem}_{weight:g}" for name, weight in weights.items())[:100]
    path = _folder() / f"{name}.onnx"
    path.write_bytes(mixed_style(weights, palette))
    return path


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="allaprima_mix_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _read(path: Path, needed: set[str], remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
        StyleError: it cannot be read; ends with the remedy.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as unpacked:
            if sum(each.file_size for each in unpacked.infolist()) > MAX_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_BYTES / 2**20:.0f} MB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if missing := needed - arrays.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        return arrays
    except FileNotFoundError as error:
        raise StyleError(f"there is no {'palette to mix from at ' if TEMPLATE in needed else 'file '}{path}") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise StyleError(f"{path} is damaged: {error}; {remedy}") from error
