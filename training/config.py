"""The options of every training, optimization and study: the only place for defaults, bounds, choices and help. Standard
library only, so that --help is instant."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allaprima.models.contract import IO, LOWEST_OPSET, MAX_STROKES, OPSET
from allaprima.models.contract import PRECISIONS as FILE_PRECISIONS
from allaprima.models.errors import OptimizeError, StyleError, TrainingError
from allaprima.models.options import check, flag, option, size, strokes
from allaprima.models.targets import FIRST_OPSET, TARGETS

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
# More layers, for the painter's recipe; the measurements of training/studies/judges.py look at other layers.
WASSERSTEIN_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
SIMILARITY_LAYERS = ("relu3_1", "relu4_1")
# Weight of each loss: content and similarity are multiplied by the content weight; style (Gram), wasserstein and palette by
# the style weight; lattice by neither. The trials are in training/gallery/README.md.
RECIPES: dict[str, dict[str, float]] = {
    "painter": {"content": 0.4, "similarity": 2.0, "style": 1.0, "wasserstein": 1.2, "palette": 3.0, "lattice": 10.0},
    "gram": {"content": 1.0, "style": 1.0},
}
STYLE_WEIGHT = 30.0  # of the classic optimization, unitless; networks are trained with less, so that content is not lost
COLOR_CONTROLS = ("none", "luminance", "histogram", "cholesky", "image-analogies", "optimal-transport")
PRECISIONS = ("auto", "fp32", "bf16")
INTO = ("network", "palette")


def _device(default: str = "auto") -> Any:
    return option(default, choices=("auto", "cpu", "cuda", "mps"))


def _vgg19() -> Any:
    return option(None, "VGG-19 weights (default: $ALLAPRIMA_VGG19, else torchvision's download)", "FILE|random")


def _max_pixels() -> Any:
    return option(0, "refuse larger pictures as decompression bombs; 0: 179 million", "N", least=0)


def _normalization() -> Any:
    return option("unitless", "of the losses", choices=("unitless", "gatys", "johnson"))


def _optimizer() -> Any:
    return option("lbfgs", choices=("lbfgs", "adam"))


def _pooling() -> Any:
    # "max" as VGG-19 was trained, "avg" as Gatys et al. preferred.
    return option("max", "VGG-19's", choices=("max", "avg"))


def _noise_seed() -> Any:
    return option(0, "of the noise", "N", least=0)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what network a training gives, saved as options.json in the run folder.

    Losses are unitless, content at relu4_2, style at relu1_1 to relu5_1. Meaning of "auto": for precision, the faster of
    the two; for compile, a trial on CUDA. On CUDA, unless compile="off", the step also becomes one CUDA graph.
    """

    style_image: str  # the style image's file
    photos: str  # a folder of content images, or a Hugging Face dataset's name
    tier: str = option("realtime", choices=("quality", "realtime"))
    into: str = option(
        "network", "palette: learn only a painting's own numbers in the palette's network, in a minute", choices=INTO
    )
    steps: int = option(10_000, "weight updates", "N", least=1)
    batch_size: int = option(4, "photos a step, all processes together", "N", least=1)
    size_px: int = option(256, "side of the photos' crops", "PX", least=32, multiple_of=(16, "VGG-19 halves it four times"))
    # VGG-19 does not see the margin, so the losses never reward anything done at the picture's border, which a network
    # recognizes by its mirrored pixels.
    margin_px: int = option(
        16, "painted around them and cut off, so that no border is learned", "PX", least=0, multiple_of=(8, "")
    )
    # Penalizes what the network paints differently at the border of a crop alone than with a margin around it: the margin
    # keeps new bands from forming at the border, but does not remove one that is already there.
    border_weight: float = option(100.0, "more keeps bands away from the picture's border", "X")
    style_size_px: int = option(512, "short side of the painting; larger gives larger strokes", "PX", least=32)
    crop_border: bool = option(False, "cut a plain border off the painting, as scans and frames have it")
    strokes: float = option(
        1.0, "for the card: how large strokes are where nobody says, as of stylize", "X", least=0.1, most=MAX_STROKES
    )
    recipe: str = option(
        "painter", "the losses: palette, strokes, forms; or content and Gram alone, as the papers", choices=tuple(RECIPES)
    )
    content_weight: float = option(1.0, "more keeps the photo", "X")
    style_weight: float = option(5.0, "more gives the painting; 3 to 10 look right", "X")
    tv_weight: float = option(0.5, "total variation: more is smoother", "X")
    # Times `training.update.STEADY_WEIGHT`, the weight of how differently the network paints a slightly shaken photo.
    steady: float = option(0.25, "more paints steadier films, and calmer; 0 to 1", "0..1", most=1.0)
    upsampling: str = option(
        "bilinear", "of features, once trained; nearest is sharper and may weave", choices=("bilinear", "nearest")
    )
    lr: float = option(2e-3, "Adam's peak learning rate, one-cycle over all steps", "X")
    seed: int = option(0, "of weights, order and crops", "N", least=0)
    device: str = _device()
    precision: str = option("auto", choices=PRECISIONS)
    compile: str = option("auto", choices=("auto", "on", "off"))
    workers: int | None = option(
        None,
        "threads that prepare photos; on a CPU the result is the same for any number (default: 4; with a GPU all cores)",
        "N",
        least=0,
    )
    photo_store: str | None = option(
        None, "keep all photos decoded there (0.6 MB each) for the next training on them", "FOLDER"
    )
    normalization: str = _normalization()
    init: str = option("base", "start from the base, from noise, or from another style's .safetensors", "base|none|FILE")
    vgg19: str | None = _vgg19()
    max_pixels: int = _max_pixels()
    more_style_images: tuple[str, ...] = ()  # further files, learned as one style together with `style_image`
    style_blend: tuple[float, ...] = option((), "with --as-one: how much each painting counts (default: all alike)", "X,X")
    preview: tuple[str, ...] = ()  # photos for the preview sheet; if empty, four of `photos`
    preview_every: int = option(500, "steps between two preview sheets", "N", least=1)
    checkpoint_every: int = option(500, "steps between two checkpoints", "N", least=1)
    title: str = option("", "of the painting, for the style's card (default: the file's name)", "TEXT")
    painter: str = option("", "for the card", "TEXT")
    year: str = option("", "for the card", "TEXT")
    license: str = option("", "of the painting, for the card", "TEXT")

    def __post_init__(self) -> None:
        check(self, TrainingError)
        if self.lr == 0:
            raise TrainingError(f"--lr is {self.lr}; a number above 0 is needed, or nothing is learned")
        if self.style_weight == 0 and self.content_weight == 0:
            raise TrainingError("--style-weight and --content-weight are both 0; one above 0 is needed, or nothing is learned")
        if self.style_blend:
            count = 1 + len(self.more_style_images)
            if len(self.style_blend) != count or not sum(self.style_blend) > 0:
                blend = ",".join(f"{share:g}" for share in self.style_blend)
                raise TrainingError(f"--style-blend is {blend}; one number for each of {count} paintings is wanted, not all 0")
        if self.into == "palette" and (self.tier != "realtime" or self.init != "base"):
            raise TrainingError("--into palette learns in the palette's own network; leave out --tier and --init")

    @property
    def style_images(self) -> tuple[str, ...]:
        return (self.style_image, *self.more_style_images)

    @property
    def painted_px(self) -> int:
        """Side of the image that the network paints in training."""
        return self.size_px + 2 * self.margin_px

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def read(cls, path: Path) -> "TrainConfig":
        """The options in a file that `to_json` made.

        Raises:
            TrainingError: not an options file, or one of another version; the message names what is wrong.
        """
        try:
            options: dict[str, Any] = json.loads(path.read_bytes())
            options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
            options["init"] = options.get("init") or "none"  # as 0.1.0, which painted no margins either
            options.setdefault("margin_px", 0)
            options.setdefault("border_weight", 0.0)
            options.setdefault("upsampling", "nearest")
            options.setdefault("steady", 0.0)
            options.setdefault("recipe", "gram")
            options["style_image"] = options.pop("painting", options.get("style_image"))  # its name until 0.2.0
            return cls(**options)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"{path} is not an options file of this version: {error}") from error

    @property
    def style_title(self) -> str:
        return self.title or ", ".join(Path(path).stem.replace("_", " ") for path in self.style_images)


@dataclass(frozen=True)
class OptimizeConfig:
    """Everything that decides what picture the classic optimization gives.

    Without a `style_weight`, it is `STYLE_WEIGHT` for unitless losses and an equivalent weight for the others.
    """

    content: str  # the content image's file
    styles: tuple[str, ...]  # the style images' files
    style_blend: tuple[float, ...] = option((), "how much each of several styles counts (default: all alike)", "X,X")
    iterations: int = option(500, "updates of the picture, over all scales together", "N", least=1)
    optimizer: str = _optimizer()
    init: str = option("content", "what to start from", "content|noise|FILE")
    content_weight: float = option(1.0, "more keeps the photo", "X")
    style_weight: float | None = option(
        None, f"more gives the painting (default: {STYLE_WEIGHT:g}, or as much in other units)", "X"
    )
    tv_weight: float = option(1.0, "total variation: more is smoother", "X")
    content_layers: tuple[str, ...] = option(CONTENT_LAYERS, "of VGG-19, conv1_1, relu1_1, ... relu5_4", "LAYER,...")
    style_layers: tuple[str, ...] = option(STYLE_LAYERS, "likewise", "LAYER,...")
    style_layer_weights: tuple[float, ...] = option((), "one for each style layer (default: all alike)", "X,...")
    pooling: str = _pooling()
    normalization: str = _normalization()
    size_px: int = option(512, "long side of the result; a smaller photo keeps its size", "PX", least=32)
    scales: int = option(1, "from coarse to fine, each twice the size of the one before", "N", least=1)
    keep_color: str = option(
        "none",
        "keep the photo's colors: paint only light and dark, or recolor the painting first",
        choices=COLOR_CONTROLS,
    )
    snapshots: tuple[int, ...] = option(
        (), "iterations after which the picture is saved, too, and put on a sheet", "N,...", least=0
    )
    average: bool = option(False, "the result is a moving average of the last pictures")
    bits: int = option(8, "a color channel of the result; 16 with PNG and TIFF", choices=(8, 16))
    seed: int = _noise_seed()
    device: str = _device()
    # From noise, bf16 reached the same loss (0.602, 300 iterations, 256 px) with the same strokes, but some places came out
    # in other colors: 27 of 255 levels apart on average. Hence fp32.
    precision: str = option(
        "fp32",
        "of VGG-19; bf16 may be twice as fast, for another picture of the same loss; auto takes the faster",
        choices=PRECISIONS,
    )
    vgg19: str | None = _vgg19()
    max_pixels: int = _max_pixels()

    def __post_init__(self) -> None:
        check(self, OptimizeError)
        for name, values, others in (
            ("style_blend", self.style_blend, self.styles),
            ("style_layer_weights", self.style_layer_weights, self.style_layers),
        ):
            if values and not any(values):
                raise OptimizeError(f"{flag(name)} is all zero; one number above 0 is needed")
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
        late = [n for n in self.snapshots if n > self.iterations]
        if late:
            raise OptimizeError(f"--snapshots has {late[0]}; numbers from 0 to --iterations ({self.iterations}) are wanted")


@dataclass(frozen=True)
class ReconstructConfig:
    """What to reconstruct from noise."""

    image: str  # the picture's file
    layers: tuple[str, ...] = option(
        ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"), "of VGG-19, conv1_1, relu1_1, ... relu5_4", "LAYER,..."
    )
    what: str = option("both", choices=("content", "style", "both"))
    iterations: int = option(300, "updates of each reconstruction", "N", least=1)
    size_px: int = option(256, "long side; a smaller picture keeps its size", "PX", least=1)
    optimizer: str = _optimizer()
    pooling: str = _pooling()
    seed: int = _noise_seed()
    device: str = _device()
    precision: str = option(
        "fp32",
        "of VGG-19; bf16 may be twice as fast, for another picture of the same loss; auto takes the faster",
        choices=PRECISIONS,
    )
    vgg19: str | None = _vgg19()
    max_pixels: int = _max_pixels()

    def __post_init__(self) -> None:
        check(self, OptimizeError)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise OptimizeError("--layers is empty or names a layer twice; different layers are needed")


@dataclass(frozen=True)
class EvaluateConfig:
    """What a network is measured on, and what it is compared with."""

    style_image: str  # the painting's file
    photos: str  # a folder of photos that the network was not trained on
    sizes_px: tuple[int, ...] = option(
        (256, 512), "sides of the photos' middle squares", "PX,PX", least=32, multiple_of=(16, "VGG-19 halves it four times")
    )
    against: tuple[int, ...] = option((50, 100, 200), "iterations of the classic optimization", "N,N", least=0)
    inits: tuple[str, ...] = option(("noise", "content"), "what it starts from", "noise,content", choices=("noise", "content"))
    limit: int = option(0, "only the first N photos", "N", least=0, default_text="all")
    optimizer: str = _optimizer()
    seed: int = _noise_seed()
    device: str = _device()
    precision: str = option("auto", "of VGG-19: only losses are compared, and those agree", choices=PRECISIONS)
    vgg19: str | None = _vgg19()
    max_pixels: int = _max_pixels()

    def __post_init__(self) -> None:
        check(self, OptimizeError)
        for name in ("sizes_px", "against", "inits"):
            if not getattr(self, name):
                raise OptimizeError(f"{flag(name)} is empty; one at least is needed")


@dataclass(frozen=True)
class Flavor:
    """The kind of .onnx file to write, as in `models.contract.Contract`.

    Attributes:
        target: a key of `models.targets.TARGETS`. size: fixed width and height. opset: None takes the lowest that suffices.
    Raises:
        StyleError: an option is out of its range, or has no effect without another.
    """

    io: str = option("image", choices=tuple(IO))
    precision: str = option("fp32", choices=FILE_PRECISIONS)
    keep_color: float = option(
        0.0,
        "1 keeps the content's colors (luminance-only); without a number 1. Fixed in an image file, in a frame file what "
        "counts where the input is not fed; --strength alike",
        "0..1",
        most=1.0,
        alone=1.0,
    )
    strength: float = option(1.0, "0 is the content as it is, 1 the painting", "0..1", most=1.0)
    strokes: float | None = option(
        None,
        "with --io frame: paint coarse to fine inside the file, strokes so large (1 as on a picture of 768 px) where the input "
        "strokes is not fed; without a number 1. Needs a runtime with ONNX's Loop",
        "X|fine",
        most=MAX_STROKES,
        read=strokes,
        alone=1.0,
    )
    detail: float = option(1.0, "with --strokes: how much of a large picture's own fine lines comes back", "0..1", most=1.0)
    mix: bool = option(False, "of a mix: how much of each of the palette's styles counts stays an input, weights")
    target: str = option(
        "onnxruntime",
        f"in the form that another runtime takes. {'; '.join(f'{name}: {target.why}' for name, target in TARGETS.items())}",
        choices=tuple(TARGETS),
        named="--for",
    )
    size: tuple[int, int] | None = option(
        None, "for pictures of this size alone, as phones and older runtimes want", "WIDTHxHEIGHT", read=size
    )
    opset: int | None = option(
        None,
        "of ONNX",
        f"{FIRST_OPSET}..{OPSET}",
        least=FIRST_OPSET,
        most=OPSET,
        default_text="the lowest that says the same, 11 for images, 13 for int8, 15 for frames, 18 with --strokes",
    )

    def __post_init__(self) -> None:
        check(self, StyleError)
        if self.strokes is None and self.detail != 1.0:
            raise StyleError("--detail does nothing without --strokes")
        if self.mix and (self.precision != "fp32" or self.foreign):
            raise StyleError("--mix writes fp32 for ONNX Runtime alone; leave out --precision, --for, --size and --opset")

    @property
    def foreign(self) -> bool:
        """Whether the file gets a form that this program cannot read."""
        opset = self.opset or TARGETS[self.target].opset or LOWEST_OPSET
        return bool(self.size) or TARGETS[self.target].plain or opset < LOWEST_OPSET

    @property
    def suffix(self) -> str:
        """For a file's name: "style" + suffix + ".onnx"."""
        levels = "strokes" if self.strokes is not None else ""
        mix = "mix" if self.mix else ""
        target = self.target if self.target != "onnxruntime" else ""
        size = "{}x{}".format(*self.size) if self.size else ""
        precision = self.precision if self.precision != "fp32" else ""
        parts = (self.io if self.io != "image" else "", levels, mix, precision, target, size)
        return "".join(f".{part}" for part in parts if part)
