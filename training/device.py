"""Where a training runs, and in which precision."""

import copy
import math
import platform
import time
from contextlib import suppress
from pathlib import Path

import torch

from models.errors import TrainingError
from models.vgg import VGG19Features
from training.config import TrainConfig


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name out of auto, cpu, cuda and mps; on a machine with several GPUs that of this process.

    Raises:
        TrainingError: it is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        there = ", ".join(device for device, yes in available.items() if yes)
        raise TrainingError(f"--device {name} is not available to torch {torch.__version__} here; there is {there}")
    if name == "cuda" and local_rank >= torch.cuda.device_count():
        raise TrainingError(f"there are {torch.cuda.device_count()} GPUs here; give torchrun --nproc-per-node at most that")
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def pick_precision(config: TrainConfig, vgg: VGG19Features, device: torch.device) -> str:
    """ "fp32" or "bf16"; auto measures which is faster here, as bf16 without hardware for it is many times slower."""
    if config.precision != "auto":
        return config.precision
    image = torch.rand(1, 3, 128, 128, device=device).contiguous(memory_format=torch.channels_last)
    seconds = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        try:
            trial = copy.deepcopy(vgg).to(dtype)
            times = []
            for _ in range(4):
                began = time.perf_counter()
                with torch.no_grad():
                    trial(image, ["relu4_2"])["relu4_2"].float().mean().item()  # .item() waits for a GPU
                times.append(time.perf_counter() - began)
            seconds[precision] = min(times[1:])
        except RuntimeError:  # a device without bf16
            seconds[precision] = math.inf
    return min(seconds, key=lambda precision: seconds[precision])


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # Linux knows the model's name only here
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
