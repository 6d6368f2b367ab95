"""`import allaprima`: the interface for Python programs."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import allaprima
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import paint_photo
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style, shipped_styles
from allaprima.models.errors import StyleError, TrainingError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def style(style_file):
    return allaprima.Style(style_file)


def test_an_array_is_painted_as_stylize_paints_it(style, style_file, landscape):
    session = StyleSession(style_file)
    np.testing.assert_array_equal(style(landscape), paint_photo(session, landscape, StylizeOptions()))
    how = StylizeOptions("luminance", strength=0.5, strokes=8.0)
    painting = style(landscape, keep_color="luminance", strength=0.5, strokes=8.0)
    np.testing.assert_array_equal(painting, paint_photo(session, landscape, how))


def test_a_view_of_an_array_is_painted_too(style, landscape):
    np.testing.assert_array_equal(style(landscape[::-1, ::-1]), style(landscape[::-1, ::-1].copy()))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "I;16", "RGBA", "LA", "1"])
def test_a_pil_image_of_any_mode_is_painted_like_a_file_and_keeps_its_size(style, landscape, mode, tmp_path):
    image = Image.fromarray(landscape)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image = Image.fromarray(landscape[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    before = image.tobytes()
    painting = style(image)
    assert image.tobytes() == before
    assert painting.size == image.size
    assert painting.mode == ("RGBA" if mode in ("RGBA", "LA") else "RGB")
    image.save(tmp_path / "photo.tif")
    assert np.abs(np.asarray(style(Image.open(tmp_path / "photo.tif"))).astype(int) - np.asarray(painting)).max() == 0


def test_a_photo_from_a_phone_is_painted_upright(style, landscape):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # needs a turn of 90 degrees clockwise
    Image.fromarray(np.rot90(landscape)).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(style(Image.open(file))), style(landscape))


def test_a_style_may_be_a_name_a_file_or_its_bytes(style_file, landscape):
    wave = allaprima.Style("great_wave")
    assert wave.card["painter"] == "Katsushika Hokusai"
    assert wave.strokes == wave.card["strokes"]
    data = find_style("great_wave").read_bytes()
    np.testing.assert_array_equal(allaprima.Style(data)(landscape), wave(landscape))
    assert allaprima.Style(str(style_file)).card["title"] == "Strokes"


def test_styles_are_listed_once_and_all_can_be_found():
    names = allaprima.styles()
    assert len(set(names)) == len(names)
    assert set(names) == {style.name for style in shipped_styles()}
    assert all(find_style(name) for name in names)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("photo.jpg", "photo is a str; a PIL image or a"),
        (np.zeros((4, 4, 3)), r"photo is \(4, 4, 3\) float64; \(H, W, 3\) uint8"),
        (np.zeros((4, 4), np.uint8), r"photo is \(4, 4\) uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"photo is \(0, 4, 3\) uint8"),
    ],
)
def test_what_is_not_a_photo_is_refused(style, photo, message):
    with pytest.raises((TypeError, ValueError), match=message):
        style(photo)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 2.0}, "--strength is 2.0; at most 1 is wanted"),
        ({"strength": float("nan")}, "--strength is nan"),
        ({"keep_color": "hue"}, '--keep-color is "hue"; one of none, luminance, histogram, linear is wanted'),
        ({"strokes": -1.0}, "--strokes is -1"),
        ({"strokes": "fine"}, "--strokes is fine"),
        ({"detail": 7.0}, "--detail is 7.0; at most 1"),
        ({"max_side_px": 0.5}, "--max-side is 0.5; a whole number"),
    ],
)
def test_an_option_out_of_range_is_named(style, landscape, options, message):
    with pytest.raises(StyleError, match=re.escape(message)):
        style(landscape, **options)


def test_the_defaults_are_those_of_the_command_line():
    from allaprima.command_line import build_parser

    options = build_parser().parse_args(["stylize", "photo.jpg", "-s", "great_wave"])
    for name, default in allaprima.Style.__call__.__kwdefaults__.items():
        assert getattr(options, name) == default, name


def test_a_style_is_trained_as_on_the_command_line(painting, photo_folder, tmp_path, landscape):
    options = {"steps": 2, "size_px": 64, "margin_px": 0, "style_size_px": 64, "batch_size": 1, "vgg19": "random"}
    more = {"precision": "fp32", "compile": "off", "init": "none"}
    style = allaprima.train(painting, str(photo_folder), tmp_path / "run", quick=True, title="Mine", **options, **more)
    assert style == tmp_path / "run" / "style.onnx"
    assert allaprima.Style(style).card["title"] == "Mine"
    assert allaprima.Style(style)(landscape).shape == landscape.shape
    with pytest.raises(TrainingError, match="holds a training"):
        allaprima.train(painting, photo_folder, tmp_path / "run")
    with pytest.raises(TypeError, match="train has no option brush; there are style_image, photos, tier, into, steps"):
        allaprima.train(painting, photo_folder, tmp_path / "other", brush="large")
    with pytest.raises(TrainingError, match="there is no painting"):
        allaprima.train(tmp_path / "gone.jpg", photo_folder, tmp_path / "other")


def test_importing_allaprima_imports_nothing_heavy():
    code = "import sys, allaprima; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in run.stdout.split()}
    assert not {"numpy", "PIL", "cv2", "onnxruntime", "torch", "av", "rich"} & packages


STYLE_FILE = str(find_style("the_scream"))


@pytest.mark.parametrize(
    "code",
    [
        f"import allaprima; allaprima.Style({STYLE_FILE!r})",
        f"from allaprima.inference.style.session import StyleSession; StyleSession({STYLE_FILE!r})",
        f"import allaprima.training.export.export as export; export.onnxruntime.InferenceSession({STYLE_FILE!r})",
        "from allaprima.command_line import main; main(['demo', '-o', 'sheet.png'])",
    ],
)
def test_nothing_is_written_into_the_users_home(code, tmp_path):
    """ONNX Runtime 1.29 and newer, and OpenVINO, would write telemetry there. Only our cache of engine trials is allowed."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = os.environ | {"HOME": str(home)}
    for name in ("ALLAPRIMA_ENGINE", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, check=True)
    assert [path.name for path in home.rglob("*") if path.is_file()] in ([], ["engines.json"])


@pytest.mark.parametrize("page", ["README.md", "inference/style/README.md"])
def test_the_docs_examples_run_as_printed(page, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(import allaprima\n.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    Image.fromarray(paint_landscape(120, 160)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        (tmp_path / "painting.png").unlink(missing_ok=True)
        exec(block, {})
        with Image.open("painting.png") as painting:
            assert painting.size == (160, 120)
