import itertools

import numpy as np
import pytest
from films import drifting, paint, read_film, write_film

from allaprima.inference.film.frames import VideoReader
from allaprima.inference.hdr import HLG, PEAK_NITS, PQ, WHITE_NITS, ToSdr


def gray(level: int) -> np.ndarray:
    return np.full((2, 2, 3), level, np.uint8)


def level_of(transfer: int, code: int, primaries: int = 9) -> int:
    found = ToSdr(transfer, primaries)(gray(code))
    assert np.ptp(found) <= 1  # gray stays gray
    return int(found[0, 0, 0])


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_black_stays_black_and_brighter_never_gets_darker(transfer):
    levels = [level_of(transfer, code) for code in range(256)]
    assert levels[0] == 0
    assert all(after >= before for before, after in itertools.pairwise(levels))
    assert levels[-1] == 255


def test_known_light_has_a_known_level():
    """203 nits have the code 0.5807 in PQ (BT.2408) and 0.75 in HLG; the Mobius curve maps them to 0.679 of SDR's white."""
    wanted = 255 * 0.6786 ** (1 / 2.4)
    assert abs(level_of(PQ, round(0.5807 * 255)) - wanted) <= 2
    assert abs(level_of(HLG, round(0.75 * 255)) - wanted) <= 3
    dark = 255 * (20.3 / WHITE_NITS) ** (1 / 2.4)  # below the knee, light stays unchanged
    assert abs(level_of(PQ, round(0.3537 * 255)) - dark) <= 4
    assert pytest.approx(4.926, abs=0.001) == PEAK_NITS / WHITE_NITS


def test_bt2020_red_is_clipped_to_bt709s_reddest():
    red = np.full((1, 1, 3), (128, 0, 0), np.uint8)
    wide, narrow = ToSdr(PQ, 9)(red)[0, 0], ToSdr(PQ, 1)(red)[0, 0]
    assert wide[0] > narrow[0]
    assert wide[1] == wide[2] == 0


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_an_hdr_film_is_painted_and_written_as_sdr_and_that_is_reported(tmp_path, transfer, name):
    source = write_film(tmp_path / "hdr.mp4", drifting(4), tags=(9, 1, 9, transfer))
    report = paint(source, tmp_path / "out.mp4")
    assert f"HDR ({name}) in, SDR (BT.709) out" in report.notes
    with VideoReader(tmp_path / "out.mp4") as reader:
        tags = reader.to_rgb.tags
        assert (tags.matrix, tags.primaries, tags.transfer) == (1, 1, 1)
    plain = write_film(tmp_path / "plain.mp4", drifting(4), tags=(9, 1, 9, 1))
    wanted = ToSdr(transfer, 9)(read_film(plain)[0][0])
    assert np.abs(read_film(tmp_path / "out.mp4")[0][0].astype(int) - wanted).mean() < 6
