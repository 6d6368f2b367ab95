import pytest
import torch

from allaprima.models.errors import WeightsError
from allaprima.models.vgg import LAYERS, VGG19Features, load_vgg19


def test_layer_names_run_from_conv1_1_to_relu5_4():
    assert LAYERS[0] == "conv1_1"
    assert LAYERS[-1] == "relu5_4"
    assert len(LAYERS) == 32


def test_features_equal_torchvisions_vgg19_layer_by_layer():
    from torchvision.models import vgg19

    torch.manual_seed(0)
    reference = vgg19(weights=None).features.eval()
    vgg = VGG19Features(reference.state_dict())
    image = torch.rand(2, 3, 32, 48)
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    activations = []
    with torch.no_grad():
        for layer in reference:
            x = layer(x)
            if not isinstance(layer, torch.nn.MaxPool2d):
                activations.append(x.clone())
            if isinstance(layer, torch.nn.Conv2d):
                activations[-1] = x.clone()  # torchvision's ReLU works in place
        features = vgg(image, LAYERS)
    for name, expected in zip(LAYERS, activations, strict=True):
        torch.testing.assert_close(features[name], expected, msg=name)


def test_pooling_takes_the_largest_or_the_mean_of_four():
    largest, mean = VGG19Features(pooling="max"), VGG19Features(pooling="avg")
    mean.load_state_dict(largest.state_dict())
    image = torch.rand(1, 3, 16, 16)
    relu1_2 = largest(image, ["relu1_2"])["relu1_2"]
    squares = relu1_2.unfold(2, 2, 2).unfold(3, 2, 2)  # (1, 64, 8, 8, 2, 2)
    for vgg, pooled in ((largest, squares.amax((-2, -1))), (mean, squares.mean((-2, -1)))):
        expected = torch.nn.functional.relu(vgg.convs["2_1"](pooled))
        torch.testing.assert_close(vgg(image, ["relu2_1"])["relu2_1"], expected)


def test_an_unknown_pooling_is_named():
    with pytest.raises(ValueError, match='pooling is "min"; one of max, avg'):
        VGG19Features(pooling="min")


def test_it_stops_at_the_deepest_layer_asked_for():
    vgg = VGG19Features()
    ran = []
    for name, conv in vgg.convs.items():
        conv.register_forward_hook(lambda *_, name=name: ran.append(name))
    vgg(torch.rand(1, 3, 32, 32), ["relu2_1", "relu1_2"])
    assert ran == ["1_1", "1_2", "2_1"]


def test_conv_and_relu_of_one_layer_can_be_asked_for_together():
    features = VGG19Features()(torch.rand(1, 3, 16, 16), ["conv1_1", "relu1_1"])
    assert features["conv1_1"].min() < 0
    torch.testing.assert_close(features["conv1_1"].clamp(min=0), features["relu1_1"])


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="relu9_1"):
        VGG19Features()(torch.rand(1, 3, 16, 16), ["relu9_1"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_load_from_any_file_type_and_float_type(tmp_path, dtype, suffix):
    import safetensors.torch

    source = load_vgg19("random")
    keys = {}
    index = 0
    for i, (name, conv) in enumerate(source.convs.items()):
        block_changes = i > 0 and name[0] != previous[0]  # noqa: F821
        index += 1 if block_changes else 0
        weight = conv.weight.to(dtype).contiguous()
        keys[f"features.{index}.weight"], keys[f"features.{index}.bias"] = weight, conv.bias.to(dtype)
        index += 2
        previous = name  # noqa: F841
    path = tmp_path / f"vgg{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(keys, path)
    else:
        torch.save(keys, path)
    loaded = load_vgg19(str(path))
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.convs["3_2"].weight, source.convs["3_2"].weight.to(dtype).float())


def test_errors_about_weights_name_the_file(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.safetensors"):
        load_vgg19(str(tmp_path / "nothing.safetensors"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(WeightsError, match=r"text\.pth is not a VGG-19"):
        load_vgg19(str(tmp_path / "text.pth"))


def test_a_failed_download_is_reported_with_what_to_do(monkeypatch):
    import torchvision.models

    def no_network(**_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.models, "vgg19", no_network)
    with pytest.raises(WeightsError, match=r"download failed .*ALLAPRIMA_VGG19"):
        load_vgg19()
