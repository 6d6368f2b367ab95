"""The training of one style: photos through f_W and VGG-19, losses back into f_W (Johnson et al. 2016, Fig. 2)."""

import copy
import dataclasses
import math
import shlex
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from inference.atomic import remove_partial_files
from inference.console import catch_interrupt, progress_bar
from inference.pictures import read_picture, resize_short_side
from models.errors import Interrupted, TrainingError
from models.image_transform_net import TIERS, ImageTransformNet
from models.vgg import VGG19Features, load_vgg19
from training import balance, losses
from training.checkpoint import (
    BEST,
    TrainingState,
    drop_states_after,
    find_weights,
    load_net,
    load_newest_state,
    save_checkpoint,
    save_weights,
)
from training.config import STYLE_LAYERS, TrainConfig
from training.device import in_precision, pick_device, pick_precision
from training.photos import Batch, HubPhotos, PhotoFolder, frame_to_image, is_folder, list_photos, prefetched, to_image
from training.preview import load_preview_frames, look_at, write_sheet
from training.ranks import Ranks, from_environment, joined
from training.record import LOG_EVERY, BadPhotos, MetricsLog, make_card, spared
from training.update import Target, Update, pick_step_losses

MOST_NOT_FINITE = 3  # steps with a non-finite loss, in a row, that send a training back
MOST_ROLLBACKS = 3
LEAST_CONTRAST = 2.0  # standard deviation of a painting's pixels, 0-255: below it there is nothing to learn
LAST_SAVES_S = (1, 5, 15, 30, 60)  # waits between the attempts to save the result; a disk may be given room meanwhile


def train(config: TrainConfig, run_folder: Path, console: Console, resume: bool = False) -> Path:
    """Train one style, or go on with a training.

    Args:
        config: what to train.
        run_folder: gets metrics.jsonl, checkpoints, previews, and at the end weights.safetensors. Processes started by
            torchrun share it, and only the first one writes.
        console: for progress.
        resume: start from the newest checkpoint in `run_folder`, or from the beginning if there is none yet.
    Returns:
        the path of weights.safetensors.
    Raises:
        TrainingError, PictureError, StyleError, WeightsError: something in `config` cannot be used, or the training
            cannot go on; checkpoints stay.
        Interrupted: by Ctrl-C or SIGTERM, after saving.
    """
    ranks = from_environment()
    device = pick_device(config.device, ranks.local)
    console = console if ranks.writes else Console(quiet=True)
    try:
        with joined(ranks, device):
            return _train(config, run_folder, console, resume, ranks, device)
    except torch.OutOfMemoryError as error:
        raise TrainingError("the GPU has too little memory; give a smaller --batch-size or --size") from error
    except RuntimeError as error:
        if ranks.world == 1:
            raise
        raise TrainingError(f"process {ranks.rank} lost the others; the one that failed says why") from error


def _train(config: TrainConfig, run_folder: Path, console: Console, resume: bool, ranks: Ranks, device: torch.device) -> Path:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    # Load the checkpoint, the painting, the photos and VGG-19.
    share = ranks.share(config.batch_size)
    found = load_together(run_folder, ranks, say) if resume else None
    start, seconds_before, rollbacks, best = 0, 0.0, 0, math.inf
    newest: dict[str, float] = {}
    if found:
        state, card = found
        start, seconds_before, newest = state.step, float(card["seconds"]), dict(card["losses"])
        rollbacks, best = card.get("rollbacks", 0), card.get("best", math.inf)
        # What "auto" chose by a stopwatch; a resumed run must not choose otherwise.
        config = dataclasses.replace(config, precision=card["options"]["precision"])
        say(f"going on at step {start} of {config.steps}")
    style_frame = read_painting(config.painting, config.style_size_px, config.max_pixels)
    photos = list_photos(Path(config.photos)) if is_folder(config.photos) else []
    preview_frames = load_preview_frames(config, photos)
    vgg = load_vgg19(config.vgg19).to(device).to(memory_format=torch.channels_last)
    precision = ranks.gather(pick_precision(config.precision, vgg, device))[0]
    config = dataclasses.replace(config, precision=precision)
    target = make_target(vgg, style_frame, config.precision)
    del vgg  # on a GPU in bf16 it would lie there beside its copy

    # Build the network, its average and the optimizer.
    torch.manual_seed(config.seed)
    net = load_init(config) if config.init and not found else TIERS[config.tier]()
    net = net.to(device).to(memory_format=torch.channels_last)
    if ranks.world > 1 and config.compile == "auto":
        config = dataclasses.replace(config, compile="off")
    losses_of, compiled = pick_step_losses(config, net, target, config.batch_size // ranks.world)
    config = dataclasses.replace(config, compile=compiled)
    update = Update(config, net, target, ranks, losses_of)
    if found:
        update.unpack_(state)
        update.lr_scale = card.get("lr_scale", 1.0)
    first_state = copy.deepcopy(update.pack(start))  # to go back to while there is no checkpoint
    together = f", {ranks.world} processes" if ranks.world > 1 else ""
    say(f"VGG-19 and network in {config.precision} on {device}{', compiled' if compiled == 'on' else ''}{together}")
    if photos:
        folder = PhotoFolder(photos, config.batch_size, config.size_px, config.seed, config.max_pixels, share, device)
    elif start:
        say(f"{config.photos} is streamed: it goes on approximately, its shards in a new random order")

    skipped = run_folder / "skipped.txt" if ranks.writes else None
    if ranks.writes:
        remove_partial_files(run_folder)
        if resume:
            drop_states_after(run_folder, start)
        elif skipped:
            skipped.unlink(missing_ok=True)
    log = MetricsLog(run_folder, start, config.batch_size, console) if ranks.writes else None
    bad_photos = BadPhotos(config.photos, len(photos) or math.inf, skipped, console)
    bad: list[str] = []
    unsaved = False
    began = time.monotonic()

    def card_of(step: int) -> dict[str, Any]:
        seconds = seconds_before + time.monotonic() - began
        card = make_card(config, step, newest, seconds, len(bad_photos.names), ranks.world)
        card["style_weight"] = round(update.style_weight.item(), 4)
        return card | {"lr_scale": update.lr_scale, "rollbacks": rollbacks} | ({"best": best} if best < math.inf else {})

    def save(step: int) -> bool:
        """Whether it succeeded; if not, the user knows and the loop tries again."""
        try:
            save_checkpoint(run_folder, update.pack(step), card_of(step))
            return True
        except TrainingError as error:
            say(f"step {step} is NOT saved: {error}. Older checkpoints are intact; trying again every {LOG_EVERY} steps")
            return False

    def look(step: int) -> str | None:
        """What is wrong with the picture at this step, if anything; keeps the sheet, and the weights if they are the best."""
        nonlocal best
        seen = look_at(update.averaged_net, target, preview_frames, config)
        if step % config.preview_every == 0 or step == config.steps or seen.fault:
            with spared(console, "the preview sheet"):
                sheet = write_sheet(run_folder, step, seen, preview_frames, style_frame)
                assert log is not None
                log.add_preview(step, sheet, seen.losses)
        if seen.fault is None and seen.losses["total"] < best:
            card = card_of(step) | {"preview": seen.losses, "best": seen.losses["total"]}
            try:
                save_weights(run_folder / BEST, update.averaged_net.state_dict(), card)
                best = seen.losses["total"]
            except TrainingError as error:
                say(str(error))
        return seen.fault

    step = start
    with catch_interrupt() as interrupted, progress_bar(console) as progress:
        task = progress.add_task("training", total=config.steps, completed=start, losses="")
        while step < config.steps:
            fault: str | None = None
            batches = (
                prefetched(folder.load, range(step, config.steps), config.workers) if photos else stream(config, step, ranks)
            )
            for batch in batches:
                # Load photos.
                bad += batch.bad
                if ranks.world == 1:
                    bad_photos.note(bad)
                for note in batch.notes:
                    say(note)
                content_image = to_image(batch.content_image, device)

                # Paint them, compare, update weights.
                update(step, content_image)
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
                in_a_row = 0
                if log_due or look_due or stop or device.type == "cpu":
                    in_a_row = update.peek().skipped_in_a_row
                    if in_a_row >= MOST_NOT_FINITE:
                        fault = f"loss or gradient was not finite in {in_a_row} steps in a row"
                if log_due:
                    reading = update.read()
                    newest = reading.losses or newest
                    if ranks.world > 1:
                        bad_photos.note(photo for part in ranks.gather(bad) for photo in part)
                    bad.clear()
                    if reading.skipped:
                        say(f"step {step}: {reading.skipped} steps had a loss or gradient that was not finite; skipped")
                    if log:
                        log.add(step, newest)
                        text = " ".join(f"{name} {value:.3f}" for name, value in newest.items())
                        text += f" {log.photos_per_s:.1f} photos/s"
                        progress.update(task, losses=text)
                        if not console.is_terminal and step > 1:
                            say(f"step {step}/{config.steps} {text}")
                    if step == balance.MEASURED_AT and newest:
                        weight = update.style_weight.item()
                        say(balance.verdict(newest["content"], newest["style"], config.content_weight, weight))

                # Look, save.
                if look_due and not fault:
                    fault = ranks.gather(look(step) if ranks.writes else None)[0]
                if fault:
                    break
                # A checkpoint between two bad steps would be a place to go back to that is no better.
                unsaved = unsaved or save_due
                if (stop or done or (not in_a_row and unsaved and (save_due or log_due))) and ranks.writes:
                    unsaved = not save(step)
                if stop and not done:
                    if unsaved:
                        raise TrainingError(f"stopped at step {step}, which could not be saved; older checkpoints are intact")
                    where = shlex.quote(str(run_folder))
                    raise Interrupted(f"stopped at step {step}; go on with: allaprima train --resume {where}")
            batches.close()

            # Go back to where the picture was good.
            if fault:
                rollbacks += 1
                if rollbacks > MOST_ROLLBACKS:
                    raise TrainingError(
                        f"step {step}: {fault}; {MOST_ROLLBACKS} times the training went back and halved its learning rate. "
                        f"Checkpoints are in {run_folder}; train again with a smaller --lr (was {config.lr}), "
                        "--precision fp32, or a smaller --style-weight"
                    )
                found = load_together(run_folder, ranks, say)
                state = found[0] if found else first_state
                update.unpack_(state)
                update.lr_scale *= 0.5
                say(
                    f"step {step}: {fault}; back to step {state.step} with half the learning rate "
                    f"(time {rollbacks} of at most {MOST_ROLLBACKS})"
                )
                step = state.step
                if log:
                    log.rewind(step)

    # Keep the averaged weights as the result.
    path = run_folder / "weights.safetensors"
    if ranks.writes:
        if bad_photos.names:
            say(f"{len(bad_photos.names)} damaged photos were skipped, listed in {skipped}")
        card = card_of(config.steps)
        save_at_last(lambda: save_weights(path, update.averaged_net.state_dict(), card), say)
        if unsaved:
            say("the last checkpoint is not there, but the result is")
    return path


def load_together(run_folder: Path, ranks: Ranks, say: Callable[[str], None]) -> tuple[TrainingState, dict[str, Any]] | None:
    """The newest checkpoint, the same one in all processes.

    Raises:
        TrainingError: they found different ones. StyleError: none of those there can be read.
    """
    found = load_newest_state(run_folder, say)
    steps = ranks.gather(found[0].step if found else None)
    if len(set(steps)) > 1:
        raise TrainingError(
            f"the processes found checkpoints of different steps in {run_folder}: {steps}; they have to share it"
        )
    return found


def save_at_last(save: Callable[[], None], say: Callable[[str], None]) -> None:
    """Save the result of it all, with patience.

    Raises:
        TrainingError: it could not be saved even at the last attempt.
    """
    for wait_s in LAST_SAVES_S:
        try:
            return save()
        except TrainingError as error:
            say(f"{error}; trying again in {wait_s} s")
            time.sleep(wait_s)
    save()


def stream(config: TrainConfig, step: int, ranks: Ranks) -> Generator[Batch]:
    """Batches of a streamed dataset for the steps from `step` on, prepared in other processes."""
    share = ranks.share(config.batch_size)
    source = HubPhotos(config.photos, config.batch_size, config.size_px, config.seed, step, config.max_pixels, share)
    workers = min(config.workers, source.most_workers)  # a further one would get no shard
    loader = DataLoader(
        source,
        batch_size=None,  # an item is a batch already
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_loop,
    )
    batches = iter(loader)
    for _ in range(step, config.steps):
        yield next_batch(batches)


def read_painting(painting: str, style_size_px: int, max_pixels: int = 0) -> np.ndarray:
    """The style image, (H, W, 3) uint8, its short side `style_size_px`.

    Raises:
        PictureError: unreadable. TrainingError: one flat colour, or hopelessly narrow.
    """
    frame = read_picture(painting, max_pixels).frame
    if frame.std(axis=(0, 1)).max() < LEAST_CONTRAST:
        raise TrainingError(f"{painting} is one flat color; a painting with something on it is wanted")
    height, width = frame.shape[:2]
    if max(height, width) > 8 * min(height, width):
        raise TrainingError(f"{painting} is {width}x{height} px; at most 8 times as long as wide is wanted")
    return resize_short_side(frame, style_size_px)


def make_target(vgg: VGG19Features, style_frame: np.ndarray, precision: str) -> Target:
    """VGG-19 in the precision to train with, and the painting's Gram matrices, from the float32 one."""
    style_image = frame_to_image(style_frame, vgg.mean.device)
    with torch.no_grad():
        style_features = vgg(style_image, STYLE_LAYERS)
    style_grams = losses.gram_matrices(style_features)
    return Target(in_precision(vgg, precision), style_grams)


def load_init(config: TrainConfig) -> ImageTransformNet:
    """Another style's network to start from.

    Raises:
        StyleError: not ours. TrainingError: of the other tier.
    """
    net, card = load_net(find_weights(Path(config.init or "")))
    if card["tier"] != config.tier:
        raise TrainingError(f"--init {config.init} is of tier {card['tier']}; --tier is {config.tier}")
    return net.train()


def _leave_signals_to_the_loop(_worker: int) -> None:
    # Ctrl-C, SLURM and systemd signal the whole process group; the loop still needs its photos to finish the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def next_batch(batches: Iterator[Batch]) -> Batch:
    """The next batch; a worker's TrainingError comes without the traceback that the DataLoader wraps around it."""
    try:
        return next(batches)
    except TrainingError as error:
        raise TrainingError(str(error).rsplit("TrainingError: ", 1)[-1].strip()) from error
