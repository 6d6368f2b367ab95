"""A style's .onnx file, opened in ONNX Runtime and run on frames of any size."""

import contextlib
import ctypes
import functools
import io
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnxruntime

from allaprima.inference.buffers import Scratch
from allaprima.inference.options import DEVICES
from allaprima.inference.style import engines
from allaprima.inference.style.onnx_file import read_style, rebuilt
from allaprima.models.contract import WEIGHTS, Contract
from allaprima.models.errors import StyleError, install_line
from allaprima.models.memory import free_bytes

if TYPE_CHECKING:
    from allaprima.inference.style.tiles import Tiler

MAX_PIXELS = 2 * 1920 * 1080  # in the network at once, if several threads paint; a larger picture is painted alone
# Peak bytes per pixel on a CPU, by tier.
PIXEL_BYTES = {"realtime": 135, "quality": 950, "johnson": 950}
WHOLE_BYTES = 2**29  # a picture that takes more is painted in tiles, after measuring samples with at most `MEASURED_BYTES`
MEASURED_BYTES = 3 * 2**29
TILES_SHARE = 0.6  # of the free memory; the C library keeps some from tile to tile

# Taken where they are asked for alone: ONNX Runtime's name, ours, and what brings them. Picked by their documents, never run.
PROVIDERS = {
    "coreml": ("CoreMLExecutionProvider", "CoreML", "a Mac's `pip install onnxruntime` has it"),
    "directml": ("DmlExecutionProvider", "DirectML", "on Windows: pip install onnxruntime-directml in onnxruntime-gpu's place"),
}
DEVICE_NAMES = {"cuda": "CUDA", **{device: name for device, (_, name, _) in PROVIDERS.items()}}

CUDA_VERSION = 13000  # as the driver tells it: what onnxruntime-gpu is built for, and NVIDIA's drivers know from 580 on

_preloading = threading.Lock()


class StyleSession:
    """One style, ready to paint; several threads may share it.

    Args:
        source: an .onnx file of ours, or its bytes.
        device: "auto" takes CUDA where it truly works and else the CPU; "cpu", "cuda", "coreml" or "directml".
        engine: on the CPU; one of `options.ENGINES`. "auto" takes OpenVINO where it is installed and a trial finds it faster.
        shared: other threads or processes need the cores, too. One picture alone is then painted a little slower.
    Attributes:
        contract: the file's promises, with its card.
        device: where it really runs, one of `options.DEVICES` but "auto".
        cuda_trouble: why "auto" took the CPU although there is a GPU, in one line; else empty.
        engine: what runs it on the CPU, with its precision and the reason.
        weights: for a file of several styles (`contract.mix`), (S,) float32, how much of each is mixed from now on; None
            is the file's own mix.
        run_options: of every run; while `terminate` is set, current and later runs end with a StyleError.
    Raises:
        StyleError: no such file, not ONNX, or not ours; or "cuda" does not work here, with the reason.
    """

    def __init__(self, source: str | Path | bytes, device: str = "auto", shared: bool = False, engine: str = "auto") -> None:
        self.name = "the style" if isinstance(source, bytes) else str(source)  # for messages
        self._data, self.contract = rebuilt(source, self.name) if isinstance(source, bytes) else read_style(Path(source))
        if device not in DEVICES:
            raise StyleError(f"there is no device {device!r}; one of {', '.join(DEVICES)} is wanted")
        self._shared = shared
        options = self._options()
        self.device, self.cuda_trouble, self.engine = "cpu", "", engines.Choice("onnxruntime")
        if device == "cuda" or (device == "auto" and probe_cuda()[0]):
            try:
                self._session: engines.Session = _open_on_cuda(self._data, options, self.contract)
                self.device = "cuda"
            except StyleError as error:
                if device == "cuda":
                    raise StyleError(f"CUDA was asked for and does not work here: {error}") from error
                self.cuda_trouble = str(error)
        if device in PROVIDERS:
            self._session = _open_on_provider(self._data, options, self.contract, device)
            self.device = device
        if self.device == "cpu":
            opened = functools.cache(lambda: self._open_on_cpu(options))
            if self.contract.io == "image" and not self.contract.mix:
                self.engine = engines.choose(self._data, opened, engine)
            elif engine == "openvino":
                kind = "a file of several styles" if self.contract.mix else "a frame file"
                raise StyleError(f"{self.name} is {kind}, which ONNX Runtime alone paints with here; give an image file")
            self._session = self._open_with_engine(self._data) or opened()
        self.run_options = onnxruntime.RunOptions()
        self.weights: np.ndarray | None = None
        self._pixels = 0  # in the network right now
        self._largest = 0  # pixels painted at once so far; ONNX Runtime keeps their memory
        self._pixels_change = threading.Condition()
        self._tiling = threading.Lock()
        self._tiler: Tiler | None = None

    def _open_on_cpu(self, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        try:
            return _open(self._data, options, "CPUExecutionProvider")
        except Exception as error:  # ONNX Runtime raises a dozen classes, none of them public
            raise StyleError(
                f"{self.name} is not an ONNX file that ONNX Runtime can open; make one with allaprima export"
            ) from error

    def _open_with_engine(self, data: bytes) -> engines.OpenVinoSession | None:
        """An OpenVINO session, if that was chosen."""
        return engines.OpenVinoSession(data, self.engine.precision, self._shared) if self.engine.engine == "openvino" else None

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Denormals are slow on CPUs and too small to be seen.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # It plans one block of memory for each size it has seen: 4.3 instead of 2.6 GB for the second picture of 3 million
        # pixels in the quality tier, and no faster.
        options.enable_mem_pattern = False
        if hasattr(os, "sched_getaffinity") and (cores := len(os.sched_getaffinity(0))) < (os.cpu_count() or 1):
            options.intra_op_num_threads = cores  # else it also takes cores that are assigned to others
        if self._shared:  # else its threads wait for work in a busy loop, on cores that another picture could use
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    @property
    def runs_in(self) -> str:
        """The device or, on a CPU, the engine: "CUDA", "OpenVINO bf16", "ONNX Runtime"."""
        return self.engine.name if self.device == "cpu" else DEVICE_NAMES[self.device]

    @property
    def where(self) -> str:
        """The device, for a message; with what keeps it from the GPU, if there is one."""
        if self.device != "cpu":
            return "a GPU (CUDA)" if self.device == "cuda" else DEVICE_NAMES[self.device]
        on = f"the CPU by {self.engine}" if self.engine.why else "the CPU"
        return f"{on}, as CUDA does not work: {self.cuda_trouble}" if self.cuda_trouble else on

    def stylize(self, frame: np.ndarray, progress: Callable[[float], object] = lambda _: None) -> np.ndarray:
        """Paint a frame.

        Args:
            frame: (H, W, 3) uint8 RGB, from 1x1 up.
            progress: receives the painted share, 0 to 1, if the frame is painted tile by tile.
        Returns:
            (H, W, 3) uint8 RGB.
        Raises:
            ValueError: not such an array. StyleError: ONNX Runtime failed, usually for lack of memory.

        A frame that would take more memory than `WHOLE_BYTES`, or than is free, is painted tile by tile: see `tiles`.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
            raise ValueError(f"frame is {frame.shape} {frame.dtype}; (H, W, 3) uint8 is wanted")
        if self.contract.io == "frame":
            return np.asarray(self._run(frame[None])[0])
        pixels = frame.shape[0] * frame.shape[1]
        if not self.contract.mix and self._pixel_bytes * pixels > self._room_bytes(pixels):
            return self._stylize_tiles(frame, progress)
        return image_to_frame(self.stylize_image(frame_to_image(frame)))

    @property
    def _pixel_bytes(self) -> int:
        """Peak bytes per pixel; 0 if unknown."""
        return PIXEL_BYTES.get(str(self.contract.card.get("tier")), 0)

    def _room_bytes(self, pixels: int) -> float:
        """The memory that so many pixels may take in the network at once."""
        if self.device != "cpu" or pixels <= self._largest:
            return WHOLE_BYTES
        return min(WHOLE_BYTES, self._pixel_bytes * self._largest + 0.8 * free_bytes())

    def _stylize_tiles(self, frame: np.ndarray, progress: Callable[[float], object]) -> np.ndarray:
        """`stylize`, with no more memory for the network than `WHOLE_BYTES` and than is free besides the painting."""
        from allaprima.inference.style.tiles import MAX_TILE_PX, MIN_TILE_PX, Tiler

        room_bytes = min(WHOLE_BYTES, TILES_SHARE * (free_bytes() - frame.nbytes)) if self.device == "cpu" else WHOLE_BYTES
        pixels = int(room_bytes / self._pixel_bytes)
        if pixels < MIN_TILE_PX**2:
            raise StyleError(
                f"painting {frame.shape[1]}x{frame.shape[0]} px, in parts of {MIN_TILE_PX}x{MIN_TILE_PX}, needs about "
                f"{self._pixel_bytes * MIN_TILE_PX**2 / 2**20:.0f} MB, {free_bytes() / 2**20:.0f} MB are free"
            )

        def opened(data: bytes, measures: bool) -> engines.Session:
            if not measures and (session := self._open_with_engine(data)):
                return session
            options = self._options()
            options.enable_cpu_mem_arena = False  # it would keep the memory
            return _open(data, options, *(["CPUExecutionProvider"] if self.device == "cpu" else self._session.get_providers()))

        def run(session: engines.Session, given: dict[str, np.ndarray], wanted: list[str]) -> list[np.ndarray]:
            with self._room(given[self.contract.tensors.input].size // 3):
                return self._call(session, given, wanted, frame.shape)

        with self._tiling:
            self._tiler = self._tiler or Tiler(self._data, self.contract, opened)
        measured = int(min(MEASURED_BYTES, max(room_bytes, TILES_SHARE * free_bytes())) / self._pixel_bytes)
        try:
            return self._tiler.paint(frame, min(pixels, MAX_TILE_PX**2), measured, run, progress)
        finally:
            _give_memory_back()

    def stylize_image(self, image: np.ndarray) -> np.ndarray:
        """Paint an image, (N, 3, H, W) float32 RGB in [0, 1] of any size; returns the same shape.

        A frame file rounds it to whole levels before and after.
        """
        if self.contract.io == "frame":
            frames = np.rint(image.transpose(0, 2, 3, 1).clip(0.0, 1.0) * 255.0).astype(np.uint8)
            stylized = self._run(np.ascontiguousarray(frames)).transpose(0, 3, 1, 2)
            return np.multiply(stylized, np.float32(1 / 255), order="C")
        height, width = image.shape[2:]
        padded = pad_image(image, self.contract.stride_px, self.contract.least_px)
        return self._run(padded)[:, :, :height, :width]

    def _run(self, content: np.ndarray) -> np.ndarray:
        """The file's output for a tensor that its contract allows."""
        tensors = self.contract.tensors
        sizes = dict(zip(tensors.dims, content.shape, strict=True))
        with self._room(content.size // 3):
            self._check_memory(sizes["height"], sizes["width"], sizes.get("batch", 1))
            size = (sizes["height"], sizes["width"])
            given = {tensors.input: content}
            if self.contract.mix:
                given[WEIGHTS] = self.weights if self.weights is not None else first_weights(self.contract)
            if self.contract.strokes is not None:
                given["strokes"] = np.array(0.0, np.float32)  # one pass: levels are left to `inference.levels`
            stylized = self._call(self._session, given, [tensors.output], size)[0]
        if stylized.shape != content.shape:
            raise StyleError(f"{self.name} made {stylized.shape} of {content.shape}; export it again")
        return np.asarray(stylized)

    def _call(
        self, session: engines.Session, given: dict[str, np.ndarray], wanted: list[str], size: tuple[int, ...]
    ) -> list[np.ndarray]:
        """A session's outputs; `size` is the picture's height and width, for the message."""
        try:
            return list(session.run(wanted, given, self.run_options))
        except Exception as error:
            text = f"{size[1]}x{size[0]} px"
            if self.device != "cpu":
                where = DEVICE_NAMES[self.device]
                raise StyleError(
                    f"painting {text} on {where} failed: {_reason(error)}; try --max-side 2000 or --device cpu"
                ) from error
            raise StyleError(f"painting {text} failed, for want of memory as a rule; try --max-side 2000") from error

    def _check_memory(self, height: int, width: int, count: int) -> None:
        """Refuse a picture for which Linux would silently kill the process.

        Raises:
            StyleError: it names the size that would fit.
        """
        pixels, pixel_bytes = count * height * width, self._pixel_bytes
        if self.device != "cpu" or pixels <= self._largest:
            return
        held, free = pixel_bytes * self._largest, free_bytes()
        if pixel_bytes * pixels - held > free:
            side = int(max(height, width) * math.sqrt((0.9 * free + held) / (pixel_bytes * pixels)))
            raise StyleError(
                f"painting {width}x{height} px needs about {pixel_bytes * pixels / 2**30:.1f} GB, {free / 2**30:.1f} GB are "
                + (f"free; --max-side {side} would fit" if side >= 64 else "free, too little for any picture")
            )
        self._largest = max(self._largest, pixels)

    @contextlib.contextmanager
    def _room(self, pixels: int) -> Iterator[None]:
        """Wait until this many more pixels may be in the network."""
        with self._pixels_change:
            self._pixels_change.wait_for(lambda: self._pixels == 0 or self._pixels + pixels <= MAX_PIXELS)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._pixels_change:
                self._pixels -= pixels
                self._pixels_change.notify_all()


def _give_memory_back() -> None:
    """Make the C library release memory that it keeps after tiles: 350 MB of 900 after 10 megapixels."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # it is not glibc
            ctypes.CDLL(None).malloc_trim(0)


def first_weights(contract: Contract) -> np.ndarray:
    """Of a file of several styles, the weights to begin with, (S,) float32."""
    return np.array(list(contract.mix.values()), np.float32)


def frame_to_image(frame: np.ndarray, scratch: Scratch | None = None) -> np.ndarray:
    """A frame, (H, W, 3) uint8, as an image, (1, 3, H, W) float32 in [0, 1]; stored in `scratch` if that is given."""
    scratch = scratch or Scratch()
    height, width = frame.shape[:2]
    image = scratch.get("image", (1, 3, height, width), np.float32)
    planes = scratch.get("planes", (3, height, width))
    # Channel by channel: at 640x480 0.2 ms; cv2.dnn.blobFromImage takes 0.5 to 4 ms, transposing first 1.6 ms.
    cv2.split(frame, list(planes))
    for plane, target in zip(planes, image[0], strict=True):
        np.multiply(plane, np.float32(1 / 255), out=target)
    return image


def image_to_frame(image: np.ndarray, frame: np.ndarray | None = None, scratch: Scratch | None = None) -> np.ndarray:
    """An image, (1, 3, H, W) float32 in [0, 1], as a frame, (H, W, 3) uint8; written into `frame` if that is given."""
    planes = (scratch or Scratch()).get("planes", (3, *image.shape[2:]))
    for plane, source in zip(planes, image[0], strict=True):
        cv2.convertScaleAbs(source, plane, 255.0)
    return np.asarray(cv2.merge(list(planes), frame))


def pad_image(image: np.ndarray, stride_px: int, least_px: int) -> np.ndarray:
    """Extend an (N, 3, H, W) image by mirroring it at its right and lower borders, up to the next size a network takes."""
    wanted = [-(-max(side, least_px) // stride_px) * stride_px for side in image.shape[2:]]
    pads = [side - have for side, have in zip(wanted, image.shape[2:], strict=True)]
    if not any(pads):
        return image
    # numpy mirrors as often as needed if the padding is longer than the side; a single pixel is repeated.
    return np.pad(image, ((0, 0), (0, 0), (0, pads[0]), (0, pads[1])), mode="reflect")


def probe_cuda() -> tuple[int, str]:
    """The number of GPUs, and why ONNX Runtime cannot use them, in one line; empty if the driver sees no obstacle.

    The driver is asked because ONNX Runtime would print red lines and fall back to the CPU.
    """
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return 0, "this onnxruntime is built without CUDA; pip install onnxruntime-gpu"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0, "there is no NVIDIA driver"
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or driver.cuDriverGetVersion(ctypes.byref(version))
    if error or not count.value:
        return 0, f"the NVIDIA driver has no GPU to offer (error {error})"
    if version.value < CUDA_VERSION:
        found, wanted = (f"CUDA {number // 1000}.{number % 1000 // 10}" for number in (version.value, CUDA_VERSION))
        return count.value, f"the NVIDIA driver is for {found}, and {wanted} is wanted; install driver 580 or newer"
    return count.value, ""


def _open_on_cuda(data: bytes, options: onnxruntime.SessionOptions, contract: Contract) -> onnxruntime.InferenceSession:
    """A session that has painted on CUDA.

    Raises:
        StyleError: there is none; the message is the reason, in one line.
    """
    _, trouble = probe_cuda()
    if trouble:
        raise StyleError(trouble)
    reason = _preload_cuda() or "ONNX Runtime cannot load its CUDA provider"
    # The default, EXHAUSTIVE, tries every algorithm of each convolution again for each new size of picture.
    cuda = ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"})
    try:
        if session := _open_tried(data, options, contract, cuda):
            return session
    except Exception as error:
        reason = _reason(error)
    raise StyleError(f"{reason} (CUDA's libraries: {install_line('gpu')})")


def _open_on_provider(
    data: bytes, options: onnxruntime.SessionOptions, contract: Contract, device: str
) -> onnxruntime.InferenceSession:
    """A session that has painted on one of `PROVIDERS`.

    Raises:
        StyleError: why there is none, in one line.
    """
    provider, name, wanted = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise StyleError(f"{name} was asked for, and this onnxruntime is built without it; {wanted}")
    reason = "ONNX Runtime cannot load it"
    try:
        if session := _open_tried(data, options, contract, (provider, {})):
            return session
    except Exception as error:
        reason = _reason(error)
    raise StyleError(f"{name} was asked for and does not work here: {reason}")


def _open_tried(
    data: bytes, options: onnxruntime.SessionOptions, contract: Contract, provider: tuple[str, dict]
) -> onnxruntime.InferenceSession | None:
    """A session that has painted a picture, as some providers fail at that only; None where it is not the provider's."""
    side = -(-max(32, contract.least_px) // contract.stride_px) * contract.stride_px
    tensors = contract.tensors
    shape = [dim if isinstance(dim, int) else 1 if dim == "batch" else side for dim in tensors.dims]
    session = _open(data, options, provider, "CPUExecutionProvider")
    if session.get_providers()[0] != provider[0]:
        return None
    weights = {WEIGHTS: first_weights(contract)} if contract.mix else {}
    session.run(
        None, {tensors.input: np.zeros(shape, tensors.type), **weights}
    )  # without cuDNN all is well until the first convolution
    return session


@functools.cache
def _preload_cuda() -> str:
    """Load CUDA's libraries from where pip puts them; returns the first line that ONNX Runtime prints about it.

    Its print would go to standard output, among our results. Done once per process, as it catches other threads' prints, too.
    """
    printed = io.StringIO()
    # The libraries may be available without it, hence no error.
    with _preloading, contextlib.redirect_stdout(printed), contextlib.suppress(Exception):
        onnxruntime.preload_dlls()
    return printed.getvalue().partition("\n")[0]


def _open(data: bytes, options: onnxruntime.SessionOptions, *providers: str | tuple[str, dict]) -> onnxruntime.InferenceSession:
    """A session that raises, now or in a run, where ONNX Runtime would print to standard output and use the CPU instead."""
    return onnxruntime.InferenceSession(data, options, providers=list(providers), enable_fallback=0)


def _reason(error: Exception) -> str:
    """The first line of an ONNX Runtime error; for one of CUDA's libraries, without function, host and source file."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # As in "... CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0 ; hostname=... ; file=... ; line=182 ; expr=...".
    failure = re.search(r"CU\w+ failure [^;]*", line)
    return failure[0].strip() if failure else line
