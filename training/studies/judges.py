"""How well a picture is painted, according to measures ("judges") that no training uses.

swd       style: sliced Wasserstein distance (Bonneel et al. 2015) between picture and painting, of their features in VGG-19's
          relu1_2, 2_2, 3_4, 4_4, over the painting's variance; 0 is the painting's own distribution, about 1 a flat picture.
ss        content: how far the pattern of similarities between places (Kolkin et al. 2019) is from the photo's, in relu3_4
          and 4_4 on a grid; 0 is the photo's. It does not see the palette.
grid      share of the fine luminance that repeats every 4 px, as left by networks that work at a quarter of the size;
          paintings have none.
palette   volume of the colors' covariance over the painting's, strokes averaged away: 1 is as rich, 0.3 a single hue.
faces     share of the photos' faces that a detector still finds (training/studies/faces.py), if it is installed.

Pictures are viewed at half the size they are painted at, which strokes survive and most grain does not. Noise alone still
lowers swd by an eighth, so close calls are left to the eye and the palette. training/gallery/README.md has the results for
blurred, noisy and merely recolored pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from allaprima.inference.pictures import read_picture, resize, resize_short_side
from allaprima.inference.style.styles import EVEN
from allaprima.models.contract import LUMA
from allaprima.models.vgg import VGG19Features
from allaprima.training.images import to_image
from allaprima.training.losses import requantiled
from allaprima.training.studies.faces import FaceFinder, kept

FramePainter = Callable[[np.ndarray], np.ndarray]  # frame -> stylized frame
NAMES = ("swd", "ss", "grid", "palette")
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_4", "relu4_4")
CONTENT_LAYERS = ("relu3_4", "relu4_4")
DIRECTIONS, QUANTILES = 256, 512
CELLS = 32  # along the long side, of the grid on which places are compared
VIEW = 0.5  # of the painted size
STYLE_SCALE = 1.5  # the painting's short side over the photo's
PERIOD_PX, WINDOW_PX = 4, 32
PALETTE_PX = 128  # short side at which strokes have vanished
# For a network that replaces another: most SS over the other's, most grid, least palette, how far a palette may fall below.
SS_ALLOWED, GRID_ALLOWED, PALETTE_WANTED, PALETTE_EVEN = 1.1, 0.005, 0.7, 0.05


@dataclass(frozen=True)
class Seen:
    """What the judges keep of a picture.

    Attributes:
        quantiles: layer -> (DIRECTIONS, QUANTILES), of the features projected onto fixed random directions.
        likeness: (P, P) cosine distances between all places, columns divided by their sum.
    """

    quantiles: dict[str, Tensor]
    likeness: Tensor


@torch.no_grad()
def see(vgg: VGG19Features, frame: np.ndarray) -> Seen:
    """Look at a picture, (H, W, 3) uint8, with sides of 32 px or more."""
    features = {layer: each.float() for layer, each in vgg(to_image(frame, vgg.mean.device), STYLE_LAYERS).items()}
    projected = {layer: _directions(layer, each.shape[1], each.device) @ each.flatten(2) for layer, each in features.items()}
    quantiles = {layer: requantiled(each.sort(dim=2).values, QUANTILES)[0] for layer, each in projected.items()}
    height, width = features[CONTENT_LAYERS[0]].shape[2:]
    cells = [max(1, round(side * CELLS / max(height, width))) for side in (height, width)]
    places = torch.cat([F.interpolate(features[layer], cells, mode="area") for layer in CONTENT_LAYERS], 1).flatten(2)[0]
    unit = F.normalize(places, dim=0)
    distances = (1.0 - unit.T @ unit).clamp_min(0.0)
    return Seen(quantiles, distances / distances.sum(0, keepdim=True).clamp_min(1e-12))


def _directions(layer: str, channels: int, device: torch.device) -> Tensor:
    """(DIRECTIONS, channels) of length 1, always the same."""
    numbers = np.random.default_rng(STYLE_LAYERS.index(layer)).standard_normal((DIRECTIONS, channels), np.float32)
    return F.normalize(torch.from_numpy(numbers), dim=1).to(device)


def swd(painted: Seen, style_image: Seen) -> float:
    """Distance of two pictures' features, mean over layers."""
    parts = []
    for layer, wanted in style_image.quantiles.items():
        variance = (wanted - wanted.mean(1, keepdim=True)).square().mean()
        parts.append((painted.quantiles[layer] - wanted).square().mean() / variance.clamp_min(1e-12))
    return float(torch.stack(parts).mean())


def ss(painted: Seen, photo: Seen) -> float:
    """Distance between two pictures' patterns of similarities; both have the same size."""
    return float((painted.likeness - photo.likeness).abs().mean() * len(photo.likeness))


def grid(frame: np.ndarray) -> float:
    """Share of a picture's fine luminance, (H, W, 3) uint8, that repeats every `PERIOD_PX` in windows of `WINDOW_PX`.

    Repetition by chance, the cells' own variance over their number, is subtracted.
    """
    luminance = frame.astype(np.float32) @ np.array(LUMA, np.float32)
    fine = luminance - cv2.GaussianBlur(luminance, (0, 0), 2)
    n = WINDOW_PX // PERIOD_PX
    repeated = whole = 0.0
    for y in range(0, fine.shape[0] - WINDOW_PX + 1, WINDOW_PX // 2):
        for x in range(0, fine.shape[1] - WINDOW_PX + 1, WINDOW_PX // 2):
            window = fine[y : y + WINDOW_PX, x : x + WINDOW_PX]
            cells = window.reshape(n, PERIOD_PX, n, PERIOD_PX)
            repeated += float(cells.mean((0, 2)).var(ddof=1) - cells.var((0, 2), ddof=1).mean() / n**2)
            whole += float(window.var())
    return max(0.0, repeated / max(whole, 1e-6))


def color_volume(frame: np.ndarray) -> float:
    """Square root of the determinant of the covariance of a picture's colors, as [0, 1], strokes averaged away."""
    height, width = frame.shape[:2]
    scale = PALETTE_PX / min(height, width)
    small = Image.fromarray(frame).resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    colors = np.asarray(small, np.float64).reshape(-1, 3) / 255.0
    return float(np.sqrt(max(0.0, np.linalg.det(np.cov(colors.T)))))


def from_afar(frame: np.ndarray, view: float = VIEW) -> np.ndarray:
    """A picture at `view` of its size."""
    height, width = (max(4, round(side * view / 4) * 4) for side in frame.shape[:2])
    return resize(frame, height, width)


def read_in_cells(path: Path | str, short_px: int, max_pixels: int = 0) -> np.ndarray:
    """A picture scaled to this short side, both sides cut to multiples of 4."""
    frame = resize_short_side(read_picture(path, max_pixels).frame, short_px)
    height, width = (side - side % 4 for side in frame.shape[:2])
    return np.ascontiguousarray(frame[:height, :width])


class Bench:
    """The judges of one painting at one size.

    Args:
        vgg: in any precision; bfloat16 changes every figure by less than 1 %.
        style_image: its file.
        photos: files that the networks were not trained on.
        size_px: short side of the photos; the painting is viewed `STYLE_SCALE` times as large.
        find_faces: counts faces, too; None to skip that.
    """

    def __init__(
        self,
        vgg: VGG19Features,
        style_image: Path | str,
        photos: Sequence[Path],
        size_px: int,
        find_faces: FaceFinder | None = None,
    ) -> None:
        self.vgg, self._find_faces = vgg, find_faces
        self.photos = [read_in_cells(path, size_px) for path in photos]
        self._photos_seen = [see(vgg, from_afar(photo)) for photo in self.photos]
        # Scaled straight to the viewed size: its strokes are not made of single pixels, so nothing is lost.
        self._style_image_seen = see(vgg, read_in_cells(style_image, round(STYLE_SCALE * size_px * VIEW)))
        self._faces = [find_faces(photo) for photo in self.photos] if find_faces else []
        self._style_image_volume = color_volume(read_in_cells(style_image, size_px))

    def judge(self, paint: FramePainter) -> dict[str, float]:
        """The mean of each of `NAMES` over a painter's paintings of the photos; and "faces", if there are any."""
        rows, faces_kept = [], 0
        for i, (photo, photo_seen) in enumerate(zip(self.photos, self._photos_seen, strict=True)):
            painted = paint(photo)
            seen = see(self.vgg, from_afar(painted))
            volume = color_volume(painted) / max(self._style_image_volume, 1e-9)
            if self._find_faces and self._faces[i]:
                faces_kept += kept(self._faces[i], self._find_faces(painted))
            rows.append((swd(seen, self._style_image_seen), ss(seen, photo_seen), grid(painted), volume))
        judged = {name: round(float(value), 4) for name, value in zip(NAMES, np.mean(rows, axis=0), strict=True)}
        faces = sum(map(len, self._faces))
        return judged | ({"faces": round(faces_kept / faces, 4)} if faces else {})


def is_no_worse(judged: Mapping[str, float], shipped: Mapping[str, float]) -> bool:
    """Whether a network may replace another, by its numbers; the eye has the last word."""
    return bool(
        judged["swd"] <= shipped["swd"] + EVEN
        and judged["ss"] <= shipped["ss"] * SS_ALLOWED
        and judged["grid"] <= max(GRID_ALLOWED, shipped["grid"])
        and judged["palette"] >= min(PALETTE_WANTED, shipped["palette"] - PALETTE_EVEN)
    )
