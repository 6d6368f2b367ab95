"""Content images from a streamed Hugging Face dataset."""

import signal
import time
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from allaprima.inference.pictures import decode_picture, read_picture
from allaprima.models.errors import PictureError, TrainingError
from allaprima.training.config import TrainConfig
from allaprima.training.photos.batch import Batch, Share
from allaprima.training.photos.crops import crop, random_box
from allaprima.training.ranks import Ranks

STREAM_STRIDE = 32  # rows after which the place in a stream is noted again
STREAM_TRIES = 6  # in a row, after 1, 2, 4, ... seconds, before a failing stream stops a training


def stream(config: TrainConfig, step: int, ranks: Ranks) -> Generator[Batch]:
    """Batches of a streamed dataset for the steps from `step` on, prepared in other processes."""
    share = ranks.share(config.batch_size)
    source = HubPhotos(config.photos, config.batch_size, config.painted_px, config.seed, step, config.max_pixels, share)
    workers = min(4 if config.workers is None else config.workers, source.most_workers)  # one more would get no shard
    loader = DataLoader(
        source,
        batch_size=None,  # an item is a batch already
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_loop,
    )
    batches = iter(loader)
    for _ in range(step, config.steps):
        yield next_batch(batches)


def _leave_signals_to_the_loop(_worker: int) -> None:
    # Ctrl-C, SLURM and systemd signal the whole process group, but the loop still needs its photos to finish the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def next_batch(batches: Iterator[Batch]) -> Batch:
    """The next batch; a worker's TrainingError comes without the traceback that the DataLoader wraps around it."""
    try:
        return next(batches)
    except TrainingError as error:
        raise TrainingError(str(error).rsplit("TrainingError: ", 1)[-1].strip()) from error


class HubPhotos(IterableDataset[Batch]):
    """Batches from a streamed Hugging Face dataset; the image column is found by its feature type.

    `datasets` distributes the shards over processes (`share`) and the workers of a DataLoader. A broken stream resumes
    after 1, 2, 4, ... seconds near where it was. Unlike with `PhotoFolder`, after a break some photos come twice and some
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
                        if since_break > 2 * STREAM_STRIDE:  # past the row that broke it
                            failures = 0
                        yield row
                    break
                except Exception as error:  # of the network, fsspec or pyarrow
                    failures += 1
                    if failures == STREAM_TRIES:
                        raise TrainingError(
                            f"{self.name} failed {failures} times in a row ({_first_line(error)}); go on later with --resume"
                        ) from error
                    wait_s = 2 ** (failures - 1)
                    broke = f"{self.name} broke off ({_first_line(error)})"
                    notes.append(f"{broke}; after {wait_s} s it went on approximately where it was")
                    time.sleep(wait_s)
                    rows.load_state_dict(place)  # loses the rows that were waiting to be shuffled
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
    except Exception as error:  # its own errors, and those of huggingface_hub, fsspec and httpx
        raise TrainingError(
            f"{name} is neither a folder here nor a dataset that can be opened ({_first_line(error)}); "
            "check the name and the network"
        ) from error


def encoded_images(rows: Any, name: str) -> tuple[Any, str]:
    """The dataset with decoding switched off, as one corrupt JPEG would end the iteration; and its image column."""
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
