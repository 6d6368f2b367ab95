"""What only a GPU can show. Whoever has one:

pytest -m cuda && allaprima bench --training PAINTING --photos FOLDER
"""

import copy
import dataclasses
import json
import os

import pytest
import torch
from rich.console import Console

from models.image_transform_net import TIERS
from models.vgg import load_vgg19
from training import loop, preview
from training.config import TrainConfig
from training.loop import make_target, read_painting, train
from training.photos import PhotoFolder, list_photos, to_image
from training.ranks import Ranks
from training.update import Update, pick_step_losses, step_losses

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def config(painting, photo_folder):
    return TrainConfig(
        painting=str(painting),
        photos=str(photo_folder),
        steps=30,
        batch_size=4,
        size_px=64,
        style_size_px=64,
        device="cuda",
        precision="bf16",
        compile="off",
        vgg19="random",
        preview_every=30,
        checkpoint_every=10,
    )


@pytest.fixture(scope="module")
def update(config):
    vgg = load_vgg19("random").to(CUDA).to(memory_format=torch.channels_last)
    target = make_target(vgg, read_painting(config.painting, config.style_size_px, config.max_pixels), "bf16")
    net = TIERS[config.tier]().to(CUDA).to(memory_format=torch.channels_last)
    return Update(config, net, target, Ranks(), step_losses)


def test_a_step_never_waits_for_the_gpu(update, config, photo_folder):
    folder = PhotoFolder(list_photos(photo_folder), config.batch_size, config.size_px, 0, device=CUDA)
    for step in range(6):  # every photo is in the cache after these
        update(step, to_image(folder.load(step).content_image, CUDA))
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(6, 9):
            update(step, to_image(folder.load(step).content_image, CUDA))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert update.read().losses["total"] > 0


def test_decoded_photos_are_kept_on_the_gpu(photo_folder, config):
    folder = PhotoFolder(list_photos(photo_folder), config.batch_size, config.size_px, 0, device=CUDA)
    assert folder.load(0).content_image.is_cuda
    assert all(frame.is_cuda for frame in folder._cache.values())
    without = PhotoFolder(list_photos(photo_folder), config.batch_size, config.size_px, 0, device=CUDA, cache_bytes=0)
    assert without.load(0).content_image.is_cuda
    difference = folder.load(0).content_image.float() - without.load(0).content_image.float()
    assert difference.abs().mean() < 8.0  # of 255; boxes are rounded to whole pixels on the GPU


@pytest.mark.parametrize("tier", TIERS)
def test_channels_last_survives_every_layer_of_the_network(tier):
    net = TIERS[tier]().to(CUDA).to(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 64, 64, device=CUDA).contiguous(memory_format=torch.channels_last)
    lost = []

    def check(module, _, output):
        if output.shape[1] > 3 and not output.is_contiguous(memory_format=torch.channels_last):
            lost.append(type(module).__name__)

    for module in net.modules():
        module.register_forward_hook(check)
    with torch.autocast("cuda", torch.bfloat16):
        net(image)
    assert not lost


def test_a_training_runs_resumes_and_its_loss_falls(config, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "PREVIEW_PX", 64)
    with open(os.devnull, "w") as nowhere:
        train(config, tmp_path, Console(file=nowhere))
        for late in ("step_000030.safetensors", "step_000030.json", "weights.safetensors"):
            (tmp_path / late).unlink()
        train(config, tmp_path, Console(file=nowhere), resume=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["total"] < rows[0]["total"]
    assert loop.pick_device("auto").type == "cuda"


def test_a_compiled_step_gives_the_same_losses_where_it_works(update, config):
    losses_of, compiled = pick_step_losses(dataclasses.replace(config, compile="auto"), update.net, update.target, 4)
    image = torch.rand(4, 3, 64, 64, device=CUDA).contiguous(memory_format=torch.channels_last)
    net = copy.deepcopy(update.net)
    plain = step_losses(net, update.target, image, config, update.style_weight)
    found = losses_of(net, update.target, image, config, update.style_weight)
    assert compiled in ("on", "off")
    for name, loss in plain.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=0.03)
