import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from allaprima.inference.style import engines
from allaprima.inference.style.session import StyleSession, frame_to_image
from allaprima.models.contract import LUMA, Contract
from allaprima.models.errors import StyleError, TrainingError
from allaprima.models.frame_graph import MATRICES
from allaprima.models.frame_model import as_frame
from allaprima.models.image_transform_net import TIERS
from allaprima.training.checkpoint import save_weights
from allaprima.training.config import Flavor, TrainConfig
from allaprima.training.export import export as export_module
from allaprima.training.export.export import (
    Yardstick,
    expected_image,
    export,
    find_photos,
    largest_activation,
    read_photos,
    too_bad,
)
from allaprima.training.export.graph import to_onnx

pytestmark = pytest.mark.thorough  # torch's exporter takes seconds per network; tests of training export one, too

ROOT = Path(export_module.__file__).parents[2]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "w.safetensors", TIERS["realtime"]().state_dict(), {"tier": "realtime", "title": "T"})
    return tmp_path / "w.safetensors"


def lively(tier):
    torch.manual_seed(1)
    net = TIERS[tier]()
    for p in net.parameters():
        torch.nn.init.normal_(p, 0.0, 0.1)
    return net


@pytest.mark.parametrize("tier", TIERS)
def test_the_graph_has_our_names_free_sizes_and_no_shape_nodes(tier):
    model = export_module.to_onnx(lively(tier))
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["content_image", "stylized_image"]
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]
    assert {op.domain: op.version for op in model.opset_import} == {"": 18}
    assert model.ir_version == 8
    operators = {node.op_type for node in model.graph.node}
    assert operators <= {"Sub", "Pad", "Conv", "InstanceNormalization", "Relu", "Add", "Resize", "DepthToSpace", "Sigmoid"}


def test_the_file_reveals_nothing_about_the_machine_it_was_made_on(weights, tmp_path):
    export(weights, tmp_path / "x.onnx")
    data = (tmp_path / "x.onnx").read_bytes()
    for trace in (b".py", b"/home", b"/root", b"site-packages", str(tmp_path).encode(), str(ROOT).encode()):
        assert trace not in data


@pytest.mark.parametrize("tier", TIERS)
def test_torch_and_onnx_runtime_agree_at_odd_sizes(tier, tmp_path):
    save_weights(tmp_path / "w.safetensors", lively(tier).state_dict(), {"tier": tier})
    assert export(tmp_path / "w.safetensors", tmp_path / "x.onnx")["largest_difference"] < 1e-3
    image = np.random.default_rng(0).random((2, 3, 37, 51), dtype=np.float32)
    assert StyleSession(tmp_path / "x.onnx").stylize_image(image).shape == image.shape


def test_a_file_is_compared_in_onnx_runtime_whatever_else_is_installed(weights, tmp_path, monkeypatch):
    monkeypatch.delenv("ALLAPRIMA_ENGINE")
    monkeypatch.setattr(engines, "is_installed", lambda: True)
    monkeypatch.setattr(engines, "engine_trouble", lambda: "")
    monkeypatch.setattr(engines, "_trial", lambda *_: pytest.fail("another engine was tried"))
    export(weights, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").exists()


def test_a_file_that_differs_is_not_kept(weights, tmp_path, monkeypatch):
    def with_less_contrast(net, half):
        model = to_onnx(net, half)
        model.graph.node[-1].output[0] = "full"
        model.graph.node.append(onnx.helper.make_node("Sigmoid", ["full"], ["stylized_image"]))
        return model

    monkeypatch.setattr(export_module, "to_onnx", with_less_contrast)
    with pytest.raises(StyleError, match=r"differs from torch by 0\.\d+ .*is not written"):
        export(weights, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


FLAVORS = [
    Flavor(),
    Flavor(strength=0.7, keep_color=1.0),
    Flavor("frame"),
    Flavor("frame", strength=0.5, keep_color=0.25),
    Flavor(precision="fp16"),
    Flavor("frame", "fp16"),
    Flavor(precision="int8", keep_color=1.0),
    Flavor("frame", "int8"),
    Flavor("frame", "int8", keep_color=0.5, strokes=0.5, detail=0.75),
]


@pytest.fixture(scope="module")
def flavored(tmp_path_factory, painting):
    """A network, and for each flavor its file and report."""
    folder = tmp_path_factory.mktemp("flavors")
    torch.manual_seed(0)
    net = TIERS["realtime"]()
    save_weights(folder / "w.safetensors", net.state_dict(), {"tier": "realtime", "title": "T"})
    made = {}
    for i, flavor in enumerate(FLAVORS):
        path = folder / f"{i}.onnx"
        made[flavor] = path, export(folder / "w.safetensors", path, flavor, Yardstick(style_image=painting, vgg19="tiny"))
    return net, made


@pytest.mark.parametrize("flavor", FLAVORS)
def test_every_flavor_paints_what_torch_paints(flavored, landscape, flavor):
    net, made = flavored
    path, report = made[flavor]
    session = StyleSession(path)
    assert (session.contract.io, session.contract.precision) == (flavor.io, flavor.precision)
    assert session.contract.report == report
    frame = landscape[:33, :47]
    expected = expected_image(net, frame, session.contract)[0].transpose(1, 2, 0) * 255.0
    tolerance = 12.0 if flavor.precision == "int8" else 1.0
    assert np.abs(session.stylize(frame) - expected).max() <= tolerance
    image = session.stylize_image(frame_to_image(frame))[0].transpose(1, 2, 0) * 255.0
    assert np.abs(image - expected).max() <= tolerance


def test_torch_paints_the_content_at_strength_0_and_keeps_its_chroma_if_asked(landscape):
    net = TIERS["realtime"]()
    content, plain = frame_to_image(landscape), expected_image(net, landscape, Contract(4, 16))
    np.testing.assert_allclose(expected_image(net, landscape, Contract(4, 16, strength=0.0)), content, atol=1e-6)
    kept = expected_image(net, landscape, Contract(4, 16, keep_color=1.0))
    inside = ((kept > 0.0) & (kept < 1.0)).all(axis=1)[0]
    change = (kept - content)[0].transpose(1, 2, 0)[inside]
    np.testing.assert_allclose(change, change[:, :1].repeat(3, axis=1), atol=1e-5)
    luma = lambda image: image[0].transpose(1, 2, 0)[inside] @ np.array(LUMA)  # noqa: E731
    np.testing.assert_allclose(luma(kept), luma(plain), atol=1e-5)


@pytest.mark.parametrize("flavor", [flavor for flavor in FLAVORS if flavor.io == "frame"])
def test_a_frame_file_takes_strength_and_color_in_plain_onnx_runtime(flavored, landscape, flavor):
    net, made = flavored
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made[flavor][0], options, providers=["CPUExecutionProvider"])
    for height, width in ((1, 1), (2, 31), (16, 17), (50, 41)):
        frame = np.ascontiguousarray(landscape[:height, :width])
        for strength, keep_color in ((1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.4, 0.6)):
            feeds = {"content_frame": frame[None], "strength": np.array(strength, np.float32)}
            found = session.run(None, feeds | {"keep_color": np.array(keep_color, np.float32)})[0][0]
            contract = Contract(1, 1, strength=strength, keep_color=keep_color)
            expected = expected_image(net, frame, contract)[0].transpose(1, 2, 0) * 255.0
            assert found.shape == frame.shape
            assert np.abs(found - expected).max() <= (12.0 if flavor.precision == "int8" else 1.0)
        fed = {"strength": np.array(flavor.strength, np.float32), "keep_color": np.array(flavor.keep_color, np.float32)}
        alone = session.run(None, {"content_frame": frame[None]})[0]
        np.testing.assert_array_equal(alone, session.run(None, {"content_frame": frame[None], **fed})[0])


def test_an_image_file_has_no_nodes_for_shapes_or_crops(flavored):
    for flavor, (path, _) in flavored[1].items():
        operators = {node.op_type for node in onnx.load(path).graph.node}
        assert (flavor.io == "image") == (not operators & {"Shape", "Slice", "Gather", "Transpose"})


def test_fp16_and_int8_files_hold_weights_of_that_type(flavored):
    sizes = {flavor: path.stat().st_size for flavor, (path, _) in flavored[1].items()}
    assert sizes[Flavor(precision="fp16")] < 0.6 * sizes[Flavor()]
    assert sizes[Flavor("frame", "int8")] < 0.5 * sizes[Flavor("frame")]
    model = onnx.load(flavored[1][Flavor(precision="fp16")][0])
    assert {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4} == {onnx.TensorProto.FLOAT16}
    model = onnx.load(flavored[1][Flavor("frame", "int8")][0])
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.name not in MATRICES]
    assert [tensor.data_type for tensor in weights].count(onnx.TensorProto.INT8) == 9  # 8 in blocks, 1 after the resize
    scales = [tensor for tensor in model.graph.initializer if tensor.name.endswith("weight_scale")]
    assert {tuple(tensor.dims) for tensor in scales} <= {(32,), (16,)}  # one scale per channel


@pytest.mark.parametrize(
    ("bad", "precision", "message"),
    [
        ({"psnr_db": 44.9}, "fp16", r"fp16 is 44\.9 dB from torch \(at least 45 dB"),
        ({"psnr_db": 29.9}, "int8", r"int8 is 29\.9 dB from torch \(at least 30 dB"),
        ({"style_loss_ratio": 1.06}, "int8", "the style loss of int8 is 1.060 times torch's"),
        ({"largest_activation": 9000.0}, "fp16", "its largest activation is 9000"),
        ({"half_arithmetic_db": 44.9}, "fp16", "in float16 throughout it is 44.9 dB"),
        ({"within_one_level": 0.998}, "fp32", "only 99.80% of values are within one level"),
        ({"largest_difference": 0.002}, "fp32", "differs from torch by 0.002"),
        ({"largest_difference": 0.95}, "int8", "differs from torch by 0.95"),
    ],
)
def test_what_is_not_good_enough_is_explained(bad, precision, message):
    good = {"largest_difference": 0.0005, "psnr_db": 50.0, "within_one_level": 0.9995}
    assert not too_bad(good, Flavor(precision=precision))
    [reason] = too_bad(good | bad, Flavor(precision=precision))
    assert re.search(message, reason)


def test_an_int8_file_that_is_not_good_enough_is_not_kept(weights, painting, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "MAX_STYLE_LOSS", 0.1)
    with pytest.raises(StyleError, match="the style loss of int8 is"):
        export(weights, tmp_path / "x.onnx", Flavor("frame", "int8"), Yardstick(style_image=painting, vgg19="tiny"))
    assert not (tmp_path / "x.onnx").exists()


def test_a_frame_file_with_a_wrong_network_is_not_kept_even_at_strength_0(weights, tmp_path, monkeypatch):
    def louder(model, *arguments, **options):
        framed = as_frame(model, *arguments, **options)
        for tensor in framed.graph.initializer:
            if len(tensor.dims) == 4 and tensor.name not in MATRICES:
                tensor.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(tensor), tensor.name))
        return framed

    monkeypatch.setattr(export_module, "as_frame", louder)
    with pytest.raises(StyleError, match="differs from torch"):
        export(weights, tmp_path / "x.onnx", Flavor("frame", strength=0.0))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_numbers_that_are_not_finite_are_too_bad(precision):
    good = {"largest_difference": 0.0, "psnr_db": 99.0, "within_one_level": 1.0}
    assert not too_bad(good, Flavor(precision=precision))
    for bad in (
        {"largest_difference": float("inf")},
        {"largest_difference": float("nan")},
        {"largest_activation": float("nan")},
        {"style_loss_ratio": float("nan")},
        {"half_arithmetic_db": float("nan")},
    ):
        assert too_bad(good | bad, Flavor(precision=precision)), bad


def test_the_largest_activation_of_a_broken_layer_is_nan(landscape):
    net = TIERS["realtime"]()
    assert 0.5 < largest_activation(net, {Path("x"): landscape}) < 1000.0
    with torch.no_grad():
        net.conv2.conv.weight[0] = torch.nan
    assert np.isnan(largest_activation(net, {Path("x"): landscape}))


def test_if_the_trainings_photos_are_gone_the_reference_photos_are_used(tmp_path, photo_folder):
    run = tmp_path / "run"
    run.mkdir()
    (run / "options.json").write_text(TrainConfig("painting.jpg", str(photo_folder)).to_json())
    assert find_photos(run, None)[1] == "photos of the training"
    (run / "options.json").write_text(TrainConfig("painting.jpg", str(tmp_path / "gone")).to_json())
    assert find_photos(run, None)[1] == "reference photos"


def test_long_strips_are_left_out(tmp_path):
    Image.fromarray(np.zeros((2, 900, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((900, 2, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(StyleError, match="none of 2 photos could be used"):
        read_photos([tmp_path / "a.png", tmp_path / "b.png"], 3, 4)


def test_int8_asks_for_the_painting(weights, tmp_path):
    with pytest.raises(StyleError, match="give the painting, --style-image"):
        export(weights, tmp_path / "x.onnx", Flavor(precision="int8"))


def test_photos_that_cannot_be_read_are_left_out(photo_folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    paths = [tmp_path / "broken.jpg", *sorted(photo_folder.glob("*.jpg"))]
    frames = read_photos(paths, 3, 4)
    assert len(frames) == 3
    assert all(frame.shape[0] % 4 == frame.shape[1] % 4 == 0 for frame in frames.values())
    with pytest.raises(StyleError, match="none of 1 photos could be used"):
        read_photos(paths[:1], 3, 4)


def test_export_command_names_files_after_their_flavor(run, weights):
    code, out, _ = run("export", weights, "--io", "frame", "--keep-color", "--strength", "0.5")
    assert code == 0
    path = weights.with_name("w.frame.onnx")
    assert str(path) in out
    contract = StyleSession(path).contract
    assert (contract.strength, contract.keep_color, contract.thumbnail != "") == (0.5, 1.0, True)


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
    assert "dB from torch on 3 photos (reference photos)" in out


def test_what_cannot_be_exported_is_named(run, tmp_path):
    with pytest.raises(TrainingError, match="holds no checkpoint"):
        export(tmp_path, tmp_path / "x.onnx")
    code, _, err = run("export", tmp_path / "nothing.safetensors")
    assert code == 1
    assert "no weights at" in err
