"""One style from several paintings, and a painting's own parameters in the palette."""

import json

import numpy as np
import pytest
import torch

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.palette import NAMES, mixed_style
from allaprima.inference.style.session import StyleSession, frame_to_image
from allaprima.inference.style.styles import find_style, style_name
from allaprima.models.errors import StyleError
from allaprima.models.vgg import load_vgg19
from allaprima.training.checkpoint import load_net
from allaprima.training.conditional_instance_norm import load_base, own_names, save_painting
from allaprima.training.config import TrainConfig
from allaprima.training.style_image import StyleTarget, make_target

SMALL = "--steps 2 --batch-size 1 --size 32 --vgg19 tiny --device cpu --precision fp32"


@pytest.fixture(autouse=True)
def small_previews(monkeypatch):
    from allaprima.training import preview

    monkeypatch.setattr(preview, "PREVIEW_PX", 32)


@pytest.fixture(scope="module")
def targets():
    """Targets of a dark and a bright painting."""
    vgg = load_vgg19("tiny")
    dark, bright = (np.clip(paint_landscape(64, 80) * gain, 0, 255).astype(np.uint8) for gain in (0.2, 1.2))
    return make_target(vgg, dark, "fp32"), make_target(vgg, bright, "fp32")


@pytest.mark.parametrize("shares", [(1.0, 1.0), (6.0, 2.0)])
def test_a_blended_target_has_a_share_of_each_painting(targets, shares):
    blended = StyleTarget.blended(targets, shares)
    part = shares[0] / sum(shares)
    dark, bright = targets
    for layer, gram in blended.style_grams.items():
        assert torch.allclose(gram, part * dark.style_grams[layer] + (1 - part) * bright.style_grams[layer])
    for layer, quantiles in blended.style_quantiles.items():
        assert quantiles.shape == dark.style_quantiles[layer].shape
        assert (quantiles.diff(dim=2) >= 0).all()
        expected = part * dark.style_quantiles[layer].mean() + (1 - part) * bright.style_quantiles[layer].mean()
        assert abs(quantiles.mean() - expected) < 0.02 * expected
    count = round(part * dark.style_colors.shape[1])
    assert torch.isin(blended.style_colors[:, :count], dark.style_colors).all()
    assert torch.isin(blended.style_colors[:, count:], bright.style_colors).all()


def test_a_painting_of_weight_zero_changes_nothing(targets):
    blended = StyleTarget.blended(targets, (2.0, 0.0))
    for layer, gram in blended.style_grams.items():
        assert torch.equal(gram, targets[0].style_grams[layer])
    for layer, quantiles in blended.style_quantiles.items():
        assert torch.equal(quantiles, targets[0].style_quantiles[layer])
    assert torch.equal(blended.style_colors, targets[0].style_colors)


def test_several_paintings_become_one_style_and_it_can_be_resumed(run, painting, photo, photo_folder, tmp_path):
    code, _, err = run(
        *("train", painting, photo, "--as-one", "--style-blend", "2,1", "--photos", photo_folder, "-o", tmp_path / "run"),
        *(*SMALL.split(), "--init", "none"),
    )
    assert code == 0, err
    card = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert card["title"] == "strokes, photo"
    assert card["options"]["more_style_images"] == ["photo.png"]
    assert card["options"]["style_blend"] == [2.0, 1.0]
    config = TrainConfig.read(tmp_path / "run" / "options.json")
    assert config.style_images == (str(painting), str(photo))
    assert run("train", "--resume", tmp_path / "run")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PAINTING", "PHOTO", "--style-blend", "1,2"], "--style-blend are of one style"),
        (["PAINTING", "PHOTO", "--as-one", "--style-blend", "1"], "--style-blend is 1; one number for each of 2 paintings"),
        (["PAINTING", "PHOTO", "--as-one", "--style-blend", "0,0"], "one number for each of 2 paintings is wanted, not all 0"),
        (["PAINTING", "nowhere.png", "--as-one"], "there is no painting nowhere.png"),
        (["PAINTING", "--into", "palette", "--tier", "quality"], "leave out --tier and --init"),
        (["PAINTING", "--into", "palette", "--init", "none"], "leave out --tier and --init"),
        (["PAINTING", "--into", "palette", "--quick"], "takes a minute by itself; leave out --quick"),
        (["--resume", "RUN", "--as-one"], "--as-one: not with --resume"),
    ],
)
def test_options_that_do_not_fit_together_are_named(run, painting, photo, photo_folder, tmp_path, arguments, message):
    names = {"PAINTING": painting, "PHOTO": photo, "RUN": tmp_path}
    photos = [] if "--resume" in arguments else ["--photos", photo_folder]
    code, _, err = run("train", *(names.get(each, each) for each in arguments), *photos)
    assert code == 1
    assert message in err


def test_with_into_palette_only_the_paintings_own_parameters_are_learned(run, painting, photo_folder, tmp_path):
    folder = tmp_path / "run"
    code, out, err = run("train", painting, "--into", "palette", "--photos", photo_folder, "-o", folder, *SMALL.split())
    assert code == 0, err
    assert "starting from base/mean" in out
    own, base = folder / "strokes.npz", load_base("realtime")
    assert f"--style {own}:0.5,starry_night:0.5" in out
    net = load_net(folder / "weights.safetensors")[0]
    learned = own_names(net)
    for name, tensor in base.network().state_dict().items():
        assert (name not in learned) == torch.equal(net.state_dict()[name], tensor), name
    image = frame_to_image(paint_landscape(64, 96))
    painted, expected = (StyleSession(path).stylize_image(image) for path in (find_style(str(own)), folder / "style.onnx"))
    assert np.abs(painted - expected).max() < 1e-3
    between = StyleSession(find_style(f"{own}:0.5,photo:0.5"))
    assert between.contract.card["title"] == "50% strokes + 50% photo"
    assert np.abs(between.stylize_image(image) - image).mean() < np.abs(expected - image).mean()
    assert style_name(f"{own}:0.5,photo:0.5") == "strokes_0.5_photo_0.5"
    assert run("train", "--resume", folder)[0] == 0


def test_an_exported_mix_paints_as_the_mix_does(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("export", "great_wave:0.6,photo:0.4")
    assert code == 0, err
    assert out.startswith("wrote great_wave_0.6_photo_0.4.onnx; ")
    exported = StyleSession(tmp_path / "great_wave_0.6_photo_0.4.onnx")
    mixed = StyleSession(mixed_style({"great_wave": 0.6, "photo": 0.4}))
    assert exported.contract.card["title"] == mixed.contract.card["title"] == "60% great_wave + 40% photo"
    assert exported.contract.own_strokes == mixed.contract.own_strokes
    image = frame_to_image(paint_landscape(64, 96))
    assert np.abs(exported.stylize_image(image) - mixed.stylize_image(image)).max() < 1e-3
    code, _, err = run("export", "great_wave:0.6,nobody:0.4")
    assert code == 1
    assert 'there is no "nobody" to mix with' in err


@pytest.mark.parametrize("more", [[], ["--io", "frame"], ["--io", "frame", "--strokes", "1.5"], ["--strength", "0.5"]])
def test_a_mix_with_weights_as_an_input_is_exported(run, tmp_path, more):
    path = tmp_path / "several.onnx"
    code, _, err = run("export", "great_wave:3,photo:1", "--mix", *more, "-o", path)
    assert code == 0, err
    session = StyleSession(path, "cpu")
    assert session.contract.mix["great_wave"] == 3.0
    assert len(session.contract.mix) == 15


def test_a_painting_of_ones_own_is_exported_with_the_palettes(run, own, tmp_path):
    assert run("export", f"{own}:1,photo:1", "--mix", "-o", tmp_path / "several.onnx")[0] == 0
    assert list(StyleSession(tmp_path / "several.onnx", "cpu").contract.mix.items())[-2:] == [("photo", 1.0), ("a wave", 1.0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["great_wave:1", "--mix", "--precision", "fp16"], "--mix writes fp32 for ONNX Runtime alone"),
        (["great_wave:1", "--mix", "--for", "opencv"], "--mix writes fp32 for ONNX Runtime alone"),
        (["WEIGHTS", "--mix"], "--mix is for a mix of the palette"),
    ],
)
def test_a_mix_in_another_form_is_refused(run, tmp_path, arguments, message):
    from allaprima.training.conditional_instance_norm import save_mix

    save_mix(tmp_path / "w.safetensors", {"photo": 1.0})
    names = {"WEIGHTS": tmp_path / "w.safetensors"}
    code, _, err = run("export", *(names.get(each, each) for each in arguments), "-o", tmp_path / "a.onnx")
    assert code == 1
    assert message in err


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.npz"
    save_painting(path, load_base("realtime").network("great_wave"), "a wave")
    return path


def test_a_paintings_own_parameters_make_a_small_file_that_paints_the_same(own):
    assert own.stat().st_size < 12_000
    image = frame_to_image(paint_landscape(64, 96))
    found, expected = (StyleSession(mixed_style({name: 1.0})).stylize_image(image) for name in (str(own), "great_wave"))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body": np.array("another")}, "was learned in another palette"),
        ({"skip": np.zeros((1, 3, 3, 3, 3), np.float32)}, "does not hold the numbers of one painting"),
        ({"more": np.zeros(3, np.float32)}, "does not hold the numbers of one painting"),
        ({"bias": np.full((1, 3), np.nan, np.float32)}, "holds numbers that are not finite"),
        ({"bias": np.zeros((1, 3), np.float64)}, "holds numbers that are not finite"),
        ({NAMES: np.array(["a", "b"])}, "does not hold the numbers of one painting"),
        ({NAMES: np.array([{}], object)}, "is damaged"),
        ({"bias": np.zeros((1, 2**21), np.float32)}, "it unpacks to more than 4 MB"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(own, change, message):
    with np.load(own) as file:
        arrays = dict(file) | change
    np.savez_compressed(own, **arrays)
    with pytest.raises(StyleError, match=message):
        mixed_style({str(own): 1.0})


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_truncated_file_is_damaged(own, size):
    own.write_bytes(own.read_bytes()[:size])
    with pytest.raises(StyleError, match=r"own.npz is damaged: .*; make it with allaprima train --into palette"):
        find_style(str(own))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StyleError, match=r"there is no file .*none\.npz"):
        find_style(f"{tmp_path / 'none.npz'}:1,great_wave:1")
