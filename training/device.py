"""Where a training runs, and in which precision."""

import copy
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from allaprima.models import memory
from allaprima.models.errors import OptimizeError, TrainingError
from allaprima.models.vgg import VGG19Features

BF16_CAPABILITY = (8, 0)  # CUDA's compute capability of the first GPUs that multiply bf16 in hardware (Ampere)


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device named auto, cpu, cuda or mps; on a machine with several GPUs, this process's own.

    On CUDA, float32 means float32 from here on: convolutions no longer round to TensorFloat-32, which targets, previews
    and `optimize` do not expect, and cuDNN picks its algorithms by trial.

    Raises:
        TrainingError: this machine does not have it.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        there = ", ".join(device for device, yes in available.items() if yes)
        raise TrainingError(f"--device {name} is not available to torch {torch.__version__} here; there is {there}")
    if name == "cuda" and local_rank >= torch.cuda.device_count():
        raise TrainingError(f"there are {torch.cuda.device_count()} GPUs here; give torchrun --nproc-per-node at most that")
    if name != "cuda":
        return torch.device(name)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return torch.device(name, local_rank)


def pick_precision(precision: str, vgg: VGG19Features, device: torch.device) -> str:
    """ "fp32" or "bf16"; auto measures which is faster here, because bf16 without hardware for it is many times slower.

    A CUDA GPU's capability is read instead: a small trial there would only measure launches and so choose at random.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY else "fp32"
    image = torch.rand(1, 3, 128, 128, device=device).contiguous(memory_format=torch.channels_last)
    seconds = {}
    for candidate, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        try:
            trial = copy.deepcopy(vgg).to(dtype)
            times = []
            for _ in range(4):
                began = time.perf_counter()
                with torch.no_grad():
                    trial(image, ["relu4_2"])["relu4_2"].float().mean().item()  # .item() waits for a GPU
                times.append(time.perf_counter() - began)
            seconds[candidate] = min(times[1:])
        except RuntimeError:  # a device without bf16
            seconds[candidate] = math.inf
    return min(seconds, key=lambda candidate: seconds[candidate])


def worker_count(workers: int | None, device: torch.device, processes: int = 1) -> int:
    """Threads that prepare photos: as many as asked for; else 4, or on CUDA one for each core, up to 16.

    Args:
        processes: number that share the cores.
    """
    if workers is not None:
        return workers
    if device.type != "cuda":
        return 4
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 4
    return max(1, min(16, cores // processes))


def in_precision(vgg: VGG19Features, precision: str) -> VGG19Features:
    """VGG-19 in "fp32" or "bf16"; the given float32 one is not changed."""
    return copy.deepcopy(vgg).to(torch.bfloat16) if precision == "bf16" else vgg


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # Linux has the model's name only here
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


# Peak bytes per pixel of the picture: a forward and backward pass to relu5_1 with L-BFGS's full history. On a CPU, the peaks
# of processes at 1536x1536 and 768x768 px differ by 2.4 and 1.5 kB per pixel, with a history of 3.
OPTIMIZE_BYTES = {"fp32": 3000, "bf16": 2100}


def free_bytes(device: torch.device) -> float:
    """Available memory of a device; infinite where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory.free_bytes()


@contextmanager
def guarded_memory(height: int, width: int, precision: str, device: torch.device, option: str = "--size") -> Iterator[None]:
    """Refuse a picture that is too large to be optimized, and say what size would fit and which option sets it.

    Linux kills a process that takes more memory than there is, so the estimate is checked first.

    Raises:
        OptimizeError: the estimate is too large, or memory runs out all the same.
    """
    free = free_bytes(device)
    need = OPTIMIZE_BYTES[precision] * height * width

    def too_large(room: float) -> OptimizeError:
        side = int(max(height, width) * math.sqrt(room / need)) // 16 * 16
        remedy = f"{option} {side} would fit" if side >= 32 else "no size would fit"
        sizes = f"{need / 2**30:.1f} GB, {free / 2**30:.1f} GB are free"
        return OptimizeError(f"{width}x{height} px need about {sizes}; {remedy}")

    if need > free:
        raise too_large(0.9 * free)
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise too_large(0.5 * need) from error
    except RuntimeError as error:
        # Messages of torch's allocators on a CPU, on a CPU under Windows and on MPS, and of libraries under CUDA.
        if not any(words in str(error) for words in ("allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")):
            raise
        raise too_large(0.5 * need) from error
