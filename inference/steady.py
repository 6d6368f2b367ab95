"""Makes moving things carry their strokes along: wherever anything moves, networks paint other strokes in each frame."""

from typing import Any

import cv2
import numpy as np

from allaprima.inference.buffers import Scratch

LEAST_PX = 64  # side of a painting; in smaller ones movement is not looked for
SHRINK = 2  # movement is looked for at half the size
SURE = 12.0  # of 255: where frame and moved previous frame differ by more, the movement is not trusted
NO_SECOND_MAP: Any = None  # for cv2.remap: x and y are both in the first map, which its type hints do not allow
CUT = 0.25  # if less of the picture can be trusted, another scene has begun


class Steadier:
    """Blends each painting with the previous one, moved along with the film, where that movement is certain.

    The movement is OpenCV's DIS flow (Kroeger et al. 2016) from each frame to the previous one. It is trusted as far as the
    film's own frames agree when moved by it; elsewhere, as behind a moving thing and after a cut, the painting stays as
    the network made it. Figures are in inference/README.md.
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._scratch = Scratch()
        self._grids: dict[tuple[int, int], np.ndarray] = {}
        self._gray: np.ndarray | None = None
        self._stylized_before: np.ndarray | None = None

    def steady(self, content_frame: np.ndarray, stylized_frame: np.ndarray, amount: float) -> np.ndarray:
        """Steady the painting of the next frame of a film.

        Args:
            content_frame: (H, W, 3) uint8 RGB.
            stylized_frame: (h, w, 3) uint8 RGB, of any size; the result is written into it.
            amount: how much of the previous painting stays where the movement is certain, from 0 to less than 1.
        Returns:
            `stylized_frame`.
        """
        height, width = stylized_frame.shape[:2]
        get = self._scratch.get
        if not amount or min(height, width) < LEAST_PX:
            self._gray = None
            return stylized_frame
        small_size = width // SHRINK, height // SHRINK
        small = cv2.resize(content_frame, small_size, get("small", (*small_size[::-1], 3)), interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        before, self._gray = self._gray, gray
        if (
            before is not None
            and before.shape == gray.shape
            and self._stylized_before is not None
            and self._stylized_before.shape == stylized_frame.shape
        ):
            # If it were not zero, DIS would begin its search there.
            flow = get("flow", (*gray.shape, 2), np.float32)
            flow.fill(0.0)
            flow = self._dis.calc(gray, before, flow)
            trust = self._trust(gray, before, flow)
            if trust.mean() > CUT:
                self._blend(stylized_frame, self._stylized_before, flow, amount * trust)
        if self._stylized_before is None or self._stylized_before.shape != stylized_frame.shape:
            self._stylized_before = np.empty_like(stylized_frame)
        np.copyto(self._stylized_before, stylized_frame)
        return stylized_frame

    def _trust(self, gray: np.ndarray, before: np.ndarray, flow: np.ndarray) -> np.ndarray:
        """How certain the movement is: (h, w) float32, 0 to 1, at the small size."""
        height, width = gray.shape
        there = flow + self._places(height, width)
        moved = cv2.remap(before, there, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        change = cv2.blur(cv2.absdiff(moved, gray), (3, 3)).astype(np.float32)
        trust = np.clip(1.5 - change / SURE, 0.0, 1.0)
        x, y = there[..., 0], there[..., 1]
        trust[(x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)] = 0.0  # came in from outside
        return cv2.erode(trust, np.ones((5, 5), np.uint8))

    def _blend(self, stylized_frame: np.ndarray, before: np.ndarray, flow: np.ndarray, share: np.ndarray) -> None:
        """Blend the previous painting, moved along, into this one."""
        height, width = stylized_frame.shape[:2]
        get = self._scratch.get
        # Scaled before it is enlarged, x and then y: NumPy's broadcasting over each pixel's two values is slow.
        scaled = np.empty_like(flow)
        for axis, scale in enumerate((width / flow.shape[1], height / flow.shape[0])):
            np.multiply(flow[..., axis], np.float32(scale), scaled[..., axis])
        there = get("there", (height, width, 2), np.float32)
        cv2.resize(scaled, (width, height), there, interpolation=cv2.INTER_LINEAR)
        cv2.add(there, self._places(height, width), there)
        moved = get("moved", stylized_frame.shape)
        # Cubic is twelve times as slow and no sharper; linear blurs a little more with every frame.
        cv2.remap(before, there, NO_SECOND_MAP, cv2.INTER_NEAREST, moved, cv2.BORDER_REPLICATE)
        mine = cv2.resize(share, (width, height), get("mine", (height, width), np.float32), interpolation=cv2.INTER_LINEAR)
        rest = np.subtract(1.0, mine, get("rest", (height, width), np.float32))
        cv2.blendLinear(moved, stylized_frame, mine, rest, stylized_frame)

    def _places(self, height: int, width: int) -> np.ndarray:
        """Each pixel's own position, x and y."""
        if (height, width) not in self._grids:
            if len(self._grids) > 1:
                self._grids.clear()  # of another film
            x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
            self._grids[height, width] = np.stack([x, y], axis=-1)
        return self._grids[height, width]
