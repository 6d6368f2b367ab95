"""An image graph in the form that another runtime accepts: fixed size, and mirrors, shuffles and opset that it supports."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from allaprima.models.contract import LOWEST_OPSET, OPSET
from allaprima.models.errors import StyleError
from allaprima.models.targets import FIRST_OPSET, Target

ATTRIBUTES_ONLY = 10  # up to this opset, Pad and Clip take numbers as attributes, and DepthToSpace has one order


def in_form_for(model: ModelProto, target: Target, size: tuple[int, int] | None, opset: int | None) -> ModelProto:
    """A copy of an image graph in the form that a target accepts.

    Args:
        model: as `training.export.graph` makes it. size: width and height in pixels; None leaves them free.
        opset: of the copy; None takes the target's, or the lowest that can express it.
    Raises:
        StyleError: as `at_opset`.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    opset = target.opset if opset is None else opset
    if size:
        for value in (changed.graph.input[0], changed.graph.output[0]):
            for dim, length in zip(value.type.tensor_type.shape.dim, (1, 3, size[1], size[0]), strict=True):
                dim.dim_value = length
    if any(node.op_type in ("Shape", "DequantizeLinear") for node in changed.graph.node):
        return at_opset(changed, opset)  # frames and int8 have only one form
    old = opset is not None and opset <= ATTRIBUTES_ONLY
    graph = _Graph(changed)
    if target.plain:
        graph.replace("Pad", graph.sliced)
        graph.replace("DepthToSpace", graph.spread)
    if target.plain or old:
        graph.replace("Resize", graph.repeated)
    if old:
        graph.replace("DepthToSpace", graph.blocks_first)
        for operator in ("Pad", "Clip"):
            graph.replace(operator, graph.with_attributes)
    graph.write()
    return at_opset(changed, opset)


def at_opset(model: ModelProto, opset: int | None = None) -> ModelProto:
    """A copy with the same nodes in the given opset, else in the lowest that can express them.

    Raises:
        StyleError: no such opset, or it cannot express the nodes.
    """
    if opset is not None and not FIRST_OPSET <= opset <= OPSET:
        raise StyleError(
            f"opset {opset} is not written: {FIRST_OPSET} to {OPSET} are; newer ones add nothing that a style uses"
        )
    changed = ModelProto()
    changed.CopyFrom(model)
    for version in range(LOWEST_OPSET, OPSET + 1) if opset is None else (opset,):
        changed.opset_import[0].version = version
        try:
            onnx.checker.check_model(changed, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = str(error).strip().splitlines()[0][:200]
        else:
            return changed
    if opset is None:
        raise StyleError(f"this file cannot be said in any opset from {LOWEST_OPSET} to {OPSET} ({reason})")
    lowest = at_opset(changed).opset_import[0].version
    raise StyleError(f"this file cannot be said in opset {opset} ({reason}); opset {lowest} or higher can")


class _Graph:
    """The nodes and initializers of a model while they are being changed."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._nodes = list(model.graph.node)

    def replace(self, operator: str, by: Callable[[NodeProto], Iterator[NodeProto]]) -> None:
        """Replace every node of an operator by those that a function returns for it."""
        self._nodes = [new for node in self._nodes for new in (by(node) if node.op_type == operator else [node])]

    def write(self) -> None:
        used = {value for node in self._nodes for value in node.input}
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        kept = [numpy_helper.from_array(array, name) for name, array in self._arrays.items() if name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def sliced(self, pad: NodeProto) -> Iterator[NodeProto]:
        """A mirrored border, built by joining its single lines, so that nothing has to slice backward."""
        border_px, source, result = int(self._arrays[pad.input[1]][2]), pad.input[0], pad.output[0]
        for axis in (2, 3):
            first = [(line, line + 1) for line in range(border_px, 0, -1)]
            last = [(-line, 1 - line) for line in range(2, border_px + 2)]
            parts = []
            for start, stop in (*first, *last):
                parts.append(f"{result}/{axis}/{start}")
                yield helper.make_node("Slice", [source, *(self._line(at) for at in (start, stop, axis))], parts[-1:])
            parts.insert(border_px, source)
            source = result if axis == 3 else f"{result}/rows"
            yield helper.make_node("Concat", parts, [source], axis=axis)

    def _line(self, number: int) -> str:
        name = f"line_{number}".replace("-", "before_")
        self._arrays[name] = np.array([number], np.int64)
        return name

    def spread(self, shuffle: NodeProto) -> Iterator[NodeProto]:
        """A shuffle as a transposed convolution of ones and zeros, which copies each value exactly."""
        block, channels = self._block(shuffle), len(self._weights_before(shuffle.input[0]))
        kernel = np.zeros((channels, channels // block**2, block, block), np.float32)
        for channel in range(channels):
            kernel[channel, channel // block**2, channel // block % block, channel % block] = 1.0
        yield self._transposed(shuffle, kernel, block, group=1)

    def repeated(self, resize: NodeProto) -> Iterator[NodeProto]:
        """Nearest x2 in the same way, each channel by itself."""
        channels = len(self._weights_before(resize.input[0]))
        yield self._transposed(resize, np.ones((channels, 1, 2, 2), np.float32), 2, group=channels)

    def _transposed(self, node: NodeProto, kernel: np.ndarray, stride: int, group: int) -> NodeProto:
        name = f"{node.output[0]}/kernel"
        self._arrays[name] = kernel.astype(self._weights_before(node.input[0]).dtype)
        inputs, outputs, square = [node.input[0], name], list(node.output), [stride, stride]
        return helper.make_node(
            "ConvTranspose", inputs, outputs, kernel_shape=square, strides=square, pads=[0] * 4, dilations=[1, 1], group=group
        )

    def blocks_first(self, shuffle: NodeProto) -> Iterator[NodeProto]:
        """A shuffle in the only order that old opsets have; the channels of the convolutions before it are reordered."""
        block = self._block(shuffle)
        for convolution in self._convolutions(shuffle.input[0]):
            for name in convolution.input[1:]:
                array = self._arrays[name]
                groups = array.reshape(-1, block**2, *array.shape[1:])
                self._arrays[name] = np.ascontiguousarray(groups.swapaxes(0, 1).reshape(array.shape))
        yield helper.make_node("DepthToSpace", list(shuffle.input), list(shuffle.output), blocksize=block)

    def with_attributes(self, node: NodeProto) -> Iterator[NodeProto]:
        """Pad or Clip with its numbers as attributes."""
        numbers = [self._arrays[name].tolist() for name in node.input[1:]]
        inputs, outputs = list(node.input[:1]), list(node.output)
        if node.op_type == "Pad":
            yield helper.make_node("Pad", inputs, outputs, mode="reflect", pads=numbers[0])
        else:
            yield helper.make_node("Clip", inputs, outputs, min=numbers[0], max=numbers[1])

    @staticmethod
    def _block(shuffle: NodeProto) -> int:
        return int(next(attribute.i for attribute in shuffle.attribute if attribute.name == "blocksize"))

    def _maker(self, value: str) -> NodeProto:
        return next(node for node in self._nodes if node.output[0] == value)

    def _convolutions(self, value: str) -> list[NodeProto]:
        """The convolutions whose sum is this value."""
        maker = self._maker(value)
        if maker.op_type == "Conv":
            return [maker]
        assert maker.op_type == "Add", maker.op_type
        return [node for source in maker.input for node in self._convolutions(source)]

    def _weights_before(self, value: str) -> np.ndarray:
        """Weights of the convolution that a value comes from; their type and number of channels are the value's, too."""
        maker = self._maker(value)
        while maker.op_type != "Conv":
            maker = self._maker(maker.input[0])
        return self._arrays[maker.input[1]]
