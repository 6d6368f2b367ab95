"""What a training begins with: checkpoints, photos, VGG-19, paintings, networks, and the step, compiled if that pays."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from allaprima.models.errors import TrainingError
from allaprima.models.image_transform_net import TIERS, ImageTransformNet
from allaprima.models.vgg import VGG19Features, load_vgg19
from allaprima.training.checkpoint import TrainingState, find_weights, load_net
from allaprima.training.conditional_instance_norm import learn_own_alone_, nearest, starts
from allaprima.training.config import TrainConfig
from allaprima.training.device import in_precision, pick_precision
from allaprima.training.launch import TrainingStep, pick_functions, trial_image
from allaprima.training.photos.folder import PhotoFolder
from allaprima.training.preview import load_preview_frames
from allaprima.training.ranks import Ranks
from allaprima.training.runs import Run
from allaprima.training.style_image import StyleTarget, make_target, plain_border_text, read_style_image, without_grain
from allaprima.training.update import Update


def start_runs(
    configs: Sequence[TrainConfig],
    run_folders: Sequence[Path],
    found: Sequence[tuple[TrainingState, dict[str, Any]]] | None,
    *,
    photos: Sequence[Path],
    resume: bool,
    console: Console,
    say: Callable[[str], None],
    ranks: Ranks,
    device: torch.device,
) -> list[Run]:
    """Each style with its network, average and optimizer, and one VGG-19 for all."""
    style_frames = [
        [
            read_style_image(path, config.style_size_px, config.max_pixels, crop_border=config.crop_border)
            for path in config.style_images
        ]
        for config in configs
    ]
    for config, frames in zip(configs, style_frames, strict=True):
        for path, frame in zip(config.style_images, frames, strict=True):
            if not resume and (text := plain_border_text(path, frame)):
                say(text)
    preview_frames = load_preview_frames(configs[0], photos)
    vgg = load_vgg19(configs[0].vgg19, device=device)
    # "auto" chose by timing; a resumed run must not choose differently.
    precision = found[0][1]["options"]["precision"] if found else configs[0].precision
    precision = ranks.gather(pick_precision(precision, vgg, device))[0]
    target_vgg = in_precision(vgg, precision)
    runs = []
    for i, config in enumerate(configs):
        torch.manual_seed(config.seed)
        target, finer_target = targets_of(config, vgg, style_frames[i], target_vgg)
        net = TIERS[config.tier]() if found else first_network(config, target, preview_frames, say)
        if config.into == "palette":
            learn_own_alone_(net)
        net.upsampling = config.upsampling
        net = net.to(device).to(memory_format=torch.channels_last)
        config = dataclasses.replace(config, precision=precision)
        run = Run(
            config,
            run_folders[i],
            update=Update(config, net, target, ranks, finer_target),
            style_frame=style_frames[i][0],
            preview_frames=preview_frames,
            found=found[i] if found else None,
            resume=resume,
            photos=len(photos) or math.inf,
            names_photos=i == 0,
            console=console,
            ranks=ranks,
        )
        runs.append(run)
    return runs


def targets_of(
    config: TrainConfig, vgg: VGG19Features, style_frames: Sequence[np.ndarray], target_vgg: VGG19Features
) -> tuple[StyleTarget, StyleTarget | None]:
    """The target of a training and, for the painter's recipe, that of the paintings twice as large, for the second level.

    Args:
        vgg: float32; looks at the paintings. target_vgg: in the precision used for training.
        style_frames: `config.style_images`.
    """

    def target_of(frames: Iterable[np.ndarray]) -> StyleTarget:
        targets = [make_target(vgg, frame, "fp32") for frame in frames]
        return dataclasses.replace(StyleTarget.blended(targets, config.style_blend or [1.0] * len(targets)), vgg=target_vgg)

    if config.recipe != "painter":
        return target_of(style_frames), None
    finer = (
        read_style_image(path, 2 * config.style_size_px, config.max_pixels, enlarged=False, crop_border=config.crop_border)
        for path in config.style_images
    )
    return target_of(style_frames), target_of(map(without_grain, finer))


def start_step(
    config: TrainConfig, updates: Sequence[Update], say: Callable[[str], None], ranks: Ranks, device: torch.device
) -> TrainingStep:
    """The step of these styles, compiled and as a CUDA graph if that works and pays; prints which it is."""
    functions = pick_functions(config, updates[0], ranks)
    launch = TrainingStep(updates, functions)
    kind = [f"VGG-19 and network in {config.precision} on {device}"]
    if functions.compiled == "on":
        kind.append("compiled")
    elif functions.why_not:
        say(f"the step is not compiled: {functions.why_not}")
    if device.type == "cuda" and ranks.world == 1 and config.compile != "off":
        why_not = launch.capture_(trial_image(config, ranks, device))
        if why_not:
            say(f"the step is no CUDA graph: {why_not}")
        else:
            kind.append("one CUDA graph")
    if ranks.world > 1:
        kind.append(f"{ranks.world} processes")
    say(", ".join(kind))
    return launch


def open_folder(
    config: TrainConfig, photos: Sequence[Path], ranks: Ranks, device: torch.device, gpu_bytes: float | None = None
) -> PhotoFolder:
    """The photos of a folder, read as the options ask."""
    return PhotoFolder(
        photos,
        config.batch_size,
        config.painted_px,
        config.seed,
        max_pixels=config.max_pixels,
        share=ranks.share(config.batch_size),
        device=device,
        gpu_bytes=gpu_bytes,
        store=Path(config.photo_store) if config.photo_store else None,
    )


def first_network(
    config: TrainConfig, target: StyleTarget, preview_frames: Sequence[np.ndarray], say: Callable[[str], None]
) -> ImageTransformNet:
    """The network that a training begins with: the base's, another style's, or a random one."""
    if config.init == "none":
        return TIERS[config.tier]()
    if config.init != "base":
        return load_init(config)
    nets = starts(config.tier)
    if not nets:
        say(f"there is no network of the {config.tier} tier to start from; it starts from noise")
        return TIERS[config.tier]()
    name = nearest(nets, target, preview_frames, config) if len(nets) > 1 else next(iter(nets))
    say(f"starting from {name}" + (f", of {len(nets)} networks the nearest to {config.style_title}" if len(nets) > 1 else ""))
    return nets[name]


def load_init(config: TrainConfig) -> ImageTransformNet:
    """Another style's network to start from.

    Raises:
        StyleError: not ours. TrainingError: of the other tier.
    """
    net, card = load_net(find_weights(Path(config.init)))
    if card["tier"] != config.tier:
        raise TrainingError(f"--init {config.init} is of tier {card['tier']}; --tier is {config.tier}")
    return net.train()
