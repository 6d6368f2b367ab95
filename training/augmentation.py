"""What a film does to a picture from one frame to the next, done to photos: it moves, comes nearer, flickers, and is noisy.

A network that paints the same strokes on the photo and on the shaken photo boils less in a film, and needs no film to learn
it (Ruder et al. 2018, "Artistic style transfer for videos and spherical images", make such films of photos, too).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT_PX = 4.0  # at most, as all others; the stride of the networks, so that a thing is seen everywhere on their grid
ZOOM = 0.03
LIGHT = 0.06
NOISE = 0.03  # standard deviation


@dataclass(frozen=True)
class Shaken:
    """Photos that were shaken.

    Attributes:
        image: (N, 3, P, P) in [0, 1].
        grid: (N, P, P, 2), where in the photos each of its pixels lies, for `grid_sample`.
    """

    image: Tensor
    grid: Tensor

    def follow(self, image: Tensor) -> Tensor:
        """What was seen in the photos, such as their paintings, (N, C, P, P), moved as they were."""
        return moved(image, self.grid)


class Shake:
    """Shakes the photos of each step otherwise, and those of the same step always alike.

    All it changes from step to step is written into tensors beforehand, so that a CUDA graph may replay the rest.

    Args:
        photos: of a whole step, all processes together; a photo is shaken alike, however many processes there are.
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
        """Draw the numbers of a step."""
        rng = np.random.default_rng((self._seed, step))
        drawn = rng.uniform(self._lowest, self._highest, (self._photos, len(self._lowest))).astype(np.float32)
        first_line = rng.integers(len(self._lines), size=2)  # so that the same noise never lies in the same place
        for tensor, numbers in ((self._drawn, drawn[self._places]), (self._first_line, first_line)):
            source = torch.from_numpy(numbers)
            if tensor.is_cuda:  # from pinned memory, so that nobody waits for the copy
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
    """Sampled where `grid_sample` is told, as float32."""
    # Bicubic, because bilinear blurs: what is compared with it would learn to blur, too.
    return F.grid_sample(image.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False)
