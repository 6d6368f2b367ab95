"""VGG-19's convolutional features phi (Simonyan & Zisserman 2014), by layer name."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allaprima.models.errors import WeightsError

WIDTHS = {"1": (64, 2), "2": (128, 2), "3": (256, 4), "4": (512, 4), "5": (512, 4)}  # block: channels, convolutions
CONVS = tuple(f"{block}_{i}" for block, (_, count) in WIDTHS.items() for i in range(1, count + 1))
LAYERS = tuple(f"{kind}{conv}" for conv in CONVS for kind in ("conv", "relu"))
# Where each convolution stands in torchvision's vgg19().features: conv, relu, ..., pool.
_INDEX = {conv: 2 * i + (int(conv[0]) - 1) for i, conv in enumerate(CONVS)}

POOLINGS: dict[str, Callable[[Tensor, int], Tensor]] = {"max": F.max_pool2d, "avg": F.avg_pool2d}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG19Features(nn.Module):
    """Activations of named layers, conv1_1, relu1_1, ... relu5_4; computed only to the deepest one asked for.

    Args:
        state_dict: weights under torchvision's `vgg19().features` keys, with or without the prefix `features.`, any
            float dtype. None leaves the random initialization.
        pooling: "max", as VGG-19 was trained, or "avg", which Gatys et al. 2016 found to give slightly more appealing
            pictures (Sec. 2). Losses of the two are not comparable.
        thinner: divides the channels of all layers; for tests.
    Raises:
        ValueError: a key is missing or has the wrong shape, or an unknown pooling; the message names it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, state_dict: Mapping[str, Tensor] | None = None, pooling: str = "max", thinner: int = 1) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f'pooling is "{pooling}"; one of {", ".join(POOLINGS)} is wanted')
        self.pool = POOLINGS[pooling]
        self.convs = nn.ModuleDict()
        c_in = 3
        for conv in CONVS:
            c_out = WIDTHS[conv[0]][0] // thinner
            self.convs[conv] = nn.Conv2d(c_in, c_out, 3, padding=1)
            c_in = c_out
        if state_dict is None:
            for name, p in self.convs.named_parameters():  # keeps the signal's scale through 16 layers
                if name.endswith("weight"):
                    nn.init.kaiming_normal_(p, nonlinearity="relu")
                else:
                    nn.init.zeros_(p)
        else:
            self._load_(state_dict)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and features: float32, or bfloat16 after `.to(torch.bfloat16)`."""
        return self.convs.get_parameter("1_1.weight").dtype

    def _load_(self, state_dict: Mapping[str, Tensor]) -> None:
        own = {}
        for conv in CONVS:
            for part in ("weight", "bias"):
                name = f"{_INDEX[conv]}.{part}"
                tensor = state_dict.get(name, state_dict.get(f"features.{name}"))
                wanted = self.convs[conv].get_parameter(part).shape
                if tensor is None:
                    raise ValueError(f'no "features.{name}" (conv{conv}); torchvision\'s vgg19().features is wanted')
                if tensor.shape != wanted:
                    raise ValueError(f'"features.{name}" is {tuple(tensor.shape)}; {tuple(wanted)} is wanted')
                own[f"{conv}.{part}"] = tensor.float()
        self.convs.load_state_dict(own)

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of an image.

        Args:
            image: (N, 3, H, W) RGB in [0, 1]; H and W at least 16 for relu5_1.
            layers: names from `LAYERS`.
        Returns:
            name -> (N, C, H/2^k, W/2^k) in the weights' dtype, k the number of poolings before the layer.
        Raises:
            ValueError: an unknown layer name.
        """
        unknown = [layer for layer in layers if layer not in LAYERS]
        if unknown:
            raise ValueError(f"no VGG-19 layer {unknown[0]!r}; one of {', '.join(LAYERS)} is wanted")
        wanted = set(layers)
        x = ((image - self.mean) / self.std).to(self.dtype)
        features: dict[str, Tensor] = {}
        for i, conv in enumerate(CONVS):
            if i > 0 and conv[0] != CONVS[i - 1][0]:
                x = self.pool(x, 2)
            x = self.convs[conv](x)
            keep_conv = f"conv{conv}" in wanted
            if keep_conv:
                features[f"conv{conv}"] = x
            x = F.relu(x, inplace=not keep_conv)
            if f"relu{conv}" in wanted:
                features[f"relu{conv}"] = x
            if len(features) == len(wanted):
                break
        return features


def load_vgg19(source: str | None = None, pooling: str = "max", device: torch.device | str = "cpu") -> VGG19Features:
    """VGG-19 with trained weights, on a device and in channels-last order, which is fastest.

    Args:
        source: a safetensors or torch file with torchvision's `vgg19().features` (or whole `vgg19()`) keys;
            "random"; or, for tests, "tiny": random, with an eighth of the channels. None takes $ALLAPRIMA_VGG19, or
            downloads torchvision's ImageNet weights if that is not set.
        pooling: "max" or "avg", see `VGG19Features`.
    Raises:
        WeightsError: the file is missing or unusable, or the download failed; the message says what to do.
    """
    source = source or os.environ.get("ALLAPRIMA_VGG19") or None
    if source in ("random", "tiny"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vgg = VGG19Features(pooling=pooling, thinner=8 if source == "tiny" else 1)
    elif source is None:
        vgg = VGG19Features(_download_vgg19(), pooling)
    else:
        vgg = _read_vgg19(Path(source), pooling)
    return vgg.to(device).to(memory_format=torch.channels_last)


def _read_vgg19(path: Path, pooling: str) -> VGG19Features:
    if not path.is_file():
        raise WeightsError(f"no VGG-19 weights at {path}; give --vgg19 FILE or set ALLAPRIMA_VGG19")
    try:
        if path.suffix == ".safetensors":
            state_dict = safetensors.torch.load_file(path)
        else:
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
        return VGG19Features(state_dict, pooling)
    except Exception as error:  # of safetensors, pickle, zipfile or our own: all mean an unusable file
        # Only our own message is useful; torch's fills a page and advises switching its safety off.
        why = f": {error}" if type(error) is ValueError else ""
        raise WeightsError(f"{path} is not a VGG-19 weights file{why}") from error


def _download_vgg19() -> Mapping[str, Tensor]:
    try:
        from torchvision.models import VGG19_Weights, vgg19
    except ImportError as error:
        raise WeightsError("downloading VGG-19 needs torchvision: pip install torchvision; or give --vgg19 FILE") from error
    try:
        state_dict: Mapping[str, Tensor] = vgg19(weights=VGG19_Weights.IMAGENET1K_V1).features.state_dict()
        return state_dict
    except Exception as error:  # urllib's errors, a wrong hash, a full disk
        url = VGG19_Weights.IMAGENET1K_V1.url
        raise WeightsError(
            f"the VGG-19 download failed ({error}). Fetch {url} elsewhere and give --vgg19 FILE or set ALLAPRIMA_VGG19"
        ) from error
