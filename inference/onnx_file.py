"""Reading a style's .onnx file, and refusing what is not ours or not safe, before ONNX Runtime sees it.

85 bytes of ONNX can claim gigabytes, loop for ever or read any file of the disk, and all of that passes ONNX's own
checker. So this reads the file's protobuf itself (https://protobuf.dev/programming-guides/encoding, onnx.proto3 of ONNX
1.18), knows only the few fields and operators that our files have, and refuses everything else.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models import frame_graph
from models.contract import OPSET, OPTIONAL_INPUTS, Contract, Tensors
from models.errors import StyleError

MOST_BYTES = 64 * 2**20  # of a file; ours are below 10 MB
MOST_ITEMS = 2000  # of nodes, of initializers; ours have some hundred
MOST_CHANNELS = 1024
MOST_KERNEL_PX = 16
MOST_RESIZES = 3  # each doubles height and width

# Wire types of protobuf.
VARINT, FIXED32, BYTES = 0, 5, 2

# ONNX's TensorProto.DataType.
TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
NUMPY = {name: np.dtype(name) for name in TYPES.values()}

# Which numbers of a message's fields mean what: number -> (name, wire type or message, repeated).
Schema = dict[int, tuple[str, "int | Schema", bool]]
ENTRY: Schema = {1: ("key", BYTES, False), 2: ("value", BYTES, False)}
TENSOR: Schema = {
    1: ("dims", VARINT, True),
    2: ("data_type", VARINT, False),
    8: ("name", BYTES, False),
    9: ("raw_data", BYTES, False),
}
# Missing on purpose: what a file may do without, and what makes it dangerous. TensorProto: external data; AttributeProto:
# graphs and tensors; NodeProto: overload; ModelProto: functions; GraphProto: sparse initializers.
ATTRIBUTE: Schema = {
    1: ("name", BYTES, False),
    2: ("f", FIXED32, False),
    3: ("i", VARINT, False),
    4: ("s", BYTES, False),
    8: ("ints", VARINT, True),
    20: ("type", VARINT, False),
}
NODE: Schema = {
    1: ("input", BYTES, True),
    2: ("output", BYTES, True),
    3: ("name", BYTES, False),
    4: ("op_type", BYTES, False),
    5: ("attribute", ATTRIBUTE, True),
    6: ("doc_string", BYTES, False),
    7: ("domain", BYTES, False),
}
DIM: Schema = {1: ("dim_value", VARINT, False), 2: ("dim_param", BYTES, False)}
TENSOR_TYPE: Schema = {1: ("elem_type", VARINT, False), 2: ("shape", {1: ("dim", DIM, True)}, False)}
VALUE: Schema = {
    1: ("name", BYTES, False),
    2: ("type", {1: ("tensor_type", TENSOR_TYPE, False)}, False),
    3: ("doc_string", BYTES, False),
}
GRAPH: Schema = {
    1: ("node", NODE, True),
    2: ("name", BYTES, False),
    10: ("doc_string", BYTES, False),
    5: ("initializer", TENSOR, True),
    11: ("input", VALUE, True),
    12: ("output", VALUE, True),
}
MODEL: Schema = {
    1: ("ir_version", VARINT, False),
    2: ("producer_name", BYTES, False),
    3: ("producer_version", BYTES, False),
    7: ("graph", GRAPH, False),
    8: ("opset_import", {1: ("domain", BYTES, False), 2: ("version", VARINT, False)}, True),
    14: ("metadata_props", ENTRY, True),
}

# Operator of a network -> how many inputs, and the attributes that it may have.
OPERATORS: dict[str, tuple[tuple[int, ...], frozenset[str]]] = {
    "Add": ((2,), frozenset()),
    "Cast": ((1,), frozenset({"to", "saturate"})),
    "Clip": ((3,), frozenset()),
    "Concat": ((2,), frozenset({"axis"})),
    "Conv": ((2, 3), frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})),
    "DepthToSpace": ((1,), frozenset({"blocksize", "mode"})),
    "DequantizeLinear": ((3,), frozenset({"axis"})),
    "InstanceNormalization": ((3,), frozenset({"epsilon"})),
    "Pad": ((2,), frozenset({"mode"})),
    "QuantizeLinear": ((3,), frozenset({"axis", "saturate"})),
    "Relu": ((1,), frozenset()),
    "Resize": (
        (3,),
        frozenset({"antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value"})
        | {"keep_aspect_ratio_policy", "mode", "nearest_mode"},
    ),
    "Sigmoid": ((1,), frozenset()),
    "Sub": ((2,), frozenset()),
}
# Whole numbers in attributes, beside those of convolutions: axis, block size, element type, flags.
MOST_INTEGER = 16


class _Refused(Exception):
    """Why a file is not taken, as the end of the sentence "FILE ..."."""


def read_style(path: Path) -> tuple[bytes, Contract]:
    """A style's bytes and contract.

    Raises:
        StyleError: no such file, not ONNX, not ours, damaged, or with something in it that no file of ours has.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise StyleError(f"{path} is {size / 2**20:.0f} MB; a style has at most {MOST_BYTES / 2**20:.0f} MB")
        data = path.read_bytes()
    except OSError as error:
        raise StyleError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise StyleError(f"{path} is empty; an .onnx file of ours is wanted")
    return data, check_style(data, str(path))


def check_style(data: bytes, name: str) -> Contract:
    """The contract of a style's bytes, if all in them is as our exporter writes it.

    Args:
        data: of an .onnx file. name: for messages.
    Raises:
        StyleError: as `read_style`.
    """
    try:
        model = _message(memoryview(data), MODEL, "model")
        metadata = {_text(entry["key"]): _text(entry["value"], MOST_BYTES) for entry in model["metadata_props"]}
        graph = _graph(model)
    except _Refused as refused:
        raise StyleError(
            f"{name} is not an ONNX file that may be opened: it {refused}; make one with: allaprima export RUN"
        ) from None
    contract = Contract.from_metadata(metadata, name)
    try:
        _check_ends(model["graph"], graph, contract)
        _check_network(graph, _without_frame(graph, contract) if contract.io == "frame" else graph.nodes, contract.tensors)
    except _Refused as refused:
        raise StyleError(f"{name} is not safe to open: it {refused}; export it again, or get it elsewhere") from None
    return contract


@dataclass(frozen=True)
class _Array:
    """An initializer: what it says about itself, and its bytes, which are all there."""

    type: str
    dims: tuple[int, ...]
    data: memoryview

    def values(self) -> list[float]:
        """Its numbers, if they are few."""
        if math.prod(self.dims) > 64:
            raise _Refused(f"has {math.prod(self.dims)} numbers where a few are wanted")
        return [float(value) for value in np.frombuffer(self.data, NUMPY[self.type])]


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        """As `models.frame_graph` writes it."""
        attributes = ", ".join(f"{key} = {value}" for key, value in sorted(self.attributes.items()))
        return f"{', '.join(self.outputs)} = {self.operator}{f'<{attributes}>' if attributes else ''}({', '.join(self.inputs)})"


@dataclass(frozen=True)
class _Graph:
    nodes: list[_Node] = field(default_factory=list)
    arrays: dict[str, _Array] = field(default_factory=dict)


def _graph(model: dict[str, Any]) -> _Graph:
    """Nodes and initializers, each of them whole, every value made once and before it is used."""
    if model["graph"] is None:
        raise _Refused("has no graph")
    if [(_text(each["domain"]), each["version"]) for each in model["opset_import"]] not in (
        [("", OPSET)],
        [("ai.onnx", OPSET)],
    ):
        raise _Refused(f"has operators other than ONNX's own of opset {OPSET}")
    graph = _Graph()
    for tensor in model["graph"]["initializer"]:
        name = _text(tensor["name"])
        if not name or name in graph.arrays:
            raise _Refused(f'has two initializers "{name}"')
        graph.arrays[name] = _array(tensor, name)
    known = {_text(value["name"]) for value in model["graph"]["input"]} | set(graph.arrays)
    for node in model["graph"]["node"]:
        if _text(node["domain"]) not in ("", "ai.onnx"):
            raise _Refused(f"has an operator of the domain {_text(node['domain'])!r}")
        inputs = tuple(_text(value) for value in node["input"])
        outputs = tuple(_text(value) for value in node["output"])
        attributes = dict(_attribute(attribute) for attribute in node["attribute"])
        graph.nodes.append(_Node(_text(node["op_type"]), inputs, outputs, attributes))
        for value in inputs:
            if value and value not in known:
                raise _Refused(f'uses "{value}" before it is there')
        for value in outputs:
            if not value or value in known:
                raise _Refused(f'makes "{value}" twice')
            known.add(value)
    return graph


def _array(tensor: dict[str, Any], name: str) -> _Array:
    if tensor["data_type"] not in TYPES:
        raise _Refused(f'has an initializer "{name}" of an unknown type {tensor["data_type"]}')
    kind, dims = TYPES[tensor["data_type"]], tuple(tensor["dims"])
    data = tensor["raw_data"] or memoryview(b"")
    if len(dims) > 4 or any(not 0 < dim <= MOST_BYTES for dim in dims):
        raise _Refused(f'has an initializer "{name}" of shape {list(dims)}')
    if math.prod(dims) * NUMPY[kind].itemsize != len(data):
        raise _Refused(f'has an initializer "{name}" of {len(data)} bytes, which does not fit its shape {list(dims)}')
    return _Array(kind, dims, data)


def _attribute(attribute: dict[str, Any]) -> tuple[str, Any]:
    """Name and value: a whole number, several, a text, or a float. Of ONNX's AttributeType: FLOAT, INT, STRING, INTS."""
    kinds = {1: "f", 2: "i", 3: "s", 7: "ints"}
    name = _text(attribute["name"])
    if attribute["type"] not in kinds:
        raise _Refused(f'has an attribute "{name}" of a kind that no style needs')
    value = attribute[kinds[attribute["type"]]]
    return name, _text(value) if attribute["type"] == 3 else value


def _check_ends(declared: dict[str, Any], graph: _Graph, contract: Contract) -> None:
    """Inputs and outputs are what the contract says."""
    tensors = contract.tensors
    wanted_inputs = [(tensors.input, tensors.type, tensors.dims)]
    if contract.io == "frame":
        wanted_inputs += [(name, "float32", ()) for name in OPTIONAL_INPUTS]
    for found, wanted in (
        (declared["input"], wanted_inputs),
        (declared["output"], [(tensors.output, tensors.type, tensors.dims)]),
    ):
        if [_ends(value) for value in found] != wanted:
            raise _Refused(f"has tensors {[_ends(value) for value in found]}, {wanted} are wanted")
    for name in OPTIONAL_INPUTS if contract.io == "frame" else ():
        array = graph.arrays.get(name)
        if array is None or (array.type, array.dims) != ("float32", ()) or not 0.0 <= array.values()[0] <= 1.0:
            raise _Refused(f"has no default from 0 to 1 for its input {name}")
    if tensors.input in graph.arrays:
        raise _Refused(f"brings its own {tensors.input}")


def _ends(value: dict[str, Any]) -> tuple[str, str, tuple[str | int, ...]]:
    kind = (value["type"] or {}).get("tensor_type")
    if kind is None:
        raise _Refused("has an input or output that is no tensor")
    dims = tuple(_text(dim["dim_param"]) or dim["dim_value"] for dim in (kind["shape"] or {"dim": []})["dim"])
    return _text(value["name"]), TYPES.get(kind["elem_type"], "?"), dims


def _without_frame(graph: _Graph, contract: Contract) -> list[_Node]:
    """The network's own nodes of a frame file, after a look at those around it, which must be exactly ours."""
    before, after = frame_graph.lines(frame_graph.PROLOGUE), frame_graph.lines(frame_graph.EPILOGUE)
    network = graph.nodes[len(before) : len(graph.nodes) - len(after)]
    around = [*graph.nodes[: len(before)], *graph.nodes[len(before) + len(network) :]]
    for node, line in zip(around, [*before, *after], strict=False):
        if str(node) != line:
            raise _Refused(f"has {str(node)[:200]!r} where {line!r} is wanted")
    if len(around) != len(before) + len(after):
        raise _Refused(f"has {len(graph.nodes)} nodes, fewer than any frame file")
    constants = frame_graph.constants(*_network_sizes(graph))
    for name, values in constants.items():
        array = graph.arrays.get(name)
        if array is None or (array.type, array.dims) != ("int64", (len(values),)) or array.values() != values:
            raise _Refused(f'has no "{name}" of {values}')
    shapes = {**dict.fromkeys(frame_graph.SCALARS, ()), **dict.fromkeys(frame_graph.MATRICES, (3, 6, 1, 1))}
    for name, dims in shapes.items():
        if name not in graph.arrays or (graph.arrays[name].type, graph.arrays[name].dims) != ("float32", dims):
            raise _Refused(f'has no "{name}" of shape {list(dims)}')
    return network


def _network_sizes(graph: _Graph) -> tuple[int, int]:
    """Stride and least size of the network in a frame file."""
    sizes = []
    for name, most in (("stride_px", 64), ("least_px", 1024)):
        array = graph.arrays.get(name)
        if array is None or (array.type, array.dims) != ("int64", (1,)) or not 1 <= array.values()[0] <= most:
            raise _Refused(f"has no {name} from 1 to {most}")
        sizes.append(int(array.values()[0]))
    return sizes[0], sizes[1]


def _check_network(graph: _Graph, nodes: list[_Node], tensors: Tensors) -> None:
    """Nothing that grows without bounds, and nothing that can be worked out before a picture is there."""
    fixed = set(graph.arrays) - set(OPTIONAL_INPUTS)
    if sum(node.operator == "Resize" for node in nodes) > MOST_RESIZES:
        raise _Refused(f"doubles the picture more than {MOST_RESIZES} times")
    for node in nodes:
        counts, attributes = OPERATORS.get(node.operator, ((), frozenset()))
        if not counts:
            raise _Refused(f"has the operator {node.operator[:40]!r}, which no style needs")
        if len(node.inputs) not in counts or len(node.outputs) != 1 or not set(node.attributes) <= attributes:
            raise _Refused(f"has a {node.operator} with other inputs, outputs or attributes than a style's")
        if set(node.inputs) - {""} <= fixed:
            # Worked out when the file is opened. Weights in 8 bits need it, and it makes them four times as large.
            if node.operator != "DequantizeLinear":
                raise _Refused(f"has a {node.operator} of constants alone")
            fixed.add(node.outputs[0])
        _check_numbers(graph, node)
        _check_constants(graph, node, fixed)


def _check_numbers(graph: _Graph, node: _Node) -> None:
    """The whole numbers among a node's attributes."""
    values = {key: value if isinstance(value, list) else [value] for key, value in node.attributes.items()}
    numbers = [number for each in values.values() for number in each if isinstance(number, int)]
    if any(not 0 <= number <= MOST_INTEGER for number in numbers) or len(numbers) > 16:
        raise _Refused(f"has a {node.operator} with {node.attributes}")
    if node.operator == "Conv":
        sizes = [number for key in ("strides", "dilations", "group") for number in values.get(key, [1])]
        if min(sizes) < 1 or values.get("auto_pad", ["NOTSET"]) != ["NOTSET"]:
            raise _Refused(f"has a Conv with {node.attributes}")
    if node.operator == "DepthToSpace" and not 1 <= values.get("blocksize", [0])[0] <= 4:
        raise _Refused(f"has a DepthToSpace with {node.attributes}")
    if node.operator == "Concat" and values.get("axis") != [1]:
        raise _Refused("joins pictures other than by their channels")
    if node.operator == "Cast" and values.get("to", [0])[0] not in (1, 10):
        raise _Refused("casts to a type that no style needs")


def _check_constants(graph: _Graph, node: _Node, fixed: set[str]) -> None:
    """The constants that a node takes."""
    constants = {i: graph.arrays[value] for i, value in enumerate(node.inputs) if value in graph.arrays}
    for i, array in constants.items():
        if node.operator == "DequantizeLinear" and i == 0 and array.type not in ("int8", "uint8", "int32"):
            raise _Refused(f"has a DequantizeLinear of {array.type}")
        if (node.operator, i) in (("Conv", 1), ("DequantizeLinear", 0)) and len(array.dims) != 1:
            if len(array.dims) != 4 or max(array.dims[:2]) > MOST_CHANNELS or max(array.dims[2:]) > MOST_KERNEL_PX:
                raise _Refused(f"has weights of shape {list(array.dims)}")
        elif node.operator == "Pad" and i == 1:
            pads = array.values() if array.type == "int64" else []
            if len(pads) != 8 or any(pads[k] for k in (0, 1, 4, 5)) or not all(0 <= pad <= MOST_KERNEL_PX for pad in pads):
                raise _Refused(f"has a Pad of {pads}")
        elif node.operator == "Resize" and i == 2:
            if array.type != "float32" or array.values() != [1.0, 1.0, 2.0, 2.0]:
                raise _Refused(f"has a Resize by {array.values()}")
        elif node.operator in ("Conv", "InstanceNormalization", "DequantizeLinear", "QuantizeLinear"):
            if len(array.dims) > 1 or math.prod(array.dims) > MOST_CHANNELS:
                raise _Refused(f"has a {node.operator} with a constant of shape {list(array.dims)}")
        elif array.dims not in ((), (1,)):
            raise _Refused(f"has a {node.operator} with a constant of shape {list(array.dims)}")
    needed = {"Pad": (1,), "Resize": (2,), "InstanceNormalization": (1, 2), "Clip": (1, 2)}.get(node.operator, ())
    if any(i not in constants for i in needed) or (node.operator == "Conv" and node.inputs[1] not in fixed):
        raise _Refused(f"has a {node.operator} whose sizes are not in the file")


def _text(data: memoryview | None, most_bytes: int = 512) -> str:
    data = data if data is not None else memoryview(b"")
    if len(data) > most_bytes:
        raise _Refused(f"has a name of {len(data)} bytes")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise _Refused("has a name that is no text") from error


def _message(data: memoryview, schema: Schema, what: str) -> dict[str, Any]:
    """One message of the wire format: its fields by name; those that are missing are 0, None or an empty list."""
    message: dict[str, Any] = {}
    for name, kind, repeated in schema.values():
        message[name] = [] if repeated else (0 if kind == VARINT else None)
    for number, wire, value in _fields(data, what):
        if number not in schema:
            raise _Refused(f"has field {number} of {what}, which no style needs")
        name, kind, repeated = schema[number]
        if isinstance(kind, dict) and wire == BYTES:
            value = _message(value, kind, name)
        elif kind == VARINT and wire == BYTES and repeated:  # packed
            message[name] += [item for item, _ in _varints(value, what)]
            value = None
        elif kind != wire:
            raise _Refused(f"has a damaged {what}.{name}")
        if not repeated:
            message[name] = value
        elif value is not None:
            message[name].append(value)
        if repeated and len(message[name]) > MOST_ITEMS:
            raise _Refused(f"has more than {MOST_ITEMS} of {what}.{name}")
    return message


def _fields(data: memoryview, what: str) -> Iterator[tuple[int, int, Any]]:
    """Field number, wire type and value, one after the other."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, what)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at, what)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at, what)
        elif wire == FIXED32:
            size = 4
        else:
            raise _Refused(f"has a damaged {what}")
        if not 0 <= size <= len(data) - at:
            raise _Refused(f"ends in the middle of a {what}")
        yield number, wire, data[at : at + size] if wire == BYTES else float(np.frombuffer(data[at : at + 4], np.float32)[0])
        at += size


def _varints(data: memoryview, what: str) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at, what)
        yield value, at


def _varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    """A whole number, 64 bits with sign, and where the next field begins."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            break
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            value &= 2**64 - 1
            return value - 2**64 if value >= 2**63 else value, at + i + 1
    raise _Refused(f"has a damaged number in its {what}")
