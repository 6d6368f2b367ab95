"""What a film does to a picture from one frame to the next, done to photos: it moves, comes nearer, flickers, and is noisy.

A network that paints the same strokes on the photo and on the shaken photo boils less in a film, and needs no film to learn
it (Ruder et al. 2018, "Artistic style transfer for videos and spherical images", make such films of photos, too).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT_PX = 4.0  # at most, as for all others: the stride of the networks, so that every phase of it is seen
ZOOM = 0.03
LIGHT = 0.06
NOISE = 0.03  # standard deviation


@dataclass(frozen=True)
class Shaken:
    """Photos that were shaken.

    Attributes:
        image: (N, 3, P, P) in [0, 1].
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
        self._photos, self._side_px, self._seed, self._places = photos, side_px, seed, places
        noise = np.random.default_rng(seed).standard_normal((photos, 3, side_px, side_px), np.float32)[places]
        self._noise = torch.from_numpy(noise).to(device).contiguous(memory_format=torch.channels_last)
        n = len(noise)
        self._way = torch.zeros((n, 2, 3), device=device)
        self._light, self._noisy = (torch.zeros((n, 1, 1, 1), device=device) for _ in range(2))
        self._rows, self._columns = (torch.arange(side_px, device=device) for _ in range(2))

    def prepare(self, step: int) -> None:
        """Draw the numbers of a step."""
        rng, n = np.random.default_rng((self._seed, step)), self._photos
        way = np.zeros((n, 2, 3), np.float32)
        way[:, 0, 0] = way[:, 1, 1] = 1.0 + rng.uniform(-ZOOM, ZOOM, n)
        way[:, :, 2] = rng.uniform(-SHIFT_PX, SHIFT_PX, (n, 2)) * 2.0 / self._side_px  # in grid_sample's [-1, 1]
        self._way.copy_(torch.from_numpy(way[self._places]))
        for tensor, values in (
            (self._light, rng.uniform(1.0 - LIGHT, 1.0 + LIGHT, n)),
            (self._noisy, rng.uniform(0.0, NOISE, n)),
        ):
            tensor.copy_(torch.from_numpy(values.astype(np.float32)[self._places]).view(-1, 1, 1, 1))
        for lines in (self._rows, self._columns):  # so that the same noise never lies in the same place
            lines.copy_(torch.arange(self._side_px).roll(int(rng.integers(self._side_px))))

    def __call__(self, content_image: Tensor) -> Shaken:
        """The photos, (N, 3, P, P) in [0, 1], shaken."""
        grid = F.affine_grid(self._way, list(content_image.shape), align_corners=False)
        noise = self._noise.index_select(2, self._rows).index_select(3, self._columns)
        image = moved(content_image, grid) * self._light + noise * self._noisy
        return Shaken(image.clamp(0.0, 1.0).contiguous(memory_format=torch.channels_last), grid)


def moved(image: Tensor, grid: Tensor) -> Tensor:
    """Sampled where `grid_sample` is told, as float32."""
    # Bicubic, because bilinear blurs: what is compared with it would learn to blur, too.
    return F.grid_sample(image.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False)
