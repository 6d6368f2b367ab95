"""Sound that a film's new format refuses, encoded anew."""

import contextlib
from typing import Any

import av
from av.container import OutputContainer

BITS_A_CHANNEL = 96_000  # a second
OPUS_RATE = 48_000


class SoundEncoder:
    """Packets of one sound in, packets of another codec out: Opus in .webm, else AAC.

    Args:
        container: where the sound goes. source: the stream whose packets will come.
    Attributes:
        name: of the codec. skipped: packets that could not be decoded or encoded.
    Raises:
        ValueError: it cannot be decoded, or no encoder opens.
    """

    def __init__(self, container: OutputContainer, source: Any) -> None:
        decoder = source.codec_context
        if source.type != "audio" or decoder is None or not decoder.sample_rate:
            raise ValueError(f"{source.type} cannot be encoded anew")
        encoder, self.name = ("libopus", "Opus") if container.format.name == "webm" else ("aac", "AAC")
        rates = [OPUS_RATE] if encoder == "libopus" else av.Codec(encoder, "w").audio_rates or [OPUS_RATE]
        rate = min((each for each in rates if each >= decoder.sample_rate), default=max(rates))
        layout = next((each for each in (decoder.layout.name, "stereo") if _opens(encoder, rate, each)), None)
        if layout is None:
            raise ValueError(f"no {self.name} encoder opens")
        self._source, self.skipped = source, 0
        stream: Any = container.add_stream(encoder, rate)
        stream.layout = layout
        stream.bit_rate = BITS_A_CHANNEL * stream.layout.nb_channels
        self.stream = stream
        self._next_pts: int | None = None

    def encode(self, packet: av.Packet | None) -> list[av.Packet]:
        """What comes of a packet; of None, what is still inside."""
        packets = []
        try:
            for sound in self._source.codec_context.decode(packet):
                if sound.pts is None:
                    sound.pts = self._next_pts
                if sound.pts is not None:
                    self._next_pts = sound.pts + round(sound.samples / sound.sample_rate / sound.time_base)
                packets += self.stream.encode(sound)
        except Exception:  # as with a damaged frame, the next one may be well
            self.skipped += 1
        if packet is None:
            with contextlib.suppress(Exception):  # nothing ever came in
                packets += self.stream.encode(None)
        return packets


def _opens(encoder: str, rate: int, layout: str) -> bool:
    context: Any = av.CodecContext.create(encoder, "w")
    context.sample_rate, context.layout, context.format = rate, layout, context.codec.audio_formats[0].name
    try:
        context.open()
    except Exception:  # a layout that it does not know
        return False
    return True
