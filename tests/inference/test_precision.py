"""Which precision is chosen for cameras, and for films if a rate is asked for."""

import pytest

from allaprima.inference import precision
from allaprima.inference.live.rack import StyleRack
from allaprima.inference.precision import pick_precision
from allaprima.inference.style.styles import find_style, flavor_of

PATHS = {name: find_style(f"{name}/realtime") for name in ("great_wave", "starry_night")}


@pytest.fixture
def timed(monkeypatch):
    """A function that sets the time of each precision, in milliseconds."""

    def set_times(fp32: float, int8: float) -> None:
        def took(session, height, width, seconds):
            return int8 if session.contract.precision == "int8" else fp32

        monkeypatch.setattr(precision, "bare_session_ms", took)

    return set_times


def test_int8_is_chosen_if_needed_and_faster(timed):
    timed(fp32=90, int8=50)
    paths, found = pick_precision(PATHS, "cpu", 25, (480, 640))
    assert list(paths) == ["great_wave.int8", "starry_night.int8"]
    assert paths["starry_night.int8"].name == "realtime.int8.onnx"
    assert found == "int8 50 ms, fp32 90 ms a picture of 640x480"
    assert StyleRack(paths, "cpu").first.contract.precision == "int8"


@pytest.mark.parametrize(("fp32", "int8", "target"), [(30, 10, 25), (90, 85, 25), (90, 50, 0)])
def test_fp32_stays_if_it_is_fast_enough_or_about_as_fast_or_no_rate_is_asked_for(timed, fp32, int8, target):
    timed(fp32, int8)
    assert pick_precision(PATHS, "cpu", target, (480, 640))[0] == PATHS


def test_the_users_own_file_stays(timed, tmp_path):
    timed(90, 50)
    own = tmp_path / "own.onnx"
    own.write_bytes(PATHS["great_wave"].read_bytes())
    chosen = {"int8": flavor_of(PATHS["great_wave"], "int8")}
    assert pick_precision({"own": own}, "cpu", 25, (480, 640)) == ({"own": own}, "")
    assert pick_precision(chosen, "cpu", 25, (480, 640)) == (chosen, "")
    mixed, _ = pick_precision({"great_wave": PATHS["great_wave"], "own": own}, "cpu", 25, (480, 640))
    assert list(mixed) == ["great_wave.int8", "own"]


def test_the_real_trial_times_both_precisions():
    _, found = pick_precision({"great_wave": PATHS["great_wave"]}, "cpu", 1000, (96, 128))
    assert "fp32" in found
    assert "int8" in found
