"""Weights and training state on disk: safetensors with a readable JSON beside it, never half-written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from inference.pictures import write_atomically
from models.errors import StyleError, TrainingError
from models.image_transform_net import TIERS, ImageTransformNet

KEPT = 3  # newest checkpoints left in a run folder; a quality-tier one is 27 MB


@dataclass(frozen=True)
class TrainingState:
    """A point in a training: `step` updates done, and every tensor that the next one depends on."""

    step: int
    tensors: dict[str, Tensor]


def checkpoint_path(run_folder: Path, step: int) -> Path:
    return run_folder / f"step_{step:06d}.safetensors"


def save_checkpoint(run_folder: Path, state: TrainingState, card: Mapping[str, Any]) -> Path:
    """Write step_000500.safetensors, then step_000500.json, and drop the oldest beyond `KEPT`.

    Raises:
        TrainingError: the folder cannot be written to or the disk is full; older checkpoints stay as they are.
    """
    path = checkpoint_path(run_folder, state.step)
    save_weights(path, state.tensors, card)
    for old in _complete_steps(run_folder)[:-KEPT]:
        # The JSON first: without it the pair no longer counts as a checkpoint.
        checkpoint_path(run_folder, old).with_suffix(".json").unlink(missing_ok=True)
        checkpoint_path(run_folder, old).unlink(missing_ok=True)
    return path


def save_weights(path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write tensors, with their card in the header and, readable, in a .json beside them."""
    text = json.dumps(card, indent=2)
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(path, safetensors.torch.save(cpu, metadata={"card": text}))
        write_atomically(path.with_suffix(".json"), text.encode() + b"\n")
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror or error}") from error


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and card of a file that `save_weights` wrote.

    Raises:
        StyleError: no such file, or not one of ours.
    """
    if not path.is_file():
        raise StyleError(f"no weights at {path}; a run folder or a .safetensors file of ours is wanted")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["card"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if not isinstance(card, dict):
            raise TypeError("its card is not an object")
        return tensors, card
    except Exception as error:  # safetensors' own, KeyError, JSON's
        raise StyleError(f"{path} is not a weights file of ours ({error})") from error


def find_weights(run_or_checkpoint: Path) -> Path:
    """A run folder's weights.safetensors, else its newest checkpoint; a file is returned as it is.

    Raises:
        TrainingError: a run folder with neither.
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
    """What `save_checkpoint` wrote."""
    tensors, card = load_weights(path)
    return TrainingState(int(card["step"]), tensors), card


def load_net(path: Path) -> tuple[ImageTransformNet, dict[str, Any]]:
    """The (averaged) network in a weights file or checkpoint, ready to run, and its card.

    Raises:
        StyleError: not one of ours, or its tensors do not fit its tier.
    """
    tensors, card = load_weights(path)
    if card.get("tier") not in TIERS:
        raise StyleError(f"{path} is of tier {card.get('tier')!r}; one of {', '.join(TIERS)} is wanted")
    net = TIERS[card["tier"]]()
    if any(name.startswith("ema.") for name in tensors):
        tensors = unprefixed(tensors, "ema.")
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise StyleError(f"{path} does not fit the {card['tier']} network: {str(error).splitlines()[-1].strip()}") from error
    return net.eval(), card


def unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def pack_state(
    step: int, net: torch.nn.Module, averaged_net: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> TrainingState:
    """Everything a training needs to go on, as tensors with one namespace each: net, ema, adam."""
    tensors = {f"net.{name}": p for name, p in net.state_dict().items()}
    tensors |= {f"ema.{name}": p for name, p in averaged_net.state_dict().items()}
    for name, p in net.named_parameters():
        for key, value in optimizer.state[p].items():
            tensors[f"adam.{key}.{name}"] = value
    return TrainingState(step, tensors)


def unpack_state_(
    state: TrainingState, net: torch.nn.Module, averaged_net: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Load what `pack_state` packed into the network, its average and its optimizer.

    Raises:
        StyleError: the tensors do not fit.
    """
    try:
        net.load_state_dict(unprefixed(state.tensors, "net."))
        averaged_net.load_state_dict(unprefixed(state.tensors, "ema."))
        for name, p in net.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            moments = {key: state.tensors[f"adam.{key}.{name}"] for key in keys}
            # Adam counts its steps on the CPU; the moments live, and are laid out, where the parameter does.
            optimizer.state[p] = {key: m if key == "step" else torch.empty_like(p).copy_(m) for key, m in moments.items()}
    except (RuntimeError, KeyError) as error:
        raise StyleError(f"the checkpoint does not fit this network: {error}") from error


def _complete_steps(run_folder: Path) -> list[int]:
    steps = []
    for json_file in run_folder.glob("step_*.json"):
        digits = json_file.stem.removeprefix("step_")
        if digits.isdecimal() and json_file.with_suffix(".safetensors").is_file():
            steps.append(int(digits))
    return sorted(steps)
