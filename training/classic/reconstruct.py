"""Shows what each layer of VGG-19 knows of a picture (Gatys et al. 2016, Fig. 1): noise is changed until a layer's features,
or the Gram matrices up to a layer, match the picture's."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from allaprima.inference.console import progress_bar
from allaprima.inference.interrupt import catch_interrupt
from allaprima.inference.pictures import (
    Picture,
    check_no_input,
    check_writable,
    contact_sheet,
    read_picture,
    resize,
    write_picture,
)
from allaprima.models.errors import Interrupted
from allaprima.models.vgg import VGG19Features, load_vgg19
from allaprima.training import losses
from allaprima.training.classic.descent import Objective, Step, descend
from allaprima.training.classic.optimize import check_layers, fitted_size, noise_image
from allaprima.training.config import ReconstructConfig
from allaprima.training.device import device_name, guarded_memory, in_precision, pick_device, pick_precision
from allaprima.training.images import to_frame, to_image


def reconstruct(config: ReconstructConfig, output: Path, console: Console, overwrite: bool = False) -> None:
    """Write one labeled sheet: the picture, a row of content reconstructions and a row of style reconstructions.

    Args:
        config: what to reconstruct, from which layers.
        output: the sheet.
        console: for progress.
    Raises:
        PictureError, WeightsError, OptimizeError: something cannot be used or written.
        Interrupted: by Ctrl-C or SIGTERM, after a sheet of the finished parts was written.
    """
    check_writable(output, overwrite)
    check_no_input(output, [config.image])
    check_layers(config.layers)
    frame = read_picture(config.image, config.max_pixels).frame
    height, width = fitted_size(frame, config.size_px, config.image)
    frame = resize(frame, height, width)
    device = pick_device(config.device)
    vgg = load_vgg19(config.vgg19, config.pooling, device)
    precision = pick_precision(config.precision, vgg, device)
    looking_vgg = in_precision(vgg, precision)
    console.print(f"{width}x{height} px, VGG-19 in {precision} on {device_name(device)}", soft_wrap=True)

    kinds = ("content", "style") if config.what == "both" else (config.what,)
    rows: dict[str, list[np.ndarray | None]] = {kind: [frame] for kind in kinds}
    labels: dict[str, list[str]] = {kind: ["the picture"] for kind in kinds}
    jobs = [(kind, config.layers[: i + 1]) for kind in kinds for i in range(len(config.layers))]
    with (
        guarded_memory(height, width, precision, device),
        catch_interrupt() as interrupted,
        progress_bar(console) as progress,
    ):
        task = progress.add_task("", total=len(jobs) * (config.iterations + 1), losses="")
        for kind, layers in jobs:
            objective = make_objective(kind, layers, vgg, looking_vgg, frame)
            image = noise_image(height, width, config.seed, device)
            best: Step | None = None
            for step in descend(image, objective, config.iterations, config.optimizer):
                if best is None or step.losses[kind] < best.losses[kind]:
                    best = step
                progress.update(task, advance=1, losses=f"{kind} from {layers[-1]}, loss {step.losses[kind]:.1e}")
                if interrupted:
                    break
            assert best is not None
            begin = f"{layers[0]} to " if kind == "style" and len(layers) > 1 else ""
            text = f"{kind} from {begin}{layers[-1]}"
            if not console.is_terminal:
                console.print(f"{text}: loss {best.losses[kind]:.1e}", soft_wrap=True)
            rows[kind].append(to_frame(best.image[0].permute(1, 2, 0).cpu().numpy()))
            labels[kind].append(text)
            if interrupted:
                break
    done = [kind for kind in kinds if len(rows[kind]) > 1]
    cell_px = max(256, height, width)
    sheet = contact_sheet([rows[kind] for kind in done], [labels[kind] for kind in done], cell_px)
    write_picture(output, Picture(sheet), overwrite)
    if interrupted:
        raise Interrupted(f"stopped; what was done is in {output}")


def make_objective(
    kind: str, layers: tuple[str, ...], vgg: VGG19Features, looking_vgg: VGG19Features, frame: np.ndarray
) -> Objective:
    """Only content at the last layer, or only style at all of them.

    Args:
        vgg: float32, for the targets. looking_vgg: in the precision used for the picture.
    """
    with torch.no_grad():
        features = vgg(to_image(frame, vgg.mean.device), layers)
    if kind == "content":
        return Objective(looking_vgg, {layers[-1]: features[layers[-1]]}, {}, 1.0, 0.0)
    return Objective(looking_vgg, {}, losses.gram_matrices(features), 0.0, 1.0)
