"""A small training in a separate process, for tests that kill it. Imported by multiprocessing's fork server."""

import hashlib
import os
from pathlib import Path

import torch
import torch._dynamo  # the optimizer imports it at its first step: seconds in every new process

torch.set_num_threads(1)  # a forked process must not inherit OpenMP's threads, and small tensors need none

from rich.console import Console  # noqa: E402

from allaprima.models.vgg import load_vgg19  # noqa: E402
from allaprima.training import loop, preview, start  # noqa: E402
from allaprima.training.checkpoint import latest_checkpoint, load_state  # noqa: E402
from allaprima.training.config import TrainConfig  # noqa: E402

VGG = load_vgg19("tiny")


def run(config: TrainConfig, run_folder: Path) -> None:
    """Continues or begins a training; its output goes to said.txt."""
    start.load_vgg19 = lambda source, device="cpu": VGG
    preview.PREVIEW_PX = 32
    with open(run_folder / "said.txt", "a", buffering=1) as file:
        loop.train(config, run_folder, Console(file=file, width=300), resume=True)


def run_until_call(config: TrainConfig, run_folder: Path, name: str, number: int) -> None:
    """`run`, but the process dies at the n-th call of os.<name>, counted from the first checkpoint's temporary file."""
    calls = 0
    real = getattr(os, name)

    def dies(*args, **kwargs):
        nonlocal calls
        if any(run_folder.glob("*.part")) or any(run_folder.glob("step_*")) or any(run_folder.glob(".*.part")):
            calls += 1
            if calls == number:
                os._exit(9)
        return real(*args, **kwargs)

    setattr(os, name, dies)
    run(config, run_folder)
    os._exit(77)  # there were fewer calls


def digest(run_folder: Path) -> tuple[int, str]:
    """Step and SHA-256 of weights, averaged weights and optimizer state in the newest checkpoint."""
    state, _ = load_state(latest_checkpoint(run_folder))
    sha = hashlib.sha256()
    for name, tensor in sorted(state.tensors.items()):
        sha.update(name.encode() + tensor.numpy().tobytes())
    return state.step, sha.hexdigest()
