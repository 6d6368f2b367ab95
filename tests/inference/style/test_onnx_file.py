"""Hostile .onnx files: each is refused, or its hostile parts never reach ONNX Runtime.

Run as a program, this opens mutants of good files and paints with them: `python test_onnx_file.py FOLDER SEED COUNT`.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from allaprima.inference.style import onnx_file
from allaprima.inference.style.onnx_file import MAX_BYTES, read_style, rebuilt
from allaprima.inference.style.palette import palette_style
from allaprima.inference.style.session import StyleSession
from allaprima.models import frame_graph, levels_graph
from allaprima.models.contract import Contract
from allaprima.models.errors import StyleError

MB = 2**20
MUTANTS = 10_000
FLAVORS = ("image", "image.color", "image.fp16", "image.int8", "frame", "frame.fp16", "frame.int8", "levels")


def sealed(model, io="image", **metadata):
    """The bytes of a model's file, with our metadata."""
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    contract = {
        "image": Contract(4, 16),
        "frame": Contract(1, 1, io="frame"),
        "levels": Contract(1, 1, io="frame", strokes=1.0),
    }[io]
    helper.set_model_props(complete, contract.to_metadata("1") | metadata)
    return complete.SerializeToString()


PLAIN = {"strength": 1.0, "keep_color": 0.0}


@pytest.fixture(scope="module")
def models():
    """All flavors of a network of 15 nodes."""
    import torch

    from allaprima.models.frame_model import as_frame
    from allaprima.models.image_transform_net import RealtimeNet
    from allaprima.training.export.graph import quantize, to_onnx, with_color

    torch.manual_seed(0)
    net = RealtimeNet(width=4)
    net.blocks = torch.nn.Sequential()
    image, half = to_onnx(net), to_onnx(net, half=True)
    int8 = quantize(image, [np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)])
    return {
        "image": image,
        "image.color": with_color(image, 0.5, 1.0),
        "image.fp16": half,
        "image.int8": int8,
        **{f"frame{kind}": as_frame(each, 4, 16, PLAIN) for kind, each in (("", image), (".fp16", half), (".int8", int8))},
        "levels": as_frame(image, 4, 16, {**PLAIN, "strokes": 1.0, "detail": 1.0}),
    }


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.fixture
def image(models):
    return copied(models["image"])


@pytest.fixture
def frame(models):
    return copied(models["frame"])


@pytest.fixture
def levels(models):
    return copied(models["levels"])


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """Checks that a file is refused: for this reason, within seconds and 200 MB, and before ONNX Runtime gets it."""

    def never(*_arguments, **_options):
        pytest.fail("ONNX Runtime got the file")

    monkeypatch.setattr("onnxruntime.InferenceSession", never)

    def check(data, reason):
        path = tmp_path / "hostile.onnx"
        path.write_bytes(data)
        started = time.process_time()
        with pytest.raises(StyleError, match=reason) as caught:
            StyleSession(path, "cpu")
        assert time.process_time() - started < 5.0
        assert len(str(caught.value)) < 1000
        tracemalloc.start()
        try:
            with pytest.raises(StyleError, match=reason):
                read_style(path)
            assert tracemalloc.get_traced_memory()[1] < 200 * MB
        finally:
            tracemalloc.stop()

    return check


@pytest.fixture
def paint(tmp_path):
    def painted(data, height=16, width=16):
        (tmp_path / "good.onnx").write_bytes(data)
        return StyleSession(tmp_path / "good.onnx", "cpu").stylize(np.zeros((height, width, 3), np.uint8))

    return painted


def array(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], **attributes)


def ending(model, nodes, *arrays):
    """A model whose picture, "painted", goes through more nodes, the last of which makes the file's output."""
    for each in model.graph.node:
        each.output[:] = ["painted" if value == "stylized_image" else value for value in each.output]
    model.graph.node.extend(nodes)
    if nodes and nodes[-1].output:
        model.graph.node[-1].output[0] = "stylized_image"
    model.graph.initializer.extend(arrays)
    return model


def find(model, operator):
    return next(each for each in model.graph.node if each.op_type == operator)


def find_array(model, name):
    return next(each for each in model.graph.initializer if each.name == name)


# Protobuf by hand


def varint(number):
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def part(number, payload):
    """A field that holds bytes."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


# Good files


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (33, 50)])
def test_every_flavor_of_ours_opens_and_paints(models, paint, flavor, size):
    assert paint(sealed(models[flavor], flavor.split(".")[0]), *size).shape == (*size, 3)


def test_onnxs_own_domain_may_be_spelled_out(image, paint):
    image.opset_import[0].domain = "ai.onnx"
    for each in image.graph.node:
        each.domain = "ai.onnx"
    assert paint(sealed(image)).shape == (16, 16, 3)


def test_a_frame_file_may_pad_to_more_than_64_pixels(models, paint):
    from allaprima.models.frame_model import as_frame

    assert paint(sealed(as_frame(models["image"], 4, 256, PLAIN), "frame")).shape == (16, 16, 3)


# What no file of ours has


SUBGRAPH = helper.make_graph([], "body", [], [])


@pytest.mark.parametrize(
    "operator",
    [
        *("Loop", "Scan", "If", "Range", "Tile", "Expand", "ConstantOfShape", "RandomNormal", "RandomNormalLike", "Constant"),
        *("Identity", "Reshape", "Upsample", "MatMul", "Einsum", "Shape", "Slice", "Gather", "Round", "relu"),
    ],
)
def test_an_operator_that_no_style_has_is_refused(image, refuse, operator):
    refuse(sealed(ending(image, [node(operator, ["painted"], "x")])), f"it has the operator '{operator}', which no style needs")


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "com.microsoft.nchwc", "mine"])
@pytest.mark.parametrize("imported", [True, False])
def test_an_operator_of_another_domain_is_refused(image, refuse, domain, imported):
    image = ending(image, [node("Relu", ["painted"], "x", domain=domain)])
    if imported:
        image.opset_import.append(helper.make_opsetid(domain, 1))
    refuse(sealed(image), f"the operator '{domain}.Relu', which no style needs")


@pytest.mark.parametrize("versions", [[], [10], [19], [18, 18], [2**62], [0]])
def test_other_versions_of_onnx_operators_are_refused(image, refuse, versions):
    del image.opset_import[:]
    image.opset_import.extend(helper.make_opsetid("", version) for version in versions)
    refuse(sealed(image), "other than ONNX's own of opset 11 to 18")


@pytest.mark.parametrize("opset", range(11, 19))
def test_every_opset_in_which_a_style_means_the_same_is_read(image, opset):
    image.opset_import[0].version = opset
    run = onnx.load_from_string(rebuilt(sealed(image), "x.onnx")[0])
    assert run.opset_import[0].version == opset


def test_a_file_exported_for_another_runtime_is_refused_and_named(image, refuse):
    metadata = {"allaprima.target": "litert", "allaprima.size": "640x480"}
    refuse(sealed(image, **metadata), "is made for 'litert' at 640x480; to paint with it here, export it without --for")


def add_functions(model):
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [], [helper.make_opsetid("", 18)]))


def add_training(model):
    model.training_info.add().algorithm.CopyFrom(SUBGRAPH)


def add_sparse(model):
    values, at = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [2**40]))


def add_values(model):
    model.graph.value_info.append(helper.make_tensor_value_info("pad", TensorProto.FLOAT, [2**40]))


def add_quantization(model):
    model.graph.quantization_annotation.add().tensor_name = "pad"


def add_subgraphs(model):
    model.graph.node[0].attribute.append(helper.make_attribute("bodies", [SUBGRAPH] * 2))


def add_tensor_attribute(model):
    model.graph.node[0].attribute.append(helper.make_attribute("value", array("v", [1.0])))


def add_strings(model):
    model.graph.node[0].attribute.append(helper.make_attribute("words", ["a", "b"]))


def add_reference(model):
    attribute = AttributeProto(name="mode", type=AttributeProto.STRING, ref_attr_name="mode")
    model.graph.node[0].attribute.append(attribute)


def add_overload(model):
    model.graph.node[0].overload = "mine"


def add_node_metadata(model):
    model.graph.node[0].metadata_props.add(key="k", value="v")


def read_elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)


def read_elsewhere_quietly(model):
    model.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")


def use_segments(model):
    model.graph.initializer[0].segment.begin = 1


def use_strings(model):
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [1], [b"x"]))


def use_floats(model):
    model.graph.initializer.append(helper.make_tensor("floats", TensorProto.FLOAT, [1], [1.0]))


def take_a_sequence(model):
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("content_image", TensorProto.FLOAT, None))


def take_an_optional(model):
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.input[0].CopyFrom(helper.make_value_info("content_image", kind))


def denote(model):
    model.graph.input[0].type.denotation = "IMAGE"


@pytest.fixture
def drop():
    """Checks that ONNX Runtime gets the same model with and without a change."""

    def check(model, edit, io="image"):
        good = rebuilt(sealed(model, io), "good.onnx")[0]
        edit(model)
        assert rebuilt(sealed(model, io), "hostile.onnx")[0] == good

    return check


DROPPED = (add_functions, add_training, add_sparse, add_values, add_quantization, add_overload, add_node_metadata)


@pytest.mark.parametrize("edit", [*DROPPED, read_elsewhere_quietly, use_segments, use_strings, use_floats])
def test_a_part_that_no_style_needs_is_dropped(image, drop, edit):
    drop(image, edit)


@pytest.mark.parametrize("edit", [take_a_sequence, take_an_optional, denote])
def test_inputs_and_outputs_are_rewritten(image, drop, edit):
    drop(image, edit)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (add_subgraphs, "with bodies = "),
        (add_tensor_attribute, "with value = "),
        (add_strings, "with words = "),
        (add_reference, "Cannot get value of reference attribute"),
        (read_elsewhere, "of 0 bytes, which does not fit its shape"),
    ],
)
def test_a_part_that_no_style_has_is_refused(image, refuse, edit, reason):
    edit(image)
    refuse(sealed(image), reason)


# Files that need more than their size suggests


@pytest.mark.parametrize(
    "dims",
    [[2**28], [2**62, 4], [2**32, 2**32], [2**63 - 1, 2], [-1], [-4, -4], [0, 2**40], [2**40, 0], [0], [1] * 5, [2**31] * 4],
)
def test_an_initializer_of_few_bytes_that_claims_many_is_refused(image, refuse, dims):
    bomb = TensorProto(name="bomb", data_type=TensorProto.FLOAT, dims=dims)
    refuse(sealed(ending(image, [node("Add", ["painted", "bomb"], "x")], bomb)), "an initializer 'bomb' of")


@pytest.mark.parametrize("kind", [0, 8, 9, 11, 14, 16, 17, 22, 23, 2**31 - 1, -1])
def test_an_initializer_of_another_type_is_refused(image, refuse, kind):
    bomb = TensorProto(name="bomb", data_type=kind, dims=[1], raw_data=bytes(4))
    refuse(
        sealed(ending(image, [node("Add", ["painted", "bomb"], "x")], bomb)), f"an initializer 'bomb' of an unknown type {kind}"
    )


def test_85_bytes_that_expand_to_gigabytes_are_refused(refuse):
    graph = helper.make_graph(
        [node("ConstantOfShape", ["s"], "y")],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [array("s", [2**31], np.int64)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert len(model.SerializeToString()) < 100
    refuse(model.SerializeToString(), "not one of ours")
    refuse(sealed(model), "is not safe to open: it has no network that makes stylized_image")


def outer_sum(n):
    return [node("Add", ["row", "column"], "square"), node("Add", ["painted", "square"], "x")], [
        array("row", np.zeros((1, n))),
        array("column", np.zeros((n, 1))),
    ]


def chain(count, make):
    names = ["painted", *(f"x{i}" for i in range(count))]
    return [each for i in range(count) for each in make(names[i], names[i + 1], i)]


def one_by_one(c_out, c_in, name):
    return array(name, np.zeros((c_out, c_in, 1, 1)))


RESIZE_2 = array("twice", [1.0, 1.0, 2.0, 2.0])
PADS = array("pads", [0, 0, 8, 8, 0, 0, 8, 8], np.int64)
GROWING = {
    "concat": (chain(30, lambda x, y, i: [node("Concat", [x, x], y, axis=1)]), [], r"a Concat that makes \[1, 1536, 16, 16\]"),
    "concat by rows": ([node("Concat", ["painted", "painted"], "x", axis=2)], [], "a Concat with axis = 2"),
    "concat by axis -2": ([node("Concat", ["painted", "painted"], "x", axis=-2)], [], "a Concat with axis = -2"),
    "concat without axis": (
        [node("Concat", ["painted", "painted"], "x")],
        [],
        "a Concat that does not fit: Required attribute axis",
    ),
    "concat of many": ([node("Concat", ["painted"] * 1000, "x", axis=1)], [], "a Concat with other inputs or outputs"),
    "broadcast of constants": (*outer_sum(10**6), "a Add with 'row' of shape"),
    "broadcast": (
        [node("Add", ["painted", "row"], "x")],
        [array("row", np.zeros((1, 3, 9, 1)))],
        "of shape .1, 3, 9, 1., as no style",
    ),
    "constants alone": (
        [node("Relu", ["c"], "r"), node("Add", ["painted", "r"], "x")],
        [array("c", 1.0)],
        "a Relu with 'c', where a style has a picture",
    ),
    "resize by 1000": (
        [node("Resize", ["painted", "", "much"], "x")],
        [array("much", [1.0, 1.0, 1000.0, 1000.0])],
        "a Resize that makes more than a picture",
    ),
    "resize by nan": (
        [node("Resize", ["painted", "", "much"], "x")],
        [array("much", [1.0, 1.0, np.nan, np.inf])],
        "much.* not finite",
    ),
    "resize to sizes": (
        [node("Resize", ["painted", "", "", "sizes"], "x")],
        [array("sizes", [1, 3, 2**20, 2**20], np.int64)],
        "a Resize with other inputs",
    ),
    "resize by fed scales": (
        [node("Resize", ["painted", "", "painted"], "x")],
        [],
        "with 'painted', where a style has a constant",
    ),
    "resize chain": (
        chain(3, lambda x, y, i: [node("Resize", [x, "", "twice"], y)]),
        [RESIZE_2],
        "a Resize that makes more than a picture",
    ),
    "resize cubic": (
        [node("Resize", ["painted", "", "twice"], "x", mode="cubic")],
        [RESIZE_2],
        "a Resize with mode = 'cubic'",
    ),
    "pad of 2**40": (
        [node("Pad", ["painted", "pads"], "x", mode="reflect")],
        [array("pads", [0, 0, 2**40, 2**40] * 2, np.int64)],
        "a Pad that makes more",
    ),
    "pad of floats": (
        [node("Pad", ["painted", "pads"], "x", mode="reflect")],
        [array("pads", [0.5] * 8)],
        "a Pad that does not fit",
    ),
    "pad of less": (
        [node("Pad", ["painted", "pads"], "x", mode="reflect")],
        [array("pads", [0, 0, -1, -1] * 2, np.int64)],
        "a Pad of",
    ),
    "pad of channels": (
        [node("Pad", ["painted", "pads"], "x", mode="reflect")],
        [array("pads", [0, 9, 1, 1] * 2, np.int64)],
        "a Pad of",
    ),
    "pad of a million numbers": (
        [node("Pad", ["painted", "pads"], "x", mode="reflect")],
        [array("pads", np.ones(10**6), np.int64)],
        "a Pad with 'pads' of shape",
    ),
    "pad longer than the picture": (
        [node("Pad", ["painted", "pads"], "x", mode="reflect")],
        [array("pads", [0, 0, 16, 16] * 2, np.int64)],
        "a Pad of .* around 16 px",
    ),
    "pad mode": ([node("Pad", ["painted", "pads"], "x", mode="wrap")], [PADS], "a Pad with mode = 'wrap'"),
    "pad chain": (
        chain(1000, lambda x, y, i: [node("Pad", [x, "pads"], y, mode="reflect")]),
        [PADS],
        "a Pad that makes more than a picture",
    ),
    "depth to space": (
        chain(
            4,
            lambda x, y, i: [
                node("Conv", [x, f"w{i}"], f"{y}_wide"),
                node("DepthToSpace", [f"{y}_wide"], y, blocksize=4, mode="CRD"),
            ],
        ),
        [one_by_one(48, 3, f"w{i}") for i in range(4)],
        "a DepthToSpace that makes more than a picture",
    ),
    "block size": ([node("DepthToSpace", ["painted"], "x", blocksize=2**40)], [], "a DepthToSpace with blocksize"),
    "block size missing": ([node("DepthToSpace", ["painted"], "x")], [], "a DepthToSpace that does not fit: Blocksize"),
    "many values": (
        chain(1500, lambda x, y, i: [node("Sigmoid", [x], y)]),
        [],
        r"needs 45\d\d floats and",
    ),
    "many products": (
        [
            node("Cast", ["painted"], "half", to=TensorProto.FLOAT16),
            node("Conv", ["half", "w0"], "x0"),
            node("Conv", ["x0", "w1"], "x1", pads=[8] * 4),
            node("Conv", ["x1", "w2"], "x2"),
            node("Cast", ["x2"], "x", to=TensorProto.FLOAT),
        ],
        [
            array(f"w{i}", np.zeros(dims), np.float16)
            for i, dims in enumerate([(126, 3, 1, 1), (126, 126, 16, 16), (3, 126, 2, 2)])
        ],
        r"needs \d+ floats and 40\d+ products",
    ),
    "weights shared": (
        chain(500, lambda x, y, i: [node("Conv", [x, "w"], y)]),
        [one_by_one(3, 3, "w")],
        "weights 'w' that another one has",
    ),
    "8-bit weights shared": (
        [node("DequantizeLinear", ["w", "s", "z"], f"w{i}") for i in range(500)] + [node("Relu", ["painted"], "x")],
        [array("w", np.zeros((3, 3, 1, 1)), np.int8), array("s", 1.0), array("z", 0, np.int8)],
        "weights 'w' that another one has",
    ),
    "8-bit pictures": (
        [node("QuantizeLinear", ["painted", "s", "z"], "x")],
        [array("s", [1.0] * 3), array("z", [0] * 3, np.uint8)],
        "a QuantizeLinear with 's' of shape",
    ),
    "8-bit scale fed": (
        [node("DequantizeLinear", ["w", "painted", "z"], "v"), node("Relu", ["painted"], "x")],
        [array("w", np.zeros((3, 3, 1, 1)), np.int8), array("z", 0, np.int8)],
        "uses 'painted' before it is there",
    ),
    "weights made of the picture": (
        [node("Conv", ["painted", "painted"], "x")],
        [],
        "with 'painted', where a style has a constant",
    ),
    "kernel": ([node("Conv", ["painted", "w"], "x")], [array("w", np.zeros((3, 3, 17, 17)))], "a Conv that makes .1, 3, 0, 0."),
    "kernel not square": (
        [node("Conv", ["painted", "w"], "x")],
        [array("w", np.zeros((3, 3, 1, 9)))],
        "makes no stylized_image as large",
    ),
    "channels": ([node("Conv", ["painted", "w"], "x")], [one_by_one(1025, 3, "w")], r"a Conv that makes \[1, 1025, 16, 16\]"),
    "other channels": ([node("Conv", ["painted", "w"], "x")], [one_by_one(3, 4, "w")], "a Conv of 3 channels with weights"),
    "biases": (
        [node("Conv", ["painted", "w", "b"], "x")],
        [one_by_one(3, 3, "w"), array("b", [0.0] * 4)],
        r"a Conv of 3 channels with weights of shape \[4\]",
    ),
    "norm": (
        [node("InstanceNormalization", ["painted", "a", "a"], "x")],
        [array("a", [0.0] * 4)],
        r"a InstanceNormalization of 3 channels with weights of shape \[4\]",
    ),
    "clip by the picture": (
        [node("Clip", ["painted", "painted", "painted"], "x")],
        [],
        "with 'painted', where a style has a constant",
    ),
    "sum of different sizes": (
        [node("Conv", ["painted", "w"], "small", strides=[2, 2]), node("Add", ["painted", "small"], "x")],
        [one_by_one(3, 3, "w")],
        "a Add that does not fit",
    ),
    "smaller picture": (
        [node("Conv", ["painted", "w"], "x", strides=[2, 2])],
        [one_by_one(3, 3, "w")],
        "makes no stylized_image as large as the picture",
    ),
    "kernel larger than the picture": (
        [node("Conv", ["painted", "v"], "tiny", strides=[16, 16]), node("Conv", ["tiny", "w"], "x")],
        [one_by_one(3, 3, "v"), array("w", np.zeros((3, 3, 9, 9)))],
        r"a Conv that makes \[1, 3, -7, -7\]",
    ),
    "cast": ([node("Cast", ["painted"], "x", to=TensorProto.STRING)], [], "a Cast with to = 8"),
    "cast to nothing": ([node("Cast", ["painted"], "x")], [], "a Cast that does not fit"),
}


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_or_does_not_fit_is_refused(image, refuse, name):
    nodes, arrays, reason = GROWING[name]
    refuse(sealed(ending(image, nodes, *arrays)), reason)


@pytest.mark.parametrize("key", ["group", "dilations", "strides", "pads", "kernel_shape", "auto_pad", "mine"])
@pytest.mark.parametrize("value", [2**31, 2**62, -1, 17])
def test_a_convolution_with_wild_numbers_is_refused(image, refuse, key, value):
    conv = find(image, "Conv")
    old = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    del conv.attribute[:]
    new = [value] * len(old[key]) if isinstance(old.get(key), list) else value
    conv.attribute.extend(helper.make_attribute(name, each) for name, each in (old | {key: new}).items())
    refuse(sealed(image), f"a Conv with {key} = ")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("group", 0, "a Conv with group = 0"),
        ("group", 3, "a Conv with group = 3"),
        ("dilations", [0, 0], "a Conv with dilations"),
        ("dilations", [16, 16], "a Conv with dilations"),
        ("strides", [0, 0], r"a Conv with strides = \[0, 0\]"),
        ("strides", [16, 16], "does not fit"),
        ("kernel_shape", [0, 0], r"a Conv with kernel_shape = \[0, 0\]"),
        ("kernel_shape", [16, 16], "does not fit"),
        ("pads", [16, 16, 16, 16], "does not fit"),
        ("auto_pad", "SAME_UPPER", "a Conv with auto_pad = 'SAME_UPPER'"),
    ],
)
def test_a_convolution_with_numbers_that_do_not_fit_is_refused(image, refuse, key, value, reason):
    attribute = next(each for each in find(image, "Conv").attribute if each.name == key)
    attribute.CopyFrom(helper.make_attribute(key, value))
    refuse(sealed(image), reason)


@pytest.mark.parametrize("numbers", [[1], [1, 1, 1], [1] * 1000, [2, 1], []])
@pytest.mark.parametrize("key", ["strides", "dilations", "kernel_shape", "pads"])
def test_a_convolution_with_too_few_or_too_many_numbers_is_refused(image, refuse, key, numbers):
    conv = find(image, "Conv")
    attribute = next(each for each in conv.attribute if each.name == key)
    attribute.CopyFrom(AttributeProto(name=key, type=AttributeProto.INTS, ints=numbers))
    refuse(sealed(image), f"a Conv with {key} =|does not fit")


def test_an_attribute_of_another_type_than_its_value_is_refused(image, refuse):
    attribute = next(each for each in find(image, "Conv").attribute if each.name == "group")
    attribute.CopyFrom(AttributeProto(name="group", type=AttributeProto.INTS, i=1))
    refuse(sealed(image), r"a Conv with group = \[\]")
    attribute.CopyFrom(AttributeProto(name="group", type=AttributeProto.FLOAT, f=1.0))
    refuse(sealed(image), r"a Conv with group = 1\.0")
    attribute.CopyFrom(AttributeProto(name="group", i=1))
    refuse(sealed(image), "a Conv with group = NoneType")
    attribute.CopyFrom(AttributeProto(name="group", type=AttributeProto.INT))
    refuse(sealed(image), "a Conv with group = 0")


# Names, ends and order


def rename_input(model):
    model.graph.input[0].name = "x"


def second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("strength", TensorProto.FLOAT, []))


def second_output(model):
    model.graph.output.append(helper.make_tensor_value_info("pad", TensorProto.FLOAT, None))


def same_output_twice(model):
    model.graph.output.append(model.graph.output[0])


def no_output(model):
    del model.graph.output[:]


def fixed_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def no_shape(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")


def no_type(model):
    model.graph.input[0].ClearField("type")


def double_input(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@pytest.mark.parametrize(
    "edit",
    [rename_input, second_input, second_output, same_output_twice, no_output, fixed_input, no_shape, no_type, double_input],
)
def test_other_inputs_and_outputs_are_dropped(image, drop, edit):
    drop(image, edit)


@pytest.mark.parametrize("name", ["content_image", "stylized_image"])
def test_a_constant_named_as_an_input_or_output_is_never_run(image, name):
    expected = rebuilt(sealed(image), "x")[0]
    image.graph.initializer.append(array(name, np.zeros((1, 3, 16, 16))))
    if name == "stylized_image":
        with pytest.raises(StyleError, match="makes 'stylized_image' twice"):
            rebuilt(sealed(image), "x")
    else:
        assert rebuilt(sealed(image), "x")[0] == expected


def test_a_file_that_makes_no_output_is_refused(image, refuse):
    refuse(sealed(ending(image, [])), "makes stylized_image")


@pytest.mark.parametrize("name", ["content_image", "painted", "twice", ""])
def test_a_value_that_is_made_twice_is_refused(image, refuse, name):
    nodes = [node("Relu", ["painted"], name), node("Resize", ["painted", "", "twice"], "x")]
    refuse(sealed(ending(image, nodes, RESIZE_2)), f"makes {name!r} twice|, where a style has a")


def test_a_cycle_is_refused(image, refuse):
    nodes = [node("Add", ["painted", "b"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"], "x")]
    refuse(sealed(ending(image, nodes)), "uses 'b' before it is there")


def test_a_second_attribute_of_the_same_name_is_refused(image, refuse):
    find(image, "Conv").attribute.append(helper.make_attribute("group", 1))
    refuse(sealed(image), "has a Conv with group = 1")


@pytest.mark.parametrize("name", ["a\n", "\x1b[2J", "a = Relu(b)", "x" * 10**6])
def test_a_name_cannot_control_the_terminal(image, name):
    data = sealed(ending(image, [node("Relu", [name], "x")]))
    with pytest.raises(StyleError) as caught:
        rebuilt(data, "hostile.onnx")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# Frames


def at(model, name):
    return next(each for each in model.graph.node if name in each.output)


AROUND = [line.split(" = ")[0] for line in frame_graph.lines(frame_graph.PROLOGUE) + frame_graph.lines(frame_graph.EPILOGUE)]


def test_nodes_around_the_network_of_a_frame_file_are_rewritten(frame, drop):
    def edit(model):
        for name in AROUND:
            if name != "content_image":
                at(model, name).op_type, at(model, name).input[-1] = "Loop", "content_frame"
        for name in [*frame_graph.constants(4, 16), *frame_graph.SCALARS, *frame_graph.MATRICES, "strength"]:
            if name not in ("stride_px", "least_px"):
                find_array(model, name).CopyFrom(array(name, np.full(10**4, np.nan)))

    drop(frame, edit, "frame")


@pytest.mark.parametrize("name", ["stride_px", "least_px"])
@pytest.mark.parametrize("values", [[0], [-4], [10**6], [4, 4], 4])
def test_a_frame_file_without_a_valid_stride_and_least_size_is_refused(frame, refuse, name, values):
    find_array(frame, name).CopyFrom(array(name, values, np.int64))
    refuse(sealed(frame, "frame"), f"has no {name} from 1 to")
    frame.graph.initializer.remove(find_array(frame, name))
    refuse(sealed(frame, "frame"), f"has no {name} from 1 to")


@pytest.mark.parametrize("value", ["strength", "content_frame", "width_missing", "whole_frame", "wide_frame", "levels"])
def test_a_network_that_uses_more_than_the_picture_is_refused(frame, refuse, value):
    find(frame, "Sigmoid").input[0] = value
    refuse(sealed(frame, "frame"), f"has a Sigmoid with '{value}', where a style has a picture")


def test_a_value_in_the_network_with_the_name_of_one_around_it_is_refused(frame, refuse):
    sigmoid = find(frame, "Sigmoid")
    old = sigmoid.input[0]
    for each in frame.graph.node:
        each.input[:] = ["sides" if value == old else value for value in each.input]
        each.output[:] = ["sides" if value == old else value for value in each.output]
    refuse(sealed(frame, "frame"), "makes 'sides' twice")


def test_a_frame_file_without_a_network_is_refused(frame, refuse):
    nodes = list(frame.graph.node)
    del frame.graph.node[:]
    frame.graph.node.extend(each for each in nodes if each.output[0] in AROUND)
    frame.graph.initializer.append(array("stylized_image", np.zeros((1, 3, 16, 16))))
    refuse(sealed(frame, "frame"), "has no network that makes stylized_image")
    del frame.graph.node[3:]
    refuse(sealed(frame, "frame"), "has no network that makes stylized_image")


def test_an_image_file_labeled_as_a_frame_file_is_refused_and_the_reverse_uses_only_the_network(image, frame, refuse):
    refuse(sealed(image, "frame"), "has no ")
    graphs = [onnx.load_from_string(rebuilt(sealed(model), "x")[0]).graph for model in (image, frame)]
    assert list(graphs[0].node) == list(graphs[1].node)


@pytest.mark.parametrize(("flavor", "kind", "number"), [("image", 1, np.nan), ("image", 1, np.inf), ("image.fp16", 10, np.nan)])
def test_a_weight_that_is_not_finite_is_refused(models, refuse, flavor, kind, number):
    model = copied(models[flavor])
    tensor = next(each for each in model.graph.initializer if each.data_type == kind and len(each.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[-1] = number
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    refuse(sealed(model), "with numbers that are not finite")


# A loop over levels


def body_of(model):
    return find(model, "Loop").attribute[0].g


IN_LOOP = [
    line.split(" = ")[0]
    for nodes in (levels_graph.BEFORE_NETWORK, levels_graph.AFTER_NETWORK)
    for line in frame_graph.lines(nodes)
]


def loop_for_ever(levels):
    find(levels, "Loop").input[0] = ""
    del levels.graph.node[:5]
    body_of(levels).initializer.append(array("mine", [1.0]))
    body_of(levels).input[2].type.tensor_type.elem_type = onnx.TensorProto.INT64


def other_nodes_in_the_loop(levels):
    for name in IN_LOOP:
        made = next(each for each in body_of(levels).node if name in each.output)
        if name != "content_image":
            made.CopyFrom(node("Loop", ["level", "going"], name, body=SUBGRAPH))


def other_constants(levels):
    for name in [*levels_graph.constants(4, 16), *levels_graph.SCALARS, "strokes", "detail"]:
        if name not in ("stride_px", "least_px"):
            find_array(levels, name).CopyFrom(array(name, np.full(10**4, np.nan)))


@pytest.mark.parametrize("edit", [loop_for_ever, other_nodes_in_the_loop, other_constants])
def test_the_loop_is_rewritten(levels, drop, edit):
    drop(levels, edit, "levels")


def two_loops(levels):
    levels.graph.node.append(find(levels, "Loop"))


def no_loop(levels):
    levels.graph.node.remove(find(levels, "Loop"))


def a_body_in_the_network(levels):
    conv = next(each for each in body_of(levels).node if each.op_type == "Conv")
    conv.attribute.append(helper.make_attribute("body", SUBGRAPH))


def a_body_that_is_a_number(levels):
    find(levels, "Loop").attribute[0].CopyFrom(helper.make_attribute("body", 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (two_loops, "has 2 loops where one is wanted"),
        (no_loop, "has 0 loops where one is wanted"),
        (a_body_in_the_network, "has a Conv with body = "),
        (a_body_that_is_a_number, "has no network"),
    ],
)
def test_a_loop_that_is_not_ours_is_refused(levels, refuse, change, reason):
    change(levels)
    refuse(sealed(levels, "levels"), reason)


def test_a_levels_file_is_not_a_frame_file_and_vice_versa(frame, levels, refuse):
    refuse(sealed(levels, "frame"), "has no network")
    refuse(sealed(frame, "levels"), "has 0 loops")


# Bytes


@pytest.mark.parametrize("flavor", ["image", "frame.int8"])
def test_a_truncated_file_is_refused_unless_only_optional_metadata_is_missing(models, monkeypatch, flavor):
    """A file may end between two entries of metadata; the last entries are optional."""
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_: pytest.fail("ONNX Runtime got the file"))
    data = sealed(models[flavor], flavor.split(".")[0])
    needed = data.index(b"allaprima.card")
    for cut in [*range(1, len(data), 41), *range(needed, len(data))]:
        try:
            rebuilt(data[:cut], "cut.onnx")
        except StyleError:
            continue
        assert cut > needed


EMPTY = b"\x0a\x00"
MILLIONS = MAX_BYTES // 2 - 10_000  # entries of 2 bytes
FLOODS = {
    "nodes": part(7, EMPTY * MILLIONS),
    "initializers": part(7, b"\x2a\x00" * MILLIONS),
    "attributes": part(7, part(1, b"\x2a\x00" * MILLIONS)),
    "names": part(7, part(1, EMPTY * MILLIONS)),
    "dims": part(7, part(5, part(1, b"\x01" * MILLIONS))),
    "metadata": b"\x72\x00" * MILLIONS,
    "opsets": b"\x42\x00" * MILLIONS,
    "words": part(14, part(1, b"k") + part(2, b"v" * MILLIONS)),
    "unknown fields": part(99, b"x" * MILLIONS),
    "a number": b"\x80" * MILLIONS,
    "a length": b"\x3a" + varint(2**62),
    "more than there is": b"\x3a" + varint(2**70),
    "field 0": b"\x02\x00",
    "zeros": bytes(MILLIONS),
    "text": b"hello",
}


READ_ALL = """
import sys
from pathlib import Path
from allaprima.inference.style.onnx_file import read_style
from allaprima.models.errors import StyleError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_style(path)
        print(f"{path} is good")
    except StyleError as error:
        print(error)
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_floods_and_broken_bytes_end_within_a_gigabyte(image, tmp_path):
    good = sealed(image)
    for name, flood in FLOODS.items():
        for place, data in {"alone": flood, "before": flood + good, "after": good + flood}.items():
            (tmp_path / f"{name}, {place}").write_bytes(data)
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    *said, most = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.split("\n")[:-2]
    assert len(said) == 3 * len(FLOODS)
    assert not [line for line in said if line.endswith("alone is good")]
    assert int(most.split()[1]) < 2**20


def test_what_is_larger_than_any_style_is_not_read(image, refuse):
    refuse(sealed(image) + bytes(9 * MB), r"hostile.onnx is 9 MB; a style has at most 8 MB")
    with pytest.raises(StyleError, match="the style is 9 MB"):
        StyleSession(bytes(9 * MB))


def test_deeply_nested_graphs_are_refused(image, refuse):
    data = b""
    for _ in range(2000):
        data = part(1, part(5, part(1, b"body") + part(6, data)))
    refuse(part(7, data) + sealed(image), "is no ONNX file, or a damaged one")


# Metadata


@pytest.mark.parametrize(
    "card", ["[" * 10**5, '{"a":' * 10**5, "[" * 5 * 10**5 + "]" * 5 * 10**5, "9" * 5000, "[]", "{", "", '{"a": 1e999} x']
)
def test_a_malicious_or_damaged_card_is_refused(image, refuse, card):
    refuse(sealed(image, **{"allaprima.card": card}), r"hostile\.onnx has a damaged contract")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("stride_px", value) for value in ("0", "65", "9" * 5000)),
        *(("least_px", value) for value in ("-1", "1e9")),
        *(("strength", value) for value in ("nan", "inf", "-1")),
        ("keep_color", "5"),
        ("io", "video"),
        ("precision", "fp64"),
    ],
)
def test_a_wild_contract_is_refused(image, refuse, key, value):
    refuse(sealed(image, **{f"allaprima.{key}": value}), r"hostile\.onnx has a damaged contract")


@pytest.mark.parametrize(("name", "value"), [("strokes", "11"), ("strokes", "nan"), ("detail", "2"), ("detail", "inf")])
def test_a_default_of_levels_out_of_range_is_refused(levels, refuse, name, value):
    refuse(sealed(levels, "levels", **{f"allaprima.{name}": value}), "has a damaged contract")


def test_a_card_that_is_not_text_is_refused(image, refuse):
    refuse(sealed(image) + part(14, part(1, b"allaprima.card") + part(2, b'{"title": "\xff\xfe"}')), "damaged")


# What is not a file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_a_device_and_a_folder_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    (tmp_path / "folder.onnx").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(StyleError, match="cannot be read: it is no file"):
            read_style(path)


# Mutants


@pytest.fixture(scope="module")
def good_files(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for flavor in ("image", "frame", "image.int8"):
        (folder / f"{flavor}.onnx").write_bytes(sealed(models[flavor], flavor.split(".")[0]))
    (folder / "several.onnx").write_bytes(palette_style())
    return folder


@pytest.mark.thorough
def test_a_mutant_is_refused_or_paints(good_files):
    """In separate processes, which end if a mutant crashes, hangs or takes too much memory."""
    counts = (MUTANTS // 2, MUTANTS - MUTANTS // 2)
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, good_files, str(seed), str(count)],
            cwd=Path(onnx_file.__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed, count in enumerate(counts)
    ]
    refused = painted = 0
    for process, count in zip(processes, counts, strict=True):
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said[-2000:]
        done, *numbers = said.splitlines()[-1].split()
        assert done == "done"
        assert sum(map(int, numbers)) == count
        refused, painted = refused + int(numbers[0]), painted + int(numbers[2])
    assert refused > MUTANTS // 2  # the mutants are wild enough
    assert painted > MUTANTS // 100  # and tame enough


NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -2, -(2**63))


def changed_bytes(rng, data, structure):
    """Some bytes changed, inserted, deleted or copied elsewhere, mostly outside of weights and metadata."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.choice(structure) if rng.random() < 0.95 else rng.randrange(len(data))
        place = min(place, len(mutant) - 1)
        length = rng.choice((1, 1, 2, 4, 16, 100))
        match rng.randrange(6):
            case 0:
                mutant[place] ^= 1 << rng.randrange(8)
            case 1:
                mutant[place] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                mutant[place:place] = rng.randbytes(length)
            case 3:
                del mutant[place : place + length]
            case 4:
                source = rng.choice(structure)
                mutant[place:place] = data[source : source + length]
            case 5:
                source = rng.choice(structure)
                mutant[place : place + length] = data[source : source + length]
    return bytes(mutant)


def changed_model(rng, data):
    """Still a valid protobuf: nodes, attributes, shapes and names swapped, or numbers changed."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    graph = model.graph
    for _ in range(rng.choice((1, 1, 2, 3))):
        each, other = rng.choice(graph.node), rng.choice(graph.node)
        tensor, another = rng.choice(graph.initializer), rng.choice(graph.initializer)
        match rng.randrange(11):
            case 0 if each.attribute:
                attribute = rng.choice(each.attribute)
                if attribute.ints:
                    attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
                else:
                    attribute.i = rng.choice(NUMBERS)
            case 1 if each.input and other.output:
                each.input[rng.randrange(len(each.input))] = other.output[0]
            case 2 if each.input:
                each.input[rng.randrange(len(each.input))] = tensor.name
            case 3:
                each.op_type = other.op_type
            case 4:
                graph.node.remove(each)
            case 5 if tensor.dims:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
            case 6:
                tensor.data_type = rng.choice((another.data_type, rng.randrange(24)))
            case 7:
                numbers = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * len(tensor.raw_data)
                tensor.raw_data = rng.choice((another.raw_data, numbers, rng.randbytes(len(tensor.raw_data))))
            case 8:
                tensor.dims[:] = another.dims
                tensor.raw_data = rng.choice((another.raw_data, tensor.raw_data))
            case 9:
                each.output[0] = other.output[0]
            case 10:
                name = tensor.name
                tensor.CopyFrom(another)
                tensor.name = name
    return model.SerializeToString()


def structure_of(data):
    """Positions in a file that belong to neither weights nor metadata."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    inside = np.ones(len(data), bool)
    inside[data.index(b"allaprima.contract") :] = False
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64:
            start = data.index(tensor.raw_data)
            inside[start : start + len(tensor.raw_data)] = False
    return np.flatnonzero(inside).tolist()


def paint_mutants(folder, seed, count):
    """Opens mutants and paints with them; an alarm or exception ends the process at the first that misbehaves."""
    rng = random.Random(seed)
    files = [path.read_bytes() for path in sorted(folder.glob("*.onnx"))]
    structures = [structure_of(data) for data in files]
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    mutant_file = folder / f"mutant{seed}"
    refused = failed = painted = 0
    most_kb = 0
    for i in range(-len(files), count):
        data = files[i] if i < 0 else files[i % len(files)]
        if i >= 0:
            data = changed_bytes(rng, data, structures[i % len(files)]) if rng.random() < 0.5 else changed_model(rng, data)
        mutant_file.write_bytes(data)
        signal.alarm(20)
        try:
            session = StyleSession(mutant_file, "cpu")
        except StyleError as error:
            if i < 0:
                raise
            refused += "ONNX Runtime" not in str(error)
            failed += "ONNX Runtime" in str(error)
            continue
        try:
            result = session.stylize(frame)
            assert (result.shape, result.dtype) == (frame.shape, frame.dtype)
            painted += i >= 0
        except StyleError:
            failed += 1
        finally:
            signal.alarm(0)
        used_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        most_kb = used_kb if i < 0 else most_kb
        assert used_kb < most_kb + 200 * 1024, f"mutant {i} of {seed} took {used_kb - most_kb} kB"
    print("done", refused, failed, painted)


if __name__ == "__main__":
    paint_mutants(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
