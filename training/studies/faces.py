"""Whether the faces in photos are still faces in their paintings, according to a face detector trained on photos.

It is MTCNN (Zhang et al. 2016) of facenet-pytorch; that package asks for an older torch than ours, but works with ours:
`pip install requests && pip install --no-deps facenet-pytorch`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

FaceBox = tuple[float, ...]  # left, top, right, bottom
FaceFinder = Callable[[np.ndarray], list[FaceBox]]  # frame -> its faces
SURE = 0.9  # least probability of a face
LEAST_PX = 20
SAME = 0.4  # least intersection over union of two boxes of the same face


def face_finder() -> FaceFinder | None:
    """The detector; None if it is not installed."""
    try:
        from facenet_pytorch import MTCNN
    except ImportError:
        return None
    detector = MTCNN(keep_all=True, min_face_size=LEAST_PX, device="cpu")

    def find(frame: np.ndarray) -> list[FaceBox]:
        boxes, sure = detector.detect(Image.fromarray(frame))
        return [tuple(map(float, box)) for box, p in zip(boxes, sure, strict=True) if p > SURE] if boxes is not None else []

    return find


def kept(faces: Sequence[FaceBox], found: Sequence[FaceBox]) -> int:
    """How many of a photo's faces were found at the same place in its painting."""
    return sum(any(overlap(face, other) > SAME for other in found) for face in faces)


def overlap(one: FaceBox, other: FaceBox) -> float:
    """Intersection over union of two boxes."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    area_one, area_other = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (area_one + area_other - width * height)
