"""The training of one style: photos through f_W and VGG-19, losses back into f_W (Johnson et al. 2016, Fig. 2)."""

import copy
import dataclasses
import math
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from inference.pictures import read_picture, resize_short_side
from models.errors import TrainingError
from models.image_transform_net import TIERS, ImageTransformNet
from models.vgg import VGG19Features, load_vgg19
from training import losses
from training.checkpoint import (
    TrainingState,
    find_weights,
    latest_checkpoint,
    load_net,
    load_state,
    pack_state,
    save_checkpoint,
    save_weights,
    unpack_state_,
)
from training.config import TrainConfig
from training.device import pick_device, pick_precision
from training.photos import Batch, HubPhotos, PhotoFolder, is_folder, to_image
from training.record import LOG_EVERY, BadPhotos, MetricsLog, make_card, write_preview

EMA_DECAY = 0.999  # of the averaged weights that are exported
MOST_NOT_FINITE = 3  # steps with a non-finite loss, in a row, that stop a training
PREVIEW_PX = 256  # short side of the photos in the preview sheet
LEAST_CONTRAST = 2.0  # standard deviation of a painting's pixels, 0-255: below it there is nothing to learn


class Interrupted(Exception):
    """Ctrl-C: the training was saved and can go on."""


@dataclass(frozen=True)
class Target:
    """What the stylized images are compared with."""

    vgg: VGG19Features
    style_grams: dict[str, Tensor]


def train(config: TrainConfig, run_folder: Path, console: Console, resume: bool = False) -> Path:
    """Train one style, or go on with a training.

    Args:
        config: what to train.
        run_folder: gets options.json, metrics.jsonl, checkpoints, previews, and at the end weights.safetensors.
        console: for progress.
        resume: start from the newest checkpoint in `run_folder`, or from the beginning if there is none yet.
    Returns:
        the path of weights.safetensors.
    Raises:
        TrainingError, PictureError, StyleError, WeightsError: something in `config` cannot be used.
        Interrupted: by Ctrl-C or SIGTERM, after saving.
    """
    # Load the checkpoint, the painting, the photos and VGG-19.
    state: TrainingState | None = None
    start, seconds_before = 0, 0.0
    newest: dict[str, float] = {}
    if resume and any(run_folder.glob("step_*.json")):
        state, card = load_state(latest_checkpoint(run_folder))
        start, seconds_before, newest = state.step, float(card["seconds"]), dict(card["losses"])
        # "auto" was decided by a stopwatch; a resumed run must not decide otherwise.
        config = dataclasses.replace(config, precision=card["options"]["precision"])
        console.print(f"going on at step {start} of {config.steps}")
    style_frame = read_painting(config)
    device = pick_device(config.device)
    preview_frames = load_preview_frames(config)
    vgg = load_vgg19(config.vgg19).to(device).to(memory_format=torch.channels_last)
    config = dataclasses.replace(config, precision=pick_precision(config, vgg, device))
    target = make_target(vgg, style_frame, config.precision)
    console.print(f"VGG-19 and network in {config.precision} on {device}")

    # Build the network, its average and the optimizer.
    torch.manual_seed(config.seed)
    net = TIERS[config.tier]()
    if config.init and state is None:
        net = load_init(config)
    net = net.to(device).to(memory_format=torch.channels_last)
    averaged_net = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    if state:
        unpack_state_(state, net, averaged_net, optimizer)

    batches = make_loader(config, start)
    log = MetricsLog(run_folder, start, config.batch_size)
    bad_photos = BadPhotos(config, run_folder, resumed=state is not None)
    not_finite = 0
    began = time.monotonic()

    def save(step: int) -> None:
        seconds = seconds_before + time.monotonic() - began
        card = make_card(config, step, newest, seconds, len(bad_photos.names))
        save_checkpoint(run_folder, pack_state(step, net, averaged_net, optimizer), card)

    with catch_interrupt() as interrupted, progress_bar(console) as progress:
        task = progress.add_task("training", total=config.steps, completed=start, losses="")
        for step in range(start, config.steps):
            # Load photos.
            batch = next_batch(batches)
            bad_photos.note(batch, console)
            content_image = to_image(batch.content_image, device)

            # Paint them and compare.
            set_learning_rate_(optimizer, config, step)
            parts = step_losses(net, target, content_image, config)

            # Update weights.
            done = step + 1
            optimizer.zero_grad(set_to_none=True)
            parts["total"].backward()  # type: ignore[no-untyped-call]
            if is_finite(parts["total"], net):
                not_finite = 0
                optimizer.step()
                update_average_(averaged_net, net, step)
                newest = {name: loss.detach().item() for name, loss in parts.items()}
                log.add(done, newest)
            else:
                not_finite += 1
                console.print(f"step {done}: the loss or its gradient is not finite; skipped")
                if not_finite == MOST_NOT_FINITE:
                    raise TrainingError(
                        f"the loss was not finite {MOST_NOT_FINITE} times in a row at step {done}; checkpoints up to there "
                        f"are in {run_folder}. Train again with a smaller --lr (was {config.lr}) or --precision fp32"
                    )

            # Show, save.
            text = " ".join(f"{name} {value:.3f}" for name, value in newest.items())
            speed = log.photos_per_s
            progress.update(task, completed=done, losses=f"{text} {speed:.1f} photos/s")
            if not console.is_terminal and (done % LOG_EVERY == 0 or done == config.steps):
                console.print(f"step {done}/{config.steps} {text} {speed:.1f} photos/s", soft_wrap=True)
            if done % config.checkpoint_every == 0 or done == config.steps:
                save(done)
            if done % config.preview_every == 0 or done == config.steps:
                write_preview(run_folder, done, averaged_net, preview_frames, style_frame, newest, log)
            if interrupted and done < config.steps:
                save(done)
                folder = shlex.quote(str(run_folder))
                raise Interrupted(f"stopped at step {done}; go on with: allaprima train --resume {folder}")
    if bad_photos.names:
        console.print(f"{len(bad_photos.names)} damaged photos were skipped, listed in {bad_photos.path}", soft_wrap=True)

    # Keep the averaged weights as the result.
    path = run_folder / "weights.safetensors"
    seconds = seconds_before + time.monotonic() - began
    save_weights(path, averaged_net.state_dict(), make_card(config, config.steps, newest, seconds, len(bad_photos.names)))
    return path


def read_painting(config: TrainConfig) -> np.ndarray:
    """The style image, (H, W, 3) uint8, its short side `style_size_px`.

    Raises:
        PictureError: unreadable. TrainingError: one flat colour, or hopelessly narrow.
    """
    frame = read_picture(config.painting, config.max_pixels).frame
    if frame.std(axis=(0, 1)).max() < LEAST_CONTRAST:
        raise TrainingError(f"{config.painting} is one flat color; a painting with something on it is wanted")
    height, width = frame.shape[:2]
    if max(height, width) > 8 * min(height, width):
        raise TrainingError(f"{config.painting} is {width}x{height} px; at most 8 times as long as wide is wanted")
    return resize_short_side(frame, config.style_size_px)


def make_target(vgg: VGG19Features, style_frame: np.ndarray, precision: str) -> Target:
    """VGG-19 in the precision to train with, and the painting's Gram matrices, from the float32 one."""
    style_image = to_image(torch.tensor(style_frame)[None], vgg.mean.device)
    with torch.no_grad():
        style_features = vgg(style_image, losses.STYLE_LAYERS)
    style_grams = {layer: losses.gram_matrix(features) for layer, features in style_features.items()}
    return Target(copy.deepcopy(vgg).to(torch.bfloat16) if precision == "bf16" else vgg, style_grams)


def load_init(config: TrainConfig) -> ImageTransformNet:
    """Another style's network to start from.

    Raises:
        StyleError: not ours. TrainingError: of the other tier.
    """
    net, card = load_net(find_weights(Path(config.init or "")))
    if card["tier"] != config.tier:
        raise TrainingError(f"--init {config.init} is of tier {card['tier']}; --tier is {config.tier}")
    return net.train()


def make_loader(config: TrainConfig, start: int) -> Iterator[Batch]:
    """Batches for the steps from `start` on, prepared in other processes while the network works."""
    source: PhotoFolder | HubPhotos
    sampler: range | None = None
    if is_folder(config.photos):
        source = PhotoFolder(config.photos, config.batch_size, config.size_px, config.seed, config.max_pixels)
        sampler = range(start, config.steps)
        workers = 4 if torch.cuda.is_available() else 1
    else:
        source = HubPhotos(config.photos, config.batch_size, config.size_px, config.seed, start, config.max_pixels)
        workers = 1  # further ones would get no shard of a small dataset
    loader = DataLoader(
        source,
        batch_size=None,  # an item is a batch already
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=4,
        worker_init_fn=_leave_signals_to_the_loop,
    )
    return iter(loader)


def _leave_signals_to_the_loop(_worker: int) -> None:
    # Ctrl-C, SLURM and systemd signal the whole process group; the loop still needs its photos to finish the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def step_losses(net: ImageTransformNet, target: Target, content_image: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """One forward pass of network and VGG-19, with gradient to the network."""
    with torch.autocast(content_image.device.type, torch.bfloat16, enabled=target.vgg.dtype == torch.bfloat16):
        stylized_image = net(content_image)
    with torch.no_grad():
        content_features = target.vgg(content_image, losses.CONTENT_LAYERS)
    features = target.vgg(stylized_image, (*losses.STYLE_LAYERS, *losses.CONTENT_LAYERS))
    return losses.perceptual_losses(
        stylized_image,
        features,
        content_features,
        target.style_grams,
        config.content_weight,
        config.style_weight,
        config.tv_weight,
        config.normalization,
    )


def set_learning_rate_(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    """One-cycle (Smith 2018): up over the first 5 % (at most 100 steps), then half a cosine down to 1 %."""
    warmup = max(1, min(100, config.steps // 20))
    rise = min(1.0, (step + 1) / warmup)
    fall = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * max(0, step - warmup) / max(1, config.steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = config.lr * rise * fall


def is_finite(loss: Tensor, net: torch.nn.Module) -> bool:
    """Whether loss and gradient are finite; a finite loss can have a gradient that is not."""
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return bool(torch.isfinite(loss.detach() + torch.nn.utils.get_total_norm(gradients)))


@torch.no_grad()
def update_average_(averaged_net: torch.nn.Module, net: torch.nn.Module, step: int) -> None:
    """Exponential moving average of the weights, shorter at the start so that the initial weights fade."""
    decay = min(EMA_DECAY, (1.0 + step) / (10.0 + step))
    for average, p in zip(averaged_net.parameters(), net.parameters(), strict=True):
        average.lerp_(p, 1.0 - decay)


def next_batch(batches: Iterator[Batch]) -> Batch:
    """The next batch; a worker's TrainingError comes without the traceback that the DataLoader wraps around it."""
    try:
        return next(batches)
    except TrainingError as error:
        raise TrainingError(str(error).rsplit("TrainingError: ", 1)[-1].strip()) from error


def load_preview_frames(config: TrainConfig) -> list[np.ndarray]:
    """The photos of the preview sheet, (H, W, 3) uint8, short side `PREVIEW_PX`."""
    if config.preview:
        frames = [read_picture(path, config.max_pixels).frame for path in config.preview]
    elif is_folder(config.photos):
        folder = PhotoFolder(config.photos, 4, PREVIEW_PX, config.seed, config.max_pixels)
        return list(folder[0].content_image.numpy())
    else:
        from inference.demo import paint_landscape

        frames = [paint_landscape(384, 512, seed) for seed in range(4)]
    return [resize_short_side(frame, PREVIEW_PX) for frame in frames]


@contextmanager
def catch_interrupt() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM; the second Ctrl-C acts at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
