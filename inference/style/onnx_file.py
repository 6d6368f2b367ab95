"""Reads a style's .onnx file: what a style needs is copied into a new model, and only that one goes to ONNX Runtime.

85 bytes of ONNX can claim gigabytes, loop forever or read any file on the disk, and all of that passes ONNX's own
checker. So only the network of a file is used: its nodes, attributes and weights, each of a kind on the lists below. The
graph's inputs and outputs, the nodes around the network in a frame file, and the loop over levels are rebuilt as the
exporter writes them; anything else in a file is left out.
"""

import math
import re
import stat
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from allaprima.models.contract import IMAGE, LOWEST_OPSET, OPSET, Contract
from allaprima.models.errors import StyleError
from allaprima.models.frame_model import IR_VERSION, ROWS, as_frame, with_weights

# Of a file; ours have up to 7 MB. In the worst case, nothing but empty attributes, 8 MB take 0.8 GB and 0.6 s to parse
# (protobuf 7.36, AMD EPYC, 2026-12-01).
MAX_BYTES = 8 * 2**20
MAX_NODES = 2000  # ours have about a hundred
MAX_REASON = 300  # letters of a message
MAX_NUMBERS = 64  # in a constant that sizes depend on
MAX_CHANNELS = 1024
MAX_KERNEL_PX = 16  # of a convolution's kernel, stride, border
# Of a network on a picture of LARGE_PX; the quality tier has 1600, in int8, and 150 000.
LARGE_PX = 1024
MAX_BORDER_PX = 64  # how much larger than the picture anything inside may be
MAX_FLOATS_A_PIXEL = 4096  # of all values together
MAX_PRODUCTS_A_PIXEL = 4_000_000  # of all convolutions together

TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.INT64: np.dtype("<i8"),
}

# What an attribute may be, if not one of a few values.
SMALL, POSITIVE, EPSILON = "whole numbers from 0 to MAX_KERNEL_PX", "the same from 1", "a float from 0 to 1"
# Operator of a network -> its inputs, one letter each, and its attributes. P: a value computed from the picture; W: weights
# of a convolution; C: numbers, one per channel; N: one number; E: P or N, but not all of them N; S: some numbers that sizes
# depend on; -: nothing.
OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "Add": ("EE", {}),
    "Cast": ("P", {"to": (TensorProto.FLOAT, TensorProto.FLOAT16)}),
    "Clip": ("PNN", {}),
    "Concat": ("PP", {"axis": (1,)}),
    "Conv": (
        "PWC",
        {"auto_pad": ("NOTSET",), "dilations": ([1, 1],), "group": (1,)}
        | {"kernel_shape": POSITIVE, "pads": SMALL, "strides": POSITIVE},
    ),
    "DepthToSpace": ("P", {"blocksize": (2, 4), "mode": ("CRD", "DCR")}),
    "DequantizeLinear": ("PNN", {"axis": (0,)}),
    "InstanceNormalization": ("PCC", {"epsilon": EPSILON}),
    "Pad": ("PS", {"mode": ("reflect",)}),
    "QuantizeLinear": ("PNN", {}),
    "Relu": ("P", {}),
    "Resize": (
        "P-S",
        {"antialias": (0,), "coordinate_transformation_mode": ("asymmetric",), "cubic_coeff_a": (-0.75,)}
        | {"exclude_outside": (0,), "extrapolation_value": (0.0,), "keep_aspect_ratio_policy": ("stretch",)}
        | {"mode": ("nearest",), "nearest_mode": ("floor",)},
    ),
    "Sigmoid": ("P", {}),
    "Sub": ("EE", {}),
}


class _Refused(Exception):
    """Why a file is refused, as the end of the sentence "FILE ..."."""


def read_style(path: Path) -> tuple[bytes, Contract]:
    """A style's model, safe to run, and its contract.

    Raises:
        StyleError: no such file, not ONNX, not ours, damaged, or its network contains something that none of ours has.
    """
    return rebuilt(_bytes(path), str(path))


def read_about(path: Path) -> tuple[int, Contract, int, int]:
    """What a file says about itself: its size in bytes, contract, ONNX's IR version and opset. It also reads files in another
    runtime's form, with which this program cannot paint.

    Raises:
        StyleError: as `read_style`.
    """
    data = _bytes(path)
    model, contract = _parsed(data, str(path))
    if not contract.target:
        rebuilt(data, str(path))
    return len(data), contract, model.ir_version, next((each.version for each in model.opset_import), 0)


def _bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or device has no end
            raise StyleError(f"{path} cannot be read: it is no file")
        if status.st_size <= MAX_BYTES:  # else `_parsed` says so
            return path.read_bytes()
    except OSError as error:
        raise StyleError(f"{path} cannot be read: {error.strerror or error}") from error
    raise _too_large(str(path), status.st_size)


def _too_large(name: str, size: int) -> StyleError:
    return StyleError(f"{name} is {size / 2**20:.0f} MB; a style has at most {MAX_BYTES / 2**20:.0f} MB")


def rebuilt(data: bytes, name: str) -> tuple[bytes, Contract]:
    """A style's model, rebuilt from those parts of its bytes that a style needs, and its contract.

    Args:
        data: of an .onnx file. name: for messages.
    Raises:
        StyleError: as `read_style`.
    """
    model, contract = _parsed(data, name)
    if contract.target:
        size = " at {}x{}".format(*contract.size) if contract.size else ""
        raise StyleError(
            f"{name} is made for {contract.target[:20]!r}{size}; to paint with it here, export it without --for, --size and "
            "--opset"
        )
    try:
        opset = _opset(model)
        stride_px, least_px = (contract.stride_px, contract.least_px) if contract.io == "image" else _sizes(model.graph)
        own = _own_numbers(model.graph, contract) if contract.mix else {}
        for name, array in own.items():  # what follows sees the first style's
            model.graph.initializer.append(numpy_helper.from_array(array[0].astype("<f4"), name))
        network = _Network(model.graph, _network_nodes(model.graph, contract), own.keys())
        network.check_sizes(stride_px, least_px, opset)
        image_model = network.model(opset)
        safe = image_model if contract.io == "image" else as_frame(image_model, stride_px, least_px, contract.optional)
        if own:
            safe = with_weights(safe, own)
        return safe.SerializeToString(), contract
    except (_Refused, ValueError) as refused:  # ValueError: a name that is not text, or occurs twice
        reason = str(refused)[:MAX_REASON]
        raise StyleError(f"{name} is not safe to open: it {reason}; export it again, or get it elsewhere") from None


def _parsed(data: bytes, name: str) -> tuple[ModelProto, Contract]:
    """A file's model, not safe to run, and its contract."""
    if not data:
        raise StyleError(f"{name} is empty; an .onnx file of ours is wanted")
    if len(data) > MAX_BYTES:
        raise _too_large(name, len(data))
    model = ModelProto()
    try:
        model.ParseFromString(data)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except Exception as error:  # protobuf's DecodeError; UnicodeDecodeError
        raise StyleError(f"{name} is no ONNX file, or a damaged one; make one with: allaprima export RUN") from error
    return model, Contract.from_metadata(metadata, name)


def _opset(model: ModelProto) -> int:
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not LOWEST_OPSET <= versions[0] <= OPSET:
        raise _Refused(f"has operators other than ONNX's own of opset {LOWEST_OPSET} to {OPSET}")
    return int(versions[0])


def _network_nodes(graph: GraphProto, contract: Contract) -> Iterable[NodeProto]:
    """The network's own nodes, from an image to an image."""
    nodes: Sequence[NodeProto] = graph.node
    if contract.strokes is not None:
        bodies = [each.g for node in nodes if node.op_type == "Loop" for each in node.attribute if each.name == "body"]
        if len(bodies) != 1:
            raise _Refused(f"has {len(bodies)} loops where one is wanted")
        nodes = bodies[0].node
    if len(nodes) > MAX_NODES:
        raise _Refused(f"has more than {MAX_NODES} nodes")
    if contract.mix:  # what makes its numbers from the weights is rebuilt
        nodes = [node for node in nodes if node.op_type not in ("MatMul", "Div", "Reshape")]
    makers = {name: i for i, node in enumerate(nodes) for name in node.output}
    if IMAGE.output not in makers or (contract.io == "frame" and IMAGE.input not in makers):
        raise _Refused(f"has no network that makes {IMAGE.output}")
    return nodes[makers.get(IMAGE.input, -1) + 1 : makers[IMAGE.output] + 1]


def _own_numbers(graph: GraphProto, contract: Contract) -> dict[str, np.ndarray]:
    """What each style of a file of several has of its own, as `with_weights` takes it."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    own = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):  # protobuf gives bytes that are no UTF-8 as they are
            raise _Refused("has a name that is not text")
        if not name.startswith(ROWS):
            continue
        array, inner = _array(tensor), name.removeprefix(ROWS)
        if array.ndim != 2 or len(array) != len(contract.mix) or array.dtype != np.float32:
            raise _Refused(f"has {name!r} of shape {list(array.shape)} for {len(contract.mix)} styles")
        if shape := tensors.get(f"{inner}.shape"):
            dims = _array(shape)
            if dims.dtype != np.int64 or dims.shape != (4,) or dims.min() < 1 or math.prod(dims.tolist()) != array.shape[1]:
                raise _Refused(f"has {name!r}, whose numbers do not fit their shape")
            array = array.reshape(len(array), *dims.tolist())
        own[inner] = array
    if not own:
        raise _Refused("has nothing that tells its styles apart")
    return own


def _sizes(graph: GraphProto) -> tuple[int, int]:
    """Stride and least size of the network in a frame file."""
    sizes = []
    for name, most in (("stride_px", 64), ("least_px", 1024)):
        found = [_array(each) for each in graph.initializer if each.name == name]
        if len(found) != 1 or found[0].shape != (1,) or found[0].dtype != np.int64 or not 1 <= found[0][0] <= most:
            raise _Refused(f"has no {name} from 1 to {most}")
        sizes.append(int(found[0][0]))
    return sizes[0], sizes[1]


def _array(tensor: TensorProto) -> np.ndarray:
    """An initializer, if it is entirely in the file and consists of numbers."""
    dims = tuple(tensor.dims)
    if tensor.data_type not in TYPES:
        raise _Refused(f"has an initializer {tensor.name!r} of an unknown type {tensor.data_type}")
    if len(dims) > 4 or any(not 0 < dim <= MAX_BYTES for dim in dims):
        raise _Refused(f"has an initializer {tensor.name!r} of shape {list(dims)[:5]}")
    dtype = TYPES[tensor.data_type]
    if math.prod(dims) * dtype.itemsize != len(tensor.raw_data):
        raise _Refused(
            f"has an initializer {tensor.name!r} of {len(tensor.raw_data)} bytes, which does not fit its shape {list(dims)}"
        )
    array = np.frombuffer(tensor.raw_data, dtype).reshape(dims)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise _Refused(f"has an initializer {tensor.name!r} with numbers that are not finite")
    return array


class _Network:
    """A network's nodes and constants, each of a kind that a style has.

    Args:
        graph: the source of initializers. nodes: the network's own.
        varying: names of initializers that will be computed from weights; sizes may not depend on them.
    Raises:
        _Refused: one is of another kind, or a node uses values that no node before it computes.
    """

    def __init__(self, graph: GraphProto, nodes: Iterable[NodeProto], varying: Container[str] = ()) -> None:
        self._varying = varying
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the used constants, and of weights made from 8-bit ones
        self._pictures = {IMAGE.input}
        self._taken: set[str] = set()
        self.nodes = [self._copied(node) for node in nodes]

    def model(self, opset: int, without_weights: bool = False) -> ModelProto:
        """An image model.

        Args:
            without_weights: its larger constants become inputs of known shapes.
        """
        content, stylized = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, IMAGE.dims) for name in (IMAGE.input, IMAGE.output)
        )
        graph = helper.make_graph(self.nodes, "style", [content], [stylized])
        for name, tensor in self._tensors.items():
            if name in self._shapes and without_weights and math.prod(tensor.dims) > MAX_NUMBERS:
                graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
            elif name in self._shapes:
                graph.initializer.add(name=name, data_type=tensor.data_type, dims=tensor.dims, raw_data=tensor.raw_data)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)

    def check_sizes(self, stride_px: int, least_px: int, opset: int) -> None:
        """Refuse values much larger than the picture, too much work, and borders longer than what they mirror."""
        for side in (least_px, LARGE_PX):
            side = -(-side // stride_px) * stride_px
            floats = products = 0.0
            shapes = _inferred(self.model(opset, without_weights=True), side)
            for node in self.nodes:
                shape = shapes.get(node.output[0], ())
                if node.output[0] not in self._pictures:
                    continue
                if len(shape) != 4 or shape[0] != 1 or not 1 <= shape[1] <= MAX_CHANNELS or min(shape) < 1:
                    raise _Refused(f"has a {node.op_type} that makes {list(shape)} of a picture of {side} px")
                if max(shape[2:]) > side + MAX_BORDER_PX:
                    raise _Refused(f"has a {node.op_type} that makes more than a picture of the same size")
                inputs = [shapes[name] for name in node.input if name in self._pictures]
                self._check_channels(node, inputs[0][1], shape[1])
                if node.op_type in ("Add", "Sub", "Concat") and len({each[2:] for each in inputs}) != 1:
                    raise _Refused(f"has a {node.op_type} of pictures of different sizes")
                if node.op_type == "Pad":
                    self._check_border(node, min(inputs[0][2:]))
                pixels = shape[2] * shape[3] / side**2
                floats += shape[1] * pixels
                if node.op_type == "Conv":
                    products += math.prod(self._shapes[node.input[1]]) * pixels
            if shapes[IMAGE.output] != shapes[IMAGE.input]:
                raise _Refused(f"makes no {IMAGE.output} as large as the picture")
        if floats > MAX_FLOATS_A_PIXEL or products > MAX_PRODUCTS_A_PIXEL:
            raise _Refused(f"needs {floats:.0f} floats and {products:.0f} products for each pixel")

    def _copied(self, node: NodeProto) -> NodeProto:
        operator = node.op_type
        if operator not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise _Refused(f"has the operator {f'{node.domain}.{operator}'.lstrip('.')[:40]!r}, which no style needs")
        kinds, allowed = OPERATORS[operator]
        least = len(kinds) - (operator == "Conv")  # biases may be missing
        if not least <= len(node.input) <= len(kinds) or len(node.output) != 1:
            raise _Refused(f"has a {operator} with other inputs or outputs than a style's")
        if operator == "DequantizeLinear" and node.input[0] not in self._pictures:
            self._dequantize(node)
        else:
            for name, kind in zip(node.input, kinds, strict=False):
                self._check_input(operator, name, kind)
            if not self._pictures & set(node.input):
                raise _Refused(f"has a {operator} of constants alone")
            self._pictures.add(self._new(node.output[0]))
        attributes = [helper.make_attribute(key, value) for key, value in _attributes(node, allowed).items()]
        copy = NodeProto(op_type=operator, input=node.input, output=node.output, attribute=attributes)
        if node.HasField("name"):
            copy.name = node.name
        if node.HasField("domain"):
            copy.domain = ""  # ONNX's own domain, for its shape inference
        return copy

    def _new(self, name: str) -> str:
        if not name or name in self._pictures or name in self._shapes or name in self._tensors:
            raise _Refused(f"makes {name!r} twice")
        return name

    def _check_input(self, operator: str, name: str, kind: str) -> None:
        if name in self._pictures and kind in "PE":
            return
        if name in self._pictures or kind == "P":
            raise _Refused(f"has a {operator} with {name!r}, where a style has {'a picture' if kind == 'P' else 'a constant'}")
        if kind == "-" and not name:
            return
        shape = self._shape(name)
        if name in self._varying and kind not in ("W", "C"):
            raise _Refused(f"has a {operator} with {name!r}, which depends on the weights of styles")
        fits = {
            "W": len(shape) == 4,
            "C": len(shape) == 1,
            "N": math.prod(shape) == 1,
            "E": math.prod(shape) == 1,
            "S": math.prod(shape) <= MAX_NUMBERS,
        }
        if not fits.get(kind, False):
            raise _Refused(f"has a {operator} with {name!r} of shape {list(shape)}, as no style has")
        if kind == "W":
            self._take(operator, name)

    def _take(self, operator: str, name: str) -> None:
        """Allow weights to be used only once, as ONNX Runtime copies them for each operator that uses them."""
        if name in self._taken:
            raise _Refused(f"has a {operator} with weights {name!r} that another one has")
        self._taken.add(name)

    def _dequantize(self, node: NodeProto) -> None:
        """Register 8-bit weights, which become floats when the file is opened, and so four times as large."""
        shape, *others = (self._shape(name) for name in node.input)
        if node.input[0] not in self._tensors or any(other not in ((), shape[:1]) for other in others):
            raise _Refused(f"has a DequantizeLinear of shape {list(shape)} with a scale or zero that does not fit")
        self._take("DequantizeLinear", node.input[0])
        self._shapes[self._new(node.output[0])] = shape

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant, which from here on counts as used."""
        if name not in self._shapes:
            if name not in self._tensors:
                raise _Refused(f"uses {name!r} before it is there")
            self._shapes[name] = _array(self._tensors[name]).shape
        return self._shapes[name]

    def _check_channels(self, node: NodeProto, before: int, after: int) -> None:
        """Check that convolutions and norms have weights for exactly the existing channels."""
        kinds, _ = OPERATORS[node.op_type]
        for name, kind in zip(node.input, kinds, strict=False):
            wanted = {"W": (after, before), "C": (after,)}.get(kind)
            if wanted and self._shapes[name][:2] != wanted:
                raise _Refused(f"has a {node.op_type} of {before} channels with weights of shape {list(self._shapes[name])}")

    def _check_border(self, node: NodeProto, side: int) -> None:
        """Refuse a mirrored border longer than the picture, where runtimes overran their memory."""
        pads = _array(self._tensors[node.input[1]])
        border_px = int(pads.max())
        if pads.dtype != np.int64 or pads.tolist() != [0, 0, border_px, border_px] * 2 or not 0 <= border_px < side:
            raise _Refused(f"has a Pad of {pads.tolist()} around {side} px")


def _attributes(node: NodeProto, allowed: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        wanted = allowed.get(attribute.name, ())
        if isinstance(wanted, tuple):  # compared as text, as 1 and 1.0 differ in ONNX
            fits = isinstance(value, int | float | str | list) and repr(value) in map(repr, wanted)
        elif wanted == EPSILON:
            fits = isinstance(value, float) and 0.0 <= value <= 1.0
        else:
            fits = isinstance(value, list) and 1 <= len(value) <= 4
            fits = fits and all(isinstance(each, int) and (wanted == POSITIVE) <= each <= MAX_KERNEL_PX for each in value)
        if not fits or attribute.name in attributes:
            text = repr(value)[:100] if isinstance(value, int | float | str | list) else type(value).__name__
            raise _Refused(f"has a {node.op_type} with {attribute.name[:40]} = {text}")
        attributes[attribute.name] = value
    return attributes


def _inferred(model: ModelProto, side: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all values for a square picture with this side."""
    for dim, length in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, side, side), strict=True):
        dim.dim_value = length
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    try:
        graph = shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    except Exception as error:  # its own class, ValueError or RuntimeError
        first = re.search(r"\(op_type:(\w+).*?\[\w+\] (.*?)(?: \(op_type|$)", " ".join(str(error).split()))
        raise _Refused("has a {} that does not fit: {}".format(*first.groups() if first else ("node", error))) from error
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
