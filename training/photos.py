"""Content images for training: a folder of photos, or a streamed Hugging Face dataset."""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from inference.pictures import FORMATS, decode_picture, list_pictures, read_picture
from models.errors import PictureError, TrainingError
from training.crops import LARGEST_SCALE, Box, crop, crop_batch, random_box
from training.device import free_bytes
from training.photo_store import PackedPhotos, PhotoFile, Place

MOST_BAD = 0.2  # more damaged photos than this share of a folder stops a training: it is the wrong folder
CACHE_SHARE = 0.25  # of the main memory that is free at the start, for decoded photos
GPU_SHARE = 0.6  # of the GPU's: 40,000 photos of COCO take 24 GB for crops of 256 px
MOST_ASPECT = 1.6  # of photos in the mean, by which buffers are made no larger than will be filled
STREAM_STRIDE = 32  # rows between two notes of the place in a stream
STREAM_TRIES = 6  # in a row, after 1, 2, 4, ... seconds, before a stream that fails stops a training


@dataclass(frozen=True)
class Batch:
    """Content images of one step.

    Attributes:
        content_image: (N, S, S, 3) uint8 RGB; the loop turns it into an image on its own device.
        bad: "file: why" of the photos that could not be used.
        notes: what else the user should read.
    """

    content_image: Tensor
    bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Share:
    """Which part of every step's photos this process takes: number `rank` of `world` equal ones."""

    rank: int = 0
    world: int = 1

    def places(self, step: int, batch_size: int) -> range:
        """Places in the endless sequence of photos; `batch_size` is that of the whole step, all processes together."""
        own = batch_size // self.world
        first = step * batch_size + self.rank * own
        return range(first, first + own)


class PhotoFolder:
    """`load(step)` is that step's batch: a pure function of (seed, step), so a resumed training sees the same photos
    (beside a GPU within a level: some are cut there, some here).

    Every epoch shuffles all photos; each is scaled to a random short side between the crop and 1.5 times the crop
    (never enlarged without need, never squashed), cropped at random and flipped at random. Photos are decoded once and
    kept as uint8: on the GPU, if the training is there, as far as `GPU_SHARE` of its free memory goes, the others in
    `CACHE_SHARE` of the free main memory, and all of them in a file, if a folder for it is given. Threads may load
    different steps at the same time.

    Args:
        paths: of the photos, see `list_photos`.
        batch_size: photos a step, all processes together.
        device: where the batches shall lie.
        cache_bytes: most main memory for decoded photos; None asks the machine.
        gpu_bytes: most of the GPU's; None asks it.
        store: a folder for the file of decoded photos that the next training takes; see `training.photo_store.PhotoFile`.
            Several processes that train together read it, but do not write it: each of them sees a part of the photos.
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
            # A whole file is the second tier itself: the system keeps in memory what is read of it.
            mapped = self._file is not None and self._file.is_whole
            cache_bytes = 0 if mapped else CACHE_SHARE * free_bytes(cpu) / share.world
        if gpu_bytes is None:
            gpu_bytes = GPU_SHARE * free_bytes(self.device) if self.device.type == "cuda" else 0
        most = 3 * MOST_ASPECT * self._most_px**2 * (len(paths) + 16)  # more is hardly filled
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
                if self.device.type == "cuda":  # from pinned memory, so that nobody waits for the copy
                    crops[i] = crops[i].pin_memory().to(self.device, non_blocking=True)
        if packed:
            numbers, spots, boxes = zip(*packed, strict=True)
            with self._cutting:  # one thread's temporary memory, not that of all
                cut = crop_batch(self._here.pixels, spots, boxes, self.size_px)
            crops |= zip(numbers, cut, strict=True)
        return Batch(torch.stack([crops[i] for i in range(len(places))]), tuple(bad), self._notes())

    def close(self) -> None:
        """Leave no half-written file of decoded photos."""
        if self._file:
            self._file.close()

    def _photo(self, place: int, bad: list[str]) -> tuple[int, np.ndarray | None]:
        """The number of a place's photo and, where the GPU does not hold it, its frame.

        Where a photo is damaged, it is the one after it in the epoch's order.
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
            PictureError: damaged.
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
        # 2.3 ms where Pillow's Lanczos takes 5.4, 640x480 to 512x384 on one core; the JPEG before it takes 3.0.
        size = max(self._most_px, round(width * scale)), max(self._most_px, round(height * scale))
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)

    def _notes(self) -> tuple[str, ...]:
        if not self._file or not self._file.note:
            return ()
        note, self._file.note = self._file.note, ""
        return (note,)


def prefetched(load: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch]:
    """`load` of each step in order, prepared by threads ahead of time; 0 workers load when they are asked.

    Threads suffice and share one cache: Pillow lets go of the interpreter while it decodes and scales.
    """
    if workers == 0:
        yield from map(load, steps)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(load, step))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


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


class HubPhotos(IterableDataset[Batch]):
    """Batches from a streamed Hugging Face dataset; the image column is found by its feature type.

    `datasets` deals the shards out to processes (`share`) and to the workers of a DataLoader. A stream that breaks goes on
    after 1, 2, 4, ... seconds near where it was. Differs from `PhotoFolder`: after a break some photos come twice and some
    not at all, and a resumed training goes through the shards in a new random order.

    Raises:
        TrainingError: `datasets` is not installed, or the dataset cannot be opened, has no image column, or failed
            `STREAM_TRIES` times in a row.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        size_px: int,
        seed: int,
        start_step: int = 0,
        max_pixels: int = 0,
        share: Share = Share(),
    ) -> None:
        self.name, self.size_px, self.seed = name, size_px, seed
        self.batch_size, self.start_step, self.max_pixels, self.share = batch_size, start_step, max_pixels, share
        self.rows, self.column = open_hub_dataset(name)
        shards = int(self.rows.num_shards)
        self.most_workers = max(1, shards // share.world if shards % share.world == 0 else shards)
        if share.world > 1:
            from datasets.distributed import split_dataset_by_node

            self.rows = split_dataset_by_node(self.rows, share.rank, share.world)

    def __iter__(self) -> Iterator[Batch]:
        crops: list[Tensor] = []
        bad: list[str] = []
        notes: list[str] = []
        own = self.batch_size // self.share.world
        place = self.share.places(self.start_step, self.batch_size).start
        row_number, unreadable = 0, 0
        for row in self._endless_rows(notes):
            row_number += 1
            try:
                frame = decode_hub_image(row[self.column], f"{self.name}, row {row_number} of this run", self.max_pixels)
            except PictureError as error:
                bad.append(str(error))
                unreadable += 1
                if unreadable == 1000:
                    raise TrainingError(f"{self.name}: the last 1,000 rows held no readable photo ({error})") from error
                continue
            unreadable = 0
            height, width = frame.shape[:2]
            box = random_box(height, width, self.size_px, np.random.default_rng((self.seed, 1, place)))
            crops.append(crop(frame, box, self.size_px))
            place += 1
            if len(crops) == own:
                yield Batch(torch.stack(crops), tuple(bad), tuple(notes))
                crops, bad = [], []
                notes.clear()

    def _endless_rows(self, notes: list[str]) -> Iterator[dict[str, Any]]:
        failures, shuffles = 0, 0
        while True:
            rows = self.rows.shuffle(seed=self.seed + self.start_step + shuffles, buffer_size=256)
            count, place = 0, rows.state_dict()
            while True:
                since_break = 0
                try:
                    for row in rows:
                        count += 1
                        since_break += 1
                        if count % STREAM_STRIDE == 0:
                            place = rows.state_dict()
                        if since_break > 2 * STREAM_STRIDE:  # beyond the row that broke it
                            failures = 0
                        yield row
                    break
                except Exception as error:  # the network's, fsspec's, pyarrow's
                    failures += 1
                    if failures == STREAM_TRIES:
                        raise TrainingError(
                            f"{self.name} failed {failures} times in a row ({_first_line(error)}); go on later with --resume"
                        ) from error
                    wait_s = 2 ** (failures - 1)
                    broke = f"{self.name} broke off ({_first_line(error)})"
                    notes.append(f"{broke}; after {wait_s} s it went on approximately where it was")
                    time.sleep(wait_s)
                    rows.load_state_dict(place)  # without the rows that were waiting to be shuffled
            if not count:
                raise TrainingError(f"{self.name} holds no rows")
            shuffles += 1


def open_hub_dataset(name: str) -> tuple[Any, str]:
    """A streamed dataset with its images still encoded, and the name of its image column."""
    try:
        import datasets  # 0.9 s and 422 MB: only for those who stream
    except ImportError as error:
        raise TrainingError("streaming photos needs datasets: pip install datasets; or give a folder") from error
    try:
        return encoded_images(datasets.load_dataset(name, split="train", streaming=True), name)
    except TrainingError:
        raise
    except Exception as error:  # its own, huggingface_hub's, fsspec's and httpx's errors
        raise TrainingError(
            f"{name} is neither a folder here nor a dataset that can be opened ({_first_line(error)}); "
            "check the name and the network"
        ) from error


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
    if device.type == "cuda" and not frames.is_cuda:
        frames = frames.pin_memory()  # or the copy would wait for everything before it
    return frames.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0


def frame_to_image(frame: np.ndarray, device: torch.device) -> Tensor:
    """One (H, W, 3) uint8 frame as a (1, 3, H, W) image."""
    return to_image(torch.tensor(frame)[None], device)
