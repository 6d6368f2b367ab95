import itertools

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from allaprima.models.errors import OptimizeError
from allaprima.models.vgg import load_vgg19
from allaprima.training import losses
from allaprima.training.classic.descent import LBFGS, Objective, descend

STYLE = ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def objective() -> Objective:
    """Smooth content, blocky style, VGG-19 with random weights."""
    vgg = load_vgg19("tiny")
    ramp = torch.linspace(0, 1, 48)
    content = torch.stack([ramp[:, None] * ramp, ramp.expand(48, 48), 1 - ramp.expand(48, 48)])[None]
    generator = torch.Generator().manual_seed(1)
    style = torch.rand(1, 3, 12, 12, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        style_features = vgg(style, STYLE)
        content_features = vgg(content, ("relu2_2",))
    grams = {layer: losses.gram_matrix(features) for layer, features in style_features.items()}
    return Objective(vgg, content_features, grams, 1.0, 10.0, 0.1)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_total_keeps_falling_to_below_a_tenth(objective, noise, optimizer):
    totals = [step.losses["total"] for step in descend(noise, objective, 60, optimizer)]
    lowest = [min(totals[:20]), min(totals[20:])]
    assert lowest[1] < 0.9 * lowest[0]
    assert lowest[-1] < 0.1 * totals[0]


def test_a_steps_losses_are_those_of_its_own_picture(objective, noise):
    for step in descend(noise, objective, 4):
        with torch.no_grad():
            expected = objective(step.image)
        assert step.losses["total"] == pytest.approx(expected["total"].item(), rel=1e-5)
        assert step.losses["style"] == pytest.approx(expected["style"].item(), rel=1e-5)


def test_the_first_picture_is_the_given_one_and_all_stay_in_range(objective, noise):
    kept = noise.clone()
    steps = list(descend(noise, objective, 8))
    assert [step.iteration for step in steps] == list(range(9))
    torch.testing.assert_close(steps[0].image, kept, rtol=0, atol=0)
    torch.testing.assert_close(noise, kept, rtol=0, atol=0)
    assert all(step.image.min() >= 0 and step.image.max() <= 1 for step in steps)


def test_the_same_start_gives_the_same_picture(objective, noise):
    first, second = (list(descend(noise, objective, 6))[-1].image for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_without_style_the_content_image_does_not_change(objective, optimizer):
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features = objective.vgg(image.contiguous(memory_format=torch.channels_last), ("relu2_2",))
    steps = list(descend(image, Objective(objective.vgg, features, {}), 3, optimizer))
    assert steps[-1].losses["total"] == 0
    torch.testing.assert_close(steps[-1].image, image, rtol=0, atol=0)


def test_a_gray_picture_keeps_one_channel(objective, noise):
    steps = list(descend(noise[:, :1], objective, 10))
    assert steps[-1].image.shape == (1, 1, 48, 48)
    assert steps[-1].losses["total"] < steps[0].losses["total"]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_losses_does_not_matter(noise, scale):
    """With tiny gradients, torch's L-BFGS would keep no history and barely move."""

    def objective(image: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = scale * ((image - 0.5).square() * torch.linspace(0.1, 1.0, 48)).mean()
        return {"content": loss, "style": loss * 0, "tv": loss * 0, "total": loss}

    totals = [step.losses["total"] for step in descend(noise, objective, 25)]
    assert totals[-1] < 1e-3 * totals[0]


def falling(image: torch.Tensor, spoiled: dict[int, float], seen: list[float]) -> dict[str, torch.Tensor]:
    """Squared distance to middle gray, replaced by `spoiled`'s value at the evaluations that it lists."""
    loss = (image - 0.5).square().mean()
    loss = loss * 0 + spoiled[len(seen)] if len(seen) in spoiled else loss
    seen.append(loss.item())
    return {"content": loss, "style": loss * 0, "tv": loss * 0, "total": loss}


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_undone(noise, bad, optimizer):
    seen: list[float] = []
    steps = list(descend(noise, lambda image: falling(image, {3: bad}, seen), 40, optimizer))
    assert steps[3].iteration == 3
    assert steps[3].image is steps[2].image
    assert all(np.isfinite(step.losses["total"]) for step in steps)
    assert steps[-1].losses["total"] < 0.05 * steps[0].losses["total"]


def test_an_overshoot_is_shortened_along_its_own_direction(noise):
    seen: list[float] = []
    images: list[torch.Tensor] = []

    def objective(image: torch.Tensor) -> dict[str, torch.Tensor]:
        images.append(image.detach().clone())
        return falling(image, {2: 1e9}, seen)

    steps = list(descend(noise, objective, 12))
    torch.testing.assert_close(steps[2].image, images[1], rtol=0, atol=0)
    move, shorter = (images[i] - images[1] for i in (2, 3))
    inside = (images[2] > 0) & (images[2] < 1)  # other values were clipped to the range
    torch.testing.assert_close(shorter[inside], 0.1 * move[inside], rtol=1e-3, atol=1e-6)
    assert steps[-1].losses["total"] < 0.01 * steps[0].losses["total"]


def test_after_many_overshoots_it_restarts_and_still_converges(noise):
    seen: list[float] = []
    steps = list(descend(noise, lambda image: falling(image, dict.fromkeys(range(2, 9), 1e9), seen), 20))
    totals = [step.losses["total"] for step in steps]
    assert totals[1:9] == [totals[1]] * 8
    assert totals[-1] < 0.01 * totals[0]


def test_the_total_never_rises_with_lbfgs(objective, noise):
    totals = [step.losses["total"] for step in descend(noise, objective, 60)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(totals))


def test_losses_that_are_not_finite_from_the_start_are_an_error(noise):
    with pytest.raises(OptimizeError, match="total loss is nan from the start"):
        list(descend(noise, lambda image: falling(image, {0: float("nan")}, []), 3))


class CountedReads(TorchDispatchMode):
    """Counts what would wait for a GPU: operators that return a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal)
        return func(*args, **(kwargs or {}))


class CountedLists(TorchFunctionMode):
    """Counts reads that use no operator on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.Tensor.tolist, torch.Tensor.numpy)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("overshoots", [(), (5, 8, 9)])
def test_an_iteration_of_lbfgs_waits_for_the_device_at_most_three_times(objective, noise, overshoots):
    looks = 0

    def spoiled(image: torch.Tensor) -> dict[str, torch.Tensor]:
        nonlocal looks
        parts = objective(image)
        parts["total"] = parts["total"] * (1e6 if looks in overshoots else 1.0)
        looks += 1
        return parts

    waits: list[int] = []
    steps = descend(noise, spoiled, 12)
    with CountedReads() as reads, CountedLists() as lists:
        for _ in steps:
            waits.append(reads.count + lists.count - sum(waits))
    assert len(waits) == 13
    assert max(waits) <= 3
    assert min(waits) >= 1  # reading the losses, at least; so the counting works


def test_our_lbfgs_takes_the_same_steps_as_torchs(noise):
    """In a narrow valley, with more steps (30) than the history holds (20)."""
    ours, theirs = (noise.clone().requires_grad_() for _ in range(2))
    update = LBFGS(ours)
    torchs = torch.optim.LBFGS([theirs], max_iter=1, history_size=20, tolerance_grad=0.0, tolerance_change=0.0)
    widths = torch.linspace(0.1, 30.0, 48)
    for _ in range(30):
        for pixels in (ours, theirs):
            pixels.grad = None
            (widths * (pixels - 0.5).square() + (pixels - 0.4) ** 4).sum().backward()
        update.step()
        torchs.step(lambda: 0.0)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(torchs.state[theirs]["old_dirs"]) == 20


def test_a_pair_without_curvature_is_dropped_as_torch_drops_it(noise):
    """On a dome, gradients grow along a step, so the pair would turn the direction uphill."""
    ours, theirs = (noise.clone().requires_grad_() for _ in range(2))
    update = LBFGS(ours)
    torchs = torch.optim.LBFGS([theirs], max_iter=1, tolerance_grad=0.0, tolerance_change=0.0)
    for _ in range(3):
        for pixels in (ours, theirs):
            pixels.grad = None
            (-0.5 * (pixels - 0.5).square()).sum().backward()
        update.step()
        torchs.step(lambda: 0.0)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert torchs.state[theirs]["old_dirs"] == []
