"""The training of styles: photos through f_W and VGG-19, losses back into f_W (Johnson et al. 2016, Fig. 2)."""

import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from inference.console import progress_bar
from inference.interrupt import catch_interrupt
from models.errors import Interrupted, TrainingError
from models.image_transform_net import TIERS, ImageTransformNet
from models.vgg import load_vgg19
from training.checkpoint import TrainingState, find_weights, load_net, load_newest_state
from training.config import TrainConfig
from training.device import in_precision, pick_device, pick_precision, worker_count
from training.images import to_image
from training.many_styles import nearest, starts
from training.painting import Target, read_painting, style_grams_of
from training.photos.batch import prefetched
from training.photos.folder import PhotoFolder, is_folder, list_photos
from training.photos.hub import stream
from training.preview import load_preview_frames
from training.ranks import Ranks, from_environment, joined
from training.record import LOG_EVERY, Run, not_finite
from training.update import Step, Update, pick_functions, trial_image

# Options that may differ where several styles are trained together.
OF_ONE_STYLE = (
    *("painting", "style_size_px", "content_weight", "style_weight", "tv_weight", "border_weight", "lr", "init"),
    *("title", "painter", "year", "license"),
)


def train(config: TrainConfig, run_folder: Path, console: Console, resume: bool = False) -> Path:
    """Train one style, or go on with a training: `train_together` of one.

    Returns:
        the path of weights.safetensors.
    """
    return train_together([config], [run_folder], console, resume)[0]


def train_together(
    configs: Sequence[TrainConfig], run_folders: Sequence[Path], console: Console, resume: bool = False
) -> list[Path]:
    """Train styles on the same photos at once, or go on with that; each becomes what it would become alone.

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
    runs = start_runs(
        configs, run_folders, found, photos=photos, resume=resume, console=console, say=say, ranks=ranks, device=device
    )
    config = runs[0].config  # as the others' in all that is asked for here
    folder = open_folder(config, photos, ranks, device) if photos else None
    if step and not photos:
        say(f"{config.photos} is streamed: it goes on approximately, its shards in a new random order")
    launch = start_step(config, [run.update for run in runs], say, ranks, device)
    for run in runs:
        run.config = dataclasses.replace(run.config, compile=launch.functions.compiled)

    workers = worker_count(config.workers, device, ranks.world)
    bad: list[str] = []
    with closing(folder) if folder else nullcontext(), catch_interrupt() as interrupted, progress_bar(console) as progress:
        task = progress.add_task("training", total=config.steps, completed=step, losses="")
        while step < config.steps:
            faults: list[str | None] = []
            batches = prefetched(folder.load, range(step, config.steps), workers) if folder else stream(config, step, ranks)
            for batch in batches:
                # Load photos.
                bad += batch.bad
                if ranks.world == 1 and bad:
                    note_bad_photos(runs, bad)
                for note in batch.notes:
                    say(note)
                content_image = to_image(batch.content_image, device)

                # Paint them, compare, update weights.
                launch(step, content_image)
                step += 1
                done = step == config.steps
                progress.update(task, completed=step)

                # Read the losses: on a GPU this waits, so not at every step.
                save_due = step % config.checkpoint_every == 0 or done
                look_due = step % config.preview_every == 0 or save_due
                log_due = step % LOG_EVERY == 0 or step == 1 or done
                stop = bool(interrupted)
                if ranks.world > 1:
                    stop = ranks.any(stop) if device.type == "cpu" or log_due else False
                skipped: list[int] = []
                if log_due or look_due or stop or device.type == "cpu":
                    skipped = [run.update.peek().skipped_in_a_row for run in runs]
                    faults = [not_finite(count) for count in skipped]
                if log_due:
                    if ranks.world > 1:
                        note_bad_photos(runs, [photo for part in ranks.gather(bad) for photo in part])
                    bad.clear()
                    for run in runs:
                        text = run.note_losses(step)
                        progress.update(task, losses=text)
                        if ranks.writes and not console.is_terminal and step > 1:
                            name = f"{run.config.style_title}: " if len(runs) > 1 else ""
                            say(f"step {step}/{config.steps} {name}{text}")

                # Look, save.
                if look_due and not any(faults):
                    faults = ranks.gather([run.look(step) for run in runs] if ranks.writes else faults)[0]
                if any(faults):
                    break
                for run in runs:
                    # A checkpoint between two bad steps would be a place to go back to that is no better.
                    run.unsaved = run.unsaved or save_due
                    if (stop or done or (not any(skipped) and run.unsaved and (save_due or log_due))) and ranks.writes:
                        run.save(step)
                if stop and not done:
                    raise stopped(runs, step)
            batches.close()

            # Go back to where the pictures were good.
            if any(faults):
                states = load_checkpoints(run_folders, ranks, say, resuming=False)
                for i, run in enumerate(runs):
                    run.go_back_(states[i][0] if states else run.first_state, step, faults[i])
                step = states[0][0].step if states else runs[0].first_state.step

    # Keep the averaged weights as the result.
    return [run.keep_result() for run in runs]


def check_alike(configs: Sequence[TrainConfig]) -> None:
    """Whether these styles can be trained together.

    Raises:
        TrainingError: they differ in what decides photos or steps; the message names the first such option.
    """
    for config in configs[1:]:
        for field in dataclasses.fields(TrainConfig):
            one, other = getattr(configs[0], field.name), getattr(config, field.name)
            if one != other and field.name not in OF_ONE_STYLE:
                raise TrainingError(
                    f"{configs[0].style_title} and {config.style_title} cannot be trained together: "
                    f"{field.name} is {one} and {other}"
                )


def load_checkpoints(
    run_folders: Sequence[Path], ranks: Ranks, say: Callable[[str], None], resuming: bool = True
) -> list[tuple[TrainingState, dict[str, Any]]] | None:
    """The newest checkpoint of each folder, all of the same step and the same in all processes; None if there is none.

    Args:
        resuming: else one without a checkpoint sends all back to where this process began.
    Raises:
        TrainingError: there are none of the same step. StyleError: none of a folder's can be read.
    """
    found = [load_newest_state(run_folder, say) for run_folder in run_folders]
    while any(found) and len({state and state[0].step for state in found}) > 1:
        steps = [state[0].step if state else None for state in found]
        if None in steps and not resuming:
            found = [None for _ in found]
            break
        if None in steps:
            raise TrainingError(
                f"{', '.join(map(str, run_folders))}: these trainings are not at the same step; go on with each alone"
            )
        oldest = min(step for step in steps if step is not None)
        found = [load_newest_state(run_folder, say, oldest) for run_folder in run_folders]
    steps = ranks.gather(found[0][0].step if found[0] else None)
    if len(set(steps)) > 1:
        raise TrainingError(
            f"the processes found checkpoints of different steps in {run_folders[0]}: {steps}; they have to share it"
        )
    return [state for state in found if state] or None


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
    style_frames = [read_painting(config.painting, config.style_size_px, config.max_pixels) for config in configs]
    preview_frames = load_preview_frames(configs[0], photos)
    vgg = load_vgg19(configs[0].vgg19).to(device).to(memory_format=torch.channels_last)
    # What "auto" chose by a stopwatch; a resumed run must not choose otherwise.
    precision = found[0][1]["options"]["precision"] if found else configs[0].precision
    precision = ranks.gather(pick_precision(precision, vgg, device))[0]
    target_vgg = in_precision(vgg, precision)
    runs = []
    for i, config in enumerate(configs):
        torch.manual_seed(config.seed)
        target = Target(target_vgg, style_grams_of(vgg, style_frames[i]))
        net = TIERS[config.tier]() if found else first_network(config, target, preview_frames, say)
        net = net.to(device).to(memory_format=torch.channels_last)
        config = dataclasses.replace(config, precision=precision)
        run = Run(
            config,
            run_folders[i],
            update=Update(config, net, target, ranks),
            style_frame=style_frames[i],
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


def start_step(
    config: TrainConfig, updates: Sequence[Update], say: Callable[[str], None], ranks: Ranks, device: torch.device
) -> Step:
    """The step of these styles, compiled and as a CUDA graph where that works and pays; says what it is."""
    functions = pick_functions(config, updates[0], ranks)
    launch = Step(updates, functions)
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
    """The photos of a folder, as the options ask for them."""
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


def note_bad_photos(runs: Sequence[Run], bad: Sequence[str]) -> None:
    """List damaged photos for every style.

    Raises:
        TrainingError: there are too many.
    """
    for run in runs:
        run.bad_photos.note(bad)


def stopped(runs: Sequence[Run], step: int) -> TrainingError | Interrupted:
    """What to say of a training that was interrupted after this step."""
    if any(run.unsaved for run in runs if run.ranks.writes):
        return TrainingError(f"stopped at step {step}, which could not be saved; older checkpoints are intact")
    where = " ".join(shlex.quote(str(run.folder)) for run in runs)
    return Interrupted(f"stopped at step {step}; go on with: allaprima train --resume {where}")


def first_network(
    config: TrainConfig, target: Target, preview_frames: Sequence[np.ndarray], say: Callable[[str], None]
) -> ImageTransformNet:
    """The network that a training begins with: the nearest of the base's, another style's, or noise."""
    if config.init == "none":
        return TIERS[config.tier]()
    if config.init != "base":
        return load_init(config)
    nets = starts(config.tier)
    if not nets:
        say(f"there is no network of the {config.tier} tier to start from; it starts from noise")
        return TIERS[config.tier]()
    name = nearest(nets, target, preview_frames, config)
    say(f"starting from {name}, of {len(nets)} networks the nearest to {config.style_title}")
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
