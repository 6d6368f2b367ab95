import cv2
import numpy as np
import pytest
import skimage.data

from inference.landscape import paint_landscape
from inference.pictures import resize_short_side
from inference.style.session import StyleSession
from inference.style.styles import shipped_styles
from models.image_transform_net import TIERS
from training.images import cut_to_stride
from training.preview import stylize_frame
from training.watchdog import picture_fault

STYLES = shipped_styles()


@pytest.fixture(scope="module")
def photos():
    pictures = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), paint_landscape(256, 320)]
    return [np.ascontiguousarray(resize_short_side(picture, 256)[:256, :384]) for picture in pictures]


def as_images(frames):
    return [frame.astype(np.float32) / 255.0 for frame in frames]


@pytest.fixture(scope="module")
def painted(photos):
    session = StyleSession(next(style.path for style in STYLES if style.full_name == "great_wave/realtime"), "cpu")
    return as_images(session.stylize(photo) for photo in photos)


def with_droplets(image, diameter, color, places):
    image = image.copy()
    for y, x in places:
        cv2.circle(image, (x, y), diameter // 2, color, -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.full_name)
def test_pictures_of_every_shipped_style_are_sane(style, photos):
    session = StyleSession(style.path, "cpu")
    assert picture_fault(photos, as_images(session.stylize(photo) for photo in photos)) is None


def test_photos_themselves_are_sane(photos):
    assert picture_fault(photos, as_images(photos)) is None


@pytest.mark.parametrize("tier", TIERS)
def test_an_untrained_network_is_not_called_broken(tier, photos):
    import torch

    torch.manual_seed(1)
    net = TIERS[tier]()
    frames = [cut_to_stride(net, photo) for photo in photos]
    assert picture_fault(frames, [stylize_frame(net, frame) for frame in frames]) is None


def test_a_single_value_that_is_not_finite_is_found_in_a_single_picture(photos, painted):
    broken = [image.copy() for image in painted]
    broken[2][5, 7, 1] = np.nan
    assert picture_fault(photos, broken) == "the pictures are not finite"


def test_flat_pictures_are_found_unless_the_photos_are_flat(photos):
    grey = [np.full(photo.shape, 0.4, np.float32) for photo in photos]
    assert picture_fault(photos, grey) == "the pictures are one flat color"
    fog = [np.full(photo.shape, 100, np.uint8) for photo in photos]
    assert picture_fault(fog, as_images(fog)) is None


def test_saturated_pictures_are_found(photos, painted):
    dead = [(image > np.median(image)).astype(np.float32) for image in painted]
    assert "saturated" in str(picture_fault(photos, dead))


def test_black_and_white_that_a_sigmoid_can_still_move_is_a_style(photos, painted):
    woodcut = [np.where(image > np.median(image), 0.997, 0.003).astype(np.float32) for image in painted]
    assert "saturated" not in str(picture_fault(photos, woodcut))


@pytest.mark.parametrize("diameter", [6, 12, 24])
def test_blobs_in_calm_places_of_most_pictures_are_found_and_in_one_picture_they_are_not_enough(diameter, photos):
    fog = [cv2.GaussianBlur(photo, (0, 0), 12) for photo in photos]
    calm = as_images(fog)
    assert picture_fault(fog, calm) is None
    places = [(60, 80), (150, 200), (200, 60)]
    spotted = [with_droplets(image, diameter, (1.0, 0.95, 0.2), places) for image in calm]
    assert "blobs" in str(picture_fault(fog, spotted))
    assert picture_fault(fog, [spotted[0], *calm[1:]]) is None


def test_spots_that_are_in_the_photos_are_no_blobs(photos):
    lamps = [
        with_droplets(cv2.GaussianBlur(photo, (0, 0), 12), 12, (255, 250, 220), [(60, 80), (150, 200)]) for photo in photos
    ]
    assert picture_fault(lamps, as_images(lamps)) is None


def test_a_corner_of_a_shape_at_the_border_is_no_blob(photos):
    fog = [cv2.GaussianBlur(photo, (0, 0), 12) for photo in photos]
    cornered = [with_droplets(image, 20, (1.0, 0.95, 0.2), [(0, 80), (120, 0)]) for image in as_images(fog)]
    assert picture_fault(fog, cornered) is None
