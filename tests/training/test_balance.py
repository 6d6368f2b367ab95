import pytest
import torch

from allaprima.training.balance import RANGE, RATE, TARGET, follow_, verdict


def test_the_verdict_names_who_dominates_and_suggests_a_weight_only_where_one_is_called_for():
    even = verdict(0.7, 0.14, 1.0, 5.0)
    assert "1.0 to 1" in even
    assert "--style-weight" not in even
    from_noise = verdict(0.4, 0.56, 1.0, 8.0)  # as a training that came out well read
    assert "style dominates the loss, 11.2 to 1" in from_noise
    assert "--style-weight" not in from_noise
    lost = verdict(1.5, 0.06, 1.0, 50.0)
    assert "the photo gets lost, try --style-weight 14" in lost
    copied = verdict(0.1, 0.6, 1.0, 1.0)
    assert "the painting is hardly there, try --style-weight 3.4" in copied


def test_a_weight_of_zero_has_no_balance():
    assert "no balance" in verdict(0.7, 0.14, 0.0, 5.0)


@pytest.mark.parametrize("start", [1.0, 5.0, 20.0])
def test_the_automatic_weight_goes_to_the_balance_and_stays_there(start):
    """In a world where, as in the sweep that was measured, five times the weight halves style over content."""
    weight = torch.tensor(start)
    for _ in range(4000):
        ratio = 0.25 * (weight / 2.0) ** -0.43
        follow_(weight, torch.tensor(0.7), 0.7 * ratio, 4 * RATE)
    assert 0.25 * (weight.item() / 2.0) ** -0.43 == pytest.approx(TARGET, rel=0.02)


def test_the_automatic_weight_survives_losses_that_are_not_finite_or_zero():
    for content, style in ((torch.nan, 0.2), (0.6, torch.nan), (torch.inf, 0.2), (0.6, 0.0), (0.0, 0.2), (0.0, 0.0)):
        weight = torch.tensor(5.0)
        for _ in range(3000):
            follow_(weight, torch.tensor(content), torch.tensor(style), 4 * RATE)
        assert RANGE[0] <= weight.item() <= RANGE[1]


def test_the_automatic_weight_moves_by_photos_not_by_steps():
    """One step of 16 photos moves it as far as four steps of 4."""
    one, four = torch.tensor(5.0), torch.tensor(5.0)
    follow_(one, torch.tensor(0.7), torch.tensor(0.3), 16 * RATE)
    for _ in range(4):
        follow_(four, torch.tensor(0.7), torch.tensor(0.3), 4 * RATE)
    assert one.item() == pytest.approx(four.item(), rel=1e-5)
    assert one > 5.0
    follow_(one, torch.tensor(0.7), torch.tensor(0.3), 0.0)
    assert one.item() == pytest.approx(four.item(), rel=1e-5)
