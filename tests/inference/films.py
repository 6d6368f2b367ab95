"""Small films for the tests, made with PyAV, and stand-ins that paint them."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from allaprima.inference.film.video import VideoReport, paint_video
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.options import StylizeOptions, VideoOptions
from allaprima.models.contract import Contract


def drifting(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """Frames of a landscape that moves to the left by two pixels a frame."""
    wide = paint_landscape(height, width + 2 * count, seed=1)
    return [np.ascontiguousarray(wide[:, 2 * i : 2 * i + width]) for i in range(count)]


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 25,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sounds: int = 0,
    rotation: int = 0,
    hflip: bool = False,
    sample_aspect: Fraction = Fraction(1),
    tags: tuple[int, int, int, int] | None = None,
    source_format: str = "rgb24",
    subtitle: bool = False,
) -> Path:
    """A film of RGB frames with `sounds` sound tracks, each a different tone; `tags` in the order of `ColorTags`."""
    frames = list(frames)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate, options or ({"crf": "10", "g": "10"} if codec == "libx264" else {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 1000) if times_ms else Fraction(1, rate)
        stream.codec_context.sample_aspect_ratio = sample_aspect
        if tags:
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = tags
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip=hflip)
        tones = [container.add_stream("aac", 48000) for _ in range(sounds)]
        if subtitle:
            path.with_suffix(".srt").write_text("1\n00:00:00,040 --> 00:00:00,120\nHello\n")
            words = av.open(str(path.with_suffix(".srt")))
            heard = container.add_stream_from_template(words.streams.subtitles[0])
        container.start_encoding()
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format=source_format)
            if tags:
                frame = frame.reformat(format=pixel_format, src_colorspace=tags[0], dst_colorspace=tags[0])
                frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = tags
            frame.pts = times_ms[i] if times_ms else i
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        seconds = (times_ms[-1] / 1000 if times_ms else len(frames) / rate) + 0.1
        for j, tone in enumerate(tones):
            wave = (0.2 * np.sin(np.arange(int(48000 * seconds)) * (0.03 + 0.02 * j))).astype(np.float32)
            for start in range(0, len(wave) - 1024, 1024):
                sound = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
                container.mux(tone.encode(sound))
            container.mux(tone.encode(None))
        if subtitle:
            for packet in words.demux():
                if packet.size:
                    packet.stream = heard
                    container.mux(packet)
            words.close()
    return path


def read_film(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Frames as RGB, without applying rotation, and their times in ms."""
    frames, times_ms = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            times_ms.append(float(1000 * frame.pts * frame.time_base))
    return frames, times_ms


def packets_of(path: Path, kind: str) -> list[list[tuple[int | None, bytes]]]:
    """For each stream of a kind: time (in the stream's units) and bytes of its packets."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        found: dict[int, list[tuple[int | None, bytes]]] = {stream.index: [] for stream in streams}
        for packet in container.demux(streams) if streams else ():
            if packet.size:
                found[packet.stream.index].append((packet.pts, bytes(packet)))
    return list(found.values())


class Inverter:
    """A session that paints the negative."""

    contract = Contract(1, 1)

    def stylize_image(self, image: np.ndarray) -> np.ndarray:
        return 1.0 - image


class Copier(Inverter):
    """A session that returns the photo."""

    def stylize_image(self, image: np.ndarray) -> np.ndarray:
        return image.copy()


def paint(source: Path, output: Path, session=None, **options) -> VideoReport:
    return paint_video(source, output, session or Copier(), how=StylizeOptions(), options=VideoOptions(quality=100, **options))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))
