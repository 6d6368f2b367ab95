"""What this machine can really run, found by trying: the output of `allaprima doctor`."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from allaprima.inference.style.styles import shipped_styles
from allaprima.models.errors import AllaPrimaError, WebError, install_line

VGG19_DOWNLOAD = "vgg19-dcbb9e9d.pth"  # torchvision's name for it


def examine() -> list[tuple[str, bool, str]]:
    """Each check: its name, whether it passed, and what was found or what to do. What does not even load is reported, too."""
    return [_examined(name, look) for name, look in LOOKS.items()]


def _examined(name: str, look: Callable[[], tuple[str, bool, str]]) -> tuple[str, bool, str]:
    try:
        return look()
    except Exception as error:  # such as of a library that is built for another machine
        reason = " ".join(str(error).split()) or type(error).__name__
        return name, False, f"does not load: {reason[:200]}; install it anew"


def python() -> tuple[str, bool, str]:
    text = f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores"
    return "python", sys.version_info >= (3, 11), text


def opencv() -> tuple[str, bool, str]:
    import cv2

    return "OpenCV", True, str(cv2.__version__)


def onnxruntimes() -> tuple[str, bool, str]:
    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(found) == 2:
        return (
            "onnxruntime",
            False,
            (
                "onnxruntime and onnxruntime-gpu overwrite each other: "
                "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
            ),
        )
    return "onnxruntime", bool(found), ", ".join(f"{name} {version}" for name, version in found.items()) or "not installed"


def cpu_provider() -> tuple[str, bool, str]:
    return "CPU", *_paint_on("cpu")


def openvino() -> tuple[str, bool, str]:
    from allaprima.inference.style import engines

    if trouble := engines.engine_trouble():
        return "OpenVINO", False, f"{trouble}; ONNX Runtime paints alone"
    version, precisions = importlib.metadata.version("openvino"), " and ".join(engines.precisions())
    return "OpenVINO", True, f"{version}, {precisions}; paints where a trial finds it faster than ONNX Runtime"


def cuda_provider() -> tuple[str, bool, str]:
    from allaprima.inference.style.session import probe_cuda

    count, trouble = probe_cuda()
    if trouble:
        return "CUDA", False, f"{trouble}; styles run on the CPU"
    well, text = _paint_on("cuda")
    return "CUDA", well, f"{count} GPU(s), {text}" if well else f"{count} GPU(s), but {text}"


def _paint_on(device: str) -> tuple[bool, str]:
    import numpy as np

    from allaprima.inference.style.session import StyleSession

    styles = shipped_styles()
    if not styles:
        return False, "no shipped style to try it with"
    try:
        StyleSession(styles[-1].path, device).stylize(np.zeros((32, 32, 3), np.uint8))
    except AllaPrimaError as error:
        return False, str(error)
    return True, "works"


def display() -> tuple[str, bool, str]:
    from allaprima.inference.live.displays import display_trouble

    trouble = display_trouble()
    return "display", not trouble, f"{trouble}; webcam runs with --headless" if trouble else "found"


def encoders() -> tuple[str, bool, str]:
    from allaprima.inference.film.sinks import ENCODERS, encoder_opens, tamed_encoders

    with tamed_encoders():
        opened = [name for names in ENCODERS.values() for name in names if encoder_opens(name)]
    return "encoders", any("264" in name for name in opened), f"PyAV {importlib.metadata.version('av')}: {', '.join(opened)}"


def training() -> tuple[str, bool, str]:
    missing = [
        name for name in ("torch", "torchvision", "onnx", "onnxscript", "safetensors") if not importlib.util.find_spec(name)
    ]
    if missing:
        return "training", False, f"not installed ({', '.join(missing)}); {install_line('train')}"
    import torch

    where = f"CUDA, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU only"
    return "training", True, f"torch {torch.__version__}, {where}"


def vgg19_weights() -> tuple[str, bool, str]:
    named = os.environ.get("ALLAPRIMA_VGG19")
    if named:
        trouble = ""
        try:
            with open(named, "rb") as file:
                head = file.read(9)
            # A safetensors file begins with the length of its JSON, a state dict like a zip or a pickle.
            if not (head[8:] == b"{" or head.startswith((b"PK", b"\x80"))):
                trouble = ": neither safetensors nor a state dict"
        except OSError as error:
            trouble = f": {error.strerror}"
        return "VGG-19", not trouble, f"{named} (ALLAPRIMA_VGG19){trouble}"
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "torch")
    cached = Path(home, "hub", "checkpoints", VGG19_DOWNLOAD)
    if cached.is_file():
        return "VGG-19", True, str(cached)
    return "VGG-19", False, "not here yet; the first training downloads it (548 MB), or set ALLAPRIMA_VGG19 to a file"


def styles() -> tuple[str, bool, str]:
    names = [style.full_name for style in shipped_styles()]
    return "styles", bool(names), ", ".join(names) or "none in checkpoints/"


def page() -> tuple[str, bool, str]:
    from allaprima.inference.page.web import check_packages

    try:
        check_packages()
    except WebError as error:
        return "page", False, str(error)
    return "page", True, "onnxruntime-web and mediabunny are there; allaprima web"


LOOKS: dict[str, Callable[[], tuple[str, bool, str]]] = {
    "python": python,
    "OpenCV": opencv,
    "onnxruntime": onnxruntimes,
    "CPU": cpu_provider,
    "OpenVINO": openvino,
    "CUDA": cuda_provider,
    "display": display,
    "encoders": encoders,
    "training": training,
    "VGG-19": vgg19_weights,
    "styles": styles,
    "page": page,
}
