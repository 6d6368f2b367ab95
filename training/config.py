"""The options of a training and of an optimization: the one home of every default. Standard library only, so that --help
is instant."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import OptimizeError, TrainingError

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what network a training gives, saved as options.json in the run folder."""

    painting: str  # the style image's file
    photos: str  # a folder of content images, or a Hugging Face dataset's name
    tier: str = "realtime"  # "quality" or "realtime", models/image_transform_net.py
    steps: int = 10_000  # weight updates
    batch_size: int = 4  # photos a step, all processes together
    size_px: int = 256  # side of the square random crop
    # Painted around each crop and cut off before VGG-19 looks, so that nothing is ever rewarded for what happens at the
    # picture's border, where mirrored pixels tell a network that it is there.
    margin_px: int = 16
    # Weight of what the network paints otherwise at the border of the crop alone than with the margin around it: without a
    # reward a band at the border does not come, but one that is there stays.
    border_weight: float = 100.0
    style_size_px: int = 320  # short side of the style image: larger gives larger strokes
    content_weight: float = 1.0  # unitless, relu4_2
    style_weight: float | str = 5.0  # unitless, relu1_1 to relu5_1; "auto" holds the balance, training/balance.py
    tv_weight: float = 0.5  # total variation: higher is smoother
    lr: float = 2e-3  # Adam's peak learning rate, one-cycle over `steps`
    seed: int = 0  # of the initial weights, the photos' order, crops and flips
    device: str = "auto"  # "auto", "cpu", "cuda" or "mps"
    precision: str = "auto"  # "auto", "fp32" or "bf16"; auto times both
    # torch.compile: "auto", "on" or "off"; auto times it on CUDA. On CUDA all but "off" makes the step one CUDA graph, too.
    compile: str = "auto"
    workers: int | None = None  # threads that decode photos ahead of time; 0: none; None: 4, beside a GPU all cores
    photo_store: str | None = None  # a folder for all photos decoded, which the next training on them starts from
    normalization: str = "unitless"  # of the losses, training/losses.py
    init: str = "base"  # what to start from: "base", training/many_styles.py, "none" or another style's .safetensors
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
            value = getattr(self, field.name)
            whole = field.type is int or (field.name == "workers" and value is not None)
            if whole and type(value) is not int:
                raise TrainingError(f"{flag(field.name)} is {value!r}; a whole number is wanted")
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("size_px", 32),
            ("style_size_px", 32),
            ("preview_every", 1),
            ("checkpoint_every", 1),
            ("max_pixels", 0),
            ("workers", 0),
            ("margin_px", 0),
            ("seed", 0),
        ):
            if (getattr(self, name) or 0) < least:
                raise TrainingError(f"{flag(name)} is {getattr(self, name)}; at least {least} is needed")
        for name in ("content_weight", "style_weight", "tv_weight", "border_weight", "lr"):
            value = getattr(self, name)
            if name == "style_weight" and value == "auto":
                continue
            if isinstance(value, str) or not 0 <= value < float("inf"):
                raise TrainingError(f"{flag(name)} is {value}; a finite number of at least 0 is needed")
        if self.lr == 0:
            raise TrainingError(f"--lr is {self.lr}; a number above 0 is needed, or nothing is learned")
        if self.style_weight == 0 and self.content_weight == 0:
            raise TrainingError("--style-weight and --content-weight are both 0; one above 0 is needed, or nothing is learned")
        if self.size_px % 16:
            raise TrainingError(f"--size is {self.size_px}; a multiple of 16 is needed (VGG-19 halves it four times)")
        if self.margin_px % 8:
            raise TrainingError(f"--margin is {self.margin_px}; a multiple of 8 is needed")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(f'{flag(name)} is "{getattr(self, name)}"; one of {", ".join(choices)} is wanted')

    @property
    def painted_px(self) -> int:
        """Side of what the network paints in training."""
        return self.size_px + 2 * self.margin_px

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
            options["init"] = options.get("init") or "none"  # 0.1.0 began so, and painted no margins
            options.setdefault("margin_px", 0)
            options.setdefault("border_weight", 0.0)
            return cls(**options)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"{path} is not an options file of this version: {error}") from error

    @property
    def style_title(self) -> str:
        return self.title or Path(self.painting).stem.replace("_", " ")


@dataclass(frozen=True)
class OptimizeConfig:
    """Everything that decides what picture the classic optimization gives."""

    content: str  # the content image's file
    styles: tuple[str, ...]  # the style images' files
    style_blend: tuple[float, ...] = ()  # how much each style counts; none: all alike
    iterations: int = 500  # updates of the picture, over all scales together
    optimizer: str = "lbfgs"  # "lbfgs" or "adam"
    init: str = "content"  # what to start from: "content", "noise" or a picture's file
    content_weight: float = 1.0
    style_weight: float | None = None  # None: `STYLE_WEIGHT` where losses are unitless, as much where they are not
    tv_weight: float = 1.0  # total variation: higher is smoother
    content_layers: tuple[str, ...] = CONTENT_LAYERS
    style_layers: tuple[str, ...] = STYLE_LAYERS
    style_layer_weights: tuple[float, ...] = ()  # one for each style layer, only proportions matter; none: all alike
    pooling: str = "max"  # VGG-19's: "max", as it was trained, or "avg", as Gatys et al. preferred
    normalization: str = "unitless"  # of the losses, training/losses.py
    size_px: int = 512  # long side of the result; a smaller content image keeps its size
    scales: int = 1  # from coarse to fine, each twice the size of the one before
    keep_color: str = "none"  # training/classic/optimize.py
    snapshots: tuple[int, ...] = ()  # iterations after which the picture is saved, too
    average: bool = False  # the result is a moving average of the last pictures
    bits: int = 8  # a color channel of the result; 16 with PNG and TIFF
    seed: int = 0  # of the noise
    device: str = "auto"  # "auto", "cpu", "cuda" or "mps"
    # Of VGG-19: "fp32", "bf16" or "auto", the faster. From noise, bf16 reached the same loss (0.602, 300 iterations, 256 px)
    # with the same strokes, but some places came out in other colours: 27 of 255 levels apart in the mean. So fp32.
    precision: str = "fp32"
    vgg19: str | None = None  # VGG-19 file, or "random" (tests); None: $ALLAPRIMA_VGG19, else torchvision's download
    max_pixels: int = 0  # larger pictures are refused as decompression bombs; 0: Pillow's limit, 179 million

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("size_px", 32), ("scales", 1), ("seed", 0), ("max_pixels", 0)):
            if getattr(self, name) < least:
                raise OptimizeError(f"{flag(name)} is {getattr(self, name)}; at least {least} is needed")
        for name, choices in OPTIMIZE_CHOICES.items():
            if getattr(self, name) not in choices:
                wanted = ", ".join(str(choice) for choice in choices)
                raise OptimizeError(f'{flag(name)} is "{getattr(self, name)}"; one of {wanted} is wanted')
        for name in ("content_weight", "style_weight", "tv_weight", "style_blend", "style_layer_weights"):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (0.0 if value is None else value,)
            if not all(0 <= number < float("inf") for number in values):
                raise OptimizeError(f"{flag(name)} is {value}; finite numbers of at least 0 are needed")
            if isinstance(value, tuple) and value and not any(value):
                raise OptimizeError(f"{flag(name)} is all zero; one number above 0 is needed")
        for name, values, others in (
            ("style_blend", self.style_blend, self.styles),
            ("style_layer_weights", self.style_layer_weights, self.style_layers),
        ):
            if values and len(values) != len(others):
                wanted = f"{len(others)} are needed, for {', '.join(others)}"
                raise OptimizeError(f"{flag(name)} has {len(values)} numbers; {wanted}")
        if self.seed >= 2**63:
            raise OptimizeError(f"--seed is {self.seed}; less than 2^63 is needed")
        for name, layers in (("content_layers", self.content_layers), ("style_layers", self.style_layers)):
            if len(set(layers)) < len(layers):
                raise OptimizeError(f"{flag(name)} names a layer twice: {','.join(layers)}")
        if not self.content_layers and not self.style_layers:
            raise OptimizeError("there are neither content nor style layers; one at least is needed")
        late = [n for n in self.snapshots if not 0 <= n <= self.iterations]
        if late:
            raise OptimizeError(f"--snapshots has {late[0]}; numbers from 0 to --iterations ({self.iterations}) are wanted")


@dataclass(frozen=True)
class ReconstructConfig:
    """What to reconstruct from noise."""

    image: str  # the picture's file
    layers: tuple[str, ...] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    what: str = "both"  # "content", "style" or "both"
    iterations: int = 300  # updates of each reconstruction
    optimizer: str = "lbfgs"  # "lbfgs" or "adam"
    size_px: int = 256  # long side; a smaller picture keeps its size
    pooling: str = "max"  # VGG-19's: "max", as it was trained, or "avg"
    seed: int = 0  # of the noise
    device: str = "auto"  # "auto", "cpu", "cuda" or "mps"
    precision: str = "fp32"  # of VGG-19: "auto", "fp32" or "bf16"
    vgg19: str | None = None  # VGG-19 file, or "random" (tests); None: $ALLAPRIMA_VGG19, else torchvision's download
    max_pixels: int = 0  # larger pictures are refused as decompression bombs; 0: Pillow's limit, 179 million

    def __post_init__(self) -> None:
        if self.what not in ("content", "style", "both"):
            raise OptimizeError(f'--what is "{self.what}"; content, style or both is wanted')
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise OptimizeError("--layers is empty or names a layer twice; different layers are needed")
        if self.iterations < 1:
            raise OptimizeError(f"--iterations is {self.iterations}; at least 1 is needed")


@dataclass(frozen=True)
class EvaluateConfig:
    """What a network is measured on, and beside what."""

    style_image: str  # the painting's file
    photos: str  # a folder of photos that the network was not trained on
    sizes_px: tuple[int, ...] = (256, 512)  # sides of the photos' middle squares
    against: tuple[int, ...] = (50, 100, 200)  # iterations of the classic optimization
    inits: tuple[str, ...] = ("noise", "content")  # what that starts from
    optimizer: str = "lbfgs"  # "lbfgs" or "adam"
    limit: int = 0  # of the photos, by name; 0: all
    seed: int = 0  # of the noise
    device: str = "auto"
    precision: str = "auto"  # of VGG-19: only losses are compared, and those agree
    vgg19: str | None = None  # VGG-19 file, or "random" (tests); None: $ALLAPRIMA_VGG19, else torchvision's download
    max_pixels: int = 0  # larger pictures are refused as decompression bombs; 0: Pillow's limit, 179 million

    def __post_init__(self) -> None:
        if not self.sizes_px or any(size < 32 or size % 16 for size in self.sizes_px):
            raise OptimizeError(f"--sizes is {self.sizes_px}; multiples of 16, at least 32, are needed")
        if not self.against or min(self.against) < 0:
            raise OptimizeError(f"--against is {self.against}; iteration counts from 0 up are needed")
        if not self.inits or not set(self.inits) <= {"noise", "content"}:
            raise OptimizeError(f"--inits is {','.join(self.inits)}; noise, content or both are wanted")


STYLE_WEIGHT = 30.0  # of the classic optimization, unitless; networks are trained with less, lest content gets lost

COLOR_CONTROLS = ("none", "luminance", "histogram", "cholesky", "image-analogies", "optimal-transport")

CHOICES: dict[str, tuple[str, ...]] = {
    "tier": ("quality", "realtime"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "fp32", "bf16"),
    "compile": ("auto", "on", "off"),
    "normalization": ("unitless", "gatys", "johnson"),
}

OPTIMIZE_CHOICES: dict[str, tuple[object, ...]] = {
    "optimizer": ("lbfgs", "adam"),
    "pooling": ("max", "avg"),
    "keep_color": COLOR_CONTROLS,
    "bits": (8, 16),
    **{name: CHOICES[name] for name in ("device", "precision", "normalization")},
}


def flag(field: str) -> str:
    """The command-line option of a field."""
    return "--" + field.removesuffix("_px").replace("_", "-")
