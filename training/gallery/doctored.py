"""What the judges say of pictures that cheat, to show how far they can be trusted. For maintainers of the styles:

python -m allaprima.training.gallery.doctored starry_night sunflowers --paintings FOLDER --photos HELDOUT
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from allaprima.inference.color import match_linear
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import PREFERRED_LIVE, find_style
from allaprima.training.gallery.ship import SIZES_PX, heldout_photos, judging_vgg19
from allaprima.training.studies.judges import NAMES, PERIOD_PX, Bench, FramePainter, read_in_cells

BLUR_PX = 2.0  # standard deviation
NOISE_LEVELS = 12.0  # standard deviation, of 255
LATTICE_LEVELS = 12.0


def cheats(paint: FramePainter, style_frame: np.ndarray) -> dict[str, FramePainter]:
    """Painters: a network, substitutes without one, and ways to spoil its paintings."""
    lattice = np.zeros((PERIOD_PX, PERIOD_PX, 1))
    lattice[: PERIOD_PX // 2, : PERIOD_PX // 2] = 4.0 * LATTICE_LEVELS
    lattice -= lattice.mean()

    def with_noise(frame: np.ndarray) -> np.ndarray:
        return _rounded(paint(frame) + np.random.default_rng(0).normal(0.0, NOISE_LEVELS, (*frame.shape[:2], 1)))

    def with_lattice(frame: np.ndarray) -> np.ndarray:
        rows, columns = (-(-side // PERIOD_PX) for side in frame.shape[:2])
        return _rounded(paint(frame) + np.tile(lattice, (rows, columns, 1))[: frame.shape[0], : frame.shape[1]])

    return {
        "the photo itself": lambda frame: frame,
        "merely recolored": lambda frame: match_linear(frame, style_frame, "cholesky"),
        "painted": paint,
        "at half strength": lambda frame: _rounded(0.5 * paint(frame) + 0.5 * frame),
        "blurred": lambda frame: cv2.GaussianBlur(paint(frame), (0, 0), BLUR_PX),
        "with noise": with_noise,
        "with a lattice": with_lattice,
    }


def _rounded(frame: np.ndarray) -> np.ndarray:
    return frame.round().clip(0, 255).astype(np.uint8)


def table(judged: Mapping[str, Mapping[str, float]]) -> str:
    """The mean of each judge, one line per cheat."""
    lines = ["| | SWD | SS | grid | palette |", "|---|---|---|---|---|"]
    for name, row in judged.items():
        lines.append(f"| {name} | {row['swd']:.3f} | {row['ss']:.3f} | {row['grid']:.1%} | {row['palette']:.2f} |")
    return "\n".join(lines)


def judge(styles: list[str], style_images: Path, photos: Path) -> dict[str, dict[str, float]]:
    """What each judge says of each cheat, averaged over several styles' realtime networks."""
    vgg, paths = judging_vgg19(), heldout_photos(photos, SIZES_PX[0])
    rows: dict[str, list[dict[str, float]]] = {}
    for style in styles:
        style_image = next(iter(sorted(style_images.glob(f"{style}.*"))))
        bench = Bench(vgg, style_image, paths, SIZES_PX[0])
        session = StyleSession(find_style(style, tiers=PREFERRED_LIVE))
        for name, paint in cheats(session.stylize, read_in_cells(style_image, SIZES_PX[0])).items():
            rows.setdefault(name, []).append(bench.judge(paint))
    return {name: {part: float(np.mean([row[part] for row in each])) for part in NAMES} for name, each in rows.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("styles", nargs="+", metavar="STYLE")
    parser.add_argument("--paintings", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    print(table(judge(arguments.styles, arguments.paintings, arguments.photos)))
