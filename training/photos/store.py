"""Decoded photos, packed one after another: in the memory of a GPU or the machine, and in a file for the next training."""

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

DISK_SHARE = 0.9  # of a disk's free space that a store may take
INDEX_LENGTH_BYTES = 8  # at the file's end
LEFT_BEHIND_S = 3600  # a half-written file that has not grown for so long no longer has a writer


@dataclass(frozen=True)
class Place:
    """Where a frame is stored: its first pixel, counted in pixels of three bytes, and its size."""

    first: int
    height: int
    width: int

    @property
    def end(self) -> int:
        return self.first + self.height * self.width


class PackedPhotos:
    """Frames in one buffer, until it is full. Threads may add frames and look them up at the same time.

    One allocation per photo would waste a seventh of a GPU's memory, and crops of several photos can be cut at once
    (`training.photos.crops`) only if one buffer holds them all. Main memory is taken as it fills, not at once.

    Attributes:
        pixels: (P, 3) uint8 RGB, on the device.
    """

    def __init__(self, size_bytes: float, device: torch.device) -> None:
        self.pixels = torch.empty((int(size_bytes) // 3, 3), dtype=torch.uint8, device=device)
        self._places: dict[int, Place] = {}
        self._end = 0
        self._lock = threading.Lock()

    def add(self, photo: int, frame: np.ndarray) -> bool:
        """Keep a (H, W, 3) uint8 frame; False if there is no room for it."""
        with self._lock:
            place = Place(self._end, *frame.shape[:2])
            if photo in self._places or place.end > len(self.pixels):
                return photo in self._places
            self._end = place.end
        flat = torch.tensor(frame).view(-1, 3)
        if self.pixels.is_cuda:
            flat = flat.pin_memory()  # else this thread would wait for the copy
        self.pixels[place.first : place.end].copy_(flat, non_blocking=True)
        self._places[photo] = place  # only now may other threads see it
        return True

    def place(self, photo: int) -> Place | None:
        return self._places.get(photo)

    def frame(self, photo: int) -> Tensor | None:
        """(H, W, 3) uint8, a view of the buffer; None if it is not here."""
        place = self._places.get(photo)
        if place is None:
            return None
        return self.pixels[place.first : place.end].view(place.height, place.width, 3)

    def __len__(self) -> int:
        return len(self._places)


class PhotoFile:
    """All decoded photos of a folder in a file, left by one training for the next; either complete or absent.

    The first training writes frames one after another, as they are decoded, into a temporary file. Once every photo has been
    seen, the index follows, and the file gets its name. Reading maps the file, so that the only memory it takes is the
    system's file cache.

    Args:
        folder: where such files are.
        paths: of the photos; the file's name is made from them, their sizes and modification times.
        short_side_px: of the frames at most.
        writes: whether this process may write one.
    Attributes:
        note: a message for the user; empty if there is none.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], short_side_px: int, writes: bool = True) -> None:
        stats = [path.stat() for path in paths]
        names = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats, strict=True)]
        digest = hashlib.sha256(json.dumps([short_side_px, names]).encode()).hexdigest()[:16]
        self.path = folder / f"photos_{digest}.rgb"
        self._count, self._end = len(paths), 0
        self._places: dict[int, Place | None] = {}  # None: a damaged photo
        self._lock = threading.RLock()
        self._mapped: np.ndarray | None = None
        self._file: BinaryIO | None = None
        self._part, self._room = "", 0.0
        self.note = ""
        try:
            if self.path.is_file():
                self._open()
            elif writes:
                folder.mkdir(parents=True, exist_ok=True)
                for left in folder.glob(f".photos_{digest}.*.part"):
                    if time.time() - left.stat().st_mtime > LEFT_BEHIND_S:  # its writer was killed
                        left.unlink(missing_ok=True)
                self._room = DISK_SHARE * shutil.disk_usage(folder).free
                handle, self._part = tempfile.mkstemp(".part", f".photos_{digest}.", folder)
                self._file = os.fdopen(handle, "wb")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._give_up(error)

    def _open(self) -> None:
        mapped = np.memmap(self.path, np.uint8, "r")
        length = int.from_bytes(mapped[-INDEX_LENGTH_BYTES:].tobytes(), "little")
        end = len(mapped) - INDEX_LENGTH_BYTES - length
        rows = json.loads(mapped[max(0, end) : -INDEX_LENGTH_BYTES].tobytes())
        places = {int(photo): Place(*row) if row else None for photo, row in rows.items()}
        if 3 * sum(place.height * place.width for place in places.values() if place) != end or len(places) != self._count:
            raise ValueError("it is not whole")
        self._mapped, self._places = mapped[:end].reshape(-1, 3), places

    @property
    def is_whole(self) -> bool:
        return self._mapped is not None

    def frame(self, photo: int) -> np.ndarray | None:
        """(H, W, 3) uint8, read on access; None if the file is not complete or the photo is damaged."""
        place = self._places.get(photo)
        if self._mapped is None or place is None:
            return None
        return self._mapped[place.first : place.end].reshape(place.height, place.width, 3)

    def add(self, photo: int, frame: np.ndarray | None) -> None:
        """Append a decoded photo, or None if decoding failed; the last one completes the file."""
        with self._lock:
            if self._file is None or photo in self._places:
                return
            try:
                if frame is None:
                    self._places[photo] = None
                else:
                    place = Place(self._end, *frame.shape[:2])
                    if 3 * place.end > self._room:
                        raise OSError("the disk has no room for more")
                    self._file.write(np.ascontiguousarray(frame).data)
                    self._places[photo], self._end = place, place.end
                if len(self._places) == self._count:
                    self._finish()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _finish(self) -> None:
        assert self._file
        rows = {photo: place and [place.first, place.height, place.width] for photo, place in self._places.items()}
        index = json.dumps(rows).encode()
        self._file.write(index + len(index).to_bytes(INDEX_LENGTH_BYTES, "little"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self.path)
        self._file = None
        self._open()
        self.note = f"all {self._count:,} photos are decoded and kept in {self.path} ({3 * self._end / 2**30:.1f} GB)"

    def _give_up(self, error: Exception) -> None:
        self.close()
        why = getattr(error, "strerror", None) or error
        self.note = f"decoded photos are not kept in {self.path} ({why}); the training goes on without"

    def close(self) -> None:
        """Remove a half-written file."""
        with self._lock:
            if self._file is None:
                return
            with suppress(OSError):
                self._file.close()
            Path(self._part).unlink(missing_ok=True)
            self._file = None
