"""Whether a network's paintings of the preview photos are still pictures: neither flat nor saturated. Blobs are left to the
eye: a detector without false alarms found only 10 to 43 % of them."""

from collections.abc import Iterable, Sequence

import numpy as np

from allaprima.models.contract import LUMA

# Calibrated on 98 sets, 1,790 pictures (2026-11-22): shipped networks, trainings from step 5 to 2,000 and untrained
# networks of both tiers on up to 50 photos of COCO, the photos themselves, and six paintings and cutouts of them in place of
# the network's pictures, which differ more from a photo than any network's picture does.
MIN_STD = 0.01  # of luminance; the flattest networks, 32 untrained quality ones, have 0.044
FLATTER_THAN_PHOTO = 0.25  # times the photo's own: a photo that is nearly flat may stay so
SATURATED = 1e-4  # distance from 0 or 1: a trained black-and-white woodcut comes near it, a dead sigmoid is below it
# The largest seen is 0.08, from a network 200 steps into a binary woodcut and from a photo. With the last layer 100 times
# too large it is 0.95.
LARGEST_SATURATED_SHARE = 0.9


def picture_fault(content_frames: Sequence[np.ndarray], stylized_images: Sequence[np.ndarray]) -> str | None:
    """What is wrong with a network's pictures, None if nothing is.

    Args:
        content_frames: (H, W, 3) uint8 RGB, the photos.
        stylized_images: (H, W, 3) float32 RGB of the same sizes, as the network returned them, in [0, 1] if all is well.
    """
    if not all(np.isfinite(image).all() for image in stylized_images):
        return "the pictures are not finite"
    images = [image.clip(0.0, 1.0) for image in stylized_images]
    if most(is_flat(frame, image) for frame, image in zip(content_frames, images, strict=True)):
        return "the pictures are one flat color"
    if most(saturated_share(image) > LARGEST_SATURATED_SHARE for image in images):
        return "the pictures are saturated, nearly every value is 0 or 1"
    return None


def most(faults: Iterable[bool]) -> bool:
    """Whether at least half are true: a single picture may have its reasons."""
    found = list(faults)
    return 2 * sum(found) >= len(found) > 0


def is_flat(content_frame: np.ndarray, image: np.ndarray) -> bool:
    content_std = luminance(content_frame.astype(np.float32) / 255.0).std()
    return bool(luminance(image).std() < min(MIN_STD, FLATTER_THAN_PHOTO * content_std))


def luminance(image: np.ndarray) -> np.ndarray:
    return image @ np.array(LUMA, np.float32)


def saturated_share(image: np.ndarray) -> float:
    return float(((image < SATURATED) | (image > 1.0 - SATURATED)).mean())
