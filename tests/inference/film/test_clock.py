"""Films whose clock restarts or leaps: joined files, playlists, recordings of a receiver that lost its signal."""

import av
import numpy as np
import pytest
from films import drifting, paint, psnr, read_film, write_film

FRAMES = drifting(45)
PARTS = FRAMES[:20], FRAMES[20:]


def part(path, frames, begins_s=0, **options):
    return write_film(path, frames, container_options={"output_ts_offset": str(begins_s)}, **options)


def joined(path, *begins_s, **options):
    """Both parts in one file, as `cat` joins them."""
    parts = [
        part(path.with_name(f"{i}{path.suffix}"), frames, begin_s, **options)
        for i, (frames, begin_s) in enumerate(zip(PARTS, begins_s, strict=True))
    ]
    path.write_bytes(b"".join(each.read_bytes() for each in parts))
    return path


def check_whole(report, output):
    frames, times_ms = read_film(output)
    assert len(frames) == len(FRAMES)
    assert report.skipped == 0
    np.testing.assert_allclose(np.diff(times_ms), 40, atol=1)
    assert all(psnr(found, wanted) > 28 for found, wanted in zip(frames, FRAMES, strict=True))
    assert "its clock restarts or leaps once; the parts are put one after the other" in report.notes


@pytest.mark.parametrize("begins_s", [(0, 0), (0, 3600), (3600, 0), (0, 0.3), (7, 7)])
def test_parts_follow_one_another_wherever_their_clocks_begin(tmp_path, begins_s):
    source = joined(tmp_path / "joined.ts", *begins_s, sounds=1)
    check_whole(paint(source, tmp_path / "out.mp4"), tmp_path / "out.mp4")


@pytest.mark.parametrize("suffix", [".mpg", ".vob"])
def test_joined_program_streams_are_whole(tmp_path, suffix):
    quality = {"qscale": "2", "bf": "0", "b": "8000000"}
    source = joined(tmp_path / f"joined{suffix}", 0, 0, codec="mpeg2video", options=quality)
    report = paint(source, tmp_path / "out.mp4")
    assert report.frames == len(FRAMES)
    assert report.skipped == 0


def test_a_playlist_with_a_discontinuity_is_whole(tmp_path):
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2"]
    for i, frames in enumerate(PARTS):
        part(tmp_path / f"{i}.ts", frames, sounds=1)
        lines += ["#EXT-X-DISCONTINUITY"] * i + [f"#EXTINF:{len(frames) / 25},", f"{i}.ts"]
    source = tmp_path / "list.m3u8"
    source.write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
    report = paint(source, tmp_path / "out.mp4")
    assert report.frames == len(FRAMES)
    assert report.skipped == 0
    np.testing.assert_allclose(np.diff(read_film(tmp_path / "out.mp4")[1]), 40, atol=1)


def loudness(path):
    """For each frame of sound, its time in seconds and its strongest tone in Hz."""
    found = []
    with av.open(str(path)) as container:
        for sound in container.decode(audio=0):
            wave = sound.to_ndarray()[0]
            tone = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * sound.sample_rate / len(wave)
            found.append((float(sound.pts * sound.time_base), tone))
    return found


def test_each_parts_sound_stays_with_its_pictures(tmp_path):
    parts = [tmp_path / "a.ts", tmp_path / "b.ts"]
    part(parts[0], PARTS[0], sounds=1)
    part(parts[1], PARTS[1], sounds=2)  # the second tone is higher
    joined_file = tmp_path / "joined.ts"
    one = tmp_path / "b1.ts"
    with av.open(str(parts[1])) as source, av.open(str(one), "w") as target:  # with only the higher tone
        streams = {
            stream.index: target.add_stream_from_template(stream)
            for stream in (source.streams.video[0], source.streams.audio[1])
        }
        for packet in source.demux(source.streams.video[0], source.streams.audio[1]):
            if packet.size:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    joined_file.write_bytes(parts[0].read_bytes() + one.read_bytes())
    paint(joined_file, tmp_path / "out.mp4")
    tones = loudness(tmp_path / "out.mp4")
    low = [tone for time_s, tone in tones if 0.1 < time_s < 0.75]
    high = [tone for time_s, tone in tones if 0.95 < time_s < 1.7]
    assert np.ptp(low) < 50
    assert np.ptp(high) < 50
    assert np.median(high) > np.median(low) + 100
    assert abs(tones[-1][0] - len(FRAMES) / 25) < 0.3


def test_the_start_of_a_part_is_counted_in_the_joined_film(tmp_path):
    source = joined(tmp_path / "joined.ts", 0, 0, sounds=1)
    report = paint(source, tmp_path / "out.mp4", start_s=1.0, duration_s=0.4)
    frames, _ = read_film(tmp_path / "out.mp4")
    assert report.frames in (10, 11)  # the sound begins a little earlier, so the previous picture may still be on screen
    assert all(psnr(found, wanted) > 28 for found, wanted in zip(frames, FRAMES[35 - report.frames : 35], strict=True))


def test_a_film_that_pauses_for_seconds_keeps_its_pause(tmp_path):
    source = part(tmp_path / "film.ts", FRAMES[:10], sounds=1)
    later = part(tmp_path / "later.ts", FRAMES[10:20], 5, sounds=1)
    source.write_bytes(source.read_bytes() + later.read_bytes())
    report = paint(source, tmp_path / "out.mp4")
    assert report.frames == 20
    assert np.diff(read_film(tmp_path / "out.mp4")[1]).max() > 4000
    assert not [note for note in report.notes if "clock" in note]
