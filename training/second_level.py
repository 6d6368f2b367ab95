"""What a network sees when it paints coarse to fine: its own painting, enlarged, with the photo's detail put back.

Large photos are painted this way (inference/levels.py). A network trained only on photos takes the smooth strokes of an
enlarged painting for empty walls, and hatches them. So some of every step's photos are shown in this form and compared with
the painting at twice the size: strokes within strokes, as one sees them when coming nearer to a painting.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE = 4  # one in so many of a step's photos; with two or three photos, one


def finer_count(batch_size: int, own: range) -> int:
    """How many of this process's photos (its last ones) are painted as a second level.

    Args:
        own: its photos among all those of a step.
    """
    count = max(batch_size // SHARE, 1 if batch_size > 1 else 0)
    return max(0, own.stop - max(own.start, batch_size - count))


@torch.no_grad()
def second_level(net: Callable[[Tensor], Tensor], content_image: Tensor) -> Tensor:
    """The input of the second of two levels.

    Args:
        content_image: (N, 3, P, P) in [0, 1], P a multiple of 8.
    Returns:
        the same shape: the painting of the photo at half size, enlarged, plus the photo's detail that half size loses.
    """
    coarse_content = F.avg_pool2d(content_image, 2)
    stylized_image = net(coarse_content).float()
    image = F.interpolate(stylized_image - coarse_content, scale_factor=2.0, mode="bicubic") + content_image
    return image.clamp(0.0, 1.0).contiguous(memory_format=torch.channels_last)
