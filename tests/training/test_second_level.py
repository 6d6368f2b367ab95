import numpy as np
import pytest
import torch

from allaprima.training.second_level import finer_count, second_level
from allaprima.training.style_image import without_grain


class Brighter(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image + 0.2).clamp(0, 1)


def test_a_network_that_copies_sees_the_photo_itself_at_its_second_level():
    photo = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(second_level(torch.nn.Identity(), photo), photo)


def test_the_second_level_is_the_painting_with_the_photos_detail():
    photo = 0.5 + 0.05 * torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(second_level(Brighter(), photo), photo + 0.2, rtol=0, atol=1e-4)


def test_the_second_level_has_no_gradient_and_stays_a_picture():
    net = torch.nn.Conv2d(3, 3, 3, padding=1)
    seen = second_level(net, torch.rand(1, 3, 32, 32) * 5)
    assert not seen.requires_grad
    assert (seen.min(), seen.max()) >= (0, 0)
    assert seen.max() <= 1


@pytest.mark.parametrize(("batch_size", "count"), [(1, 0), (2, 1), (3, 1), (4, 1), (8, 2), (16, 4)])
def test_a_quarter_of_a_steps_photos_are_of_the_second_level_for_any_number_of_processes(batch_size, count):
    assert finer_count(batch_size, range(batch_size)) == count
    if batch_size > 1 and batch_size % 2 == 0:
        half = batch_size // 2
        halves = [finer_count(batch_size, range(half)), finer_count(batch_size, range(half, batch_size))]
        assert halves == [max(0, count - half), min(count, half)]


def test_grain_is_removed_and_strokes_stay():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    grain = without_grain(checks.astype(np.uint8)[..., None].repeat(3, 2))
    strokes = (np.indices((64, 64))[0] // 8 % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert grain.std() < 0.2 * 127
    assert without_grain(strokes).std() > 0.8 * strokes.std()
