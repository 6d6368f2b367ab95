"""Trains the base, one network for many paintings, from which the training of a new one starts. For maintainers:

python -m allaprima.training.gallery.base --paintings FOLDER --photos FOLDER --minutes 60 -o runs/base
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from allaprima.inference.interrupt import catch_interrupt
from allaprima.inference.pictures import list_pictures
from allaprima.inference.style.palette import PHOTO
from allaprima.models.image_transform_net import TIERS
from allaprima.models.options import choices_of
from allaprima.models.vgg import VGG19Features, load_vgg19
from allaprima.training.augmentation import Shaken
from allaprima.training.checkpoint import load_newest_state, save_checkpoint
from allaprima.training.conditional_instance_norm import BASE, ManyStyles, load_base, save_base
from allaprima.training.config import TrainConfig
from allaprima.training.device import in_precision, pick_device, pick_precision, worker_count
from allaprima.training.images import to_image
from allaprima.training.photos.batch import prefetched
from allaprima.training.photos.folder import list_photos
from allaprima.training.places import Places
from allaprima.training.ranks import Ranks
from allaprima.training.record import LOG_EVERY, MetricsLog
from allaprima.training.second_level import finer_count, second_level
from allaprima.training.start import load_init, open_folder, targets_of
from allaprima.training.style_image import StyleTarget, read_style_image
from allaprima.training.update import Functions, Update, content_features_of, shake_of, step_losses, without

PHOTO_WEIGHT = 5.0  # of the mean absolute difference when the photo is painted as itself
STEPS = 10**9  # of the schedule: the learning rate stays high, as a base can always learn more


def train_base(
    config: TrainConfig, style_images: Sequence[Path], run_folder: Path, output: Path, minutes: float, console: Console
) -> None:
    """Train the base, or go on with it, for some minutes.

    Every photo of a step is painted in the style of a different painting, the last ones as a second level
    (training/second_level.py), and the first one also as itself: so parameters between a painting's own and the photo's
    give a gentler version of that painting. What is kept is the average of the weights.

    Args:
        config: its `style_image` and `steps` are ignored; its `init`, a network's file, is used only if there is no base yet.
        style_images: their files; the same ones when a training goes on.
        run_folder: gets checkpoints and metrics.jsonl.
        output: the .safetensors that other trainings start from, named after the tier. If it exists, a new training starts
            from it, even for other paintings.
    Raises:
        TrainingError, PictureError, StyleError, WeightsError: something cannot be used.
    """
    began = time.monotonic()
    run_folder.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    found = load_newest_state(run_folder, console.print)
    device = pick_device(config.device)
    vgg = load_vgg19(config.vgg19, device=device)
    config = dataclasses.replace(config, steps=STEPS, precision=pick_precision(config.precision, vgg, device))
    target, finer = targets_of_all(config, style_images, vgg)
    torch.manual_seed(config.seed)
    names = [*(path.stem for path in style_images), PHOTO]
    from_noise = output.is_file() or found or config.init in ("none", "base")
    net = ManyStyles(TIERS[config.tier]() if from_noise else load_init(config), len(names))
    net.net.upsampling = config.upsampling
    if output.is_file() and not found:
        load_base(config.tier, output.parent).go_on_(net, names)
        console.print(f"beginning with what {output} has learned")
    net = net.to(device)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    update, shake = Update(config, net, target, Ranks()), shake_of(config, Ranks(), device)
    places = Places(config.size_px, config.seed, device)
    step, seconds_before = 0, 0.0
    if found:
        update.unpack_(found[0])
        step, seconds_before = found[0].step, float(found[1]["seconds"])
    log = MetricsLog(run_folder, step, config.batch_size, console)
    folder = open_folder(config, list_photos(Path(config.photos)), Ranks(), device)
    console.print(f"{len(style_images)} paintings from step {step}, {config.precision} on {device}")

    def save(newest: dict[str, float]) -> None:
        card: dict[str, Any] = {
            "tier": config.tier,
            "paintings": names,
            "step": step,
            "photos_seen": step * config.batch_size,
            "seconds": round(seconds_before + time.monotonic() - began, 1),
            "losses": newest,
            "options": {
                name: value
                for name, value in dataclasses.asdict(config).items()
                if (type(value) in (int, float) and name != "steps") or choices_of(TrainConfig, name)
            },
        }
        save_checkpoint(run_folder, update.pack(step), card)
        save_base(output, update.averaged_net, card)

    newest: dict[str, float] = {}
    with catch_interrupt() as interrupted:
        for batch in prefetched(folder.load, range(step, STEPS), worker_count(config.workers, device)):
            content_image = to_image(batch.content_image, device)
            styles = styles_of(step, config.seed, len(style_images), config.batch_size).to(device)
            looks = styles.clone()
            if finer:
                with torch.autocast(device.type, torch.bfloat16, enabled=target.vgg.dtype == torch.bfloat16):
                    content_image = with_second_level(net, content_image, styles, finer)
                looks[-finer:] += len(style_images)
            content_features = content_features_of(target.vgg, without(config.margin_px, content_image))
            shake.prepare(step)
            places.prepare(step)
            update.prepare(step)
            update(
                content_image, content_features, Functions(content_features_of, losses_of(styles, looks, names)), places, shake
            )
            step += 1
            if step % LOG_EVERY == 0:
                newest = update.read().losses or newest
                log.add(step, newest)
                text = " ".join(f"{name} {value:.3f}" for name, value in newest.items())
                console.print(f"step {step} {text} {log.photos_per_s:.1f} photos/s", soft_wrap=True)
            is_over = bool(interrupted) or time.monotonic() - began > 60 * minutes
            if is_over or step % config.checkpoint_every == 0:
                save(newest)
            if is_over:
                break


def targets_of_all(config: TrainConfig, style_images: Sequence[Path], vgg: VGG19Features) -> tuple[StyleTarget, int]:
    """The targets of all paintings, for the painter's recipe followed by all their second-level targets; and how many photos
    of a step are painted as a second level."""
    each = [
        targets_of(
            dataclasses.replace(config, style_image=str(path)), vgg, [read_style_image(str(path), config.style_size_px)], vgg
        )
        for path in style_images
    ]
    finer = [target for _, target in each if target]
    target = StyleTarget.of_all([target for target, _ in each] + finer)
    count = finer_count(config.batch_size, range(config.batch_size)) if finer else 0
    return dataclasses.replace(target, vgg=in_precision(vgg, config.precision)), count


def with_second_level(net: ManyStyles, content_image: Tensor, styles: Tensor, count: int) -> Tensor:
    """The photos of a step, the last `count` in the form that their paintings' network sees at its second level."""
    finer = second_level(lambda coarse: net(coarse, styles[-count:]), content_image[-count:])
    return torch.cat([content_image[:-count], finer]).contiguous(memory_format=torch.channels_last)


def losses_of(styles: Tensor, looks: Tensor, names: Sequence[str]) -> Any:
    """`step_losses` with a painting for each photo; the first photo is also painted as itself.

    Args:
        styles, looks: (N,) indices of the network's paintings, and of the targets.
        names: of the network's paintings, `PHOTO` among them.
    """
    photo = torch.full_like(styles[:1], names.index(PHOTO))

    def losses(
        net: nn.Module,
        target: StyleTarget,
        content_image: Tensor,
        features: dict[str, Tensor],
        config: TrainConfig,
        shaken: Shaken | None,
        places: Places,
    ) -> dict[str, Tensor]:
        of_each = target.of_each(looks)
        parts = step_losses(lambda image: net(image, styles), of_each, content_image, features, config, shaken, places)
        with torch.autocast(content_image.device.type, torch.bfloat16, enabled=target.vgg.dtype == torch.bfloat16):
            same = net(content_image[:1], photo)
        parts["total"] = parts["total"] + PHOTO_WEIGHT * F.l1_loss(same.float(), content_image[:1])
        return parts

    return losses


def styles_of(step: int, seed: int, style_images: int, photos: int) -> Tensor:
    """The index of the painting for each photo of a step; none comes twice before all have come."""
    rng = np.random.default_rng((seed, 2, step))
    return torch.tensor(np.concatenate([rng.permutation(style_images) for _ in range(-(-photos // style_images))])[:photos])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paintings", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="paintings of it that are left out")
    parser.add_argument("--photos", required=True, metavar="FOLDER")
    parser.add_argument("--tier", choices=choices_of(TrainConfig, "tier"), default=TrainConfig.tier)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--size", type=int, default=192, help="side of the crops (default: %(default)s)")
    parser.add_argument("--init", default="none", metavar="FILE", help="a network that a base begins with (default: noise)")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/base"), metavar="RUN_FOLDER")
    arguments = parser.parse_args()
    train_base(
        TrainConfig(
            str(arguments.paintings),
            arguments.photos,
            tier=arguments.tier,
            size_px=arguments.size,
            lr=1.5e-3,
            init=arguments.init,
        ),
        [path for path in list_pictures(arguments.paintings) if path.stem not in arguments.without],
        arguments.output,
        BASE / f"{arguments.tier}.safetensors",
        arguments.minutes,
        Console(highlight=False),
    )
