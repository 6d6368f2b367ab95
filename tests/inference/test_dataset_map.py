"""Painting a whole dataset with Hugging Face datasets, a session in each worker process: README's own code."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = """
import datasets
from inference.landscape import paint_landscape

def load_dataset(name, split):
    photos = [datasets.Image().encode_example(paint_landscape(48 + 8 * i, 64, seed=i)) for i in range(5)]
    return datasets.Dataset.from_dict({"image": photos}).cast_column("image", datasets.Image())

datasets.load_dataset = load_dataset
"""
# README's first Python block that imports datasets.
SNIPPET = next(
    block
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "inference" / "README.md").read_text(), re.DOTALL)
    if "load_dataset" in block
)
CHECKS = """
    alone = StyleSession(find_style("great_wave/realtime"), "cpu")
    expected = [alone.stylize(np.asarray(row["image"])) for row in photos]
    how = {"fn_kwargs": {"style": "great_wave/realtime"}}
    paint(photos[0], "great_wave/realtime")  # opened before the processes fork; its threads do not survive that
    again = photos.map(paint, num_proc=2, load_from_cache_file=False, **how)
    streamed = photos.to_iterable_dataset().map(paint, **how)
    for painted in (paintings, again, streamed):
        for row, frame in zip(painted, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(row["painting"]), frame)
"""


def test_a_dataset_is_mapped_and_streamed_through_a_style(tmp_path):
    (tmp_path / "script.py").write_text(PHOTOS + SNIPPET + CHECKS)
    # Forking is how datasets starts its processes; from Python 3.12 on it is warned of.
    command = [sys.executable, "-W", "error", "-W", "ignore:This process", tmp_path / "script.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
