import dataclasses
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from allaprima.inference.console import duration_text
from allaprima.training.config import TrainConfig
from allaprima.training.quick import QUICK, quick_config

SMALL = "--steps 2 --batch-size 1 --size 32 --init none --vgg19 random --device cpu --precision fp32"


@pytest.fixture(autouse=True)
def small_previews(monkeypatch):
    from allaprima.training import preview

    monkeypatch.setattr(preview, "PREVIEW_PX", 32)


def test_a_quick_training_starts_from_the_base_and_keeps_the_users_options():
    quick = quick_config(TrainConfig("a.jpg", "photos", steps=77, style_weight=8.0))
    assert quick.steps == 77
    assert quick.style_weight == 8.0
    assert quick.size_px == QUICK["size_px"]
    assert quick.init == "base"
    assert quick_config(TrainConfig("a.jpg", "photos", init="mine.safetensors")).init == "mine.safetensors"


@pytest.mark.thorough
def test_quick_says_how_long_the_full_training_would_take(run, painting, photo_folder, tmp_path):
    code, out, err = run("train", painting, "--photos", photo_folder, "-o", tmp_path / "q", "--quick", *SMALL.split())
    assert code == 0, err
    assert "this was a preview" in out
    assert "The full training (10,000 steps of 4 photos at 256 px) would take about" in out
    assert f"allaprima train {shlex.quote(str(painting))}" in out
    assert (tmp_path / "q" / "style.onnx").exists()


@pytest.mark.thorough
def test_a_sweep_trains_every_pair_once_and_shows_them_on_one_sheet(run, painting, photo_folder, tmp_path):
    command = ["sweep", painting, "--photos", photo_folder, "-o", tmp_path, *SMALL.split()]
    pairs = ["--style-weights", "2,5", "--style-sizes", "32,48"]
    code, out, err = run(*command, *pairs)
    assert code == 0, err
    assert f"look at {tmp_path / 'sweep.png'}" in out
    runs = sorted(path.parent.name for path in tmp_path.glob("*/weights.safetensors"))
    assert runs == ["weight_2_size_32", "weight_2_size_48", "weight_5_size_32", "weight_5_size_48"]
    options = json.loads((tmp_path / "weight_2_size_48" / "options.json").read_text())
    assert (options["style_weight"], options["style_size_px"]) == (2.0, 48)
    assert np.asarray(Image.open(tmp_path / "sweep.png")).shape[1] > 1000
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/weights.safetensors")}
    assert run(*command, *pairs)[0] == 0  # nothing is trained twice
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/weights.safetensors")}
    assert run(*command, "--seed", "9", *pairs[:2])[0] == 0  # another sweep: all are trained again, at the default size
    assert (tmp_path / "weight_2_size_512" / "weights.safetensors").exists()


def test_the_folder_of_photos_may_be_set_in_the_environment(run, painting, photo_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ALLAPRIMA_PHOTOS", str(photo_folder))
    code, out, _ = run("train", painting, "--dry-run", "-o", tmp_path / "r")
    assert code == 0
    assert f'"photos": "{photo_folder}"' in out
    monkeypatch.delenv("ALLAPRIMA_PHOTOS")
    code, _, err = run("train", painting, "--dry-run", "-o", tmp_path / "r")
    assert code == 1
    assert "cocodataset.org" in err


def test_durations_are_given_in_a_suitable_unit():
    assert [duration_text(seconds) for seconds in (40, 2100, 9400)] == ["40 seconds", "35 minutes", "2.6 hours"]


def test_a_style_weight_that_is_a_word_is_refused():
    from allaprima.models.errors import TrainingError

    with pytest.raises(TrainingError, match="--style-weight is much"):
        dataclasses.replace(TrainConfig("a", "b"), style_weight="much")


def test_import_and_bench_refuse_what_they_cannot_do(run, tmp_path):
    code, _, err = run("import", tmp_path / "nowhere.pth", "-o", tmp_path / "new.safetensors")
    assert code == 1
    assert "nowhere.pth" in err
    (tmp_path / "new.safetensors").write_text("mine")
    code, _, err = run("import", tmp_path / "nowhere.pth", "-o", tmp_path / "new.safetensors")
    assert code == 1
    assert "exists; give --overwrite" in err
    assert (tmp_path / "new.safetensors").read_text() == "mine"
    code, _, err = run("bench", "--training")
    assert code == 1
    assert "a PAINTING and --photos FOLDER are needed" in err


def test_a_run_folder_among_the_photos_is_refused(run, painting, photo_folder):
    code, _, err = run("train", painting, "--photos", photo_folder, "-o", photo_folder / "run")
    assert code == 1
    assert "lies among the photos, where its previews would be learned, too; give another -o" in err
    assert not (photo_folder / "run").exists()
