"""Two processes on this machine train the same network as one process with as many photos per step."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

from allaprima.models.errors import TrainingError
from allaprima.training.checkpoint import load_net
from allaprima.training.config import TrainConfig
from allaprima.training.ranks import Ranks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(painting, photo_folder, tmp_path_factory):
    vgg = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    torch.manual_seed(0)
    from allaprima.models.vgg import _INDEX, VGG19Features

    net = VGG19Features()
    own = {
        f"features.{_INDEX[conv]}.{part}": net.convs[conv].get_parameter(part)
        for conv in net.convs
        for part in ("weight", "bias")
    }
    safetensors.torch.save_file(own, vgg)
    return TrainConfig(
        style_image=str(painting),
        photos=str(photo_folder),
        steps=6,
        batch_size=4,
        size_px=32,
        style_size_px=32,
        lr=2e-4,  # at 2e-3, rounding noise would grow a thousandfold in these six steps
        device="cpu",
        precision="fp32",
        init="none",
        vgg19=str(vgg),
        preview_every=6,
        checkpoint_every=3,
    )


def train_together(config: TrainConfig, run_folder: Path, processes: int) -> None:
    run_folder.mkdir(exist_ok=True)
    (run_folder / "options.json").write_text(config.to_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    run = subprocess.run(
        [*torchrun, str(Path(__file__).with_name("rank_run.py")), str(run_folder / "options.json"), str(run_folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]


def rows_of(run_folder: Path) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


@torch.no_grad()
def difference(one: Path, other: Path) -> float:
    """Largest difference between the pictures of two networks, on [0, 1].

    Weights are not compared: the gradient of a bias before an instance norm is only rounding noise, which Adam amplifies.
    """
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    nets = [load_net(run_folder / "weights.safetensors")[0] for run_folder in (one, other)]
    return float((nets[0](image) - nets[1](image)).abs().max())


@pytest.mark.thorough
def test_two_processes_train_as_one_and_one_can_resume_what_two_began(config, tmp_path):
    from allaprima.training import loop, preview

    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    before, preview.PREVIEW_PX = preview.PREVIEW_PX, 32
    with open(os.devnull, "w") as nowhere:
        loop.train(config, alone, Console(file=nowhere))
    train_together(config, together, 2)
    for one, two in zip(rows_of(alone), rows_of(together), strict=True):
        for name in ("content", "style", "tv", "total"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), (one["step"], name)
    assert difference(alone, together) < 1e-3
    assert json.loads((together / "weights.json").read_text())["device"].startswith("2 x ")
    assert (together / "said_0.txt").read_text()
    assert not (together / "said_1.txt").read_text()  # only the first process prints

    # Begun by two processes, finished by one.
    for late in ("step_000006.safetensors", "step_000006.json", "weights.safetensors"):
        (together / late).unlink()
    with open(os.devnull, "w") as nowhere:
        loop.train(config, together, Console(file=nowhere), resume=True)
    preview.PREVIEW_PX = before
    assert difference(alone, together) < 1e-3


def test_a_batch_that_cannot_be_split_evenly_is_refused(config):
    with pytest.raises(TrainingError, match="--batch-size is 4; a multiple of the 3 processes"):
        Ranks(0, 3).share(dataclasses.replace(config).batch_size)
