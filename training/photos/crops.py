"""Square crops of photos: one by one on the CPU (Pillow), or a whole batch at once from a packed buffer on the GPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from allaprima.training.photos.store import Place

LARGEST_SCALE = 1.5  # short side of a photo that a crop is taken from, in crop sides; larger ones are scaled down to it
CUBIC_SUPPORT_PX = 2  # how far a bicubic kernel reaches, in pixels of the coarser of the two pictures


@dataclass(frozen=True)
class Box:
    """A square of a frame, in fractional pixels, and whether to flip its contents."""

    left: float
    top: float
    right: float
    bottom: float
    flip: bool = False


def random_box(height: int, width: int, size_px: int, rng: np.random.Generator) -> Box:
    """A square at a random scale and place of a frame of that size; and whether to flip it."""
    short = min(height, width)
    most = max(size_px, min(LARGEST_SCALE * size_px, short))
    scale = rng.uniform(size_px, most) / short
    scaled_w, scaled_h = max(size_px, round(width * scale)), max(size_px, round(height * scale))
    x, y = int(rng.integers(scaled_w - size_px + 1)), int(rng.integers(scaled_h - size_px + 1))
    right, bottom = min((x + size_px) / scale, float(width)), min((y + size_px) / scale, float(height))
    return Box(x / scale, y / scale, right, bottom, bool(rng.random() < 0.5))


def crop(frame: np.ndarray, box: Box, size_px: int) -> Tensor:
    """A box of a (H, W, 3) uint8 frame scaled to (size_px, size_px, 3) uint8."""
    edges = (box.left, box.top, box.right, box.bottom)
    scaled = np.asarray(Image.fromarray(frame).resize((size_px, size_px), Image.Resampling.BICUBIC, box=edges))
    return torch.tensor(np.ascontiguousarray(scaled[:, ::-1]) if box.flip else scaled)


def crop_batch(pixels: Tensor, places: Sequence[Place], boxes: Sequence[Box], size_px: int) -> Tensor:
    """`crop` of several packed frames at once: some sixty operations per batch, however many photos it has.

    The pixels around each box are gathered, then scaled by two matrix products with Pillow's bicubic weights.

    Args:
        pixels: (P, 3) uint8, of `PackedPhotos`.
        places: of N frames in it, their short sides at most `LARGEST_SCALE` * size_px.
        boxes: one in each.
    Returns:
        (N, size_px, size_px, 3) uint8 on the buffer's device, within a level of `crop`'s, except at edges that overshoot:
        Pillow chooses by size which axis it scales first, and so which values are clipped in between.
    """
    window = int(LARGEST_SCALE * (size_px + 2 * CUBIC_SUPPORT_PX)) + 2
    edges = torch.tensor([[box.top, box.bottom, box.left, box.right, float(box.flip)] for box in boxes])
    reach = CUBIC_SUPPORT_PX * LARGEST_SCALE
    corners = [(max(0, int(box.top - reach)), max(0, int(box.left - reach))) for box in boxes]
    spots = torch.tensor(
        [[place.first, place.height, place.width, *corner] for place, corner in zip(places, corners, strict=True)]
    )
    if pixels.is_cuda:  # from pinned memory, so that nothing waits for the copy
        edges, spots = edges.pin_memory(), spots.pin_memory()
    top, bottom, left, right, flip = edges.to(pixels.device, non_blocking=True).unbind(1)
    first, height, width, y, x = spots.to(pixels.device, non_blocking=True).unbind(1)

    # Gather. Beyond its frame a window repeats the last row and column, which get no weight.
    steps = torch.arange(window, device=pixels.device)
    rows = torch.minimum(y[:, None] + steps, height[:, None] - 1)
    columns = torch.minimum(x[:, None] + steps, width[:, None] - 1)
    around = pixels[first[:, None, None] + rows[:, :, None] * width[:, None, None] + columns[:, None, :]]  # (N, M, M, 3)

    # Scale.
    near, far = torch.cat((top, left)), torch.cat((bottom, right))
    weights = bicubic_weights(near, far, torch.cat((y, x)), torch.cat((height, width)), size_px, window)
    down, across = weights.chunk(2)
    across = torch.where(flip[:, None, None] > 0, across.flip(1), across)
    n = len(boxes)
    narrow = (across @ around.float().transpose(1, 2).reshape(n, window, -1)).round().clamp(0, 255)  # (N, S, M * 3)
    narrow = narrow.view(n, size_px, window, 3).transpose(1, 2).reshape(n, window, -1)  # (N, M, S * 3)
    return (down @ narrow).view(n, size_px, size_px, 3).round().clamp(0, 255).to(torch.uint8)


def bicubic_weights(start: Tensor, end: Tensor, first: Tensor, length: Tensor, size_px: int, window: int) -> Tensor:
    """The weight of each pixel of a window in each pixel of the result: Pillow's bicubic kernel, a = -0.5.

    Args:
        start, end: (N,) edges of the box in the frame.
        first: (N,) the window's first pixel.
        length: (N,) of the frame; pixels beyond it get no weight.
    Returns:
        (N, size_px, window) float32; rows add up to 1.
    """
    scale = (end - start) / size_px
    steps = torch.arange(size_px, device=start.device)
    centers = start[:, None] + (steps + 0.5) * scale[:, None]
    here = first[:, None] + torch.arange(window, device=start.device)
    stretch = scale.clamp(min=1.0)[:, None, None]  # where the picture gets smaller the kernel gets wider
    t = ((here[:, None, :] + 0.5 - centers[:, :, None]) / stretch).abs()
    near = (1.5 * t - 2.5) * t * t + 1.0
    far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    weights = torch.where(t < 1.0, near, torch.where(t < 2.0, far, 0.0)) * (here < length[:, None])[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)
