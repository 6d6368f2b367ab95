"""Photos -> session -> color -> files: what `allaprima stylize` does."""

import dataclasses
import functools
import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import FilmPainter, paint_photo, paint_where
from allaprima.inference.pictures import (
    FORMATS,
    SEARCHED,
    Animation,
    check_animated,
    read_animation,
    read_picture,
    sort_files,
    write_animation,
    write_picture,
)
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import AllaPrimaError, Interrupted, PictureError, StyleError


@dataclass(frozen=True)
class Job:
    """One photo and where its painting goes."""

    source: Path
    destination: Path


@dataclass(frozen=True)
class Mask:
    """Where to paint.

    Attributes:
        white: (h, w) uint8, of any size: 255 is painted, 0 is not, in between both are mixed.
        session, fine_session: paint the black part; None leaves it as in the photo.
    """

    white: np.ndarray
    session: StyleSession | None = None
    fine_session: StyleSession | None = None


def read_mask(path: str, max_pixels: int = 0) -> np.ndarray:
    """A mask's luminance, (h, w) uint8; transparent pixels are black.

    Raises:
        PictureError: as `read_picture`.
    """
    picture = read_picture(path, max_pixels)
    light = np.asarray(cv2.cvtColor(picture.frame, cv2.COLOR_RGB2GRAY))
    return light if picture.alpha is None else np.asarray(cv2.subtract(light, cv2.bitwise_not(picture.alpha)))


def plan_jobs(
    inputs: Sequence[str], output: str | None, style_name: str, say: Callable[[str], None] = lambda _: None
) -> list[Job]:
    """Which files to paint, and the name of each result.

    Args:
        inputs: files, folders (searched recursively) and globs.
        output: a file for a single photo, else a folder, in which folders keep their structure; None puts
            `photo_style.jpg` next to the photo and `folder_style/` next to a folder.
        style_name: for those names.
        say: receives a note of what a folder holds besides pictures.
    Raises:
        PictureError: nothing found, several photos for one output file, or two results with one name.
    """
    if "-" in (*inputs, output):
        raise PictureError("standard input and output are for `allaprima video`; give files' names (./- for a file named so)")
    folder = Path(output) if output is not None else None
    # `Path.resolve` gives up on a link to itself.
    found = {os.path.realpath(source): (source, root) for text in inputs for source, root in _expand(text, folder, say)}
    if not found:
        raise PictureError(f"no pictures found in {', '.join(inputs)} ({', '.join(SEARCHED)})")
    single = len(found) == 1 and not Path(inputs[0]).is_dir()
    to_file = folder is not None and not folder.is_dir() and folder.suffix.lower() in FORMATS
    if to_file and not single:
        raise PictureError(f"-o {output} is one file for {len(found)} pictures; give a folder")
    if folder and single and folder.suffix and not (to_file or folder.is_dir() or str(output).endswith(("/", os.sep))):
        raise PictureError(f"-o {output}: no format for {folder.suffix} ({', '.join(FORMATS)}); a folder's name ends in /")
    jobs, taken = [], dict[Path, Path]()
    # Files that keep their names come first: a renamed one, such as IMG_1.heic, gives way to IMG_1.png.
    for source, root in sorted(found.values(), key=lambda each: each[0].suffix.lower() not in FORMATS):
        if to_file:
            destination = Path(output or "")
        elif output is not None:
            destination = Path(output, source.relative_to(root) if root else source.name)
        elif root is not None:
            destination = root.with_name(f"{root.name}_{style_name}") / source.relative_to(root)
        else:
            destination = source.with_name(f"{source.stem}_{style_name}{source.suffix}")
        if destination.suffix.lower() not in FORMATS:  # a photo with an unusual suffix, such as .jfif
            destination = destination.with_suffix(".png")
            if destination in taken:
                other = taken[destination]
                destination = destination.with_name(f"{source.name}.png")
                say(f"{source} becomes {destination.name}, as {other.name} has the name that it would have")
        other = taken.setdefault(destination, source)
        if other != source:
            raise PictureError(f"{other} and {source} would both become {destination}; paint them into two folders")
        jobs.append(Job(source, destination))
    files = {identity for source in found if (identity := _identity(Path(source)))}
    for job in jobs:
        if os.path.realpath(job.destination) in found or _identity(job.destination) in files:
            raise PictureError(f"{job.destination} is a photo to be painted and would be replaced; give another -o")
        if output is None and job.source.exists() and not job.source.is_file():
            raise PictureError(f"{job.source} is no file that a painting could lie beside; give -o FILE")
    order = {source: i for i, (source, _) in enumerate(found.values())}
    return sorted(jobs, key=lambda job: order[job.source])


def _identity(path: Path) -> tuple[int, int] | None:
    """An identity that a file shares with its hard links and with other spellings of its name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _expand(text: str, output: Path | None, say: Callable[[str], None]) -> Iterator[tuple[Path, Path | None]]:
    """The files that one argument means, each with the folder in which it was found; earlier results are left out."""
    path = Path(text)
    if path.is_dir():
        root = path if path.name not in ("", "..") else path.resolve()  # "." has no name to build a result's name from
        pictures, others = sort_files(root, without=output)
        if others:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
            say(f"{text}: {others.total()} files are no pictures by their names and are left out: {counts}")
        for picture in pictures:
            yield picture, root
    elif not path.exists() and glob.has_magic(text):
        for match in sorted(glob.glob(text, recursive=True)):
            if Path(match).is_file():
                yield Path(match), None
    else:
        yield path, None  # a missing file is reported when it is read


def run_jobs(
    jobs: Iterable[Job],
    session: StyleSession,
    options: StylizeOptions,
    *,
    fine_session: StyleSession | None = None,
    mask: Mask | None = None,
    overwrite: bool = False,
    max_pixels: int = 0,
    at_once: int = 1,
    stopped: Callable[[], object] = lambda: False,
    progress: Callable[[float], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> Iterator[tuple[Job, AllaPrimaError | None]]:
    """Paint the photos; yields each job, in order, with the error that stopped it, or None.

    Args:
        fine_session: see `paint_levels`.
        mask: where to paint; None for everywhere.
        at_once: photos painted at the same time, each in a thread; the files are the same for any number. Above 1 the
            session should be a shared one.
        stopped: whether to end early; asked ten times a second.
        progress: is told, in the photos' threads, the share of a large photo that is painted, 0 to 1.
        say: is told, there, too, what is odd about a photo that is painted.
    Raises:
        Interrupted: it was stopped; unfinished photos are given up, and nothing of them is written unless writing has
            already begun.
    """
    used = (session, fine_session, *((mask.session, mask.fine_session) if mask else ()))
    sessions = [each for each in used if each]
    pool = ThreadPoolExecutor(at_once)
    ahead = deque[tuple[Job, Future[AllaPrimaError | None]]]()  # only the threads hold pictures
    try:
        for job in jobs:
            run = functools.partial(_run_job, overwrite=overwrite, max_pixels=max_pixels, progress=progress, say=say)
            ahead.append((job, pool.submit(run, job, session, options, fine_session, mask)))
            if len(ahead) > 8 * at_once:  # while a large photo is painted, smaller ones after it proceed
                job, future = ahead.popleft()
                yield job, _result(future, stopped)
        while ahead:
            job, future = ahead.popleft()
            yield job, _result(future, stopped)
    except BaseException:
        for each in sessions:
            each.run_options.terminate = True
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for each in sessions:
            each.run_options.terminate = False


def _result(future: Future[AllaPrimaError | None], stopped: Callable[[], object]) -> AllaPrimaError | None:
    while not stopped():
        if wait([future], 0.1).done:
            return future.result()
    raise Interrupted("stopped")


def _run_job(
    job: Job,
    session: StyleSession,
    options: StylizeOptions,
    fine_session: StyleSession | None,
    mask: Mask | None,
    *,
    overwrite: bool,
    max_pixels: int,
    progress: Callable[[float], object],
    say: Callable[[str], object],
) -> AllaPrimaError | None:
    try:
        if not overwrite and job.destination.exists():  # checked before the work, not after it
            raise PictureError(f"{job.destination} exists; give --overwrite to replace it, or another -o")
        picture = read_picture(job.source, max_pixels)
        if picture.note:
            say(f"{job.source}: {picture.note}")
        if picture.later:
            check_animated(job.destination, 1 + picture.later)
            animation = read_animation(job.source, max_pixels)
            check_animated(job.destination, len(animation.pictures), {each.frame.shape for each in animation.pictures})
            painted = _paint_animation(animation, session, options, fine_session, mask)
            make_folder(job.destination.parent)
            write_animation(job.destination, painted, overwrite)
            return None
        stylized_frame = paint_photo(session, picture.frame, options, fine_session, progress=progress)
        if mask:
            black_frame = picture.frame
            if mask.session:
                black_frame = paint_photo(mask.session, picture.frame, options, mask.fine_session, progress=progress)
            stylized_frame = paint_where(mask.white, stylized_frame, black_frame)
        make_folder(job.destination.parent)
        write_picture(job.destination, dataclasses.replace(picture, frame=stylized_frame), overwrite)
    except StyleError as error:
        return StyleError(f"{job.source}: {error}")
    except AllaPrimaError as error:
        return error
    except OSError as error:  # a name that is too long, a folder without permission
        return PictureError(f"{error.filename or job.source}: {error.strerror or error}")
    except MemoryError:
        return PictureError(f"{job.source} needs more memory than there is; try --max-side 2000")
    return None


def _paint_animation(
    animation: Animation, session: StyleSession, options: StylizeOptions, fine_session: StyleSession | None, mask: Mask | None
) -> Animation:
    """The animation with every picture painted; those of a moving one are painted like the frames of a film."""

    def painter(session: StyleSession, fine_session: StyleSession | None) -> Callable[[np.ndarray, float], np.ndarray]:
        if not animation.moving:
            return lambda frame, _: paint_photo(session, frame, options, fine_session)
        film = FilmPainter(session, options)
        return lambda frame, time_s: film.finish(frame, film.stylize(frame), time_s)

    paint = painter(session, fine_session)
    paint_black = painter(mask.session, mask.fine_session) if mask and mask.session else lambda frame, _: frame
    pictures, time_s = [], 0.0
    for picture, duration_ms in zip(animation.pictures, animation.durations_ms, strict=True):
        frame = paint(picture.frame, time_s)
        if mask:
            frame = paint_where(mask.white, frame, paint_black(picture.frame, time_s))
        pictures.append(dataclasses.replace(picture, frame=frame))
        time_s += duration_ms / 1000.0
    return dataclasses.replace(animation, pictures=pictures)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        PictureError: a file is in the way, or no permission.
    """
    if folder.exists() and not folder.is_dir():
        raise PictureError(f"{folder} is there already, and no folder; give another -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PictureError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
