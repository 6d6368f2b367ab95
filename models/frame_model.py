"""Puts a network's graph inside a frame file's: the exporter builds it, the runtime rebuilds it around a file's network."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, numpy_helper, parser

from allaprima.models import frame_graph, levels_graph
from allaprima.models.contract import FRAME, IMAGE, LUMA, WEIGHTS

IR_VERSION = 8  # of ONNX 1.13, which introduced opset 18; ONNX Runtime 1.14 and all that is built on it read it
ROWS = "each."  # before the name of an initializer that each of several styles has of its own
_TYPES = {"int64": onnx.TensorProto.INT64, "bool": onnx.TensorProto.BOOL, "float32": onnx.TensorProto.FLOAT}


def as_frame(model: ModelProto, stride_px: int, least_px: int, optional: Mapping[str, float]) -> ModelProto:
    """The graph that takes and returns frames of any size. If `optional` has `strokes`, the network sits in a loop over
    levels.

    Args:
        model: an image graph. stride_px, least_px: of its network.
        optional: as `Contract.optional`, the optional inputs and their defaults.
    Raises:
        ValueError: as `around`.
    """
    if "strokes" not in optional:
        before, after = frame_graph.lines(frame_graph.PROLOGUE), frame_graph.lines(frame_graph.EPILOGUE)
        graph = _frame_graph(before + after, frame_graph.constants(stride_px, least_px), frame_graph.SCALARS, optional)
        return around(model, graph, len(before), IMAGE.output)
    first, last = frame_graph.lines(levels_graph.BEFORE_NETWORK), frame_graph.lines(levels_graph.AFTER_NETWORK)
    body = parser.parse_graph(f"level () => () {{ {_parsed([*first, *last])} }}")
    for ends, declared in ((body.input, levels_graph.BODY_INPUTS), (body.output, levels_graph.BODY_OUTPUTS)):
        ends.extend(onnx.helper.make_tensor_value_info(name, _TYPES[kind], dims) for name, kind, dims in declared)
    body = around(model, body, len(first), IMAGE.output).graph
    before, after = frame_graph.lines(levels_graph.BEFORE_LOOP), frame_graph.lines(levels_graph.AFTER_LOOP)
    graph = _frame_graph(before + after, levels_graph.constants(stride_px, least_px), levels_graph.SCALARS, optional)
    graph.initializer.extend(body.initializer)  # outside the loop, runtimes prepare them only once
    del body.initializer[:]
    nodes = list(graph.node)
    del graph.node[:]
    loop = onnx.helper.make_node("Loop", *levels_graph.LOOP_ENDS, body=body)
    graph.node.extend([*nodes[: len(before)], loop, *nodes[len(before) :]])
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=IR_VERSION)


def with_weights(model: ModelProto, own: Mapping[str, np.ndarray]) -> ModelProto:
    """The graph of one style as the graph of several, with the input `weights` that says how much of each counts.

    It has no default, as runtimes in JavaScript cannot feed inputs that have one.

    Args:
        model: any of ours, image or frame.
        own: by the names of those initializers that each style has of its own, (S, ...) for S styles.
    """
    count = len(next(iter(own.values())))
    mixed = ModelProto()
    mixed.CopyFrom(model)
    graph = mixed.graph
    others = [tensor for tensor in graph.initializer if tensor.name not in own]
    nodes = list(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.input.append(onnx.helper.make_tensor_value_info(WEIGHTS, onnx.TensorProto.FLOAT, [count]))
    arrays = {"ones": np.ones((count, 1), np.float32)}
    graph.node.append(onnx.helper.make_node("MatMul", [WEIGHTS, "ones"], ["total"]))
    graph.node.append(onnx.helper.make_node("Div", [WEIGHTS, "total"], ["shares"]))
    for name, array in own.items():
        arrays[ROWS + name] = array.reshape(count, -1).astype(np.float32)
        row = name if array.ndim == 2 else f"{name}.flat"
        graph.node.append(onnx.helper.make_node("MatMul", ["shares", ROWS + name], [row]))
        if row != name:
            arrays[f"{name}.shape"] = np.array(array.shape[1:], np.int64)
            graph.node.append(onnx.helper.make_node("Reshape", [row, f"{name}.shape"], [name]))
    graph.node.extend(nodes)
    graph.initializer.extend([*others, *(numpy_helper.from_array(array, name) for name, array in arrays.items())])
    return mixed


def _parsed(nodes: Sequence[str]) -> str:
    """The nodes in onnx.parser's syntax."""
    return "\n".join(nodes).replace("'", '"')


def _frame_graph(
    nodes: Sequence[str], vectors: Mapping[str, list[int]], scalars: Mapping[str, float], optional: Mapping[str, float]
) -> GraphProto:
    """A graph from frame to frame, made of nodes and the constants and optional inputs that they refer to."""
    dims = ", ".join(str(dim) for dim in FRAME.dims)
    graph = parser.parse_graph(f"frame (uint8[{dims}] {FRAME.input}) => (uint8[{dims}] {FRAME.output}) {{ {_parsed(nodes)} }}")
    matrices = 255.0 * mixing_matrices().reshape(3, 3, 6, 1, 1)
    arrays = {
        **{name: np.array(values, np.int64) for name, values in vectors.items()},
        **{name: np.array(value, np.float32) for name, value in {**scalars, **optional}.items()},
        **{name: matrix.astype(np.float32) for name, matrix in zip(frame_graph.MATRICES, matrices, strict=True)},
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    for name in optional:
        # A graph input that has an initializer is optional; the initializer is its default.
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
    return graph


def mixing_matrices() -> np.ndarray:
    """P0, P1, P2, each (3, 6): the mixture is (P0 + strength P1 + strength keep_color P2) [content; stylized].

    strength blends from the content to the painting; keep_color blends the painting to one with the stylized luminance
    and the content's chroma, content + Y(stylized) - Y(content) (Gatys et al. 2016, "Preserving Color", Sec. 5). All of
    it is linear: one 1x1 convolution.
    """
    identity, luma = np.eye(3), np.ones((3, 1)) @ np.array([LUMA])
    nothing = np.zeros((3, 3))
    content = (identity, -identity, identity - luma)
    stylized = (nothing, identity, luma - identity)
    return np.stack([np.hstack(pair) for pair in zip(content, stylized, strict=True)]).astype(np.float32)


def around(model: ModelProto, outer: GraphProto, before: int, output_name: str) -> ModelProto:
    """An image model inside an outer graph, after the outer graph's first `before` nodes; its result gets the given name.

    Raises:
        ValueError: both use the same name for different values.
    """
    inner = GraphProto()
    inner.CopyFrom(model.graph)
    for node in inner.node:
        node.output[:] = [output_name if value == IMAGE.output else value for value in node.output]
    names = [value for graph in (inner, outer) for node in graph.node for value in node.output]
    names += [tensor.name for graph in (inner, outer) for tensor in graph.initializer]
    if len(names) != len(set(names)):
        raise ValueError(f"makes {next(name for name in names if names.count(name) > 1)!r} twice")
    graph = GraphProto(name=outer.name, input=outer.input, output=outer.output)
    graph.node.extend([*outer.node[:before], *inner.node, *outer.node[before:]])
    graph.initializer.extend([*inner.initializer, *outer.initializer])
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=IR_VERSION)
