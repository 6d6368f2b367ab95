"""One process of a training, started by torchrun in test_ranks; arguments: options.json, run folder."""

import os
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console  # noqa: E402

from allaprima.training import loop, preview  # noqa: E402
from allaprima.training.config import TrainConfig  # noqa: E402

if __name__ == "__main__":
    preview.PREVIEW_PX = 32
    run_folder = Path(sys.argv[2])
    with open(run_folder / f"said_{os.environ['RANK']}.txt", "a") as file:
        loop.train(TrainConfig.read(Path(sys.argv[1])), run_folder, Console(file=file, width=300), resume=True)
