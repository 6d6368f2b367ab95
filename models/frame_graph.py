"""The ONNX nodes around the network in a frame file, in the syntax of onnx.parser. Standard library only.

The exporter builds them; the runtime refuses a frame file whose nodes outside the network are not exactly these.
"""

# Not done with Pad: no runtime's reflecting Pad mirrors more than once, but a picture of a few pixels needs that, and some
# runtimes overran their memory there. Gathering the mirrored rows and columns is exact at any size.
_MIRRORED = """
{side} = Shape<end = {end}, start = {axis}>({whole})
{side}_raised = Add({side}, stride_less_one)
{side}_strides = Div({side}_raised, stride_px)
{side}_full = Mul({side}_strides, stride_px)
{side}_wanted = Max({side}_full, least_px)
{side}_missing = Sub({side}_wanted, {side})
{side}_steps = Slice(steps, zero, {side}_missing)
{side}_beyond = Add({side}_steps, {side})
{side}_last = Sub({side}, one)
{side}_twice = Mul({side}_last, two)
{side}_period = Max({side}_twice, one)
{side}_there = Mod({side}_beyond, {side}_period)
{side}_back = Sub({side}_period, {side}_there)
{side}_mirrored = Min({side}_there, {side}_back)
{side}_border = Gather<axis = {axis}>({source}, {side}_mirrored)
{target} = Concat<axis = {axis}>({source}, {side}_border)
"""


def mirrored(side: str, axis: int, *, whole: str, source: str, target: str) -> str:
    """Nodes that extend a picture along an axis by mirroring its end, up to the next size that a network takes.

    Args:
        side: a prefix for the names. whole: the picture whose size is read. source: the tensor to mirror. target: the result.
    """
    return _MIRRORED.format(side=side, axis=axis, end=axis + 1, whole=whole, source=source, target=target)


PROLOGUE = (
    mirrored("width", 2, whole="content_frame", source="content_frame", target="wide_frame")
    + mirrored("height", 1, whole="content_frame", source="wide_frame", target="whole_frame")
    + """
planes = Transpose<perm = [0, 3, 1, 2]>(whole_frame)
levels = Cast<to = 1>(planes)
content_image = Mul(levels, one_255th)
"""
)

# The convolution's attributes are ONNX's defaults; onnxruntime-web's older WebGPU needs them spelled out.
_MIXED = """
strength_mixing = Mul(strength, mixing_by_strength)
kept = Mul(strength, keep_color)
kept_mixing = Mul(kept, mixing_by_kept)
both_mixing = Add(strength_mixing, kept_mixing)
mixing = Add(both_mixing, mixing_content)
both = Concat<axis = 1>({content}, {stylized})
mixed = Conv<dilations = [1, 1], group = 1, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]>(both, mixing)
clipped_levels = Clip(mixed, darkest, lightest)
rounded_levels = Round(clipped_levels)
rounded_planes = Cast<to = 2>(rounded_levels)
{target} = Transpose<perm = [0, 2, 3, 1]>(rounded_planes)
"""


def mixed(content: str, stylized: str, target: str) -> str:
    """Nodes that blend two images by `strength` and `keep_color` into a uint8 frame named `target`."""
    return _MIXED.format(content=content, stylized=stylized, target=target)


EPILOGUE = (
    mixed("content_image", "stylized_image", "painted_frame")
    + """
sides = Concat<axis = 0>(height, width)
stylized_frame = Slice(painted_frame, top_left, sides, height_and_width)
"""
)


def lines(nodes: str) -> list[str]:
    return [line for line in nodes.splitlines() if line]


def constants(stride_px: int, least_px: int) -> dict[str, list[int]]:
    """The int64 vectors that the nodes above refer to, for a network's stride and least size."""
    return {
        "stride_px": [stride_px],
        "stride_less_one": [stride_px - 1],
        "least_px": [least_px],
        "steps": list(range(max(stride_px, least_px))),
        "zero": [0],
        "one": [1],
        "two": [2],
        "top_left": [0, 0],
        "height_and_width": [1, 2],
    }


# float32 scalars, and matrices of 3 x 6 for [content_image; stylized_image]
SCALARS = {"one_255th": 1 / 255, "darkest": 0.0, "lightest": 255.0}
MATRICES = ("mixing_content", "mixing_by_strength", "mixing_by_kept")
