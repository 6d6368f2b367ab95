"""Re-encodes sound that a film's new format refuses."""

import contextlib
from typing import Any

import av
from av.audio.layout import AudioLayout
from av.container import OutputContainer

BITS_A_CHANNEL = 96_000  # per second
OPUS_RATE = 48_000
LARGER = ("5.1", "7.1")  # layouts in place of those that Opus cannot hold, such as 2.1
MIXED_UP = ("5.0", "6.1")  # layouts confused by FFmpeg 8.1's libopus: the center comes from behind


class SoundEncoder:
    """Packets of one sound in, packets of another codec out: Opus in .webm, else AAC.

    Args:
        container: where the sound goes. source: the stream whose packets will come.
    Attributes:
        name: of the codec, and of the layout if channels are lost. skipped: packets that could not be decoded or encoded.
    Raises:
        ValueError: the sound cannot be decoded, or no encoder opens.
    """

    def __init__(self, container: OutputContainer, source: Any) -> None:
        decoder = source.codec_context
        if source.type != "audio" or decoder is None or not decoder.sample_rate:
            raise ValueError(f"{source.type} cannot be encoded anew")
        encoder, self.name = ("libopus", "Opus") if container.format.name == "webm" else ("aac", "AAC")
        rates = [OPUS_RATE] if encoder == "libopus" else av.Codec(encoder, "w").audio_rates or [OPUS_RATE]
        rate = min((each for each in rates if each >= decoder.sample_rate), default=max(rates))
        layout = next((each for each in _layouts(decoder.layout) if _opens(encoder, rate, each)), None)
        if layout is None:
            raise ValueError(f"no {self.name} encoder opens")
        if AudioLayout(layout).nb_channels < decoder.layout.nb_channels:
            self.name += f" ({layout} instead of {decoder.layout.name})"
        self._source, self.skipped = source, 0
        stream: Any = container.add_stream(encoder, rate)
        stream.layout = layout
        stream.bit_rate = BITS_A_CHANNEL * stream.layout.nb_channels
        self.stream = stream
        self._next_pts: int | None = None

    def encode(self, packet: av.Packet | None) -> list[av.Packet]:
        """The encoded packets for a packet; for None, those still inside."""
        packets = []
        try:
            for sound in self._source.codec_context.decode(packet):
                if sound.pts is None:
                    sound.pts = self._next_pts
                if sound.pts is not None:
                    self._next_pts = sound.pts + round(sound.samples / sound.sample_rate / sound.time_base)
                packets += self.stream.encode(sound)
        except Exception:  # as with a damaged frame, the next one may be fine
            self.skipped += 1
        if packet is None:
            with contextlib.suppress(Exception):  # nothing ever came in
                packets += self.stream.encode(None)
        return packets


def _layouts(source: AudioLayout) -> list[str]:
    """Layouts for its channels, best first: its own; the same with side channels at the back; larger ones that hold every
    channel; stereo, into which all are mixed."""
    own = source.name
    if own.endswith(" channels"):  # only their number is known
        own = f"{source.nb_channels}c"  # the usual layout
    behind = own.replace("(side)", "")
    with contextlib.suppress(ValueError):  # there is none with that number
        channels = {channel.name for channel in AudioLayout(behind).channels}
        larger = [name for name in LARGER if channels <= {channel.name for channel in AudioLayout(name).channels}]
        return [own, behind, *larger, "stereo"]
    return ["stereo"]


def _opens(encoder: str, rate: int, layout: str) -> bool:
    if encoder == "libopus" and AudioLayout(layout).name in MIXED_UP:
        return False
    context: Any = av.CodecContext.create(encoder, "w")
    context.sample_rate, context.layout, context.format = rate, layout, context.codec.audio_formats[0].name
    try:
        context.open()
    except Exception:  # a layout that it does not know
        return False
    return True
