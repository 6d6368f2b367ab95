import collections
import copy
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import StyleError
from allaprima.models.image_transform_net import JohnsonNet
from allaprima.training.checkpoint import load_net
from allaprima.training.export.export import export
from allaprima.training.export.import_torch import import_torch


class ConvLayer(nn.Module):
    def __init__(self, c_in, c_out, kernel, stride=1, upsample=1):
        super().__init__()
        self.before = nn.Sequential(nn.Upsample(scale_factor=upsample), nn.ReflectionPad2d(kernel // 2))
        self.conv2d = nn.Conv2d(c_in, c_out, kernel, stride)

    def forward(self, x):
        return self.conv2d(self.before(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.in1 = ConvLayer(128, 128, 3), nn.InstanceNorm2d(128, affine=True)
        self.conv2, self.in2 = ConvLayer(128, 128, 3), nn.InstanceNorm2d(128, affine=True)

    def forward(self, x):
        return x + self.in2(self.conv2(self.in1(self.conv1(x)).relu()))


class TransformerNet(nn.Module):
    """The network of pytorch/examples: (N, 3, H, W) RGB in [0, 255] to the same, but unbounded."""

    def __init__(self):
        super().__init__()
        self.conv1, self.in1 = ConvLayer(3, 32, 9), nn.InstanceNorm2d(32, affine=True)
        self.conv2, self.in2 = ConvLayer(32, 64, 3, stride=2), nn.InstanceNorm2d(64, affine=True)
        self.conv3, self.in3 = ConvLayer(64, 128, 3, stride=2), nn.InstanceNorm2d(128, affine=True)
        self.res1, self.res2, self.res3, self.res4, self.res5 = (Block() for _ in range(5))
        self.deconv1, self.in4 = ConvLayer(128, 64, 3, upsample=2), nn.InstanceNorm2d(64, affine=True)
        self.deconv2, self.in5 = ConvLayer(64, 32, 3, upsample=2), nn.InstanceNorm2d(32, affine=True)
        self.deconv3 = ConvLayer(32, 3, 9)

    def forward(self, x):
        x = self.in1(self.conv1(x)).relu()
        x = self.in2(self.conv2(x)).relu()
        x = self.in3(self.conv3(x)).relu()
        x = self.res5(self.res4(self.res3(self.res2(self.res1(x)))))
        x = self.in4(self.deconv1(x)).relu()
        x = self.in5(self.deconv2(x)).relu()
        return self.deconv3(x)


@pytest.fixture(scope="module")
def their_net():
    """Random, with outputs that fill 0 to 255 and sometimes exceed it, as a trained network's do."""
    torch.manual_seed(0)
    net = TransformerNet().eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".in" in f".{name}":
                p.add_(0.3 * torch.randn_like(p))
        net.deconv3.conv2d.weight *= 100.0
        net.deconv3.conv2d.bias += 128.0
    return net


@pytest.fixture
def state_dict(their_net):
    return collections.OrderedDict((name, tensor.clone()) for name, tensor in their_net.state_dict().items())


def save(path, obj, new_format=True):
    torch.save(obj, path, _use_new_zipfile_serialization=new_format)
    return path


def with_entries(source, path, **changed):
    """A zip whose `data.pkl` or `data/0` is changed by a function of its bytes, passed as data_pkl or data_0."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            root, _, rest = name.partition("/")
            change = changed.get(rest.replace(".", "_").replace("/", "_"), lambda data: data)
            new.writestr(f"{root}/{rest}", change(old.read(name)))
    return path


def imported(source, tmp_path):
    net, _ = load_net(import_torch(source, tmp_path / "out.safetensors"))
    return net


def assert_same_weights(net, state_dict):
    torch.testing.assert_close(net.norm1.bias, state_dict["in1.bias"], rtol=0, atol=0)
    torch.testing.assert_close(net.blocks[4].conv2.conv.weight, state_dict["res5.conv2.conv2d.weight"], rtol=0, atol=0)


def refusal(source, tmp_path):
    """The error message; also checks that it is one line, and that nothing was written or changed."""
    before = set(tmp_path.iterdir())
    with pytest.raises(StyleError) as refused:
        import_torch(source, tmp_path / "new.safetensors")
    assert set(tmp_path.iterdir()) == before
    for name in ("old.safetensors", "old.json"):
        (tmp_path / name).write_bytes(b"of another day")
    with pytest.raises(StyleError):
        import_torch(source, tmp_path / "old.safetensors")
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "old.safetensors", tmp_path / "old.json"}
    for name in ("old.safetensors", "old.json"):
        assert (tmp_path / name).read_bytes() == b"of another day"
        (tmp_path / name).unlink()
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 300 + len(str(source))
    return message


@pytest.mark.parametrize("new_format", [True, False])
@torch.no_grad()
def test_an_imported_network_paints_as_the_original_does(new_format, their_net, state_dict, tmp_path):
    for name in [name for name in state_dict if name.startswith("in") or ".in" in name]:
        root = name.rpartition(".")[0]
        channels = len(state_dict[name])
        state_dict[f"{root}.running_mean"], state_dict[f"{root}.running_var"] = torch.zeros(channels), torch.ones(channels)
        state_dict[f"{root}.num_batches_tracked"] = torch.tensor(7)
    net = imported(save(tmp_path / "candy.pth", state_dict, new_format), tmp_path)
    image = torch.rand(2, 3, 36, 52)
    theirs = their_net(255.0 * image) / 255.0
    assert theirs.min() < 0 < 1 < theirs.max()  # some values must be clipped
    assert ((theirs > 0) & (theirs < 1)).float().mean() > 0.3  # but not all of them
    assert (net(image) - theirs.clamp(0.0, 1.0)).abs().max() < 1e-4


def test_the_card_says_where_a_network_is_from(state_dict, tmp_path):
    output = import_torch(save(tmp_path / "candy.model", state_dict), tmp_path / "out.safetensors")
    assert output == tmp_path / "out.safetensors"
    net, card = load_net(output)
    assert isinstance(net, JohnsonNet)
    blank = {"painter": "", "year": "", "license": ""}
    assert card == {"title": "candy", **blank, "tier": "johnson", "step": 0, "imported_from": "candy.model"}


@pytest.mark.thorough
def test_an_imported_network_can_be_exported(state_dict, tmp_path):
    import_torch(save(tmp_path / "candy.pth", state_dict), tmp_path / "candy.safetensors")
    assert export(tmp_path / "candy.safetensors", tmp_path / "candy.onnx")["largest_difference"] < 1e-3
    image = np.random.default_rng(0).random((1, 3, 37, 51), dtype=np.float32)
    assert StyleSession(tmp_path / "candy.onnx").stylize_image(image).shape == image.shape


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_wrapped_state_dict_of_a_data_parallel_network_is_accepted(wrapper, state_dict, tmp_path):
    theirs = {f"module.{name}": nn.Parameter(tensor) for name, tensor in state_dict.items()}
    checkpoint = {wrapper: theirs, "epoch": 2, "loss": 1e5, "args": {"lr": 1e-3}}
    assert_same_weights(imported(save(tmp_path / "x.pth", checkpoint), tmp_path), state_dict)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_become_float32(dtype, state_dict, tmp_path):
    theirs = {name: tensor.to(dtype) for name, tensor in state_dict.items()}
    net = imported(save(tmp_path / "x.pth", theirs), tmp_path)
    assert_same_weights(net, {name: tensor.float() for name, tensor in theirs.items()})


def test_tensors_that_share_a_storage_are_read_separately(state_dict, tmp_path):
    both = torch.cat([state_dict["in1.weight"], state_dict["in1.bias"]])
    state_dict["in1.weight"], state_dict["in1.bias"] = both[:32], both[32:]
    assert_same_weights(imported(save(tmp_path / "x.pth", state_dict), tmp_path), state_dict)


class RunsACommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 4", "bare"])
def test_code_in_a_file_is_named_and_never_run(form, state_dict, tmp_path):
    state_dict["in1.weight"] = RunsACommand(f"touch {tmp_path}/ran")
    path = tmp_path / "x.pth"
    if form == "bare":
        path.write_bytes(pickle.dumps(state_dict["in1.weight"]))
    elif form == "protocol 4":
        torch.save(state_dict, path, pickle_protocol=4)
    else:
        save(path, state_dict, form == "zip")
    reason = (
        "by torch.save" if form in ("bare", "protocol 4") else f"names '{os.system.__module__}.system', which is not loaded"
    )
    assert reason in refusal(path, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_a_whole_pickled_network_is_refused(new_format, tmp_path):
    message = refusal(save(tmp_path / "x.pth", nn.Sequential(nn.ReLU()), new_format), tmp_path)
    assert "names 'torch.nn.modules.container.Sequential'" in message
    assert "torch.save(net.state_dict(), FILE)" in message


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 100_000_000)
    assert "is compressed" in refusal(tmp_path / "x.pth", tmp_path)


def test_a_zip_whose_entries_share_their_bytes_is_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\0" * 100_000)
        for i in range(100):
            archive.filelist.append(copy.copy(archive.getinfo("x/data.pkl")))
            archive.filelist[-1].filename = f"x/data/{i}"
    (tmp_path / "x.pth").write_bytes(file.getvalue())
    assert "is compressed" in refusal(tmp_path / "x.pth", tmp_path)


def test_files_larger_than_any_state_dict_in_some_way_are_refused(state_dict, tmp_path):
    path = tmp_path / "x.pth"
    for data, why in {
        b"\0" * (64 * 2**20 + 1): "more than 64 MB",
        b"PK\x03\x04" + b"PK\x01\x02" * 3000: "more than 2000 parts",
        b"\x80\x02]" + b"N0" * 100_000 + b".": "more than 20000 instructions",
        b"\x80\x02Nr\xff\xff\xff\xff.": "is damaged",  # if the memo were a list, it would take 64 GB
        b"\x80\x02})" + b"\x85" * 400_000 + b"Ns.": "more than 20 deep",  # hashing this would crash Python
        b"\x80\x02X\xff\xff\xff\xff": "is damaged",
    }.items():
        path.write_bytes(data)
        assert why in refusal(path, tmp_path)
    save(path, state_dict | {str(i): None for i in range(1000)})
    assert "holds 1062 tensors" in refusal(path, tmp_path)


def test_a_pickle_larger_than_a_mebibyte_is_refused(state_dict, tmp_path):
    state_dict["x" * 2**20] = torch.zeros(1)
    assert "a pickle of more than 1 MB" in refusal(save(tmp_path / "x.pth", state_dict), tmp_path)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 2, 10, 300, 3_000, 12_000, 100_000, 3_000_000, -1])
def test_a_truncated_file_is_refused(kept, new_format, state_dict, tmp_path):
    path = save(tmp_path / "x.pth", state_dict, new_format)
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged" in refusal(path, tmp_path)


@pytest.mark.parametrize("data", [b"Dear diary,\n", b"{}\n", b"PK\x05\x06" + bytes(18), pickle.dumps([1]) * 5])
def test_files_not_saved_by_torch_are_refused(data, tmp_path):
    (tmp_path / "x.pth").write_bytes(data)
    assert "by torch.save" in refusal(tmp_path / "x.pth", tmp_path)


def test_another_networks_tensors_are_refused_by_name_and_shape(state_dict, tmp_path):
    for change, why in (
        ({"res3.in2.bias": torch.zeros(64)}, "has 'res3.in2.bias' as (64,), (128,) is wanted"),
        ({"res3.in2.bias": None}, "has 'res3.in2.bias' as no tensor"),
        ({"res6.conv1.conv2d.weight": torch.zeros(1)}, "has 'res6.conv1.conv2d.weight', which TransformerNet has not"),
        ({"\n\x1b[31m" * 99: torch.zeros(1)}, "which TransformerNet has not"),
        ({7: torch.zeros(1)}, "holds no state dict"),
    ):
        assert why in refusal(save(tmp_path / "x.pth", state_dict | change), tmp_path)
    del state_dict["in4.weight"]
    assert "has no 'in4.weight'" in refusal(save(tmp_path / "x.pth", state_dict), tmp_path)


def test_a_list_of_tensors_is_refused(tmp_path):
    assert "holds no state dict" in refusal(save(tmp_path / "x.pth", [torch.zeros(1)]), tmp_path)


def test_a_tensor_beyond_its_storage_is_refused(state_dict, tmp_path):
    source = save(tmp_path / "good.pth", state_dict)
    first_offset_1 = {"data_pkl": lambda data: data.replace(b"QK\x00", b"QK\x01", 1)}
    first_shorter = {"data_0": lambda data: data[:-4]}
    longer_by_name = {"data_pkl": lambda data: data.replace((7776).to_bytes(2, "little"), (7777).to_bytes(2, "little"), 1)}
    for change in (first_offset_1, first_shorter, longer_by_name):
        path = with_entries(source, tmp_path / "x.pth", **change)
        assert "damaged" in refusal(path, tmp_path)


def test_transposed_tensors_are_read_in_order(state_dict, tmp_path):
    name = "conv2.conv2d.weight"
    state_dict[name] = state_dict[name].contiguous(memory_format=torch.channels_last)
    net = imported(save(tmp_path / "x.pth", state_dict), tmp_path)
    assert torch.equal(net.conv2.conv.weight, state_dict[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(value, state_dict, tmp_path):
    state_dict["res2.conv1.conv2d.bias"] = state_dict["res2.conv1.conv2d.bias"].double()
    state_dict["res2.conv1.conv2d.bias"][5] = value
    assert "numbers in 'res2.conv1.conv2d.bias' that are not finite" in refusal(save(tmp_path / "x.pth", state_dict), tmp_path)


@pytest.mark.parametrize("factor", [0.0, 1e30])
def test_a_network_that_paints_one_color_or_nothing_is_refused(factor, state_dict, tmp_path):
    for name in ("deconv3.conv2d.weight", "conv3.conv2d.weight"):
        state_dict[name] *= factor
    assert "paints one flat color or nothing" in refusal(save(tmp_path / "x.pth", state_dict), tmp_path)


def test_paths_that_cannot_be_used_are_named(state_dict, tmp_path):
    assert "no file at" in refusal(tmp_path / "nothing.pth", tmp_path)
    assert "no file at" in refusal(tmp_path, tmp_path)
    with pytest.raises(StyleError, match="is not named"):
        import_torch(save(tmp_path / "x.pth", state_dict), tmp_path / "x.json")


# Each of 64 tuples holds the previous one twice: hashing the last would take forever.
BOMB = b")" + b"".join(b"q\x00h\x00\x86" for _ in range(64))


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}" + BOMB + b"K\x01s.",
        b"\x80\x02}(" + BOMB + b"K\x01u.",
        b"\x80\x02ccollections\nOrderedDict\n]]" + BOMB + b"aK\x01aa\x85R.",
        b"\x80\x02\x8f(" + BOMB + b"\x90.",
        b"\x80\x02(" + BOMB + b"K\x01d.",
    ],
)
def test_a_key_that_would_take_forever_to_hash_is_refused(pickled, state_dict, tmp_path):
    source = with_entries(save(tmp_path / "old.pth", state_dict), tmp_path / "evil.pth", data_pkl=lambda _: pickled)
    assert "more than 20 deep" in refusal(source, tmp_path)
