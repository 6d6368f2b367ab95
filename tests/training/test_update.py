"""One training step, of one style and of several; what a CUDA graph needs of it is tested here without CUDA."""

import dataclasses
import io
import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from allaprima.inference.landscape import paint_landscape
from allaprima.models.errors import TrainingError
from allaprima.models.image_transform_net import RealtimeNet
from allaprima.models.vgg import load_vgg19
from allaprima.training import launch as launch_module
from allaprima.training import preview, start
from allaprima.training.config import TrainConfig
from allaprima.training.launch import TrainingStep, pick_functions
from allaprima.training.loop import train, train_together
from allaprima.training.places import Places
from allaprima.training.ranks import Ranks
from allaprima.training.style_image import make_target
from allaprima.training.update import Functions, Update, average_share, content_features_of, step_losses, weights_of, without


@pytest.fixture(scope="module")
def vgg():
    return load_vgg19("tiny")


@pytest.fixture(autouse=True)
def one_vgg_for_all(vgg, monkeypatch):
    monkeypatch.setattr(start, "load_vgg19", lambda source, device="cpu": vgg)
    monkeypatch.setattr(preview, "PREVIEW_PX", 48)


@pytest.fixture(scope="module")
def config(painting, photo_folder):
    return TrainConfig(
        style_image=str(painting),
        photos=str(photo_folder),
        steps=5,
        batch_size=2,
        size_px=32,
        style_size_px=32,
        device="cpu",
        precision="fp32",
        init="none",
        vgg19="tiny",
        preview_every=4,
        checkpoint_every=2,
    )


@pytest.fixture(scope="module")
def other_painting(tmp_path_factory):
    path = tmp_path_factory.mktemp("other") / "dots.png"
    dots = np.random.default_rng(7).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(dots.repeat(2, axis=0).repeat(2, axis=1)).save(path)
    return path


@pytest.fixture
def launch(config, vgg):
    torch.manual_seed(0)
    target = make_target(vgg, paint_landscape(32, 32), "fp32")
    return TrainingStep([Update(config, RealtimeNet(), target, Ranks())], Functions(content_features_of, step_losses))


def said_by(run) -> str:
    said = io.StringIO()
    run(Console(file=said, width=400))
    return said.getvalue()


def state_of(run_folder):
    return safetensors.torch.load_file(run_folder / "step_000005.safetensors")


@pytest.mark.thorough
def test_styles_trained_together_turn_out_as_if_trained_alone(config, other_painting, tmp_path):
    configs = [config, dataclasses.replace(config, style_image=str(other_painting), style_weight=8.0, lr=1e-3, title="Dots")]
    folders = {name: [tmp_path / name / str(i) for i in range(2)] for name in ("alone", "together")}
    for folder in [*folders["alone"], *folders["together"]]:
        folder.mkdir(parents=True)
    for one, folder in zip(configs, folders["alone"], strict=True):
        said_by(lambda console, one=one, folder=folder: train(one, folder, console))
    said = said_by(lambda console: train_together(configs, folders["together"], console))
    assert "step 5/5 strokes: content" in said
    assert "step 5/5 Dots: content" in said
    for alone, together in zip(folders["alone"], folders["together"], strict=True):
        expected, found = state_of(alone), state_of(together)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert (together / "weights.safetensors").exists()
    first, second = (state_of(folder) for folder in folders["together"])
    assert any(not torch.equal(second[name], tensor) for name, tensor in first.items())


@pytest.mark.thorough
def test_styles_trained_together_resume_together_and_roll_back_together(config, other_painting, tmp_path, monkeypatch):
    configs = [config, dataclasses.replace(config, style_image=str(other_painting))]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    said_by(lambda console: train_together(configs, folders, console))
    expected = [state_of(folder) for folder in folders]
    for late in ("step_000005.safetensors", "step_000005.json", "weights.safetensors"):
        (folders[0] / late).unlink()  # as after a kill between the two saves
    said = said_by(lambda console: train_together(configs, folders, console, resume=True))
    assert "going on at step 4 of 5" in said
    for folder, state in zip(folders, expected, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in state_of(folder).items())

    looks = []

    def second_style_bad_once(*_):
        looks.append(0)
        return "the pictures are one flat color" if len(looks) == 4 else None

    monkeypatch.setattr(preview, "picture_fault", second_style_bad_once)
    fresh = [tmp_path / "three", tmp_path / "four"]
    for folder in fresh:
        folder.mkdir()
    said = said_by(lambda console: train_together(configs, fresh, console))
    assert said.count("step 4: the pictures are one flat color; back to step 2 with half the learning rate") == 1
    assert [json.loads((folder / "weights.json").read_text())["lr_scale"] for folder in fresh] == [1.0, 0.5]
    assert all(torch.equal(tensor, expected[0][name]) for name, tensor in state_of(fresh[0]).items())


def test_trainings_at_different_steps_or_batch_sizes_are_not_mixed(config, other_painting, tmp_path):
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere)
        other = dataclasses.replace(config, style_image=str(other_painting), batch_size=4)
        with pytest.raises(TrainingError, match="strokes and dots cannot be trained together: batch_size is 2 and 4"):
            train_together([config, other], [tmp_path, tmp_path], console)
        with pytest.raises(TrainingError, match="needs a run folder of its own"):
            train_together([config, config], [tmp_path, tmp_path / ".." / tmp_path.name], console)
        folders = [tmp_path / "begun", tmp_path / "not_begun"]
        for folder in folders:
            folder.mkdir()
        train(config, folders[0], console)
        other = dataclasses.replace(other, batch_size=2)
        with pytest.raises(TrainingError, match="these trainings are not at the same step; go on with each alone"):
            train_together([config, other], folders, console, resume=True)
    assert len(list(folders[0].glob("step_*.json"))) == 3  # nothing was lost


def test_everything_a_step_changes_keeps_its_address(launch):
    """A CUDA graph replays writes to the addresses that it was captured with."""
    launch(0, torch.rand(2, 3, 64, 64))
    [one] = launch.updates

    def addresses():
        moments = [tensor for state in one.optimizer.state.values() for tensor in state.values()]
        nets = [*one.net.parameters(), *one.averaged_net.parameters()]
        scalars = [one._average_share, one._sums, one._counts]
        return [tensor.data_ptr() for tensor in (*moments, *nets, *scalars)]

    before = addresses()
    state = one.pack(1)
    kept = dataclasses.replace(state, tensors={name: tensor.clone() for name, tensor in state.tensors.items()})
    for step in range(1, 4):
        launch(step, torch.rand(2, 3, 64, 64))
    one.read()
    one.unpack_(kept)
    assert addresses() == before
    assert all(torch.equal(tensor, kept.tensors[name]) for name, tensor in one.pack(1).tensors.items())


def stand_in(run, content_image):
    """`captured` without a GPU: the same work, on a copy of the photos at a fixed address."""
    static = content_image.clone()

    def replay(image):
        static.copy_(image)
        run(static)

    return replay


def test_a_replayed_step_equals_a_launched_one_and_trying_it_changes_nothing(config, vgg, monkeypatch):
    monkeypatch.setattr(launch_module, "captured", stand_in)
    photos = [torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    states = []
    for captures in (False, True):
        torch.manual_seed(0)
        one = Update(config, RealtimeNet(), make_target(vgg, paint_landscape(32, 32), "fp32"), Ranks())
        launch = TrainingStep([one], Functions(content_features_of, step_losses))
        if captures:
            assert launch.capture_(torch.rand(2, 3, 64, 64)) == ""
        for step, image in enumerate(photos):
            launch(step, image)
        states.append(one.pack(4).tensors)
        assert one.peek().losses["total"] > 0
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


def breaks_the_capture(run, content_image):
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")


def gives_other_losses(run, content_image):
    return lambda image: run(image * 0.5)


def does_nothing(run, content_image):
    return lambda image: None


@pytest.mark.parametrize(
    ("capture", "why"),
    [
        (breaks_the_capture, "CUDA error: operation not permitted when stream is capturing"),
        (gives_other_losses, "loss is"),
        (does_nothing, "loss is None"),
    ],
)
def test_a_graph_that_fails_or_gives_other_losses_is_not_used(launch, monkeypatch, capture, why):
    monkeypatch.setattr(launch_module, "captured", capture)
    [one] = launch.updates
    before = {name: tensor.clone() for name, tensor in one.pack(0).tensors.items()}
    assert why in launch.capture_(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.pack(0).tensors.items())
    launch(0, torch.rand(2, 3, 64, 64))
    assert one.peek().losses["total"] > 0


@pytest.mark.parametrize("part", ["net", "averaged_net"])
def test_a_graph_that_gives_the_losses_but_does_not_train_is_not_used(launch, monkeypatch, part):
    [one] = launch.updates

    def leaves_it_as_it_is(run, content_image):
        def replay(image):
            before = [p.clone() for p in getattr(one, part).parameters()]
            run(image)
            with torch.no_grad():
                for p, old in zip(getattr(one, part).parameters(), before, strict=True):
                    p.copy_(old)

        return replay

    monkeypatch.setattr(launch_module, "captured", leaves_it_as_it_is)
    assert "does not move the weights" in launch.capture_(torch.rand(2, 3, 64, 64))


def test_a_graph_is_not_compared_with_losses_that_are_not_finite(launch, monkeypatch):
    monkeypatch.setattr(launch_module, "captured", does_nothing)
    launch.functions = Functions(
        content_features_of, lambda *arguments: {name: loss * torch.nan for name, loss in step_losses(*arguments).items()}
    )
    assert "not finite" in launch.capture_(torch.rand(2, 3, 64, 64))


def test_the_average_forgets_by_photos_not_by_steps():
    """After a number of photos, the initial weights have about the same share for any batch size."""
    kept = {}
    for batch_size in (1, 4, 16, 64):
        share = 1.0
        for step in range(32_000 // batch_size):
            share *= 1.0 - average_share(step, batch_size)
        kept[batch_size] = share
    for batch_size in (1, 16):
        assert kept[batch_size] == pytest.approx(kept[4], rel=0.5)
    assert average_share(10_000, 4) == pytest.approx(0.001)
    assert average_share(10_000, 64) == pytest.approx(1.0 - 0.999**16)


def test_a_step_that_cannot_be_compiled_says_why(config, vgg, monkeypatch):
    def no_compiler(function, **_):
        def fails(*_):
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nlong story")

        return fails

    monkeypatch.setattr(torch, "compile", no_compiler)
    one = Update(config, RealtimeNet(), make_target(vgg, paint_landscape(32, 32), "fp32"), Ranks())
    with pytest.raises(TrainingError, match="does not work here \\(Failed to find C compiler"):
        pick_functions(dataclasses.replace(config, compile="on"), one, Ranks())
    assert all(p.grad is None for p in one.net.parameters())
    assert pick_functions(config, one, Ranks()) == Functions(content_features_of, step_losses)  # "auto" on a CPU


def test_the_gram_recipe_is_content_and_gram_losses_and_the_painter_recipe_adds_to_it(config, vgg):
    torch.manual_seed(0)
    net, target = RealtimeNet(), make_target(vgg, paint_landscape(32, 32), "fp32")
    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    features = content_features_of(vgg, without(config.margin_px, image))
    places = Places(config.size_px, config.seed, image.device)
    parts = {}
    for recipe in ("gram", "painter"):
        changed = dataclasses.replace(config, recipe=recipe)
        parts[recipe] = step_losses(net, target, image, features, changed, None, places)
        weights = weights_of(changed)
        total = sum(weights[name] * loss for name, loss in parts[recipe].items() if name != "total")
        assert parts[recipe]["total"].item() == pytest.approx(total.item(), rel=1e-5)
    for name in ("wasserstein", "palette", "similarity"):
        assert parts["gram"][name] == 0
        assert parts["painter"][name] > 0
    for name in ("content", "style", "tv", "border"):
        assert parts["gram"][name] == parts["painter"][name]


def test_each_step_samples_other_places_reproducibly(config):
    def drawn(places):
        return [places.palette.clone(), *(each.clone() for each in places.wasserstein.values())]

    places = Places(64, 5, torch.device("cpu"))
    first = drawn(places)
    places.prepare(1)
    assert any(not torch.equal(old, new) for old, new in zip(first, drawn(places), strict=True))
    again = Places(64, 5, torch.device("cpu"))
    again.prepare(1)
    assert all(torch.equal(old, new) for old, new in zip(drawn(again), drawn(places), strict=True))
    for layer, at in places.wasserstein.items():
        cells = (64 >> int(layer[4]) - 1) ** 2
        assert len(at) == len(set(at.tolist())) == min(2048, cells)
        assert at.max() < cells


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_losses(config, vgg):
    target = make_target(vgg, paint_landscape(32, 32), "fp32")
    net = RealtimeNet()
    config = dataclasses.replace(config, compile="on")
    functions = pick_functions(config, Update(config, net, target, Ranks()), Ranks())
    assert functions.compiled == "on"
    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    crop = without(config.margin_px, image)
    places = Places(config.size_px, config.seed, image.device)
    plain = step_losses(net, target, image, content_features_of(vgg, crop), config, None, places)
    found = functions.step_losses(net, target, image, functions.content_features(vgg, crop), config, None, places)
    for name, loss in plain.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-3)


@pytest.mark.thorough
def test_a_network_learns_to_paint_a_shaken_photo_like_the_photo(config, vgg):
    change = {
        "recipe": "gram",
        "content_weight": 0.0,
        "style_weight": 1e-9,
        "tv_weight": 0.0,
        "border_weight": 0.0,
        "lr": 1e-3,
        "steps": 1000,
    }
    shaken = {}
    for steady in (0.0, 1.0):
        torch.manual_seed(0)
        only_steady = dataclasses.replace(config, steady=steady, **change)
        one = Update(only_steady, RealtimeNet(), make_target(vgg, paint_landscape(32, 32), "fp32"), Ranks())
        launch = TrainingStep([one], Functions(content_features_of, step_losses))
        frame = torch.from_numpy(paint_landscape(64, 64).copy()).permute(2, 0, 1) / 255
        image = frame.expand(2, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        seen = []
        for step in range(300, 340):
            launch(step, image)
            seen.append(one.read().losses["steady"])
        shaken[steady] = np.mean(seen[:5]), np.mean(seen[-5:])
    assert shaken[0.0] == (0.0, 0.0)
    assert shaken[1.0][1] < 0.7 * shaken[1.0][0]


@pytest.mark.thorough
def test_a_network_unlearns_what_it_paints_only_at_the_border(config, vgg):
    torch.manual_seed(0)
    change = {
        "recipe": "gram",
        "content_weight": 0.0,
        "style_weight": 1e-9,
        "tv_weight": 0.0,
        "steady": 0.0,
        "lr": 1e-3,
        "steps": 1000,
    }
    only_border = dataclasses.replace(config, **change)
    one = Update(only_border, RealtimeNet(), make_target(vgg, paint_landscape(32, 32), "fp32"), Ranks())
    launch = TrainingStep([one], Functions(content_features_of, step_losses))
    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    seen = []
    for step in range(300, 340):
        launch(step, image)
        seen.append(one.read().losses["border"])
    assert seen[-1] < 0.5 * seen[0]
    for none in ({"border_weight": 0.0}, {"margin_px": 0}):
        features = content_features_of(vgg, without(none.get("margin_px", 16), image))
        changed = dataclasses.replace(config, recipe="gram", **none)
        places = Places(config.size_px, config.seed, image.device)
        parts = step_losses(one.net, one.target, image, features, changed, None, places)
        assert parts["border"].item() == 0.0
        assert parts["total"].item() == pytest.approx(
            (parts["content"] + 5 * parts["style"] + 0.5 * parts["tv"]).item(), rel=1e-5
        )
