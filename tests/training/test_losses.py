import pytest
import torch

from allaprima.training.losses import (
    colors_of,
    content_loss,
    gram_matrix,
    lattice_loss,
    palette_loss,
    perceptual_losses,
    quantiles,
    requantiled,
    sampled,
    self_similarity_loss,
    steady_loss,
    style_loss,
    tv_loss,
    wasserstein_loss,
)


def test_gram_of_a_known_tensor():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # C=2, H=1, W=2
    expected = torch.tensor([[[5.0, 1.0], [1.0, 10.0]]]) / 4
    torch.testing.assert_close(gram_matrix(features), expected)


def test_gram_does_not_depend_on_image_size():
    features = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(gram_matrix(features), gram_matrix(features.repeat(1, 1, 2, 3)))


def test_gram_of_half_precision_does_not_overflow():
    assert gram_matrix(torch.full((1, 4, 64, 64), 300.0, dtype=torch.float16)).isfinite().all()


def test_gram_of_bf16_is_float32_and_near_that_of_float32():
    features = torch.rand(2, 8, 64, 64)
    found = gram_matrix(features.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gram_matrix(features), rtol=0.01, atol=0.0)


def test_gram_has_the_gradient_of_the_plain_product():
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 3, 3)  # not symmetric
    [found] = torch.autograd.grad((weight * gram_matrix(features)).sum(), features)
    flat = features.flatten(2)
    [expected] = torch.autograd.grad((weight * (flat @ flat.transpose(1, 2)) / 60).sum(), features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_gram_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        gram_matrix(torch.rand(3, 4))


def test_tv_loss_of_constant_image_is_zero():
    assert tv_loss(torch.full((1, 3, 8, 8), 0.4)) == 0


def test_tv_loss_of_a_step_edge():
    image = torch.zeros(1, 3, 4, 5)
    image[..., 3:] = 1.0
    assert tv_loss(image).item() == pytest.approx(1 / 4)  # one of four pairs of horizontal neighbors differs by 1


@pytest.mark.parametrize("normalization", ["unitless", "gatys", "johnson"])
def test_losses_of_equal_images_are_zero(normalization):
    features = {"relu1_1": torch.rand(2, 4, 6, 6)}
    grams = {"relu1_1": gram_matrix(features["relu1_1"][:1])}
    assert content_loss(features, features, normalization) == 0
    one = {"relu1_1": features["relu1_1"][:1]}
    assert style_loss(one, grams, normalization).item() == pytest.approx(0, abs=1e-12)


def test_unitless_losses_of_a_black_feature_map_are_one():
    target, black = torch.rand(2, 4, 6, 6), torch.zeros(2, 4, 6, 6)
    assert content_loss({"a": black}, {"a": target}).item() == pytest.approx(1)
    assert style_loss({"a": black}, {"a": gram_matrix(target[:1])}).item() == pytest.approx(1)


def test_unitless_losses_do_not_depend_on_the_weights_scale():
    x, y = torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 6)
    small = content_loss({"a": x}, {"a": y}), style_loss({"a": x}, {"a": gram_matrix(y)})
    large = content_loss({"a": 50 * x}, {"a": 50 * y}), style_loss({"a": 50 * x}, {"a": gram_matrix(50 * y)})
    torch.testing.assert_close(small, large)


def test_gatys_losses_follow_equations_1_and_4():
    f, p = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    assert content_loss({"a": f}, {"a": p}, "gatys").item() == pytest.approx(0.5 * (f - p).square().sum().item())
    n, m = 3, 20
    flat_f, flat_p = f.flatten(2)[0], p.flatten(2)[0]
    squares = (flat_f @ flat_f.T - flat_p @ flat_p.T).square().sum().item()
    expected = squares / (4 * n**2 * m**2)
    assert style_loss({"a": f}, {"a": gram_matrix(p)}, "gatys").item() == pytest.approx(expected, rel=1e-4)


def test_johnson_losses_follow_equations_2_and_4():
    f, p = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    assert content_loss({"a": f}, {"a": p}, "johnson").item() == pytest.approx((f - p).square().mean().item())
    expected = (gram_matrix(f) - gram_matrix(p)).square().sum().item()
    assert style_loss({"a": f}, {"a": gram_matrix(p)}, "johnson").item() == pytest.approx(expected)


def test_total_is_the_weighted_sum():
    x, y = torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 6)
    image = torch.rand(1, 3, 8, 8)
    parts = perceptual_losses(image, {"a": x}, {"a": y}, {"a": gram_matrix(y)}, 2.0, 3.0, 5.0)
    expected = 2 * parts["content"] + 3 * parts["style"] + 5 * parts["tv"]
    torch.testing.assert_close(parts["total"], expected)


@pytest.mark.parametrize("normalization", ["unitless", "gatys", "johnson"])
def test_style_layer_weights_count_in_proportion(normalization):
    features = {"a": torch.rand(1, 4, 6, 6), "b": torch.rand(1, 3, 4, 4)}
    grams = {layer: gram_matrix(torch.rand_like(x)) for layer, x in features.items()}
    one = {layer: style_loss(features, {layer: gram}, normalization).item() for layer, gram in grams.items()}
    alike = style_loss(features, grams, normalization).item()
    assert style_loss(features, grams, normalization, {"a": 2.0, "b": 2.0}).item() == pytest.approx(alike)
    weighted = style_loss(features, grams, normalization, {"a": 3.0, "b": 1.0}).item()
    expected = 1.5 * one["a"] + 0.5 * one["b"]
    assert weighted == pytest.approx(expected if normalization == "johnson" else expected / 2)


def test_without_layers_the_loss_is_zero():
    assert content_loss({}, {}) == 0
    assert style_loss({}, {}, "johnson", {}) == 0


def test_the_border_loss_sees_bands_along_the_border_only():
    from allaprima.training.losses import BORDER_PX, border_loss

    whole = torch.rand(2, 3, 96, 128, requires_grad=True)
    band, inside, strokes = (whole.detach().clone() for _ in range(3))
    band[:, :, :BORDER_PX] += 0.5
    inside[:, :, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] += 0.5
    strokes[:, :, ::2, ::2] += 0.5
    strokes[:, :, 1::2, ::2] -= 0.5
    strokes[:, :, ::2, 1::2] -= 0.5
    strokes[:, :, 1::2, 1::2] += 0.5
    share = BORDER_PX / 96  # the part of the left and right columns that lies in the band
    assert border_loss(band, whole).item() == pytest.approx(0.25 * (1 + 2 * share**2) / 4, rel=1e-4)
    assert border_loss(strokes, whole).item() == pytest.approx(0.0, abs=1e-9)
    assert border_loss(inside, whole).item() == 0.0
    assert border_loss(band[..., :32, :32], whole[..., :32, :32]).isfinite()
    border_loss(band.requires_grad_(), whole).backward()
    assert band.grad is not None  # only the crop has to change
    assert whole.grad is None


def test_the_steady_loss_sees_other_strokes_at_any_contrast_but_not_other_colors():
    one, other = torch.rand(2, 1, 64, 64).repeat(1, 3, 1, 1).view(2, 1, 3, 64, 64)
    assert steady_loss(one, one).item() == 0.0
    assert steady_loss(one, other).item() == pytest.approx(2.0, rel=0.1)
    assert steady_loss(0.5 * one, 0.5 * other).item() == pytest.approx(steady_loss(one, other).item(), rel=0.01)
    tinted = one + torch.tensor([0.114, 0.0, -0.299]).view(1, 3, 1, 1)  # of the same brightness
    assert steady_loss(tinted, one).item() == pytest.approx(0.0, abs=1e-6)
    flat = torch.full_like(one, 0.5)
    assert steady_loss(flat + 0.001, flat).item() < 0.02


def test_only_the_second_painting_gets_a_gradient():
    first, again = (torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    steady_loss(again, first).backward()
    assert again.grad is not None
    assert first.grad is None


def everywhere(features: torch.Tensor) -> torch.Tensor:
    return torch.randperm(features.shape[2] * features.shape[3])


def test_samples_are_the_features_at_their_positions():
    features = torch.arange(24.0).view(1, 2, 3, 4)
    torch.testing.assert_close(sampled(features, torch.tensor([5, 0])), torch.tensor([[[5.0, 17.0], [0.0, 12.0]]]))


def test_quantiles_of_a_known_distribution():
    features = torch.tensor([[[[4.0, 1.0], [3.0, 2.0]]]])
    torch.testing.assert_close(quantiles(features, 4), torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    torch.testing.assert_close(quantiles(features, 2), torch.tensor([[[1.5, 3.5]]]))
    torch.testing.assert_close(requantiled(torch.tensor([[[1.5, 3.5]]]), 4), torch.tensor([[[1.5, 2.0, 3.0, 3.5]]]))


def test_wasserstein_loss_ignores_positions():
    features = {"a": torch.rand(1, 3, 8, 8)}
    shuffled = {"a": features["a"].flatten(2)[..., torch.randperm(64)].view(1, 3, 8, 8)}
    target, places = {"a": quantiles(features["a"], 64)}, {"a": everywhere(features["a"])}
    assert wasserstein_loss(shuffled, target, places).item() == pytest.approx(0, abs=1e-10)


def test_wasserstein_loss_of_the_paintings_mean_color_is_one():
    painting = torch.rand(1, 3, 16, 16)
    flat = {"a": painting.mean((2, 3), keepdim=True).expand(2, 3, 16, 16)}
    target, places = {"a": quantiles(painting, 256)}, {"a": everywhere(painting)}
    assert wasserstein_loss(flat, target, places).item() == pytest.approx(1, rel=1e-4)


def test_wasserstein_loss_sees_contrast_that_a_sum_of_squares_does_not():
    """The same Gram matrix may come from a few strong places or from many weak ones."""
    weak, strong = torch.full((1, 1, 4, 4), 1.0), torch.zeros(1, 1, 4, 4)
    strong[0, 0, 0] = 2.0
    torch.testing.assert_close(gram_matrix(weak), gram_matrix(strong))
    places = {"a": everywhere(weak)}
    assert wasserstein_loss({"a": weak}, {"a": quantiles(strong, 16)}, places).item() > 0.1


def test_self_similarity_only_sees_which_places_are_alike():
    photo = {"a": torch.rand(1, 8, 6, 6)}
    turned = torch.linalg.qr(torch.rand(8, 8)).Q  # the channels are rotated, the angles stay the same
    painted = {"a": torch.einsum("cd,ndhw->nchw", turned, photo["a"])}
    places = {"a": everywhere(photo["a"])}
    assert self_similarity_loss(painted, photo, places).item() == pytest.approx(0, abs=1e-4)
    assert self_similarity_loss({"a": torch.rand(1, 8, 6, 6)}, photo, places).item() > 0.1


def test_gray_has_no_opponent_colors_and_strokes_are_averaged():
    gray = torch.tensor([0.2, 0.4]).repeat(1, 3, 2, 1)
    torch.testing.assert_close(colors_of(gray), torch.tensor([0.3 * 3**0.5, 0.0, 0.0]).view(1, 3, 1, 1))


def test_palette_loss_ignores_positions_but_counts_missing_colors():
    image = torch.rand(1, 3, 8, 8)
    colors, places = colors_of(image).flatten(2).transpose(1, 2), torch.randperm(16)
    assert palette_loss(image, colors, places).item() < 2e-3
    one_color = image[:, :, :2, :2].repeat(1, 1, 4, 4)  # only colors of the painting, but few of them
    assert palette_loss(one_color, colors, places).item() > 0.05


def test_the_painter_recipes_losses_have_finite_gradients_for_black_and_for_a_match():
    for image in (torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)):
        image.requires_grad_()
        colors, places = colors_of(torch.full((1, 3, 8, 8), 0.5)).flatten(2).transpose(1, 2), torch.arange(16)
        total = palette_loss(image, colors, places)
        total = total + self_similarity_loss({"a": image}, {"a": image.detach()}, {"a": places})
        total = total + wasserstein_loss({"a": image}, {"a": quantiles(torch.zeros(1, 3, 4, 4), 16)}, {"a": places})
        [gradient] = torch.autograd.grad(total, image)
        assert gradient.isfinite().all()


def test_lattice_loss_finds_only_what_repeats_every_4_px():
    noise = 0.5 + 0.05 * torch.randn(2, 1, 64, 64)
    lattice = torch.zeros(1, 1, 64, 64)
    lattice[..., ::4, ::4] = 0.3
    other = torch.zeros(1, 1, 64, 64)
    other[..., ::5, ::5] = 0.3
    found = {
        name: lattice_loss((noise + added).expand(-1, 3, -1, -1)) for name, added in (("4", lattice), ("5", other), ("0", 0))
    }
    assert found["0"] < 0.01
    assert found["5"] < 0.05
    assert found["4"] > 0.3
    assert lattice_loss(torch.full((1, 3, 32, 32), 0.5)) == 0


def test_lattice_loss_of_a_batch_is_the_mean_of_its_pictures():
    images = torch.rand(3, 3, 64, 64)
    images[0, :, ::4] *= 0.5
    each = torch.stack([lattice_loss(image[None]) for image in images])
    torch.testing.assert_close(lattice_loss(images), each.mean())
