"""The options of a training: the one home of every default. Standard library only, so that --help is instant."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import TrainingError


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what network a training gives, saved as options.json in the run folder."""

    painting: str  # the style image's file
    photos: str  # a folder of content images, or a Hugging Face dataset's name
    tier: str = "realtime"  # "quality" or "realtime", models/image_transform_net.py
    steps: int = 10_000  # weight updates
    batch_size: int = 4  # photos a step, all processes together
    size_px: int = 256  # side of the square random crop
    style_size_px: int = 320  # short side of the style image: larger gives larger strokes
    content_weight: float = 1.0  # unitless, relu4_2
    style_weight: float | str = 5.0  # unitless, relu1_1 to relu5_1; "auto" holds the balance, training/balance.py
    tv_weight: float = 0.5  # total variation: higher is smoother
    lr: float = 2e-3  # Adam's peak learning rate, one-cycle over `steps`
    seed: int = 0  # of the initial weights, the photos' order, crops and flips
    device: str = "auto"  # "auto", "cpu", "cuda" or "mps"
    precision: str = "auto"  # "auto", "fp32" or "bf16"; auto times both
    compile: str = "auto"  # torch.compile: "auto", "on" or "off"; auto times it on CUDA
    workers: int = 4  # threads that decode photos ahead of time; 0: none
    normalization: str = "unitless"  # of the losses, training/losses.py
    init: str | None = None  # weights to start from: another style's .safetensors
    vgg19: str | None = None  # VGG-19 file, or "random" (tests); None: $ALLAPRIMA_VGG19, else torchvision's download
    max_pixels: int = 0  # larger pictures are refused as decompression bombs; 0: Pillow's limit, 179 million
    preview: tuple[str, ...] = ()  # photos for the preview sheet; none: four out of `photos`
    preview_every: int = 500  # steps
    checkpoint_every: int = 500  # steps
    title: str = ""  # of the painting, for the style's card; none: the file's name
    painter: str = ""
    year: str = ""
    license: str = ""  # of the painting

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type is int and type(getattr(self, field.name)) is not int:
                raise TrainingError(f"{flag(field.name)} is {getattr(self, field.name)!r}; a whole number is wanted")
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("size_px", 32),
            ("style_size_px", 32),
            ("preview_every", 1),
            ("checkpoint_every", 1),
            ("max_pixels", 0),
            ("workers", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise TrainingError(f"{flag(name)} is {getattr(self, name)}; at least {least} is needed")
        for name in ("content_weight", "style_weight", "tv_weight", "lr"):
            value = getattr(self, name)
            if name == "style_weight" and value == "auto":
                continue
            if isinstance(value, str) or not 0 <= value < float("inf"):
                raise TrainingError(f"{flag(name)} is {value}; a finite number of at least 0 is needed")
        if self.size_px % 16:
            raise TrainingError(f"--size is {self.size_px}; a multiple of 16 is needed (VGG-19 halves it four times)")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(f'{flag(name)} is "{getattr(self, name)}"; one of {", ".join(choices)} is wanted')

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def read(cls, path: Path) -> "TrainConfig":
        """The options that `to_json` gave, from a file.

        Raises:
            TrainingError: not an options file, or one of another version; the message names what is wrong.
        """
        try:
            options: dict[str, Any] = json.loads(path.read_bytes())
            options["preview"] = tuple(options.get("preview", ()))
            return cls(**options)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"{path} is not an options file of this version: {error}") from error

    @property
    def style_title(self) -> str:
        return self.title or Path(self.painting).stem.replace("_", " ")


CHOICES: dict[str, tuple[str, ...]] = {
    "tier": ("quality", "realtime"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "fp32", "bf16"),
    "compile": ("auto", "on", "off"),
    "normalization": ("unitless", "gatys", "johnson"),
}


def flag(field: str) -> str:
    """The command-line option of a field."""
    return "--" + field.removesuffix("_px").replace("_", "-")
