"""Writes film files: frames in, with what a format and this machine's encoders can do."""

import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, VideoReformatter

from allaprima.inference.atomic import AtomicFile
from allaprima.inference.film.frames import COLORSPACES, UNSPECIFIED, ColorTags
from allaprima.inference.film.sound import SoundEncoder
from allaprima.inference.options import VideoOptions
from allaprima.inference.pictures import check_folder
from allaprima.models.errors import VideoError

os.environ.setdefault("SVT_LOG", "1")  # errors only; SVT-AV1 would print a page when it starts

FILM_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
TAGS_OF_A_FILE = ("encoder", "duration", "rotate", "alpha_mode")  # they apply to a stream only within its own file
# Hardware first, if it really opens; the last of each is software, which always does.
ENCODERS = {
    "h264": ("h264_nvenc", "h264_videotoolbox", "h264_qsv", "h264_amf", "libx264"),
    "hevc": ("hevc_nvenc", "hevc_videotoolbox", "hevc_qsv", "hevc_amf", "libx265"),
    "av1": ("av1_nvenc", "av1_qsv", "av1_amf", "libsvtav1"),
}


class VideoWriter:
    """A video file that appears under its name when it is complete.

    Args:
        path: .mp4, .m4v, .mov, .mkv or .webm.
        height, width: of the frames.
        rate: average frames per second. time_base: seconds per unit of the timestamps.
        codec: one of `CODECS`; "auto" is H.264, or AV1 in .webm.
        quality: 1 to 100, higher is better and larger.
        tags: how to encode colors; None for BT.709, limited range.
        sample_aspect: width to height of a pixel.
        others: streams of a source whose packets will be passed on; sound that the format cannot hold is re-encoded, and
            anything else that it cannot hold is left out.
        metadata, chapters: of the whole file. film: the stream of a source whose title, language and flags are kept.
        overwrite: whether a file of that name may be replaced.
    Attributes:
        encoder: the one that opened.
        keeps_aspect: whether the file says how wide a pixel is.
        encoded_anew, left_out: streams of `others` that the format cannot hold.
        frames: written so far. end_s: when the film ends, with picture and sound. skipped: damaged packets of sound.
    Raises:
        VideoError: no such format, the folder cannot be written to, the file exists, or no encoder opens.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        height: int,
        width: int,
        rate: Fraction,
        time_base: Fraction,
        codec: str = "auto",
        quality: int = VideoOptions.quality,
        tags: ColorTags | None = None,
        sample_aspect: Fraction = Fraction(1),
        others: Sequence[Any] = (),
        metadata: Mapping[str, str] | None = None,
        chapters: Sequence[Any] = (),
        film: Any = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        check_film_writable(self.path, overwrite, codec)
        container_format = FILM_FORMATS[self.path.suffix.lower()]
        if codec == "auto":
            codec = "av1" if container_format == "webm" else "h264"
        self._tags = tags or ColorTags(1, int(ColorRange.MPEG), 1, 1)
        self._matrix, self._range = self._tags.to_rgb(height)
        if self._tags.matrix not in (*COLORSPACES, UNSPECIFIED):  # such as RGB, which these pixels will not be
            self._tags = dataclasses.replace(self._tags, matrix=int(self._matrix))
        # Chroma at half resolution needs even sides, except in AV1; full chroma does not.
        self.pixel_format = "yuv444p" if codec != "av1" and (height % 2 or width % 2) else "yuv420p"
        # PyAV cannot tell a muxer the shape of pixels; in these two formats only the stream can state it, and AV1's does not.
        self.keeps_aspect = codec != "av1" or container_format not in ("matroska", "webm")
        self.time_base, self._rate = time_base, rate
        # Encoders refuse the rates of 1000 that files of variable rate claim; only the timestamps matter.
        rate = rate if 1 <= rate <= 240 else Fraction(30)
        self.encoder = find_encoder(
            codec,
            quality=quality,
            height=height,
            width=width,
            pixel_format=self.pixel_format,
            time_base=time_base,
            rate=rate,
        )
        self.frames, self.end_s = 0, 0.0
        self._durations: dict[int, int] = {}  # by timestamp, of frames still in the encoder
        self._end = 0
        self._lead: int | None = None  # how long before it is shown the first packet is decoded
        self._reformatter = VideoReformatter()
        self._overwrite = overwrite
        try:
            self._file = AtomicFile(self.path)
        except OSError as error:
            raise self._failure(error) from error
        try:
            options = {"movflags": "+faststart"} if container_format in ("mp4", "mov") else {}
            self._container = av.open(str(self._file.temporary), "w", container_format, options)
            self._container.metadata.update(metadata or {})
            self._container.set_chapters(list(chapters))
            self._stream: Any = self._container.add_stream(self.encoder, rate, encoder_options(self.encoder, quality))
            context: Any = self._stream.codec_context
            context.width, context.height, context.pix_fmt = width, height, self.pixel_format
            context.time_base, context.framerate = time_base, rate
            context.sample_aspect_ratio = sample_aspect
            context.colorspace, context.color_range = self._tags.matrix, self._range
            context.color_primaries, context.color_trc = self._tags.primaries, self._tags.transfer
            if codec == "hevc" and container_format in ("mp4", "mov"):
                context.codec_tag = "hvc1"  # the only one that QuickTime, Safari and iOS play
            if film is not None:
                _keep_tags(self._stream, film)
            self._add_others(others, container_format)
            with tamed_encoders():
                self._container.start_encoding()
        except (FFmpegError, OSError, ValueError) as error:
            self.abort()
            raise self._failure(error) from error
        except BaseException:
            self.abort()
            raise

    def _add_others(self, others: Sequence[Any], container_format: str) -> None:
        self._others: dict[int, Any] = {}
        self._sounds: dict[int, SoundEncoder] = {}
        self.encoded_anew, self.left_out = [], []
        for stream in others:
            name = stream.codec_context.name if stream.codec_context else "of an unknown codec"
            if _fits(container_format, stream):
                self._others[stream.index] = _add_as_it_is(self._container, stream)
            else:
                try:
                    sound = SoundEncoder(self._container, stream)
                except ValueError:
                    self.left_out.append(f"{stream.type} ({name})")
                    continue
                self._sounds[stream.index], self._others[stream.index] = sound, sound.stream
                self.encoded_anew.append(f"{name} as {sound.name}")
            _keep_tags(self._others[stream.index], stream)

    @property
    def skipped(self) -> int:
        return sum(sound.skipped for sound in self._sounds.values())

    def write(self, frame: np.ndarray, pts: int, duration: int = 0, alpha: np.ndarray | None = None) -> None:
        """Encode a frame, (H, W, 3) uint8 RGB; `pts` must grow from call to call; `alpha` is not written.

        Raises:
            VideoError: the disk is full, ...
        """
        try:
            av_frame = av.VideoFrame.from_numpy_buffer(frame, format="rgb24")  # no copy; no longer used when this returns
            av_frame = self._reformatter.reformat(
                av_frame,
                format=self.pixel_format,
                src_colorspace=self._matrix,
                dst_colorspace=self._matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=self._range,
            )
            tags = self._tags
            av_frame.colorspace, av_frame.color_primaries, av_frame.color_trc = tags.matrix, tags.primaries, tags.transfer
            av_frame.pts, av_frame.time_base = pts, self.time_base
            self._durations[pts] = duration or round(1 / (self._rate * self.time_base))
            self._end = pts + self._durations[pts]
            self._mux_encoded(av_frame)
        except (FFmpegError, OSError) as error:
            raise self._failure(error) from error
        self.frames += 1
        self.end_s = max(self.end_s, float(self._end * self.time_base))

    def _mux_encoded(self, av_frame: av.VideoFrame | None) -> None:
        """Encode a frame, or flush the encoder. Encoders lose the durations of their frames, so they are restored here."""
        packets = self._stream.encode(av_frame)
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            if self._lead is None and packet.dts is not None:
                self._lead = packet.pts - packet.dts
        if av_frame is None and packets and self._container.format.name in ("mp4", "mov"):
            # These two derive the film's end from the last packet in decoding order, which often is not the last frame's.
            last = packets[-1]
            left = self._end - (last.pts if last.dts is None else last.dts + (self._lead or 0))
            last.duration = max(last.duration, left)
        self._container.mux(packets)

    def mux(self, packet: av.Packet) -> None:
        """Pass on a packet of one of `others`; packets of left-out streams are dropped."""
        index = packet.stream.index
        if index in self._sounds:
            for encoded in self._sounds[index].encode(packet):
                self._mux_other(encoded)
        elif index in self._others:
            packet.stream = self._others[index]
            self._mux_other(packet)

    def _mux_other(self, packet: av.Packet) -> None:
        if packet.pts is not None:
            self.end_s = max(self.end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        try:
            self._container.mux(packet)
        except (FFmpegError, OSError) as error:
            if getattr(error, "errno", None) == errno.EINVAL:
                return  # a timestamp that runs backwards, in a damaged file: the packet is dropped
            raise self._failure(error) from error

    def close(self) -> None:
        """Finish the file and give it its name, `path`. If a file of that name has appeared meanwhile and may not be replaced,
        it gets another name next to it, and `path` is changed to that.

        Raises:
            VideoError: no frame was written, or the disk is full; then there is no file, or still the earlier one.
        """
        try:
            if not self.frames:
                raise VideoError(f"{self.path}: no frame was painted; nothing is written")
            with tamed_encoders():
                self._mux_encoded(None)
                for sound in self._sounds.values():
                    for packet in sound.encode(None):
                        self._mux_other(packet)
                self._container.close()
            self.path = self._file.commit(self._overwrite)
        except (FFmpegError, OSError) as error:
            self.abort()
            raise self._failure(error) from error
        except BaseException:
            self.abort()
            raise

    def keep_existing(self) -> None:
        """Replace nothing after all: see `close`."""
        self._overwrite = False

    def abort(self) -> None:
        """Discard the file."""
        with contextlib.suppress(Exception), tamed_encoders():
            self._container.close()
        self._file.discard()

    def _failure(self, error: Exception) -> VideoError:
        text = getattr(error, "strerror", None) or str(error)
        return VideoError(f"{self.path} cannot be written: {text}")

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def check_film_writable(path: Path, overwrite: bool, codec: str = "auto") -> None:
    """Raises VideoError if such a video of this name cannot be written, as far as can be told beforehand."""
    if path.suffix.lower() not in FILM_FORMATS:
        raise VideoError(f'{path}: no video format for "{path.suffix}"; one of {", ".join(FILM_FORMATS)} is wanted')
    container_format = FILM_FORMATS[path.suffix.lower()]
    if container_format == "mov" and codec == "av1":
        raise VideoError(f"{path}: .mov holds no AV1; take .mp4, .mkv or .webm, or another --codec")
    if container_format == "webm" and codec not in ("auto", "av1"):
        raise VideoError(f"{path}: .webm holds no {codec}; take .mp4 or .mkv, or --codec av1")
    check_folder(path, VideoError)
    if not overwrite and path.exists():
        raise VideoError(f"{path} exists; give --overwrite to replace it, or another name")


def find_encoder(
    codec: str, *, quality: int, height: int, width: int, pixel_format: str, time_base: Fraction, rate: Fraction
) -> str:
    """The first encoder of a codec that opens on this machine for such frames.

    Raises:
        VideoError: none opens.
    """
    with tamed_encoders():
        for name in ENCODERS[codec]:
            if encoder_opens(
                name,
                height=height,
                width=width,
                pixel_format=pixel_format,
                time_base=time_base,
                rate=rate,
                options=encoder_options(name, quality),
            ):
                return name
    raise VideoError(
        f"no {codec} encoder opens for {width}x{height} px ({', '.join(ENCODERS[codec])} were tried); another --codec may work"
    )


def encoder_opens(
    name: str,
    *,
    height: int = 480,
    width: int = 640,
    pixel_format: str = "yuv420p",
    time_base: Fraction = Fraction(1, 30),
    rate: Fraction = Fraction(30),
    options: Mapping[str, str] | None = None,
) -> bool:
    """Whether an encoder, of video or sound, really opens: FFmpeg also lists those whose hardware is missing."""
    try:
        context = av.CodecContext.create(name, "w")
        context.options = dict(options or {})
        if isinstance(context, av.VideoCodecContext):
            context.width, context.height, context.pix_fmt = width, height, pixel_format
            context.framerate, context.time_base = rate, time_base
        elif isinstance(context, av.AudioCodecContext):
            context.sample_rate, context.layout, context.format = 48000, "stereo", "fltp"
        context.open()
    except Exception:  # unknown name, no hardware for it, or refused settings
        return False
    return not context.options  # what remains was not understood


def encoder_options(name: str, quality: int) -> dict[str, str]:
    """An encoder's own options for a quality of 1 to 100, at constant quality."""
    crf = round(51 - 0.4 * quality)  # 75 is 21; x264's own default is 23, and from 18 down loss is hardly visible
    if name == "libx264":
        # A painted 640x640 frame takes 7 ms of one core; veryfast 11, faster 18, for files of the same size within 6 %.
        # One thread for two cores: with more, the network waits for them (films took 21 % more time than the network
        # alone, with two threads 27 %; medians of five turns).
        return {"crf": str(crf), "preset": "superfast", "threads": str(max(1, (os.cpu_count() or 2) // 2))}
    if name == "libx265":
        # With B-frames, x265 4.2 takes decoding times from uninitialized memory for films shorter than its look-ahead.
        return {"crf": str(crf), "preset": "superfast", "x265-params": "log-level=error:bframes=0"}
    if name == "libsvtav1":
        return {"crf": str(max(1, round(crf * 63 / 51))), "preset": "10"}
    if name.endswith("_nvenc"):
        return {"rc": "vbr", "cq": str(crf), "b": "0", "preset": "p4"}
    if name.endswith("_qsv"):
        return {"global_quality": str(crf)}
    if name.endswith("_amf"):
        return {"rc": "cqp", "qp_i": str(crf), "qp_p": str(crf), "qp_b": str(crf)}
    return {"flags": "+qscale", "global_quality": str(118 * quality)}  # VideoToolbox counts to 100, too; FFmpeg's unit is 1/118


def _keep_tags(stream: Any, source: Any) -> None:
    """Title, language and flags ("default", "forced", ...) of a stream."""
    stream.metadata.update({key: value for key, value in source.metadata.items() if key.lower() not in TAGS_OF_A_FILE})
    stream.disposition = source.disposition


def _add_as_it_is(container: Any, source: Any) -> Any:
    """A stream for packets of another file. If only the number of channels is known, it gets their usual layout for .mp4,
    which would refuse PCM without one at the very end."""
    stream = container.add_stream_from_template(source)
    if container.format.name == "mp4" and source.type == "audio" and source.layout.name.endswith(" channels"):
        stream.codec_context.layout = f"{source.layout.nb_channels}c"
    return stream


def _fits(container_format: str, stream: Any) -> bool:
    """Whether a format can hold a stream unchanged, found by trying."""
    if stream.codec_context is None:
        return False
    if container_format == "webm" and stream.codec_context.name not in ("opus", "libopus", "vorbis", "webvtt"):
        return False
    try:
        with av.open(_Nowhere(), "w", container_format) as container:
            trial = _add_as_it_is(container, stream)
            container.start_encoding()
            if stream.codec_context.name.startswith("pcm_"):  # silence; .mp4 raises its objections to PCM at the end
                packet = av.Packet(bytes(24 * stream.layout.nb_channels))
                packet.stream, packet.pts, packet.dts, packet.time_base = trial, 0, 0, trial.time_base
                container.mux(packet)
    except (FFmpegError, OSError, ValueError):
        return False
    return True


class _Nowhere:
    """A file that accepts everything and keeps nothing."""

    def __init__(self) -> None:
        self._position = self._size = 0

    def write(self, data: bytes) -> int:
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position


@contextlib.contextmanager
def tamed_encoders() -> Iterator[None]:
    """A context to open and close encoders in, without their output and without real-time priority."""
    with _quiet_stderr(), _ordinary_priority():
        yield


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence x265 and SVT-AV1, which print a page each when opened, past Python, on the process's own stderr."""
    if sys.stderr is None:  # a program without a console
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _ordinary_priority() -> Iterator[None]:
    """Restore normal priority. Run by root, SVT-AV1 gives itself and the thread that opens it, and so all that they start
    later, a real-time priority above everything else (SCHED_FIFO, 99): what waits in a busy loop then waits forever."""
    if not sys.platform.startswith("linux") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    try:
        yield
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with contextlib.suppress(OSError):  # it may have ended
                if os.sched_getscheduler(thread) == os.SCHED_FIFO:
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
