"""Launches the step of one or several styles: compiled, and as one CUDA graph, if a trial shows that it works and pays."""

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from allaprima.models.errors import TrainingError
from allaprima.training.checkpoint import TrainingState
from allaprima.training.config import TrainConfig
from allaprima.training.places import Places
from allaprima.training.ranks import Ranks
from allaprima.training.update import (
    Functions,
    Update,
    content_features_of,
    shake_of,
    step_losses,
    without,
)

COMPILE_GAIN = 0.97  # a compiled step must take at most this share of the plain one's time
GRAPH_TOLERANCE = 0.02  # relative, of a CUDA graph's losses: bf16 sums in another order differ by less


class TrainingStep:
    """One step of all the styles that are trained together: VGG-19 looks at the photos once for all of them.

    Args:
        updates: one per style; their networks and VGG-19 are on one device.
    """

    def __init__(self, updates: Sequence["Update"], functions: Functions) -> None:
        self.updates, self.functions = updates, functions
        first = updates[0]
        is_steady = any(update.config.steady for update in updates)
        device = first.newest_losses.device
        self.shake = shake_of(first.config, first.ranks, device) if is_steady else None
        self.places = Places(first.config.size_px, first.config.seed, device)
        self._run: Callable[[Tensor], None] = self._launch_all

    def __call__(self, step: int, content_image: Tensor) -> None:
        """Update the weights of every style with the photos of a step.

        Args:
            content_image: (N, 3, S, S) in [0, 1], channels-last; crops with their margins.
        """
        self._prepare(step)
        self._run(content_image)

    def _prepare(self, step: int) -> None:
        if self.shake:
            self.shake.prepare(step)
        self.places.prepare(step)
        for update in self.updates:
            update.prepare(step)

    def _launch_all(self, content_image: Tensor) -> None:
        first = self.updates[0]
        content_features = self.functions.content_features(first.target.vgg, without(first.config.margin_px, content_image))
        for update in self.updates:
            update(content_image, content_features, self.functions, self.places, self.shake)

    def capture_(self, content_image: Tensor) -> str:
        """Replay the step as one CUDA graph from now on: a small batch's step mostly waits for its thousand launches.

        The graph must first prove that it gives the plain step's losses; the weights are restored afterwards.

        Args:
            content_image: photos of the training's shape, for the trial.
        Returns:
            why there is no graph and the step stays as it was; empty if there is one.
        """
        starts = [copy.deepcopy(update.pack(0)) for update in self.updates]
        self._prepare(0)
        try:
            replay = captured(self._launch_all, content_image)
            ends = []
            for run in (self._launch_all, replay):
                self._restore_(starts)
                run(content_image)
                ends.append([(update.peek().losses, copy.deepcopy(update.pack(0))) for update in self.updates])
            for start, plain, graph in zip(starts, *ends, strict=True):
                why_not = difference(start, plain, graph)
                if why_not:
                    return why_not
            self._run = replay
            torch.cuda.empty_cache()  # frees the plain step's activations; the graph has its own memory
            return ""
        except Exception as error:  # any objection of a driver, a library or an operator
            return first_line(error)
        finally:
            self._restore_(starts)

    def _restore_(self, states: Sequence[TrainingState]) -> None:
        for update, state in zip(self.updates, states, strict=True):
            update.unpack_(state)


def difference(
    start: TrainingState, plain: tuple[dict[str, float], TrainingState], graph: tuple[dict[str, float], TrainingState]
) -> str:
    """How a replayed step differs from the plain one; empty if it does what it should.

    Args:
        start: the state before the step.
        plain, graph: losses of the step, and the state after it.
    """
    if not plain[0]:
        return "the plain step's losses are not finite on noise"
    for name, loss in plain[0].items():
        if not math.isclose(loss, graph[0].get(name, math.nan), rel_tol=GRAPH_TOLERANCE, abs_tol=1e-6):
            return f"its {name} loss is {graph[0].get(name)}, the plain step's {loss}"
    for prefix in ("net.", "ema."):
        names = [name for name in start.tensors if name.startswith(prefix)]
        way, off = (
            sum((end.tensors[name].float() - other.tensors[name].float()).square().sum().item() for name in names)
            for end, other in ((plain[1], start), (graph[1], plain[1]))
        )
        # The gradient of a bias before a norm is mere rounding error, yet its sign alone decides Adam's first step.
        if not off <= 0.1 * way:
            return f"it does not move the weights ({prefix[:-1]}) as the plain step does"
    return ""


def pick_functions(config: TrainConfig, update: Update, ranks: Ranks) -> Functions:
    """The plain functions, or compiled ones if that was asked for or a trial shows that they are faster.

    All processes choose the same.

    Raises:
        TrainingError: compiled ones were asked for and do not work.
    """
    plain = Functions(content_features_of, step_losses)
    net, target = update.parallel_net, update.target_of_each
    device = next(net.parameters()).device
    if config.compile == "off" or (config.compile == "auto" and device.type != "cuda"):
        return plain
    # Compiled code is kept for the next training; torch's own cache folder is emptied at every reboot.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "allaprima", "compiled")
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    compiled = Functions(
        torch.compile(content_features_of, dynamic=False), torch.compile(step_losses, dynamic=False), compiled="on"
    )
    image = trial_image(config, ranks, device)
    shaken = shake_of(config, ranks, device)(image) if config.steady else None
    places = Places(config.size_px, config.seed, device)

    def seconds_of(functions: Functions) -> float:
        times = []
        for _ in range(8):
            began = time.perf_counter()
            features = functions.content_features(target.vgg, without(config.margin_px, image))
            total = functions.step_losses(net, target, image, features, config, shaken, places)["total"]
            total.backward()  # type: ignore[no-untyped-call]
            total.item()  # waits for the device
            times.append(time.perf_counter() - began)
        return min(times[2:])

    why_not = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to round more coarsely, and its compiler's own warnings
            share = seconds_of(compiled) / seconds_of(plain)
        if share >= COMPILE_GAIN and config.compile == "auto":
            why_not = f"it takes {share:.0%} of the plain step's time"
    except Exception as error:  # no C compiler, no Triton, an operator it does not support
        why_not = first_line(error)
    net.zero_grad(set_to_none=True)
    why_not = next((why for why in ranks.gather(why_not) if why), "")
    if why_not and config.compile == "on":
        raise TrainingError(f"torch.compile does not work here ({why_not}); leave out --compile on")
    return Functions(content_features_of, step_losses, why_not=why_not) if why_not else compiled


def trial_image(config: TrainConfig, ranks: Ranks, device: torch.device) -> Tensor:
    """Noise in the shape of this process's share of a step's photos."""
    shape = (config.batch_size // ranks.world, 3, config.painted_px, config.painted_px)
    return torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)


def captured(run: Callable[[Tensor], None], content_image: Tensor) -> Callable[[Tensor], None]:
    """The same work as one CUDA graph (torch.cuda.CUDAGraph), launched at once.

    Three warm-up runs come first, as torch asks for: in them kernels are picked and the optimizer creates its state.
    Other threads may use the GPU meanwhile.
    """
    static = content_image.clone(memory_format=torch.preserve_format)
    graph = torch.cuda.CUDAGraph()
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(beside):  # around the capture, too: if that fails, it does not restore the stream
            for _ in range(3):
                run(static)
            with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
                run(static)
    except Exception as error:
        if isinstance(error.__context__, Exception):  # report what broke the capture, not that it broke
            raise error.__context__ from None
        raise
    finally:
        torch.cuda.synchronize()

    def replay(image: Tensor) -> None:
        static.copy_(image)
        graph.replay()

    return replay


def first_line(error: Exception) -> str:
    """The message of a library's error, short enough for one of ours."""
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
