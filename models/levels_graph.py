"""ONNX nodes around and inside the loop of a frame file that paints coarse to fine, as in `frame_graph`, and constants that
`inference.levels` shares. Standard library only.

`inference.levels` says what each step is for. Here the picture stays in float32 throughout, and every level is reduced
directly from the full-size picture."""

import math

from allaprima.models import frame_graph

STROKES_PIXELS = 768 * 576  # of the smallest level: strokes look as they do on a picture of this size
MIN_FINER = 1.2  # a picture whose sides exceed that by a smaller factor is painted in one pass
# Share of a finer painting's own light and color. 0 takes only its detail, which shows the network's weave at 100 %; 1 has
# the crispest strokes, but loses the palette and the subject. Chosen by eye. Content + 10 style loss of four squares of
# 2048 px, scaled to 512 px, starry_night, great_wave, the_scream: one pass 4.02, 3.12, 4.45; with 0 2.71, 2.15, 2.10; with
# 0.25 2.78, 2.37, 2.81; with 0.5 2.92, 2.86, 4.05; with 1 3.12, 4.69, 7.60.
OWN = 0.25
MAX_GAIN = 2.0  # of contrast, when a finer painting is held to the coarser one's palette
MAX_FINER = 65536.0  # in a file; more has no use

_CONVERT = "coordinate_transformation_mode = 'half_pixel', cubic_coeff_a = -0.75, exclude_outside = 0"
_RESIZE = f"Resize<antialias = 1, {_CONVERT}, extrapolation_value = 0.0, keep_aspect_ratio_policy = 'stretch', mode = "
REDUCE = f"{_RESIZE}'linear', nearest_mode = 'floor'>"
ENLARGE = f"{_RESIZE}'cubic', nearest_mode = 'floor'>"


def _content_at_scale(name: str) -> str:
    return f"""
{name}_exact = Mul(sides_px, {name}_scale)
{name}_rounded = Round({name}_exact)
{name}_px = Max({name}_rounded, once)
{name}_sides = Cast<to = 7>({name}_px)
{name}_shape = Concat<axis = 0>(batch_and_channels, {name}_sides)
{name}_content = {REDUCE}(picture, , , {name}_shape)
"""


# Every Reshape states a length that is already known: runtimes that lose track of it refuse the Resize that follows.
BEFORE_LOOP = (
    """
planes = Transpose<perm = [0, 3, 1, 2]>(content_frame)
levels = Cast<to = 1>(planes)
picture = Mul(levels, one_255th)
batch_and_channels = Shape<end = 2, start = 0>(picture)
sides = Shape<end = 4, start = 2>(picture)
sides_px = Cast<to = 1>(sides)
height = Shape<end = 3, start = 2>(picture)
width = Shape<end = 4, start = 3>(picture)
height_px = Cast<to = 1>(height)
width_px = Cast<to = 1>(width)
pixels = Mul(height_px, width_px)
pixels_finer = Div(pixels, strokes_pixels)
sides_finer = Sqrt(pixels_finer)
wanted_finer = Mul(sides_finer, strokes)
finer = Min(wanted_finer, most_finer)
is_finer = GreaterOrEqual(finer, min_finer)
times_or_once = Where(is_finer, finer, once)
times = Reshape<allowzero = 0>(times_or_once, one)
octaves = Log(times)
doublings = Div(octaves, log_two)
at_most_half = Sub(doublings, half)
doublings_less = Ceil(at_most_half)
one_or_more = Max(doublings_less, once)
steps_or_none = Where(is_finer, one_or_more, never)
finer_steps = Reshape<allowzero = 0>(steps_or_none, one)
divisor = Max(finer_steps, once)
first_scale = Div(once, times)
"""
    + _content_at_scale("first")
    + """
trips_px = Add(finer_steps, once)
trips_vector = Cast<to = 7>(trips_px)
trips = Squeeze(trips_vector)
"""
)

LOOP_ENDS = ("trips", "", "first_content", "first_content"), ("painting", "last_content")  # inputs, outputs
LOOP = f"{', '.join(LOOP_ENDS[1])} = Loop({', '.join(LOOP_ENDS[0])})"

# Inputs and outputs of the loop's body: name, type, dims.
BODY_INPUTS = (
    ("level", "int64", ()),
    ("going", "bool", ()),
    ("coarse", "float32", ("batch", 3, "coarse_height", "coarse_width")),
    ("coarse_content", "float32", ("batch", 3, "coarse_height", "coarse_width")),
)
BODY_OUTPUTS = (
    ("go_on", "bool", ()),
    ("level_painting", "float32", ("batch", 3, "level_height", "level_width")),
    ("level_content", "float32", ("batch", 3, "level_height", "level_width")),
)

BEFORE_NETWORK = (
    """
go_on = Identity(going)
level_vector = Reshape<allowzero = 0>(level, one)
level_number = Cast<to = 1>(level_vector)
way = Div(level_number, divisor)
way_left = Sub(way, once)
level_scale = Pow(times, way_left)
"""
    + _content_at_scale("level")
    + f"""
seen = Mul(coarse_content, detail)
unseen = Sub(coarse, seen)
unseen_large = {ENLARGE}(unseen, , , level_shape)
lines = Mul(level_content, detail)
lines_put_in = Add(lines, unseen_large)
to_paint = Clip(lines_put_in, black, white)
"""
    + frame_graph.mirrored("level_width", 3, whole="to_paint", source="to_paint", target="wide")
    + frame_graph.mirrored("level_height", 2, whole="to_paint", source="wide", target="content_image")
)


def _mean_and_std(name: str) -> str:
    return f"""
{name}_mean = ReduceMean<keepdims = 1, noop_with_empty_axes = 0>({name}, rows_and_columns)
{name}_off = Sub({name}, {name}_mean)
{name}_squares = Mul({name}_off, {name}_off)
{name}_variance = ReduceMean<keepdims = 1, noop_with_empty_axes = 0>({name}_squares, rows_and_columns)
{name}_std = Sqrt({name}_variance)
{name}_contrast = Add({name}_std, one_255th)
"""


AFTER_NETWORK = (
    f"""
cropped = Slice(stylized_image, top_left, level_sides, rows_and_columns)
painted = Clip(cropped, black, white)
coarse_sides = Shape<end = 4, start = 2>(coarse)
coarse_shape = Concat<axis = 0>(batch_and_channels, coarse_sides)
small = {REDUCE}(painted, , , coarse_shape)
"""
    + _mean_and_std("small")
    + _mean_and_std("coarse")
    + f"""
wanted_gain = Div(coarse_contrast, small_contrast)
gain = Clip(wanted_gain, least_gain, most_gain)
gained_mean = Mul(gain, small_mean)
shift = Sub(coarse_mean, gained_mean)
small_gained = Mul(small, gain)
small_shifted = Add(small_gained, shift)
whole_drift = Sub(coarse, small_shifted)
drift = Mul(whole_drift, not_own)
drift_large = {ENLARGE}(drift, , , level_shape)
painted_gained = Mul(painted, gain)
painted_shifted = Add(painted_gained, shift)
painted_back = Add(painted_shifted, drift_large)
held = Clip(painted_back, black, white)
is_first = Equal(level, zero)
level_painting = Where(is_first, painted, held)
"""
)

AFTER_LOOP = frame_graph.mixed("picture", "painting", "stylized_frame")


def constants(stride_px: int, least_px: int) -> dict[str, list[int]]:
    """The int64 vectors that the nodes refer to, as in `frame_graph.constants`."""
    shared = frame_graph.constants(stride_px, least_px)
    del shared["height_and_width"]
    return {**shared, "rows_and_columns": [2, 3]}


SCALARS = {
    **frame_graph.SCALARS,
    "strokes_pixels": float(STROKES_PIXELS),
    "min_finer": MIN_FINER,
    "most_finer": MAX_FINER,
    "once": 1.0,
    "never": 0.0,
    "half": 0.5,
    "log_two": math.log(2.0),
    "black": 0.0,
    "white": 1.0,
    "least_gain": 1.0 / MAX_GAIN,
    "most_gain": MAX_GAIN,
    "not_own": 1.0 - OWN,
}
