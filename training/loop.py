"""The training loop: photos go through f_W and VGG-19, losses back into f_W (Johnson et al. 2016, Fig. 2)."""

import dataclasses
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from allaprima.inference.console import progress_bar
from allaprima.inference.interrupt import catch_interrupt
from allaprima.models.errors import TrainingError
from allaprima.training.config import TrainConfig
from allaprima.training.device import pick_device, worker_count
from allaprima.training.images import to_image
from allaprima.training.photos.batch import prefetched
from allaprima.training.photos.folder import is_folder, list_photos
from allaprima.training.photos.hub import stream
from allaprima.training.ranks import Ranks, from_environment, joined
from allaprima.training.runs import Due, Runs, load_checkpoints
from allaprima.training.start import open_folder, start_runs, start_step

# Options that may differ where several styles are trained together.
OF_ONE_STYLE = (
    *("style_image", "style_size_px", "content_weight", "style_weight", "tv_weight", "border_weight", "steady", "lr", "init"),
    *("title", "painter", "year", "license", "strokes", "crop_border", "more_style_images", "style_blend"),
)


def train(config: TrainConfig, run_folder: Path, console: Console, resume: bool = False) -> Path:
    """Train one style, or go on with a training: `train_together` with one style.

    Returns:
        the path of weights.safetensors.
    """
    return train_together([config], [run_folder], console, resume)[0]


def train_together(
    configs: Sequence[TrainConfig], run_folders: Sequence[Path], console: Console, resume: bool = False
) -> list[Path]:
    """Train styles on the same photos at once, or go on with that; each turns out as it would alone.

    Together they cost less: photos are prepared once, and VGG-19 looks at them once. If one style's picture goes bad, all
    go back to the same step.

    Args:
        configs: what to train; they differ in nothing but `OF_ONE_STYLE`.
        run_folders: one for each; gets metrics.jsonl, checkpoints, previews, and at the end weights.safetensors. Processes
            started by torchrun share it, and only the first one writes.
        console: for progress.
        resume: start from the newest checkpoints in the folders, or from the beginning if there are none yet.
    Returns:
        the paths of weights.safetensors.
    Raises:
        TrainingError, PictureError, StyleError, WeightsError: something in `configs` cannot be used, or the training
            cannot go on; checkpoints stay.
        Interrupted: by Ctrl-C or SIGTERM, after saving.
    """
    check_alike(configs)
    if len({folder.resolve() for folder in run_folders}) < len(run_folders):
        raise TrainingError(f"{', '.join(map(str, run_folders))}: each style needs a run folder of its own")
    ranks = from_environment()
    device = pick_device(configs[0].device, ranks.local)
    console = console if ranks.writes else Console(quiet=True)
    try:
        with joined(ranks, device):
            return _train(configs, run_folders, console, resume, ranks, device)
    except torch.OutOfMemoryError as error:
        raise TrainingError("the GPU has too little memory; give a smaller --batch-size or --size") from error
    except RuntimeError as error:
        if ranks.world == 1:
            raise
        raise TrainingError(f"process {ranks.rank} lost the others; the one that failed says why") from error


def _train(
    configs: Sequence[TrainConfig],
    run_folders: Sequence[Path],
    console: Console,
    resume: bool,
    ranks: Ranks,
    device: torch.device,
) -> list[Path]:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    # Load checkpoints, photos, VGG-19, paintings and networks.
    found = load_checkpoints(run_folders, ranks, say) if resume else None
    step = found[0][0].step if found else 0
    if found:
        say(f"going on at step {step} of {configs[0].steps}")
    photos = list_photos(Path(configs[0].photos)) if is_folder(configs[0].photos) else []
    each = start_runs(
        configs, run_folders, found, photos=photos, resume=resume, console=console, say=say, ranks=ranks, device=device
    )
    config = each[0].config  # the styles share every option that is read below
    folder = open_folder(config, photos, ranks, device) if photos else None
    if step and not photos:
        say(f"{config.photos} is streamed: it goes on approximately, its shards in a new random order")
    launch = start_step(config, [run.update for run in each], say, ranks, device)
    for run in each:
        run.config = dataclasses.replace(run.config, compile=launch.functions.compiled)

    workers = worker_count(config.workers, device, ranks.world)
    with closing(folder) if folder else nullcontext(), catch_interrupt() as interrupted, progress_bar(console) as progress:
        task = progress.add_task("training", total=config.steps, completed=step, losses="")
        show = partial(progress.update, task)
        runs = Runs(each, ranks, device, say=say, show=lambda text: show(losses=text), speaks=not console.is_terminal)
        while step < config.steps:
            batches = prefetched(folder.load, range(step, config.steps), workers) if folder else stream(config, step, ranks)
            for batch in batches:
                # Load photos.
                runs.note_photos(batch)
                content_image = to_image(batch.content_image, device)

                # Paint them, compare, update weights.
                launch(step, content_image)
                step += 1
                show(completed=step)

                # Read the losses, look, save.
                due = Due.after(step, config)
                stopped = runs.is_stopped(interrupted, due)
                runs.read(step, due, stopped)
                runs.look(step, due)
                if any(runs.faults):
                    break
                runs.save(step, due, stopped)
            batches.close()

            # Go back to where the pictures were good.
            if any(runs.faults):
                step = runs.go_back_(step)

    # Keep the averaged weights as the result.
    return [run.keep_result() for run in each]


def check_alike(configs: Sequence[TrainConfig]) -> None:
    """Check that these styles can be trained together.

    Raises:
        TrainingError: they differ in an option that decides photos or steps; the message names the first such option.
    """
    for config in configs[1:]:
        for field in dataclasses.fields(TrainConfig):
            one, other = getattr(configs[0], field.name), getattr(config, field.name)
            if one != other and field.name not in OF_ONE_STYLE:
                raise TrainingError(
                    f"{configs[0].style_title} and {config.style_title} cannot be trained together: "
                    f"{field.name} is {one} and {other}"
                )
