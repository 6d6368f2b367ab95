"""The ComfyUI node, called as ComfyUI calls it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import paint_photo
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style
from allaprima.models.errors import StyleError

FILE = Path(__file__).parents[3] / "inference" / "apps" / "comfyui_allaprima.py"


@pytest.fixture(scope="module")
def node():
    """Loads the node as ComfyUI loads a file in custom_nodes."""
    spec = importlib.util.spec_from_file_location("custom_node", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (name,) = module.NODE_CLASS_MAPPINGS
    assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == {name}
    return module.NODE_CLASS_MAPPINGS[name]


def call(node, **values):
    """Passes inputs to FUNCTION by the names in INPUT_TYPES, with their defaults."""
    inputs = node.INPUT_TYPES()
    feeds = {}
    for name, (kind, *rest) in {**inputs["required"], **inputs["optional"]}.items():
        feeds[name] = kind[0] if isinstance(kind, list) else rest[0]["default"] if rest else None
    assert values.keys() <= feeds.keys()
    results = getattr(node(), node.FUNCTION)(**feeds | values)
    assert len(results) == len(node.RETURN_TYPES) == 1
    return results[0]


@pytest.fixture
def images():
    frames = np.stack([paint_landscape(60, 90), paint_landscape(60, 90)[:, ::-1]])
    return torch.from_numpy(frames.astype(np.float32) / 255)


def test_every_picture_of_a_batch_is_painted_as_by_our_own_command(node, images):
    painted = call(node, image=images, style="great_wave/realtime", keep_color="luminance", strength=0.6)
    assert (painted.shape, painted.dtype) == (images.shape, torch.float32)
    session = StyleSession(find_style("great_wave/realtime"))
    options = StylizeOptions(keep_color="luminance", strength=0.6)
    for image, found in zip(images, painted, strict=True):
        wanted = paint_photo(session, np.rint(255 * image.numpy()).astype(np.uint8), options)
        assert np.array_equal(np.rint(255 * found.numpy()), wanted)


def test_the_users_own_style_file_is_used_instead(node, images):
    own = str(find_style("sunflowers/realtime"))
    painted = call(node, image=images, style="great_wave/realtime", onnx_file=own)
    assert torch.equal(painted, call(node, image=images, style="sunflowers/realtime"))


def test_a_missing_file_is_named(node, images):
    with pytest.raises(StyleError, match=r"nothing\.onnx"):
        call(node, image=images, onnx_file="nothing.onnx")
