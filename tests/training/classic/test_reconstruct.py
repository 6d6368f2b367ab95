import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allaprima.models.vgg import load_vgg19
from allaprima.training.classic import reconstruct as reconstruct_module
from allaprima.training.classic.descent import descend
from allaprima.training.classic.reconstruct import make_objective

FAST = ("--iterations", "3", "--size", "32", "--vgg19", "tiny", "--device", "cpu", "--precision", "fp32")


def test_one_sheet_has_the_picture_and_a_cell_for_each_layer_and_kind(run, photo, tmp_path):
    layers = ("--layers", "conv1_1,conv2_1,relu3_1")
    code, out, _ = run("reconstruct", photo, "-o", tmp_path / "sheet.png", *layers, *FAST)
    assert code == 0
    for text in (
        "content from conv1_1",
        "content from relu3_1",
        "style from conv1_1 to conv2_1",
        "style from conv1_1 to relu3_1",
    ):
        assert text in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 4 * (256 + 8) + 8
        both = sheet.height
    assert run("reconstruct", photo, "-o", tmp_path / "one.png", *layers, "--what", "style", *FAST)[0] == 0
    with Image.open(tmp_path / "one.png") as sheet:
        assert sheet.height == both // 2


def test_content_uses_one_layer_and_style_all_layers_up_to_it(landscape):
    vgg = load_vgg19("tiny")
    layers = ("conv1_1", "conv2_1")
    content = make_objective("content", layers, vgg, vgg, landscape)
    style = make_objective("style", layers, vgg, vgg, landscape)
    assert (list(content.content_features), list(content.style_grams)) == (["conv2_1"], [])
    assert (list(style.content_features), list(style.style_grams)) == ([], ["conv1_1", "conv2_1"])


def test_noise_becomes_the_picture_that_the_first_layer_saw(landscape):
    vgg = load_vgg19("tiny")
    frame = landscape[:32, :32]
    image = torch.tensor(frame).permute(2, 0, 1)[None] / 255.0
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    *_, last = descend(noise, make_objective("content", ("conv1_1",), vgg, vgg, frame), 40)
    assert (last.image - image).abs().mean() < 0.05 * (noise - image).abs().mean()


def test_ctrl_c_saves_what_was_done(run, photo, tmp_path, monkeypatch):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        for step in descend(*arguments):
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    monkeypatch.setattr(reconstruct_module, "descend", interrupted)
    code, _, err = run("reconstruct", photo, "-o", tmp_path / "sheet.png", *FAST)
    assert code == 130
    assert "what was done is in" in err
    assert len(calls) == 2
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.asarray(sheet).std() > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "conv9_1"], 'no layer "conv9_1"'),
        (["--layers", "conv1_1,conv1_1"], "--layers is empty or names a layer twice"),
        (["-o", "sheet.doc"], 'no format for ".doc"'),
    ],
)
def test_what_cannot_be_reconstructed_says_why(run, photo, tmp_path, options, message):
    code, _, err = run("reconstruct", photo, "-o", tmp_path / "sheet.png", *FAST, *options)
    assert code == 1
    assert message in err
    assert not (tmp_path / "sheet.png").exists()


def test_a_sheet_that_exists_is_kept(run, photo, tmp_path):
    path = Path(tmp_path / "sheet.png")
    path.write_text("precious")
    assert run("reconstruct", photo, "-o", path, *FAST)[0] == 1
    assert path.read_text() == "precious"
