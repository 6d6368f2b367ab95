"""The measure of steadiness: what moves along with the film is steady; what does not is counted as an error."""

import json

import numpy as np
import pytest
from films import drifting, write_film

from allaprima.inference.film.steadiness import FILM, Movement, measure
from allaprima.inference.options import StylizeOptions
from allaprima.inference.style.styles import find_style

FRAMES = drifting(8, 192, 256)


def test_what_moves_along_has_no_error_and_a_change_is_measured():
    movement = Movement(FRAMES[0], FRAMES[1])
    assert movement.sure.mean() > 0.9
    assert movement.moving[movement.sure].mean() > 0.9
    assert movement.error(FRAMES[0], FRAMES[1])[movement.sure].mean() < 3
    assert (
        movement.error(FRAMES[0], FRAMES[0])[movement.sure].mean()
        > 3 * movement.error(FRAMES[0], FRAMES[1])[movement.sure].mean()
    )
    gray = np.full_like(FRAMES[0], 128)
    assert abs(movement.error(gray, gray + 20)[movement.sure].mean() - 20) < 1e-3


def test_a_cut_is_not_compared():
    other = np.ascontiguousarray(255 - FRAMES[0][::-1])
    assert Movement(FRAMES[0], other).sure.mean() < 0.5


def test_what_is_hidden_is_not_compared():
    before, after = FRAMES[0].copy(), FRAMES[0].copy()
    before[60:120, 40:100], after[60:120, 56:116] = 255, 255  # a square that moves to the right
    movement = Movement(before, after)
    assert movement.sure[60:120, 44:52].mean() < 0.6  # the background that it uncovers
    assert movement.sure[:, 150:].mean() > 0.95
    assert not movement.moving[:, 150:].any()


def test_a_film_and_its_painting_are_measured(tmp_path):
    film = write_film(tmp_path / "film.mp4", FRAMES)
    result = measure(film, {"wave": find_style("great_wave/realtime")}, StylizeOptions())
    assert (result["pairs"], result["size"]) == (7, [256, 192])
    assert result["moving"] > 0.8
    errors = result["errors"]
    assert 0 < errors[FILM]["whole"] < 4
    assert errors[FILM]["whole"] < errors["wave"]["whole"] < errors["wave --steady 0"]["whole"] < 60
    unpainted = measure(film, {"wave": find_style("great_wave/realtime")}, StylizeOptions(strength=0.0))["errors"]["wave"]
    assert unpainted == pytest.approx(errors[FILM], abs=0.01)


def test_the_command_prints_a_table_and_writes_json(run, tmp_path, monkeypatch):
    film = write_film(tmp_path / "film.mp4", FRAMES[:3])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # none of the training packages is needed
    code, out, _ = run("evaluate", "great_wave", "--film", film, "-o", tmp_path / "steady.json")
    assert code == 0
    assert "film.mp4, 2 pairs of 256x192" in out
    assert "great_wave/realtime" in out
    saved = json.loads((tmp_path / "steady.json").read_text())
    assert set(saved["films"][0]["errors"]) == {FILM, "great_wave/realtime", "great_wave/realtime --steady 0"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --style-image PAINTING and --photos FOLDER, or --film CLIP"),
        (["--film", "a.mp4", "--photos", "b"], "leave out --style-image and --photos"),
        (["--film", "nothing.mp4"], "nothing.mp4"),
    ],
)
def test_missing_or_wrong_arguments_are_explained(run, tmp_path, arguments, message):
    code, _, err = run("evaluate", "great_wave", *arguments, "-o", tmp_path / "a.json")
    assert code == 1
    assert message in err
    assert not (tmp_path / "a.json").exists()


def test_one_frame_is_too_few(run, tmp_path):
    film = write_film(tmp_path / "film.mp4", FRAMES[:1])
    code, _, err = run("evaluate", "great_wave", "--film", film, "-o", tmp_path / "a.json")
    assert code == 1
    assert "film.mp4 has less than two frames" in err
