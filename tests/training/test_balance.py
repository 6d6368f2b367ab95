import pytest
import torch

from training.balance import RANGE, TARGET, follow_, verdict


def test_the_verdict_names_who_dominates_and_suggests_a_weight_only_where_one_is_called_for():
    even = verdict(0.7, 0.14, 1.0, 5.0)
    assert "1.0 to 1" in even
    assert "--style-weight" not in even
    much_style = verdict(0.7, 0.14, 1.0, 500.0)
    assert "style dominates, 100.0 to 1" in much_style
    assert "more of the photo: --style-weight 44" in much_style
    much_content = verdict(0.7, 0.14, 1.0, 0.5)
    assert "content dominates, 10.0 to 1" in much_content
    assert "more of the painting: --style-weight 3.6" in much_content


def test_a_weight_of_zero_has_no_balance():
    assert "no balance" in verdict(0.7, 0.14, 0.0, 5.0)


def test_the_automatic_weight_goes_to_the_balance_and_stays_there():
    weight = torch.tensor(5.0)
    content, style = torch.tensor(0.6), torch.tensor(0.2)
    for _ in range(2000):
        follow_(weight, content, style, 2.0)
    assert weight.item() * 0.2 / (2.0 * 0.6) == pytest.approx(TARGET, rel=1e-3)


def test_the_automatic_weight_survives_losses_that_are_not_finite_or_zero():
    for content, style in ((torch.nan, 0.2), (0.6, torch.nan), (torch.inf, 0.2), (0.6, 0.0), (0.0, 0.2)):
        weight = torch.tensor(5.0)
        for _ in range(3000):
            follow_(weight, torch.tensor(content), torch.tensor(style), 1.0)
        assert RANGE[0] <= weight.item() <= RANGE[1] * 1.0001
