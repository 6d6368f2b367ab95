import cv2
import numpy as np
import pytest
from PIL import Image

from allaprima.inference.landscape import paint_landscape
from allaprima.models.vgg import load_vgg19
from allaprima.training.studies import judges
from allaprima.training.studies.faces import FaceBox, kept, overlap
from allaprima.training.studies.judges import Bench, color_volume, from_afar, grid, is_no_worse, see, ss, swd


@pytest.fixture(scope="module")
def vgg():
    return load_vgg19("tiny")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return paint_landscape(128, 160, 3)


def test_a_picture_has_distance_zero_from_itself(vgg, photo):
    seen = see(vgg, photo)
    assert swd(seen, seen) == 0
    assert ss(seen, seen) == 0


def test_a_flat_picture_is_about_as_far_from_a_painting_as_its_own_variance(vgg, photo):
    flat = np.full_like(photo, photo.mean((0, 1)).astype(np.uint8))
    assert 0.3 < swd(see(vgg, flat), see(vgg, photo)) < 3


def test_style_ignores_positions_and_content_does_not(vgg, photo):
    seen, mirrored = see(vgg, photo), see(vgg, np.ascontiguousarray(photo[:, ::-1]))
    noise = see(vgg, np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8))
    assert swd(mirrored, seen) < 0.1 * swd(noise, seen)
    assert ss(mirrored, seen) > 0.05


def test_content_depends_less_on_brightness_than_on_positions(vgg, photo):
    seen = see(vgg, photo)
    darker = see(vgg, (0.8 * photo).astype(np.uint8))
    assert ss(darker, seen) < 0.7 * ss(see(vgg, np.ascontiguousarray(photo[::-1])), seen)


def test_a_lattice_of_4_px_is_found_and_noise_and_lattices_of_5_px_are_not():
    noise = np.random.default_rng(0).normal(128, 20, (256, 256, 3))

    def with_lattice(period: int, height: float) -> np.ndarray:
        lattice = np.zeros((256, 256, 1))
        lattice[::period, ::period] = height
        return (noise + lattice).clip(0, 255).astype(np.uint8)

    assert grid(with_lattice(4, 0.0)) < 0.005
    assert grid(with_lattice(5, 60.0)) < 0.02
    assert 0.05 < grid(with_lattice(4, 30.0)) < grid(with_lattice(4, 60.0))


def test_a_lattices_share_is_its_share_of_the_variance():
    noise = np.random.default_rng(0).normal(128, 10, (256, 256)).repeat(3).reshape(256, 256, 3)
    lattice = np.tile(np.array([[1, -1, 1, -1]] * 4, np.float64) * 10, (64, 64))[..., None]
    assert grid((noise + lattice).clip(0, 255).astype(np.uint8)) == pytest.approx(0.5, abs=0.1)  # blurring reduces both


def test_colors_have_a_volume_and_grays_have_none(photo):
    gray = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    half = (0.5 * photo + 64).astype(np.uint8)
    assert color_volume(gray) < 1e-3 * color_volume(photo)
    assert color_volume(half) == pytest.approx(color_volume(photo) / 8, rel=0.05)  # half as wide in each of three directions


def test_the_view_from_afar_has_sides_that_are_multiples_of_four():
    assert from_afar(np.zeros((100, 72, 3), np.uint8)).shape == (48, 36, 3)


def test_the_photo_itself_scores_best_in_content_and_the_painting_in_style(vgg, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    painting = paint_landscape(192, 192, 7)
    Image.fromarray(painting).save(tmp_path / "painting.png")
    bench = Bench(vgg, tmp_path / "painting.png", [tmp_path / "photo.png"], 128)
    copy = bench.judge(lambda frame: frame)
    assert set(copy) == set(judges.NAMES)
    assert copy["ss"] == 0
    pasted = bench.judge(lambda frame: cv2.resize(painting, frame.shape[1::-1]))
    assert pasted["swd"] < copy["swd"]
    assert pasted["palette"] == pytest.approx(1, abs=0.2)


def test_a_network_is_no_worse_if_no_judge_finds_it_worse():
    shipped = {"swd": 0.06, "ss": 0.16, "grid": 0.001, "palette": 0.4}
    assert is_no_worse(shipped, shipped)
    assert is_no_worse({**shipped, "swd": 0.064, "ss": 0.17, "palette": 0.8}, shipped)
    for worse in ({"swd": 0.066}, {"ss": 0.18}, {"grid": 0.006}, {"palette": 0.34}):
        assert not is_no_worse({**shipped, **worse}, shipped)
    assert is_no_worse({**shipped, "palette": 0.71}, {**shipped, "palette": 1.1})


def test_a_face_counts_as_kept_if_it_is_found_in_place():
    face = (10.0, 10.0, 50.0, 60.0)
    assert overlap(face, face) == 1
    assert overlap(face, (30.0, 10.0, 70.0, 60.0)) == pytest.approx(1 / 3)
    assert kept([face, (100.0, 10.0, 120.0, 40.0)], [(12.0, 8.0, 50.0, 60.0)]) == 1


def test_the_share_of_faces_is_given_if_the_photos_have_any(vgg, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")

    def find(frame: np.ndarray) -> list[FaceBox]:
        return [(0.0, 0.0, 30.0, 30.0), (60.0, 60.0, 90.0, 90.0)][: 2 if frame.any() else 1]

    bench = Bench(vgg, tmp_path / "photo.png", [tmp_path / "photo.png"], 128, find)
    assert bench.judge(lambda frame: frame)["faces"] == 1
    assert bench.judge(np.zeros_like)["faces"] == 0.5
    assert "faces" not in Bench(vgg, tmp_path / "photo.png", [tmp_path / "photo.png"], 128, lambda frame: []).judge(
        np.zeros_like
    )
