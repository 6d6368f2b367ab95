"""Frames that are used again: allocating one anew for every step costs more than most of the steps."""

import threading

import numpy as np

MOST_FREE, MOST_SHAPES = 8, 4


class Scratch:
    """Arrays by name, for one thread; each is made anew only when another shape is asked for.

    The colours of a 640x480 frame take 0.25 ms with them and 1.3 ms with new arrays, whose pages the system must clear.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: np.typing.DTypeLike = np.uint8) -> np.ndarray:
        """An array with anything in it."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = self._arrays[name] = np.empty(shape, dtype)
        return array


class Buffers:
    """Arrays that travel between threads, taken and given back."""

    def __init__(self) -> None:
        self._free: dict[tuple[tuple[int, ...], np.dtype], list[np.ndarray]] = {}
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike = np.uint8) -> np.ndarray:
        """An array with anything in it."""
        with self._lock:
            free = self._free.get((shape, np.dtype(dtype)))
            if free:
                return free.pop()
        return np.empty(shape, dtype)

    def give(self, array: np.ndarray | None) -> None:
        """Take back an array that nobody looks at any more; what belongs to a decoder is left to it."""
        if array is None or array.base is not None or not array.flags.owndata:
            return
        with self._lock:
            if len(self._free) > MOST_SHAPES:  # the size has changed, and changed again
                self._free.clear()
            free = self._free.setdefault((array.shape, array.dtype), [])
            if len(free) < MOST_FREE:
                free.append(array)
