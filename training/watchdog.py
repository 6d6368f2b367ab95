"""Whether what a network makes of the preview photos still is a picture: neither flat nor saturated nor blobbed."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

# Calibrated on 98 sets, 1,790 pictures (2026-11-22): shipped networks, trainings from step 5 to 2,000 and untrained
# networks of both tiers on up to 50 photos of COCO, the photos themselves, and, further from a photo than any network's
# picture, six paintings and cutouts of them in place of the network's pictures.
LEAST_STD = 0.01  # of luminance; the flattest networks, 32 untrained quality ones, have 0.044
FLATTER_THAN_PHOTO = 0.25  # times the photo's own: a photo that is nearly flat may stay so
SATURATED = 1e-4  # from 0 or 1: a trained black and white woodcut comes near, a sigmoid that has died is there
# The largest seen: 0.08, of a network 200 steps into a binary woodcut and of a photo. With the last layer 100 times too
# large it is 0.95.
LARGEST_SATURATED_SHARE = 0.9
RADII = (2, 3, 4, 6, 9, 13, 20)  # of the spots looked for, in pixels of pictures of about 256 px
# No picture of the 1,790 reaches these, so that no choice of preview photos does. The nearest: 0.82 of them for a network
# (the binary woodcut; 0.79 for any other), 0.94 for a painting (the stars of The Starry Night are round spots, too).
# Low scores for droplets are the price. Two synthetic ones a picture, 4 to 40 px wide, 768 pictures of four styles: found
# in 43 % where the photo is calm, in 21 % anywhere. Spikes put into the networks' features, three a picture: in 10 %.
LARGEST_SPOT_SCORES = (2.45, 2.3, 1.9, 1.75, 1.9, 1.85, 1.75)


def picture_fault(content_frames: Sequence[np.ndarray], stylized_images: Sequence[np.ndarray]) -> str | None:
    """What is wrong with a network's pictures, None if nothing is.

    Args:
        content_frames: (H, W, 3) uint8 RGB, the photos.
        stylized_images: (H, W, 3) float32 RGB of the same sizes, as the network gave them, [0, 1] if all is well.
    """
    if not all(np.isfinite(image).all() for image in stylized_images):
        return "the pictures are not finite"
    images = [image.clip(0.0, 1.0) for image in stylized_images]
    if most(is_flat(frame, image) for frame, image in zip(content_frames, images, strict=True)):
        return "the pictures are one flat color"
    if most(saturated_share(image) > LARGEST_SATURATED_SHARE for image in images):
        return "the pictures are saturated, nearly every value is 0 or 1"
    scores = [spot_scores(frame, image) for frame, image in zip(content_frames, images, strict=True)]
    if most(bool((score > LARGEST_SPOT_SCORES).any()) for score in scores):
        return "the pictures have blobs, isolated spots that are not in the photos"
    return None


def most(faults: Iterable[bool]) -> bool:
    """At least half: one picture alone may have its reasons."""
    found = list(faults)
    return 2 * sum(found) >= len(found) > 0


def is_flat(content_frame: np.ndarray, image: np.ndarray) -> bool:
    content_std = luminance(content_frame.astype(np.float32) / 255.0).std()
    return bool(luminance(image).std() < min(LEAST_STD, FLATTER_THAN_PHOTO * content_std))


def luminance(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def saturated_share(image: np.ndarray) -> float:
    return float(((image < SATURATED) | (image > 1.0 - SATURATED)).mean())


def spot_scores(content_frame: np.ndarray, image: np.ndarray) -> np.ndarray:
    """For each of `RADII`: how far the most isolated round spot stands out of the calm ring around it.

    Contrast of a square's mean to that of the ring around it, over the ring's own standard deviation and what the
    photo has at that place. Spots that the gap around them cuts at the border do not count: mirrored there, any corner
    of a shape is a diamond (9 of the 15 paintings that the scores with a border called blobbed).
    """
    content = cv2.blur(content_frame.astype(np.float32) / 255.0, (3, 3))
    scores = []
    for radius in RADII:
        inner, gap, outer = max(1, round(0.7 * radius)), round(1.25 * radius) + 2, round(1.75 * radius) + 5
        count = (2 * outer + 1) ** 2 - (2 * gap + 1) ** 2
        ring_mean = (box_sum(image, outer) - box_sum(image, gap)) / count
        ring_square = (box_sum(image * image, outer) - box_sum(image * image, gap)) / count
        ring_std = np.sqrt(np.maximum(ring_square - ring_mean**2, 0.0)).max(axis=2)
        contrast = np.abs(box_sum(image, inner) / (2 * inner + 1) ** 2 - ring_mean).max(axis=2)
        content_mean = box_sum(content, gap) / (2 * gap + 1) ** 2
        content_square = box_sum(content * content, gap) / (2 * gap + 1) ** 2
        content_std = np.sqrt(np.maximum(content_square - content_mean**2, 0.0)).max(axis=2)
        score = contrast / (ring_std + content_std + 0.2)
        scores.append(float(score[gap:-gap, gap:-gap].max(initial=0.0)))
    return np.array(scores)


def box_sum(image: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    return np.asarray(cv2.boxFilter(image, -1, (side, side), normalize=False))
