"""Paints a picture of any size in little memory: tile by tile, each normalized by statistics of the whole picture.

Instance normalization looks at the whole picture, so tiles painted independently would differ and their borders would show.
Here the statistics are measured once, on samples from all over the picture that are normalized together as if they were one,
and given to every tile. A tile is painted with a margin as wide as the network's reach, so that where two tiles meet they
agree to the bit."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from allaprima.inference.style.engines import Session
from allaprima.inference.style.session import frame_to_image, image_to_frame, pad_image
from allaprima.models.contract import Contract

MIN_TILE_PX, MAX_TILE_PX = 256, 1792  # including margins

MARGIN_PX = 64  # the quality network's reach is 57 px, the realtime one's 46
# Many small samples are better: for 10 megapixels, three styles came within 1.1 levels of the whole picture with 400 of 48 px
# (a tenth of its pixels), and within 7 with 12 of 256 px.
SAMPLE_PX, SAMPLE_MARGIN_PX = 48, 16
SAMPLES = 400

NORM = "InstanceNormalization"
# The measuring network's other inputs, int64 (2,) each: the margins in height and width, and the pictures' height and width.
MARGINS, SIDES = "margins", "sides"
AXES = (0, 2, 3)  # batch, height, width: the samples are one picture


Run = Callable[[Session, dict[str, np.ndarray], list[str]], list[np.ndarray]]


class Tiler:
    """A style, ready to paint tile by tile; several threads may share it.

    Args:
        data: an .onnx file of ours that takes images.
        opened: opens another file in the same way; its second argument says whether it measures, which must be exact.
    """

    def __init__(self, data: bytes, contract: Contract, opened: Callable[[bytes, bool], Session]) -> None:
        measuring, given, self._statistics = measuring_and_given(data)
        self._measuring, self._given, self._contract = opened(measuring, True), opened(given, False), contract

    def paint(
        self, frame: np.ndarray, pixels: int, measured_pixels: int, run: Run, progress: Callable[[float], object]
    ) -> np.ndarray:
        """Paint a frame, (H, W, 3) uint8 RGB.

        Args:
            pixels: in the network at once, at most; `MIN_TILE_PX` squared or more.
            measured_pixels: the same while the statistics are measured; more is more exact.
            run: runs a session on named inputs and returns named outputs.
            progress: receives the painted share, 0 to 1, after every tile.
        """
        contract, tensors = self._contract, self._contract.tensors
        squares, margins = samples(frame, measured_pixels)
        image = self._padded(np.concatenate([frame_to_image(square) for square in squares]))
        given = {tensors.input: image, MARGINS: np.array(margins), SIDES: np.array(squares[0].shape[:2])}
        statistics = dict(zip(self._statistics, run(self._measuring, given, self._statistics), strict=True))
        stylized_frame = np.empty_like(frame)
        parts = list(tiles(frame.shape[0], frame.shape[1], math.isqrt(pixels), contract.stride_px))
        for i, tile in enumerate(parts):
            image = frame_to_image(frame[tile.around])
            height, width = image.shape[2:]
            stylized = run(self._given, {tensors.input: self._padded(image), **statistics}, [tensors.output])[0]
            stylized_frame[tile.inside] = image_to_frame(stylized[:, :, :height, :width])[tile.within]
            progress((i + 1) / len(parts))
        return stylized_frame

    def _padded(self, image: np.ndarray) -> np.ndarray:
        return pad_image(image, self._contract.stride_px, self._contract.least_px)


@dataclass(frozen=True)
class Tile:
    """A part of a picture, and the same with its margin; slices of height and width."""

    inside: tuple[slice, slice]
    around: tuple[slice, slice]

    @property
    def within(self) -> tuple[slice, slice]:
        """Where the part lies within the painting of `around`."""
        height, width = (
            slice(inside.start - around.start, inside.stop - around.start)
            for inside, around in zip(self.inside, self.around, strict=True)
        )
        return height, width


def tiles(height: int, width: int, side_px: int, stride_px: int) -> Iterator[Tile]:
    """Tiles that cover a picture, row by row, of about the same size and at most `side_px` with their margins.

    Args:
        side_px: must be more than two margins.
        stride_px: tiles begin at multiples of it.
    """
    columns = list(_spans(width, side_px, stride_px))
    for inside_rows, around_rows in _spans(height, side_px, stride_px):
        for inside_columns, around_columns in columns:
            yield Tile((inside_rows, inside_columns), (around_rows, around_columns))


def _spans(size: int, side_px: int, stride_px: int) -> Iterator[tuple[slice, slice]]:
    if size <= side_px:
        yield slice(0, size), slice(0, size)
        return
    inside = (side_px - 2 * MARGIN_PX) // stride_px
    count = math.ceil(size / (inside * stride_px))
    edges = [min(size, round(size / stride_px * i / count) * stride_px) for i in range(count)] + [size]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop), slice(max(0, start - MARGIN_PX), min(size, stop + MARGIN_PX))


def samples(frame: np.ndarray, pixels: int) -> tuple[list[np.ndarray], list[int]]:
    """Squares spread evenly over a frame, of `SAMPLE_PX` with a margin, or of the picture's own side if that is smaller.

    The margin is there because near a square's border a network does not see what it sees in the picture.

    Args:
        pixels: about the total of all of them.
    Returns:
        views, (h, w, 3) each; and the margins in height and width, in pixels.
    """
    whole = SAMPLE_PX + 2 * SAMPLE_MARGIN_PX
    size = frame.shape[:2]
    sides = [min(whole, each) for each in size]
    margins = [SAMPLE_MARGIN_PX if each > whole else 0 for each in size]
    most = min(SAMPLES, pixels // math.prod(sides))
    rows = min(math.ceil(size[0] / SAMPLE_PX), max(1, round(math.sqrt(most * size[0] / size[1]))))
    columns = min(math.ceil(size[1] / SAMPLE_PX), max(1, most // rows))
    squares = [
        frame[y : y + sides[0], x : x + sides[1]]
        for y in _starts(size[0], sides[0], rows)
        for x in _starts(size[1], sides[1], columns)
    ]
    return squares, margins


def _starts(size: int, side: int, count: int) -> list[int]:
    """Where `count` parts of a length begin, each centered in its share, but kept inside."""
    return [min(max(0, round(size * (i + 0.5) / count - side / 2)), size - side) for i in range(count)]


def measuring_and_given(data: bytes) -> tuple[bytes, bytes, list[str]]:
    """Two networks made from a style's: one that normalizes a batch as if it were one picture, by what is inside `MARGINS`,
    and returns the factors and summands of every norm; and one that takes those as inputs.

    Args:
        data: an .onnx file of ours that takes images.
    Returns:
        the files, and the names of what the first returns and the second takes, (1, C, 1, 1) float32.
    """
    measuring, given = onnx.load_from_string(data), onnx.load_from_string(data)
    names: list[str] = []
    for model in (measuring, given):
        if model is measuring:
            sizes = (helper.make_tensor_value_info(name, TensorProto.INT64, (2,)) for name in (MARGINS, SIDES))
            model.graph.input.extend(sizes)
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes: list[NodeProto] = []
        names = []
        for node in model.graph.node:
            if node.op_type != NORM:
                nodes.append(node)
                continue
            x, scale, bias = node.input
            half = weights[scale].data_type == TensorProto.FLOAT16
            gain, shift = f"{node.output[0]}/gain", f"{node.output[0]}/shift"
            names += [gain, shift]
            whole = f"{x}/float" if half else x
            painted = f"{node.output[0]}/float" if half else node.output[0]
            if half:
                nodes.append(helper.make_node("Cast", [x], [whole], to=TensorProto.FLOAT))
            if model is measuring:
                epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
                nodes += _measure(model, whole, weights[scale], weights[bias], epsilon, gain, shift)
                ends = model.graph.output
            else:
                ends = model.graph.input
            channels = weights[scale].dims[0]
            ends.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, 1, 1)) for name in (gain, shift))
            nodes.append(helper.make_node("Mul", [whole, gain], [f"{painted}/scaled"]))
            nodes.append(helper.make_node("Add", [f"{painted}/scaled", shift], [painted]))
            if half:
                nodes.append(helper.make_node("Cast", [painted], [node.output[0]], to=TensorProto.FLOAT16))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return measuring.SerializeToString(), given.SerializeToString(), names


def _measure(
    model: ModelProto, x: str, scale: TensorProto, bias: TensorProto, epsilon: float, gain: str, shift: str
) -> list[NodeProto]:
    """The nodes from a norm's input, (N, C, H, W), to its factor and summand, over the whole batch."""

    def constant(name: str, values: np.ndarray) -> str:
        model.graph.initializer.append(numpy_helper.from_array(values, f"{gain}/{name}"))
        return f"{gain}/{name}"

    def mean(of: str, result: str) -> NodeProto:
        if model.opset_import[0].version >= 18:
            axes = constant(f"axes_of_{result}", np.array(AXES, np.int64))
            return helper.make_node("ReduceMean", [of, axes], [result])
        return helper.make_node("ReduceMean", [of], [result], axes=AXES)

    four = (1, -1, 1, 1)
    weight = constant("weight", numpy_helper.to_array(scale).astype(np.float32).reshape(four))
    offset = constant("bias", numpy_helper.to_array(bias).astype(np.float32).reshape(four))
    small = constant("epsilon", np.array(epsilon, np.float32))
    two, end = constant("two", np.array([2], np.int64)), constant("end", np.array([4], np.int64))
    height_and_width = constant("height_and_width", np.array([2, 3], np.int64))
    names = ("shape", "size", "times", "start", "stop", "inside", "mean", "centered", "square", "variance", "sum")
    steps = {name: f"{gain}/{name}" for name in (*names, "deviation", "shifted")}
    return [
        # Features may be smaller than the picture.
        helper.make_node("Shape", [x], [steps["shape"]]),
        helper.make_node("Slice", [steps["shape"], two, end], [steps["size"]]),
        helper.make_node("Mul", [steps["size"], MARGINS], [steps["times"]]),
        helper.make_node("Div", [steps["times"], SIDES], [steps["start"]]),
        helper.make_node("Sub", [steps["size"], steps["start"]], [steps["stop"]]),
        helper.make_node("Slice", [x, steps["start"], steps["stop"], height_and_width], [steps["inside"]]),
        mean(steps["inside"], steps["mean"]),
        helper.make_node("Sub", [steps["inside"], steps["mean"]], [steps["centered"]]),
        helper.make_node("Mul", [steps["centered"], steps["centered"]], [steps["square"]]),
        mean(steps["square"], steps["variance"]),
        helper.make_node("Add", [steps["variance"], small], [steps["sum"]]),
        helper.make_node("Sqrt", [steps["sum"]], [steps["deviation"]]),
        helper.make_node("Div", [weight, steps["deviation"]], [gain]),
        helper.make_node("Mul", [steps["mean"], gain], [steps["shifted"]]),
        helper.make_node("Sub", [offset, steps["shifted"]], [shift]),
    ]
