"""The training of one style: photos through f_W and VGG-19, losses back into f_W (Johnson et al. 2016, Fig. 2)."""

import copy
import dataclasses
import json
import math
import os
import platform
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

from inference.pictures import (
    MAX_PIXELS,
    Picture,
    contact_sheet,
    read_picture,
    resize_short_side,
    write_atomically,
    write_picture,
)
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
from training.photos import MOST_BAD, Batch, HubPhotos, PhotoFolder, list_photos

LOG_EVERY = 25  # steps between two lines of metrics.jsonl
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
    frame = read_picture(config.painting, config.max_pixels or MAX_PIXELS).frame
    if frame.std(axis=(0, 1)).max() < LEAST_CONTRAST:
        raise TrainingError(f"{config.painting} is one flat color; a painting with something on it is wanted")
    height, width = frame.shape[:2]
    if max(height, width) > 8 * min(height, width):
        raise TrainingError(f"{config.painting} is {width}x{height} px; at most 8 times as long as wide is wanted")
    return resize_short_side(frame, config.style_size_px)


def pick_device(name: str) -> torch.device:
    """The device of a name out of auto, cpu, cuda and mps.

    Raises:
        TrainingError: it is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        there = ", ".join(device for device, yes in available.items() if yes)
        raise TrainingError(f"--device {name} is not available to torch {torch.__version__} here; there is {there}")
    return torch.device(name)


def make_target(vgg: VGG19Features, style_frame: np.ndarray, precision: str) -> Target:
    """VGG-19 in the precision to train with, and the painting's Gram matrices, from the float32 one."""
    style_image = to_image(torch.tensor(style_frame)[None], vgg.mean.device)
    with torch.no_grad():
        style_features = vgg(style_image, losses.STYLE_LAYERS)
    style_grams = {layer: losses.gram_matrix(features) for layer, features in style_features.items()}
    return Target(copy.deepcopy(vgg).to(torch.bfloat16) if precision == "bf16" else vgg, style_grams)


def pick_precision(config: TrainConfig, vgg: VGG19Features, device: torch.device) -> str:
    """ "fp32" or "bf16"; auto measures which is faster here, as bf16 without hardware for it is many times slower."""
    if config.precision != "auto":
        return config.precision
    image = torch.rand(1, 3, 128, 128, device=device).contiguous(memory_format=torch.channels_last)
    seconds = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        try:
            trial = copy.deepcopy(vgg).to(dtype)
            times = []
            for _ in range(4):
                began = time.perf_counter()
                with torch.no_grad():
                    trial(image, ["relu4_2"])["relu4_2"].float().mean().item()  # .item() waits for a GPU
                times.append(time.perf_counter() - began)
            seconds[precision] = min(times[1:])
        except RuntimeError:  # a device without bf16
            seconds[precision] = math.inf
    return min(seconds, key=lambda precision: seconds[precision])


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
        source = PhotoFolder(config.photos, config.batch_size, config.size_px, config.seed, config.max_pixels or MAX_PIXELS)
        sampler = range(start, config.steps)
        workers = 4 if torch.cuda.is_available() else 1  # one keeps far ahead of a CPU's training
    else:
        source = HubPhotos(config.photos, config.batch_size, config.size_px, config.seed, start)
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


def is_folder(photos: str) -> bool:
    """Whether --photos means a folder here rather than a Hugging Face dataset ("name" or "owner/name")."""
    return Path(photos).exists() or photos.count("/") > 1 or photos.startswith((".", "/", "~"))


def _leave_signals_to_the_loop(_worker: int) -> None:
    # Ctrl-C, SLURM and systemd signal the whole process group; the loop still needs its photos to finish the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def to_image(frames: Tensor, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 frames as (N, 3, H, W) float32 images in [0, 1], channels-last in memory."""
    return frames.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0


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
        frames = [read_picture(path, config.max_pixels or MAX_PIXELS).frame for path in config.preview]
    elif is_folder(config.photos):
        folder = PhotoFolder(config.photos, 4, PREVIEW_PX, config.seed)
        return list(folder[0].content_image.numpy())
    else:
        from inference.demo import paint_landscape

        frames = [paint_landscape(384, 512, seed) for seed in range(4)]
    return [resize_short_side(frame, PREVIEW_PX) for frame in frames]


def write_preview(
    run_folder: Path,
    step: int,
    net: torch.nn.Module,
    frames: list[np.ndarray],
    style_frame: np.ndarray,
    newest: dict[str, float],
    log: "MetricsLog",
) -> None:
    """The fixed photos above what the averaged network makes of them now, as preview_000500.png."""
    painted = [stylize_frame(net, frame) for frame in frames]
    text = " ".join(f"{name} {newest[name]:.3f}" for name in ("content", "style") if name in newest)
    sheet = contact_sheet(
        [[style_frame, *frames], [style_frame, *painted]],
        [["painting", *("photo" for _ in frames)], [f"step {step}", *(text for _ in frames)]],
    )
    write_picture(run_folder / f"preview_{step:06d}.png", Picture(sheet))
    log.add_image(step, sheet)


@torch.no_grad()
def stylize_frame(net: torch.nn.Module, frame: np.ndarray) -> np.ndarray:
    """A (H, W, 3) uint8 frame through a torch network, float32, cropped to the network's stride."""
    stride = int(net.stride_px)  # type: ignore[arg-type]
    height, width = (side - side % stride for side in frame.shape[:2])
    device = next(net.parameters()).device
    stylized_image = net(to_image(torch.tensor(frame[:height, :width])[None], device))
    pixels = (stylized_image[0].permute(1, 2, 0) * 255.0).round().clamp(0, 255)
    return np.asarray(pixels.to(torch.uint8).cpu())


def make_card(config: TrainConfig, step: int, newest: dict[str, float], seconds: float, bad_photos: int) -> dict[str, Any]:
    """What a network is and where it came from; goes beside the weights and into the .onnx."""
    return {
        "title": config.style_title,
        "painter": config.painter,
        "year": config.year,
        "license": config.license,
        "tier": config.tier,
        "step": step,
        "photos_seen": step * config.batch_size,
        "seconds": round(seconds, 1),
        "device": f"{device_name(pick_device(config.device))}, torch {torch.__version__}",
        "losses": {name: round(value, 5) for name, value in newest.items()},
        "bad_photos": bad_photos,
        # File names without folders: a card travels, the trainer's paths are nobody's business.
        "options": {
            name: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
            for name, value in dataclasses.asdict(config).items()
            if name != "preview"
        },
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # Linux knows the model's name only here
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


class BadPhotos:
    """The photos that could not be used, each listed once in skipped.txt.

    Attributes:
        names: "file: why", in the order they were met, those before a resume included.
    """

    def __init__(self, config: TrainConfig, run_folder: Path, resumed: bool) -> None:
        self.folder, self.path = config.photos, run_folder / "skipped.txt"
        photos = len(list_photos(Path(config.photos))) if is_folder(config.photos) else math.inf
        self.most = MOST_BAD * photos
        self.names: dict[str, None] = {}
        if resumed and self.path.exists():
            self.names = dict.fromkeys(self.path.read_text().splitlines())

    def note(self, batch: Batch, console: Console) -> None:
        """Count and name each new one.

        Raises:
            TrainingError: they are more than `MOST_BAD` of the folder.
        """
        new = [photo.replace("\n", " ") for photo in batch.bad]
        for photo in new:
            if photo not in self.names:
                self.names[photo] = None
                console.print(f"skipped: {photo}", soft_wrap=True, markup=False)
                with self.path.open("a") as file:
                    file.write(photo + "\n")
        if len(self.names) > self.most:
            raise TrainingError(
                f"{len(self.names)} photos in {self.folder} are damaged, more than {MOST_BAD:.0%} of them "
                f"({self.path} lists them); mend or remove them, or give another folder"
            )


class MetricsLog:
    """metrics.jsonl, and TensorBoard's files where tensorboard is installed."""

    def __init__(self, run_folder: Path, start: int, batch_size: int) -> None:
        self.path, self.batch_size = run_folder / "metrics.jsonl", batch_size
        self.photos_per_s = 0.0
        self._began, self._photos = time.monotonic(), 0
        if self.path.exists():  # a resumed run repeats the steps after its checkpoint
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= start]
            write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        self._board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_folder / "tensorboard"), purge_step=start or None)

    def add(self, step: int, parts: dict[str, float]) -> None:
        self._photos += self.batch_size
        seconds = time.monotonic() - self._began
        self.photos_per_s = self._photos / seconds
        if step % LOG_EVERY and step != 1:
            return
        row = {"step": step, **{k: round(v, 6) for k, v in parts.items()}, "photos_per_s": round(self.photos_per_s, 3)}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._board:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)
        self._began, self._photos = time.monotonic(), 0

    def add_image(self, step: int, frame: np.ndarray) -> None:
        if self._board:
            self._board.add_image("preview", frame, step, dataformats="HWC")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line a kill cut short
        return math.inf


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
