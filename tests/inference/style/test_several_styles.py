"""Files that hold several styles and take their weights as an input."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.info import describe
from allaprima.inference.style.palette import mixed_style, palette_style
from allaprima.inference.style.session import StyleSession, frame_to_image
from allaprima.models.errors import StyleError
from allaprima.models.frame_model import ROWS


@pytest.fixture(scope="module")
def data():
    return palette_style()


@pytest.fixture
def model(data):
    return onnx.load_model_from_string(data)


def test_each_style_and_the_default_mix_are_painted_as_by_their_own_files(data):
    session = StyleSession(data, "cpu")
    names = list(session.contract.mix)
    assert names[-1] == "photo"
    frame = paint_landscape(66, 97)
    for mix in ({name: 1.0} for name in names):
        session.weights = np.array([mix.get(name, 0.0) for name in names], np.float32)
        expected = StyleSession(mixed_style(mix), "cpu").stylize(frame)
        assert np.abs(session.stylize(frame).astype(int) - expected).max() <= 1
    session.weights = None
    begins = {name: weight for name, weight in session.contract.mix.items() if weight}
    assert np.abs(session.stylize(frame).astype(int) - StyleSession(mixed_style(begins), "cpu").stylize(frame)).max() <= 1


def test_plain_onnx_runtime_can_feed_the_weights(data, model):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [(each.name, each.shape) for each in session.get_inputs()][1:] == [("weights", [15])]
    names = list(json.loads({each.key: each.value for each in model.metadata_props}["allaprima.mix"]))
    weights = np.array([2.0 * (name == "sunflowers") for name in names], np.float32)
    image = frame_to_image(paint_landscape(64, 96))
    painted = session.run(None, {"content_image": image, "weights": weights})[0]
    assert np.abs(painted - StyleSession(mixed_style({"sunflowers": 1.0}), "cpu").stylize_image(image)).max() < 1e-3


def test_info_names_the_styles(data, tmp_path):
    (tmp_path / "several.onnx").write_bytes(data)
    texts = [text for heading, text in describe(tmp_path / "several.onnx") if heading == "input"]
    assert texts[1].startswith("weights: float32 [15], how much of each is mixed, to begin with: adele_bloch_bauer 0, ")


def set_array(model, name, array):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return
    model.graph.initializer.append(numpy_helper.from_array(array, name))


def without_rows(model):
    kept = [tensor for tensor in model.graph.initializer if not tensor.name.startswith(ROWS)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def padded_by_rows(model):
    """Lets the padding depend on the weights."""
    pad = next(node for node in model.graph.node if node.op_type == "Pad")
    set_array(model, f"{ROWS}{pad.input[1]}", np.zeros((15, 8), np.float32))


def set_mix(model, mix):
    for each in model.metadata_props:
        if each.key == "allaprima.mix":
            each.value = json.dumps(mix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_rows, "nothing that tells its styles apart"),
        (padded_by_rows, "depends on the weights of styles"),
        (lambda model: set_array(model, f"{ROWS}norm1.weight", np.zeros((14, 32), np.float32)), "of shape .* for 15 styles"),
        (lambda model: set_array(model, f"{ROWS}norm1.weight", np.zeros((15, 32), np.float16)), "of shape .* for 15 styles"),
        (lambda model: set_array(model, f"{ROWS}norm1.weight", np.full((15, 32), np.inf, np.float32)), "not finite"),
        (lambda model: set_array(model, f"{ROWS}norm1.weight", np.zeros((15, 31), np.float32)), "does not fit|has a Instance"),
        (lambda model: set_array(model, "skip.shape", np.array([12, 3, 6, 7])), "do not fit their shape"),
        (lambda model: set_array(model, "skip.shape", np.array([-12, -3, 6, 6])), "do not fit their shape"),
        (lambda model: set_mix(model, {}), "damaged contract .mix."),
        (lambda model: set_mix(model, {"a": -1.0}), "damaged contract .mix."),
        (lambda model: set_mix(model, {"a": "1"}), "damaged contract .mix."),
        (lambda model: set_mix(model, {"a": 0.0}), "damaged contract .mix."),
        (lambda model: set_mix(model, {str(i): 1.0 for i in range(1000)}), "damaged contract .mix."),
        (lambda model: set_mix(model, {"a": 1.0}), "of shape .* for 1 styles"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(model, change, message):
    change(model)
    with pytest.raises(StyleError, match=message):
        StyleSession(model.SerializeToString(), "cpu")


def test_nodes_around_the_network_are_not_run(data, model):
    """Everything around the network is rewritten, so an added node is dropped."""
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["weights", "no such shape"], ["nothing"]))
    image = frame_to_image(paint_landscape(64, 96))
    found, expected = (StyleSession(each, "cpu").stylize_image(image) for each in (model.SerializeToString(), data))
    assert np.array_equal(found, expected)
