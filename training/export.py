"""A trained network as an .onnx file, in several flavors, each compared with torch before it is kept."""

import base64
import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch

from inference.atomic import write_atomically
from inference.demo import paint_landscape
from inference.pictures import read_picture, resize_short_side
from inference.session import StyleSession, pad_image
from models import __version__
from models.contract import Contract
from models.errors import PictureError, StyleError
from models.image_transform_net import ImageTransformNet
from models.vgg import load_vgg19
from training.checkpoint import find_weights, load_net
from training.config import TrainConfig
from training.evaluate import Training, heldout_losses, painter_of
from training.graph import LUMA, as_frame, quantize, to_onnx, with_color
from training.loop import read_painting
from training.photos import is_folder, list_photos

REFERENCE_PHOTOS = Path(__file__).parent / "reference_photos"
PHOTOS = 16  # compared at most
CALIBRATION_PHOTOS = 64  # whose ranges int8 takes
PHOTO_PX = 256  # their short side
THUMBNAIL_PX = 128
SIZES = ((1, 1), (17, 33), (64, 64), (123, 250), (301, 199))  # height, width of made-up pictures, beside the photos

TOLERANCE = 1e-3  # of fp32: largest difference on [0, 1], a quarter of an 8-bit level
WITHIN_ONE_LEVEL = 0.999  # of fp32: share of values within 1/255 of torch's
LEAST_DB = {"fp16": 45.0, "int8": 30.0}  # PSNR against torch in float32
MOST_ACTIVATION = 65504 / 8  # of fp16: far from the largest number that float16 has
MOST_STYLE_LOSS = 1.05  # of int8: times torch's


@dataclass(frozen=True)
class Flavor:
    """What kind of file: as in `models.contract.Contract`."""

    io: str = "image"
    precision: str = "fp32"
    strength: float = 1.0
    keep_color: float = 0.0

    @property
    def suffix(self) -> str:
        """For a file's name: "style" + suffix + ".onnx"."""
        parts = (self.io if self.io != "image" else "", self.precision if self.precision != "fp32" else "")
        return "".join(f".{part}" for part in parts if part)


@dataclass(frozen=True)
class Yardstick:
    """What to compare with: photos, and for int8 the painting and VGG-19; what is None is looked for in the run."""

    photos: Path | None = None
    style_image: Path | None = None
    vgg19: str | None = None


def export(
    run_or_checkpoint: Path, output: Path, flavor: Flavor | None = None, yardstick: Yardstick | None = None
) -> dict[str, Any]:
    """Write a network as .onnx, if ONNX Runtime paints with it what torch paints.

    Args:
        run_or_checkpoint: a run folder (its weights.safetensors, else its newest checkpoint) or a .safetensors file.
        output: the .onnx file.
        flavor: the kind of file, by default images in fp32 without color inside.
        yardstick: what it is compared on.
    Returns:
        the report, which is in the file, too: "photos" and "photos_from"; "psnr_db" over all photos and "worst_photo_db";
        "within_one_level", a share of values; "largest_difference" on [0, 1]; for fp16 "largest_activation" and
        "half_arithmetic_db"; for int8 "style_loss_ratio" and "calibration_photos".
    Raises:
        StyleError: not weights of ours, no painting for int8, or the file is not good enough; nothing is written then.
        TrainingError: a run folder without weights. PictureError, WeightsError: photos, painting or VGG-19.
    """
    flavor, yardstick = flavor or Flavor(), yardstick or Yardstick()
    if output.suffix.lower() != ".onnx":
        raise StyleError(f"{output} is not named .onnx; give -o FILE.onnx")
    net, card = load_net(find_weights(run_or_checkpoint))
    paths, photos_from = find_photos(run_or_checkpoint, yardstick.photos)
    compared = read_photos(paths, PHOTOS, net.stride_px)
    report: dict[str, Any] = {"photos": len(compared), "photos_from": photos_from}

    # Build the network's own graph.
    model = to_onnx(net, flavor.precision == "fp16")
    if flavor.precision == "fp16":
        report["largest_activation"] = round(largest_activation(net, compared), 1)
        report["half_arithmetic_db"] = half_arithmetic_db(net, compared)
    if flavor.precision == "int8":
        others = [path for path in paths if path not in compared] or paths
        calibration = read_photos(others, CALIBRATION_PHOTOS, net.stride_px)
        report["calibration_photos"] = len(calibration)
        model = quantize(model, [as_image(frame) for frame in calibration.values()])
        report["style_loss_ratio"] = round(style_loss_ratio(net, card, model, run_or_checkpoint, yardstick, list(compared)), 4)

    # Build what stands around it.
    thumbnail = paint_thumbnail(_opened(model, Contract(net.stride_px, net.least_px)))
    stride_px, least_px = (1, 1) if flavor.io == "frame" else (net.stride_px, net.least_px)
    if flavor.io == "frame":
        model = as_frame(model, net.stride_px, net.least_px, flavor.strength, flavor.keep_color)
    elif flavor.strength < 1.0 or flavor.keep_color > 0.0:
        model = with_color(model, flavor.strength, flavor.keep_color)
    onnx.checker.check_model(model, full_check=True)

    # Compare with torch.
    contract = Contract(
        stride_px, least_px, card, flavor.io, flavor.precision, flavor.strength, flavor.keep_color, report, thumbnail
    )
    report |= compare(net, _opened(model, contract), list(compared.values()))
    for reason in too_bad(report, flavor):
        raise StyleError(f"{reason}; {output} is not written")
    try:
        write_atomically(output, serialized(model, contract))
    except OSError as error:
        raise StyleError(f"{output} cannot be written: {error.strerror or error}") from error
    return report


def find_photos(run_or_checkpoint: Path, photos: Path | None) -> tuple[list[Path], str]:
    """Photos to compare on, and where they are from: those given, else the run's own, else the three that come along."""
    if photos is not None:
        return list_photos(photos), photos.name
    options = run_or_checkpoint / "options.json"
    if options.is_file():
        of_run = TrainConfig.read(options).photos
        if is_folder(of_run) and Path(of_run).is_dir():
            return list_photos(Path(of_run)), Path(of_run).name
    return sorted(REFERENCE_PHOTOS.glob("*.jpg")), "reference photos"


def read_photos(paths: Sequence[Path], most: int, stride_px: int) -> dict[Path, np.ndarray]:
    """Photos from all over a list, (H, W, 3) uint8, their short side `PHOTO_PX` and both sides cut to multiples of
    `stride_px`. Those that cannot be read are left out.

    Raises:
        StyleError: none can.
    """
    frames: dict[Path, np.ndarray] = {}
    for start in range(step := max(1, len(paths) // most)):
        for path in paths[start::step]:
            if len(frames) == most:
                return frames
            try:
                frame = resize_short_side(read_picture(path).frame, PHOTO_PX)
            except PictureError:
                continue
            height, width = (side // stride_px * stride_px for side in frame.shape[:2])
            frames[path] = frame[:height, : min(width, 4 * PHOTO_PX)]
    if not frames:
        raise StyleError(f"none of {len(paths)} photos could be read; give --photos FOLDER")
    return frames


def as_image(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(frame.transpose(2, 0, 1)[None].astype(np.float32) / 255.0)


def serialized(model: onnx.ModelProto, contract: Contract) -> bytes:
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    onnx.helper.set_model_props(complete, contract.to_metadata(__version__))
    complete.producer_name, complete.producer_version = "allaprima", __version__
    return complete.SerializeToString()


def _opened(model: onnx.ModelProto, contract: Contract) -> StyleSession:
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, "trial.onnx")
        trial.write_bytes(serialized(model, contract))
        return StyleSession(trial, "cpu")


def compare(net: ImageTransformNet, session: StyleSession, photos: Sequence[np.ndarray]) -> dict[str, float]:
    """How far ONNX Runtime is from torch in float32, on photos and on made-up pictures of odd sizes.

    Args:
        photos: (H, W, 3) uint8 each.
    Returns:
        "psnr_db", "worst_photo_db" and "within_one_level" of the photos, "largest_difference" of all, on [0, 1]; nan
        counts as infinite. A frame file's own rounding, half a level, is not counted as a difference.
    """
    rng = np.random.default_rng(0)
    made_up = [paint_landscape(320, 320)[:height, :width] for height, width in SIZES]
    made_up += [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SIZES]
    rounding = 0.5 / 255.0 if session.contract.io == "frame" else 0.0
    squares, within, largest = [], [], 0.0
    for i, frame in enumerate((*photos, *made_up)):
        found = session.stylize_image(as_image(frame)).astype(np.float64)
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
    """What torch in float32 makes of a frame, (1, 3, H, W), with the contract's strength and colors."""
    content = as_image(frame)
    height, width = frame.shape[:2]
    stylized = net(torch.from_numpy(pad_image(content, net.stride_px, net.least_px)))[:, :, :height, :width].numpy()
    luma = np.array(LUMA, np.float32).reshape(1, 3, 1, 1)
    kept = content + ((stylized - content) * luma).sum(axis=1, keepdims=True)
    stylized = stylized + contract.keep_color * (kept - stylized)
    return np.asarray((content + contract.strength * (stylized - content)).clip(0.0, 1.0))


@torch.no_grad()
def largest_activation(net: ImageTransformNet, photos: Mapping[Path, np.ndarray]) -> float:
    """The largest absolute value that any layer takes or gives on photos, in float32."""
    largest = 0.0

    def look(_module: torch.nn.Module, values: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, *(float(value.abs().max()) for value in (*values, result)))

    hooks = [module.register_forward_hook(look) for module in net.modules()]
    for frame in photos.values():
        net(torch.from_numpy(as_image(frame)))
    for hook in hooks:
        hook.remove()
    return largest


@torch.no_grad()
def half_arithmetic_db(net: ImageTransformNet, photos: Mapping[Path, np.ndarray]) -> float:
    """PSNR of the network on photos when its weights and every layer's result are rounded to float16, as on a GPU; on a
    CPU ONNX Runtime keeps float32 between many of them."""
    half = copy.deepcopy(net).half().float()
    for module in half.modules():
        module.register_forward_hook(lambda _module, _values, result: result.half().float())
    images = [torch.from_numpy(as_image(frame)) for frame in photos.values()]
    return _psnr_db(float(np.mean([float(((half(image) - net(image)) ** 2).mean()) for image in images])))


def style_loss_ratio(
    net: ImageTransformNet,
    card: Mapping[str, Any],
    model: onnx.ModelProto,
    run_or_checkpoint: Path,
    yardstick: Yardstick,
    photos: Sequence[Path],
) -> float:
    """The style loss of an ONNX graph's pictures, times torch's on the same photos."""
    painting, vgg19, style_size_px = yardstick.style_image, yardstick.vgg19, Training.of(card).style_size_px
    if (run_or_checkpoint / "options.json").is_file():
        config = TrainConfig.read(run_or_checkpoint / "options.json")
        painting, vgg19 = painting or Path(config.painting), vgg19 or config.vgg19
    if painting is None:
        raise StyleError(
            "int8 is kept only if its style loss is near torch's; give the painting, --style-image PAINTING, and where VGG-19 "
            "is not to be downloaded (548 MB), --vgg19 FILE"
        )
    style_frame, vgg = read_painting(str(painting), style_size_px), load_vgg19(vgg19)
    painters = (painter_of(_opened(model, Contract(net.stride_px, net.least_px))), net)
    found, expected = (heldout_losses(paint, vgg, style_frame, photos, PHOTO_PX)["style"] for paint in painters)
    return found / expected


def too_bad(report: Mapping[str, Any], flavor: Flavor) -> list[str]:
    """Why a file should not be kept; nothing if it should."""
    reasons = []
    if flavor.precision == "fp32":
        if not report["largest_difference"] <= TOLERANCE:
            wanted = f"at most {TOLERANCE} is wanted"
            reasons.append(f"ONNX Runtime differs from torch by {report['largest_difference']:.2g} ({wanted})")
        if not report["within_one_level"] >= WITHIN_ONE_LEVEL:
            wanted = f"at least {WITHIN_ONE_LEVEL:.1%} is wanted"
            reasons.append(f"only {report['within_one_level']:.2%} of values are within one level of torch's ({wanted})")
    elif not report["psnr_db"] >= LEAST_DB[flavor.precision]:
        wanted = f"at least {LEAST_DB[flavor.precision]:g} dB is wanted"
        reasons.append(f"{flavor.precision} is {report['psnr_db']:.1f} dB from torch ({wanted}); take another precision")
    if not report.get("half_arithmetic_db", np.inf) >= LEAST_DB["fp16"]:
        reasons.append(f"in float16 throughout it is {report['half_arithmetic_db']:.1f} dB from torch; take fp32")
    if report.get("largest_activation", 0.0) > MOST_ACTIVATION:
        wanted = f"at most {MOST_ACTIVATION:g} is wanted, float16 ends at 65504"
        reasons.append(f"its largest activation is {report['largest_activation']:g} ({wanted}); take fp32")
    if report.get("style_loss_ratio", 1.0) > MOST_STYLE_LOSS:
        wanted = f"at most {MOST_STYLE_LOSS} is wanted"
        reasons.append(f"the style loss of int8 is {report['style_loss_ratio']:.3f} times torch's ({wanted}); take fp32")
    return reasons


def _psnr_db(mean_square: float) -> float:
    return round(-10.0 * float(np.log10(max(mean_square, 1e-12))), 1)


def paint_thumbnail(session: StyleSession) -> str:
    """The coffee among the reference photos, painted, as base64 of a small JPEG file."""
    frame = session.stylize(read_picture(REFERENCE_PHOTOS / "coffee.jpg").frame)
    small = cv2.resize(frame, (THUMBNAIL_PX * frame.shape[1] // frame.shape[0], THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert ok
    return base64.b64encode(data.tobytes()).decode()
