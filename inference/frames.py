"""Video files as upright RGB frames with their own timestamps, and everything else in the file as it is."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.error import EOFError as FileEnd
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from models.errors import VideoError

UNSPECIFIED = 2  # of a colour space, primaries or transfer, in every standard that has the field
# Of H.273's matrix coefficients, those that the scaler knows; RGB (0) needs none.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU624,
    6: Colorspace.SMPTE170M,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
MOST_ERRORS_IN_A_ROW = 1000  # while nothing at all can be read; then the rest of the file is given up


@dataclass(frozen=True)
class Frame:
    """A frame of a film.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        pts: when it appears, in units of the film's `time_base`, counted from its beginning.
        duration: how long it stays, in the same units; 0 where the file does not say.
    """

    pixels: np.ndarray
    pts: int
    duration: int = 0


@dataclass(frozen=True)
class ColorTags:
    """How a film's numbers mean colours: matrix, range, primaries and transfer as H.273 numbers them."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def to_rgb(self, height: int) -> tuple[Colorspace, ColorRange]:
        """Matrix and range for the conversion; what is not said is guessed as players do, by the height."""
        guess = Colorspace.ITU709 if height >= 720 else Colorspace.SMPTE170M
        full = self.range == ColorRange.JPEG
        return MATRICES.get(self.matrix, guess), ColorRange.JPEG if full else ColorRange.MPEG


class VideoReader:
    """A video file, read from its beginning or a part of it.

    Args:
        path: anything FFmpeg reads.
        start_s, duration_s: only this part; 0 for `duration_s` reads to the end.
    Attributes:
        height, width: of the upright frames. time_base: seconds a unit of their timestamps. rate: frames a second, on
            average, as the file says. sample_aspect: width to height of a pixel, upright. tags: of the colours.
        depth: bits a channel in the file. has_alpha: its transparency is not kept: white shows through.
        length_s: what is to be read, as far as the file says, else None.
        others: audio and subtitle streams, whose packets come along.
        skipped: stretches that could not be decoded, so far: damaged packets or frames.
    Raises:
        VideoError: missing, not a video, damaged beyond reading, or without a single frame.
    """

    def __init__(self, path: str | Path, start_s: float = 0.0, duration_s: float = 0.0) -> None:
        self.path = Path(path)
        self.skipped = 0
        self._start_s, self._duration_s = start_s, duration_s
        try:
            if not self.path.stat().st_size:
                raise VideoError(f"{path} is empty; a video is wanted")
            self._container = av.open(str(path), metadata_errors="ignore")
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

    def _examine(self) -> None:
        container = self._container
        films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not films:
            raise VideoError(f"{self.path} holds no video, only {', '.join(s.type for s in container.streams) or 'nothing'}")
        best = container.streams.best("video")
        self._stream: Any = best if best in films else films[0]
        self._stream.thread_type = "AUTO"
        self.others = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
        self.left_out = [stream.type for stream in container.streams if stream not in (*self.others, self._stream)]
        self.time_base = Fraction(self._stream.time_base or Fraction(1, 1000))
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.metadata = dict(container.metadata)
        # Files begin at any time, transport streams at hours: the beginning of the whole file is ours, so sound keeps step.
        self._origin_s = Fraction(container.start_time or 0, av.time_base) + Fraction(self._start_s).limit_denominator(10**6)
        first = self._first_frame()
        if first is None:
            damage = f"; {self.skipped} damaged stretches" if self.skipped else ""
            raise VideoError(f"{self.path} holds no frame that can be decoded{damage}")
        if self._start_s > 0 and first.pts is not None:
            self._reread(seek=True)
            landed = self._first_frame()
            # Without an index a seek may land behind the start, or nowhere; then the film is read through.
            well = landed is not None and landed.pts is not None and landed.pts * self.time_base <= self._origin_s
        else:
            well = False
        self._reread(seek=well)
        self._turns, self._mirrored = _orientation(first)
        height, width = first.height, first.width
        self.height, self.width = (width, height) if self._turns % 2 else (height, width)
        aspect = Fraction(self._stream.sample_aspect_ratio or 1) or Fraction(1)
        self.sample_aspect = 1 / aspect if self._turns % 2 else aspect
        components = first.format.components
        self.depth = max(component.bits for component in components)
        self.has_alpha = any(component.is_alpha for component in components)
        self.interlaced = bool(first.interlaced_frame)
        self.tags = ColorTags(int(first.colorspace), int(first.color_range), int(first.color_primaries), int(first.color_trc))
        self._coded = (height, width)
        self._reformatter = VideoReformatter()
        self.length_s = self._length_s()

    def _length_s(self) -> float | None:
        if self._stream.duration:
            whole = float(self._stream.duration * self.time_base)
        elif self._container.duration:
            whole = self._container.duration / av.time_base
        else:
            return self._duration_s or None
        left = max(0.0, whole - self._start_s)
        return min(left, self._duration_s) if self._duration_s else left

    def _first_frame(self) -> av.VideoFrame | None:
        return next((item for item in self._decode() if isinstance(item, av.VideoFrame)), None)

    def _reread(self, seek: bool) -> None:
        """From the beginning again, or from the last key frame before the start."""
        film, others = self._stream.index, [stream.index for stream in self.others]
        self._container.close()
        self._container = av.open(str(self.path), metadata_errors="ignore")
        self._stream = self._container.streams[film]
        self._stream.thread_type = "AUTO"
        self.others = [self._container.streams[index] for index in others]
        self.skipped = 0
        if seek:
            with contextlib.suppress(FFmpegError):
                self._container.seek(int(self._origin_s * av.time_base), backward=True)
        self._frames = self._decode()

    def __iter__(self) -> Iterator[Frame | av.Packet]:
        """Frames in the order of their time, and the packets of `others` between them, with `pts` and `dts` counted from
        the same beginning."""
        last = -1
        guess = 1 / (self.rate * self.time_base)  # units a frame, where the file does not say
        expected = Fraction(0) - Fraction(self._start_s).limit_denominator(10**6) / self.time_base
        end = Fraction(self._duration_s).limit_denominator(10**6) / self.time_base if self._duration_s else None
        for item in self._frames:
            if isinstance(item, av.Packet):
                if self._shift_(item):
                    yield item
                continue
            origin = self._origin_s / self.time_base
            pts = round(expected) if item.pts is None else round(item.pts - origin)
            if pts < 0:  # decoded only to get to the start
                expected = pts + guess
                continue
            if end is not None and pts >= end:
                return
            if pts <= last:  # time runs backwards where a file is damaged
                self.skipped += 1
                continue
            last = pts
            expected = pts + guess
            yield Frame(self._pixels(item), pts, int(item.duration or 0))

    def _shift_(self, packet: av.Packet) -> bool:
        """Count a packet's time from the film's beginning; False where it lies outside of the part that is read."""
        if packet.pts is None and packet.dts is None:
            return False
        time_base = Fraction(packet.time_base)
        origin = round(self._origin_s / time_base)
        time_s = float((packet.dts or 0 if packet.pts is None else packet.pts) * time_base - self._origin_s)
        if packet.pts is not None:
            packet.pts -= origin
        if packet.dts is not None:
            packet.dts -= origin
        if self._start_s and time_s < 0:  # before a film's very beginning lies what a decoder of sound needs to get going
            return False
        return not self._duration_s or time_s < self._duration_s

    def _decode(self) -> Iterator[av.VideoFrame | av.Packet]:
        """Everything in the file, over damaged stretches, which are counted."""
        failures = 0
        streams = [self._stream, *self.others]
        while failures < MOST_ERRORS_IN_A_ROW:
            try:
                for packet in self._container.demux(streams):
                    if packet.stream is not self._stream and packet.stream.index != self._stream.index:
                        if packet.size:
                            yield packet
                        continue
                    try:
                        frames: list[Any] = packet.decode()
                    except FileEnd:
                        continue
                    except FFmpegError:
                        self.skipped += 1
                        continue
                    for frame in frames:
                        if frame.is_corrupt:
                            self.skipped += 1
                            continue
                        failures = 0
                        yield frame
                return
            except FileEnd:
                return
            except FFmpegError:  # of the file's own structure; the next packet may be well
                failures += 1
                self.skipped += failures == 1

    def _pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright; a view of the decoder's memory where it can be one."""
        rgb = "rgba" if self.has_alpha else "rgb24"
        height, width = self._coded  # the first frame's, also where the size changes on the way
        matrix, color_range = self.tags.to_rgb(height)
        converted = self._reformatter.reformat(
            frame,
            width,
            height,
            rgb,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=color_range,
            dst_color_range=ColorRange.JPEG,
        )
        pixels = plane_as_array(converted)
        if self.has_alpha:
            opaque = pixels[:, :, 3:].astype(np.float32) / 255.0
            pixels = np.rint(pixels[:, :, :3] * opaque + 255.0 * (1.0 - opaque)).astype(np.uint8)
        if self._mirrored:
            pixels = np.asarray(cv2.flip(pixels, 1))
        if self._turns:
            codes = (0, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
            pixels = np.asarray(cv2.rotate(pixels, codes[self._turns]))
        return pixels

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def plane_as_array(frame: av.VideoFrame) -> np.ndarray:
    """A packed frame's pixels, (H, W, channels) uint8, without a copy; rows may lie apart."""
    plane: Any = frame.planes[0]
    channels = len(frame.format.components)
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width * channels]
    return rows.reshape(frame.height, frame.width, channels) if rows.flags.c_contiguous else _packed(rows, frame, channels)


def _packed(rows: np.ndarray, frame: av.VideoFrame, channels: int) -> np.ndarray:
    return np.ascontiguousarray(rows).reshape(frame.height, frame.width, channels)


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns clockwise that make a frame upright, and whether it is mirrored left to right before them."""
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(side_data)[:36], np.int32) / 65536.0
    # Where a pixel's column and row are drawn: x' = a x + c y, y' = b x + d y.
    mirrored = bool(a * d - b * c < 0)
    if mirrored:
        a, b = -a, -b
    turns = int(np.rint(np.degrees(np.arctan2(b, a)) / 90.0)) % 4
    return turns, mirrored
