import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from allaprima.inference.landscape import paint_landscape
from allaprima.models.errors import Interrupted, StyleError, TrainingError
from allaprima.models.image_transform_net import TIERS
from allaprima.models.options import choices_of
from allaprima.models.vgg import load_vgg19
from allaprima.training import launch, loop, losses, preview, start, update
from allaprima.training.checkpoint import checkpoint_path, latest_checkpoint, load_net, load_state, save_weights
from allaprima.training.config import TrainConfig
from allaprima.training.loop import train
from allaprima.training.style_image import inside_of, plain_border_text, read_style_image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(painting, photo_folder):
    return TrainConfig(
        style_image=str(painting),
        photos=str(photo_folder),
        steps=4,
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
def random_vgg():
    return load_vgg19("tiny")


@pytest.fixture(autouse=True)
def one_vgg_for_all(random_vgg, monkeypatch):
    """Drawing 20 million random weights takes a second, and previews of 256 px take longer than the steps here."""
    monkeypatch.setattr(start, "load_vgg19", lambda source, device="cpu": random_vgg)
    monkeypatch.setattr(preview, "PREVIEW_PX", 48)


@pytest.fixture
def console():
    with open(os.devnull, "w") as nowhere:
        yield Console(file=nowhere)


def test_a_run_folder_holds_all_documented_files(config, tmp_path, console):
    weights = train(config, tmp_path, console)
    assert weights == tmp_path / "weights.safetensors"
    names = {path.name for path in tmp_path.iterdir()}
    assert {"metrics.jsonl", "step_000002.safetensors", "step_000002.json", "step_000004.safetensors"} <= names
    assert {"step_000004.json", "preview_000004.png", "weights.safetensors", "weights.json"} <= names
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert set(row) == {"step", *update.PARTS, "photos_per_s"}
    card = json.loads((tmp_path / "weights.json").read_text())
    assert card["photos_seen"] == 8
    assert "/" not in card["options"]["style_image"]


def test_a_resumed_training_gives_the_same_weights_as_one_never_stopped(config, tmp_path, console):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    expected = safetensors.torch.load_file(train(config, whole, console))
    train(config, parts, console)
    for late in ("step_000004.safetensors", "step_000004.json", "weights.safetensors"):
        (parts / late).unlink()
    weights = safetensors.torch.load_file(train(config, parts, console, resume=True))
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def test_the_loss_falls_on_one_photo(config, tmp_path, console, landscape):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(landscape[:64, :64]).save(folder / "one.png")
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    changed = dataclasses.replace(
        config, photos=str(folder), steps=50, batch_size=1, size_px=64, lr=5e-3, checkpoint_every=50, preview_every=50
    )
    train(changed, run_folder, console)
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["total"] < 0.7 * rows[0]["total"]


def test_persistently_non_finite_losses_roll_the_training_back_three_times_and_then_stop_it(config, tmp_path, monkeypatch):
    good = update.step_losses
    calls = []

    def bad_from_third(*arguments):
        calls.append(0)
        parts = good(*arguments)
        return parts if len(calls) < 3 else {name: loss * torch.nan for name, loss in parts.items()}

    monkeypatch.setattr(launch, "step_losses", bad_from_third)
    said = io.StringIO()
    with pytest.raises(TrainingError, match=r"not finite in 3 steps in a row; 3 times .*--lr"):
        train(dataclasses.replace(config, steps=9), tmp_path, Console(file=said, width=400))
    assert said.getvalue().count("step 5: loss or gradient was not finite in 3 steps in a row; back to step 2") == 3
    assert len(calls) == 2 + 4 * 3
    state, _ = load_state(latest_checkpoint(tmp_path))
    assert state.step == 2
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())


def test_one_bad_loss_is_skipped_and_training_goes_on(config, tmp_path, console, monkeypatch):
    good = update.step_losses
    calls = []

    def second_is_bad(*arguments):
        calls.append(0)
        parts = good(*arguments)
        return parts if len(calls) != 2 else {name: loss * torch.inf for name, loss in parts.items()}

    monkeypatch.setattr(launch, "step_losses", second_is_bad)
    weights = safetensors.torch.load_file(train(config, tmp_path, console))
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_an_interrupt_saves_and_says_how_to_resume(config, tmp_path, console, monkeypatch):
    good = update.step_losses

    def interrupt(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return good(*arguments)

    monkeypatch.setattr(launch, "step_losses", interrupt)
    store = tmp_path / "store"
    with pytest.raises(Interrupted, match=r"--resume"):
        train(dataclasses.replace(config, checkpoint_every=100, photo_store=str(store)), tmp_path, console)
    assert not list(store.glob(".*.part"))
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 1)


def test_a_flat_painting_is_refused(config, tmp_path, console):
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "flat.png")
    with pytest.raises(TrainingError, match=r"flat\.png is one flat color"):
        train(dataclasses.replace(config, style_image=str(tmp_path / "flat.png")), tmp_path, console)


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_only_the_visible_part_of_a_painting_is_learned(tmp_path, hidden):
    rng = np.random.default_rng(0)
    visible = rng.integers(40, 200, (64, 64, 3), dtype=np.uint8)
    alpha = np.zeros((64, 64), np.uint8)
    alpha[8:40, 20:64] = 255
    alpha[40, 20:64] = 128  # a soft edge
    pixels = np.where(alpha[:, :, None] > 0, visible, np.uint8(hidden))
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "x.png")
    frame = read_style_image(str(tmp_path / "x.png"), 64)
    np.testing.assert_array_equal(frame[8:40, 20:64], visible[8:40, 20:64])
    np.testing.assert_array_equal(frame[40:63, 20:64], visible[16:39, 20:64][::-1])  # mirrored downward
    np.testing.assert_array_equal(frame[8:40, :20], visible[8:40, 21:41][:, ::-1])  # and to the left
    assert frame.min() >= 40
    assert frame.max() < 200


def test_a_painting_that_cannot_be_seen_or_is_tiny_is_refused(config, tmp_path, console):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    pixels[:, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    Image.fromarray(pixels[:31, :, :3]).save(tmp_path / "tiny.png")
    with pytest.raises(TrainingError, match=r"clear\.png is transparent all over"):
        train(dataclasses.replace(config, style_image=str(tmp_path / "clear.png")), tmp_path, console)
    with pytest.raises(TrainingError, match=r"tiny\.png is 64x31 px; at least 32 px a side"):
        train(dataclasses.replace(config, style_image=str(tmp_path / "tiny.png")), tmp_path, console)


@pytest.mark.parametrize(("bad", "stops"), [(2, False), (4, True)])
def test_a_fifth_of_the_photos_may_be_damaged_but_not_more(config, tmp_path, console, landscape, bad, stops):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        Image.fromarray(landscape).save(folder / f"{i}.jpg")
        if i < bad:
            (folder / f"{i}.jpg").write_bytes(b"\xff\xd8 cut short")
    changed = dataclasses.replace(config, photos=str(folder), steps=6)
    if stops:
        with pytest.raises(TrainingError, match=r"\d photos in .* are damaged, more than 20%"):
            train(changed, tmp_path, console)
    else:
        train(changed, tmp_path, console)
        assert json.loads((tmp_path / "weights.json").read_text())["bad_photos"] == bad
        assert len((tmp_path / "skipped.txt").read_text().splitlines()) == bad


def test_only_the_newest_checkpoints_are_kept(config, tmp_path, console):
    train(dataclasses.replace(config, steps=6, checkpoint_every=1), tmp_path, console)
    steps = sorted(path.stem for path in tmp_path.glob("step_*.safetensors"))
    assert steps == ["step_000004", "step_000005", "step_000006"]


def test_init_starts_from_another_styles_network(config, tmp_path, console):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    weights = train(config, first, console)
    train(dataclasses.replace(config, init=str(weights), steps=1, lr=1e-300), second, console)
    a, b = safetensors.torch.load_file(weights), safetensors.torch.load_file(second / "weights.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(TrainingError, match="--tier is quality"):
        train(dataclasses.replace(config, init=str(weights), tier="quality"), second, console)


def test_weights_files_that_are_not_ours_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    with pytest.raises(StyleError, match=r"x\.safetensors is not a weights file of ours"):
        load_net(tmp_path / "x.safetensors")
    save_weights(tmp_path / "y.safetensors", {"a": torch.zeros(1)}, {"tier": "realtime"})
    with pytest.raises(StyleError, match="does not fit the realtime network"):
        load_net(tmp_path / "y.safetensors")
    save_weights(tmp_path / "z.safetensors", {"a": torch.zeros(1)}, {"tier": "huge"})
    with pytest.raises(StyleError, match="'huge'; one of quality, realtime"):
        load_net(tmp_path / "z.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 100}, "--size is 100; a multiple of 16"),
        ({"steps": 0}, "--steps is 0; at least 1"),
        ({"style_weight": float("nan")}, "--style-weight is nan"),
        ({"lr": 0.0}, "--lr is 0.0; a number above 0"),
        ({"lr": -1.0}, "--lr is -1.0; a finite number"),
        ({"style_weight": 0.0, "content_weight": 0.0}, "--style-weight and --content-weight are both 0"),
        ({"seed": -1}, "--seed is -1; at least 0"),
        ({"steps": 3.5}, "--steps is 3.5; a whole number"),
        ({"tier": "tiny"}, '--tier is "tiny"; one of quality, realtime'),
    ],
)
def test_impossible_options_are_named(config, change, message):
    with pytest.raises(TrainingError, match=message):
        dataclasses.replace(config, **change)


def test_options_can_be_saved_and_read_back(config, tmp_path):
    path = tmp_path / "options.json"
    path.write_text(config.to_json())
    assert TrainConfig.read(path) == config
    for junk in (b'{"brush": 3}', b"\xff\xfe", b"[]"):
        path.write_bytes(junk)
        with pytest.raises(TrainingError, match="not an options file"):
            TrainConfig.read(path)


def test_choices_of_the_command_line_agree_with_the_code():
    assert set(choices_of(TrainConfig, "tier")) == set(TIERS)
    image, features = torch.rand(1, 3, 8, 8), {"a": torch.rand(1, 2, 4, 4)}
    grams = {"a": losses.gram_matrix(torch.rand(1, 2, 4, 4))}
    values = [
        losses.perceptual_losses(image, features, {"a": torch.rand(1, 2, 4, 4)}, grams, 1, 1, 1, name)["total"].item()
        for name in choices_of(TrainConfig, "normalization")
    ]
    assert len(set(values)) == len(values)


def test_the_result_is_the_average_of_the_weights_not_the_last_weights(config, tmp_path, console):
    weights = safetensors.torch.load_file(train(config, tmp_path, console))
    state, _ = load_state(latest_checkpoint(tmp_path))
    for name, tensor in weights.items():
        assert torch.equal(tensor, state.tensors[f"ema.{name}"])
    assert any(not torch.equal(tensor, state.tensors[f"net.{name}"]) for name, tensor in weights.items())
    first, _ = load_state(checkpoint_path(tmp_path, 2))
    assert any(not torch.equal(tensor, first.tensors[f"ema.{name}"]) for name, tensor in weights.items())


def test_the_learning_rate_rises_and_falls(config):
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(net.parameters())
    rates = []
    for step in range(200):
        update.set_learning_rate_(optimizer, dataclasses.replace(config, steps=200, lr=1.0), step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) <= 10
    assert rates[105] == pytest.approx(0.5, abs=0.02)
    assert rates[-1] == pytest.approx(0.01, abs=0.001)


def test_bf16_trains_to_nearly_the_same_losses(config, tmp_path, console, monkeypatch):
    # Rounding errors are larger with the thin layers of "tiny".
    monkeypatch.setattr(start, "load_vgg19", lambda source, device="cpu": load_vgg19("random"))
    parts = []
    for precision in ("fp32", "bf16"):
        run_folder = tmp_path / precision
        run_folder.mkdir()
        train(dataclasses.replace(config, precision=precision, steps=2), run_folder, console)
        card = json.loads((run_folder / "weights.json").read_text())
        assert card["options"]["precision"] == precision
        parts.append(card["losses"])
    for name in ("content", "style"):
        assert parts[1][name] == pytest.approx(parts[0][name], rel=0.1)


def test_auto_precision_is_decided_once_and_kept(config, tmp_path, console, monkeypatch):
    picked = []
    pick = start.pick_precision
    monkeypatch.setattr(start, "pick_precision", lambda c, *rest: (picked.append(c), pick(c, *rest))[1])
    auto = dataclasses.replace(config, precision="auto")
    train(auto, tmp_path, console)
    train(auto, tmp_path, console, resume=True)
    assert picked[0] == "auto"
    assert picked[1] in ("fp32", "bf16")


def test_resuming_a_finished_training_changes_nothing(config, tmp_path, console):
    expected = safetensors.torch.load_file(train(config, tmp_path, console))
    weights = safetensors.torch.load_file(train(config, tmp_path, console, resume=True))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_a_gradient_that_is_not_finite_never_reaches_weights_or_checkpoints(config, tmp_path, console, monkeypatch):
    good = update.step_losses
    calls = []

    def bad_gradient_from_third(*arguments):
        calls.append(0)
        parts = good(*arguments)
        if len(calls) >= 3:
            parts["total"].register_hook(lambda gradient: gradient * torch.nan)
        return parts

    monkeypatch.setattr(launch, "step_losses", bad_gradient_from_third)
    with pytest.raises(TrainingError, match="not finite in 3 steps in a row"):
        train(dataclasses.replace(config, steps=9, checkpoint_every=1), tmp_path, console)
    for path in tmp_path.glob("step_*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_state(path)[0].tensors.values()), path


@pytest.mark.parametrize("color", [(255, 255, 255), (20, 30, 10)])
def test_a_plain_border_is_found_reported_and_cut(tmp_path, color):
    inner = paint_landscape(96, 128)
    frame = np.full((160, 200, 3), color, np.uint8)
    frame[20:116, 30:158] = inner
    Image.fromarray(frame).save(tmp_path / "framed.jpg", quality=85)
    config = TrainConfig(str(tmp_path / "framed.jpg"), "photos")
    whole = read_style_image(config.style_image, 160)
    assert whole.shape == (160, 200, 3)
    text = plain_border_text(config, whole)
    share = int(text.split("%")[0])
    assert abs(share - 100 * (1 - 96 * 128 / (160 * 200))) <= 6
    assert "--crop-border cuts it off" in text
    cut = read_style_image(config.style_image, 96, crop_border=True)
    assert abs(cut.shape[1] / cut.shape[0] - 128 / 96) < 0.05
    assert np.abs(cut[8:88, 8:120].mean((0, 1)) - inner[8:88, 8:120].mean((0, 1))).max() < 8
    assert not plain_border_text(config, cut)


def test_a_painting_without_a_border_is_not_cut():
    frame = paint_landscape(96, 128)
    assert inside_of(frame) == (slice(0, 96), slice(0, 128))
    plain = np.full((40, 50, 3), 200, np.uint8)
    assert inside_of(plain) == (slice(0, 40), slice(0, 50))


def test_a_resumed_training_does_not_need_the_init_file(config, tmp_path, console):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    init = train(config, first, console)
    changed = dataclasses.replace(config, init=str(init))
    train(changed, second, console)
    init.unlink()
    train(changed, second, console, resume=True)


def test_a_missing_device_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(TrainingError, match="--device cuda is not available"):
        loop.pick_device("cuda")


def command(*arguments: object, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "allaprima", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_train_interrupt_resume_export_and_stylize_by_command_line(painting, photo_folder, photo, tmp_path):
    """A user's whole workflow: Ctrl-C in the middle, --resume, then the .onnx paints a photo."""
    options = (
        "--steps 150 --batch-size 1 --size 32 --init none --style-size 32 --vgg19 tiny --precision fp32 --checkpoint-every 5"
    )
    training = command("train", painting, "--photos", photo_folder, "-o", "run", *options.split(), cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("step_*.json")) and time.monotonic() < deadline:
        assert training.poll() is None, training.communicate()[0]
        time.sleep(0.01)
    os.killpg(training.pid, signal.SIGINT)  # to the whole group, as a terminal does
    out, _ = training.communicate(timeout=120)
    assert training.returncode == 130, out
    assert "allaprima train --resume run" in out

    again = command("train", painting, "--photos", photo_folder, "-o", "run", *options.split(), cwd=tmp_path)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 1
    assert "holds a training; go on with --resume run" in out

    moved = shutil.copytree(photo_folder, tmp_path / "moved")
    options_before = (tmp_path / "run" / "options.json").read_text()
    (tmp_path / "run" / "options.json").write_text(options_before.replace(str(photo_folder), str(tmp_path / "gone")))
    lost = command("train", "--resume", "run", cwd=tmp_path)
    out, _ = lost.communicate(timeout=120)
    assert lost.returncode == 1
    assert "say where they are: --resume run --photos FOLDER" in out
    found = command("train", "--resume", "run", "--photos", moved, "--dry-run", cwd=tmp_path)
    out, _ = found.communicate(timeout=120)
    assert found.returncode == 0, out
    assert str(moved) in out
    resumed = command("train", "--resume", "run", "--photos", moved, cwd=tmp_path)
    out, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, out
    assert "going on at step" in out
    assert "allaprima stylize PHOTO --style run/style.onnx" in out.replace("\n", " ")

    painted = command("stylize", photo, "--style", "run/style.onnx", "-o", "painted.png", cwd=tmp_path)
    out, _ = painted.communicate(timeout=60)
    assert painted.returncode == 0, out
    assert np.asarray(Image.open(tmp_path / "painted.png")).shape == (120, 160, 3)


def test_a_training_without_any_finite_step_says_so(config, tmp_path):
    with pytest.raises(TrainingError, match="nothing was learned: loss or gradient was not finite at any step"):
        train(dataclasses.replace(config, style_weight=1e38, steps=2), tmp_path / "run", Console(file=io.StringIO()))
    assert not (tmp_path / "run" / "weights.safetensors").exists()
