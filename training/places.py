"""Random positions at which a step samples the features and colors that it compares."""

import numpy as np
import torch
from torch import Tensor

from allaprima.training.config import SIMILARITY_LAYERS, WASSERSTEIN_LAYERS

WASSERSTEIN_PLACES, SIMILARITY_PLACES, PALETTE_PLACES = 2048, 512, 1024
_DRAWN_WITH = 3  # added to the seed: photos, crops and paintings have random streams of their own


class Places:
    """The positions of a step: different at each step, always the same at the same step.

    They are written into tensors beforehand, so that a CUDA graph can replay the rest.

    Args:
        size_px: side of the image that VGG-19 sees.
        seed: of all randomness.
    Attributes:
        wasserstein, similarity: layer -> (P,) int64, row by row in the layer's features.
        palette: (P,) int64, in the picture at half size.
    """

    def __init__(self, size_px: int, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._cells: list[tuple[Tensor, int]] = []
        reduced = {f"relu{block + 1}_1": (size_px >> block) ** 2 for block in range(5)}

        def drawn(most: int, cells: int) -> Tensor:
            places = torch.zeros(min(most, cells), dtype=torch.int64, device=device)
            self._cells.append((places, cells))
            return places

        self.wasserstein = {layer: drawn(WASSERSTEIN_PLACES, reduced[layer]) for layer in WASSERSTEIN_LAYERS}
        self.similarity = {layer: drawn(SIMILARITY_PLACES, reduced[layer]) for layer in SIMILARITY_LAYERS}
        self.palette = drawn(PALETTE_PLACES, (size_px // 2) ** 2)
        self.prepare(0)

    def prepare(self, step: int) -> None:
        """Draw the positions of a step."""
        rng = np.random.default_rng((self._seed, _DRAWN_WITH, step))
        for places, cells in self._cells:
            source = torch.from_numpy(rng.choice(cells, len(places), replace=False))
            if places.is_cuda:  # from pinned memory, so that nothing waits for the copy
                source = source.pin_memory()
            places.copy_(source, non_blocking=True)
