"""Content images for training: a folder of photos, or a streamed Hugging Face dataset."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from inference.pictures import FORMATS, decode_picture, list_pictures, read_picture
from models.errors import PictureError, TrainingError

MOST_BAD = 0.2  # more damaged photos than this share of a folder stops a training: it is the wrong folder


@dataclass(frozen=True)
class Batch:
    """Content images of one step.

    Attributes:
        content_image: (N, S, S, 3) uint8 RGB; the loop turns it into an image on its own device.
        bad: "file: why" of the photos that could not be used.
    """

    content_image: Tensor
    bad: tuple[str, ...]


class PhotoFolder(Dataset[Batch]):
    """Item `step` is that step's batch: a pure function of (seed, step), so a resumed training sees the same photos.

    Every epoch shuffles all photos; each is scaled to a random short side between the crop and 1.5 times the crop
    (never enlarged without need, never squashed), cropped at random and flipped at random.

    Args:
        folder: searched recursively for pictures.
    Raises:
        TrainingError: no folder, or no picture in it.
    """

    def __init__(self, folder: str | Path, batch_size: int, size_px: int, seed: int, max_pixels: int = 0) -> None:
        self.folder, self.batch_size, self.size_px, self.seed = Path(folder), batch_size, size_px, seed
        self.max_pixels = max_pixels
        self.paths = list_photos(self.folder)

    def __getitem__(self, step: int) -> Batch:
        crops: list[np.ndarray] = []
        bad: list[str] = []
        for place in range(step * self.batch_size, (step + 1) * self.batch_size):
            rng = np.random.default_rng((self.seed, 1, place))
            frame = self._photo(place, bad)
            crops.append(random_crop(frame, self.size_px, rng))
        return Batch(torch.from_numpy(np.stack(crops)), tuple(bad))

    def _photo(self, place: int, bad: list[str]) -> np.ndarray:
        epoch, i = divmod(place, len(self.paths))
        order = epoch_order(self.seed, epoch, len(self.paths))
        for k in range(len(self.paths)):  # a damaged photo is replaced by the one after it
            path = self.paths[order[(i + k) % len(order)]]
            try:
                return read_picture(path, self.max_pixels, draft_px=int(1.5 * self.size_px)).frame
            except PictureError as error:
                bad.append(str(error))
        raise TrainingError(f"{self.folder} holds no healthy photo ({bad[0]}, for one); give a folder of photos")


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, photos: int) -> np.ndarray:
    """Which photo comes when in an epoch; kept, because every photo of the epoch asks for it."""
    return np.random.default_rng((seed, 0, epoch)).permutation(photos)


def is_folder(photos: str) -> bool:
    """Whether --photos means a folder here rather than a Hugging Face dataset ("name" or "owner/name")."""
    return Path(photos).exists() or photos.count("/") > 1 or photos.startswith((".", "/", "~"))


def list_photos(folder: Path) -> list[Path]:
    """The pictures below a folder.

    Raises:
        TrainingError: no folder, or no picture in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder; a folder of photos is wanted")
    paths = list_pictures(folder)
    if not paths:
        raise TrainingError(f"{folder} holds no pictures ({', '.join(FORMATS)}); a folder of photos is wanted")
    return paths


def random_crop(frame: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """A square of `size_px` from a (H, W, 3) uint8 frame, at a random scale and place, perhaps flipped."""
    height, width = frame.shape[:2]
    short = min(height, width)
    most = max(size_px, min(1.5 * size_px, short))
    scale = rng.uniform(size_px, most) / short
    scaled_w, scaled_h = max(size_px, round(width * scale)), max(size_px, round(height * scale))
    x, y = int(rng.integers(scaled_w - size_px + 1)), int(rng.integers(scaled_h - size_px + 1))
    box = tuple(float(v) for v in (x / scale, y / scale, (x + size_px) / scale, (y + size_px) / scale))
    box = (box[0], box[1], min(box[2], float(width)), min(box[3], float(height)))
    crop = Image.fromarray(frame).resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(crop)
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


class HubPhotos(IterableDataset[Batch]):
    """Batches from a streamed Hugging Face dataset; the image column is found by its feature type.

    Differs from `PhotoFolder`: the order is only approximately the same after a resume.

    Raises:
        TrainingError: `datasets` is not installed, or the dataset cannot be opened or has no image column.
    """

    def __init__(self, name: str, batch_size: int, size_px: int, seed: int, start_step: int = 0, max_pixels: int = 0) -> None:
        self.name, self.batch_size, self.size_px, self.seed = name, batch_size, size_px, seed
        self.start_step, self.max_pixels = start_step, max_pixels
        self.rows, self.column = open_hub_dataset(name)

    def __iter__(self) -> Iterator[Batch]:
        crops: list[np.ndarray] = []
        bad: list[str] = []
        place = self.start_step * self.batch_size
        row_number, epoch = 0, 0
        while True:
            good = 0
            for row in self._shuffled(epoch):
                row_number += 1
                try:
                    frame = decode_hub_image(row[self.column], f"{self.name}, row {row_number} of this run", self.max_pixels)
                except PictureError as error:
                    bad.append(str(error))
                    continue
                good += 1
                crops.append(random_crop(frame, self.size_px, np.random.default_rng((self.seed, 1, place))))
                place += 1
                if len(crops) == self.batch_size:
                    yield Batch(torch.from_numpy(np.stack(crops)), tuple(bad))
                    crops, bad = [], []
            if not good:
                raise TrainingError(f"{self.name} holds no readable photo")
            epoch += 1

    def _shuffled(self, epoch: int) -> Iterator[dict[str, Any]]:
        try:
            yield from self.rows.shuffle(seed=self.seed + self.start_step + epoch, buffer_size=256)
        except Exception as error:  # the network's, fsspec's, pyarrow's
            raise TrainingError(f"{self.name} cannot be read on ({_first_line(error)}); go on later with --resume") from error


def open_hub_dataset(name: str) -> tuple[Any, str]:
    """A streamed dataset with its images still encoded, and the name of its image column."""
    try:
        import datasets  # 0.9 s and 422 MB: only for those who stream
    except ImportError as error:
        raise TrainingError("streaming photos needs datasets: pip install datasets; or give a folder") from error
    try:
        rows = datasets.load_dataset(name, split="train", streaming=True)
    except Exception as error:  # its own, huggingface_hub's, fsspec's and httpx's errors
        raise TrainingError(
            f"{name} is neither a folder here nor a dataset that can be opened ({_first_line(error)}); "
            "check the name and the network"
        ) from error
    return encoded_images(rows, name)


def encoded_images(rows: Any, name: str) -> tuple[Any, str]:
    """The dataset with decoding switched off, and its image column: one corrupt JPEG would end the iteration."""
    import datasets

    features = rows.features or rows._resolve_features().features
    columns = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise TrainingError(f"{name} has no image column, only {', '.join(features)}")
    return rows.cast_column(columns[0], datasets.Image(decode=False)), columns[0]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def decode_hub_image(cell: dict[str, Any] | None, name: str, max_pixels: int = 0) -> np.ndarray:
    if cell and cell.get("bytes"):
        return decode_picture(cell["bytes"], name, max_pixels).frame
    if cell and cell.get("path"):
        return read_picture(cell["path"], max_pixels).frame
    raise PictureError(f"{name} holds no picture")


def to_image(frames: Tensor, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 frames as (N, 3, H, W) float32 images in [0, 1], channels-last in memory."""
    return frames.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0
