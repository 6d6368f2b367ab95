"""The image transformation network f_W (Johnson, Alahi, Fei-Fei 2016): our two tiers, and a widely used variant.

quality    Johnson's own layer list with what the field has learned since: instance norm (Ulyanov 2017), resize +
           convolution instead of transposed convolution, a bounded output.
realtime   the same design with nothing heavy at full resolution, about 100 k parameters.
johnson    pytorch/examples' network, which `training.export.import_torch` imports and the benchmark measures against.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Instance normalization with scale and shift, statistics in float32 (Ulyanov et al. 2017).

    `nn.InstanceNorm2d` would turn channels-last tensors into NCHW ones on every call. This one is exported as a single
    InstanceNormalization node; the reductions below would run four to six times slower in ONNX Runtime. Scale and shift
    may be (N, C), one row for each image of a batch, see `training.gallery.base`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=1e-5)
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), keepdim=True, correction=0)
        scale = self.weight[..., None, None] * torch.rsqrt(variance + 1e-5)
        shift = self.bias[..., None, None] - mean * scale
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


def reflect_pad(x: Tensor, pad_px: int) -> Tensor:
    """`F.pad(x, 4 * (pad_px,), mode="reflect")` without the two faults that it has on a GPU.

    PyTorch's own GPU kernel turns channels-last tensors into NCHW ones, a copy each way, and adds up its gradient in no
    fixed order, so that no two trainings are alike.
    """
    return _ReflectPad.apply(x, pad_px) if x.is_cuda else F.pad(x, (pad_px,) * 4, mode="reflect")


class _ReflectPad(torch.autograd.Function):
    """Mirror padding of (N, C, H, W) as copies of slices, and its gradient as sums of slices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: int) -> Tensor:
        ctx.pad_px = p
        middle = x[:, :, 1 : p + 1].flip(2), x, x[:, :, -p - 1 : -1].flip(2)
        y = torch.cat(middle, 2)  # (N, C, H+2p, W)
        return torch.cat((y[..., 1 : p + 1].flip(3), y, y[..., -p - 1 : -1].flip(3)), 3)  # (N, C, H+2p, W+2p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p = ctx.pad_px
        y = grad[..., p:-p].clone(memory_format=torch.preserve_format)
        y[..., 1 : p + 1] += grad[..., :p].flip(3)
        y[..., -p - 1 : -1] += grad[..., -p:].flip(3)
        x = y[:, :, p:-p].clone(memory_format=torch.preserve_format)
        x[:, :, 1 : p + 1] += y[:, :, :p].flip(2)
        x[:, :, -p - 1 : -1] += y[:, :, -p:].flip(2)
        return x, None


class ReflectConv(nn.Module):
    """A convolution with mirrored borders, for the layers where zero padding would be visible."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, pad: int | None = None) -> None:
        super().__init__()
        self.pad_px = kernel // 2 if pad is None else pad
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(reflect_pad(x, self.pad_px))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity (He et al. 2015); no ReLU after the sum (Gross & Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ReflectConv(channels, channels, 3)
        self.norm1 = InstanceNorm(channels)
        self.conv2 = ReflectConv(channels, channels, 3)
        self.norm2 = InstanceNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(y))


class ResizeConv(nn.Module):
    """A 3x3 convolution on features resized x2, which cannot leave a checkerboard (Odena et al. 2016)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3)

    def forward(self, x: Tensor, smooth: bool) -> Tensor:
        assert self.conv.bias is not None
        kernel, bias = F.pad(self.conv.weight, (1, 1, 1, 1)), self.conv.bias.repeat_interleave(4)
        return F.pixel_shuffle(resize_conv(x, kernel, smooth, bias), 2)


class QualityNet(nn.Module):
    """Johnson et al. 2016, supplementary Table 1; 1.68 M parameters.

    Args of forward:
        content_image: (N, 3, H, W) float RGB in [0, 1]; H and W multiples of `stride_px` and at least `least_px`.
    Returns:
        (N, 3, H, W) stylized image in (0, 1).
    Attributes:
        upsampling: of features, "bilinear" or "nearest", the same in training and afterwards. With "nearest" the style loss
            rewards the edges of repeated features so much that they weave over skies and walls. See `smoothed`.
    """

    upsampling = "nearest"

    stride_px = 4
    least_px = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = ReflectConv(3, 32, 9), InstanceNorm(32)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 3, stride=2, padding=1), InstanceNorm(64)
        self.conv3, self.norm3 = nn.Conv2d(64, 128, 3, stride=2, padding=1), InstanceNorm(128)
        self.blocks = nn.Sequential(*(ResidualBlock(128) for _ in range(5)))
        self.conv4, self.norm4 = ResizeConv(128, 64), InstanceNorm(64)
        self.conv5, self.norm5 = ResizeConv(64, 32), InstanceNorm(32)
        self.conv6 = ReflectConv(32, 3, 9)

    def forward(self, content_image: Tensor) -> Tensor:
        smooth = self.upsampling == "bilinear"
        x = F.relu(self.norm1(self.conv1(content_image)))  # (N, 32, H, W)
        x = F.relu(self.norm2(self.conv2(x)))  # (N, 64, H/2, W/2)
        x = F.relu(self.norm3(self.conv3(x)))  # (N, 128, H/4, W/4)
        x = self.blocks(x)  # (N, 128, H/4, W/4)
        x = F.relu(self.norm4(self.conv4(x, smooth)))  # (N, 64, H/2, W/2)
        x = F.relu(self.norm5(self.conv5(x, smooth)))  # (N, 32, H, W)
        # The paper has a scaled tanh on [0, 255]; a sigmoid bounds the output just as well.
        return torch.sigmoid(self.conv6(x))  # (N, 3, H, W)


class RealtimeNet(nn.Module):
    """The residual blocks work at 1/4 resolution, the output layers at 1/2. Arguments, result, attribute as in `QualityNet`.

    The stem is a pixel-unshuffle by 4 and a 3x3 convolution, written as the equivalent single 12x12 convolution.
    `skip` hands the photo's own pixels to the head, so that fine lines survive the 1/4 resolution.

    Head and skip are 5x5 convolutions at full resolution, the head's on the resized features. They are computed
    at 1/2 resolution, each of the four pixels (phases) of a 2x2 cell as channels of its own, then shuffled into place:
    the same sums at a quarter of the cost. Free phase weights (a plain pixel-shuffle head) were tried: after 750 steps
    scan lines ran through flat areas. With weights tied like this, a flat area cannot get a grid.
    """

    upsampling = "nearest"
    stride_px = 4
    least_px = 16

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.norm1 = ReflectConv(3, width, 12, stride=4, pad=4), InstanceNorm(width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(4)))
        self.conv2, self.norm2 = ResizeConv(width, 16), InstanceNorm(16)
        self.head = nn.Parameter(torch.empty(3, 16, 5, 5))
        self.skip = nn.Parameter(torch.zeros(3, 3, 5, 5))
        self.bias = nn.Parameter(torch.zeros(3))
        nn.init.kaiming_uniform_(self.head, a=math.sqrt(5))
        with torch.no_grad():  # starts close to the identity: the pixel itself, times 4 because a sigmoid's slope at 0 is 1/4
            self.skip[:, :, 2, 2] = 4.0 * torch.eye(3)

    def forward(self, content_image: Tensor) -> Tensor:
        smooth = self.upsampling == "bilinear"
        y = F.relu(self.norm1(self.stem(content_image)))  # (N, 32, H/4, W/4)
        y = self.blocks(y)  # (N, 32, H/4, W/4)
        y = F.relu(self.norm2(self.conv2(y, smooth)))  # (N, 16, H/2, W/2)
        y = resize_conv(y, self.head, smooth)
        # The order matters: OpenCV 4 opens a file of free sizes with sizes of 0. It then finds 0 on the left and 2 on the
        # right of this sum, which it accepts; the other way round it refuses the file.
        y = self.pixels(content_image) + y  # (N, 12, H/2, W/2)
        return torch.sigmoid(F.pixel_shuffle(y, 2))  # (N, 3, H, W)

    def pixels(self, content_image: Tensor) -> Tensor:
        """What the photo itself adds to the picture, before the sigmoid: (N, 12, H/2, W/2)."""
        x = reflect_pad(content_image, 2)
        if self.skip.ndim == 5:  # one for each image of a batch, see `training.gallery.base`
            return torch.cat([photo_part(x[i : i + 1], self.skip[i], self.bias[i]) for i in range(len(x))])
        return photo_part(x, self.skip, self.bias)


def upsample(x: Tensor) -> Tensor:
    """Nearest x2: repeating pixels before a convolution cannot leave a checkerboard (Odena et al. 2016)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class JohnsonNet(nn.Module):
    """Johnson et al. 2016 as pytorch/examples' fast_neural_style builds it; 1.68 M parameters.

    Every border is mirrored, and the last convolution's output is clipped. `forward` takes the same arguments as
    `QualityNet`'s; it returns (N, 3, H, W) in [0, 1], both ends included.
    """

    stride_px = 4
    least_px = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = ReflectConv(3, 32, 9), InstanceNorm(32)
        self.conv2, self.norm2 = ReflectConv(32, 64, 3, stride=2), InstanceNorm(64)
        self.conv3, self.norm3 = ReflectConv(64, 128, 3, stride=2), InstanceNorm(128)
        self.blocks = nn.Sequential(*(ResidualBlock(128) for _ in range(5)))
        self.conv4, self.norm4 = ReflectConv(128, 64, 3), InstanceNorm(64)
        self.conv5, self.norm5 = ReflectConv(64, 32, 3), InstanceNorm(32)
        self.conv6 = ReflectConv(32, 3, 9)

    def forward(self, content_image: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(content_image)))  # (N, 32, H, W)
        x = F.relu(self.norm2(self.conv2(x)))  # (N, 64, H/2, W/2)
        x = F.relu(self.norm3(self.conv3(x)))  # (N, 128, H/4, W/4)
        x = self.blocks(x)  # (N, 128, H/4, W/4)
        x = F.relu(self.norm4(self.conv4(upsample(x))))  # (N, 64, H/2, W/2)
        x = F.relu(self.norm5(self.conv5(upsample(x))))  # (N, 32, H, W)
        return self.conv6(x).clamp(0.0, 1.0)  # (N, 3, H, W)


def photo_part(padded_image: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
    """`RealtimeNet.skip` over the photo with a mirrored border of 2 px, as four phases of each color."""
    centered = bias - 0.5 * skip.sum(dim=(1, 2, 3))  # as if the photo were centered around 0
    return F.conv2d(padded_image, phases(skip), centered.repeat_interleave(4), stride=2)


def phases(kernel: Tensor) -> Tensor:
    """A 5x5 convolution at full resolution as a stride-2 one with four phases of each output channel.

    Args:
        kernel: (C_out, C_in, 5, 5).
    Returns:
        (4 C_out, C_in, 6, 6); shuffled by 2, the stride-2 convolution (pad 2) gives the 5x5 convolution's result.
    """
    shifted = [F.pad(kernel, (dx, 1 - dx, dy, 1 - dy)) for dy in (0, 1) for dx in (0, 1)]
    return torch.stack(shifted, dim=1).flatten(0, 1)


def resized_phases(kernel: Tensor) -> Tensor:
    """A 5x5 convolution on nearest-resized features as a 3x3 one on the features themselves, four phases.

    Args:
        kernel: (C_out, C_in, 5, 5).
    Returns:
        (4 C_out, C_in, 3, 3). Pairs of the six taps in `phases` fall on the same feature and are added up.
    """
    return F.avg_pool2d(phases(kernel), 2) * 4.0


def resize_conv(x: Tensor, kernel: Tensor, smooth: bool, bias: Tensor | None = None) -> Tensor:
    """A convolution on features resized x2, at the cost of one on the features themselves and without a resize operator.

    Args:
        x: (N, C_in, H, W).
        kernel: (C_out, C_in, 5, 5), for nearest-resized features.
        smooth: use `smoothed` of the kernel instead.
        bias: (4 C_out,).
    Returns:
        (N, 4 C_out, H, W): to be shuffled by 2.
    """
    return F.conv2d(reflect_pad(x, 1), resized_phases(smoothed(kernel) if smooth else kernel), bias)


def smoothed(kernel: Tensor) -> Tensor:
    """The closest kernel (least squares, of equal sum) that does on repeated features what a 3x3 one does on bilinear ones.

    With it a network trained on repeated features paints as if they were resized bilinearly: without the weave, and with
    every flat area in its color.

    Args:
        kernel: (C_out, C_in, 5, 5).
    Returns:
        the same shape.
    """
    return (kernel.flatten(2) @ SMOOTHING.to(kernel)).view_as(kernel)


def _smoothing() -> Tensor:
    """(25, 25), the projection onto 5x5 kernels that are 3x3 ones blurred by (1, 2, 1) / 4 along each axis, sums kept.

    Bilinear x2 is nearest x2 with this blur: the mean of neighbors, taken twice.
    """
    blurred = F.pad(torch.eye(9).view(9, 1, 3, 3), (2, 2, 2, 2))
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, 2, stride=1)
    kernels = blurred.view(9, 25)
    projection: Tensor = torch.linalg.pinv(kernels) @ kernels
    flat = projection.sum(0)
    return projection + torch.outer(1.0 - flat, flat / flat.sum())


SMOOTHING = _smoothing()

ImageTransformNet = QualityNet | RealtimeNet | JohnsonNet
TIERS: dict[str, type[ImageTransformNet]] = {"quality": QualityNet, "realtime": RealtimeNet}  # can be trained
NETS: dict[str, type[ImageTransformNet]] = {**TIERS, "johnson": JohnsonNet}  # can be run and exported
