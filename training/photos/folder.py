"""Content images from a folder of photos."""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from allaprima.inference.pictures import FORMATS, list_pictures, read_picture
from allaprima.models.errors import PictureError, TrainingError
from allaprima.training.device import free_bytes
from allaprima.training.photos.batch import Batch, Share
from allaprima.training.photos.crops import LARGEST_SCALE, Box, crop, crop_batch, random_box
from allaprima.training.photos.store import PackedPhotos, PhotoFile, Place

MAX_BAD = 0.2  # more damaged photos than this share of a folder stop a training: it is the wrong folder
CACHE_SHARE = 0.25  # of the main memory that is free at the start, for decoded photos
GPU_SHARE = 0.6  # of the GPU's free memory: 40,000 photos of COCO take 24 GB for crops of 256 px
MAX_ASPECT = 1.6  # of photos on average, at most; keeps buffers no larger than will be filled


class PhotoFolder:
    """`load(step)` is that step's batch: a pure function of (seed, step), so a resumed training sees the same photos
    (with a GPU, within a level: some are cropped there, some on the CPU).

    Every epoch shuffles all photos; each is scaled to a random short side between the crop and 1.5 times the crop
    (never enlarged without need, never squashed), cropped at random and flipped at random. Photos are decoded once and
    kept as uint8: on the GPU, if the training runs there, in up to `GPU_SHARE` of its free memory; the others in
    `CACHE_SHARE` of the free main memory; and all of them in a file, if a folder for it is given. Threads may load
    different steps at the same time.

    Args:
        paths: of the photos, see `list_photos`.
        batch_size: photos per step, over all processes.
        device: where the batches go.
        cache_bytes: limit of main memory for decoded photos; None asks the machine.
        gpu_bytes: limit of GPU memory; None asks the GPU.
        store: a folder for the file of decoded photos that the next training uses; see `training.photos.store.PhotoFile`.
            Processes that train together read it, but do not write it: each of them sees only a part of the photos.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        batch_size: int,
        size_px: int,
        seed: int,
        *,
        max_pixels: int = 0,
        share: Share = Share(),
        device: torch.device | None = None,
        cache_bytes: float | None = None,
        gpu_bytes: float | None = None,
        store: Path | None = None,
    ) -> None:
        self.paths, self.batch_size, self.size_px, self.seed = paths, batch_size, size_px, seed
        self.max_pixels, self.share = max_pixels, share
        self.device = device or torch.device("cpu")
        self._most_px = int(LARGEST_SCALE * size_px)
        self._file = PhotoFile(store, paths, self._most_px, writes=share.world == 1) if store else None
        cpu = torch.device("cpu")
        if cache_bytes is None:
            # A complete file replaces the cache in main memory: the system keeps what is read of it in memory.
            mapped = self._file is not None and self._file.is_whole
            cache_bytes = 0 if mapped else CACHE_SHARE * free_bytes(cpu) / share.world
        if gpu_bytes is None:
            gpu_bytes = GPU_SHARE * free_bytes(self.device) if self.device.type == "cuda" else 0
        most = 3 * MAX_ASPECT * self._most_px**2 * (len(paths) + 16)  # more would hardly be filled
        self._here = PackedPhotos(min(gpu_bytes, most), self.device)
        self._cache = PackedPhotos(min(cache_bytes, most), cpu)
        self._cutting = threading.Lock()
        self._bad: dict[int, str] = {}

    def load(self, step: int) -> Batch:
        crops: dict[int, Tensor] = {}
        packed: list[tuple[int, Place, Box]] = []
        bad: list[str] = []
        places = self.share.places(step, self.batch_size)
        for i, place in enumerate(places):
            photo, frame = self._photo(place, bad)
            rng = np.random.default_rng((self.seed, 1, place))
            there = self._here.place(photo)
            if there:
                packed.append((i, there, random_box(there.height, there.width, self.size_px, rng)))
            elif frame is not None:
                height, width = frame.shape[:2]
                crops[i] = crop(frame, random_box(height, width, self.size_px, rng), self.size_px)
                if self.device.type == "cuda":  # from pinned memory, so that nothing waits for the copy
                    crops[i] = crops[i].pin_memory().to(self.device, non_blocking=True)
        if packed:
            numbers, spots, boxes = zip(*packed, strict=True)
            with self._cutting:  # takes the temporary memory of one thread, not of all
                cut = crop_batch(self._here.pixels, spots, boxes, self.size_px)
            crops |= zip(numbers, cut, strict=True)
        return Batch(torch.stack([crops[i] for i in range(len(places))]), tuple(bad), self._notes())

    def close(self) -> None:
        """Leave no half-written file of decoded photos."""
        if self._file:
            self._file.close()

    def _photo(self, place: int, bad: list[str]) -> tuple[int, np.ndarray | None]:
        """The number of a place's photo and, if the GPU does not hold it, its frame.

        A damaged photo is replaced by the next one in the epoch's order.
        """
        epoch, i = divmod(place, len(self.paths))
        order = epoch_order(self.seed, epoch, len(self.paths))
        for k in range(len(self.paths)):
            photo = int(order[(i + k) % len(order)])
            if self._here.place(photo):
                return photo, None
            if photo in self._bad:
                continue
            try:
                frame = self._frame(photo)
            except PictureError as error:
                self._bad[photo] = str(error)
                bad.append(str(error))
                if self._file:
                    self._file.add(photo, None)
                continue
            if not self._here.add(photo, frame):
                self._cache.add(photo, frame)
            return photo, frame
        why = next(iter(self._bad.values()))
        raise TrainingError(f"none of {len(self.paths)} photos can be used ({why}, for one); give a folder of photos")

    def _frame(self, photo: int) -> np.ndarray:
        """A photo from main memory, the file of decoded ones, or its own file.

        Raises:
            PictureError: it is damaged.
        """
        cached = self._cache.frame(photo)
        if cached is not None:
            return cached.numpy()
        if self._file:
            stored = self._file.frame(photo)
            if stored is not None:
                return stored
        frame = self._decode(photo)
        if self._file:
            self._file.add(photo, frame)
        return frame

    def _decode(self, photo: int) -> np.ndarray:
        frame = read_picture(self.paths[photo], self.max_pixels, draft_px=self._most_px).frame
        height, width = frame.shape[:2]
        scale = self._most_px / min(height, width)
        if scale >= 1.0:
            return frame
        # 2.3 ms, while Pillow's Lanczos takes 5.4, for 640x480 to 512x384 on one core; decoding the JPEG takes 3.0.
        size = max(self._most_px, round(width * scale)), max(self._most_px, round(height * scale))
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)

    def _notes(self) -> tuple[str, ...]:
        if not self._file or not self._file.note:
            return ()
        note, self._file.note = self._file.note, ""
        return (note,)


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, photos: int) -> np.ndarray:
    """The order of photos in an epoch; cached, because every photo of the epoch needs it."""
    return np.random.default_rng((seed, 0, epoch)).permutation(photos)


def is_folder(photos: str) -> bool:
    """Whether --photos means a folder here rather than a Hugging Face dataset ("name" or "owner/name")."""
    return Path(photos).exists() or photos.count("/") > 1 or photos.startswith((".", "/", "~"))


def list_photos(folder: Path) -> list[Path]:
    """The pictures in a folder and its subfolders.

    Raises:
        TrainingError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder; a folder of photos is wanted")
    paths = list_pictures(folder)
    if not paths:
        raise TrainingError(f"{folder} holds no pictures ({', '.join(FORMATS)}); a folder of photos is wanted")
    return paths
