"""Turns style files of pytorch/examples' fast_neural_style (state dicts of its `TransformerNet`) into weights of ours.

A torch.save file is a pickle next to raw numbers. `torch.load` with weights_only runs no code in it, but may still take
forever or use all memory, so the pickle's size and depth are checked first.
"""

import io
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allaprima.inference.landscape import paint_landscape
from allaprima.models.errors import StyleError
from allaprima.models.image_transform_net import JohnsonNet
from allaprima.training.checkpoint import save_weights

MAX_BYTES = 64 * 2**20  # a TransformerNet has 6.7 MB in float32
MAX_PICKLE_BYTES = 2**20
MAX_TENSORS = 1000
MAX_INSTRUCTIONS = 20_000  # of a pickle; a TransformerNet's has 2,800
# Depth of nesting; a state dict has up to 9. A tuple of 330 bytes that doubles itself 64 times is hashed forever, and one
# nested 200,000 deep crashed Python 3.11.
MAX_DEPTH = 20
LEGACY_PICKLES = 5  # of the format before torch 1.6

WRAPPERS = ("state_dict", "model_state_dict", "model")
UNUSED = (".running_mean", ".running_var", ".num_batches_tracked")  # instance norm kept statistics before torch 0.4
# Replacing these one after the other in our parameters' names gives those of pytorch/examples.
THEIR_NAMES = {f"blocks.{i}.": f"res{i + 1}." for i in range(5)} | {
    "conv4.": "deconv1.",
    "conv5.": "deconv2.",
    "conv6.": "deconv3.",
    "norm": "in",
    ".conv.": ".conv2d.",
}
WANTED = "a state dict of pytorch/examples' TransformerNet is wanted"


def import_torch(source: Path, output: Path) -> Path:
    """Write a TransformerNet's weights as a weights file of ours, tier "johnson", which `training.export.export` exports.

    Args:
        source: a state dict in either format of torch.save, at most `MAX_BYTES`; may be wrapped in a dict, come from a
            DataParallel, or contain old running statistics.
        output: the .safetensors file; its card is written next to it.
    Returns:
        output.
    Raises:
        StyleError: not such a file, or the network does not paint; nothing is written then.
        TrainingError: the output cannot be written.
    """
    if output.suffix != ".safetensors":
        raise StyleError(f"{output} is not named .safetensors; give a FILE.safetensors")
    if not source.is_file():
        raise StyleError(f"no file at {source}; {WANTED}")
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise StyleError(f"has more than {MAX_BYTES // 2**20} MB; {WANTED}")
        net = JohnsonNet().eval()
        net.load_state_dict(_weights(net, _load(data)))
        _check_that_it_paints(net)
    except StyleError as error:
        raise StyleError(f"{source} {error}") from error
    except OSError as error:
        raise StyleError(f"{source} cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # of pickle, zipfile or torch
        raise StyleError(f"{source} is damaged or not by torch.save ({type(error).__name__}); {WANTED}") from error
    card = {"title": source.stem, "painter": "", "year": "", "license": "", "tier": "johnson", "step": 0}
    save_weights(output, net.state_dict(), card | {"imported_from": source.name})
    return output


def _load(data: bytes) -> Any:
    """What was saved, if it is harmless."""
    if data.startswith(b"PK"):
        _check_pickle(io.BytesIO(_pickle_of(data)))
    else:
        file = io.BytesIO(data[:MAX_PICKLE_BYTES])
        for _ in range(LEGACY_PICKLES):
            _check_pickle(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickle protocols
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # its message advises loading the file with the code in it
        if named := re.search(r"(?:GLOBAL|class|function) ['`]?([\w.]+)", str(error)):
            raise StyleError(
                f"names {named[1][:80]!r}, which is not loaded; {WANTED}, by torch.save(net.state_dict(), FILE)"
            ) from error
        raise


def _pickle_of(data: bytes) -> bytes:
    """The pickle in the format of torch 1.6 and newer: a zip of NAME/data.pkl and NAME/data/KEY."""
    # These bytes start each entry in the zip's directory; listing 1,300,000 in 61 MB took zipfile 15 s and 0.6 GB.
    if data.count(b"PK\x01\x02") > 2 * MAX_TENSORS:
        raise StyleError(f"has more than {2 * MAX_TENSORS} parts; {WANTED}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        # torch never compresses: a zip that claims to unpack to more than its own size is a bomb.
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > len(data):
            raise StyleError(f"is compressed, which torch.save never does; {WANTED}")
        (pickled,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
        if pickled.file_size > MAX_PICKLE_BYTES:
            raise StyleError(f"has a pickle of more than {MAX_PICKLE_BYTES // 2**20} MB; {WANTED}")
        return archive.read(pickled)


def _check_pickle(file: io.BytesIO) -> None:
    """Track how deeply objects are nested, without creating them; afterwards the file position is behind the pickle."""
    stack: list[int | None] = []  # depths; None is a mark
    memo: dict[int, int] = {}
    for i, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if i > MAX_INSTRUCTIONS:
            raise StyleError(f"has a pickle of more than {MAX_INSTRUCTIONS} instructions; {WANTED}")
        if "GET" in instruction.name:
            stack.append(memo.get(argument or 0, 0))
        elif "PUT" in instruction.name or instruction.name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = (stack[-1] if stack else 0) or 0
        else:
            items = []
            if pickletools.stackslice in instruction.stack_before:
                while stack and (depth := stack.pop()) is not None:
                    items.append(depth)
            single = [each for each in instruction.stack_before if each not in (pickletools.markobject, pickletools.stackslice)]
            items += [stack.pop() or 0 for _ in single[: len(stack)]]
            # A list or dictionary is only one deeper than its deepest item, however often items are added.
            into = items.pop() - 1 if items and single and single[0] in (pickletools.pylist, pickletools.pydict) else 0
            depth = 1 + max([into, *items])
            if depth > MAX_DEPTH:
                raise StyleError(f"has things in things, more than {MAX_DEPTH} deep; {WANTED}")
            stack += [None if each is pickletools.markobject else depth for each in instruction.stack_after]


def _weights(net: JohnsonNet, loaded: Any) -> dict[str, Tensor]:
    """Our network's state dict, from the result of `_load`."""
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise StyleError(f"holds no state dict; {WANTED}")
    if len(loaded) > MAX_TENSORS:
        raise StyleError(f"holds {len(loaded)} tensors; {WANTED}")
    theirs = {name.removeprefix("module."): tensor for name, tensor in loaded.items() if not name.endswith(UNUSED)}
    ours = {name: _their_name(name) for name in net.state_dict()}
    missing = [name for name in ours.values() if name not in theirs]
    if missing:
        raise StyleError(f"has no {missing[0]!r}; {WANTED}")
    odd = [name for name in theirs if name not in ours.values()]
    if odd:
        raise StyleError(f"has {odd[0][:80]!r}, which TransformerNet has not; {WANTED}")
    weights = {}
    for name, their_name in ours.items():
        tensor, wanted = theirs[their_name], net.get_parameter(name).shape
        if not isinstance(tensor, Tensor) or tensor.shape != wanted or not tensor.is_floating_point():
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else "no tensor"
            raise StyleError(f"has {their_name!r} as {shape}, {tuple(wanted)} is wanted; {WANTED}")
        weights[name] = tensor.detach().to(torch.float32, copy=True).contiguous()
        if not weights[name].isfinite().all():
            raise StyleError(
                f"has numbers in {their_name!r} that are not finite; its training failed, take an earlier checkpoint"
            )
    # Theirs takes and returns 0 to 255, ours 0 to 1. This is exact at the borders, too: a mirrored border scales as the rest.
    weights["conv1.conv.weight"] *= 255.0
    weights["conv6.conv.weight"] /= 255.0
    weights["conv6.conv.bias"] /= 255.0
    return weights


def _their_name(name: str) -> str:
    for ours, theirs in THEIR_NAMES.items():
        name = name.replace(ours, theirs)
    return name


@torch.no_grad()
def _check_that_it_paints(net: JohnsonNet) -> None:
    landscape = torch.from_numpy(paint_landscape(96, 128)).permute(2, 0, 1)[None] / 255.0
    painted = net(landscape)
    spread = (painted.amax(dim=(2, 3)) - painted.amin(dim=(2, 3))).max()
    if not painted.isfinite().all() or spread < 1 / 255:
        raise StyleError("paints one flat color or nothing; its training failed, take an earlier checkpoint")
