"""The classic optimization (Gatys, Ecker, Bethge 2016): one picture, painted by gradient descent on its own pixels.

Features and losses are those of training, but there is no network. It takes minutes per picture instead of milliseconds; the
networks are measured against it.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from allaprima.inference.color import LINEAR_METHODS, keep_luminance, luminance, match_histogram, match_linear, match_luminance
from allaprima.inference.console import progress_bar
from allaprima.inference.interrupt import catch_interrupt
from allaprima.inference.pictures import (
    Picture,
    check_no_input,
    check_writable,
    contact_sheet,
    read_picture,
    resize,
    resize_short_side,
    to_srgb,
    write_picture,
)
from allaprima.models.errors import Interrupted, OptimizeError, PictureError
from allaprima.models.vgg import LAYERS, VGG19Features, load_vgg19
from allaprima.training import losses
from allaprima.training.classic.descent import Objective, Step, descend
from allaprima.training.config import STYLE_WEIGHT, OptimizeConfig
from allaprima.training.device import device_name, guarded_memory, in_precision, pick_device, pick_precision
from allaprima.training.images import to_image
from allaprima.training.style_image import read_style_image

MIN_PX = 16  # of a picture's sides: VGG-19 halves them four times
NOISE = 0.15  # standard deviation of the initial noise
AVERAGE_DECAY = 0.98  # of the moving average: about the last 50 pictures
LOG_EVERY = 50  # iterations between two lines, if there is no progress bar
TIMED = 5  # iterations after which the expected total time is printed


@dataclass(frozen=True)
class Scene:
    """What to paint: the pictures, read, scaled and color-controlled.

    Attributes:
        content: the content image at the result's size, in its own colors.
        content_frame, style_frames: (H, W, 3) uint8, compared with by the losses; gray if only luminance is painted.
        init_frame: (H, W, 3) uint8, the start of the descent; None: noise.
    """

    content: Picture
    content_frame: np.ndarray
    style_frames: list[np.ndarray]
    init_frame: np.ndarray | None


def optimize(config: OptimizeConfig, output: Path, console: Console, overwrite: bool = False) -> Path:
    """Paint one picture and write it, with its snapshots.

    Args:
        config: what to paint.
        output: the picture's file; snapshots go next to it as NAME_000100.png, their sheet as NAME_snapshots.png. With
            `average` they show the average, and the losses of the newest picture in it.
        console: for progress.
    Returns:
        the file to look at: the sheet if there are snapshots, else the picture.
    Raises:
        PictureError, WeightsError, OptimizeError, TrainingError: something cannot be used or written; most is checked before
            minutes are spent, and on later errors the best picture so far is written, too.
        Interrupted: by Ctrl-C or SIGTERM, after the best picture so far was written.
    """
    # Check names.
    check_layers((*config.content_layers, *config.style_layers))
    files = {n: output.with_name(f"{output.stem}_{n:06d}{output.suffix}") for n in config.snapshots}
    sheet_path = output.with_name(f"{output.stem}_snapshots.png")
    for path in (output, *files.values(), *([sheet_path] if files else [])):
        check_writable(path, overwrite, config.bits)
        check_no_input(path, [config.content, *config.styles, config.init])

    # Load.
    scene = load_scene(config)
    device = pick_device(config.device)
    vgg = load_vgg19(config.vgg19, config.pooling, device)
    precision = pick_precision(config.precision, vgg, device)
    height, width = scene.content_frame.shape[:2]
    console.print(f"{width}x{height} px, VGG-19 in {precision} on {device_name(device)}", soft_wrap=True)

    # Descend.
    best: Step | None = None
    average: Tensor | None = None
    averaged = 0  # pictures in it
    snapshots: dict[str, np.ndarray] = {}
    began = 0.0

    def save(image: Tensor) -> None:
        write_picture(output, to_picture(image, scene, config.bits), overwrite)
        if snapshots:
            sheet = contact_sheet([list(snapshots.values())], [list(snapshots)], 320)
            write_picture(sheet_path, Picture(sheet), overwrite)

    with catch_interrupt() as interrupted:
        try:
            with guarded_memory(height, width, precision, device), progress_bar(console) as progress:
                task = progress.add_task("optimize", total=config.iterations, losses="")
                for step in descend_through_scales(config, scene, vgg, precision):
                    if best is None or best.image.shape != step.image.shape or step.losses["total"] < best.losses["total"]:
                        best = step
                    if average is None or average.shape != step.image.shape or not config.average:
                        average, averaged = step.image, 1
                    else:
                        average, averaged = moving_average(average, averaged, step.image), averaged + 1
                    text = " ".join(f"{name} {loss:.3g}" for name, loss in step.losses.items())
                    progress.update(task, completed=step.iteration, losses=text)
                    if step.iteration == 1:  # the first one also sets up buffers
                        began = time.perf_counter()
                    if step.iteration == 1 + TIMED:
                        seconds = (time.perf_counter() - began) / TIMED
                        console.print(expected_time(config, step.image, seconds, (height, width)), soft_wrap=True)
                    if not console.is_terminal and step.iteration % LOG_EVERY == 0:
                        console.print(f"iteration {step.iteration}/{config.iterations} {text}", soft_wrap=True)
                    if step.iteration in files:
                        write_picture(files[step.iteration], to_picture(average, scene, config.bits), overwrite)
                        label = f"{step.iteration}: content {step.losses['content']:.3g} style {step.losses['style']:.3g}"
                        snapshots[label] = to_picture(average, scene, 8).frame
                    if interrupted:
                        break
            assert best is not None
            assert average is not None
            save(average if config.average and not interrupted else best.image)
        except (Exception, KeyboardInterrupt):  # a full disk, too little memory, a second Ctrl-C: minutes of work are not lost
            if best is not None:
                with suppress(PictureError):
                    save(best.image)
            raise
    if interrupted:
        raise Interrupted(f"stopped after {step.iteration} iterations; the best picture so far is {output}")
    return sheet_path if snapshots else output


def check_layers(layers: Sequence[str]) -> None:
    """Raises OptimizeError if VGG-19 has no layer of one of these names."""
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown:
        raise OptimizeError(f'there is no layer "{unknown[0]}" in VGG-19; there are {", ".join(LAYERS)}')


def load_scene(config: OptimizeConfig) -> Scene:
    """Read content, styles and initial picture, scale them, control their colors (Gatys et al. 2016b).

    A style image is scaled until its short side equals the result's: the strokes keep their size relative to the picture.

    Raises:
        PictureError: unreadable. OptimizeError: too small for VGG-19. TrainingError: a style image of one flat color, or
            hopelessly narrow.
    """
    content = read_picture(config.content, config.max_pixels)
    if config.bits == 16:  # written without a profile
        content = to_srgb(content)
    height, width = fitted_size(content.frame, config.size_px, config.content, config.scales)
    frame = resize(content.frame, height, width)
    alpha = None if content.alpha is None else resize(content.alpha, height, width)
    content_frame = gray(luminance(frame)) if config.keep_color == "luminance" else frame
    styles = [read_style_image(path, min(height, width), config.max_pixels) for path in config.styles]
    style_frames = [control_color(config.keep_color, frame, style_frame) for style_frame in styles]
    init_frame = None if config.init == "noise" else content_frame
    if config.init not in ("content", "noise"):
        init_frame = resize(read_picture(config.init, config.max_pixels).frame, height, width)
        init_frame = gray(luminance(init_frame)) if config.keep_color == "luminance" else init_frame
    return Scene(dataclasses.replace(content, frame=frame, alpha=alpha), content_frame, style_frames, init_frame)


def fitted_size(frame: np.ndarray, size_px: int, name: str, scales: int = 1) -> tuple[int, int]:
    """Height and width of a frame scaled so that its long side is at most `size_px`; `name` is for messages.

    Raises:
        OptimizeError: at the coarsest scale it would be too small for VGG-19.
    """
    height, width = frame.shape[:2]
    scale = min(1.0, size_px / max(height, width))
    height, width = round(height * scale), round(width * scale)
    least_px = MIN_PX * 2 ** (scales - 1)
    if min(height, width) < least_px:
        scaled = f" for {scales} scales" if scales > 1 else ""
        raise OptimizeError(f"{name} gives {width}x{height} px; at least {least_px} px a side are needed{scaled}")
    return height, width


def control_color(mode: str, content_frame: np.ndarray, style_frame: np.ndarray) -> np.ndarray:
    """The style image that the losses compare with: recolored to the content, or its luminance matched to the content's.

    Args:
        mode: one of `COLOR_CONTROLS`.
        content_frame, style_frame: (H, W, 3) uint8 RGB, sizes may differ.
    Returns:
        (H, W, 3) uint8 RGB; gray with "luminance".
    """
    if mode == "luminance":
        matched = match_luminance(luminance(style_frame), luminance(content_frame))
        return gray(np.rint(matched).clip(0, 255).astype(np.uint8))
    if mode == "histogram":
        return match_histogram(style_frame, content_frame)
    return match_linear(style_frame, content_frame, mode) if mode in LINEAR_METHODS else style_frame


def gray(y: np.ndarray) -> np.ndarray:
    """(H, W) uint8 as a frame."""
    return np.repeat(y[:, :, None], 3, axis=2)


def descend_through_scales(config: OptimizeConfig, scene: Scene, vgg: VGG19Features, precision: str) -> Iterator[Step]:
    """The pictures from the initial one to the last, over all scales; iterations are counted through.

    Coarse to fine: each scale begins with the previous scale's picture, enlarged, and gets the same number of iterations.
    A style image is scaled along with the content.
    """
    height, width = scene.content_frame.shape[:2]
    looking_vgg = in_precision(vgg, precision)
    done = 0
    image = None
    for scale in range(config.scales):
        factor = 0.5 ** (config.scales - 1 - scale)
        size = max(MIN_PX, round(height * factor)), max(MIN_PX, round(width * factor))  # rounding may give 15
        content_frame = resize(scene.content_frame, *size)
        style_frames = [resize_short_side(frame, min(size)) for frame in scene.style_frames]
        objective = make_objective(config, vgg, looking_vgg, content_frame, style_frames)
        if image is None:
            channels = 1 if config.keep_color == "luminance" else 3
            if scene.init_frame is None:
                image = noise_image(*size, config.seed, vgg.mean.device)[:, :channels]
            else:
                image = to_image(resize(scene.init_frame, *size), vgg.mean.device)[:, :channels]
        else:
            image = torch.nn.functional.interpolate(image, size, mode="bicubic", antialias=True).clamp(0.0, 1.0)
        until = config.iterations * (scale + 1) // config.scales
        for step in descend(image, objective, until - done, config.optimizer):
            if step.iteration or not scale:  # a picture that was only enlarged is not a new one
                yield Step(done + step.iteration, step.image, step.losses)
            image = step.image
        done = until


def make_objective(
    config: OptimizeConfig,
    vgg: VGG19Features,
    looking_vgg: VGG19Features,
    content_frame: np.ndarray,
    style_frames: list[np.ndarray],
) -> Objective:
    """What the picture of one scale is compared with.

    Several styles become one target, the blend of their Gram matrices. With the losses of Gatys and of Johnson this gives
    the gradient of the blended losses.

    Args:
        vgg: float32, for the targets. looking_vgg: in the precision used for the picture.
    """
    device = vgg.mean.device
    blend = np.array(config.style_blend or [1.0] * len(style_frames))
    style_grams = {layer: torch.zeros((), device=device) for layer in config.style_layers}
    with torch.no_grad():
        content_features = vgg(to_image(content_frame, device), config.content_layers)
        for share, style_frame in zip(blend / blend.sum(), style_frames, strict=True):
            grams = losses.gram_matrices(vgg(to_image(style_frame, device), config.style_layers))
            style_grams = {layer: gram + share * grams[layer] for layer, gram in style_grams.items()}
    layer_weights = dict(zip(config.style_layers, config.style_layer_weights, strict=False)) or None
    return Objective(
        looking_vgg,
        content_features,
        style_grams,
        config.content_weight,
        default_style_weight(content_features, style_grams, config.normalization, layer_weights)
        if config.style_weight is None
        else config.style_weight,
        config.tv_weight,
        config.normalization,
        layer_weights,
    )


def default_style_weight(
    content_features: Mapping[str, Tensor],
    style_grams: Mapping[str, Tensor],
    normalization: str,
    layer_weights: Mapping[str, float] | None = None,
) -> float:
    """`STYLE_WEIGHT` for unitless losses; else the weight that gives a black picture the same ratio of style to content.

    With the other losses that ratio varies with the VGG-19 file by orders of magnitude, so no fixed number would do.
    """
    black = {layer: torch.zeros_like(features) for layer, features in content_features.items()}
    content = losses.content_loss(black, content_features, normalization)
    black = {layer: gram.new_zeros(1, gram.shape[1], 1, 1) for layer, gram in style_grams.items()}
    style = losses.style_loss(black, style_grams, normalization, layer_weights)
    return STYLE_WEIGHT * (content.item() or 1.0) / (style.item() or 1.0)


def noise_image(height: int, width: int, seed: int, device: torch.device) -> Tensor:
    """White noise around middle gray, (1, 3, H, W) in [0, 1]; the same for the same seed and size on any device."""
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return (0.5 + NOISE * noise).clamp(0.0, 1.0).to(device)


def moving_average(average: Tensor, averaged: int, image: Tensor) -> Tensor:
    """An exponential average with one more image; it is shorter at the start so that the initial picture fades.

    Args:
        averaged: how many images are in it.
    """
    return torch.lerp(image, average, min(AVERAGE_DECAY, averaged / (9 + averaged)))


def to_picture(image: Tensor, scene: Scene, bits: int) -> Picture:
    """A picture of the descent, ready to be saved: at the result's size, in 8 or 16 bits, with the content's chroma if gray."""
    height, width = scene.content.frame.shape[:2]
    if image.shape[2:] != (height, width):  # a coarse scale's
        image = torch.nn.functional.interpolate(image, (height, width), mode="bicubic").clamp(0.0, 1.0)
    most, dtype = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    frame = (image[0].permute(1, 2, 0).cpu().numpy() * most).round().astype(dtype)
    if frame.shape[2] == 1:
        content_frame = np.multiply(scene.content.frame, most // 255, dtype=dtype)
        frame = keep_luminance(content_frame, frame[:, :, 0])
    return dataclasses.replace(scene.content, frame=frame)


def expected_time(config: OptimizeConfig, image: Tensor, seconds: float, size: tuple[int, int]) -> str:
    """How long all iterations will take, estimated from the first ones.

    Args:
        image: at the scale of those. seconds: taken by one of them. size: height and width of the result.
    """
    per_pixel = seconds / image[0, 0].numel()
    pixels = [size[0] * size[1] * 0.25 ** (config.scales - 1 - scale) for scale in range(config.scales)]
    total = per_pixel * sum(pixels) / config.scales * config.iterations
    length = f"{total / 60:.0f} min" if total > 150 else f"{total:.0f} s"
    one = f"{seconds:.2f} s each at {image.shape[3]}x{image.shape[2]} px"
    return f"{config.iterations} iterations will take about {length} here ({one})"
