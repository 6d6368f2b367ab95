import dataclasses
import io
import json

import pytest
import torch
from rich.console import Console

from allaprima.inference.landscape import paint_landscape
from allaprima.models.errors import StyleError
from allaprima.models.image_transform_net import TIERS
from allaprima.models.vgg import load_vgg19
from allaprima.training.checkpoint import save_weights
from allaprima.training.conditional_instance_norm import ManyStyles, load_base, nearest, save_base, starts
from allaprima.training.config import TrainConfig
from allaprima.training.gallery import base
from allaprima.training.start import first_network
from allaprima.training.style_image import make_target


@pytest.fixture(scope="module")
def vgg():
    return load_vgg19("tiny")


def different(tier, count):
    """A network whose paintings differ in all of their own parameters."""
    torch.manual_seed(0)
    net = ManyStyles(TIERS[tier](), count)
    with torch.no_grad():
        for name in net.own_names:
            net.net.get_parameter(name).add_(0.3 * torch.randn_like(net.net.get_parameter(name)))
    return net


@pytest.mark.parametrize("tier", TIERS)
def test_each_image_of_a_batch_is_painted_as_by_its_styles_own_network(tmp_path, tier):
    net = different(tier, 3)
    save_base(tmp_path / f"{tier}.safetensors", net, {"tier": tier, "paintings": ["a", "b", "c"]})
    found = load_base(tier, tmp_path)
    images, styles = torch.rand(4, 3, 32, 32), torch.tensor([2, 0, 2, 1])
    with torch.no_grad():
        together = net(images, styles)
        for image, style, painted in zip(images, styles.tolist(), together, strict=True):
            alone = found.network(found.names[style])(image[None])[0]
            torch.testing.assert_close(alone, painted, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_the_mean_of_equal_paintings_equals_each_of_them(tmp_path):
    net = ManyStyles(TIERS["realtime"](), 2)
    save_base(tmp_path / "realtime.safetensors", net, {"tier": "realtime", "paintings": ["a", "b"]})
    found = load_base("realtime", tmp_path)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(found.network()(image), found.network("b")(image))


def test_a_base_that_does_not_fit_is_refused(tmp_path):
    net = ManyStyles(TIERS["realtime"](), 2)
    path = tmp_path / "realtime.safetensors"
    with pytest.raises(StyleError, match="no weights at"):
        load_base("realtime", tmp_path)
    save_base(path, net, {"tier": "realtime", "paintings": ["a", "b", "c"]})
    with pytest.raises(StyleError, match=r"realtime\.safetensors does not fit the realtime network"):
        load_base("realtime", tmp_path)
    save_weights(path, {"a": torch.zeros(1)}, {"tier": "realtime"})
    with pytest.raises(StyleError, match="is not a base of the realtime tier"):
        load_base("realtime", tmp_path)


def test_a_training_starts_from_the_base_or_else_from_the_nearest_shipped_network(tmp_path, vgg, monkeypatch, landscape):
    """The painting is made by one of the networks out of a photo, so that network must be chosen."""
    folder, base_file = tmp_path / "shipped", tmp_path / "realtime.safetensors"
    save_base(base_file, different("realtime", 3), {"tier": "realtime", "paintings": ["a", "b", "c"]})
    many = load_base("realtime", tmp_path)
    for name in "abc":
        (folder / name).mkdir(parents=True)
        save_weights(folder / name / "realtime.safetensors", many.network(name).state_dict(), {"tier": "realtime"})
    nets = starts("realtime", folder)
    assert set(nets) == {"a/realtime", "b/realtime", "c/realtime"}
    content = torch.tensor(landscape[None]).permute(0, 3, 1, 2).float() / 255
    for name in nets:
        with torch.no_grad():
            painting = (nets[name](content)[0].permute(1, 2, 0) * 255).round().byte().numpy()
        target = make_target(vgg, painting, "fp32")
        config = TrainConfig("a", "b", content_weight=0.0)
        assert nearest(nets, target, [landscape], config) == name

    said = []
    monkeypatch.setattr("allaprima.training.start.starts", lambda tier: starts(tier, folder))
    chosen = first_network(config, target, [landscape], said.append)
    assert said == ["starting from c/realtime, of 3 networks the nearest to a"]
    assert all(torch.equal(p, nets["c/realtime"].state_dict()[name]) for name, p in chosen.state_dict().items())

    (folder / "base").mkdir()
    base_file.rename(folder / "base" / "realtime.safetensors")
    chosen = first_network(config, target, [landscape], said.append)
    assert said[-1] == "starting from base/mean"
    mean = many.network().state_dict()
    assert all(torch.equal(p, mean[name]) for name, p in chosen.state_dict().items())
    first_network(dataclasses.replace(config, tier="quality"), target, [landscape], said.append)
    assert "there is no network of the quality tier to start from" in said[-1]


def test_every_photo_of_a_step_is_painted_in_a_different_style():
    for step in range(5):
        chosen = base.styles_of(step, 0, 6, 4).tolist()
        assert len(set(chosen)) == 4
        assert chosen == base.styles_of(step, 0, 6, 4).tolist()
    assert set(base.styles_of(0, 0, 3, 8).tolist()) == {0, 1, 2}
    assert {style for step in range(20) for style in base.styles_of(step, 0, 6, 4).tolist()} == set(range(6))


def test_the_base_is_trained_and_continued(tmp_path, painting, photo_folder, vgg, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(base, "load_vgg19", lambda _, device="cpu": vgg)
    other = tmp_path / "other.png"
    Image.fromarray(paint_landscape(64, 64, 5)).save(other)
    config = TrainConfig(
        "",
        str(photo_folder),
        batch_size=4,
        size_px=32,
        style_size_px=32,
        device="cpu",
        precision="fp32",
        checkpoint_every=100,
        margin_px=8,
    )
    output = tmp_path / "base" / "realtime.safetensors"
    cards = []
    for minutes in (0.02, 0.0):  # the second run does one step
        base.train_base(config, [painting, other], tmp_path / "run", output, minutes, Console(file=io.StringIO()))
        cards.append(json.loads(output.with_suffix(".json").read_text()))
    assert cards[1]["step"] == cards[0]["step"] + 1
    assert cards[1]["paintings"] == ["strokes", "other", "photo"]
    assert str(tmp_path) not in json.dumps(cards)
    found = load_base("realtime", tmp_path / "base")
    assert not torch.equal(found.own["norm1.weight"][0], found.own["norm1.weight"][1])
    assert found.card["options"]["size_px"] == 32

    first = TIERS["realtime"]()
    save_weights(tmp_path / "first.safetensors", first.state_dict(), {"tier": "realtime"})
    config = dataclasses.replace(config, init=str(tmp_path / "first.safetensors"), lr=1e-9)
    output = tmp_path / "begun" / "realtime.safetensors"
    base.train_base(config, [painting, other], tmp_path / "begun", output, 0.0, Console(file=io.StringIO()))
    begun = load_base("realtime", output.parent)
    for name in ("strokes", "other"):
        assert all(torch.allclose(p, first.state_dict()[key], atol=1e-6) for key, p in begun.network(name).state_dict().items())


def test_a_base_of_more_paintings_begins_with_what_the_old_one_learned(tmp_path):
    net = different("realtime", 2)
    save_base(tmp_path / "realtime.safetensors", net, {"tier": "realtime", "paintings": ["a", "b"]})
    more = ManyStyles(TIERS["realtime"](), 3)
    load_base("realtime", tmp_path).go_on_(more, ["b", "new", "a"])
    image = torch.rand(1, 3, 32, 32).repeat(3, 1, 1, 1)
    with torch.no_grad():
        painted = more(image, torch.tensor([0, 1, 2]))
        expected = net(image[:2], torch.tensor([1, 0]))
    torch.testing.assert_close(painted[[0, 2]], expected)
    assert (painted[1] - painted[0]).abs().max() > 0.01


def test_each_image_is_compared_with_its_own_paintings_gram_matrices():
    from allaprima.training.losses import style_loss

    grams = {"relu1_1": torch.rand(2, 4, 4)}
    features = {"relu1_1": torch.rand(2, 4, 6, 6)}
    together = style_loss(features, grams)
    alone = [style_loss({"relu1_1": features["relu1_1"][i : i + 1]}, {"relu1_1": grams["relu1_1"][i : i + 1]}) for i in (0, 1)]
    torch.testing.assert_close(together, torch.stack(alone).mean())
