import dataclasses
import os
import re
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from rich.console import Console

from allaprima.inference.color import LINEAR_METHODS, color_statistics, luminance
from allaprima.inference.landscape import paint_landscape
from allaprima.models.errors import OptimizeError
from allaprima.models.vgg import load_vgg19
from allaprima.training import device as device_module
from allaprima.training import losses
from allaprima.training.classic import optimize as optimize_module
from allaprima.training.classic.descent import Step
from allaprima.training.classic.optimize import (
    Scene,
    control_color,
    default_style_weight,
    descend_through_scales,
    load_scene,
    optimize,
)
from allaprima.training.config import COLOR_CONTROLS, STYLE_WEIGHT, OptimizeConfig

CONSOLE = Console(quiet=True)
FAST = ("--size", "48", "--vgg19", "tiny", "--device", "cpu", "--precision", "fp32")
SMALL = {"iterations": 4, "size_px": 48, "vgg19": "tiny", "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> Path:
    """A landscape, 96x72 px, without very dark or light colors, where a change of luminance would be clipped."""
    path = tmp_path_factory.mktemp("content") / "lake.png"
    Image.fromarray(paint_landscape(72, 96) // 2 + 64).save(path)
    return path


@pytest.fixture
def paint(content, painting, tmp_path) -> Callable[..., np.ndarray]:
    """A function that optimizes and returns the result."""

    def paint_with(name: str = "out.png", **options: object) -> np.ndarray:
        config = OptimizeConfig(**{"content": str(content), "styles": (str(painting),), **SMALL, **options})
        optimize(config, tmp_path / name, CONSOLE, overwrite=True)
        frame = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert frame is not None
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    return paint_with


def test_color_controls_have_the_names_of_the_color_modes():
    assert ("none", "luminance", "histogram", *LINEAR_METHODS) == COLOR_CONTROLS


def test_the_result_has_the_contents_aspect(paint):
    assert paint().shape == (36, 48, 3)
    assert paint(size_px=500).shape == (72, 96, 3)  # a smaller photo keeps its size
    assert paint(scales=1, size_px=41).shape == (31, 41, 3)


def test_the_same_seed_gives_the_same_picture_and_another_seed_does_not(paint):
    first = paint(init="noise", seed=3)
    np.testing.assert_array_equal(paint(init="noise", seed=3), first)
    assert np.abs(paint(init="noise", seed=4).astype(int) - first).mean() > 5


def test_luminance_only_keeps_the_chroma_exactly(paint, content):
    painted = paint(keep_color="luminance").astype(int)
    with Image.open(content) as image:
        before = np.asarray(image.resize((48, 36), Image.Resampling.LANCZOS)).astype(int)
    change = painted - before
    unclipped = ((painted > 0) & (painted < 255)).all(axis=2)
    assert unclipped.mean() > 0.8
    assert np.ptp(change[unclipped], axis=1).max() == 0  # the same for R, G and B, so I and Q are unchanged
    assert np.abs(change).max() > 5  # something was painted


def test_luminance_of_the_style_gets_the_contents_mean_and_deviation(landscape):
    style = paint_landscape(64, 64, seed=3) // 3
    matched = control_color("luminance", landscape, style)
    y, wanted = luminance(matched).astype(float), luminance(landscape).astype(float)
    assert np.ptp(matched, axis=2).max() == 0
    assert y.mean() == pytest.approx(wanted.mean(), abs=1.5)
    assert y.std() == pytest.approx(wanted.std(), rel=0.03)


@pytest.mark.parametrize("mode", LINEAR_METHODS)
def test_linear_recoloring_gives_the_style_the_contents_mean_and_covariance(mode):
    rng = np.random.default_rng(0)
    content = (128 + rng.normal(0, 12, (60, 60, 3)) @ [[1, 0.6, 0.1], [0, 0.7, 0.3], [0, 0, 0.9]]).clip(0, 255).astype(np.uint8)
    style = (110 + rng.normal(0, 25, (50, 70, 3)) @ [[0.9, 0, 0.2], [0.4, 1, 0], [0, 0.3, 0.8]]).clip(0, 255).astype(np.uint8)
    mean, covariance = color_statistics(control_color(mode, content, style))
    wanted_mean, wanted_covariance = color_statistics(content)
    np.testing.assert_allclose(mean, wanted_mean, atol=0.6)
    np.testing.assert_allclose(covariance, wanted_covariance, rtol=0.03, atol=2.0)


def test_the_default_style_weight_means_the_same_in_every_normalization():
    content, style = {"relu4_2": 7 * torch.rand(1, 4, 5, 5)}, {"relu1_1": torch.rand(1, 6, 6), "relu2_1": torch.rand(1, 3, 3)}
    assert default_style_weight(content, style, "unitless") == pytest.approx(STYLE_WEIGHT)
    black = {"relu4_2": torch.zeros(1, 4, 5, 5), "relu1_1": torch.zeros(1, 6, 2, 2), "relu2_1": torch.zeros(1, 3, 2, 2)}
    for normalization in ("gatys", "johnson"):
        weight = default_style_weight(content, style, normalization)
        parts = [losses.content_loss(black, content, normalization), losses.style_loss(black, style, normalization)]
        assert weight * parts[1].item() == pytest.approx(STYLE_WEIGHT * parts[0].item())
    assert default_style_weight({}, style, "unitless") == pytest.approx(STYLE_WEIGHT)


def test_color_control_changes_the_target_not_the_photo(content, painting):
    for mode in ("histogram", *LINEAR_METHODS):
        scene = load_scene(OptimizeConfig(str(content), (str(painting),), keep_color=mode, size_px=96))
        plain = load_scene(OptimizeConfig(str(content), (str(painting),), size_px=96))
        np.testing.assert_array_equal(scene.content_frame, plain.content_frame)
        assert not np.array_equal(scene.style_frames[0], plain.style_frames[0])


def test_a_blend_with_a_weight_of_zero_ignores_that_style(paint, content, painting):
    alone = paint()
    blended = paint(styles=(str(painting), str(content)), style_blend=(2.0, 0.0))
    np.testing.assert_array_equal(blended, alone)
    mixed = paint(styles=(str(painting), str(content)))
    assert np.abs(mixed.astype(int) - alone).max() > 5


def test_scales_go_from_coarse_to_fine_and_share_the_iterations(content, painting):
    config = OptimizeConfig(str(content), (str(painting),), **{**SMALL, "size_px": 96, "scales": 2, "iterations": 5})
    steps = list(descend_through_scales(config, load_scene(config), load_vgg19("tiny"), "fp32"))
    assert [step.iteration for step in steps] == [0, 1, 2, 3, 4, 5]
    assert [tuple(step.image.shape[2:]) for step in steps] == [(36, 48)] * 3 + [(72, 96)] * 3


def test_sixteen_bits_are_the_same_picture_but_finer(paint):
    coarse, fine = paint(), paint(bits=16)
    assert fine.dtype == np.uint16
    assert np.abs(fine / 257 - coarse).max() <= 0.51
    assert len(np.unique(fine)) > len(np.unique(coarse))
    tiff = paint("out.tif", bits=16, keep_color="luminance")
    assert tiff.dtype == np.uint16


def test_sixteen_bits_do_not_fit_into_a_jpeg(run, content, painting, tmp_path):
    code, _, err = run("optimize", content, painting, "-o", tmp_path / "out.jpg", "--bits", "16", "--vgg19", "tiny")
    assert code == 1
    assert "give a .png or .tif" in err


def test_snapshots_are_files_and_a_sheet(run, content, painting, tmp_path, monkeypatch):
    sheets, contact_sheet = [], optimize_module.contact_sheet
    monkeypatch.setattr(optimize_module, "contact_sheet", lambda *a: (sheets.append(a), contact_sheet(*a))[1])
    options = [
        "--iterations",
        "6",
        "--snapshots",
        "0,3,6",
        "--size",
        "48",
        "--vgg19",
        "tiny",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    code, out, _ = run("optimize", content, painting, "-o", tmp_path / "out.png", *options, *FAST)
    assert code == 0
    assert f"look at {tmp_path / 'out_snapshots.png'}" in out
    names = ["out.png", "out_000000.png", "out_000003.png", "out_000006.png", "out_snapshots.png"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == names
    with Image.open(content) as image, Image.open(tmp_path / "out_000000.png") as first:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(image.resize((48, 36), Image.Resampling.LANCZOS)))
    with Image.open(tmp_path / "out_snapshots.png") as sheet:
        assert sheet.width > 3 * 320
    [(frames, labels)] = [(frames[0], labels[0]) for frames, labels, _ in sheets]
    assert len(frames) == 3
    assert re.fullmatch(r"3: content [\d.e-]+ style [\d.e-]+", labels[1])


def test_the_average_is_the_result_if_asked_for(paint, monkeypatch):
    images: list[torch.Tensor] = []
    descend = optimize_module.descend

    def noted(*arguments):
        for step in descend(*arguments):
            images.append(step.image)
            yield step

    monkeypatch.setattr(optimize_module, "descend", noted)
    averaged = paint(average=True).astype(float) / 255
    expected = images[0]
    for i, image in enumerate(images[1:], 1):
        share = i / (9 + i)
        expected = share * expected + (1 - share) * image
    np.testing.assert_allclose(averaged, expected[0].permute(1, 2, 0).numpy(), atol=0.5 / 255 + 1e-5)
    assert (expected - images[-1]).abs().max() > 0.02


def test_the_average_forgets_the_initial_picture():
    average = torch.zeros(1)
    for i in range(1, 301):
        average = optimize_module.moving_average(average, i, torch.ones(1))
    assert average.item() > 0.99


def test_ctrl_c_keeps_the_best_picture_so_far(run, content, painting, tmp_path, monkeypatch):
    descend = optimize_module.descend

    def interrupted(*arguments):
        for step in descend(*arguments):
            if step.iteration == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    monkeypatch.setattr(optimize_module, "descend", interrupted)
    options = ["--iterations", "100000"]
    code, _, err = run("optimize", content, painting, "-o", tmp_path / "out.png", *options, *FAST)
    assert code == 130
    assert f"stopped after 3 iterations; the best picture so far is {tmp_path / 'out.png'}" in err
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), None])
def test_the_best_picture_is_kept_whatever_happens(content, painting, tmp_path, monkeypatch, error):
    pictures = [torch.full((1, 3, 36, 48), light) for light in (0.2, 0.4, 0.6)]

    def made_up(*_):
        for i, total in enumerate([3.0, 1.0, 2.0]):
            yield Step(i, pictures[i], {"content": 0.0, "style": 0.0, "tv": 0.0, "total": total})
        if error:
            raise error

    monkeypatch.setattr(optimize_module, "descend", made_up)
    config = OptimizeConfig(str(content), (str(painting),), **SMALL)
    with pytest.raises(type(error)) if error else nullcontext():
        optimize(config, tmp_path / "out.png", CONSOLE)
    with Image.open(tmp_path / "out.png") as out:
        assert out.getpixel((0, 0)) == (102, 102, 102)


def test_the_expected_time_is_printed(run, content, painting, tmp_path):
    options = ["--iterations", "7"]
    _, out, _ = run("optimize", content, painting, "-o", tmp_path / "out.png", *options, *FAST)
    assert "7 iterations will take about" in out
    assert "s each at 48x36 px" in out


def test_the_expected_time_counts_less_for_smaller_scales():
    config = OptimizeConfig("", (), iterations=300, scales=2)
    text = optimize_module.expected_time(config, torch.zeros(1, 3, 50, 100), 1.0, (100, 200))
    assert "300 iterations will take about 12 min" in text  # 150 at 1 s and 150 at 4 s


def test_existing_files_are_refused_before_the_work_begins(run, content, painting, tmp_path, monkeypatch):
    monkeypatch.setattr(optimize_module, "load_vgg19", lambda *_: pytest.fail("the work began"))
    (tmp_path / "out_000002.png").write_text("precious")
    code, _, err = run("optimize", content, painting, "-o", tmp_path / "out.png", "--snapshots", "2", "--vgg19", "tiny")
    assert code == 1
    assert "out_000002.png exists; give --overwrite" in err


def test_too_large_a_picture_is_refused_with_a_size_that_fits(content, painting, tmp_path, monkeypatch):
    monkeypatch.setattr(device_module, "free_bytes", lambda _: 10 * 2**20)
    config = OptimizeConfig(str(content), (str(painting),), **{**SMALL, "size_px": 96})
    with pytest.raises(OptimizeError, match=r"96x72 px need about .* GB.*; --size (\d+) would fit") as caught:
        optimize(config, tmp_path / "out.png", CONSOLE)
    size = int(str(caught.value).split("--size ")[1].split(" ")[0])
    assert 32 <= size < 96
    optimize(dataclasses.replace(config, size_px=size), tmp_path / "out.png", CONSOLE)
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_says_what_would_fit(content, painting, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(optimize_module, "descend", fail)
    config = OptimizeConfig(str(content), (str(painting),), **{**SMALL, "size_px": 96})
    with pytest.raises(OptimizeError, match="--size 64 would fit"):
        optimize(config, tmp_path / "out.png", CONSOLE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--content-layers", "relu9_1"], 'no layer "relu9_1" in VGG-19; there are conv1_1'),
        (["--style-layer-weights", "1,2"], "--style-layer-weights has 2 numbers; 5 are needed"),
        (["--style-blend", "0"], "--style-blend is all zero"),
        (["--snapshots", "9999"], "--snapshots has 9999; numbers from 0 to --iterations (500)"),
        (["--scales", "4"], "at least 128 px a side are needed for 4 scales"),
        (["--style-layers", "relu1_1,relu1_1"], "--style-layers names a layer twice"),
        (["--seed", "99999999999999999999"], "less than 2^63"),
        (["--init", "nowhere.png"], "nowhere.png cannot be read"),
        (["-o", "nowhere/out.png"], "there is no folder nowhere"),
        (["-o", "out.xyz"], 'no format for ".xyz"'),
    ],
)
def test_what_cannot_be_optimized_says_why(run, content, painting, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    fixed = ("--vgg19", "tiny", "--device", "cpu", "-o", "out.png")
    code, _, err = run("optimize", content, painting, *fixed, *options)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "0"], "argument --iterations: 0 is not a whole number, 1 or more"),
        (["--size", "20"], "argument --size: 20 is not a whole number, 32 or more"),
        (["--style-weight", "-1"], "argument --style-weight: -1.0; a finite number of at least 0 is needed"),
        (["--style-weight", "nan"], "argument --style-weight: nan; a finite number"),
    ],
)
def test_numbers_out_of_range_are_usage_errors(run, capsys, content, painting, options, message):
    with pytest.raises(SystemExit) as stopped:
        run("optimize", content, painting, *options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_picture_too_thin_for_vgg19_is_named(run, painting, tmp_path):
    Image.new("RGB", (400, 20)).save(tmp_path / "thin.png")
    code, _, err = run("optimize", tmp_path / "thin.png", painting, "--size", "100", "--vgg19", "tiny")
    assert code == 1
    assert "thin.png gives 100x5 px; at least 16 px a side" in err


def test_transparency_of_the_content_is_kept(content, painting, tmp_path):
    with Image.open(content) as image:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(tmp_path / "clear.png")
    optimize(OptimizeConfig(str(tmp_path / "clear.png"), (str(painting),), **SMALL), tmp_path / "out.png", CONSOLE)
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == "RGBA"
        assert out.size == (48, 36)


def test_sixteen_bits_keep_transparency_and_turn_a_profile_into_srgb(content, painting, tmp_path):
    with Image.open(content) as image:
        clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clear.save(tmp_path / "clear.png", icc_profile=profile)
    config = OptimizeConfig(str(tmp_path / "clear.png"), (str(painting),), bits=16, **SMALL)
    optimize(config, tmp_path / "out.png", CONSOLE)
    out = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert out is not None
    assert (out.shape, out.dtype) == ((36, 48, 4), np.uint16)
    alpha = np.asarray(clear.getchannel("A").resize((48, 36), Image.Resampling.LANCZOS)).astype(int) * 257
    np.testing.assert_array_equal(out[:, :, 3], alpha)


def test_a_picture_of_a_coarse_scale_is_saved_at_full_size(content, painting):
    scene: Scene = load_scene(OptimizeConfig(str(content), (str(painting),), size_px=96))
    assert optimize_module.to_picture(torch.rand(1, 3, 36, 48), scene, 8).frame.shape == (72, 96, 3)
    assert optimize_module.to_picture(torch.rand(1, 1, 36, 48), scene, 16).frame.shape == (72, 96, 3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_with_trained_weights_the_total_falls_in_every_hundred_iterations_from_noise(real_vgg19, tmp_path, optimizer):
    Image.fromarray(paint_landscape(160, 200, seed=1)).save(tmp_path / "photo.png")
    Image.fromarray(paint_landscape(160, 200, seed=5)[::-1]).save(tmp_path / "painting.png")
    config = OptimizeConfig(
        str(tmp_path / "photo.png"), (str(tmp_path / "painting.png"),), size_px=128, init="noise", optimizer=optimizer
    )
    vgg = load_vgg19(real_vgg19)
    totals = [step.losses["total"] for step in descend_through_scales(config, load_scene(config), vgg, "fp32")]
    lowest = [min(totals[i : i + 100]) for i in range(0, 500, 100)]
    assert lowest == sorted(lowest, reverse=True)
    assert lowest[-1] < 0.2 * totals[0]
