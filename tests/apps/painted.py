"""Calls other programs and compares what they painted."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toolbox import find_chromium

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STYLE = ROOT / "checkpoints" / "great_wave"
FRAME_FILE, IMAGE_FILE = STYLE / "realtime.frame.onnx", STYLE / "realtime.onnx"
DEADLINE_S = 120.0
LEVELS = 1  # .5 may be rounded up or down if sums were taken in another order


def call(*command: object, folder: Path | None = None, stdin: str | None = None, packages: Path | None = None) -> str:
    """Runs a command; `packages` is a folder with additional Python packages."""
    environment = os.environ | {"CHROMIUM": find_chromium() or ""} | ({"PYTHONPATH": str(packages)} if packages else {})
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def assert_close(painting: np.ndarray, wanted: np.ndarray, levels: int = LEVELS) -> None:
    assert painting.shape == wanted.shape
    difference = np.abs(painting.astype(int) - wanted.astype(int))
    assert difference.max() <= levels
    assert np.ptp(wanted) > 100  # it is not flat


def installed(folder: Path, *packages: str) -> Path:
    """Installs packages into a folder, without their dependencies; skips the test if that fails."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode:
        pytest.skip(f"{packages[0]} cannot be installed here: {result.stderr[-200:]}")
    return folder
