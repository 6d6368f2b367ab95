"""Does to photos what a film does from one frame to the next: the picture moves, comes nearer, flickers, and is noisy.

A network that paints the same strokes on the photo and on the shaken photo boils less in a film, and learns that without
films (Ruder et al. 2018, "Artistic style transfer for videos and spherical images", make such films of photos, too).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT_PX = 4.0  # a maximum, like those below; the networks' stride, so that things appear everywhere on their grid
ZOOM = 0.03
LIGHT = 0.06
NOISE = 0.03  # standard deviation


@dataclass(frozen=True)
class Shaken:
    """Shaken photos.

    Attributes:
        image: (N, 3, P, P) in [0, 1].
        grid: (N, P, P, 2), where in the photos each pixel of `image` lies, for `grid_sample`.
    """

    image: Tensor
    grid: Tensor

    def follow(self, image: Tensor) -> Tensor:
        """An image made from the photos, such as their paintings, (N, C, P, P), moved as the photos were."""
        return moved(image, self.grid)


class Shake:
    """Shakes the photos differently at each step, but always the same way at the same step.

    Everything that changes from step to step is written into tensors beforehand, so that a CUDA graph can replay the rest.

    Args:
        photos: their number in a whole step, over all processes; the number of processes does not change how one is shaken.
        side_px: of each.
        seed: of all randomness.
        places: this process's photos among them.
    """

    def __init__(self, photos: int, side_px: int, seed: int, device: torch.device, places: slice = slice(None)) -> None:
        self._photos, self._seed, self._places = photos, seed, places
        noise = np.random.default_rng(seed).standard_normal((photos, 3, side_px, side_px), np.float32)[places]
        self._noise = torch.from_numpy(noise).to(device).contiguous(memory_format=torch.channels_last)
        self._lines = torch.arange(side_px, device=device)
        shift = 2.0 * SHIFT_PX / side_px  # in the units of `grid_sample`, where a picture reaches from -1 to 1
        self._lowest = (1.0 - ZOOM, -shift, -shift, 1.0 - LIGHT, 0.0)
        self._highest = (1.0 + ZOOM, shift, shift, 1.0 + LIGHT, NOISE)
        self._drawn = torch.zeros((len(noise), len(self._lowest)), device=device)
        self._first_line = torch.zeros(2, dtype=torch.int64, device=device)

    def prepare(self, step: int) -> None:
        """Draw the random numbers of a step."""
        rng = np.random.default_rng((self._seed, step))
        drawn = rng.uniform(self._lowest, self._highest, (self._photos, len(self._lowest))).astype(np.float32)
        first_line = rng.integers(len(self._lines), size=2)  # so that the noise is not in the same place each time
        for tensor, numbers in ((self._drawn, drawn[self._places]), (self._first_line, first_line)):
            source = torch.from_numpy(numbers)
            if tensor.is_cuda:  # from pinned memory, so that nothing waits for the copy
                source = source.pin_memory()
            tensor.copy_(source, non_blocking=True)

    def __call__(self, content_image: Tensor) -> Shaken:
        """The photos, (N, 3, P, P) in [0, 1], shaken."""
        zoom, x, y, light, noisy = self._drawn.unbind(1)
        none = torch.zeros_like(zoom)
        way = torch.stack([zoom, none, x, none, zoom, y], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(way, list(content_image.shape), align_corners=False)
        rows, columns = ((self._lines + first) % len(self._lines) for first in self._first_line)
        noise = self._noise.index_select(2, rows).index_select(3, columns)
        image = moved(content_image, grid) * light.view(-1, 1, 1, 1) + noise * noisy.view(-1, 1, 1, 1)
        return Shaken(image.clamp(0.0, 1.0).contiguous(memory_format=torch.channels_last), grid)


def moved(image: Tensor, grid: Tensor) -> Tensor:
    """The image sampled at the grid's positions, as float32."""
    # Bicubic, because bilinear blurs: a network whose output is compared with it would learn to blur, too.
    return F.grid_sample(image.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False)
