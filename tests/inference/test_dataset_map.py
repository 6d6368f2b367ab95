"""The README's own code for painting a dataset with Hugging Face datasets and with Ray, one session per worker process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = """
import io
import datasets
import numpy as np
from PIL.Image import fromarray
from allaprima.inference.landscape import paint_landscape

def encoded(i):
    file = io.BytesIO()
    fromarray(paint_landscape(48 + 8 * i, 64, seed=i)).save(file, "PNG")
    return file.getvalue()

def load_dataset(name, split):
    photos = [{"bytes": encoded(i)[: 900 if i == 2 else None], "path": None} for i in range(5)]
    return datasets.Dataset.from_dict({"image": photos}).cast_column("image", datasets.Image())

datasets.load_dataset = load_dataset
"""
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "inference" / "README.md").read_text(), re.DOTALL)
CHECKS = """
    alone = StyleSession(find_style("great_wave/realtime"), "cpu")
    expected = [alone.stylize(paint_landscape(48 + 8 * i, 64, seed=i)) for i in range(5)]
    how = {"fn_kwargs": style, "with_indices": True}
    paint(photos[0], 0, **style)  # opened before the processes fork; its threads do not survive that
    again = photos.map(paint, num_proc=2, load_from_cache_file=False, **how)
    streamed = photos.to_iterable_dataset().map(paint, **how)
    for painted in (paintings, again, streamed):
        for i, (row, frame) in enumerate(zip(painted, expected, strict=True)):
            found = row["painting"]
            found = fromarray(np.asarray(found.convert("RGB"))) if hasattr(found, "convert") else found
            assert (found is None) == (i == 2)
            if found is not None:
                np.testing.assert_array_equal(np.asarray(found), frame)
"""


def test_a_dataset_is_mapped_and_streamed_through_a_style(tmp_path):
    (tmp_path / "script.py").write_text(PHOTOS + next(block for block in BLOCKS if "load_dataset" in block) + CHECKS)
    # datasets starts its processes by forking, which Python 3.12 and newer warn about.
    command = [sys.executable, "-W", "error", "-W", "ignore:This process", tmp_path / "script.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "row 2 is damaged" in process.stdout


@pytest.mark.slow
def test_ray_paints_a_folder_and_names_what_is_damaged(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.fromarray(paint_landscape(48 + 8 * i, 64, seed=i)).save(tmp_path / "photos" / f"{i}.png")
    broken = (tmp_path / "photos" / "2.png").read_bytes()[:900]
    (tmp_path / "photos" / "2.png").write_bytes(broken)
    block = next(block for block in BLOCKS if "ray.data" in block)
    code = block.replace("s3://bucket/photos", str(tmp_path / "photos")).replace("size=16", "size=2")
    (tmp_path / "script.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, tmp_path / "script.py"]
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "2.png is damaged" in process.stdout + process.stderr
    session = StyleSession(find_style("great_wave/realtime"), "cpu")
    found = sorted(np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "painted").glob("*.png"))
    assert found == sorted(session.stylize(paint_landscape(48 + 8 * i, 64, seed=i)).tobytes() for i in (0, 1, 3))
