"""What can only be tested on a GPU. If you have one:

pytest -m cuda && allaprima bench --training PAINTING --photos FOLDER
"""

import copy
import dataclasses
import io
import json
import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from allaprima.models.image_transform_net import TIERS, reflect_pad
from allaprima.models.vgg import load_vgg19
from allaprima.training import loop, preview
from allaprima.training.classic.descent import Objective, descend
from allaprima.training.config import TrainConfig
from allaprima.training.images import to_image
from allaprima.training.launch import TrainingStep, pick_functions
from allaprima.training.loop import train, train_together
from allaprima.training.losses import gram_matrix
from allaprima.training.photos.folder import PhotoFolder, list_photos
from allaprima.training.places import Places
from allaprima.training.ranks import Ranks
from allaprima.training.style_image import make_target, read_style_image
from allaprima.training.update import Functions, Update, content_features_of, step_losses, without

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),  # by torch 2.11 itself
]
CUDA = torch.device("cuda", 0)
PLAIN = Functions(content_features_of, step_losses)


@pytest.fixture(scope="module")
def config(painting, photo_folder):
    return TrainConfig(
        style_image=str(painting),
        photos=str(photo_folder),
        steps=30,
        batch_size=4,
        size_px=64,
        style_size_px=64,
        device="cuda",
        precision="bf16",
        init="none",
        compile="off",
        vgg19="random",
        preview_every=30,
        checkpoint_every=10,
    )


@pytest.fixture
def update(config):
    loop.pick_device("cuda")
    torch.manual_seed(0)
    vgg = load_vgg19("random", device=CUDA)
    target = make_target(vgg, read_style_image(config.style_image, config.style_size_px, config.max_pixels), "bf16")
    net = TIERS[config.tier]().to(CUDA).to(memory_format=torch.channels_last)
    return Update(config, net, target, Ranks())


@contextmanager
def no_waiting():
    """Makes it an error to wait for the GPU."""
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    try:
        set_sync_debug_mode("error")
        yield
    finally:
        set_sync_debug_mode(before)


def set_sync_debug_mode(mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every call warns that this is a prototype feature
        torch.cuda.set_sync_debug_mode(mode)


def photos_like(config, seed=0):
    shape = (config.batch_size, 3, config.painted_px, config.painted_px)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return image.to(CUDA).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_step_never_waits_for_the_gpu(update, config, photo_folder, as_graph):
    folder = PhotoFolder(list_photos(photo_folder), config.batch_size, config.painted_px, 0, device=CUDA)
    launch = TrainingStep([update], PLAIN)
    if as_graph:
        assert launch.capture_(photos_like(config)) == ""
    for step in range(6):  # every photo is on the GPU after these
        launch(step, to_image(folder.load(step).content_image, CUDA))
    with no_waiting():
        for step in range(6, 9):
            launch(step, to_image(folder.load(step).content_image, CUDA))
    assert update.read().losses["total"] > 0


def test_a_cuda_graph_trains_what_launched_steps_train(config, update):
    start = copy.deepcopy(update.pack(0))
    found, painted = [], []
    for as_graph in (False, True):
        update.unpack_(start)
        launch = TrainingStep([update], PLAIN)
        if as_graph:
            assert launch.capture_(photos_like(config)) == ""
        for step in range(10):
            launch(step, photos_like(config, step))
        found.append(update.read().losses)
        with torch.no_grad():
            painted.append(update.averaged_net(photos_like(config, 99)))
    for name, loss in found[0].items():
        assert found[1][name] == pytest.approx(loss, rel=0.03), name
    assert (painted[0] - painted[1]).abs().mean() < 0.02  # of the network that will be exported


def test_decoded_photos_are_packed_on_the_gpu_and_cut_as_on_the_cpu(photo_folder, config):
    paths = list_photos(photo_folder)
    folder = PhotoFolder(paths, config.batch_size, config.painted_px, 0, device=CUDA)
    on_cpu = PhotoFolder(paths, config.batch_size, config.painted_px, 0)
    for step in range(4):
        batch = folder.load(step).content_image
        assert batch.is_cuda
        difference = (batch.cpu().float() - on_cpu.load(step).content_image.float()).abs()
        assert (difference > 2.0).float().mean() < 0.005  # of 255
    assert len(folder._here) == len(paths)
    assert len(folder._cache) == 0
    without = PhotoFolder(paths, config.batch_size, config.painted_px, 0, device=CUDA, gpu_bytes=0)
    assert without.load(0).content_image.is_cuda
    assert len(without._cache) > 0


@pytest.mark.parametrize("tier", TIERS)
def test_channels_last_survives_every_layer_of_the_network(tier):
    net = TIERS[tier]().to(CUDA).to(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 64, 64, device=CUDA).contiguous(memory_format=torch.channels_last)
    lost = []

    def check(module, inputs, output):
        for name, tensor in (("in", inputs[0]), ("out", output)):
            if tensor.shape[1] > 3 and not tensor.is_contiguous(memory_format=torch.channels_last):
                lost.append(f"{type(module).__name__} {name}")

    for module in net.modules():
        module.register_forward_hook(check)
    with torch.autocast("cuda", torch.bfloat16):
        net(image)
    assert not lost


def test_reflect_pad_equals_pytorchs_keeps_channels_last_and_is_deterministic():
    x = torch.randn(4, 32, 64, 48, device=CUDA).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = reflect_pad(x, 2)
    assert torch.equal(y, F.pad(x, (2, 2, 2, 2), mode="reflect"))
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(y)
    first, second = (torch.autograd.grad(y, x, grad, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_gram_of_bf16_is_summed_and_kept_in_float32():
    features = torch.rand(1, 64, 256, 256, device=CUDA)
    found = gram_matrix(features.bfloat16())
    flat = features.bfloat16().double().flatten(2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), flat @ flat.transpose(1, 2) / features.numel(), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("compile", ["off", "auto"])
def test_a_training_runs_resumes_and_its_loss_falls(config, tmp_path, monkeypatch, compile):
    monkeypatch.setattr(preview, "PREVIEW_PX", 64)
    config = dataclasses.replace(config, compile=compile)
    said = io.StringIO()
    train(config, tmp_path, Console(file=said, width=300))
    for late in ("step_000030.safetensors", "step_000030.json", "weights.safetensors"):
        (tmp_path / late).unlink()
    train(config, tmp_path, Console(file=said, width=300), resume=True)
    print(said.getvalue())  # pytest -s shows whether the step was compiled and captured as a graph, or why not
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["total"] < rows[0]["total"]
    assert loop.pick_device("auto").type == "cuda"
    assert ("one CUDA graph" in said.getvalue()) == (compile == "auto")


@pytest.mark.parametrize("compile", ["off", "auto"])
def test_styles_trained_together_learn_what_each_learns_alone(config, tmp_path, monkeypatch, compile):
    monkeypatch.setattr(preview, "PREVIEW_PX", 64)
    config = dataclasses.replace(config, compile=compile)
    configs = [config, dataclasses.replace(config, style_weight=8.0, title="other")]
    folders = [tmp_path / name for name in ("alone", "one", "other")]
    for folder in folders:
        folder.mkdir()
    said = io.StringIO()
    train(config, folders[0], Console(file=said, width=300))
    train_together(configs, folders[1:], Console(file=said, width=300))
    alone, together = (json.loads((folder / "weights.json").read_text())["losses"] for folder in folders[:2])
    for name in ("content", "style"):
        assert together[name] == pytest.approx(alone[name], rel=0.1)


def test_a_compiled_step_gives_the_same_losses(update, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns while it compiles
        functions = pick_functions(dataclasses.replace(config, compile="on"), update, Ranks())
    image = photos_like(config)
    crop = without(config.margin_px, image)
    features = content_features_of(update.target.vgg, crop)
    places = Places(config.size_px, config.seed, torch.device("cuda"))
    plain = step_losses(update.net, update.target, image, features, config, None, places)
    features = functions.content_features(update.target.vgg, crop)
    found = functions.step_losses(update.net, update.target, image, features, config, None, places)
    assert functions.compiled == "on", functions.why_not
    for name, loss in plain.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=0.03)


def test_classic_optimization_runs_and_its_loss_falls(update):
    vgg = load_vgg19("random", device=CUDA)
    image = torch.rand(1, 3, 64, 64, device=CUDA)
    with torch.no_grad():
        content_features = vgg(image, ("relu4_2",))
    objective = Objective(vgg, content_features, update.target.style_grams, style_weight=5.0)
    totals = [step.losses["total"] for step in descend(torch.rand_like(image), objective, 10)]
    assert totals[-1] < totals[0]
