"""One style in the forms that other runtimes need. tests/apps runs them there."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.info import describe
from allaprima.inference.style.session import StyleSession, frame_to_image
from allaprima.models.errors import StyleError
from allaprima.models.image_transform_net import JohnsonNet
from allaprima.models.targets import TARGETS
from allaprima.training.config import Flavor
from allaprima.training.export.conversion import at_opset, in_form_for
from allaprima.training.export.export import check_target, export
from allaprima.training.export.graph import quantize, to_onnx, with_color

STYLE = Path(__file__).parents[3] / "checkpoints" / "great_wave"
SIZE = (96, 64)  # width, height


@pytest.fixture(scope="module")
def own():
    return onnx.load(STYLE / "realtime.onnx")


def paint(model, size=SIZE):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"content_image": frame_to_image(paint_landscape(size[1], size[0]))})[0]


def operators(model):
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("target", TARGETS)
def test_every_form_paints_the_same(own, target):
    wants = TARGETS[target]
    model = in_form_for(own, wants, SIZE if wants.fixed_size else None, None)
    onnx.checker.check_model(model, full_check=True)
    assert np.abs(paint(model) - paint(own)).max() < 1e-6
    assert model.opset_import[0].version == (wants.opset or 11)
    assert ("Pad" in operators(model), "DepthToSpace" in operators(model)) == (not wants.plain, not wants.plain)
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ([1, 3, 64, 96] if wants.fixed_size else ["batch", 3, "height", "width"])


def test_a_form_for_any_size_paints_the_same_at_any_size(own):
    model = in_form_for(own, TARGETS["litert"], None, None)
    for size in ((16, 16), (124, 20)):
        assert np.abs(paint(model, size) - paint(own, size)).max() < 1e-6


@pytest.mark.parametrize("opset", range(9, 19))
def test_a_file_that_keeps_colors_paints_the_same_in_every_opset(own, opset):
    colored = with_color(own, 0.7, 1.0)
    model = in_form_for(colored, TARGETS["onnxruntime"], None, opset)
    assert model.opset_import[0].version == opset
    assert np.abs(paint(model) - paint(colored)).max() < 1e-6


@pytest.mark.thorough
@pytest.mark.parametrize("opset", [9, 10, 11, None])
def test_an_imported_network_that_repeats_pixels_paints_the_same(opset):
    net = to_onnx(JohnsonNet().eval())
    target = TARGETS["litert"] if opset in (11, None) else TARGETS["onnxruntime"]
    assert np.abs(paint(in_form_for(net, target, None, opset)) - paint(net)).max() < 1e-4


@pytest.mark.parametrize(
    ("flavor", "lowest"),
    [("realtime", 11), ("realtime.fp16", 11), ("quality", 11), ("realtime.int8", 13), ("realtime.frame", 15)],
)
def test_shipped_files_have_the_lowest_equivalent_opset(flavor, lowest):
    model = onnx.load(STYLE / f"{flavor}.onnx")
    assert model.opset_import[0].version == at_opset(model).opset_import[0].version == lowest
    assert ("form", f"ONNX IR 8, opset {lowest}") in describe(STYLE / f"{flavor}.onnx")
    assert {prop.key: prop.value for prop in model.metadata_props}["allaprima.opset"] == str(lowest)


@pytest.mark.parametrize(
    ("flavor", "opset", "words"),
    [
        ("realtime", 8, "opset 8 is not written: 9 to 18 are"),
        ("realtime", 19, "opset 19 is not written: 9 to 18 are"),
        ("realtime.int8", 12, "cannot be said in opset 12 .*; opset 13 or higher can"),
        ("realtime.frame", 14, "cannot be said in opset 14 .*; opset 15 or higher can"),
    ],
)
def test_an_impossible_opset_is_refused(flavor, opset, words):
    with pytest.raises(StyleError, match=words):
        in_form_for(onnx.load(STYLE / f"{flavor}.onnx"), TARGETS["onnxruntime"], None, opset)


@pytest.mark.parametrize("opset", [0, 8, 19, 25])
def test_a_frame_file_in_an_unsupported_opset_is_refused(opset):
    with pytest.raises(StyleError, match=f"opset {opset} is not written: 9 to 18 are"):
        at_opset(onnx.load(STYLE / "realtime.frame.onnx"), opset)


def test_a_graph_that_fits_no_opset_is_refused():
    model = onnx.load(STYLE / "realtime.onnx")
    model.graph.node[0].op_type = "Nothing"
    with pytest.raises(StyleError, match="cannot be said in any opset from 11 to 18"):
        at_opset(model)


@pytest.mark.parametrize(
    ("flavor", "words"),
    [
        (Flavor(target="opencv"), "opencv takes pictures of one size: give --size WIDTHxHEIGHT, 640x480 say"),
        (Flavor(size=(641, 10)), "the network takes no 641x10: sides are multiples of 4, at least 16; the nearest is 640x16"),
        (Flavor(io="frame", target="unity"), "unity takes no frame file; leave out --io frame"),
        (Flavor(io="frame", size=(640, 480)), "a frame file takes any size; leave out --size"),
        (Flavor(precision="int8", target="ncnn"), "ncnn takes no int8 file of ours; give --precision fp32"),
    ],
)
def test_what_a_target_does_not_support_is_refused(flavor, words):
    with pytest.raises(StyleError, match=words):
        check_target(flavor, 4, 16)


@pytest.mark.thorough
def test_export_for_a_phone_writes_a_file_that_describes_itself(tmp_path):
    path = tmp_path / "phone.onnx"
    export(STYLE / "realtime.safetensors", path, Flavor(target="litert", size=SIZE))
    about = dict(describe(path))
    assert about["form"] == "ONNX IR 8, opset 11, for litert; allaprima itself does not paint with it"
    assert about["sizes"] == "96x64 alone"
    assert "[1, 3, 64, 96]" in about["input"]
    with pytest.raises(StyleError, match="is made for 'litert' at 96x64"):
        StyleSession(path, "cpu")


@pytest.mark.thorough
def test_int8_for_tensorrt_has_no_zero_points(own):
    image = frame_to_image(paint_landscape(64, 96))
    model = quantize(at_opset(own, 18), [image], TARGETS["tensorrt"].symmetric)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    zeros = [arrays[node.input[2]] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(zeros) > 20
    assert not any(zero.any() for zero in zeros)
    assert np.abs(paint(model) - paint(own)).mean() < 0.03


@pytest.mark.thorough
def test_a_file_for_a_runtime_without_special_needs_is_an_ordinary_one(tmp_path):
    export(STYLE / "realtime.safetensors", tmp_path / "x.onnx", Flavor(target="openvino", opset=17))
    assert ("form", "ONNX IR 8, opset 17") in describe(tmp_path / "x.onnx")
    assert StyleSession(tmp_path / "x.onnx", "cpu").stylize(paint_landscape(20, 30)).shape == (20, 30, 3)
