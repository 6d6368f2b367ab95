"""One step of gradient descent: paint the photos, compare, update the weights; for one style or several at once. Nothing in
it waits for a GPU."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from allaprima.models.vgg import VGG19Features
from allaprima.training import losses
from allaprima.training.augmentation import Shake, Shaken
from allaprima.training.checkpoint import TrainingState, pack_state, unpack_state_
from allaprima.training.config import CONTENT_LAYERS, RECIPES, SIMILARITY_LAYERS, STYLE_LAYERS, TrainConfig
from allaprima.training.places import Places
from allaprima.training.ranks import Ranks
from allaprima.training.second_level import finer_count, second_level
from allaprima.training.style_image import StyleTarget

EMA_DECAY = 0.999  # of the averaged weights that are exported, per step of `EMA_BATCH` photos
EMA_BATCH = 4
PARTS = ("content", "style", "tv", "border", "steady", "wasserstein", "similarity", "palette", "lattice", "total")
STEADY_WEIGHT = 20.0  # when `TrainConfig.steady` is 1


ContentFeatures = Callable[[VGG19Features, Tensor], dict[str, Tensor]]
StepLosses = Callable[
    [torch.nn.Module, StyleTarget, Tensor, dict[str, Tensor], TrainConfig, Shaken | None, Places],
    dict[str, Tensor],
]


@dataclass(frozen=True)
class Functions:
    """The two functions that take almost all of a step's time, plain or compiled.

    Attributes:
        compiled: "on" or "off".
        why_not: why they are not compiled, if that was tried.
    """

    content_features: ContentFeatures
    step_losses: StepLosses
    compiled: str = "off"
    why_not: str = ""


@dataclass(frozen=True)
class Reading:
    """What happened since the last reading.

    Attributes:
        losses: mean of each of `PARTS` over the steps that counted; empty if there were none.
        skipped: steps whose loss or gradient was not finite; they changed no weight.
        skipped_in_a_row: how many of those came last, one after another.
    """

    losses: dict[str, float]
    skipped: int
    skipped_in_a_row: int


class Update:
    """One style's part of a step, and everything that it changes: network, average, optimizer.

    All of these stay at the same memory addresses, and everything that changes from step to step is written into tensors
    beforehand, so that a CUDA graph can replay the rest.

    Args:
        net: on its device, channels-last; trained in place.
        finer_target: of the painting twice as large, for photos painted as a second level; None if there are none.
    Attributes:
        finer: how many of this process's photos (its last ones) are painted as a second level.
        target_of_each: `target`, or one with a painting for each photo of a step.
        parallel_net: the network, with its gradients averaged over all processes.
        lr_scale: factor of the learning rate; the loop halves it when the picture goes bad.
        newest_losses: of the newest step, one for each of `PARTS`, on the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        net: torch.nn.Module,
        target: StyleTarget,
        ranks: Ranks,
        finer_target: StyleTarget | None = None,
    ) -> None:
        self.config, self.net, self.target, self.ranks = config, net, target, ranks
        device = next(net.parameters()).device
        self.finer, self.target_of_each = 0, target
        if finer_target:
            own = own_photos(config, ranks)
            self.finer = finer_count(config.batch_size, own)
            styles = torch.tensor([0] * (len(own) - self.finer) + [1] * self.finer, device=device)
            self.target_of_each = StyleTarget.of_all([target, finer_target]).of_each(styles)
        on_gpu = device.type == "cuda"
        self.averaged_net = copy.deepcopy(net).requires_grad_(False).eval()
        lr = torch.tensor(config.lr, device=device) if on_gpu else config.lr
        self.optimizer = torch.optim.Adam(
            [p for p in net.parameters() if p.requires_grad], lr=lr, fused=True, capturable=on_gpu
        )
        self.lr_scale = 1.0
        self.parallel_net = ranks.wrap(net)
        self._average_share = torch.zeros((), device=device)  # of the new weights in the average
        self.newest_losses = torch.zeros(len(PARTS), device=device)
        self._sums = torch.zeros(len(PARTS), device=device)
        self._counts = torch.zeros(3, device=device)  # counted steps, skipped ones, skipped ones in a row

    def prepare(self, step: int) -> None:
        """Set everything that depends on the step's number."""
        set_learning_rate_(self.optimizer, self.config, step, self.lr_scale)
        self._average_share.fill_(average_share(step, self.config.batch_size))

    def __call__(
        self,
        content_image: Tensor,
        content_features: dict[str, Tensor],
        functions: Functions,
        places: Places,
        shake: Shake | None = None,
    ) -> None:
        """Update the weights with the photos of a step, unless its loss or gradient is not finite.

        Args:
            content_image: (N, 3, S, S) in [0, 1], crops with their margins.
            content_features: VGG-19's for the same crops, without gradient.
            functions: plain or compiled.
            places: where features and colors are sampled for comparison.
            shake: turns photos into a film's next frame.
        """
        if self.finer:
            content_image, content_features = self._with_second_level(content_image, content_features, functions)
        shaken = shake(content_image) if shake and self.config.steady else None
        parts = functions.step_losses(
            self.parallel_net,
            self.target_of_each,
            content_image,
            content_features,
            self.config,
            shaken,
            places,
        )
        self.optimizer.zero_grad(set_to_none=True)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        values = self.ranks.mean(torch.stack([parts[name].detach().float() for name in PARTS]))
        finite = is_finite(values, self.net)
        # Fused Adam reads this on the device before it changes anything; GradScaler sets it in the same way.
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        update_average_(self.averaged_net, self.net, self._average_share)
        self.newest_losses.copy_(values)
        self._sums += torch.where(finite, values, 0.0)
        good, bad, in_a_row = self._counts.unbind()
        self._counts.copy_(torch.stack([good + finite, bad + ~finite, (in_a_row + 1.0) * ~finite]))

    def _with_second_level(
        self, content_image: Tensor, content_features: dict[str, Tensor], functions: Functions
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The photos of a step, the last ones in the form this network sees at its second level; and their features."""
        vgg = self.target.vgg
        with torch.autocast(content_image.device.type, torch.bfloat16, enabled=vgg.dtype == torch.bfloat16):
            finer = second_level(self.net, content_image[-self.finer :])
        own = functions.content_features(vgg, without(self.config.margin_px, finer))
        image = torch.cat([content_image[: -self.finer], finer]).contiguous(memory_format=torch.channels_last)
        return image, {layer: torch.cat([each[: -self.finer], own[layer]]) for layer, each in content_features.items()}

    def peek(self) -> Reading:
        """The losses since the last `read`; waits for the device."""
        sums, counts = self._sums.tolist(), [int(count) for count in self._counts.tolist()]
        losses = {name: value / counts[0] for name, value in zip(PARTS, sums, strict=True)} if counts[0] else {}
        return Reading(losses, counts[1], counts[2])

    def read(self) -> Reading:
        """`peek`, then start counting again."""
        reading = self.peek()
        self._sums.zero_()
        self._counts[:2] = 0.0
        return reading

    def pack(self, step: int) -> TrainingState:
        return pack_state(step, self.net, self.averaged_net, self.optimizer)

    def unpack_(self, state: TrainingState) -> None:
        unpack_state_(state, self.net, self.averaged_net, self.optimizer)
        self._sums.zero_()
        self._counts.zero_()


def without(margin_px: int, image: Tensor) -> Tensor:
    """The image, (N, C, H, W), without its outer `margin_px` pixels."""
    height, width = image.shape[2:]
    return image[:, :, margin_px : height - margin_px, margin_px : width - margin_px]


def content_features_of(vgg: VGG19Features, content_image: Tensor) -> dict[str, Tensor]:
    """VGG-19's features of the photos, at the layers where content is compared; without gradient."""
    with torch.no_grad():
        return vgg(content_image, (*CONTENT_LAYERS, *SIMILARITY_LAYERS))


def step_losses(
    net: Callable[[Tensor], Tensor],
    target: StyleTarget,
    content_image: Tensor,
    content_features: dict[str, Tensor],
    config: TrainConfig,
    shaken: Shaken | None,
    places: Places,
) -> dict[str, Tensor]:
    """All losses, with gradient to the network, from one forward pass of VGG-19 and up to three of the network: the second
    for its border, the third for its steadiness."""
    minds_border = config.border_weight > 0 and config.margin_px > 0
    with torch.autocast(content_image.device.type, torch.bfloat16, enabled=target.vgg.dtype == torch.bfloat16):
        whole = net(content_image)
        stylized_image = without(config.margin_px, whole)
        again = net(shaken.image) if shaken and config.steady else None
        if minds_border:
            alone = net(without(config.margin_px, content_image).contiguous(memory_format=torch.channels_last))
    features = target.vgg(stylized_image, (*STYLE_LAYERS, *CONTENT_LAYERS))
    parts = {
        "content": losses.content_loss(
            features, {layer: content_features[layer] for layer in CONTENT_LAYERS}, config.normalization
        ),
        "style": losses.style_loss(features, target.style_grams, config.normalization),
        "tv": losses.tv_loss(stylized_image),
    }
    if config.recipe == "painter":
        parts["wasserstein"] = losses.wasserstein_loss(features, target.style_quantiles, places.wasserstein)
        parts["palette"] = losses.palette_loss(stylized_image, target.style_colors, places.palette)
        parts["similarity"] = losses.self_similarity_loss(features, content_features, places.similarity)
        parts["lattice"] = losses.lattice_loss(stylized_image)
    if minds_border:
        parts["border"] = losses.border_loss(alone, stylized_image)
    if shaken and again is not None:
        expected = shaken.follow(whole.detach())
        parts["steady"] = losses.steady_loss(without(config.margin_px, again), without(config.margin_px, expected))
    weights = weights_of(config)
    parts["total"] = torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()
    nothing = torch.zeros_like(parts["total"])
    return {name: parts.get(name, nothing) for name in PARTS}


def weights_of(config: TrainConfig) -> dict[str, float]:
    """The weight of each of `PARTS` except the total, from the recipe and the weights that the user gave."""
    shares = RECIPES[config.recipe]
    return {
        **{name: shares.get(name, 0.0) * config.content_weight for name in ("content", "similarity")},
        **{name: shares.get(name, 0.0) * config.style_weight for name in ("style", "wasserstein", "palette")},
        "tv": config.tv_weight,
        "border": config.border_weight,
        "steady": config.steady * STEADY_WEIGHT,
        "lattice": shares.get("lattice", 0.0),
    }


def shake_of(config: TrainConfig, ranks: Ranks, device: torch.device) -> Shake:
    """The `Shake` for this process's share of a training's photos."""
    own = own_photos(config, ranks)
    return Shake(config.batch_size, config.painted_px, config.seed, device, slice(own.start, own.stop))


def own_photos(config: TrainConfig, ranks: Ranks) -> range:
    """This process's photos among all those of a step."""
    return ranks.share(config.batch_size).places(0, config.batch_size)


def set_learning_rate_(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, scale: float = 1.0) -> None:
    """One-cycle (Smith 2018): up over the first 5 % (at most 100 steps), then half a cosine down to 1 %."""
    warmup = max(1, min(100, config.steps // 20))
    rise = min(1.0, (step + 1) / warmup)
    fall = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * max(0, step - warmup) / max(1, config.steps - warmup)))
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(config.lr * scale * rise * fall)
        else:
            group["lr"] = config.lr * scale * rise * fall


def is_finite(values: Tensor, net: torch.nn.Module) -> Tensor:
    """Whether losses and gradient are finite, a scalar bool on their device; finite losses can have non-finite gradients."""
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return torch.isfinite(values.sum() + torch.nn.utils.get_total_norm(gradients))


def average_share(step: int, batch_size: int) -> float:
    """How much the newest weights count in their exponential moving average: more in early steps, so that the initial weights
    fade. It forgets by photos seen, not by steps, so that the average reaches equally far back at any batch size."""
    steps = step * batch_size / EMA_BATCH
    decay = min(EMA_DECAY, (1.0 + steps) / (10.0 + steps))
    return float(1.0 - decay ** (batch_size / EMA_BATCH))


@torch.no_grad()
def update_average_(averaged_net: torch.nn.Module, net: torch.nn.Module, share: Tensor) -> None:
    """Move the averaged weights towards the newest ones by `share`, a scalar on their device."""
    averaged: list[Tensor] = list(averaged_net.parameters())
    newest: list[Tensor] = list(net.parameters())
    way = list(torch._foreach_sub(newest, averaged))
    torch._foreach_mul_(way, share)
    torch._foreach_add_(averaged, way)
