"""Writes a trained network as an .onnx file, in several flavors, each compared with torch before it is kept."""

import base64
import contextlib
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch

from allaprima.inference.atomic import write_atomically
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.levels import paint_levels
from allaprima.inference.pictures import read_picture, resize_short_side
from allaprima.inference.style.engines import REFERENCE_PHOTOS
from allaprima.inference.style.onnx_file import rebuilt
from allaprima.inference.style.palette import all_styles, initializers, mixed_style
from allaprima.inference.style.session import StyleSession, first_weights, frame_to_image, pad_image
from allaprima.models import __version__
from allaprima.models.contract import FRAME, IMAGE, LUMA, WEIGHTS, Contract
from allaprima.models.errors import PictureError, StyleError, TrainingError
from allaprima.models.frame_model import as_frame, with_weights
from allaprima.models.image_transform_net import ImageTransformNet
from allaprima.models.targets import TARGETS
from allaprima.models.vgg import load_vgg19
from allaprima.training.checkpoint import find_weights, load_net
from allaprima.training.config import Flavor, TrainConfig
from allaprima.training.export.conversion import at_opset, in_form_for
from allaprima.training.export.graph import quantize, to_onnx, with_color, with_own_names
from allaprima.training.photos.folder import is_folder, list_photos
from allaprima.training.studies.evaluate import Training, heldout_losses, painter_of
from allaprima.training.style_image import read_style_image

PHOTOS = 16  # used for the comparison, at most
CALIBRATION_PHOTOS = 64  # used to measure the ranges for int8
PHOTO_PX = 256  # short side of both
MAX_ASPECT = 4
THUMBNAIL_PX = 128
SIZES = ((1, 1), (17, 33), (64, 64), (123, 250), (301, 199))  # height, width of synthetic pictures, compared besides photos

MAX_DIFFERENCE = 0.9  # of any precision, so that nothing is NaN, or black where it should be white
TOLERANCE = 1e-3  # of fp32: largest difference on [0, 1], a quarter of an 8-bit level
WITHIN_ONE_LEVEL = 0.999  # of fp32: share of values within 1/255 of torch's
MIN_DB = {"fp16": 45.0, "int8": 30.0}  # PSNR against torch in float32
MAX_ACTIVATION = 65504 / 8  # of fp16: well below float16's largest number
MAX_LEVELS_APART = 4.0  # of 255, on average; measured: 1 to 3, as the two reduce and round differently
MAX_STYLE_LOSS = 1.05  # of int8: times torch's


@dataclass(frozen=True)
class Yardstick:
    """What to compare on: photos and, for int8, the painting and VGG-19; those that are None are taken from the run."""

    photos: Path | None = None
    style_image: Path | None = None
    vgg19: str | None = None


def export(
    run_or_checkpoint: Path,
    output: Path,
    flavor: Flavor | None = None,
    yardstick: Yardstick | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write a network as .onnx, if ONNX Runtime paints the same with it as torch.

    Args:
        run_or_checkpoint: a run folder (its weights.safetensors, else its newest checkpoint) or a .safetensors file.
        output: the .onnx file.
        flavor: the kind of file, by default images in fp32 with no color control inside.
        yardstick: what it is compared on.
        weights: of the mix that the network is, if it is one.
    Returns:
        the report, also stored in the file: "photos" and "photos_from"; "psnr_db" over all photos and "worst_photo_db";
        "within_one_level", a share of values; "largest_difference" on [0, 1]; for fp16 "largest_activation" and
        "half_arithmetic_db"; for int8 "style_loss_ratio" and "calibration_photos".
    Raises:
        StyleError: not our weights, no painting for int8, or the file is not good enough; nothing is written then.
        TrainingError: the run folder has no weights. PictureError, WeightsError: photos, painting or VGG-19 are unusable.
    """
    flavor, yardstick = flavor or Flavor(), yardstick or Yardstick()
    if output.suffix.lower() != ".onnx":
        raise StyleError(f"{output} is not named .onnx; give -o FILE.onnx")
    if flavor.strokes is not None and flavor.io != "frame":
        raise StyleError("an image file paints in one pass, as its caller says the size; for strokes give --io frame, too")
    if flavor.mix and not weights:
        raise StyleError("--mix is for a mix of the palette: allaprima export great_wave:0.6,starry_night:0.4 --mix")
    target = TARGETS[flavor.target]
    net, card = load_net(find_weights(run_or_checkpoint))
    check_target(flavor, net.stride_px, net.least_px)
    paths, photos_from = find_photos(run_or_checkpoint, yardstick.photos)
    # A quarter of the photos is for the comparison, the others are for measuring ranges.
    compared = read_photos(paths[::4] if len(paths) >= 8 else paths, PHOTOS, net.stride_px)
    report: dict[str, Any] = {"photos": len(compared), "photos_from": photos_from}

    # Build the network's own graph.
    model = to_onnx(net, flavor.precision == "fp16")
    if flavor.precision == "fp16":
        report["largest_activation"] = round(largest_activation(net, compared), 1)
        report["half_arithmetic_db"] = half_arithmetic_db(net, compared)
    if flavor.precision == "int8":
        others = [path for path in paths if path not in compared] or paths  # if there are few photos, all serve for both
        calibration = read_photos(others, CALIBRATION_PHOTOS, net.stride_px)
        report["calibration_photos"] = len(calibration)
        model = quantize(model, [frame_to_image(frame) for frame in calibration.values()], target.symmetric)
        report["style_loss_ratio"] = round(style_loss_ratio(net, card, model, run_or_checkpoint, yardstick, list(compared)), 4)

    shares, own = all_styles(weights) if flavor.mix and weights else ({}, {})
    if own:
        model = with_own_names(model, initializers({name: net.state_dict()[name].numpy() for name in own}))

    thumbnail = paint_thumbnail(_opened(model, Contract(net.stride_px, net.least_px)))

    # Build the graph around it, and compare with torch: all photos with the plain painting, which reveals most, some with
    # other strengths and colors.
    def with_all(strength: float, keep_color: float) -> tuple[onnx.ModelProto, Contract]:
        about = (flavor.io, flavor.precision, strength, keep_color)
        if flavor.io == "frame":
            contract = Contract(1, 1, card, *about, strokes=flavor.strokes, detail=flavor.detail)
            graph = at_opset(as_frame(model, net.stride_px, net.least_px, contract.optional), flavor.opset)
        else:
            contract = Contract(net.stride_px, net.least_px, card, *about)
            graph = at_opset(model if (strength, keep_color) == (1.0, 0.0) else with_color(model, strength, keep_color))
        if own:
            graph, contract = with_weights(graph, own), dataclasses.replace(contract, mix=shares)
        return graph, contract

    report |= compare(net, _opened(*with_all(1.0, 0.0)), list(compared.values()))
    mixtures = {(flavor.strength, flavor.keep_color), *([(1.0, 1.0), (0.5, 0.5)] if flavor.io == "frame" else [])}
    found = [compare(net, _opened(*with_all(*mixture)), list(compared.values())[:2]) for mixture in mixtures - {(1.0, 0.0)}]
    for reason in [reason for each in (report, *found) for reason in too_bad(each, flavor)]:
        raise StyleError(f"{reason}; {output} is not written")
    finished, contract = with_all(flavor.strength, flavor.keep_color)
    if own:
        check_mixes(serialized(*with_all(1.0, 0.0)), list(shares))
    if flavor.strokes is not None:
        check_levels(
            _opened(model, Contract(net.stride_px, net.least_px)), serialized(finished, contract), first_weights(contract)
        )
    if flavor.io == "image":
        own, finished = finished, in_form_for(finished, target, flavor.size, flavor.opset)
        if flavor.foreign:
            contract = dataclasses.replace(contract, target=flavor.target, size=flavor.size)
            check_alike(own, finished, flavor)
    contract = dataclasses.replace(contract, report=report, thumbnail=thumbnail)
    try:
        write_atomically(output, serialized(finished, contract))
    except OSError as error:
        raise StyleError(f"{output} cannot be written: {error.strerror or error}") from error
    return report


def find_photos(run_or_checkpoint: Path, photos: Path | None) -> tuple[list[Path], str]:
    """Photos to compare on, and their source: those given, else the run's own, else the three that are included."""
    if photos is not None:
        return list_photos(photos), "photos given"
    options = run_or_checkpoint / "options.json"
    if options.is_file():
        of_run = TrainConfig.read(options).photos
        with contextlib.suppress(TrainingError):  # the folder was moved or emptied
            if is_folder(of_run):
                return list_photos(Path(of_run)), "photos of the training"
    return sorted(REFERENCE_PHOTOS.glob("*.jpg")), "reference photos"


def read_photos(paths: Sequence[Path], most: int, stride_px: int) -> dict[Path, np.ndarray]:
    """Photos spread evenly over a list, (H, W, 3) uint8, their short side `PHOTO_PX` and both sides cut to multiples of
    `stride_px`. Those that cannot be read, or are more than `MAX_ASPECT` times as long as wide, are left out.

    Raises:
        StyleError: none is left.
    """
    frames: dict[Path, np.ndarray] = {}
    picked = [paths[int(i)] for i in np.linspace(0, len(paths), most, endpoint=False)] if len(paths) > most else list(paths)
    for path in [*picked, *(path for path in paths if path not in set(picked))]:
        if len(frames) == most:
            break
        try:
            frame = read_picture(path).frame
        except PictureError:
            continue
        if max(frame.shape[:2]) > MAX_ASPECT * min(frame.shape[:2]):
            continue
        frame = resize_short_side(frame, PHOTO_PX)
        height, width = (side // stride_px * stride_px for side in frame.shape[:2])
        frames[path] = frame[:height, :width]
    if not frames:
        raise StyleError(f"none of {len(paths)} photos could be used; give --photos FOLDER")
    return frames


def serialized(model: onnx.ModelProto, contract: Contract) -> bytes:
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    form = {"allaprima.ir_version": str(model.ir_version), "allaprima.opset": str(model.opset_import[0].version)}
    onnx.helper.set_model_props(complete, contract.to_metadata(__version__) | form)
    complete.producer_name, complete.producer_version = "allaprima", __version__
    return complete.SerializeToString()


def check_target(flavor: Flavor, stride_px: int, least_px: int) -> None:
    """Raises StyleError if the target does not accept this kind of file, or the network not this size."""
    target, name = TARGETS[flavor.target], flavor.target
    if flavor.precision not in target.precisions:
        takes = " or ".join(target.precisions)
        raise StyleError(f"{name} takes no {flavor.precision} file of ours; give --precision {takes} ({target.why})")
    if flavor.io == "frame" and not target.frames:
        raise StyleError(f"{name} takes no frame file; leave out --io frame ({target.why})")
    if flavor.io == "frame" and flavor.size:
        raise StyleError("a frame file takes any size; leave out --size, or --io frame")
    if target.fixed_size and not flavor.size:
        raise StyleError(f"{name} takes pictures of one size: give --size WIDTHxHEIGHT, 640x480 say ({target.why})")
    if flavor.size:
        nearest = tuple(max(round(side / stride_px) * stride_px, least_px) for side in flavor.size)
        if nearest != flavor.size:
            asked, near = ("{}x{}".format(*size) for size in (flavor.size, nearest))
            raise StyleError(
                f"the network takes no {asked}: sides are multiples of {stride_px}, at least {least_px}; the nearest is {near}"
            )


def check_alike(own: onnx.ModelProto, foreign: onnx.ModelProto, flavor: Flavor) -> None:
    """Raises StyleError if, in ONNX Runtime, a file in another form paints differently from one in our own."""
    width, height = flavor.size or (320, 240)
    content_image = frame_to_image(paint_landscape(height, width))
    feeds = {IMAGE.input: content_image}
    found, expected = (_run(model.SerializeToString(), feeds) for model in (foreign, own))
    difference = float(np.abs(found - expected).max())
    most = {"fp32": TOLERANCE}.get(flavor.precision, 4 / 255)  # sums in float16 are rounded in another order
    if not difference <= most:
        raise StyleError(f"in the form for {flavor.target} it differs by {difference:.2g} ({most:.2g} is allowed)")


def check_mixes(data: bytes, names: Sequence[str]) -> None:
    """Raises StyleError if a file of several styles paints one, or two mixed, differently from a file of these alone."""
    frame = paint_landscape(64, 96)
    session = StyleSession(data, "cpu", engine="onnxruntime")
    for mix in ({names[0]: 1.0}, {names[1]: 2.0}, {names[0]: 1.0, names[1]: 3.0}):
        session.weights = np.array([mix.get(name, 0.0) for name in names], np.float32)
        alone = StyleSession(mixed_style(mix), "cpu", engine="onnxruntime").stylize(frame)
        if cv2.absdiff(session.stylize(frame), alone).max() > 1:
            raise StyleError(f"with the weights of {mix} it paints differently from {mix} alone")


def check_levels(session: StyleSession, data: bytes, weights: np.ndarray) -> None:
    """Raises StyleError if a file paints coarse to fine differently from us, on a synthetic picture of two levels; `weights`
    are what a file of several styles is fed with."""
    content_frame = cv2.resize(paint_landscape(320, 320), (1280, 1024), interpolation=cv2.INTER_CUBIC)
    feeds = {FRAME.input: content_frame[None]} | {
        name: np.array(value, np.float32)
        for name, value in {"strength": 1.0, "keep_color": 0.0, "strokes": 1.0, "detail": 1.0}.items()
    }
    feeds |= {WEIGHTS: weights} if weights.size else {}
    found = _run(data, feeds)[0]
    levels = cv2.absdiff(found, paint_levels(session, content_frame, strokes=1.0, detail=1.0)).mean()
    if not levels <= MAX_LEVELS_APART:
        raise StyleError(f"painted coarse to fine it is {levels:.1f} levels from our own ({MAX_LEVELS_APART:g} are allowed)")


def _run(data: bytes, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The output of a file in plain ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of every optional input
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(feeds))[0])


def _opened(model: onnx.ModelProto, contract: Contract) -> StyleSession:
    """A session of a graph, which must equal the one that a session rebuilds from a file with it."""
    data = serialized(model, contract)
    run = onnx.load_from_string(rebuilt(data, "the file")[0]).graph
    for part in ("node", "initializer", "input", "output"):
        assert list(getattr(run, part)) == list(getattr(model.graph, part)), f"{part} of a file is not what is run"
    return StyleSession(data, "cpu", engine="onnxruntime")


def compare(net: ImageTransformNet, session: StyleSession, photos: Sequence[np.ndarray]) -> dict[str, float]:
    """How far ONNX Runtime is from torch in float32, on photos and on synthetic pictures of odd sizes.

    Args:
        photos: (H, W, 3) uint8 each.
    Returns:
        "psnr_db", "worst_photo_db" and "within_one_level" of the photos, "largest_difference" of all, on [0, 1]; NaN
        counts as infinite. A frame file's own rounding, half a level, is not counted as a difference.
    """
    rng = np.random.default_rng(0)
    made_up = [paint_landscape(320, 320)[:height, :width] for height, width in SIZES]
    made_up += [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SIZES]
    rounding = 0.5 / 255.0 if session.contract.io == "frame" else 0.0
    squares, within, largest = [], [], 0.0
    for i, frame in enumerate((*photos, *made_up)):
        found = session.stylize_image(frame_to_image(frame)).astype(np.float64)
        difference = np.maximum(np.abs(found - expected_image(net, frame, session.contract)) - rounding, 0.0)
        difference = np.where(np.isfinite(difference), difference, np.inf)
        largest = max(largest, float(difference.max()))
        if i < len(photos):
            squares.append(float(np.mean(difference**2)))
            within.append(float(np.mean(difference <= 1 / 255)))
    return {
        "psnr_db": _psnr_db(float(np.mean(squares))),
        "worst_photo_db": _psnr_db(max(squares)),
        "within_one_level": round(float(np.mean(within)), 5),
        "largest_difference": float(f"{largest:.2g}"),
    }


@torch.no_grad()
def expected_image(net: ImageTransformNet, frame: np.ndarray, contract: Contract) -> np.ndarray:
    """Torch's painting of a frame in float32, (1, 3, H, W), with the contract's strength and colors."""
    content = frame_to_image(frame)
    height, width = frame.shape[:2]
    stylized = net(torch.from_numpy(pad_image(content, net.stride_px, net.least_px)))[:, :, :height, :width].numpy()
    luma = np.array(LUMA, np.float32).reshape(1, 3, 1, 1)
    kept = content + ((stylized - content) * luma).sum(axis=1, keepdims=True)
    stylized = stylized + contract.keep_color * (kept - stylized)
    return np.asarray((content + contract.strength * (stylized - content)).clip(0.0, 1.0))


@torch.no_grad()
def largest_activation(net: ImageTransformNet, photos: Mapping[Path, np.ndarray]) -> float:
    """The largest absolute input or output value of any layer on photos, in float32."""
    largest = 0.0

    def look(_module: torch.nn.Module, values: tuple[torch.Tensor | bool, ...], result: torch.Tensor) -> None:
        nonlocal largest
        tensors = [value for value in (*values, result) if isinstance(value, torch.Tensor)]
        largest = float(np.max([largest, *(float(tensor.abs().max()) for tensor in tensors)]))  # NaN stays NaN

    hooks = [module.register_forward_hook(look) for module in net.modules()]
    for frame in photos.values():
        net(torch.from_numpy(frame_to_image(frame)))
    for hook in hooks:
        hook.remove()
    return largest


@torch.no_grad()
def half_arithmetic_db(net: ImageTransformNet, photos: Mapping[Path, np.ndarray]) -> float:
    """PSNR of the network on photos when its weights and every layer's result are rounded to float16, as on a GPU; on a
    CPU, ONNX Runtime keeps float32 between many layers."""
    half = copy.deepcopy(net).half().float()
    for module in half.modules():
        module.register_forward_hook(lambda _module, _values, result: result.half().float())
    images = [torch.from_numpy(frame_to_image(frame)) for frame in photos.values()]
    return _psnr_db(float(np.mean([float(((half(image) - net(image)) ** 2).mean()) for image in images])))


def style_loss_ratio(
    net: ImageTransformNet,
    card: Mapping[str, Any],
    model: onnx.ModelProto,
    run_or_checkpoint: Path,
    yardstick: Yardstick,
    photos: Sequence[Path],
) -> float:
    """The style loss of an ONNX graph's pictures, divided by torch's on the same photos."""
    style_image, vgg19, style_size_px = yardstick.style_image, yardstick.vgg19, Training.of(card).style_size_px
    max_pixels, crop_border = 0, bool(card.get("options", {}).get("crop_border"))
    if (run_or_checkpoint / "options.json").is_file():
        config = TrainConfig.read(run_or_checkpoint / "options.json")
        max_pixels, vgg19 = config.max_pixels, vgg19 or config.vgg19
        if style_image is None and Path(config.style_image).is_file():
            style_image = Path(config.style_image)
    if style_image is None:
        raise StyleError(
            "int8 is kept only if its style loss is near torch's; give the painting, --style-image PAINTING, and where VGG-19 "
            "is not to be downloaded (548 MB), --vgg19 FILE"
        )
    style_frame, vgg = read_style_image(str(style_image), style_size_px, max_pixels, crop_border=crop_border), load_vgg19(vgg19)
    painters = (painter_of(_opened(model, Contract(net.stride_px, net.least_px))), net)
    found, expected = (heldout_losses(paint, vgg, style_frame, photos, PHOTO_PX)["style"] for paint in painters)
    return found / expected


def too_bad(report: Mapping[str, Any], flavor: Flavor) -> list[str]:
    """Why a file should not be kept; empty if it should."""
    reasons = []
    most_difference = TOLERANCE if flavor.precision == "fp32" else MAX_DIFFERENCE
    if not report["largest_difference"] <= most_difference:
        wanted = f"at most {most_difference} is wanted"
        reasons.append(f"ONNX Runtime differs from torch by {report['largest_difference']:.2g} ({wanted})")
    if flavor.precision == "fp32" and not report["within_one_level"] >= WITHIN_ONE_LEVEL:
        wanted = f"at least {WITHIN_ONE_LEVEL:.1%} is wanted"
        reasons.append(f"only {report['within_one_level']:.2%} of values are within one level of torch's ({wanted})")
    if flavor.precision != "fp32" and not report["psnr_db"] >= MIN_DB[flavor.precision]:
        wanted = f"at least {MIN_DB[flavor.precision]:g} dB is wanted"
        reasons.append(f"{flavor.precision} is {report['psnr_db']:.1f} dB from torch ({wanted}); take another precision")
    if not report.get("half_arithmetic_db", np.inf) >= MIN_DB["fp16"]:
        reasons.append(f"in float16 throughout it is {report['half_arithmetic_db']:.1f} dB from torch; take fp32")
    if not report.get("largest_activation", 0.0) <= MAX_ACTIVATION:
        wanted = f"at most {MAX_ACTIVATION:g} is wanted, float16 ends at 65504"
        reasons.append(f"its largest activation is {report['largest_activation']:g} ({wanted}); take fp32")
    if not report.get("style_loss_ratio", 0.0) <= MAX_STYLE_LOSS:
        wanted = f"at most {MAX_STYLE_LOSS} is wanted"
        reasons.append(f"the style loss of int8 is {report['style_loss_ratio']:.3f} times torch's ({wanted}); take fp32")
    return reasons


def _psnr_db(mean_square: float) -> float:
    """At most 120 dB, where float32's own rounding begins; -inf if the error is not finite."""
    return round(-10.0 * float(np.log10(max(mean_square, 1e-12))), 1) if np.isfinite(mean_square) else -np.inf


def paint_thumbnail(session: StyleSession) -> str:
    """The reference photo of a coffee, painted, as base64 of a small JPEG file."""
    frame = session.stylize(read_picture(REFERENCE_PHOTOS / "coffee.jpg").frame)
    small = cv2.resize(frame, (THUMBNAIL_PX * frame.shape[1] // frame.shape[0], THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert ok
    return base64.b64encode(data.tobytes()).decode()
