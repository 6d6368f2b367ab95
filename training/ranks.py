"""Several processes that train one network, started by torchrun; with one process, everything here does nothing.

torchrun --nproc-per-node 2 -m allaprima train painting.jpg --photos FOLDER -o RUN
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from allaprima.models.errors import TrainingError
from allaprima.training.photos.batch import Share

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's rank among `world` processes; `local` is its rank on its own machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes to the run folder."""
        return self.rank == 0

    def share(self, batch_size: int) -> Share:
        """This process's part of every step's photos.

        Raises:
            TrainingError: the photos of a step cannot be divided evenly.
        """
        if batch_size % self.world:
            raise TrainingError(f"--batch-size is {batch_size}; a multiple of the {self.world} processes is needed")
        return Share(self.rank, self.world)

    def wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        """The network with its gradients averaged over all processes during the backward pass."""
        return net if self.world == 1 else DistributedDataParallel(net)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes; every one of them must call this."""
        if self.world == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world

    def any(self, here: bool) -> bool:
        """Whether `here` is true in any process; every one of them must call this."""
        return here if self.world == 1 else any(self.gather(here))

    def gather(self, here: T) -> list[T]:
        """Every process's `here`, in the order of ranks; every one of them must call this."""
        if self.world == 1:
            return [here]
        found: list[T | None] = [None] * self.world
        dist.all_gather_object(found, here)
        return found  # type: ignore[return-value]


def from_environment() -> Ranks:
    """This process's place among those that torchrun started; if torchrun did not start it, it is the only one."""
    rank, world, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    return Ranks(rank, world, local)


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[Ranks]:
    """The process group while it is needed: NCCL between GPUs, Gloo otherwise."""
    if ranks.world == 1:
        yield ranks
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield ranks
    dist.destroy_process_group()  # not after an error: it could wait for the others while they wait for this process
