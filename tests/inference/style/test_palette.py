import cv2
import numpy as np
import pytest
from PIL import Image

import allaprima
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.palette import mixed_style, parse_mix
from allaprima.inference.style.session import StyleSession, frame_to_image
from allaprima.inference.style.styles import find_style, find_styles, style_name
from allaprima.models.errors import StyleError


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("great_wave:0.6,starry_night:0.4", {"great_wave": 0.6, "starry_night": 0.4}),
        ("Great Wave:1 , great-wave:2", {"great_wave": 3.0}),
        ("photo:.5,sunflowers:1e0", {"photo": 0.5, "sunflowers": 1.0}),
        ("great_wave", None),
        ("great_wave:", None),
        (":1", None),
        ("C:/styles/mine.onnx", None),
        ("a:1,b", None),
    ],
)
def test_a_mix_is_parsed_as_names_and_weights(text, weights):
    assert parse_mix(text) == weights


def test_a_mix_paints_in_between_its_styles():
    image = frame_to_image(paint_landscape(64, 96))
    painted = {}
    for mix in ("great_wave:1", "starry_night:2", "great_wave:3,starry_night:1", "photo:1", "great_wave:0.5,photo:0.5"):
        session = StyleSession(mixed_style(parse_mix(mix)))
        painted[mix] = session.stylize_image(image)
    wave, night, between, photo, gentle = painted.values()
    card = StyleSession(mixed_style({"great_wave": 3, "starry_night": 1})).contract.card
    assert card["title"] == "75% great_wave + 25% starry_night"

    def apart(one, other):
        return float(np.abs(one - other).mean())

    assert apart(wave, night) > 0.05
    assert apart(between, wave) < apart(wave, night)
    assert apart(between, wave) < apart(between, night)
    assert apart(photo, image) < 0.03
    assert apart(gentle, image) < apart(wave, image)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"great_wav": 1.0}, 'there is no "great_wav" to mix with; did you mean "great_wave"'),
        ({"great_wave": 0.0}, "is no mix; weights of at least 0 are wanted, and one above it"),
        ({"great_wave": -1.0, "photo": 2.0}, "is no mix"),
        ({"great_wave": float("nan")}, "is no mix"),
        ({"great_wave": float("inf")}, "is no mix"),
    ],
)
def test_an_invalid_mix_is_refused_with_a_reason(weights, message):
    with pytest.raises(StyleError, match=message):
        mixed_style(weights)


def test_a_missing_or_damaged_palette_is_named(tmp_path):
    with pytest.raises(StyleError, match="there is no palette to mix from at"):
        mixed_style({"great_wave": 1.0}, tmp_path / "palette.npz")
    (tmp_path / "palette.npz").write_bytes(b"nothing")
    with pytest.raises(StyleError, match="is damaged"):
        mixed_style({"great_wave": 1.0}, tmp_path / "palette.npz")


def test_strength_becomes_part_of_a_mix_and_is_left_to_other_styles(tmp_path):
    (gentle,), left = find_styles(["great_wave:3,starry_night:1"], 0.4)
    card = StyleSession(gentle).contract.card
    assert (card["title"], left) == ("60% photo + 30% great_wave + 10% starry_night", 1.0)
    for names, strength in ((["great_wave:1"], 1.0), (["great_wave:1"], 0.0), (["great_wave/realtime"], 0.4)):
        assert find_styles(names, strength) == ([find_style(name) for name in names], strength)
    paths, left = find_styles(["great_wave:1", "great_wave/realtime"], 0.4)
    assert left == 0.4
    assert StyleSession(paths[0]).contract.card["title"] == "100% great_wave"


def test_the_python_interface_paints_a_mix_at_a_strength(landscape):
    style = allaprima.Style("great_wave:1", engine="onnxruntime")
    whole, gentle, again = (style(landscape, strength=strength) for strength in (1.0, 0.5, 0.5))
    faded = cv2.addWeighted(whole, 0.5, landscape, 0.5, 0.0)
    assert np.array_equal(gentle, again)
    assert cv2.absdiff(gentle, faded).mean() > 1.0
    assert cv2.absdiff(gentle, landscape).mean() < cv2.absdiff(whole, landscape).mean()


def test_photos_are_painted_with_a_mix(run, tmp_path):
    Image.fromarray(paint_landscape(64, 96)).save(tmp_path / "a.png")
    code, out, err = run("stylize", tmp_path / "a.png", "-s", "great_wave:0.6,starry_night:0.4")
    assert code == 0
    assert out.strip() == str(tmp_path / "a_great_wave_0.6_starry_night_0.4.png")
    assert "painting with" in err
    assert find_style("great_wave:0.6,starry_night:0.4").suffix == ".onnx"
    assert style_name("great_wave:1") == "great_wave_1"
