"""Many paintings in one network: the base, from which the training of a new painting starts.

Each painting has its own scale and shift in every norm (conditional instance normalization, Dumoulin, Shlens, Kudlur 2017)
and, in the realtime tier, its own weights for the photo's pixels. All the rest is shared, so that a new painting starts with
strokes already learned. `training.gallery.base` trains the base.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from allaprima.inference.atomic import write_atomically
from allaprima.inference.pictures import resize_short_side
from allaprima.inference.style.palette import BODY, NAMES, PALETTE, PHOTO, mix
from allaprima.inference.style.styles import FOLDER
from allaprima.models.errors import StyleError
from allaprima.models.image_transform_net import TIERS, ImageTransformNet, InstanceNorm
from allaprima.training.checkpoint import load_net, load_weights, misfit, save_weights, unprefixed
from allaprima.training.config import CONTENT_LAYERS, TrainConfig
from allaprima.training.images import cut_to_stride, to_image
from allaprima.training.losses import perceptual_losses
from allaprima.training.style_image import StyleTarget

BASE = FOLDER / "base"
OF_EACH_STYLE = ("skip", "bias")  # besides the norms; only in the realtime network
STROKES = 1.5  # of mixes, where nobody says
TRIAL_PX = 160  # short side of the photos used to choose the network that a new painting starts from


class ManyStyles(nn.Module):
    """A network of a tier with separate norms, and other weights of `OF_EACH_STYLE`, for each of several paintings.

    Args of forward:
        content_image: (N, 3, H, W), as the network takes it.
        styles: (N,) indices of the paintings, one for each image.
    """

    def __init__(self, net: ImageTransformNet, count: int) -> None:
        super().__init__()
        self.net, self.stride_px = net, net.stride_px
        self.own_names = own_names(net)
        for name in self.own_names:
            holder, _, part = name.rpartition(".")
            own = net.get_parameter(name).detach()
            setattr(net.get_submodule(holder), part, nn.Parameter(own.repeat(count, *(1 for _ in own.shape))))

    def forward(self, content_image: Tensor, styles: Tensor) -> Tensor:
        own = {name: self.net.get_parameter(name)[styles] for name in self.own_names}
        stylized_image: Tensor = functional_call(self.net, own, (content_image,))
        return stylized_image


def own_names(net: nn.Module) -> list[str]:
    """Names of the parameters that each painting has of its own."""
    return [
        f"{name}.{part}".removeprefix(".")
        for name, module in net.named_modules()
        for part, _ in module.named_parameters(recurse=False)
        if isinstance(module, InstanceNorm) or (name == "" and part in OF_EACH_STYLE)
    ]


def learn_own_alone_(net: nn.Module) -> None:
    """Let a training change only the parameters that each painting has of its own."""
    net.requires_grad_(False)
    for name in own_names(net):
        net.get_parameter(name).requires_grad_(True)


@dataclass(frozen=True)
class Base:
    """What `save_base` wrote.

    Attributes:
        names: of the paintings, in the order of the first dimension of `own`.
        shared, own: tensors by the network's own names; those of `own` have a first dimension for the paintings.
        card: how it was trained.
    """

    tier: str
    names: list[str]
    shared: dict[str, Tensor]
    own: dict[str, Tensor]
    card: dict[str, Any]

    @property
    def body(self) -> str:
        """Tells bodies apart: a painting's own numbers fit the one that they were learned in."""
        return _digest(self.shared)

    def network(self, name: str | None = None) -> ImageTransformNet:
        """The network of one of its paintings, or the mean of all but the photo."""
        style_images = [i for i, each in enumerate(self.names) if each != PHOTO]
        rows = style_images if name is None else [self.names.index(name)]
        own = {key: each[rows].mean(0) for key, each in self.own.items()}
        net = TIERS[self.tier]()
        net.load_state_dict(self.shared | own)
        return net

    def go_on_(self, net: ManyStyles, names: Sequence[str]) -> None:
        """Load this base into a network of these paintings; new ones begin as the mean of this base's paintings."""
        own = {
            key: torch.stack([each[self.names.index(name)] if name in self.names else each.mean(0) for name in names])
            for key, each in self.own.items()
        }
        net.net.load_state_dict(self.shared | own)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    numbers = b"".join(tensors[name].detach().cpu().contiguous().numpy().astype("<f4").tobytes() for name in sorted(tensors))
    return hashlib.sha256(numbers).hexdigest()[:16]


def save_painting(path: Path, net: nn.Module, name: str) -> None:
    """Write a painting's own numbers in the palette's network; `inference.style.palette` mixes with them."""
    tensors, own = net.state_dict(), own_names(net)
    body = _digest({key: tensor for key, tensor in tensors.items() if key not in own})
    arrays = {key: tensors[key].cpu().numpy()[None] for key in own}
    write_npz(path, {NAMES: np.array([name]), BODY: np.array(body), **arrays})


def save_mix(path: Path, weights: Mapping[str, float]) -> None:
    """Write a mix of the palette as the weights of a network, to be exported.

    Raises:
        StyleError: as `inference.style.palette.mix`, or the palette and the base are of different trainings.
    """
    mixed, base = mix(weights), load_base("realtime")
    if mixed.body != base.body:
        raise StyleError(f"{PALETTE} and {BASE} are of different trainings; get both again")
    own = {name: torch.from_numpy(array) for name, array in mixed.own.items()}
    card = {"title": mixed.title, "license": "public domain", "tier": base.tier, "strokes": STROKES}
    card |= {name: base.card[name] for name in ("step", "photos_seen", "seconds", "losses", "options") if name in base.card}
    save_weights(path, base.shared | own, card)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    write_atomically(path, data.getvalue())


def save_base(path: Path, net: nn.Module, card: Mapping[str, Any]) -> None:
    """Write a base, a `ManyStyles`; `card` names its "paintings" in order, and its "tier"."""
    assert isinstance(net, ManyStyles)
    tensors = {("own." if name in net.own_names else "shared.") + name: p for name, p in net.net.state_dict().items()}
    save_weights(path, tensors, card)


def load_base(tier: str, folder: Path = BASE) -> Base:
    """The base of a tier.

    Raises:
        StyleError: there is none, or it does not fit the tier's network.
    """
    path = folder / f"{tier}.safetensors"
    tensors, card = load_weights(path)
    names = card.get("paintings")
    if not isinstance(names, list) or not names or card.get("tier") != tier:
        raise StyleError(f"{path} is not a base of the {tier} tier")
    base = Base(tier, [str(name) for name in names], unprefixed(tensors, "shared."), unprefixed(tensors, "own."), card)
    odd = misfit(base.shared | base.own, ManyStyles(TIERS[tier](), len(names)).net.state_dict())
    if odd:
        raise StyleError(f"{path} does not fit the {tier} network: {odd}")
    return base


def starts(tier: str, folder: Path = FOLDER) -> dict[str, ImageTransformNet]:
    """Networks that a training may start from: the mean of the base's paintings or, without a base, the shipped networks."""
    if (folder / "base" / f"{tier}.safetensors").is_file():
        return {"base/mean": load_base(tier, folder / "base").network(None)}
    return {f"{path.parent.name}/{tier}": load_net(path)[0].train() for path in sorted(folder.glob(f"*/{tier}.safetensors"))}


@torch.no_grad()
def nearest(
    nets: Mapping[str, ImageTransformNet], target: StyleTarget, frames: Sequence[np.ndarray], config: TrainConfig
) -> str:
    """The name of the network whose loss for a painting is already the lowest.

    Args:
        target: of the painting.
        frames: photos to paint, (H, W, 3) uint8.
        config: its loss weights are used.
    """
    device = target.vgg.mean.device
    totals = dict.fromkeys(nets, 0.0)
    for frame in frames:
        for name, net in nets.items():
            content_image = to_image(cut_to_stride(net, resize_short_side(frame, TRIAL_PX)), device)
            content_features = target.vgg(content_image, CONTENT_LAYERS)
            stylized_image = net.to(device)(content_image)
            features = target.vgg(stylized_image, (*target.style_grams, *CONTENT_LAYERS))
            weights = (config.content_weight, config.style_weight, config.tv_weight)
            losses = perceptual_losses(stylized_image, features, content_features, target.style_grams, *weights)
            totals[name] += losses["total"].item()
    return min(totals, key=lambda name: totals[name])
