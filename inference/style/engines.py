"""What runs a style on the CPU: ONNX Runtime, or OpenVINO if that is installed, faster here, and accurate enough.

Which is faster depends on the processor: OpenVINO has bfloat16, which processors with AVX512-BF16 or AMX multiply several times
as fast. So a trial decides: on each machine once for every kind of network how long it takes, and once for every style how
accurate it is. What it measured is kept in the cache folder.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import queue
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import onnxruntime

from allaprima.inference.atomic import write_atomically
from allaprima.inference.options import ENGINES
from allaprima.inference.pictures import read_picture
from allaprima.models.contract import IMAGE
from allaprima.models.errors import StyleError, install_line

REFERENCE_PHOTOS = Path(__file__).parents[1] / "reference_photos"
PRECISIONS = {"bf16": "bf16", "fp32": "f32"}  # OpenVINO's names; the faster one first
# Of 255, mean and largest difference from ONNX Runtime's picture in float32: too small to be seen.
MEAN_LEVELS, MOST_LEVELS = 0.5, 6.0
WORTH = 0.9  # OpenVINO must take at most this share of ONNX Runtime's time
TRIAL_PX = 512  # side, for networks that take less than `FAST_S` at half of it; for others, half of it
FAST_S = 0.1
TRIAL_S = 1.0
FEATURES = "features_in_float32"
POLL_MS = 50  # between two checks whether a run should end

logger = logging.getLogger("allaprima")


class Session(Protocol):
    """The part of ONNX Runtime's session interface that is used here."""

    def run(
        self, wanted: Sequence[str], given: Mapping[str, np.ndarray], options: onnxruntime.RunOptions | None = None
    ) -> list[np.ndarray]: ...

    def get_providers(self) -> list[str]: ...


@dataclass(frozen=True)
class Choice:
    """What a trial found.

    Attributes:
        engine: "onnxruntime" or "openvino". precision: OpenVINO's, a key of `PRECISIONS`.
        why: in a few words.
    """

    engine: str
    precision: str = "fp32"
    why: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"OpenVINO {self.precision}" if self.engine == "openvino" else "ONNX Runtime"

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


class _Untried(Exception):
    """A trial would be needed."""


class OpenVinoSession:
    """A style's file in OpenVINO, for pictures of any size; several threads may share it.

    In bfloat16, everything up to the first ReLU stays in float32. There a norm amplifies a flat picture's small differences,
    and with them the rounding errors: on smoothed noise The Starry Night differed by 0.2 levels of 255 on average and 2.7 at
    most, instead of 0.6 and 10.5, in the same time (2026-12-01).

    Args:
        data: bytes of an .onnx file that is safe to run. precision: a key of `PRECISIONS`.
        shared: other threads need the cores, too.
    """

    def __init__(self, data: bytes, precision: str, shared: bool = False) -> None:
        core = _core()

        def compiled(model: Any, precision: str) -> Any:
            config: dict[str, Any] = {
                "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
                "ENABLE_CPU_PINNING": not shared,
            }
            return core.compile_model(model, "CPU", config)

        if precision == "bf16":
            first, rest = _halves(data)
            self._models = [compiled(first, "fp32"), compiled(rest, precision)]
        else:
            self._models = [compiled(core.read_model(data), precision)]
        self._idle: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    def run(
        self, wanted: Sequence[str], given: Mapping[str, np.ndarray], options: onnxruntime.RunOptions | None = None
    ) -> list[np.ndarray]:
        """The wanted outputs, as from ONNX Runtime's session; `options.terminate` ends the run with a RuntimeError."""
        try:
            requests = self._idle.get_nowait()
        except queue.Empty:
            requests = [model.create_infer_request() for model in self._models]
        try:
            known = dict(given)
            for request, model in zip(requests, self._models, strict=True):
                names = {name for each in model.inputs for name in each.get_names()}
                request.start_async({name: known[name] for name in names & known.keys()}, share_inputs=True)
                while not request.wait_for(POLL_MS):
                    if options and options.terminate:
                        request.cancel()
                if request is not requests[-1]:
                    known[FEATURES] = request.get_output_tensor(0).data
            return [np.array(requests[-1].get_tensor(name).data) for name in wanted]
        finally:
            self._idle.put(requests)

    def get_providers(self) -> list[str]:
        return ["OpenVINO"]


def _halves(data: bytes) -> tuple[Any, Any]:
    """A model up to its first ReLU, and the rest, which also takes the first part's output, as `FEATURES`."""
    import openvino
    from openvino import opset13

    def opened() -> tuple[Any, Any]:
        model = _core().read_model(data)
        return model, next(node for node in model.get_ordered_ops() if node.get_type_name() == "Relu")

    model, cut = opened()
    before, open_ends = {cut.get_friendly_name()}, [cut]
    while open_ends:
        sources = [each.get_node() for each in open_ends.pop().input_values()]
        open_ends += [node for node in sources if node.get_friendly_name() not in before]
        before |= {node.get_friendly_name() for node in sources}
    parameters = [each for each in model.get_parameters() if each.get_friendly_name() in before]
    first = openvino.Model([cut.output(0)], parameters)
    model, cut = opened()
    features = opset13.parameter(cut.output(0).get_partial_shape(), cut.output(0).get_element_type(), name=FEATURES)
    features.output(0).set_names({FEATURES})
    cut.output(0).replace(features.output(0))
    return first, openvino.Model(model.get_results(), [*model.get_parameters(), features])


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def _core() -> Any:
    # OpenVINO's import would send an event, and write an ID of this machine into the home folder.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    core = openvino.Core()
    with contextlib.suppress(Exception):  # a property that later versions may not have
        # It keeps what it prepares for each new size: after 300 sizes 360 MB in all; without this setting 458, and growing.
        core.set_property("CPU", {"CPU_RUNTIME_CACHE_CAPACITY": "128"})
    return core


def precisions() -> list[str]:
    """Keys of `PRECISIONS` that OpenVINO has on this processor, the faster one first."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [precision for precision in PRECISIONS if precision == "fp32" or "BF16" in capabilities]


def engine_trouble() -> str:
    """Why OpenVINO cannot be used, in one line; empty if it can."""
    if not is_installed():
        return f"OpenVINO is not installed; {install_line('openvino')}"
    try:
        _core()
    except Exception as error:  # a library it needs is missing, ...
        return f"OpenVINO does not load: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    return ""


def choose(data: bytes, opened: Callable[[], Session], engine: str) -> Choice:
    """What will run a style on this machine's CPU.

    Args:
        data: an image file's bytes. opened: opens it in ONNX Runtime; called only if a trial is needed.
        engine: one of `ENGINES`; "auto" takes the one in $ALLAPRIMA_ENGINE, else the faster one of a trial.
    Raises:
        StyleError: "openvino" is asked for and cannot be used, or there is no such engine.
    """
    engine = os.environ.get("ALLAPRIMA_ENGINE", engine) if engine == "auto" else engine
    if engine not in ENGINES:
        raise StyleError(f"there is no engine {engine!r}; one of {', '.join(ENGINES)} is wanted")
    if engine == "onnxruntime" or (engine == "auto" and not is_installed()):
        return Choice("onnxruntime")
    if trouble := engine_trouble():
        if engine == "openvino":
            raise StyleError(trouble)
        return Choice("onnxruntime", why=trouble)
    found = _trial(data, opened)
    if engine == "openvino" and found.engine != "openvino":
        return Choice("openvino", "fp32", f"asked for; {found.why}")
    return found


def choice_so_far(data: bytes) -> Choice | None:
    """What `choose` takes by itself; None if that needs a trial, which is not made here."""

    def untried() -> Session:
        raise _Untried

    try:
        return choose(data, untried, "auto")
    except _Untried:
        return None


def _trial(data: bytes, opened: Callable[[], Session]) -> Choice:
    """Take OpenVINO in the fastest precision that is accurate enough for this style, if that beats ONNX Runtime."""
    style, form, reasons = hashlib.sha256(data).hexdigest()[:16], _form(data), []
    for precision in precisions():
        session = functools.cache(functools.partial(OpenVinoSession, data, precision))
        theirs_ms, own_ms, side = _once(f"{form} {precision}, ms", _times_ms, opened, session)
        took = f"OpenVINO's {precision} takes {own_ms:.0f} ms at {side:.0f}x{side:.0f}, ONNX Runtime {theirs_ms:.0f}"
        if not own_ms < WORTH * theirs_ms:
            reasons.append(took)
            continue
        mean, most = _once(f"{style} {precision}, levels off", _levels_off, opened, session)
        if mean <= MEAN_LEVELS and most <= MOST_LEVELS:
            return Choice("openvino", precision, "; ".join([*reasons, took]))
        reasons.append(f"OpenVINO's {precision} is up to {most:.1f} levels of 255 off")
    return Choice("onnxruntime", why="; ".join(reasons))


def _levels_off(exact: Session, session: Session) -> tuple[float, float]:
    """How far a session's pictures are from ONNX Runtime's: levels of 255 on average in the worst one, and at most."""
    differences = [255.0 * np.abs(_painted(session, image) - _painted(exact, image)) for image in _pictures(_trial_px(exact))]
    return max(float(each.mean()) for each in differences), max(float(each.max()) for each in differences)


def _times_ms(exact: Session, session: Session) -> tuple[float, float, float]:
    """ONNX Runtime's milliseconds for a square picture, the other session's, and the picture's side.

    The shortest of some turns each, as other programs may interfere.
    """
    image = _pictures(_trial_px(exact))[0]
    for each in (exact, session):
        _painted(each, image)
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + TRIAL_S
    while len(times[0]) < 3 or (time.perf_counter() < until and len(times[0]) < 15):
        for each, of in zip((exact, session), times, strict=True):
            began = time.perf_counter()
            _painted(each, image)
            of.append(1000.0 * (time.perf_counter() - began))
    return min(times[0]), min(times[1]), float(image.shape[3])


def _trial_px(exact: Session) -> int:
    image = _pictures(TRIAL_PX // 2)[0]
    _painted(exact, image)
    began = time.perf_counter()
    _painted(exact, image)
    return TRIAL_PX if time.perf_counter() - began < FAST_S else TRIAL_PX // 2


def _painted(session: Session, image: np.ndarray) -> np.ndarray:
    return session.run([IMAGE.output], {IMAGE.input: image})[0]


@functools.cache
def _pictures(side_px: int) -> list[np.ndarray]:
    """Smoothed noise, and the middle of each reference photo, as images of at most `side_px` per side."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((side_px, side_px, 3), np.float32), (0, 0), 4.0)
    frames = [np.rint((127.5 + 25.5 * (noise - noise.mean()) / noise.std()).clip(0, 255))]
    for path in sorted(REFERENCE_PHOTOS.glob("*.jpg")):
        frame = read_picture(path).frame
        top, left = (max(0, (side - side_px) // 2) for side in frame.shape[:2])
        frame = frame[top : top + side_px, left : left + side_px]
        frames.append(frame[: frame.shape[0] // 16 * 16, : frame.shape[1] // 16 * 16])
    return [np.ascontiguousarray(frame.transpose(2, 0, 1)[None].astype(np.float32) / 255) for frame in frames]


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "allaprima", "engines.json")


def _form(data: bytes) -> str:
    """The same for networks that differ only in their weights, and therefore take the same time."""
    import onnx

    graph = onnx.load_from_string(data).graph
    form = [*(node.op_type for node in graph.node), *(tuple(weight.dims) for weight in graph.initializer)]
    return hashlib.sha256(repr(form).encode()).hexdigest()[:16]


@functools.cache
def _machine() -> str:
    """This machine with these versions; another one needs a trial of its own."""
    openvino = importlib.metadata.version("openvino")
    name = _core().get_property("CPU", "FULL_DEVICE_NAME")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, openvino {openvino}, onnxruntime {onnxruntime.__version__}"


@functools.cache
def _say_once() -> None:
    logger.info("trying which engine paints faster on this processor (once for each style)")


def _once(
    what: str,
    measure: Callable[[Session, Session], tuple[float, ...]],
    opened: Callable[[], Session],
    session: Callable[[], Session],
) -> tuple[float, ...]:
    """What was measured earlier on this machine, or else now; if the cache folder cannot be written, every start measures."""
    key = f"{what}; {_machine()}"
    try:
        kept = dict(json.loads(_cache_file().read_bytes()))
    except (OSError, ValueError, TypeError, RuntimeError):
        kept = {}
    if key in kept:
        return tuple(float(number) for number in kept[key])
    exact = opened()
    _say_once()
    found = measure(exact, session())
    with contextlib.suppress(OSError, RuntimeError):
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_cache_file(), json.dumps(kept | {key: found}, indent=1).encode())
    return found
