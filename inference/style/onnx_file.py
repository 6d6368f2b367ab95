"""Reading a style's .onnx file, and refusing what is not ours or not safe, before ONNX Runtime sees it.

85 bytes of ONNX can claim gigabytes, loop for ever or read any file of the disk, and all of that passes ONNX's own
checker. So this reads the file's protobuf itself (https://protobuf.dev/programming-guides/encoding, onnx.proto3 of ONNX
1.18), knows only the few fields and operators that our files have, and refuses everything else.

What it takes, ONNX Runtime must read the same way, so a file that two readers could understand differently is refused, too:
of a field, a map's key or an attribute that comes twice one reader takes the last, another the first or both.
"""

import math
import re
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allaprima.models import frame_graph, levels_graph
from allaprima.models.contract import IMAGE, LOWEST_OPSET, MAX_STROKES, OPSET, Contract
from allaprima.models.errors import StyleError

MAX_BYTES = 32 * 2**20  # of a file; ours are below 10 MB
MAX_METADATA_BYTES = 2**20  # ours have 50 kB
MAX_NUMBERS = 50_000  # that are read one by one, two for most fields; ours have 6000
MAX_ITEMS = 2000  # of nodes, of initializers; ours have some hundred
MAX_NAME_BYTES = 512
MAX_REASON = 300  # letters of a message
MAX_CHANNELS = 1024
MAX_KERNEL_PX = 16  # of a convolution's kernel, stride, border
# Of a network on a picture of LARGE_PX; the quality tier has 1600, in int8, and 150 000.
LARGE_PX = 1024
MAX_BORDER_PX = 64  # how much larger than the picture anything inside may be
MAX_FLOATS_A_PIXEL = 4096  # of all values together
MAX_PRODUCTS_A_PIXEL = 4_000_000  # of all convolutions together

# What a name may be made of: enough for ours, and nothing with which one value looks like two in `_Node.__str__`.
NAME = re.compile(r"[\w./:+-]*", re.ASCII)

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
# tensors, and graphs but in the outermost graph, whose loop has one; NodeProto: overload; ModelProto: functions; GraphProto:
# sparse initializers.
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
BODY: Schema = {
    1: ("node", NODE, True),
    2: ("name", BYTES, False),
    10: ("doc_string", BYTES, False),
    5: ("initializer", TENSOR, True),
    11: ("input", VALUE, True),
    12: ("output", VALUE, True),
}
OUTER_NODE: Schema = {**NODE, 5: ("attribute", {**ATTRIBUTE, 6: ("g", BODY, False)}, True)}
GRAPH: Schema = {**BODY, 1: ("node", OUTER_NODE, True)}
MODEL: Schema = {
    1: ("ir_version", VARINT, False),
    2: ("producer_name", BYTES, False),
    3: ("producer_version", BYTES, False),
    7: ("graph", GRAPH, False),
    8: ("opset_import", {1: ("domain", BYTES, False), 2: ("version", VARINT, False)}, True),
    14: ("metadata_props", ENTRY, True),
}

# What an attribute may be; of ANY the code below looks at the value.
ANY: tuple[Any, ...] = ()
# Operator of a network -> how many inputs, and its attributes.
OPERATORS: dict[str, tuple[tuple[int, ...], dict[str, tuple[Any, ...]]]] = {
    "Add": ((2,), {}),
    "Cast": ((1,), {"to": (1, 10)}),
    "Clip": ((3,), {}),
    "Concat": ((2,), {"axis": (1,)}),
    "Conv": (
        (2, 3),
        {"auto_pad": ("NOTSET",), "dilations": ([1, 1],), "group": (1,), "kernel_shape": ANY, "pads": ANY, "strides": ANY},
    ),
    "DepthToSpace": ((1,), {"blocksize": (2, 4), "mode": ("CRD", "DCR")}),
    "DequantizeLinear": ((3,), {"axis": (0,)}),
    "InstanceNormalization": ((3,), {"epsilon": ANY}),
    "Pad": ((2,), {"mode": ("reflect",)}),
    "QuantizeLinear": ((3,), {}),
    "Relu": ((1,), {}),
    "Resize": (
        (3,),
        {"antialias": (0,), "coordinate_transformation_mode": ("asymmetric",), "cubic_coeff_a": (-0.75,)}
        | {"exclude_outside": (0,), "extrapolation_value": (0.0,), "keep_aspect_ratio_policy": ("stretch",)}
        | {"mode": ("nearest",), "nearest_mode": ("floor",)},
    ),
    "Sigmoid": ((1,), {}),
    "Sub": ((2,), {}),
}


class _Refused(Exception):
    """Why a file is not taken, as the end of the sentence "FILE ..."."""


def read_style(path: Path) -> tuple[bytes, Contract]:
    """A style's bytes and contract.

    Raises:
        StyleError: no such file, not ONNX, not ours, damaged, or with something in it that no file of ours has.
    """
    data = _bytes(path)
    return data, check_style(data, str(path))


def read_about(path: Path) -> tuple[int, Contract, int, int]:
    """What a file says about itself: its bytes, contract, ONNX's IR version and opset. A file in another runtime's form, too,
    which this program does not paint with.

    Raises:
        StyleError: as `read_style`.
    """
    data = _bytes(path)
    model, metadata = _model(data, str(path))
    if metadata.get("allaprima.target"):
        contract = Contract.from_metadata(metadata, str(path))
    else:
        contract = _checked(model, metadata, str(path))
    opset = next((each["version"] for each in model["opset_import"]), None)
    return len(data), contract, model["ir_version"] or 0, opset or 0


def _bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # of a pipe or device there is no end
            raise StyleError(f"{path} cannot be read: it is no file")
        if status.st_size > MAX_BYTES:
            raise StyleError(f"{path} is {status.st_size / 2**20:.0f} MB; a style has at most {MAX_BYTES / 2**20:.0f} MB")
        data = path.read_bytes()
    except OSError as error:
        raise StyleError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise StyleError(f"{path} is empty; an .onnx file of ours is wanted")
    return data


def check_style(data: bytes, name: str) -> Contract:
    """The contract of a style's bytes, if all in them is as our exporter writes it.

    Args:
        data: of an .onnx file. name: for messages.
    Raises:
        StyleError: as `read_style`.
    """
    return _checked(*_model(data, name), name)


def _checked(model: dict[str, Any], metadata: dict[str, str], name: str) -> Contract:
    """The contract of a file's fields and metadata, after a look at all of them."""
    if target := metadata.get("allaprima.target"):
        size = f" at {metadata['allaprima.size'][:20]}" if "allaprima.size" in metadata else ""
        raise StyleError(
            f"{name} is made for {target[:20]!r}{size}; to paint with it here, export it without --for, --size and --opset"
        )
    try:
        graph = _graph(model)
    except _Refused as refused:
        raise _unlike_ours(name, refused) from None
    contract = Contract.from_metadata(metadata, name)
    try:
        _check_ends(model["graph"], graph, contract)
        if contract.io == "frame":
            nodes, (stride_px, least_px) = _without_frame(graph, contract.strokes is not None), _network_sizes(graph)
        else:
            nodes, stride_px, least_px = graph.nodes, contract.stride_px, contract.least_px
        # What a caller may feed is no constant.
        arrays = {name: array for name, array in graph.arrays.items() if name not in contract.optional}
        _check_network(arrays, nodes, stride_px, least_px)
    except _Refused as refused:
        reason = str(refused)[:MAX_REASON]
        raise StyleError(f"{name} is not safe to open: it {reason}; export it again, or get it elsewhere") from None
    return contract


def _model(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A file's fields and metadata; nothing of its graph is looked at."""
    try:
        model = _Reader().message(memoryview(data), MODEL, "model")
        return model, _metadata(model["metadata_props"])
    except _Refused as refused:
        raise _unlike_ours(name, refused) from None


def _unlike_ours(name: str, refused: _Refused) -> StyleError:
    reason = str(refused)[:MAX_REASON]
    return StyleError(f"{name} is not an ONNX file that may be opened: it {reason}; make one with: allaprima export RUN")


def _metadata(entries: list[dict[str, Any]]) -> dict[str, str]:
    if sum(len(entry["value"] or b"") for entry in entries) > MAX_METADATA_BYTES:
        raise _Refused(f"has more than {MAX_METADATA_BYTES} bytes of metadata")
    metadata: dict[str, str] = {}
    for entry in entries:
        key = _text(entry["key"])
        if key in metadata:
            raise _Refused(f'has the metadata "{key}" twice')
        try:
            metadata[key] = str(entry["value"] or b"", "utf-8")
        except UnicodeDecodeError:
            raise _Refused(f'has metadata "{key}" that are no text') from None
    return metadata


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
    body: "_Graph | None" = None

    def __str__(self) -> str:
        """As `models.frame_graph` writes it."""
        attributes = ", ".join(f"{key} = {value!r}" for key, value in sorted(self.attributes.items()))
        return f"{', '.join(self.outputs)} = {self.operator}{f'<{attributes}>' if attributes else ''}({', '.join(self.inputs)})"


@dataclass(frozen=True)
class _Graph:
    """A graph, and as it was read."""

    declared: dict[str, Any]
    nodes: list[_Node] = field(default_factory=list)
    arrays: dict[str, _Array] = field(default_factory=dict)


def _graph(model: dict[str, Any]) -> _Graph:
    """Nodes and initializers, each of them whole, every value made once and before it is used."""
    if model["graph"] is None:
        raise _Refused("has no graph")
    imports = model["opset_import"]
    if [_text(each["domain"]) for each in imports] not in ([""], ["ai.onnx"]) or not LOWEST_OPSET <= (
        imports[0]["version"] or 0
    ) <= OPSET:
        raise _Refused(f"has operators other than ONNX's own of opset {LOWEST_OPSET} to {OPSET}")
    return _whole_graph(model["graph"], set())


def _whole_graph(declared: dict[str, Any], outside: set[str]) -> _Graph:
    """`_graph`; `outside` are the values of the graph around it."""
    graph = _Graph(declared)
    for tensor in declared["initializer"]:
        name = _text(tensor["name"])
        if not name:
            raise _Refused("has an initializer without a name")
        if name in graph.arrays:
            raise _Refused(f'has two initializers "{name}"')
        graph.arrays[name] = _array(tensor, name)
    inner = {_text(value["name"]) for value in declared["input"]} | set(graph.arrays)
    if inner & outside:
        raise _Refused(f'makes "{min(inner & outside)}" twice')
    known, taken = inner | outside, inner | outside  # may be used, may not be made again
    for node in declared["node"]:
        if _text(node["domain"]) not in ("", "ai.onnx"):
            raise _Refused(f"has an operator of the domain {_text(node['domain'])!r}")
        inputs = tuple(_text(value) for value in node["input"])
        outputs = tuple(_text(value) for value in node["output"])
        attributes = dict(_attribute(attribute) for attribute in node["attribute"])
        if len(attributes) != len(node["attribute"]):
            raise _Refused(f"has a {_text(node['op_type'])} with an attribute twice")
        inside = attributes.pop("body", None)
        body = _whole_graph(inside, taken) if isinstance(inside, dict) else None
        if inside is not None and (body is None or _text(node["op_type"]) != "Loop"):
            raise _Refused(f"has a {_text(node['op_type'])} with a body that no style has")
        if body:
            taken |= {value for each in body.nodes for value in each.outputs}
        graph.nodes.append(_Node(_text(node["op_type"]), inputs, outputs, attributes, body))
        for value in inputs:
            if value and value not in known:
                raise _Refused(f'uses "{value}" before it is there')
        for value in outputs:
            if not value or value in taken:
                raise _Refused(f'makes "{value}" twice')
            known.add(value)
            taken.add(value)
    return graph


def _array(tensor: dict[str, Any], name: str) -> _Array:
    if tensor["data_type"] not in TYPES:
        raise _Refused(f'has an initializer "{name}" of an unknown type {tensor["data_type"]}')
    kind, dims = TYPES[tensor["data_type"]], tuple(tensor["dims"])
    data = tensor["raw_data"] or memoryview(b"")
    if len(dims) > 4 or any(not 0 < dim <= MAX_BYTES for dim in dims):
        raise _Refused(f'has an initializer "{name}" of shape {list(dims)}')
    if math.prod(dims) * NUMPY[kind].itemsize != len(data):
        raise _Refused(f'has an initializer "{name}" of {len(data)} bytes, which does not fit its shape {list(dims)}')
    if kind.startswith("float") and not np.isfinite(np.frombuffer(data, NUMPY[kind])).all():
        raise _Refused(f'has an initializer "{name}" with numbers that are not finite')
    return _Array(kind, dims, data)


def _attribute(attribute: dict[str, Any]) -> tuple[str, Any]:
    """Name and value: a whole number, several, a text, a float, or a loop's body as it was read. Of ONNX's AttributeType:
    FLOAT, INT, STRING, GRAPH, INTS."""
    kinds = {1: "f", 2: "i", 3: "s", 5: "g", 7: "ints"}
    name = _text(attribute["name"])
    if attribute["type"] not in kinds or (attribute["type"] == 5 and name != "body"):
        raise _Refused(f'has an attribute "{name}" of a kind that no style needs')
    kind = kinds[attribute["type"]]
    value = attribute.get(kind)
    if value is None or any(attribute.get(other) not in (None, []) for other in kinds.values() if other != kind):
        raise _Refused(f'has an attribute "{name}" whose type and value do not agree')
    return name, _text(value) if kind == "s" else value


def _check_ends(declared: dict[str, Any], graph: _Graph, contract: Contract) -> None:
    """Inputs and outputs are what the contract says."""
    tensors = contract.tensors
    wanted_inputs = [(tensors.input, tensors.type, tensors.dims)]
    if contract.io == "frame":
        wanted_inputs += [(name, "float32", ()) for name in contract.optional]
    for found, wanted in (
        (declared["input"], wanted_inputs),
        (declared["output"], [(tensors.output, tensors.type, tensors.dims)]),
    ):
        _check_values(found, wanted)
    for name in contract.optional:
        array, most = graph.arrays.get(name), MAX_STROKES if name == "strokes" else 1.0
        if array is None or (array.type, array.dims) != ("float32", ()) or not 0.0 <= array.values()[0] <= most:
            raise _Refused(f"has no default from 0 to {most:g} for its input {name}")
    for name in {tensors.input, tensors.output} & set(graph.arrays):
        raise _Refused(f"brings its own {name}")


def _check_values(found: list[dict[str, Any]], wanted: Sequence[tuple[str, str, tuple[str | int, ...]]]) -> None:
    ends = [_ends(value) for value in found]
    if ends != list(wanted):
        raise _Refused(f"has tensors {ends}, {list(wanted)} are wanted")


def _ends(value: dict[str, Any]) -> tuple[str, str, tuple[str | int, ...]]:
    kind = (value["type"] or {}).get("tensor_type")
    if kind is None:
        raise _Refused("has an input or output that is no tensor")
    if kind["shape"] is None:
        raise _Refused("has an input or output without a shape")
    dims = []
    for dim in kind["shape"]["dim"]:
        if dim["dim_param"] is not None and dim["dim_value"] is not None:
            raise _Refused("has an input or output with two lengths of one dimension")
        dims.append(_text(dim["dim_param"]) or dim["dim_value"])
    return _text(value["name"]), {**TYPES, 9: "bool"}.get(kind["elem_type"], "?"), tuple(dims)


def _without_frame(graph: _Graph, levels: bool) -> list[_Node]:
    """The network's own nodes of a frame file, after a look at those around it, which must be exactly ours."""
    written = levels_graph if levels else frame_graph
    if levels:
        loops = _between(graph.nodes, levels_graph.BEFORE_LOOP, levels_graph.AFTER_LOOP)
        if len(loops) != 1 or str(loops[0]) != levels_graph.LOOP or (body := loops[0].body) is None:
            raise _Refused(f"has {str(loops[0])[:200] if loops else 'nothing'!r} where {levels_graph.LOOP!r} is wanted")
        if body.arrays:
            raise _Refused("has a loop with constants of its own")
        _check_values(body.declared["input"], levels_graph.BODY_INPUTS)
        _check_values(body.declared["output"], levels_graph.BODY_OUTPUTS)
        network = _between(body.nodes, levels_graph.BEFORE_NETWORK, levels_graph.AFTER_NETWORK)
    else:
        network = _between(graph.nodes, frame_graph.PROLOGUE, frame_graph.EPILOGUE)
    constants = written.constants(*_network_sizes(graph))
    for name, values in constants.items():
        array = graph.arrays.get(name)
        expected = _Array("int64", (len(values),), memoryview(np.array(values, "<i8").tobytes()))
        if array != expected:
            raise _Refused(f'has no "{name}" of {values}')
    for name, value in written.SCALARS.items():
        if graph.arrays.get(name) != _Array("float32", (), memoryview(np.array(value, "<f4").tobytes())):
            raise _Refused(f'has no "{name}" of {value}')
    for name in frame_graph.MATRICES:
        if name not in graph.arrays or (graph.arrays[name].type, graph.arrays[name].dims) != ("float32", (3, 6, 1, 1)):
            raise _Refused(f'has no "{name}" of 3 x 6 numbers')
    return network


def _between(nodes: list[_Node], first: str, last: str) -> list[_Node]:
    """The nodes between those that must be `first` and `last`."""
    before, after = frame_graph.lines(first), frame_graph.lines(last)
    between = nodes[len(before) : len(nodes) - len(after)]
    around = [*nodes[: len(before)], *nodes[len(before) + len(between) :]]
    for node, line in zip(around, [*before, *after], strict=False):
        if str(node) != line:
            raise _Refused(f"has {str(node)[:200]!r} where {line!r} is wanted")
    if len(around) != len(before) + len(after):
        raise _Refused(f"has {len(nodes)} nodes, fewer than any frame file")
    return between


def _network_sizes(graph: _Graph) -> tuple[int, int]:
    """Stride and least size of the network in a frame file."""
    sizes = []
    for name, most in (("stride_px", 64), ("least_px", 1024)):
        array = graph.arrays.get(name)
        if array is None or (array.type, array.dims) != ("int64", (1,)) or not 1 <= array.values()[0] <= most:
            raise _Refused(f"has no {name} from 1 to {most}")
        sizes.append(int(array.values()[0]))
    return sizes[0], sizes[1]


@dataclass(frozen=True)
class _Size:
    """How large a value of the network is: channels, and its side when the picture is the least and when it is large.

    Heights and widths are not told apart, as kernels, strides and borders of our networks are square.
    """

    channels: int
    least_px: int
    large_px: int

    def resized(self, channels: int, side: Callable[[int], int]) -> "_Size":
        return _Size(channels, side(self.least_px), side(self.large_px))


def _check_network(arrays: dict[str, _Array], nodes: list[_Node], stride_px: int, least_px: int) -> None:
    """Follow the size of a picture through the network: nothing is much larger than the picture or takes long, nothing
    can be worked out before a picture is there, no border is longer than what it mirrors."""
    least, large = (-(-side // stride_px) * stride_px for side in (least_px, LARGE_PX))
    sizes = {IMAGE.input: _Size(3, least, large)}
    weights = {name: array.dims for name, array in arrays.items()}
    floats = products = 0.0
    for node in nodes:
        counts, attributes = OPERATORS.get(node.operator, ((), {}))
        if not counts:
            raise _Refused(f"has the operator {node.operator[:40]!r}, which no style needs")
        if len(node.inputs) not in counts or len(node.outputs) != 1:
            raise _Refused(f"has a {node.operator} with other inputs or outputs than a style's")
        for key, value in node.attributes.items():
            allowed = attributes.get(key)
            # By their text, as 1 and 1.0 are two things to ONNX.
            if allowed is None or (allowed is not ANY and repr(value) not in map(repr, allowed)):
                raise _Refused(f"has a {node.operator} with {key} = {value!r}")
        if node.operator == "DequantizeLinear" and node.inputs[0] in arrays:
            weights[node.outputs[0]] = _check_8_bit_weights(arrays, weights, node)
            continue
        size = _size(arrays, weights, sizes, node)
        if not 1 <= size.channels <= MAX_CHANNELS or size.least_px < 1:
            raise _Refused(f"has a {node.operator} that makes {size.channels} channels of {size.least_px} px")
        if size.least_px > least + MAX_BORDER_PX or size.large_px > large + MAX_BORDER_PX:
            raise _Refused(f"has a {node.operator} that makes more than a picture of the same size")
        sizes[node.outputs[0]] = size
        pixels = (size.large_px / large) ** 2
        floats += size.channels * pixels
        if node.operator == "Conv":
            products += math.prod(weights.pop(node.inputs[1])) * pixels
    if sizes.get(IMAGE.output) != sizes[IMAGE.input]:
        raise _Refused(f"makes no {IMAGE.output} as large as the picture")
    if floats > MAX_FLOATS_A_PIXEL or products > MAX_PRODUCTS_A_PIXEL:
        raise _Refused(f"needs {floats:.0f} floats and {products:.0f} products for each pixel")


def _check_8_bit_weights(arrays: dict[str, _Array], weights: dict[str, tuple[int, ...]], node: _Node) -> tuple[int, ...]:
    """The shape of weights that become floats when the file is opened, each of them once: they get four times as large."""
    array, dims = arrays[node.inputs[0]], weights.pop(node.inputs[0], None)
    if dims is None or array.type not in ("int8", "uint8", "int32"):
        raise _Refused(f"has a DequantizeLinear of {array.type}, or a second one of the same weights")
    if any(name not in arrays or arrays[name].dims not in ((), dims[:1]) for name in node.inputs[1:]):
        raise _Refused(f"has a DequantizeLinear of shape {list(dims)} with a scale or zero that does not fit")
    return dims


def _size(arrays: dict[str, _Array], weights: dict[str, tuple[int, ...]], sizes: dict[str, _Size], node: _Node) -> _Size:
    """How large what a node makes is, if its inputs are pictures and constants where a style has them."""
    operator = node.operator
    pictures = [sizes[value] for value in node.inputs if value in sizes]
    constants = [value for value in node.inputs if value not in sizes]
    numbers_only = all(value in arrays and arrays[value].dims in ((), (1,)) for value in constants)
    if not pictures:
        raise _Refused(f"has a {operator} of constants alone, or of what is no picture")
    picture = pictures[0]
    if operator in ("Add", "Sub", "Concat"):
        if operator == "Concat" and len(pictures) != 2:
            raise _Refused("joins a picture with something else")
        if operator == "Concat" and "axis" not in node.attributes:
            raise _Refused("joins pictures other than by their channels")
        if not numbers_only:
            raise _Refused(f"has a {operator} of a picture and a constant that is more than one number")
        channels = [each.channels for each in pictures]
        sides = {(each.least_px, each.large_px) for each in pictures}
        if len(sides) != 1 or (operator != "Concat" and len(set(channels)) != 1):
            raise _Refused(f"has a {operator} of pictures of different sizes")
        return picture.resized(sum(channels) if operator == "Concat" else channels[0], lambda side: side)
    if len(pictures) != 1 or node.inputs[0] in constants:
        raise _Refused(f"has a {operator} whose sizes are not in the file")
    if operator == "Conv":
        return _convolved(weights, picture, node)
    if operator == "Pad":
        pads = _values(arrays.get(constants[0]), "int64")
        border_px = int(max(pads, default=0))
        if pads != [0, 0, border_px, border_px] * 2 or not 0 <= border_px <= min(MAX_KERNEL_PX, picture.least_px - 1):
            raise _Refused(f"has a Pad of {pads} around {picture.least_px} px")
        return picture.resized(picture.channels, lambda side: side + 2 * border_px)
    if operator == "Resize":
        scales = _values(arrays.get(constants[1]), "float32")
        if constants[0] or scales != [1.0, 1.0, 2.0, 2.0]:
            raise _Refused(f"has a Resize by {scales}")
        return picture.resized(picture.channels, lambda side: 2 * side)
    if operator == "DepthToSpace":
        block = node.attributes.get("blocksize", 0)
        if not block or picture.channels % block**2:
            raise _Refused(f"has a DepthToSpace of {picture.channels} channels by {block}")
        return picture.resized(picture.channels // block**2, lambda side: block * side)
    if operator == "Cast" and "to" not in node.attributes:
        raise _Refused("casts to nothing")
    if operator == "InstanceNormalization":
        if any(value not in arrays or arrays[value].dims != (picture.channels,) for value in constants):
            raise _Refused(f"has an InstanceNormalization without {picture.channels} scales and shifts")
    elif not numbers_only:  # of Clip, QuantizeLinear, DequantizeLinear
        raise _Refused(f"has a {operator} with a constant that is more than one number")
    return picture


def _values(array: _Array | None, kind: str) -> list[float]:
    """The numbers of a constant; none if it is of another type or not there."""
    return array.values() if array is not None and array.type == kind else []


def _convolved(weights: dict[str, tuple[int, ...]], picture: _Size, node: _Node) -> _Size:
    """How large a convolution's result is; weights are taken once, as ONNX Runtime makes copies for each convolution."""
    dims = weights.get(node.inputs[1], ())
    if len(dims) != 4 or dims[0] > MAX_CHANNELS or dims[1] != picture.channels or dims[2] != dims[3]:
        raise _Refused(f"has a Conv of {picture.channels} channels with weights of shape {list(dims)}")
    kernel_px, stride_px, border_px = (
        _all_the_same(node, key, length, default)
        for key, length, default in (("kernel_shape", 2, dims[2]), ("strides", 2, 1), ("pads", 4, 0))
    )
    if kernel_px != dims[2] or kernel_px > MAX_KERNEL_PX or stride_px < 1:
        raise _Refused(f"has a Conv with {node.attributes} and weights of shape {list(dims)}")
    if len(node.inputs) == 3 and weights.get(node.inputs[2]) != dims[:1]:
        raise _Refused(f"has a Conv of {dims[0]} channels with another number of biases")
    return picture.resized(dims[0], lambda side: (side + 2 * border_px - kernel_px) // stride_px + 1)


def _all_the_same(node: _Node, key: str, length: int, default: int) -> int:
    """What all whole numbers of an attribute are."""
    numbers = node.attributes.get(key, [default] * length)
    if not isinstance(numbers, list) or len(numbers) != length or len(set(numbers)) != 1:
        raise _Refused(f"has a {node.operator} with {key} = {numbers!r}")
    if not 0 <= numbers[0] <= MAX_KERNEL_PX:
        raise _Refused(f"has a {node.operator} with {key} = {numbers!r}")
    return int(numbers[0])


def _text(data: memoryview | None) -> str:
    """A name or a word."""
    data = data if data is not None else memoryview(b"")
    if len(data) > MAX_NAME_BYTES:
        raise _Refused(f"has a name of {len(data)} bytes")
    text = str(data, "utf-8", "replace")
    if not NAME.fullmatch(text):
        raise _Refused(f"has the name {text!r}, as no style has")
    return text


class _Reader:
    """Protobuf's wire format, as far as our files have it; one for each file, as it counts."""

    def __init__(self) -> None:
        self._numbers_left = MAX_NUMBERS

    def message(self, data: memoryview, schema: Schema, what: str) -> dict[str, Any]:
        """One message: its fields by name; those that are missing are None or an empty list."""
        message: dict[str, Any] = {name: [] if repeated else None for name, _, repeated in schema.values()}
        for number, wire, value in self._fields(data, what):
            if number not in schema:
                raise _Refused(f"has field {number} of {what}, which no style needs")
            name, kind, repeated = schema[number]
            if isinstance(kind, dict) and wire == BYTES:
                value = self.message(value, kind, name)
            elif kind == VARINT and wire == BYTES and repeated:  # packed
                message[name] += self._varints(value, what)
                continue
            elif kind != wire:
                raise _Refused(f"has a damaged {what}.{name}")
            if repeated:
                message[name].append(value)
                if len(message[name]) > MAX_ITEMS:
                    raise _Refused(f"has more than {MAX_ITEMS} of {what}.{name}")
            elif message[name] is not None:  # protobuf would merge two graphs into one
                raise _Refused(f"has {what}.{name} twice")
            else:
                message[name] = value
        return message

    def _fields(self, data: memoryview, what: str) -> Iterator[tuple[int, int, Any]]:
        """Field number, wire type and value, one after the other."""
        at = 0
        while at < len(data):
            tag, at = self._varint(data, at, what)
            number, wire = tag >> 3, tag & 7
            if wire == VARINT:
                value, at = self._varint(data, at, what)
                yield number, wire, value
                continue
            if wire == BYTES:
                size, at = self._varint(data, at, what)
            elif wire == FIXED32:
                size = 4
            else:
                raise _Refused(f"has a damaged {what}")
            if not 0 <= size <= len(data) - at:
                raise _Refused(f"ends in the middle of a {what}")
            yield number, wire, data[at : at + size] if wire == BYTES else struct.unpack("<f", data[at : at + 4])[0]
            at += size

    def _varints(self, data: memoryview, what: str) -> list[int]:
        numbers, at = [], 0
        while at < len(data):
            number, at = self._varint(data, at, what)
            numbers.append(number)
        return numbers

    def _varint(self, data: memoryview, at: int, what: str) -> tuple[int, int]:
        """A whole number, 64 bits with sign, and where the next field begins."""
        self._numbers_left -= 1
        if self._numbers_left < 0:
            raise _Refused(f"has more than {MAX_NUMBERS} numbers and fields")
        value = 0
        for i in range(min(10, len(data) - at)):
            byte = data[at + i]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                value &= 2**64 - 1
                return value - 2**64 if value >= 2**63 else value, at + i + 1
        raise _Refused(f"has a damaged number in its {what}")
