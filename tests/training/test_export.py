from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from inference.session import StyleSession
from models.errors import StyleError, TrainingError
from models.image_transform_net import TIERS
from training import export as export_module
from training.checkpoint import save_weights
from training.export import export, to_onnx

ROOT = Path(export_module.__file__).parents[1]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "w.safetensors", TIERS["realtime"]().state_dict(), {"tier": "realtime", "title": "T"})
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("tier", TIERS)
def test_the_graph_has_our_names_free_sizes_and_no_shape_nodes(tier):
    model = to_onnx(TIERS[tier]())
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["content_image", "stylized_image"]
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]
    assert {op.domain: op.version for op in model.opset_import} == {"": 18}
    operators = {node.op_type for node in model.graph.node}
    assert operators <= {"Sub", "Pad", "Conv", "InstanceNormalization", "Relu", "Add", "Resize", "DepthToSpace", "Sigmoid"}


def test_the_file_tells_nothing_of_the_machine_it_was_made_on(weights, tmp_path):
    export(weights, tmp_path / "x.onnx")
    data = (tmp_path / "x.onnx").read_bytes()
    for trace in (b".py", b"/home", b"/root", b"site-packages", str(tmp_path).encode(), str(ROOT).encode()):
        assert trace not in data


@pytest.mark.parametrize("tier", TIERS)
def test_torch_and_onnx_runtime_agree_at_odd_sizes(tier, tmp_path):
    torch.manual_seed(1)
    net = TIERS[tier]()
    for p in net.parameters():
        torch.nn.init.normal_(p, 0.0, 0.1)
    save_weights(tmp_path / "w.safetensors", net.state_dict(), {"tier": tier})
    assert export(tmp_path / "w.safetensors", tmp_path / "x.onnx") < 1e-3
    image = np.random.default_rng(0).random((2, 3, 37, 51), dtype=np.float32)
    assert StyleSession(tmp_path / "x.onnx").stylize_image(image).shape == image.shape


def test_a_file_that_differs_is_not_kept(weights, tmp_path, monkeypatch):
    def half_as_bright(net):
        model = to_onnx(net)
        model.graph.node[-1].output[0] = "full"
        half = onnx.helper.make_tensor("half", onnx.TensorProto.FLOAT, [], [0.5])
        model.graph.initializer.append(half)
        model.graph.node.append(onnx.helper.make_node("Mul", ["full", "half"], ["stylized_image"]))
        return model

    monkeypatch.setattr(export_module, "to_onnx", half_as_bright)
    with pytest.raises(StyleError, match=r"differs from torch by 0\.\d+ .*is not written"):
        export(weights, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_metadata_is_readable_without_us(weights, tmp_path):
    export(weights, tmp_path / "x.onnx")
    metadata = {prop.key: prop.value for prop in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert metadata["allaprima.title"] == "T"
    assert metadata["allaprima.range"] == "0..1"
    assert metadata["allaprima.stride_px"] == "4"


def test_export_command_keeps_an_existing_file(run, weights):
    assert run("export", weights)[0] == 0
    code, _, err = run("export", weights)
    assert code == 1
    assert "--overwrite" in err
    code, out, _ = run("export", weights, "--overwrite")
    assert code == 0
    assert "differ by at most" in out


def test_what_cannot_be_exported_is_named(run, tmp_path):
    with pytest.raises(TrainingError, match="holds no checkpoint"):
        export(tmp_path, tmp_path / "x.onnx")
    code, _, err = run("export", tmp_path / "nothing.safetensors")
    assert code == 1
    assert "no weights at" in err
