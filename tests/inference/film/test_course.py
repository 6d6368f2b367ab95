"""Films whose style changes."""

import numpy as np
import pytest
from films import drifting, read_film, write_film

from allaprima.inference.film.course import Course
from allaprima.models.errors import StyleError


def mixed(course):
    names = list(course.session.contract.mix)
    return {names[i]: round(float(course.session.weights[i]), 3) for i in np.flatnonzero(course.session.weights)}


def test_each_style_paints_from_its_time_on_after_a_fade():
    course = Course("great_wave@0,photo:1,starry_night:3@4,great_wave@0:10", 2.0, "cpu")
    found = []
    for time_s in (0.0, 3.9, 4.0, 5.0, 9.0, 11.5, 30.0, 0.0):  # the last one belongs to another film
        course.at(time_s)
        found.append(mixed(course))
    gentle_night = {"starry_night": 0.75, "photo": 0.25}
    assert found[0] == found[1] == found[2] == found[6] == found[7] == {"great_wave": 1.0}
    assert found[3] == {"great_wave": 0.5, "starry_night": 0.375, "photo": 0.125}
    assert found[4] == gentle_night
    assert found[5] == gentle_night  # a fade begins with the first frame after its time


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("great_wave@1", "times in seconds or .* that rise from 0"),
        ("great_wave@0,photo@5,the_scream@4", "that rise from 0"),
        ("great_wave@0,photo@0", "that rise from 0"),
        ("great_wave@0,photo", "is no list of styles with times"),
        ("great_wave@soon", "soon is not a time in seconds"),
        ("great_wave@", "is not a time in seconds"),
        ("great_wav@0", 'did you mean "great_wave"'),
    ],
)
def test_an_invalid_course_is_refused_with_a_reason(text, message):
    with pytest.raises(StyleError, match=message):
        Course(text, 1.0, "cpu")


def test_a_film_is_painted_in_one_style_after_another(run, tmp_path):
    film = write_film(tmp_path / "a.mp4", drifting(20, 48, 64), rate=10)
    code, out, err = run("video", film, "-s", "the_scream@0,photo@1", "--fade", "0", "--steady", "0")
    assert code == 0, err
    assert "painting with the palette on" in err
    painted = read_film(tmp_path / "a_the_scream_0_photo_1.mp4")[0]
    apart = [np.abs(np.asarray(one, float) - other).mean() for one, other in zip(painted, read_film(film)[0], strict=True)]
    assert min(apart[:10]) > 2 * max(apart[10:])
    assert str(tmp_path / "a_the_scream_0_photo_1.mp4") in out


def test_a_fade_without_times_is_refused(run, tmp_path):
    film = write_film(tmp_path / "a.mp4", drifting(2, 48, 64))
    code, _, err = run("video", film, "-s", "great_wave", "--fade", "1")
    assert code == 1
    assert "--fade is for styles from times on: --style great_wave@0,starry_night@5" in err
