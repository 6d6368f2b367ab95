"""A photo, our own painting of it, and a style for pictures of its size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from painted import IMAGE_FILE, read
from PIL import Image

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.session import StyleSession
from allaprima.models.targets import TARGETS

# The sides of the first are multiples of the network's stride; those of the second are not.
SIZES = [(152, 200), (150, 201)]


@pytest.fixture(scope="module", params=SIZES, ids=str)
def photo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(paint_landscape(*request.param)).save(path)
    return path


@pytest.fixture(scope="module")
def wanted(photo: Path) -> np.ndarray:
    return StyleSession(IMAGE_FILE, "cpu").stylize(read(photo))


@pytest.fixture(scope="module")
def form_for(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the image file as `allaprima export --for TARGET --size ...` does, for the size of the padded photo."""
    onnx = pytest.importorskip("onnx")
    from allaprima.training.export.conversion import in_form_for

    def write(target: str) -> Path:
        path = tmp_path_factory.mktemp(target) / "style.onnx"
        height, width, _ = read(photo).shape
        size = (width + -width % 4, height + -height % 4)
        onnx.save(in_form_for(onnx.load(IMAGE_FILE), TARGETS[target], size, None), path)
        return path

    return write
