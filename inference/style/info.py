"""What an .onnx file of ours says about itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allaprima.inference.style import engines
from allaprima.inference.style.onnx_file import read_about, read_style
from allaprima.models.contract import OPTIONAL_INPUTS, WEIGHTS, Contract
from allaprima.models.errors import StyleError

# What each input means to a caller.
MEANING = {
    "strength": "0 gives the content, 1 the painting",
    "keep_color": "0 gives the style's colors, 1 the content's (luminance-only)",
    "strokes": "how large they are, 1 as on a picture of 768 px; 0 paints in one pass",
    "detail": "how much of a large picture's own fine lines comes back, 0 to 1",
}


def describe(path: Path) -> list[tuple[str, str]]:
    """Headings and texts, for people.

    Raises:
        StyleError: as `inference.style.onnx_file.read_about`.
    """
    size, contract, ir_version, opset = read_about(path)
    try:
        lines = _lines(size, contract, f"ONNX IR {ir_version}, opset {opset}")
        if contract.io == "image" and not contract.target:
            choice = engines.choice_so_far(read_style(path)[0])
            lines.append(("engine", str(choice) if choice else "found out by the first painting here"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StyleError(f"{path} has a damaged card ({error!r}); export it again") from error
    # A card is text from elsewhere; it must not send control codes to the terminal.
    return [(heading, "".join(c if c.isprintable() else "?" for c in text)) for heading, text in lines]


def _lines(size: int, contract: Contract, form: str) -> list[tuple[str, str]]:
    card, tensors = contract.card, contract.tensors
    dims = ", ".join(str(dim) for dim in tensors.dims)
    sizes = f"height and width multiples of {contract.stride_px}, at least {contract.least_px}"
    if contract.size:
        sizes = "{}x{} alone".format(*contract.size)
        dims = f"1, 3, {contract.size[1]}, {contract.size[0]}"
    kind = f"{tensors.type} [{dims}] ({tensors.layout}), RGB, sRGB-encoded, {tensors.range.replace('..', ' to ')}"
    lines = [
        ("style", ", ".join(str(card[key]) for key in ("title", "painter", "year") if card.get(key)) or "not named"),
        ("license", str(card.get("license") or "not named")),
        ("network", f"{card.get('tier', 'unknown')} tier, {contract.precision}, {size / 2**20:.2f} MB"),
        ("strokes", f"{contract.own_strokes:g} by default; {MEANING['strokes']}"),
        ("form", form + (f", for {contract.target}; allaprima itself does not paint with it" if contract.target else "")),
        ("input", f"{tensors.input}: {kind}"),
        ("output", f"{tensors.output}: the same"),
        ("sizes", "any, from 1x1" if contract.io == "frame" else sizes),
    ]
    for name, value in contract.optional.items():
        lines.append(("optional", f"{name}: float32 scalar, {value:g} if not fed; {MEANING[name]}"))
    for name, plain in zip(OPTIONAL_INPUTS, (1.0, 0.0), strict=True):
        if contract.io == "image" and (value := getattr(contract, name)) != plain:
            lines.append(("built in", f"{name} {value:g}; {MEANING[name]}"))
    if contract.mix:
        mix = ", ".join(f"{name} {weight:g}" for name, weight in contract.mix.items())
        lines.append(("input", f"{WEIGHTS}: float32 [{len(contract.mix)}], how much of each is mixed, to begin with: {mix}"))
    if contract.report:
        lines.append(("compared", report_text(contract.report)))
    if contract.thumbnail:
        lines.append(
            ("picture", f"JPEG, {3 * len(contract.thumbnail) // 4 / 1000:.0f} kB, base64 in the metadata allaprima.thumbnail")
        )
    lines.append(("made by", f"allaprima {contract.version or 'of an unknown version'}"))
    if card.get("photos_seen"):
        lines.append(("trained", f"on {card['photos_seen']:,} photos, {card.get('device', 'device not named')}"))
    if card.get("options"):
        lines.append(("options", ", ".join(f"{key}={value}" for key, value in card["options"].items() if value is not None)))
    if card.get("losses"):
        lines.append(("losses", ", ".join(f"{key} {value:g}" for key, value in card["losses"].items())))
    return lines


def report_text(report: Mapping[str, Any]) -> str:
    """How a file compares with torch, in one line."""
    parts = [
        f"{report['psnr_db']:.1f} dB from torch on {report['photos']} photos ({report['photos_from']}),"
        f" {report['worst_photo_db']:.1f} dB on the worst",
        f"{report['within_one_level']:.2%} of values within one level",
        f"largest difference {report['largest_difference']:.1e}",
    ]
    if "largest_activation" in report:
        parts.append(
            f"largest activation {report['largest_activation']:g}, {report['half_arithmetic_db']} dB in float16 throughout"
        )
    if "style_loss_ratio" in report:
        parts.append(f"style loss {report['style_loss_ratio']:.3f} times torch's")
    return "; ".join(parts)
