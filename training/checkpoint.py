"""Weights and training state on disk: safetensors with a readable JSON beside it, never half-written."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from allaprima.inference.atomic import write_atomically
from allaprima.models.errors import StyleError, TrainingError
from allaprima.models.image_transform_net import NETS, ImageTransformNet, JohnsonNet
from allaprima.training.config import PRECISIONS

KEPT = 3  # newest checkpoints kept in a run folder; a quality-tier one is 27 MB
BEST = "best.safetensors"  # averaged weights that painted the preview photos with the lowest loss

# Limits on what a file may claim, checked before it is used.
MAX_BYTES = 128 * 2**20
MAX_HEADER_BYTES = 2**20
MAX_TENSORS = 1000

ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingState:
    """A point in a training: `step` updates done, and every tensor that the next one depends on."""

    step: int
    tensors: dict[str, Tensor]


def checkpoint_path(run_folder: Path, step: int) -> Path:
    return run_folder / f"step_{step:06d}.safetensors"


def save_checkpoint(run_folder: Path, state: TrainingState, card: Mapping[str, Any]) -> Path:
    """Write step_000500.safetensors, then step_000500.json, and drop all but the newest `KEPT`.

    Raises:
        TrainingError: the folder cannot be written to or the disk is full; older checkpoints stay as they are.
    """
    path = checkpoint_path(run_folder, state.step)
    try:
        save_weights(path, state.tensors, card)
    except TrainingError:
        if not path.with_suffix(".json").exists():  # half a pair, on a disk that is short of space
            with suppress(OSError):
                path.unlink()
        raise
    for old in _complete_steps(run_folder)[:-KEPT]:
        with suppress(OSError):
            # The JSON first: without it the pair no longer counts as a checkpoint.
            checkpoint_path(run_folder, old).with_suffix(".json").unlink()
            checkpoint_path(run_folder, old).unlink()
    return path


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Write tensors, with their card in the header and, for people, in a .json beside the file.

    Args:
        dtype: float32, or float16 for half the size.
    """
    text = json.dumps(card, indent=2)
    cpu = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(path, safetensors.torch.save(cpu, metadata={"card": text}))
        write_atomically(path.with_suffix(".json"), text.encode() + b"\n")
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror or error}") from error


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Float32 tensors and card of a file that `save_weights` wrote; larger or otherwise odd files are refused.

    Raises:
        StyleError: no such file, or not one of ours. TrainingError: it cannot be read now.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size / 2**20:.0f} MB, at most {MAX_BYTES / 2**20:.0f} are wanted")
        data = path.read_bytes()
        card = _read_card(data)
        return {name: tensor.float() for name, tensor in safetensors.torch.load(data).items()}, card
    except (FileNotFoundError, IsADirectoryError) as error:
        raise StyleError(f"no weights at {path}; a run folder or a .safetensors file of ours is wanted") from error
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # safetensors' own, KeyError, JSON's, RecursionError
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StyleError(f"{path} is not a weights file of ours ({why[:200]})") from error


def _read_card(data: bytes) -> dict[str, Any]:
    """The card in a safetensors header, after checking everything that the header claims."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("its header is damaged")
    header = json.loads(data[8 : 8 + length])
    card = json.loads(header.pop("__metadata__", {})["card"])
    if not isinstance(card, dict):
        raise TypeError("its card is not an object")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it holds {len(header)} tensors, at most {MAX_TENSORS} are wanted")
    odd = [name for name, tensor in header.items() if tensor["dtype"] not in ("F32", "F16")]
    if odd:
        raise ValueError(f"{odd[0][:80]!r} is {header[odd[0]]['dtype']}, F32 or F16 is wanted")
    return card


def find_weights(run_or_checkpoint: Path) -> Path:
    """A run folder's weights.safetensors, else its newest checkpoint; a file is returned as it is.

    Raises:
        TrainingError: the run folder has neither.
    """
    if not run_or_checkpoint.is_dir():
        return run_or_checkpoint
    final = run_or_checkpoint / "weights.safetensors"
    return final if final.is_file() else latest_checkpoint(run_or_checkpoint)


def latest_checkpoint(run_folder: Path) -> Path:
    """The newest complete checkpoint of a run folder.

    Raises:
        TrainingError: there is none.
    """
    steps = _complete_steps(run_folder)
    if not steps:
        raise TrainingError(f"{run_folder} holds no checkpoint (step_000500.safetensors and .json)")
    return checkpoint_path(run_folder, steps[-1])


def load_state(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """What `save_checkpoint` wrote.

    Raises:
        StyleError: not one of ours.
    """
    tensors, card = load_weights(path)
    try:
        seconds, losses, precision = float(card["seconds"]), dict(card["losses"]), card["options"]["precision"]
        sane = type(card["step"]) is int and card["step"] >= 0 and seconds >= 0 and precision in PRECISIONS
        numbers = [*losses.values(), card.get("best", 0.0), card.get("lr_scale", 1.0)]
        sane = sane and all(isinstance(number, float) and math.isfinite(number) for number in numbers)
        sane = sane and 0 < numbers[-1] <= 1 and type(card.get("rollbacks", 0)) is int
        if not sane:
            raise ValueError("its card is not a checkpoint's")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise StyleError(f"{path} is not a checkpoint of ours ({error})") from error
    return TrainingState(card["step"], tensors), card


def load_newest_state(
    run_folder: Path, warn: Callable[[str], None], at_most: float = math.inf
) -> tuple[TrainingState, dict[str, Any]] | None:
    """The newest readable checkpoint, or None in a folder without any; `warn` is told of damaged ones.

    Args:
        at_most: checkpoints of later steps are ignored.
    Raises:
        StyleError: there are checkpoints, and all of them are damaged. TrainingError: one cannot be read now; going on
            from an older one would throw it away.
    """
    failed: StyleError | None = None
    for step in reversed([step for step in _complete_steps(run_folder) if step <= at_most]):
        try:
            return load_state(checkpoint_path(run_folder, step))
        except StyleError as error:
            warn(str(error))
            failed = error
    if failed:
        raise failed
    return None


def drop_states_after(run_folder: Path, step: int) -> None:
    """Delete checkpoints later than the step that a training goes back to, and half pairs that a kill left."""
    for path in [*run_folder.glob("step_*.safetensors"), *run_folder.glob("step_*.json")]:
        digits = path.stem.removeprefix("step_")
        twin = path.with_suffix(".json" if path.suffix == ".safetensors" else ".safetensors")
        if digits.isdecimal() and (int(digits) > step or not twin.is_file()):
            path.unlink(missing_ok=True)


def load_net(path: Path) -> tuple[ImageTransformNet, dict[str, Any]]:
    """The (averaged) network in a weights file or checkpoint, ready to run, and its card.

    Raises:
        StyleError: not one of ours, or its tensors do not fit its tier.
    """
    tensors, card = load_weights(path)
    if not isinstance(card.get("tier"), str) or card["tier"] not in NETS:
        raise StyleError(f"{path} is of tier {card.get('tier')!r}; one of {', '.join(NETS)} is wanted")
    net = NETS[card["tier"]]()
    if any(name.startswith("ema.") for name in tensors):
        tensors = unprefixed(tensors, "ema.")
    odd = misfit(tensors, net.state_dict())
    if odd:
        raise StyleError(f"{path} does not fit the {card['tier']} network: {odd}")
    net.load_state_dict(tensors)
    options = card.get("options")
    if not isinstance(net, JohnsonNet) and isinstance(options, dict) and options.get("upsampling") == "bilinear":
        net.upsampling = "bilinear"
    return net.eval(), card


def misfit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """How tensors differ from the wanted ones in names or shapes; None if they do not."""
    for name, tensor in wanted.items():
        if name not in tensors:
            return f"no {name}"
        if tensors[name].shape != tensor.shape:
            return f"{name} is {tuple(tensors[name].shape)}; {tuple(tensor.shape)} is wanted"
    extra = sorted(tensors.keys() - wanted.keys())
    return f"{extra[0][:80]} is not of it" if extra else None


def unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def pack_state(
    step: int, net: torch.nn.Module, averaged_net: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> TrainingState:
    """Everything a training needs to go on, as tensors in three namespaces: net, ema, adam."""
    tensors = {f"net.{name}": p for name, p in net.state_dict().items()}
    tensors |= {f"ema.{name}": p for name, p in averaged_net.state_dict().items()}
    for name, p in _learned(net):
        moments = optimizer.state.get(p) or {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        for key in ADAM_KEYS:
            tensors[f"adam.{key}.{name}"] = moments[key]
    return TrainingState(step, tensors)


def _learned(net: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in net.named_parameters() if p.requires_grad]


@torch.no_grad()
def unpack_state_(
    state: TrainingState,
    net: torch.nn.Module,
    averaged_net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load what `pack_state` packed into the network, its average and its optimizer.

    Raises:
        StyleError: the tensors do not fit.
    """
    tensors = {name: tensor for name, tensor in state.tensors.items() if name != "style_weight"}  # 0.1.0's
    odd = misfit(tensors, pack_state(0, net, averaged_net, optimizer).tensors)
    if odd:
        raise StyleError(f"the checkpoint of step {state.step} does not fit this network: {odd}")
    net.load_state_dict(unprefixed(tensors, "net."))
    averaged_net.load_state_dict(unprefixed(tensors, "ema."))
    for name, p in _learned(net):
        state_of_p = optimizer.state[p]
        for key in ADAM_KEYS:
            moment = tensors[f"adam.{key}.{name}"]
            if key not in state_of_p:  # fused Adam counts steps on the parameter's device; moments share its memory format
                state_of_p[key] = torch.zeros((), device=p.device) if key == "step" else torch.empty_like(p)
            state_of_p[key].copy_(moment)  # in place: a CUDA graph knows its address


def _complete_steps(run_folder: Path) -> list[int]:
    steps = []
    for json_file in run_folder.glob("step_*.json"):
        digits = json_file.stem.removeprefix("step_")
        if digits.isdecimal() and json_file.with_suffix(".safetensors").is_file():
            steps.append(int(digits))
    return sorted(steps)
