"""Frames and images in torch: uint8 pictures as they are read and saved, float32 ones as networks take and return them."""

import numpy as np
import torch
from torch import Tensor


def to_image(frames: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Frames as an image, channels-last in memory.

    Args:
        frames: uint8 RGB, (N, H, W, 3), or one of (H, W, 3).
    Returns:
        (N, 3, H, W) float32 in [0, 1].
    """
    frames = torch.tensor(frames) if isinstance(frames, np.ndarray) else frames
    if device.type == "cuda" and not frames.is_cuda:
        frames = frames.pin_memory()  # or the copy would wait for everything before it
    frames = frames if frames.ndim == 4 else frames[None]
    return frames.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0


def to_frame(image: np.ndarray) -> np.ndarray:
    """A network's output, (H, W, 3) float32, as uint8; values that are not finite or out of range are allowed."""
    return (np.nan_to_num(image).clip(0.0, 1.0) * 255.0).round().astype(np.uint8)


def cut_to_stride(net: torch.nn.Module, frame: np.ndarray) -> np.ndarray:
    """The upper left part of a frame, its sides multiples of the network's stride."""
    stride = int(net.stride_px)  # type: ignore[arg-type]
    height, width = (side - side % stride for side in frame.shape[:2])
    return np.ascontiguousarray(frame[:height, :width])
