"""`allaprima video`: a film in, the painted film out. Reading, painting and writing overlap, each in its own thread."""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from allaprima.inference.film.frames import Moment, VideoReader
from allaprima.inference.film.sequences import RATE, SequenceWriter, check_sequence_writable, is_sequence
from allaprima.inference.film.sinks import FILM_FORMATS, VideoWriter, check_film_writable
from allaprima.inference.options import StylizeOptions, VideoOptions
from allaprima.inference.painter import FilmPainter, one_opencv_thread
from allaprima.inference.pictures import check_no_input
from allaprima.inference.profile import Profile
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import AllaPrimaError, Interrupted, VideoError

AHEAD = 2  # most frames between two stages; a 4K frame takes 25 MB, its stylized image 100


@dataclass
class VideoReport:
    """What became of a film.

    Attributes:
        output: the file, with a number added if its name was taken meanwhile.
        frames: painted ones. end_s: length of the result. skipped: damaged packets and frames that were left out.
        whole: False if it was stopped before its end. work_size: (height, width) at which the network painted.
        notes: what a user should know, such as streams left out.
    """

    encoder: str
    output: Path = Path()
    frames: int = 0
    end_s: float = 0.0
    skipped: int = 0
    whole: bool = True
    work_size: tuple[int, int] = (0, 0)
    wall_s: float = 0.0
    notes: tuple[str, ...] = ()


def default_output(source: Path, style_name: str) -> Path:
    """`clip_style.mp4` next to the film; a .mov, .mkv or .webm stays one. Pictures become `frames_style.mp4` next to their
    folder."""
    plain = _plain_name(source)
    return plain.with_stem(f"{plain.stem}_{style_name}")


def _plain_name(source: Path) -> Path:
    """The default output's name without the style in it."""
    if is_sequence(source):
        folder = source.parent.resolve()
        return folder.with_name(f"{folder.name}.mp4")
    return source if source.suffix.lower() in FILM_FORMATS else source.with_name(f"{source.stem}.mp4")


def plan_films(films: Sequence[str], output: str | None, style_name: str) -> list[tuple[Path, Path]]:
    """Which films to paint, and the name of each result.

    Args:
        films: files, or numbered pictures.
        output: a file for a single film, else a folder, which must exist or end in /; None puts each next to its film.
        style_name: for those names.
    Raises:
        VideoError: an empty name, several films for one file, two results with one name, or a result that is one of the films.
    """
    if "" in (*films, output):
        raise VideoError("an empty name is given; a film's is wanted")
    sources = list(map(Path, dict.fromkeys(films)))
    if output is None:
        planned = [(source, default_output(source, style_name)) for source in sources]
    elif Path(output).is_dir() or output.endswith(("/", os.sep)):
        planned = [(source, Path(output, _plain_name(source).name)) for source in sources]
    elif len(sources) > 1:
        raise VideoError(f"-o {output} is one file for {len(sources)} films; give a folder, whose name ends in /")
    else:
        planned = [(sources[0], Path(output))]
    taken: dict[Path, Path] = {}
    for source, destination in planned:
        if destination in taken:
            raise VideoError(f"{source} and {taken[destination]} would both become {destination}")
        taken[destination] = source
        check_no_input(destination, sources, VideoError)
    return planned


def check_output(output: Path, overwrite: bool, codec: str = "auto") -> None:
    """Raises VideoError if a film or numbered pictures of this name cannot be written, as far as can be told beforehand."""
    if is_sequence(output):
        check_sequence_writable(output, overwrite)
    else:
        check_film_writable(output, overwrite, codec)


def paint_video(
    source: Path,
    output: Path,
    session: StyleSession,
    *,
    how: StylizeOptions,
    options: VideoOptions,
    overwrite: bool = False,
    stopped: Callable[[], object] = lambda: False,
    progress: Callable[[int, float, float | None], None] = lambda frames, done_s, length_s: None,
    profile: Profile | None = None,
    say: Callable[[str], None] = lambda note: None,
    before_frame: Callable[[float], object] = lambda time_s: None,
) -> VideoReport:
    """Paint a film; sound and subtitles are passed on unchanged.

    Args:
        source, output: files; `output` appears when it is complete.
        session: the style. how: how to paint. options: which part, and the codec.
        overwrite: whether `output` may be replaced.
        stopped: called after each frame; once it is true, the film ends there and is finished properly, next to any file
            that the complete film would have replaced.
        progress: called after each frame with the frames and seconds done so far, and the total seconds, if known.
        profile: receives the time of each stage. say: receives the report's notes as soon as they are known.
        before_frame: called before each frame is painted, with its seconds from the beginning of what is painted; it may
            change the session's weights.
    Raises:
        Interrupted: stopped before the first frame. VideoError: a film cannot be read or written; nothing is left behind.
    """
    check_output(output, overwrite)
    profile = profile or Profile()
    start = time.perf_counter()
    with one_opencv_thread(), VideoReader(source, options.start_s, options.duration_s) as reader:
        check_no_input(output, [source], VideoError)
        with _open_writer(output, reader, options, overwrite) as writer:
            report = VideoReport(writer.encoder, notes=_notes(reader, writer))
            for note in report.notes:
                say(note)
            painter = FilmPainter(session, how, profile)
            _paint(
                reader,
                writer,
                painter,
                report,
                profile=profile,
                stopped=stopped,
                progress=progress,
                say=say,
                before_frame=before_frame,
            )
            if not report.whole:
                writer.keep_existing()
            if not report.frames:
                raise _why_nothing(source, options, report.whole)
            notes = ["what follows could not be read at all"] if reader.gave_up else []
            if reader.leaps:
                times = "once" if reader.leaps == 1 else f"{reader.leaps} times"
                notes.append(f"its clock restarts or leaps {times}; the parts are put one after the other")
            if reader.to_rgb.resized:
                notes.append(f"its pictures change size; all are scaled to {reader.to_rgb.width}x{reader.to_rgb.height}")
            report.notes += tuple(notes)
            for note in notes:
                say(note)
            report.skipped, report.work_size = (
                reader.skipped + writer.skipped,
                painter.work_size(reader.to_rgb.height, reader.to_rgb.width),
            )
            report.end_s = writer.end_s
        report.output = writer.path
    report.wall_s = time.perf_counter() - start
    return report


def _open_writer(output: Path, reader: VideoReader, options: VideoOptions, overwrite: bool) -> VideoWriter | SequenceWriter:
    """A writer for a film like the one that is read."""
    if is_sequence(output):
        return SequenceWriter(
            output, rate=reader.rate, time_base=reader.time_base, others=tuple(reader.others), overwrite=overwrite
        )
    return VideoWriter(
        output,
        height=reader.to_rgb.height,
        width=reader.to_rgb.width,
        rate=reader.rate,
        time_base=reader.time_base,
        codec=options.codec,
        quality=options.quality,
        tags=reader.to_rgb.out_tags,
        sample_aspect=reader.sample_aspect,
        others=reader.others,
        metadata=reader.metadata,
        chapters=reader.chapters,
        film=reader.film,
        overwrite=overwrite,
    )


def _paint(
    reader: VideoReader,
    writer: VideoWriter | SequenceWriter,
    painter: FilmPainter,
    report: VideoReport,
    *,
    profile: Profile,
    stopped: Callable[[], object],
    progress: Callable[[int, float, float | None], None],
    say: Callable[[str], None],
    before_frame: Callable[[float], object],
) -> None:
    """Read, paint and write at the same time; fills in the report's `frames` and `whole`, and prints what it encounters."""
    read = _Stage(lambda put, _: _read(reader, put, profile), "read")
    write = _Stage(lambda _, get: _write(writer, get, painter, profile), "write")
    keeps_alpha = isinstance(writer, SequenceWriter) and writer.encoder in ("PNG", "TIFF", "WEBP")
    try:
        while (item := read.get(stopped)) is not None:
            if isinstance(item, Moment):
                if item.alpha is not None and not keeps_alpha and item.alpha.min() < 255:
                    keeps_alpha = True  # said once
                    report.notes += ("transparency is not kept; white shows through (-o %05d.png keeps it)",)
                    say(report.notes[-1])
                time_s = float(item.pts * reader.time_base)
                before_frame(time_s)
                item = (item, painter.stylize(item.frame))
                report.frames += 1
                progress(report.frames, time_s, reader.length_s)
            write.put(item)
        report.whole = not stopped()
        if report.frames:
            write.put(None)
            write.join()
    finally:
        read.stop()
        write.stop()


def _why_nothing(source: Path, options: VideoOptions, whole: bool) -> AllaPrimaError:
    """Why no frame was painted."""
    if not whole:
        return Interrupted("stopped before the first frame was painted; nothing is written")
    within = f"within {options.duration_s:g} s " if options.duration_s else ""
    return VideoError(f"{source} has no frame {within}from {options.start_s:g} s on")


def _read(reader: VideoReader, put: Callable[[Any], None], profile: Profile) -> None:
    items = iter(reader)
    while True:
        start = time.perf_counter()
        item = next(items, None)
        if isinstance(item, Moment):
            profile.add("read", 1000.0 * (time.perf_counter() - start))
        put(item)
        if item is None:
            return


def _write(writer: VideoWriter | SequenceWriter, get: Callable[[], Any], painter: FilmPainter, profile: Profile) -> None:
    """Write packets, and moments of the film with their stylized images, until None comes."""
    stylized_frame: np.ndarray | None = None
    while (item := get()) is not None:
        if isinstance(item, av.Packet):
            writer.mux(item)
            continue
        moment, stylized_image = item
        time_s = float(moment.pts * writer.time_base)
        stylized_frame = painter.finish(moment.frame, stylized_image, time_s, stylized_frame)
        with profile.stage("write"):
            writer.write(stylized_frame, moment.pts, moment.duration, moment.alpha)


def _notes(reader: VideoReader, writer: VideoWriter | SequenceWriter) -> tuple[str, ...]:
    notes = []
    if writer.encoded_anew:
        text = f"{writer.path.suffix.lower()} cannot take the sound as it is"
        notes.append(f"{text}; it is encoded anew: {', '.join(writer.encoded_anew)}")
    if writer.left_out or reader.left_out:
        advice = (
            "; .mkv holds more"
            if writer.left_out and not isinstance(writer, SequenceWriter) and writer.path.suffix.lower() != ".mkv"
            else ""
        )
        notes.append(f"left out: {', '.join([*writer.left_out, *reader.left_out])}{advice}")
    if writer.pixel_format == "yuv444p":
        text = f"{reader.to_rgb.width}x{reader.to_rgb.height} is odd, so color is written at full resolution (4:4:4)"
        notes.append(f"{text}, which some players refuse; with --codec av1 that is not needed")
    if reader.sample_aspect != 1 and not writer.keeps_aspect:
        shape = f"{reader.sample_aspect.numerator}:{reader.sample_aspect.denominator}"
        notes.append(f"the shape of its pixels, {shape}, is not kept in {writer.path.suffix.lower()} here; .mp4 keeps it")
    if reader.to_rgb.hdr:
        notes.append(f"HDR ({reader.to_rgb.hdr}) in, SDR (BT.709) out")
    if reader.to_rgb.depth > 8:
        notes.append(f"{reader.to_rgb.depth} bits a channel in, 8 out")
    pictures = isinstance(writer, SequenceWriter)
    camera = [name for name in ("make", "model") if name in reader.metadata]
    if camera and not pictures and writer.path.suffix.lower() in (".mp4", ".m4v"):
        text = f"the camera's {' and '.join(camera)} is not kept in {writer.path.suffix.lower()}"
        notes.append(f"{text}; .mov and .mkv keep it")
    if pictures and "location" in reader.metadata:
        notes.append("the place where it was taken is not kept in pictures")
    if pictures and reader.chapters:
        notes.append("left out: chapters")
    if pictures and reader.rate != RATE:
        notes.append(f"pictures keep no time; these are seen {float(reader.rate):g} a second, on average")
    if reader.alpha_unread:
        notes.append("its transparency cannot be read (PyAV has no libvpx); what is hidden is painted, too")
    if reader.timeless:
        notes.append(f"there are no timestamps in it; {float(reader.rate):g} frames a second are taken")
    if reader.dropped_tags:
        notes.append(f"tags that are not kept: {', '.join(reader.dropped_tags)}")
    if reader.interlaced:
        notes.append("the film is interlaced; its combs are painted, too")
    return tuple(notes)


class _Stage:
    """Work in a thread, with a short queue to it or from it; its exception is raised at the queue's other end."""

    def __init__(self, work: Callable[[Callable[[Any], None], Callable[[], Any]], None], name: str) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stopping = False
        self._error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work(self.put, self._take)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error

    def put(self, item: Any) -> None:
        """Waits for room; raises what stopped the thread."""
        while True:
            if self._stopping:
                raise _Stopped
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                self._check()

    def get(self, stopped: Callable[[], object]) -> Any:
        """Waits for an item; None once `stopped`; raises what stopped the thread."""
        while not stopped():
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    self._check()
        return None

    def _take(self) -> Any:
        while True:
            if self._stopping:
                raise _Stopped
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                continue

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Waits until all is done."""
        self._thread.join()
        self._check()

    def stop(self) -> None:
        """Ends the thread, wherever it is."""
        self._stopping = True
        self._thread.join()


class _Stopped(Exception):
    pass
