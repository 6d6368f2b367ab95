"""One weight update: paint the photos, compare, go a step down; nothing in it waits for a GPU."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import TrainingError
from models.image_transform_net import ImageTransformNet
from models.vgg import VGG19Features
from training import balance, losses
from training.checkpoint import TrainingState, pack_state, unpack_state_
from training.config import CONTENT_LAYERS, STYLE_LAYERS, TrainConfig
from training.ranks import Ranks

EMA_DECAY = 0.999  # of the averaged weights that are exported
PARTS = ("content", "style", "tv", "total")
DEFAULT_STYLE_WEIGHT = float(TrainConfig.style_weight)  # where "auto" starts
COMPILE_GAIN = 0.97  # a compiled step has to take at most this share of the plain one's time


@dataclass(frozen=True)
class Target:
    """What the stylized images are compared with."""

    vgg: VGG19Features
    style_grams: dict[str, Tensor]


StepLosses = Callable[[torch.nn.Module, Target, Tensor, TrainConfig, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Reading:
    """What happened since the last reading.

    Attributes:
        losses: mean of each of `PARTS` over the steps that counted; empty if there were none.
        skipped: steps whose loss or gradient was not finite; they changed no weight.
        skipped_in_a_row: of those, the last ones.
    """

    losses: dict[str, float]
    skipped: int
    skipped_in_a_row: int


class Update:
    """Everything that a step changes: network, average, optimizer, style weight.

    Args:
        net: on its device, channels-last; trained in place.
        step_losses: `step_losses` of this file, or its compiled form.
    Attributes:
        lr_scale: of the learning rate; halved by the loop when the picture went bad.
    """

    def __init__(
        self, config: TrainConfig, net: ImageTransformNet, target: Target, ranks: Ranks, losses_of: StepLosses
    ) -> None:
        self.config, self.net, self.target, self.ranks = config, net, target, ranks
        device = next(net.parameters()).device
        self.averaged_net = copy.deepcopy(net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=config.lr, fused=True)
        weight = DEFAULT_STYLE_WEIGHT if config.style_weight == "auto" else float(config.style_weight)
        self.style_weight = torch.tensor(weight, device=device)
        self.lr_scale = 1.0
        self._parallel_net = ranks.wrap(net)
        self._losses_of = losses_of
        self._sums = torch.zeros(len(PARTS), device=device)
        self._counts = torch.zeros(3, device=device)  # counted steps, skipped ones, skipped ones in a row

    def __call__(self, step: int, content_image: Tensor) -> None:
        """Update the weights with the photos of a step, unless its loss or gradient is not finite.

        Args:
            content_image: (N, 3, S, S) in [0, 1].
        """
        set_learning_rate_(self.optimizer, self.config, step, self.lr_scale)
        parts = self._losses_of(self._parallel_net, self.target, content_image, self.config, self.style_weight)
        self.optimizer.zero_grad(set_to_none=True)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        values = self.ranks.mean(torch.stack([parts[name].detach().float() for name in PARTS]))
        finite = is_finite(values, self.net)
        # The fused Adam looks at this, on the device, before it changes anything; GradScaler tells it in the same way.
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        update_average_(self.averaged_net, self.net, step)
        if self.config.style_weight == "auto" and step >= balance.FOLLOWED_FROM:
            balance.follow_(self.style_weight, values[0], values[1])
        self._sums += torch.where(finite, values, 0.0)
        good, bad, in_a_row = self._counts.unbind()
        self._counts = torch.stack([good + finite, bad + ~finite, (in_a_row + 1.0) * ~finite])

    def peek(self) -> Reading:
        """The losses since the last `read`; waits for the device."""
        sums, counts = self._sums.tolist(), [int(count) for count in self._counts.tolist()]
        losses = {name: value / counts[0] for name, value in zip(PARTS, sums, strict=True)} if counts[0] else {}
        return Reading(losses, counts[1], counts[2])

    def read(self) -> Reading:
        """`peek`, and begin anew."""
        reading = self.peek()
        self._sums.zero_()
        self._counts[:2] = 0.0
        return reading

    def pack(self, step: int) -> TrainingState:
        return pack_state(step, self.net, self.averaged_net, self.optimizer, self.style_weight)

    def unpack_(self, state: TrainingState) -> None:
        unpack_state_(state, self.net, self.averaged_net, self.optimizer, self.style_weight)
        self._sums.zero_()
        self._counts.zero_()


def step_losses(
    net: torch.nn.Module, target: Target, content_image: Tensor, config: TrainConfig, style_weight: Tensor
) -> dict[str, Tensor]:
    """One forward pass of network and VGG-19, with gradient to the network."""
    with torch.autocast(content_image.device.type, torch.bfloat16, enabled=target.vgg.dtype == torch.bfloat16):
        stylized_image = net(content_image)
    with torch.no_grad():
        content_features = target.vgg(content_image, CONTENT_LAYERS)
    features = target.vgg(stylized_image, (*STYLE_LAYERS, *CONTENT_LAYERS))
    return losses.perceptual_losses(
        stylized_image,
        features,
        content_features,
        target.style_grams,
        config.content_weight,
        style_weight,
        config.tv_weight,
        config.normalization,
    )


def pick_step_losses(config: TrainConfig, net: ImageTransformNet, target: Target, batch_size: int) -> tuple[StepLosses, str]:
    """`step_losses` as it is, or compiled where that was asked for or a trial shows that it is faster.

    Args:
        batch_size: of this process.
    Returns:
        the function, and "on" or "off".
    """
    device = next(net.parameters()).device
    if config.compile == "off" or (config.compile == "auto" and device.type != "cuda"):
        return step_losses, "off"
    compiled: StepLosses = torch.compile(step_losses, dynamic=False)
    image = torch.rand(batch_size, 3, config.size_px, config.size_px, device=device).contiguous(
        memory_format=torch.channels_last
    )
    trial_net = copy.deepcopy(net)
    weight = torch.tensor(DEFAULT_STYLE_WEIGHT, device=device)

    def seconds_of(function: StepLosses) -> float:
        times = []
        for _ in range(8):
            began = time.perf_counter()
            total = function(trial_net, target, image, config, weight)["total"]
            total.backward()  # type: ignore[no-untyped-call]
            total.item()  # waits for the device
            times.append(time.perf_counter() - began)
        return min(times[2:])

    try:
        faster = seconds_of(compiled) < COMPILE_GAIN * seconds_of(step_losses)
    except Exception as error:  # no compiler, no Triton, an operator it cannot do
        if config.compile == "on":
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(f"torch.compile does not work here ({why[:200]}); leave out --compile on") from error
        return step_losses, "off"
    return (compiled, "on") if faster or config.compile == "on" else (step_losses, "off")


def set_learning_rate_(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, scale: float = 1.0) -> None:
    """One-cycle (Smith 2018): up over the first 5 % (at most 100 steps), then half a cosine down to 1 %."""
    warmup = max(1, min(100, config.steps // 20))
    rise = min(1.0, (step + 1) / warmup)
    fall = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * max(0, step - warmup) / max(1, config.steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = config.lr * scale * rise * fall


def is_finite(values: Tensor, net: torch.nn.Module) -> Tensor:
    """Whether losses and gradient are finite, a scalar bool on their device; finite losses can have a gradient that is not."""
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return torch.isfinite(values.sum() + torch.nn.utils.get_total_norm(gradients))


@torch.no_grad()
def update_average_(averaged_net: torch.nn.Module, net: torch.nn.Module, step: int) -> None:
    """Exponential moving average of the weights, shorter at the start so that the initial weights fade."""
    decay = min(EMA_DECAY, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(averaged_net.parameters()), list(net.parameters()), 1.0 - decay)
