"""Style files of pytorch/examples' fast_neural_style (state dicts of its `TransformerNet`) as weights of ours.

A file of torch.save is a pickle beside raw numbers, and a pickle names functions that are called when it is loaded.
Here every name leads to a stand-in that only takes notes (`_Unpickler`), and the notes are checked before any number is
read. torch.load is never called.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from allaprima.inference.landscape import paint_landscape
from allaprima.models.errors import StyleError
from allaprima.models.image_transform_net import JohnsonNet
from allaprima.training.checkpoint import save_weights

MAX_BYTES = 64 * 2**20  # a TransformerNet has 6.7 MB in float32
MAX_PICKLE_BYTES = 2**20
MAX_TENSORS = 1000
MAX_INSTRUCTIONS = 20_000  # of a pickle; a TransformerNet's has 2,800. For the reason see `_unpickle`

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how a file of torch < 1.6 begins
# Little-endian numpy types. LongStorage only counts batches beside old running statistics.
KINDS = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8"}

WRAPPERS = ("state_dict", "model_state_dict", "model")
UNUSED = (".running_mean", ".running_var", ".num_batches_tracked")  # instance norm kept statistics before torch 0.4
# Replaced one after the other in one of our parameters' names, these give pytorch/examples'.
THEIR_NAMES = {f"blocks.{i}.": f"res{i + 1}." for i in range(5)} | {
    "conv4.": "deconv1.",
    "conv5.": "deconv2.",
    "conv6.": "deconv3.",
    "norm": "in",
    ".conv.": ".conv2d.",
}
# They hash what they are given, or look up code by number.
NEVER_WRITTEN = ("DICT", "FROZENSET", "EMPTY_SET", "ADDITEMS", "EXT1", "EXT2", "EXT4")
WANTED = "a state dict of pytorch/examples' TransformerNet is wanted"


class _Storage(NamedTuple):
    """Numbers beside the pickle: `length` of them, of a kind out of `KINDS`."""

    kind: str
    key: str
    length: int


class _Tensor(NamedTuple):
    """What a pickle says of a tensor: the part of a storage that it is; unit: numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict):
    """An OrderedDict's stand-in; the attributes (`_metadata`) that a pickle sets on it are dropped."""

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(pickle._Unpickler):
    """Loads a state dict's pickle as `_Dict` of `_Tensor`, and describes in `storages` what lies beside it.

    The standard library's loader in Python, so that every key can be looked at before it is hashed: a tuple that holds
    itself twice, 64 times over, made of 330 bytes, would be hashed for ever.

    Raises:
        StyleError: from `load`: the pickle names anything else.
    """

    def __init__(self, file: io.BytesIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self.storages = storages

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def load_setitem(self) -> None:
        _plain_keys(self.stack[-2:])
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        _plain_keys(self.stack)
        super().load_setitems()  # type: ignore[misc]

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module: str, name: str) -> Any:
        # Functions are made anew each time: a pickle can set attributes on what it is given.
        match module, name:
            case "collections", "OrderedDict":
                return lambda pairs=(): _ordered(pairs)
            case "torch", kind if kind in KINDS:
                return kind
            case "torch._utils", ("_rebuild_tensor" | "_rebuild_tensor_v2"):
                return lambda *arguments: _described(*arguments)
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
        raise StyleError(
            f"names {f'{module}.{name}'[:80]!r}, which is not loaded; {WANTED}, by torch.save(net.state_dict(), FILE)"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), _, int(length)) | ("storage", str(kind), str(key), _, int(length), None):
                storage = _Storage(kind, key, length)
                if kind in KINDS and self.storages.setdefault(key, storage) == storage:
                    return storage
        raise StyleError("describes its numbers in a way that is unknown here; save it again with torch 1.6 or newer")


def _ordered(pairs: Any) -> _Dict:
    _plain_keys([part for pair in pairs for part in pair])
    return _Dict(pairs)


def _plain_keys(items: list[Any]) -> None:
    """Keys and values in turns: the keys are text or numbers, or it is no state dict of anybody's."""
    if not all(isinstance(key, str | int) for key in items[::2]):
        raise StyleError(f"has a dictionary with odd keys; {WANTED}")


def import_torch(source: Path, output: Path) -> Path:
    """Write a TransformerNet's weights as a weights file of ours, tier "johnson", which `training.export.export` exports.

    Args:
        source: a state dict in either format of torch.save; wrapped in a dict, of a DataParallel or with old running
            statistics, too. At most `MAX_BYTES`.
        output: the .safetensors file; its card is written beside it.
    Returns:
        output.
    Raises:
        StyleError: not such a file, or the network does not paint; one line, and nothing is written then.
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
        net.load_state_dict(_weights(net, *_load(data)))
        _check_that_it_paints(net)
    except StyleError as error:
        raise StyleError(f"{source} {error}") from error
    except OSError as error:
        raise StyleError(f"{source} cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # pickle's, zipfile's, and whatever a made-up pickle does to the stand-ins
        raise StyleError(f"{source} is damaged or not by torch.save ({type(error).__name__}); {WANTED}") from error
    card = {"title": source.stem, "painter": "", "year": "", "license": "", "tier": "johnson", "step": 0}
    save_weights(output, net.state_dict(), card | {"imported_from": source.name})
    return output


def _load(data: bytes) -> tuple[Any, Mapping[str, bytes | memoryview]]:
    """A file's unpickled object, and its storages' raw numbers by key."""
    return _load_zip(data) if data.startswith(b"PK") else _load_legacy(data)


def _load_zip(data: bytes) -> tuple[Any, Mapping[str, bytes]]:
    """The format of torch 1.6 and newer: a zip of NAME/data.pkl and NAME/data/KEY."""
    # Each starts an entry in the zip's directory; listing 1,300,000 in 61 MB took zipfile 15 s and 0.6 GB.
    if data.count(b"PK\x01\x02") > 2 * MAX_TENSORS:
        raise StyleError(f"has more than {2 * MAX_TENSORS} parts; {WANTED}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # torch never compresses: what claims to unpack to more than the file is a bomb.
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries.values())
        if not stored or sum(entry.file_size for entry in entries.values()) > len(data):
            raise StyleError(f"is compressed, which torch.save never does; {WANTED}")
        (pickled,) = (name for name in entries if name.endswith("/data.pkl"))
        if entries[pickled].file_size > MAX_PICKLE_BYTES:
            raise StyleError(f"has a pickle of more than {MAX_PICKLE_BYTES // 2**20} MB; {WANTED}")
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise StyleError("is of a big-endian machine; save it again on a common one")
        storages: dict[str, _Storage] = {}
        loaded = _unpickle(io.BytesIO(archive.read(pickled)), storages)
        return loaded, {key: archive.read(f"{root}data/{key}") for key in storages}


def _load_legacy(data: bytes) -> tuple[Any, Mapping[str, memoryview]]:
    """The older format: five pickles, then for each key its count of numbers as int64 and the numbers."""
    file = io.BytesIO(data[:MAX_PICKLE_BYTES])
    storages: dict[str, _Storage] = {}
    magic, protocol, system, loaded, keys = (_unpickle(file, storages) for _ in range(5))
    if magic != MAGIC or protocol != PROTOCOL:
        raise StyleError(f"is a pickle, but not by torch.save; {WANTED}")
    if system["little_endian"] is not True:
        raise StyleError("is of a big-endian machine; save it again on a common one")
    numbers, start = {}, file.tell()
    _plain_keys([part for key in keys for part in (key, None)])
    for key in keys:
        count, start = int.from_bytes(data[start : start + 8], "little"), start + 8
        end = start + count * np.dtype(KINDS[storages[key].kind]).itemsize
        numbers[key] = memoryview(data)[start:end]
        start = end
    return loaded, numbers


def _unpickle(file: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    """The pickle that begins where the file stands; afterwards the file stands behind it."""
    start = file.tell()
    # Read through before it is loaded, since loading can hurt without any code: a memo with a place 200,000,000 took
    # 3 GB, and hashing a tuple nested 200,000 deep crashed Python 3.11 (49,000 deep in a thread with 1 MB of stack).
    for i, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if instruction.name in NEVER_WRITTEN:
            raise StyleError(f"has the instruction {instruction.name}, which torch.save never writes; {WANTED}")
        if i > MAX_INSTRUCTIONS or ("PUT" in instruction.name and (argument or 0) > MAX_INSTRUCTIONS):
            raise StyleError(f"has a pickle of more than {MAX_INSTRUCTIONS} instructions; {WANTED}")
    return _Unpickler(io.BytesIO(file.getbuffer()[start : file.tell()]), storages).load()


def _described(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    """What stands in for torch._utils._rebuild_tensor_v2, where a tensor's description is checked for its types."""
    numbers = (offset, *shape, *stride)
    if not (isinstance(storage, _Storage) and type(shape) is type(stride) is tuple and len(shape) == len(stride) <= 8):
        raise TypeError("not a tensor's description")
    if not all(type(number) is int and 0 <= number <= MAX_BYTES for number in numbers):
        raise ValueError("a tensor's description that no file has room for")
    return _Tensor(storage, offset, shape, stride)


def _weights(net: JohnsonNet, loaded: Any, numbers: Mapping[str, bytes | memoryview]) -> dict[str, Tensor]:
    """Our network's state dict, out of what `_load` gave."""
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
        tensor, wanted = theirs[their_name], tuple(net.get_parameter(name).shape)
        if not isinstance(tensor, _Tensor) or tensor.shape != wanted:
            shape = tensor.shape if isinstance(tensor, _Tensor) else "no tensor"
            raise StyleError(f"has {their_name!r} as {shape}, {wanted} is wanted; {WANTED}")
        weights[name] = _read_tensor(tensor, their_name, numbers[tensor.storage.key])
    # Theirs takes and gives 0 to 255, ours 0 to 1. Exact also at the borders: a mirrored border scales as the rest does.
    weights["conv1.conv.weight"] *= 255.0
    weights["conv6.conv.weight"] /= 255.0
    weights["conv6.conv.bias"] /= 255.0
    return weights


def _their_name(name: str) -> str:
    for ours, theirs in THEIR_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _read_tensor(tensor: _Tensor, name: str, numbers: bytes | memoryview) -> Tensor:
    """A tensor's numbers as float32; the name is for messages."""
    kind, count = np.dtype(KINDS[tensor.storage.kind]), math.prod(tensor.shape)
    if len(numbers) != tensor.storage.length * kind.itemsize or tensor.offset + count > tensor.storage.length:
        raise StyleError(f"has too few or too many numbers for {name!r}; it is damaged, get it again")
    if tensor.stride != tuple(math.prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape))):
        raise StyleError(f"has {name!r} in another order; save it with .contiguous()")
    array = np.frombuffer(numbers, kind, count, tensor.offset * kind.itemsize)
    values = torch.tensor(array, dtype=torch.float32).reshape(tensor.shape)
    if not values.isfinite().all():
        raise StyleError(f"has numbers in {name!r} that are not finite; its training failed, take an earlier checkpoint")
    return values


@torch.no_grad()
def _check_that_it_paints(net: JohnsonNet) -> None:
    landscape = torch.from_numpy(paint_landscape(96, 128)).permute(2, 0, 1)[None] / 255.0
    painted = net(landscape)
    spread = (painted.amax(dim=(2, 3)) - painted.amin(dim=(2, 3))).max()
    if not painted.isfinite().all() or spread < 1 / 255:
        raise StyleError("paints one flat color or nothing; its training failed, take an earlier checkpoint")
