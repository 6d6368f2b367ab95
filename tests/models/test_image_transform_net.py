import pytest
import torch
import torch.nn.functional as F

from allaprima.models.image_transform_net import (
    TIERS,
    InstanceNorm,
    QualityNet,
    RealtimeNet,
    _ReflectPad,
    phases,
    resized_phases,
    smoothed,
    upsample,
)


@pytest.mark.parametrize("tier", TIERS)
def test_output_has_the_inputs_size_and_stays_within_0_and_1(tier):
    net = TIERS[tier]()
    stylized_image = net(torch.rand(2, 3, 32, 48) * 20 - 10)
    assert stylized_image.shape == (2, 3, 32, 48)
    assert stylized_image.min() >= 0
    assert stylized_image.max() <= 1


@pytest.mark.parametrize("tier", TIERS)
def test_the_least_size_works(tier):
    net = TIERS[tier]()
    assert net(torch.rand(1, 3, net.least_px, net.least_px)).isfinite().all()


def test_parameter_counts_are_as_documented():
    assert sum(p.numel() for p in QualityNet().parameters()) == 1_679_235  # Johnson et al. with instance norm
    assert 80_000 < sum(p.numel() for p in RealtimeNet().parameters()) < 120_000


def test_an_untrained_realtime_net_is_close_to_the_identity():
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(1, 3, 8, 8), scale_factor=8, mode="bilinear")
    assert (RealtimeNet()(image) - image).abs().mean() < 0.2


def test_phases_equal_the_full_resolution_convolution():
    kernel, image = torch.randn(3, 2, 5, 5), torch.rand(1, 2, 20, 24)
    fast = F.pixel_shuffle(F.conv2d(image, phases(kernel), padding=2, stride=2), 2)
    torch.testing.assert_close(fast, F.conv2d(image, kernel, padding=2))


def test_resized_phases_equal_the_convolution_of_the_resized_features():
    kernel, features = torch.randn(3, 4, 5, 5), torch.rand(1, 4, 10, 12)
    fast = F.pixel_shuffle(F.conv2d(features, resized_phases(kernel)), 2)
    slow = F.conv2d(upsample(features), kernel)[:, :, :, :]
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_a_smoothed_kernel_is_a_3x3_on_bilinear_features_and_smoothing_again_changes_nothing():
    kernel = torch.randn(3, 4, 5, 5)
    smooth = smoothed(kernel)
    torch.testing.assert_close(smooth.sum((2, 3)), kernel.sum((2, 3)), rtol=1e-4, atol=1e-4)  # flat areas keep their color
    torch.testing.assert_close(smoothed(smooth), smooth, rtol=1e-4, atol=1e-5)
    # A ramp resized bilinearly is a ramp again, and no 3x3 convolution turns it into stairs; repeated pixels are stairs.
    ramp = torch.arange(16.0).repeat(1, 4, 16, 1)
    stairs = F.conv2d(upsample(ramp), smooth)[0, :, 8, 4:-4]
    assert stairs.diff(n=2).abs().max() < 1e-3


@pytest.mark.parametrize("tier", TIERS)
def test_a_network_with_bilinear_upsampling_paints_alike_in_training_and_afterward(tier):
    torch.manual_seed(0)
    net, image = TIERS[tier](), torch.rand(1, 3, 32, 32)
    nearest = net(image)
    net.upsampling = "bilinear"
    smooth = net(image)
    assert (smooth - nearest).abs().max() > 1e-3
    assert torch.equal(net.eval()(image), smooth)


def test_realtime_head_cannot_draw_a_grid_on_a_flat_area():
    torch.manual_seed(0)
    net = RealtimeNet()
    torch.nn.init.normal_(net.head)
    torch.nn.init.normal_(net.skip)
    stylized_image = net(torch.full((1, 3, 64, 64), 0.3))
    assert stylized_image[:, :, 16:48, 16:48].std(dim=(2, 3)).max() < 1e-4


def test_our_instance_norm_equals_torchs_and_keeps_channels_last():
    norm, x = InstanceNorm(8), torch.randn(2, 8, 12, 10).contiguous(memory_format=torch.channels_last)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    y = norm(x)
    torch.testing.assert_close(y, F.instance_norm(x, weight=norm.weight, bias=norm.bias), rtol=1e-4, atol=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("pad_px", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_our_reflect_padding_for_gpus_equals_pytorchs_and_keeps_the_layout(pad_px, layout):
    x = torch.randn(2, 8, 12, 10, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    y, expected = _ReflectPad.apply(x, pad_px), F.pad(x, (pad_px,) * 4, mode="reflect")
    assert torch.equal(y, expected)
    grad = torch.randn_like(y)
    [found], [wanted] = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(found, wanted)
    assert y.is_contiguous(memory_format=layout)
    assert found.is_contiguous(memory_format=layout)
