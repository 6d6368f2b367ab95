"""Reads film files: upright RGB frames with their own timestamps, and everything else in the file unchanged.

A frame is an array here as everywhere; what PyAV decodes is an `av_frame`.
"""

import contextlib
import errno
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.error import EOFError as FileEnd
from av.error import FFmpegError
from av.format import Flags
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Discard, Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from allaprima.inference.film.clock import BEHIND_S, Clock
from allaprima.inference.film.sequences import is_sequence, sequence_options
from allaprima.inference.hdr import NAMES, ToSdr
from allaprima.models.errors import VideoError

UNSPECIFIED = 2  # of a color space, primaries or transfer, in every standard that has the field
# Those of H.273's matrix coefficients that the scaler knows; RGB (0) needs none.
COLORSPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU624,
    6: Colorspace.SMPTE170M,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
MAX_ERRORS_IN_A_ROW = 1000  # with nothing readable in between; then the rest of the file is given up
SUBTITLE_S = 60  # subtitles that begin up to so long before the start of a part are looked for
BLINK_S = 0.002  # rounding error of files that count in milliseconds
# Side data of frames that FFmpeg reads and PyAV cannot write.
DROPPED_TAGS = {
    "SPHERICAL": "360 degrees",
    "STEREO3D": "stereoscopic 3D",
    "MASTERING_DISPLAY_METADATA": "HDR mastering display",
    "CONTENT_LIGHT_LEVEL": "HDR light level",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing",
    "ICC_PROFILE": "ICC profile",
    "S12M_TIMECODE": "timecode",
    "A53_CC": "closed captions",
}
APPLE_TAGS = {
    "com.apple.quicktime.location.ISO6709": "location",
    "com.apple.quicktime.make": "make",
    "com.apple.quicktime.model": "model",
}
_LEAPING: Any = Flags.ts_discont.value  # of a container's flags: its clock may leap
GONE = (errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT)  # the disk or share that a file was on


def _of_a_newer_kind(kinds: type[SideDataType], value: int) -> SideDataType:
    kind: Any = object.__new__(kinds)
    kind._name_, kind._value_ = f"KIND_{value}", value
    return kind


# If a frame has side data of a kind newer than PyAV's table, such as an MJPEG's EXIF, PyAV would return none of its side data.
SideDataType._missing_ = classmethod(_of_a_newer_kind)  # type: ignore[assignment]


@dataclass(frozen=True)
class Moment:
    """A moment of a film: a frame, when it appears, and for how long.

    Attributes:
        frame: (H, W, 3) uint8 RGB, upright.
        pts: when it appears, in units of the film's `time_base`, counted from its beginning.
        duration: how long it stays, in the same units; 0 if the file does not say.
        alpha: (H, W) uint8, if the film has transparency; `frame` is then as seen on white.
    """

    frame: np.ndarray
    pts: int
    duration: int = 0
    alpha: np.ndarray | None = None


@dataclass(frozen=True)
class ColorTags:
    """How a film's numbers encode colors: matrix, range, primaries and transfer, with H.273's numbers."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def to_rgb(self, height: int) -> tuple[Colorspace, ColorRange]:
        """Matrix and range for the conversion; if unspecified, they are guessed from the height, as players do."""
        guess = Colorspace.ITU709 if height >= 720 else Colorspace.SMPTE170M
        full = self.range == ColorRange.JPEG
        return COLORSPACES.get(self.matrix, guess), ColorRange.JPEG if full else ColorRange.MPEG


class ToRgb:
    """Turns decoded frames into upright RGB frames, as the first frame of a stream says.

    Args:
        first: the first one.
    Attributes:
        height, width: of the upright frames. turned: whether they lie on their side in the file. tags: of the colors.
        out_tags: of the colors when its frames are written as a film again; they differ from `tags` for an HDR film, which
            becomes SDR. hdr: the name of its transfer in that case, else empty.
        depth: bits per channel in the file. has_alpha: whether the first may be transparent; it is then put on white.
        resized: whether later ones had another size, and were scaled to the first one's.
    """

    def __init__(self, first: av.VideoFrame) -> None:
        self._turns, self._mirrored = _orientation(first)
        self.turned = bool(self._turns % 2)
        self._coded = first.height, first.width
        self.height, self.width = self._coded[::-1] if self.turned else self._coded
        self.depth = max(component.bits for component in first.format.components)
        self.has_alpha = _may_be_transparent(first)
        self.tags = ColorTags(int(first.colorspace), int(first.color_range), int(first.color_primaries), int(first.color_trc))
        self.hdr = NAMES.get(self.tags.transfer, "")
        self._to_sdr = ToSdr(self.tags.transfer, self.tags.primaries) if self.hdr else None
        self.out_tags = ColorTags(1, int(ColorRange.MPEG), 1, 1) if self.hdr else self.tags
        self.resized = False
        self._reformatter = VideoReformatter()

    def __call__(self, av_frame: av.VideoFrame) -> np.ndarray:
        """A frame, (H, W, 3) uint8 RGB of the first one's size; a view of the decoder's memory if possible."""
        return self.with_alpha(av_frame)[0]

    def with_alpha(self, av_frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """The same, with its alpha, (H, W) uint8, if it has any."""
        height, width = self._coded
        self.resized |= (av_frame.height, av_frame.width) != self._coded
        matrix, color_range = self.tags.to_rgb(height)
        has_alpha = _may_be_transparent(av_frame)  # numbered pictures may differ
        converted = self._reformatter.reformat(
            av_frame,
            width,
            height,
            "rgba" if has_alpha else "rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=color_range,
            dst_color_range=ColorRange.JPEG,
        )
        frame, alpha = _packed_pixels(converted), None
        if self._to_sdr:
            frame = np.dstack([self._to_sdr(frame[:, :, :3]), frame[:, :, 3:]]) if has_alpha else self._to_sdr(frame)
        if has_alpha:
            alpha = self._upright(np.ascontiguousarray(frame[:, :, 3]))
            opaque = frame[:, :, 3:].astype(np.float32) / 255.0
            frame = np.rint(frame[:, :, :3] * opaque + 255.0 * (1.0 - opaque)).astype(np.uint8)
            if av_frame.format.has_palette and alpha.min() == 255:
                alpha = None  # any palette could be transparent; this one is not
        return self._upright(frame), alpha

    def _upright(self, frame: np.ndarray) -> np.ndarray:
        if self._mirrored:
            frame = np.asarray(cv2.flip(frame, 1))
        if self._turns:
            codes = (0, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
            frame = np.asarray(cv2.rotate(frame, codes[self._turns]))
        return frame


class VideoReader:
    """A video file, read from its beginning or a part of it.

    Args:
        path: anything FFmpeg reads; frames/%05d.png for numbered pictures.
        start_s, duration_s: only this part; 0 for `duration_s` reads to the end.
    Attributes:
        to_rgb: size, depth, colors and orientation of the frames.
        time_base: seconds per unit of their timestamps. rate: average frames per second, according to the file.
        timeless: whether it has no timestamps at all; `rate` is then from its header, or a guess.
        sample_aspect: width to height of a pixel, upright.
        length_s: length of what is read, if the file says, else None.
        others: audio and subtitle streams, whose packets are returned, too. left_out: kinds of all other streams.
        chapters: of what is read.
        interlaced: whether the frames are. alpha_unread: whether there is transparency that no decoder here can read.
        dropped_tags: other properties of the frames, in words, that cannot be passed on.
        leaps: how often the file's clock restarted or leapt so far; the parts are joined one after another.
        skipped: damaged packets and frames so far. gave_up: whether the rest of the file could not be read at all.
    Raises:
        VideoError: missing, not a video, damaged beyond reading, or without a single frame.
    """

    def __init__(self, path: str | Path, start_s: float = 0.0, duration_s: float = 0.0) -> None:
        self.path = Path(path)
        self.skipped, self.gave_up = 0, False
        self._start_s, self._duration_s = start_s, duration_s
        try:
            if not is_sequence(self.path) and (not self.path.stat().st_size or not self.path.is_file()):
                raise VideoError(f"{path} is empty, or no file; a video file is wanted")
            self._container = self._open()
        except FFmpegError as error:
            text = f"{path} is not a video that can be read ({error.strerror}); a file that was cut off may lack its index"
            raise VideoError(text) from error
        except OSError as error:
            raise VideoError(f"{path} cannot be read: {error.strerror or error}") from error
        try:
            self._examine()
        except BaseException:
            self._container.close()
            raise

    def _open(self) -> InputContainer:
        if is_sequence(self.path):
            name, options = sequence_options(self.path)
            return av.open(name, format="image2", options=options)
        # By its absolute path: FFmpeg takes anything before a colon, as in 12:30.avi, for a protocol.
        return av.open(str(self.path.absolute()), metadata_errors="ignore")

    def _examine(self) -> None:
        container = self._container
        films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not films:
            kinds = ", ".join(_kind(stream) for stream in container.streams)
            raise VideoError(f"{self.path} holds no video, only {kinds or 'nothing'}")
        films = [stream for stream in films if stream.codec_context]
        if not films:
            raise VideoError(f"{self.path} holds video of a kind that cannot be decoded here; convert it to H.264, say")
        best = container.streams.best("video")
        self._stream: Any = best if best in films else films[0]
        untried = [stream.index for stream in films if stream is not self._stream]
        self.others = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
        self._describe()
        self.metadata = _plainly_named(container.metadata)
        # Files may begin at any time, transport streams at hours: ours starts with the whole file's, so sound stays in sync.
        self._origin_s = Fraction(container.start_time or 0, av.time_base) + Fraction(self._start_s).limit_denominator(10**6)
        self.chapters = self._chapters()
        first = self._first_av_frame()
        while first is None and untried:  # in some files the first film stream is empty
            self._reread(untried.pop(0))
            first = self._first_av_frame()
        if first is None and self._stream.codec_context.name == "webp":
            raise VideoError(f"{self.path} is an animated WebP, which is no film; paint it with: allaprima stylize")
        if first is None:
            damage = f"; {self.skipped} damaged packets or frames" if self.skipped else ""
            raise VideoError(f"{self.path} holds no frame that can be decoded{damage}")
        if self._start_s > 0 and first.pts is not None and not self._leaps_at_all():
            self._reread(self._stream.index, seek=True)
            landed = self._first_av_frame()
            # Without an index, a seek may land after the start, or nowhere; then the film is read from its beginning.
            well = landed is not None and landed.pts is not None and landed.pts * self.time_base <= self._origin_s
        else:
            well = False
        self._reread(self._stream.index, seek=well)
        self.to_rgb = ToRgb(first)
        aspect = Fraction(self._stream.sample_aspect_ratio or 1) or Fraction(1)
        self.sample_aspect = 1 / aspect if self.to_rgb.turned else aspect
        self.interlaced = bool(first.interlaced_frame)
        self.alpha_unread = self._stream.metadata.get("alpha_mode") == "1" and not self.to_rgb.has_alpha
        side_data: Any = first.side_data
        self.dropped_tags = [words for name, words in DROPPED_TAGS.items() if side_data.get(name) is not None]
        self.length_s = self._length_s()

    def _chapters(self) -> list[Any]:
        """The chapters of the part that is read, counted from its beginning."""
        chapters = []
        for chapter in self._container.chapters():
            unit_s = chapter["time_base"] or Fraction(1, av.time_base)
            start, end = (round(chapter[side] - self._origin_s / unit_s) for side in ("start", "end"))
            last = round(Fraction(self._duration_s).limit_denominator(10**6) / unit_s) if self._duration_s else end
            start, end = max(0, start), min(end, last)
            if start < end:
                chapters.append({**chapter, "start": start, "end": end})
        return chapters

    @property
    def film(self) -> Any:
        """The stream that the frames come from."""
        return self._stream

    def _length_s(self) -> float | None:
        if self._stream.duration:
            whole = float(self._stream.duration * self.time_base)
        elif self._container.duration:
            whole = self._container.duration / av.time_base
        else:
            return self._duration_s or None
        left = max(0.0, whole - self._start_s)
        return min(left, self._duration_s) if self._duration_s else left

    def _first_av_frame(self) -> av.VideoFrame | None:
        return next((item for item in self._decode() if isinstance(item, av.VideoFrame)), None)

    def _reread(self, film: int, seek: bool = False) -> None:
        """Reopen a stream at the beginning, or at the last key frame before the start."""
        others = [stream.index for stream in self.others]
        self._container.close()
        self._container = self._open()
        self._stream = self._container.streams[film]
        self.others = [self._container.streams[index] for index in others]
        self.skipped = 0
        if seek:
            with contextlib.suppress(FFmpegError):
                self._container.seek(int(self._origin_s * av.time_base), backward=True)
        self._describe()
        self._items = self._decode()

    def _describe(self) -> None:
        """What the opened file says about its streams, before anything is read."""
        # Threads that decode several pictures at once would lose good ones next to a damaged one at the end.
        self._stream.thread_type = "SLICE" if is_sequence(self.path) else "AUTO"
        others = [stream for stream in self._container.streams if stream not in (*self.others, self._stream)]
        others = [stream for stream in others if stream.discard != Discard.all]  # the others are chapters in disguise
        if self._container.metadata.get("major_brand") == "avis":  # an animated AVIF also has its first picture as a still
            self.left_out = ["transparency" for stream in others if stream.duration]
        else:
            self.left_out = [_kind(stream) for stream in others]
        self.time_base = Fraction(self._stream.time_base or Fraction(1, 1000))
        # A raw stream has no timestamps to average; FFmpeg then says 25. Its header may know better.
        untimed = self._stream.start_time is None and not self._stream.duration
        self.timeless = untimed and self._container.format.name != "apng"  # FFmpeg does not say when one begins
        rates = (self._stream.average_rate, self._stream.guessed_rate)
        rates = (self._stream.codec_context.framerate, *reversed(rates)) if self.timeless else rates
        self.rate = Fraction(next(filter(None, rates), 25))
        leaping = self._container.format.flags & _LEAPING and not self.timeless
        self._clock = Clock(self._stream.index, 1 / self.rate) if leaping else None

    def __iter__(self) -> Iterator[Moment | av.Packet]:
        """Moments in order of time, and between them the packets of `others`, with `pts` and `dts` counted from the same
        beginning."""
        origin = round(self._origin_s / self.time_base)
        length = self._duration_s / float(self.time_base) if self._duration_s else float("inf")
        guess = float(1 / (self.rate * self.time_base))  # units per frame, if the file does not say
        expected = -self._start_s / float(self.time_base)
        last = -1
        before, before_end = None, 0.0  # the picture already shown at the start
        least = BLINK_S / float(self.time_base)
        unfinished = {stream.index for stream in self.others if stream.type == "audio"}
        if self._start_s > 0 and any(stream.type == "subtitle" for stream in self.others) and not self._clock:
            yield from self._read_already()
        for item in self._items:
            if isinstance(item, av.Packet):
                time_s = self._shift_(item)
                if time_s is None or time_s < 0 < self._start_s:
                    continue  # what precedes a film's very beginning is what sound decoders need to start up
                if not self._duration_s or time_s < self._duration_s:
                    yield self._ends_in_time_(item)
                else:
                    unfinished.discard(item.stream.index)
                if last >= length and not unfinished:
                    break
                continue
            pts = round(expected) if item.pts is None else item.pts - origin
            expected = pts + (item.duration or guess)
            if pts >= length:  # sound of the last moments may come later in the file
                last = pts
                if not unfinished or (pts - length) * self.time_base > BEHIND_S:
                    break
            elif pts < 0:
                before, before_end = (item, expected) if self._start_s > 0 and expected > least else (None, 0)
            elif pts <= last:  # in damaged files, time may run backwards
                self.skipped += 1
            else:
                if before is not None and pts > least:
                    yield self._moment(before, 0, pts)
                before, last = None, pts
                yield self._moment(item, pts, int(min(item.duration or 0, length - pts)))
        if before is not None:  # a last picture that stays for a long time
            yield self._moment(before, 0, int(min(before_end, length)))

    def _read_already(self) -> Iterator[av.Packet]:
        """Subtitles that appeared before the start and are still shown, as if they appeared at the start. In the file they may
        precede the key frame where reading begins."""
        with self._open() as container, contextlib.suppress(FFmpegError):
            with contextlib.suppress(FFmpegError):
                container.seek(int((self._origin_s - SUBTITLE_S) * av.time_base), backward=True)
            for packet in container.demux([container.streams[stream.index] for stream in (self._stream, *self.others)]):
                time_s, kind = self._shift_(packet), packet.stream.type
                if kind == "video" and time_s is not None and time_s > BEHIND_S:
                    break
                end = (packet.pts or 0) + (packet.duration or 0)
                if kind == "subtitle" and packet.pts is not None and packet.pts < 0 < end:
                    packet.stream = self._container.streams[packet.stream.index]
                    packet.pts, packet.dts, packet.duration = 0, 0, end
                    yield self._ends_in_time_(packet)

    def _ends_in_time_(self, packet: av.Packet) -> av.Packet:
        """The packet; a subtitle is shortened so that it does not outlast the part."""
        if packet.stream.type == "subtitle" and self._duration_s and packet.pts is not None:
            left = math.ceil(self._duration_s / packet.time_base) - packet.pts
            packet.duration = min(packet.duration or 0, left)
        return packet

    def _moment(self, av_frame: av.VideoFrame, pts: int, duration: int) -> Moment:
        frame, alpha = self.to_rgb.with_alpha(av_frame)
        return Moment(frame, pts, duration, alpha)

    def _shift_(self, packet: av.Packet) -> float | None:
        """Count a packet's time from the film's beginning; returns it in seconds, None if the file does not say."""
        if packet.pts is None and packet.dts is None:
            return None
        time_base = Fraction(packet.time_base)
        origin = round(self._origin_s / time_base)
        packet.pts = None if packet.pts is None else packet.pts - origin
        packet.dts = None if packet.dts is None else packet.dts - origin
        return float((packet.dts or 0 if packet.pts is None else packet.pts) * time_base)

    def _decode(self) -> Iterator[av.VideoFrame | av.Packet]:
        """All frames and packets of the file; damaged ones are counted and left out."""
        failures = 0
        decoder = _decoder(self._stream)
        streams = [self._stream, *self.others]
        while failures < MAX_ERRORS_IN_A_ROW:
            try:
                for packet in self._packets(streams):
                    if packet.stream.index != self._stream.index:
                        if packet.size:
                            yield packet
                        continue
                    try:
                        av_frames: list[Any] = decoder.decode(packet if packet.size else None)
                    except FileEnd:
                        continue
                    except Exception:  # whatever a decoder objects to in a packet, the next one may be fine
                        self.skipped += 1
                        continue
                    for av_frame in av_frames:
                        if av_frame.is_corrupt:
                            self.skipped += 1
                            continue
                        failures = 0
                        yield av_frame
                return
            except FileEnd:
                return
            except FFmpegError as error:  # in the file's own structure; the next packet may be fine
                if error.errno in GONE:
                    raise VideoError(f"{self.path} cannot be read any further: {error.strerror}") from error
                failures += 1
                self.skipped += failures == 1
        self.gave_up = True

    def _packets(self, streams: list[Any]) -> Iterator[av.Packet]:
        packets = self._container.demux(streams)
        return packets if self._clock is None else self._clock.mended(packets)

    @property
    def leaps(self) -> int:
        return self._clock.leaps if self._clock else 0

    def _leaps_at_all(self) -> bool:
        """Whether the file's clock leaps anywhere, found by reading on up to a leap, without decoding."""
        if self._clock is None:
            return False
        with contextlib.suppress(FFmpegError):
            for _ in self._packets([self._stream]):
                if self.leaps:
                    break
        return self.leaps > 0

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _decoder(stream: Any) -> Any:
    """FFmpeg's own decoders ignore the transparency of VP8 and VP9, which lies beside the pictures in the file."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name and stream.metadata.get("alpha_mode") == "1":
        with contextlib.suppress(UnknownCodecError):
            return av.CodecContext.create(name, "r")
    return stream.codec_context


def _plainly_named(metadata: Mapping[str, str]) -> dict[str, str]:
    """A file's metadata, with place and camera under the names that every format's writer knows."""
    named = {plain: metadata[apple] for apple, plain in APPLE_TAGS.items() if apple in metadata}
    return {**named, **{name: text for name, text in metadata.items() if name not in APPLE_TAGS}}


def _kind(stream: Any) -> str:
    return "cover picture" if stream.disposition & Disposition.attached_pic else str(stream.type)


def _may_be_transparent(av_frame: av.VideoFrame) -> bool:
    return av_frame.format.has_palette or any(component.is_alpha for component in av_frame.format.components)


def _packed_pixels(av_frame: av.VideoFrame) -> np.ndarray:
    """The pixels of an `av_frame` in a packed format, (H, W, channels) uint8, not copied unless its rows are padded."""
    plane: Any = av_frame.planes[0]
    channels = len(av_frame.format.components)
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: av_frame.height, : av_frame.width * channels]
    return np.ascontiguousarray(rows).reshape(av_frame.height, av_frame.width, channels)


def _orientation(av_frame: av.VideoFrame) -> tuple[int, bool]:
    """The clockwise quarter turns that make it upright, and whether it is mirrored left to right before them."""
    side_data: Any = av_frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(side_data)[:36], np.int32) / 65536.0
    # Where a pixel's column and row are drawn: x' = a x + c y, y' = b x + d y.
    mirrored = bool(a * d - b * c < 0)
    if mirrored:
        a, b = -a, -b
    turns = int(np.rint(np.degrees(np.arctan2(b, a)) / 90.0)) % 4
    return turns, mirrored
