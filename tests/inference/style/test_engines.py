import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.pictures import read_picture
from allaprima.inference.style import engines, session, tiles
from allaprima.inference.style.engines import REFERENCE_PHOTOS, Choice, OpenVinoSession, choose
from allaprima.inference.style.onnx_file import read_style
from allaprima.inference.style.session import StyleSession, frame_to_image, pad_image
from allaprima.inference.style.styles import FOLDER, find_style
from allaprima.models.errors import StyleError

needs_openvino = pytest.mark.skipif(not engines.is_installed(), reason="needs OpenVINO")
GREAT_WAVE = FOLDER / "great_wave" / "realtime.onnx"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("ALLAPRIMA_ENGINE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "allaprima" / "engines.json"


def apart(found, expected):
    """Mean and largest difference, in levels of 255."""
    levels = 255.0 * np.abs(found - expected)
    return float(levels.mean()), float(levels.max())


@needs_openvino
@pytest.mark.parametrize("flavor", ["realtime", "realtime.fp16"])
@pytest.mark.parametrize("size", [(64, 64), (120, 160), (96, 200)])
def test_openvino_paints_what_onnx_runtime_paints_at_any_size(flavor, size):
    path = FOLDER / "great_wave" / f"{flavor}.onnx"
    data, _ = read_style(path)
    image = frame_to_image(paint_landscape(*size))
    given = {"content_image": image}
    expected = StyleSession(path, "cpu", engine="onnxruntime").stylize_image(image)
    mean, most = apart(OpenVinoSession(data, "fp32").run(["stylized_image"], given)[0], expected)
    assert mean < 0.1
    assert most < 1.5


def has_bf16():
    return engines.is_installed() and "bf16" in engines.precisions()


@pytest.mark.skipif(not has_bf16(), reason="needs OpenVINO and a processor with bfloat16")
@pytest.mark.parametrize("style", ["great_wave", "starry_night", "adele_bloch_bauer"])
def test_bfloat16_paints_photos_and_smoothed_noise_as_float32_does(style):
    path = find_style(f"{style}/realtime")
    exact, quick = StyleSession(path, "cpu", engine="onnxruntime"), OpenVinoSession(read_style(path)[0], "bf16")
    photos = [pad_image(frame_to_image(read_picture(path).frame), 4, 16) for path in REFERENCE_PHOTOS.glob("*.jpg")]
    assert len(photos) == 3
    for image in (*photos, engines._pictures(256)[0]):
        mean, most = apart(quick.run(["stylized_image"], {"content_image": image})[0], exact.stylize_image(image))
        assert mean <= engines.MEAN_LEVELS
        assert most <= engines.MOST_LEVELS


@needs_openvino
def test_openvino_paints_a_large_picture_in_tiles_as_onnx_runtime_does(monkeypatch):
    monkeypatch.setattr(session, "WHOLE_BYTES", 135 * 300**2)
    monkeypatch.setattr(tiles, "MAX_TILE_PX", 300)
    frame = paint_landscape(330, 410)
    monkeypatch.setattr(engines, "_trial", lambda *_: Choice("openvino", "bf16" if has_bf16() else "fp32"))
    expected, found = (
        StyleSession(GREAT_WAVE, "cpu", engine=engine).stylize(frame).astype(float) / 255 for engine in ("onnxruntime", "auto")
    )
    mean, most = apart(found, expected)
    assert mean <= engines.MEAN_LEVELS
    assert most <= engines.MOST_LEVELS + 1  # both are rounded


@needs_openvino
def test_a_run_in_openvino_can_be_stopped():
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.terminate = True
    data, _ = read_style(find_style("great_wave/quality"))
    given = {"content_image": np.zeros((1, 3, 640, 640), np.float32)}
    with pytest.raises(RuntimeError):
        OpenVinoSession(data, "fp32").run(["stylized_image"], given, options)


class Stand:
    """A session that takes `seconds` and brightens by `levels`."""

    def __init__(self, seconds, levels=0.0):
        self.seconds, self.levels, self.runs = seconds, levels, 0

    def run(self, wanted, given, options=None):
        self.runs += 1
        time.sleep(self.seconds)
        return [given["content_image"] + self.levels / 255]


class Core:
    def get_property(self, device, name):
        return {"OPTIMIZATION_CAPABILITIES": ["BF16", "FP32"], "FULL_DEVICE_NAME": "a processor"}[name]


@pytest.fixture
def stand_ins(monkeypatch):
    """OpenVINO's sessions by precision, to be filled in by the test."""
    sessions = {}
    monkeypatch.setattr(engines, "engine_trouble", lambda: "")
    monkeypatch.setattr(engines, "is_installed", lambda: True)
    monkeypatch.setattr(engines, "_core", lambda: Core())
    monkeypatch.setattr(engines, "OpenVinoSession", lambda data, precision: sessions[precision])
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda name: "1")
    monkeypatch.setattr(engines, "_form", lambda data: data.decode().partition(" ")[0])
    monkeypatch.setattr(engines, "TRIAL_S", 0.05)
    engines._machine.cache_clear()
    engines._say_once.cache_clear()
    yield sessions
    engines._machine.cache_clear()


@pytest.mark.parametrize(
    ("bf16", "fp32", "engine", "precision", "why"),
    [
        (Stand(0.0), Stand(0.0), "openvino", "bf16", "OpenVINO's bf16 takes"),
        (Stand(0.0, levels=0.6), Stand(0.0), "openvino", "fp32", "bf16 is up to 0.6 levels of 255 off; OpenVINO's fp32"),
        (Stand(0.0, levels=np.nan), Stand(0.05), "onnxruntime", "fp32", "bf16 is up to nan levels"),
        (Stand(0.05, levels=9.0), Stand(0.0), "openvino", "fp32", "OpenVINO's bf16 takes"),
        (Stand(0.05), Stand(0.05), "onnxruntime", "fp32", "OpenVINO's fp32 takes"),
    ],
)
def test_the_trial_chooses_what_is_faster_and_accurate_enough(stand_ins, bf16, fp32, engine, precision, why):
    stand_ins |= {"bf16": bf16, "fp32": fp32}
    found = choose(b"a style", lambda: Stand(0.01), "auto")
    assert (found.engine, found.precision) == (engine, precision)
    assert why in found.why


def test_times_are_measured_once_per_kind_of_network_and_accuracy_once_per_style(stand_ins, cache, caplog):
    caplog.set_level("INFO", "allaprima")
    stand_ins["bf16"] = Stand(0.0)
    assert engines.choice_so_far(b"realtime 1") is None
    first = choose(b"realtime 1", lambda: Stand(0.01), "auto")
    assert caplog.messages == ["trying which engine paints faster on this processor (once for each style)"]
    assert [key.partition(";")[0].partition(" ")[2] for key in json.loads(cache.read_bytes())] == [
        "bf16, ms",
        "bf16, levels off",
    ]
    assert choose(b"realtime 1", lambda: pytest.fail("another trial"), "auto") == engines.choice_so_far(b"realtime 1") == first
    stand_ins["bf16"] = Stand(0.0, levels=0.6)
    stand_ins["fp32"] = Stand(0.5)
    assert choose(b"realtime 2", lambda: Stand(0.01), "auto").engine == "onnxruntime"  # accuracy is measured for each style
    stand_ins["bf16"] = Stand(0.5)
    assert choose(b"realtime 3", lambda: Stand(0.01), "auto").why.startswith(first.why)  # the time is not measured again
    assert choose(b"quality 1", lambda: Stand(0.01), "auto").engine == "onnxruntime"


@pytest.mark.parametrize("damage", ["no json", "[]", "3", "{}"])
def test_a_damaged_or_unwritable_cache_only_costs_another_trial(stand_ins, cache, damage, monkeypatch):
    stand_ins |= {"bf16": Stand(0.0), "fp32": Stand(0.0)}
    cache.parent.mkdir(parents=True)
    cache.write_text(damage)
    assert choose(b"a style", lambda: Stand(0.01), "auto").engine == "openvino"
    assert "a processor" in cache.read_text()
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert choose(b"a style", lambda: Stand(0.01), "auto").engine == "openvino"


def test_a_requested_engine_is_used_without_a_trial_or_says_why_not(stand_ins, monkeypatch):
    stand_ins |= {"bf16": Stand(0.05), "fp32": Stand(0.05)}
    assert choose(b"a style", lambda: Stand(0.0), "openvino").engine == "openvino"
    assert choose(b"a style", lambda: pytest.fail("a trial"), "onnxruntime") == Choice("onnxruntime")
    monkeypatch.setattr(engines, "engine_trouble", lambda: "OpenVINO does not load: no lib")
    with pytest.raises(StyleError, match="OpenVINO does not load: no lib"):
        choose(b"a style", lambda: Stand(0.0), "openvino")
    assert choose(b"a style", lambda: Stand(0.0), "auto") == Choice("onnxruntime", why="OpenVINO does not load: no lib")
    monkeypatch.setenv("ALLAPRIMA_ENGINE", "tvm")
    with pytest.raises(StyleError, match="there is no engine 'tvm'; one of auto, onnxruntime, openvino is wanted"):
        choose(b"a style", lambda: Stand(0.0), "auto")


def test_without_openvino_onnx_runtime_paints_and_asking_for_openvino_fails(monkeypatch):
    monkeypatch.setattr(engines, "is_installed", lambda: False)
    assert choose(b"a style", lambda: pytest.fail("a trial"), "auto") == Choice("onnxruntime")
    with pytest.raises(StyleError, match=r"OpenVINO is not installed; .*openvino"):
        StyleSession(GREAT_WAVE, "cpu", engine="openvino")


@needs_openvino
def test_frame_files_are_painted_only_by_onnx_runtime():
    frame_file = FOLDER / "great_wave" / "realtime.frame.onnx"
    assert StyleSession(frame_file, "cpu").engine == Choice("onnxruntime")
    with pytest.raises(StyleError, match="is a frame file, which ONNX Runtime alone paints with"):
        StyleSession(frame_file, "cpu", engine="openvino")


@needs_openvino
def test_openvino_writes_nothing_into_the_home_but_our_cache_of_trials(tmp_path):
    code = "import allaprima; allaprima.Style('great_wave', engine='openvino')"
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME")
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [
        Path(".cache/allaprima/engines.json")
    ]
