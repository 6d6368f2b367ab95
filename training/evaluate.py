"""How good a network is: content and style loss on photos it was never trained on."""

from pathlib import Path

import numpy as np
import torch

from inference.pictures import read_picture, resize_short_side
from models.image_transform_net import ImageTransformNet
from models.vgg import VGG19Features
from training import losses
from training.loop import make_target
from training.photos import list_photos, to_image


@torch.no_grad()
def heldout_losses(
    net: ImageTransformNet, vgg: VGG19Features, style_frame: np.ndarray, photos: Path, size_px: int
) -> dict[str, float]:
    """Mean unitless losses over a folder of photos.

    Args:
        net, vgg: float32, on one device.
        style_frame: the painting as it was trained on, (H, W, 3) uint8.
        photos: a folder; each photo is scaled to `size_px` on its short side and cut to the middle square.
        size_px: a multiple of 16.
    Returns:
        {"content": ..., "style": ..., "total10": content + 10 x style}.
    """
    device = next(net.parameters()).device
    style_grams = make_target(vgg, style_frame, "fp32").style_grams
    rows = []
    for path in list_photos(photos):
        frame = middle_square(resize_short_side(read_picture(path).frame, size_px), size_px)
        content_image = to_image(torch.tensor(frame)[None], device)
        features = vgg(net(content_image), (*losses.STYLE_LAYERS, *losses.CONTENT_LAYERS))
        content_features = vgg(content_image, losses.CONTENT_LAYERS)
        rows.append((losses.content_loss(features, content_features).item(), losses.style_loss(features, style_grams).item()))
    content, style = np.mean(rows, axis=0)
    return {"content": round(content, 4), "style": round(style, 4), "total10": round(content + 10 * style, 4)}


def middle_square(frame: np.ndarray, size_px: int) -> np.ndarray:
    top, left = ((side - size_px) // 2 for side in frame.shape[:2])
    return frame[top : top + size_px, left : left + size_px]
