"""The preview photos: how the network paints them now, whether that looks sane, and how far it is from the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from allaprima.inference.pictures import Picture, contact_sheet, read_picture, resize_short_side, write_picture
from allaprima.training import losses
from allaprima.training.config import CONTENT_LAYERS, STYLE_LAYERS, TrainConfig
from allaprima.training.images import cut_to_stride, to_frame, to_image
from allaprima.training.photos.folder import PhotoFolder
from allaprima.training.style_image import StyleTarget
from allaprima.training.update import weights_of
from allaprima.training.watchdog import picture_fault

PREVIEW_PX = 256  # short side of the photos in the preview sheet


@dataclass(frozen=True)
class Look:
    """One look at the preview photos.

    Attributes:
        stylized_frames: (H, W, 3) uint8.
        fault: what is wrong with the pictures, None if nothing is.
        losses: means of content, style and total over the photos.
    """

    stylized_frames: list[np.ndarray]
    fault: str | None
    losses: dict[str, float]


def load_preview_frames(config: TrainConfig, photos: Sequence[Path]) -> list[np.ndarray]:
    """The photos of the preview sheet, (H, W, 3) uint8, short side `PREVIEW_PX`.

    Args:
        photos: files in the training's folder; empty if photos are streamed.
    """
    if config.preview:
        frames = [read_picture(path, config.max_pixels).frame for path in config.preview]
    elif photos:
        folder = PhotoFolder(photos, 4, PREVIEW_PX, config.seed, max_pixels=config.max_pixels, cache_bytes=0)
        return list(folder.load(0).content_image.numpy())
    else:
        from allaprima.inference.landscape import paint_landscape

        frames = [paint_landscape(384, 512, seed) for seed in range(4)]
    return [resize_short_side(frame, PREVIEW_PX) for frame in frames]


@torch.no_grad()
def stylize_frame(net: torch.nn.Module, frame: np.ndarray) -> np.ndarray:
    """The network's painting of a (H, W, 3) uint8 frame, cut to the network's stride: (H, W, 3) float32."""
    content_image = to_image(cut_to_stride(net, frame), next(net.parameters()).device)
    return np.asarray(net(content_image)[0].permute(1, 2, 0).float().cpu())


@torch.no_grad()
def look_at(net: torch.nn.Module, target: StyleTarget, frames: Sequence[np.ndarray], config: TrainConfig) -> Look:
    """Paint the preview photos with the averaged network, in float32, and judge the result."""
    device = next(net.parameters()).device
    content_frames = [cut_to_stride(net, frame) for frame in frames]
    images, rows = [], []
    for frame in content_frames:
        content_image = to_image(frame, device)
        stylized_image = net(content_image)
        features = target.vgg(stylized_image, (*STYLE_LAYERS, *CONTENT_LAYERS))
        content_features = target.vgg(content_image, CONTENT_LAYERS)
        content = losses.content_loss(features, content_features, config.normalization)
        rows.append((content.item(), losses.style_loss(features, target.style_grams, config.normalization).item()))
        images.append(stylized_image[0].permute(1, 2, 0).float().cpu().numpy())
    content_mean, style_mean = (float(value) for value in np.mean(rows, axis=0))
    weights = weights_of(config)
    total = weights["content"] * content_mean + weights["style"] * style_mean
    stylized_frames = [to_frame(image) for image in images]
    return Look(
        stylized_frames,
        picture_fault(content_frames, images),
        {"content": content_mean, "style": style_mean, "total": total},
    )


def write_sheet(run_folder: Path, step: int, look: Look, frames: Sequence[np.ndarray], style_frame: np.ndarray) -> np.ndarray:
    """The preview photos above the network's paintings of them, as preview_000500.png.

    Raises:
        PictureError: it cannot be written.
    """
    text = f"content {look.losses['content']:.3f} style {look.losses['style']:.3f}"
    sheet = contact_sheet(
        [[style_frame, *frames], [style_frame, *look.stylized_frames]],
        [["style image", *("photo" for _ in frames)], [f"step {step}", text, *("" for _ in frames[1:])]],
    )
    write_picture(run_folder / f"preview_{step:06d}.png", Picture(sheet))
    return sheet
