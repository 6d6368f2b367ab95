"""Pictures and networks that several tests use, all generated here: the suite needs no download."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allaprima.inference.landscape import paint_landscape

# Each worker of pytest-xdist gets its own core: threads that wait for each other are slow on cores that others use.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

REAL_VGG19 = os.environ.pop("ALLAPRIMA_VGG19", None)  # tests that need it ask for it
os.environ["ALLAPRIMA_ENGINE"] = "onnxruntime"  # avoids a trial for each style that a test makes


@pytest.fixture(scope="session")
def landscape() -> np.ndarray:
    """(120, 160, 3) uint8."""
    return paint_landscape(120, 160)


@pytest.fixture
def photo(tmp_path: Path, landscape: np.ndarray) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(landscape).save(path)
    return path


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six intact photos of different sizes, two of them in a subfolder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for i in range(6):
        frame = paint_landscape(90 + 10 * i, 140 - 9 * i, seed=i)
        Image.fromarray(frame).save(folder / ("sub" if i > 3 else "") / f"{i}.jpg", quality=95)
    return folder


@pytest.fixture(scope="session")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A painting of colored strokes."""
    rng = np.random.default_rng(1)
    strokes = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    path = tmp_path_factory.mktemp("painting") / "strokes.png"
    Image.fromarray(strokes).save(path)
    return path


@pytest.fixture(scope="session")
def style_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .onnx file of ours, with an untrained realtime network."""
    import torch

    from allaprima.models.image_transform_net import RealtimeNet
    from allaprima.training.checkpoint import save_weights
    from allaprima.training.export.export import export

    folder = tmp_path_factory.mktemp("style")
    torch.manual_seed(3)
    net = RealtimeNet()
    card = {"title": "Strokes", "painter": "nobody", "year": "2026", "license": "MIT", "tier": "realtime", "step": 0}
    save_weights(folder / "strokes.safetensors", net.state_dict(), card)
    export(folder / "strokes.safetensors", folder / "strokes.onnx")
    return folder / "strokes.onnx"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process; returns exit code, stdout, stderr."""
    from allaprima.command_line import main

    def run_command(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def real_vgg19() -> str:
    """The file of trained VGG-19 weights that $ALLAPRIMA_VGG19 names."""
    if not REAL_VGG19:
        pytest.skip("needs trained weights: ALLAPRIMA_VGG19=FILE")
    return REAL_VGG19
