"""How fast the training loop is, compared with the plain loop of similar projects, in one process on the same photos.

The plain loop has the shape of pytorch/examples' fast_neural_style, written here from the paper: float32, NCHW, VGG-19
over content and output to the deepest layer, a Gram matrix as two reshapes and a product, photos decoded in the loop.
It uses our network, layers, losses and crops, so that both loops optimize the same thing and their losses can be
compared.
"""

import copy
import dataclasses
import functools
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allaprima.models.image_transform_net import TIERS
from allaprima.models.vgg import VGG19Features, load_vgg19
from allaprima.training import losses
from allaprima.training.config import CONTENT_LAYERS, STYLE_LAYERS, TrainConfig
from allaprima.training.device import device_name, pick_device, pick_precision, worker_count
from allaprima.training.images import to_image
from allaprima.training.photos.batch import Batch, prefetched
from allaprima.training.photos.folder import PhotoFolder, list_photos
from allaprima.training.places import Places
from allaprima.training.ranks import Ranks
from allaprima.training.record import LOG_EVERY
from allaprima.training.start import open_folder, start_step
from allaprima.training.style_image import make_target, read_style_image
from allaprima.training.update import PARTS, Update, set_learning_rate_, shake_of, weights_of, without

GPU_BYTES = 2 * 2**30  # for decoded photos, for each loop that keeps them on a GPU
TURN_S, TURN_STEPS = 2.0, 2  # a turn lasts at least as long as both: many times the batches that are ready at its start


class Gate:
    """A loop's loading threads pass it before each batch; while closed, during another loop's turn, nothing is loaded."""

    def __init__(self) -> None:
        self._is_open = True
        self._under_way = 0
        self._changed = threading.Condition()

    def through(self, load: Callable[[int], Batch]) -> Callable[[int], Batch]:
        """`load`, started only while the gate is open."""

        def load_when_open(step: int) -> Batch:
            with self._changed:
                self._changed.wait_for(lambda: self._is_open)
                self._under_way += 1
            try:
                return load(step)
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()

        return load_when_open

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let no more calls through, and wait for those under way."""
        with self._changed:
            self._is_open = False
            self._changed.wait_for(lambda: not self._under_way)


Loop = Generator[Tensor]  # endless; every step yields its losses by `PARTS`, on the device, without waiting for them


def plain_gram(features: Tensor) -> Tensor:
    n, c, h, w = features.shape
    psi = features.float().reshape(n, c, h * w)
    return psi @ psi.transpose(1, 2) / (c * h * w)


def plain_style_loss(features: dict[str, Tensor], style_grams: dict[str, Tensor]) -> Tensor:
    parts = [
        ((plain_gram(features[layer]) - gram).square().mean((1, 2)) / gram.square().mean()).mean()
        for layer, gram in style_grams.items()
    ]
    return torch.stack(parts).mean()


@contextmanager
def peers_float32() -> Iterator[None]:
    """Convolutions in torch's default mode: on a GPU rounded to TF32, which this program switches off."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def plain_loop(config: TrainConfig, vgg: VGG19Features, style_frame: np.ndarray, device: torch.device, gate: Gate) -> Loop:
    """A training loop like that of similar projects."""
    vgg = copy.deepcopy(vgg).to(memory_format=torch.contiguous_format)
    target = make_target(vgg, style_frame, "fp32")
    torch.manual_seed(config.seed)
    net = TIERS[config.tier]().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    paths = list_photos(Path(config.photos))
    folder = PhotoFolder(paths, config.batch_size, config.painted_px, config.seed, device=device, cache_bytes=0, gpu_bytes=0)
    shake, places = shake_of(config, Ranks(), device), Places(config.size_px, config.seed, device)
    layers = (*STYLE_LAYERS, *CONTENT_LAYERS)
    for step, batch in enumerate(prefetched(gate.through(folder.load), range(10**9), 0)):
        content_image = to_image(batch.content_image, device).contiguous()
        shake.prepare(step)
        places.prepare(step)
        shaken = shake(content_image)
        with peers_float32():
            whole, again = net(content_image), net(shaken.image.contiguous())
            stylized_image, again = without(config.margin_px, whole), without(config.margin_px, again)
            content_image = without(config.margin_px, content_image)
            alone = net(content_image)
            with torch.no_grad():
                content_features = vgg(content_image, layers)
            features = vgg(stylized_image, layers)
            parts = {
                "content": losses.content_loss(features, {"relu4_2": content_features["relu4_2"]}),
                "style": plain_style_loss(features, target.style_grams),
                "tv": losses.tv_loss(stylized_image),
                "border": losses.border_loss(alone, stylized_image),
                "steady": losses.steady_loss(again, without(config.margin_px, shaken.follow(whole.detach()))),
                "wasserstein": losses.wasserstein_loss(features, target.style_quantiles, places.wasserstein),
                "similarity": losses.self_similarity_loss(features, content_features, places.similarity),
                "palette": losses.palette_loss(stylized_image, target.style_colors, places.palette),
                "lattice": losses.lattice_loss(stylized_image),
            }
            weights = weights_of(config)
            total = torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()
            set_learning_rate_(optimizer, config, step)
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        parts["total"] = total
        yield torch.stack([parts[name].detach() for name in PARTS])


def our_loop(config: TrainConfig, vgg: VGG19Features, style_frame: np.ndarray, device: torch.device, gate: Gate) -> Loop:
    """This program's own loop, built from the parts of `training.loop`, without checkpoints and previews."""
    config = dataclasses.replace(config, precision=pick_precision(config.precision, vgg, device))
    torch.manual_seed(config.seed)
    net = TIERS[config.tier]().to(device).to(memory_format=torch.channels_last)
    update = Update(config, net, make_target(vgg, style_frame, config.precision), Ranks())
    launch = start_step(config, [update], lambda _: None, Ranks(), device)
    folder = open_folder(config, list_photos(Path(config.photos)), Ranks(), device, GPU_BYTES if device.type == "cuda" else 0)
    workers = worker_count(config.workers, device)
    for step, batch in enumerate(prefetched(gate.through(folder.load), range(10**9), workers)):
        launch(step, to_image(batch.content_image, device))
        yield update.newest_losses.clone()


def loops_of(config: TrainConfig) -> dict[str, Callable[[Gate], Loop]]:
    """The loops to compare by name, each ready to be started."""
    device = pick_device(config.device)
    vgg = load_vgg19(config.vgg19, device=device)
    style_frame = read_style_image(config.style_image, config.style_size_px, config.max_pixels)
    loops = {"plain": plain_loop, "ours": our_loop}
    return {name: functools.partial(loop, config, vgg, style_frame, device) for name, loop in loops.items()}


def measure(config: TrainConfig, rounds: int) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Photos per second in every turn of each loop, and the losses of the last step that all of them did."""
    device = pick_device(config.device)
    gates: dict[str, Gate] = {}
    running: dict[str, Loop] = {}
    for name, start in loops_of(config).items():
        gates[name] = Gate()
        running[name] = start(gates[name])
    speeds: dict[str, list[float]] = {name: [] for name in running}
    curves: dict[str, list[Tensor]] = {name: [] for name in running}  # losses of each step
    try:
        for turn in range(rounds + 1):
            for name, loop in running.items():
                steps, seconds = take_turn(loop, gates[name], curves[name], device)
                if turn:  # the first turn fills caches and picks kernels
                    speeds[name].append(steps * config.batch_size / seconds)
    finally:
        for name, loop in running.items():
            gates[name].open()  # else the loading threads would wait there forever
            loop.close()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # for the processes that measure memory
    last = min(len(curve) for curve in curves.values()) - 1
    return speeds, {name: dict(zip(PARTS, curve[last].tolist(), strict=True)) for name, curve in curves.items()}


def take_turn(loop: Loop, gate: Gate, curve: list[Tensor], device: torch.device) -> tuple[int, float]:
    """Let a loop go on for `TURN_S` and `TURN_STEPS`, alone on the machine.

    Args:
        gate: of its loading threads; open during the turn only.
        curve: losses of its steps so far; the turn's are added.
    Returns:
        steps done, and the seconds until the device had finished them.
    """
    wait_for(device)
    gate.open()
    steps, began = 0, time.perf_counter()
    while steps < TURN_STEPS or time.perf_counter() - began < TURN_S:
        curve.append(next(loop))
        steps += 1
        if len(curve) % LOG_EVERY == 0:
            curve[-1].tolist()  # waits for the device, as rarely as a training does
    wait_for(device)
    seconds = time.perf_counter() - began
    gate.close()
    return steps, seconds


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_mb(config: TrainConfig) -> dict[str, float]:
    """Peak memory of the plain loop and of ours over a few steps, each in its own process: the GPU's, else main memory."""
    found = {}
    for name in ("plain", "ours"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(_peak_mb_here, (config, name))
    return found


def _peak_mb_here(config: TrainConfig, name: str) -> float:
    loop = loops_of(config)[name](Gate())
    for _ in range(4):
        next(loop)
    if pick_device(config.device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    with suppress(OSError, StopIteration):  # on Linux, getrusage's peak is inherited from the parent process
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10
    if sys.platform == "win32":  # psapi's figure would need one more package
        return float("nan")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def report(config: TrainConfig, rounds: int) -> str:
    """The comparison as a table."""
    speeds, newest = measure(config, rounds)
    memory = peak_mb(config)
    device = pick_device(config.device)
    lines = [
        f"{config.tier}, batch {config.batch_size}, {config.size_px} px, {device_name(device)}, torch {torch.__version__}",
        f"{'':28} photos/s   times plain (slowest to fastest turn)   peak MB   content  style at the last step of all",
    ]
    plain = np.array(speeds["plain"])
    for name, values in speeds.items():
        ratios = np.array(values) / plain  # of turns in the same round
        lines.append(
            f"{name:28} {np.median(values):8.2f} {np.median(ratios):8.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
            f"{memory.get(name, float('nan')):22.0f} {newest[name]['content']:9.3f} {newest[name]['style']:6.3f}"
        )
    return "\n".join(lines)
