"""Trainings that are killed, run out of disk space or find damaged checkpoints end with exactly the same weights."""

import dataclasses
import errno
import io
import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from allaprima.inference import atomic
from allaprima.inference.landscape import paint_landscape
from allaprima.models.errors import StyleError, TrainingError
from allaprima.training.checkpoint import checkpoint_path, load_state, load_weights, save_weights
from allaprima.training.config import TrainConfig

THREADS = torch.get_num_threads()
sys.path.insert(0, str(Path(__file__).parent))
import killed_run  # noqa: E402 (sets the threads to one)

sys.path.pop(0)
torch.set_num_threads(THREADS)

SYSTEM_CALLS = ("open", "write", "fsync", "close", "chmod", "replace", "unlink")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # as in the processes that are killed
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(5):
        Image.fromarray(paint_landscape(40, 50 + i, seed=i)).save(folder / f"{i}.png")
    painting = tmp_path_factory.mktemp("painting") / "strokes.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(painting)
    return TrainConfig(
        style_image=str(painting),
        photos=str(folder),
        steps=12,
        batch_size=2,
        size_px=32,
        style_size_px=32,
        device="cpu",
        precision="fp32",
        init="none",
        vgg19="tiny",
        preview_every=100,
        checkpoint_every=3,
        workers=2,
    )


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    sys.path.insert(0, str(Path(__file__).parent))
    context.set_forkserver_preload(["killed_run"])
    yield context
    sys.path.pop(0)


def finish(processes, config, run_folder, target=killed_run.run, *more) -> int:
    process = processes.Process(target=target, args=(config, run_folder, *more))
    process.start()
    process.join(300)
    return process.exitcode


class Undisturbed(NamedTuple):
    """A training that was never stopped and prepared photos without threads: step and SHA-256, and how long it took."""

    digest: tuple[int, str]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(processes, config, tmp_path_factory) -> Undisturbed:
    run_folder = tmp_path_factory.mktemp("whole")
    assert finish(processes, dataclasses.replace(config, workers=0), run_folder) == 0
    card = json.loads((run_folder / "weights.json").read_text())
    return Undisturbed(killed_run.digest(run_folder), card["seconds"])


def strays(run_folder) -> list[str]:
    return [path.name for path in run_folder.iterdir() if path.name.endswith(".part")]


@pytest.mark.thorough
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_training_killed_at_random_moments_ends_with_the_same_sha256(processes, config, undisturbed, tmp_path, kills):
    """Kills come anywhere from the first step to the end, so mostly in the middle of a step or a save."""
    rng = random.Random(kills)
    killed, resumed, done = 0, 0, 0
    while killed < kills:
        said = tmp_path / "said.txt"
        starts = said.read_text().count("VGG-19 and network") if said.exists() else 0
        changed = dataclasses.replace(config, workers=killed % 3)
        process = processes.Process(target=killed_run.run, args=(changed, tmp_path))
        process.start()
        while process.is_alive() and (not said.exists() or said.read_text().count("VGG-19 and network") == starts):
            time.sleep(0.005)
        process.join(rng.uniform(0.0, undisturbed.seconds))
        if process.is_alive():
            process.kill()
            killed += 1
        process.join()
        before, done = done, max([int(path.stem[5:]) for path in tmp_path.glob("step_*.json")], default=0)
        assert done >= before, "a checkpoint got lost"
        resumed += done > 0
        for path in tmp_path.glob("step_*.json"):
            load_state(path.with_suffix(".safetensors"))  # all must be readable
        if (tmp_path / "weights.safetensors").exists() and killed < kills:  # finished before its last kill, so start over
            assert killed_run.digest(tmp_path) == undisturbed.digest
            for path in tmp_path.iterdir():
                if path.is_file():
                    path.unlink()
            done = 0
    assert resumed  # otherwise, the moments were badly chosen
    assert finish(processes, config, tmp_path) == 0
    assert killed_run.digest(tmp_path) == undisturbed.digest
    assert not strays(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_a_training_that_dies_at_any_system_call_of_a_save_ends_with_the_same_sha256(processes, config, tmp_path, call):
    short = dataclasses.replace(config, steps=4, checkpoint_every=2)
    (tmp_path / "whole").mkdir()
    assert finish(processes, short, tmp_path / "whole") == 0
    deaths = 0
    for number in range(1, 100):
        run_folder = tmp_path / str(number)
        run_folder.mkdir()
        code = finish(processes, short, run_folder, killed_run.run_until_call, call, number)
        if code == 77:  # all calls have been tried
            break
        assert code == 9
        deaths += 1
        for path in run_folder.glob("step_*.json"):
            load_state(path.with_suffix(".safetensors"))
        assert finish(processes, short, run_folder) == 0
        assert killed_run.digest(run_folder) == killed_run.digest(tmp_path / "whole")
        assert not strays(run_folder)
    assert deaths or call == "unlink"  # nothing is unlinked while there are few checkpoints


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_an_error_at_any_system_call_of_a_save_leaves_a_complete_file(tmp_path, monkeypatch, call, kind):
    path = tmp_path / "step_000001.safetensors"
    save_weights(path, {"a": torch.zeros(3)}, {"step": 1})
    real = getattr(os, call)
    number = 0
    failures = 0
    for at in range(1, 20):
        number = 0

        def fails(*args, at=at, **kwargs):
            nonlocal number
            number += 1
            if number == at:
                if call == "close":
                    real(*args, **kwargs)  # Linux closes the file even if it reports an error
                raise OSError(kind, os.strerror(kind))
            return real(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(atomic.os, call, fails)
            said = ""
            try:
                save_weights(path, {"a": torch.full((3,), float(at))}, {"step": 1})
            except TrainingError as error:
                said = str(error)
        failures += bool(said)
        assert not said or os.strerror(kind) in said
        value = load_weights(path)[0]["a"]
        assert value.unique().numel() == 1
        assert value[0] in (0.0, *map(float, range(1, at + 1)))
        assert len(list(tmp_path.iterdir())) <= 2 or call == "unlink", sorted(p.name for p in tmp_path.iterdir())
        if number < at:
            break
    assert failures or call == "unlink"  # nothing is unlinked unless something else failed first


def say_to(config, run_folder, monkeypatch, **changes) -> str:
    """Runs a training in this process and returns what it printed."""
    from allaprima.training import loop, preview, start

    monkeypatch.setattr(start, "load_vgg19", lambda source, device="cpu": killed_run.VGG)
    monkeypatch.setattr(preview, "PREVIEW_PX", 32)
    said = io.StringIO()
    try:
        loop.train(dataclasses.replace(config, **changes), run_folder, Console(file=said, width=400), resume=True)
    except TrainingError as error:
        said.write(f"STOPPED {error}")
    return said.getvalue()


def full_disk(monkeypatch, is_full) -> None:
    real = os.write

    def write(handle, data):
        if is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    monkeypatch.setattr(atomic.os, "write", write)


def test_a_temporarily_full_disk_is_reported_at_once_and_the_result_is_the_same(config, undisturbed, tmp_path, monkeypatch):
    from allaprima.training import loop, runs

    monkeypatch.setattr(runs, "LOG_EVERY", 2)
    first = checkpoint_path(tmp_path, 3).with_suffix(".json")
    full_disk(monkeypatch, lambda: first.exists() and not (tmp_path / "now").exists())
    real = loop.to_image
    steps = []

    def room_at_step_10(*args):
        steps.append(0)
        if len(steps) == 10:
            (tmp_path / "now").touch()
        return real(*args)

    monkeypatch.setattr(loop, "to_image", room_at_step_10)
    said = say_to(config, tmp_path, monkeypatch)
    assert "step 6 is NOT saved" in said
    assert "No space left" in said
    assert "STOPPED" not in said
    assert killed_run.digest(tmp_path) == undisturbed.digest


def test_a_permanently_full_disk_is_an_error_and_the_last_checkpoint_can_be_loaded(config, tmp_path, monkeypatch):
    from allaprima.training import runs

    waits = []
    monkeypatch.setattr(runs.time, "sleep", waits.append)
    full_disk(monkeypatch, lambda: checkpoint_path(tmp_path, 3).with_suffix(".json").exists())
    said = say_to(config, tmp_path, monkeypatch)
    assert "STOPPED" in said.splitlines()[-1]
    assert "weights.safetensors cannot be written: No space left" in said.splitlines()[-1]
    assert len(waits) == len(runs.LAST_SAVES_S)
    assert load_state(checkpoint_path(tmp_path, 3))[0].step == 3
    assert [path.name for path in tmp_path.glob("step_*.safetensors")] == ["step_000003.safetensors"]  # each has its card
    assert not strays(tmp_path)


def test_a_damaged_newest_checkpoint_is_named_and_the_previous_one_is_used(config, undisturbed, tmp_path, monkeypatch):
    say_to(config, tmp_path, monkeypatch)
    newest = checkpoint_path(tmp_path, 12)
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "weights.safetensors").unlink()
    said = say_to(config, tmp_path, monkeypatch)
    assert "step_000012.safetensors is not a weights file of ours" in said
    assert "going on at step 9 of 12" in said
    assert killed_run.digest(tmp_path) == undisturbed.digest


def test_the_network_that_was_best_on_the_preview_photos_is_kept_too(config, tmp_path, monkeypatch):
    from allaprima.training.checkpoint import load_net

    say_to(config, tmp_path, monkeypatch)
    _, card = load_net(tmp_path / "best.safetensors")
    assert card["preview"]["total"] == pytest.approx(card["best"])
    assert card["step"] in (3, 6, 9, 12)


def test_a_picture_that_goes_bad_rolls_the_training_back_with_half_the_learning_rate(config, tmp_path, monkeypatch):
    from allaprima.training import preview

    looks = []

    def fault(*_):
        looks.append(0)
        return "the pictures are one flat color" if len(looks) == 2 else None

    monkeypatch.setattr(preview, "picture_fault", fault)
    said = say_to(config, tmp_path, monkeypatch)
    assert "step 6: the pictures are one flat color; back to step 3 with half the learning rate (time 1 of at most 3)" in said
    card = json.loads((tmp_path / "weights.json").read_text())
    assert (card["lr_scale"], card["rollbacks"], card["step"]) == (0.5, 1, 12)
    assert (tmp_path / "preview_000006.png").exists()  # the bad picture is kept
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_a_picture_that_stays_bad_stops_the_training_after_three_times(config, tmp_path, monkeypatch):
    from allaprima.training import preview

    monkeypatch.setattr(preview, "picture_fault", lambda *_: "blobs")
    said = say_to(config, tmp_path, monkeypatch)
    assert said.count("back to step 0") == 3  # there was never a good checkpoint
    assert "STOPPED step 3: blobs; 3 times the training went back" in said
    assert not list(tmp_path.glob("step_*"))


def header_of(tensors: dict, metadata: dict | None) -> bytes:
    text = json.dumps(tensors | ({"__metadata__": metadata} if metadata is not None else {})).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "header is damaged"),
        ((2**62).to_bytes(8, "little") + b"{}", "header is damaged"),
        ((2**21).to_bytes(8, "little") + b" " * (2**21 + 8), "header is damaged"),
        (b"\x02\0\0\0\0\0\0\0{}", "card"),
        (header_of({}, {"card": "[]"}), "its card is not an object"),
        (header_of({}, {"card": "[" * 100_000}), ""),
        (header_of({f"t{i}": {} for i in range(1001)}, {"card": "{}"}), "1001 tensors, at most 1000"),
        (
            header_of({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, {"card": "{}"}) + b"\0" * 8,
            "F32 or F16 is wanted",
        ),
        (header_of({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, {"card": "{}"}) + b"\0" * 4, ""),
        (
            header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, {"card": '{"tier": ["quality"]}'})
            + b"\0" * 4,
            "",
        ),
        (b"\x80\x02cos\nsystem\n(S'touch pwned'\ntR.", "header is damaged"),
    ],
    ids=str,
)
def test_a_hostile_or_foreign_checkpoint_is_refused_in_one_line(tmp_path, data, why):
    from allaprima.training.checkpoint import load_net

    path = tmp_path / "step_000001.safetensors"
    path.write_bytes(data)
    for load in (load_net, load_state):
        with pytest.raises(StyleError) as caught:
            load(path)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert not (tmp_path / "pwned").exists()


def test_a_file_larger_than_any_of_ours_is_not_even_read(tmp_path):
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as file:
        file.truncate(2**38)  # sparse
    with pytest.raises(StyleError, match=r"262144 MB, at most 128 are wanted"):
        load_state(path)


def test_partial_files_of_a_killed_save_are_cleared_and_others_stay(tmp_path):
    (tmp_path / ".step_000003.safetensors.abc.part").write_bytes(b"x")
    (tmp_path / "my.part").write_bytes(b"x")
    atomic.remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my.part"]


def test_rolling_back_to_the_start_works_more_than_once(config):
    from allaprima.models.image_transform_net import RealtimeNet
    from allaprima.training.launch import TrainingStep
    from allaprima.training.ranks import Ranks
    from allaprima.training.style_image import make_target
    from allaprima.training.update import Functions, Update, content_features_of, step_losses

    update = Update(config, RealtimeNet(), make_target(killed_run.VGG, paint_landscape(32, 32), "fp32"), Ranks())
    launch = TrainingStep([update], Functions(content_features_of, step_losses))
    first = {name: tensor.clone() for name, tensor in update.pack(0).tensors.items()}
    kept = dataclasses.replace(update.pack(0), tensors={name: tensor.clone() for name, tensor in first.items()})
    for _ in range(2):
        launch(0, torch.rand(2, 3, 64, 64))
        update.unpack_(kept)
    launch(0, torch.rand(2, 3, 64, 64))
    assert all(torch.equal(kept.tensors[name], tensor) for name, tensor in first.items())


def test_a_checkpoint_that_is_temporarily_unreadable_is_not_deleted(config, tmp_path, monkeypatch):
    say_to(config, tmp_path, monkeypatch)
    newest = checkpoint_path(tmp_path, 12)
    (tmp_path / "weights.safetensors").unlink()
    real = Path.read_bytes

    def fails(path):
        if path == newest:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    said = say_to(config, tmp_path, monkeypatch)
    assert "STOPPED" in said
    assert "step_000012.safetensors cannot be read: Input/output error" in said
    assert newest.exists()


@pytest.mark.parametrize(
    "card",
    [{"rollbacks": "x"}, {"lr_scale": "x"}, {"lr_scale": float("nan")}, {"best": []}, {"seconds": 10**400}, {"step": -1}],
)
def test_a_checkpoint_with_an_invalid_card_is_refused(config, tmp_path, monkeypatch, card):
    good = {"step": 3, "seconds": 1.0, "losses": {"content": 0.5}, "options": {"precision": "fp32"}}
    path = checkpoint_path(tmp_path, 3)
    save_weights(path, {"a": torch.zeros(1)}, good)
    load_state(path)
    save_weights(path, {"a": torch.zeros(1)}, good | card)
    with pytest.raises(StyleError, match="is not a checkpoint of ours"):
        load_state(path)


def test_photos_that_were_repaired_no_longer_stop_a_resumed_training(tmp_path):
    from allaprima.training.record import BadPhotos

    path = tmp_path / "skipped.txt"
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere)
        bad = BadPhotos("photos", 6, path, console)
        with pytest.raises(TrainingError, match="2 photos in photos are damaged, more than 20%"):
            bad.note(["a.jpg is empty", "b\udce9.jpg is empty"])
        again = BadPhotos("photos", 6, path, console)
        again.note([])
        again.note(["a.jpg is empty"])
    assert len(path.read_text().splitlines()) == 2  # each once
