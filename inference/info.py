"""What an .onnx file of ours says about itself."""

from pathlib import Path

from inference.onnx_file import read_style
from models.contract import OPTIONAL_INPUTS

# What each input means to a caller.
MEANING = {
    "strength": "0 gives the content, 1 the painting",
    "keep_color": "0 gives the style's colors, 1 the content's (luminance-only)",
}


def describe(path: Path) -> list[tuple[str, str]]:
    """Headings and texts, for people.

    Raises:
        StyleError: as `inference.onnx_file.read_style`.
    """
    data, contract = read_style(path)
    card, tensors = contract.card, contract.tensors
    dims = ", ".join(str(dim) for dim in tensors.dims)
    kind = f"{tensors.type} [{dims}] ({tensors.layout}), RGB, sRGB-encoded, {tensors.range.replace('..', ' to ')}"
    sizes = f"height and width multiples of {contract.stride_px}, at least {contract.least_px}"
    lines = [
        ("style", ", ".join(str(card[key]) for key in ("title", "painter", "year") if card.get(key)) or "not named"),
        ("license", str(card.get("license") or "not named")),
        ("network", f"{card.get('tier', 'unknown')} tier, {contract.precision}, {len(data) / 2**20:.2f} MB"),
        ("input", f"{tensors.input}: {kind}"),
        ("output", f"{tensors.output}: the same"),
        ("sizes", "any, from 1x1" if contract.io == "frame" else sizes),
    ]
    values = {"strength": contract.strength, "keep_color": contract.keep_color}
    for name in OPTIONAL_INPUTS:
        if contract.io == "frame":
            lines.append(("optional", f"{name}: float32 scalar, {values[name]:g} if not fed; {MEANING[name]}"))
        elif values[name] != {"strength": 1.0, "keep_color": 0.0}[name]:
            lines.append(("built in", f"{name} {values[name]:g}; {MEANING[name]}"))
    report = {key: value for key, value in contract.report.items() if key not in ("photos", "photos_from")}
    if report:
        photos = f"on {contract.report.get('photos')} photos ({contract.report.get('photos_from')})"
        lines.append(("compared", f"with torch {photos}: {', '.join(f'{key} {value}' for key, value in report.items())}"))
    if card.get("photos_seen"):
        lines.append(("trained", f"on {card['photos_seen']:,} photos, {card.get('device', 'device not named')}"))
    if card.get("options"):
        lines.append(("options", ", ".join(f"{key}={value}" for key, value in card["options"].items() if value is not None)))
    if card.get("losses"):
        lines.append(("losses", ", ".join(f"{key} {value:g}" for key, value in card["losses"].items())))
    # A card is somebody's text; it does not get to command the terminal.
    return [(heading, "".join(c if c.isprintable() else "?" for c in text)) for heading, text in lines]
