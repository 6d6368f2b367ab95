import numpy as np
import pytest
import skimage.data

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.pictures import resize_short_side
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import shipped_styles
from allaprima.models.image_transform_net import TIERS
from allaprima.training.images import cut_to_stride
from allaprima.training.preview import stylize_frame
from allaprima.training.watchdog import picture_fault

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


def test_a_single_value_that_is_not_finite_is_found(photos, painted):
    broken = [image.copy() for image in painted]
    broken[2][5, 7, 1] = np.nan
    assert picture_fault(photos, broken) == "the pictures are not finite"


def test_flat_pictures_are_found_unless_the_photos_are_flat(photos):
    gray = [np.full(photo.shape, 0.4, np.float32) for photo in photos]
    assert picture_fault(photos, gray) == "the pictures are one flat color"
    fog = [np.full(photo.shape, 100, np.uint8) for photo in photos]
    assert picture_fault(fog, as_images(fog)) is None


def test_saturated_pictures_are_found(photos, painted):
    dead = [(image > np.median(image)).astype(np.float32) for image in painted]
    assert "saturated" in str(picture_fault(photos, dead))


def test_black_and_white_that_a_sigmoid_can_still_change_is_not_saturated(photos, painted):
    woodcut = [np.where(image > np.median(image), 0.997, 0.003).astype(np.float32) for image in painted]
    assert "saturated" not in str(picture_fault(photos, woodcut))
