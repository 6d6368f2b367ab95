"""The shaking of photos by which networks learn to paint films steadily."""

import pytest
import torch

from allaprima.training import augmentation
from allaprima.training.augmentation import Shake

SHAPE = (4, 3, 64, 64)


@pytest.fixture
def photos():
    coarse = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1)


def shaken_by(step, photos, seed=0, places=slice(None)):
    one = Shake(4, 64, seed, torch.device("cpu"), places)
    one.prepare(step)
    return one(photos[places])


def test_a_step_is_always_shaken_alike_and_other_steps_differently(photos):
    first = shaken_by(3, photos)
    assert torch.equal(first.image, shaken_by(3, photos).image)
    for other in (shaken_by(4, photos), shaken_by(3, photos, 1)):
        assert (other.image - first.image).abs().mean() > 0.005


def test_several_processes_shake_the_same_photos_alike(photos):
    parts = [shaken_by(3, photos, 0, slice(first, first + 2)).image for first in (0, 2)]
    assert torch.equal(torch.cat(parts), shaken_by(3, photos).image)


def test_the_change_is_small_and_stays_in_range(photos):
    for step in range(20):
        shaken = shaken_by(step, photos)
        assert shaken.image.shape == SHAPE
        assert shaken.image.min() >= 0
        assert shaken.image.max() <= 1
        assert 0.005 < (shaken.image - photos).abs().mean() < 0.2
        assert (shaken.follow(photos) - shaken.image).abs().mean() < 0.06  # only light and noise differ


def test_follow_moves_a_picture_as_the_photo_was_moved(photos, monkeypatch):
    monkeypatch.setattr(augmentation, "LIGHT", 0.0)
    monkeypatch.setattr(augmentation, "NOISE", 0.0)
    shaken = shaken_by(0, photos)
    assert torch.equal(shaken.image, shaken.follow(photos).clamp(0, 1))


def test_moves_cover_every_phase_of_a_network_and_stay_within_the_margin(photos):
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    places = torch.stack([x, y]).expand(4, 2, 64, 64)
    moves = torch.stack([shaken_by(step, photos).follow(places) - places for step in range(50)])[..., 16:-16, 16:-16]
    middle = moves[..., 16, 16].flatten()
    assert middle.min() < -3.5
    assert middle.max() > 3.5
    assert moves.abs().max() <= 4 + 0.03 * 32 + 0.1
