"""How fast the shipped networks paint, beside the network that every peer has, all in one process.

    allaprima bench

The yardstick is Johnson's network as pytorch/examples ships it (1.68 M parameters, reflection padding, instance norm,
nearest resize, the output clipped), which is also what `training.import_torch` imports. Runs alternate, so that a busy
machine slows all of them alike; ratios are what to read.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from models.contract import INPUT
from models.image_transform_net import TIERS, JohnsonNet
from training.export import to_onnx

UNTIMED, TIMED = 3, 5  # runs of one network in a row


def measure(height: int, width: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every timed run of each network in ONNX Runtime on the CPU, all cores, batch 1."""
    nets: dict[str, nn.Module] = {"johnson": JohnsonNet()} | {tier: net() for tier, net in TIERS.items()}
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, net in nets.items():
            path = Path(folder, f"{name}.onnx")
            path.write_bytes(to_onnx(net).SerializeToString())
            sessions[name] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
    times_ms: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            # In use one network runs frame after frame. A single realtime run right after another network's took 44 ms
            # where a burst took about 20 (why was not looked into), so each runs in bursts.
            for i in range(UNTIMED + TIMED):
                began = time.perf_counter()
                session.run(None, {INPUT: image})
                if i >= UNTIMED:
                    times_ms[name].append(1000 * (time.perf_counter() - began))
    return times_ms


def report(height: int, width: int, rounds: int) -> str:
    """The comparison as a table."""
    results = measure(height, width, rounds)
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"
    lines = [
        f"{width}x{height}, {os.cpu_count()} cores, {versions}",
        f"{'':10} median ms   fastest ms   times johnson's speed, by median and by fastest",
    ]
    median_ms, fastest_ms = np.median(results["johnson"]), min(results["johnson"])
    for name, times_ms in results.items():
        median, fastest = np.median(times_ms), min(times_ms)
        lines.append(f"{name:10} {median:9.1f} {fastest:12.1f} {median_ms / median:10.1f} {fastest_ms / fastest:6.1f}")
    return "\n".join(lines)
