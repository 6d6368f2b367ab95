"""One step's content images, and preparing them ahead of time."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor


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
    """Which part of every step's photos this process takes: number `rank` of `world` equal parts."""

    rank: int = 0
    world: int = 1

    def places(self, step: int, batch_size: int) -> range:
        """Places in the endless sequence of photos; `batch_size` is that of the whole step, over all processes."""
        own = batch_size // self.world
        first = step * batch_size + self.rank * own
        return range(first, first + own)


def prefetched(load: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch]:
    """`load` of each step in order, prepared by threads ahead of time; with 0 workers, loaded when asked for.

    Threads suffice and share one cache: Pillow releases the interpreter lock while it decodes and scales.
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
