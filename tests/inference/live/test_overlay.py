"""Words on the live picture."""

import numpy as np

from allaprima.inference.live.overlay import write_words


def test_letters_are_drawn():
    canvas = np.full((100, 400, 3), 128, np.uint8)
    write_words(canvas, ["30 fps   naïve"])
    assert canvas.max() > 200
    assert canvas.min() < 64
    assert (canvas[50:] == 128).all()
