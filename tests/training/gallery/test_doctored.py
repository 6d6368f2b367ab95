import numpy as np

from allaprima.inference.landscape import paint_landscape
from allaprima.training.gallery.doctored import cheats, table
from allaprima.training.studies.judges import color_volume, grid


def test_each_cheat_does_what_its_name_says():
    photo, painting = paint_landscape(96, 128, 1), paint_landscape(96, 128, 2)
    made = {name: paint(photo) for name, paint in cheats(lambda frame: 255 - frame, painting).items()}
    assert all(each.shape == photo.shape and each.dtype == np.uint8 for each in made.values())
    assert np.array_equal(made["the photo itself"], photo)
    assert np.array_equal(made["painted"], 255 - photo)
    assert abs(color_volume(made["merely recolored"]) / color_volume(painting) - 1) < 0.2
    assert np.abs(made["at half strength"].astype(int) - 127).max() <= 1
    assert made["blurred"].std() < made["painted"].std()
    assert grid(made["with a lattice"]) > 10 * max(grid(made["with noise"]), 1e-3)


def test_the_table_has_a_line_for_each_picture():
    row = {"swd": 0.0512, "ss": 0.1, "grid": 0.033, "palette": 1.0}
    assert table({"painted": row}).splitlines()[-1] == "| painted | 0.051 | 0.100 | 3.3% | 1.00 |"
