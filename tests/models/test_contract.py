import pytest

from allaprima.models.contract import Contract
from allaprima.models.errors import StyleError


def test_a_contract_can_be_saved_as_metadata_and_read_back():
    card, report = {"title": "Strokes", "tier": "realtime"}, {"psnr_db": 82.0}
    contract = Contract(1, 1, card, "frame", "fp16", 0.5, 0.25, report, "/9j/4AAQ")
    assert Contract.from_metadata(contract.to_metadata("1.0"), "x.onnx") == contract


def test_files_of_the_first_contract_are_still_read():
    first = {"allaprima.contract": "1", "allaprima.stride_px": "4", "allaprima.least_px": "16", "allaprima.card": "{}"}
    assert Contract.from_metadata(first, "x.onnx") == Contract(4, 16)


@pytest.mark.parametrize(
    ("card", "strokes"),
    [
        *[({"strokes": 2}, 2.0), ({"strokes": 0.0}, 0.0), ({}, 1.0)],
        *[({"strokes": wrong}, 1.0) for wrong in ("2", 1e9, -1, float("nan"), None, [2])],
    ],
)
def test_a_style_has_its_own_strokes_if_its_card_says_so(card, strokes):
    assert Contract(4, 16, card).own_strokes == strokes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allaprima.contract": None}, "not one of ours"),
        ({"allaprima.contract": "99"}, "contract '99'"),
        ({"allaprima.stride_px": "four"}, "damaged contract"),
        ({"allaprima.stride_px": "0"}, "damaged contract"),
        ({"allaprima.card": "{"}, "damaged contract"),
        ({"allaprima.card": '{"title": "\\ud800"}'}, "damaged contract"),
        ({"allaprima.card": "[" * 10**5}, "damaged contract"),
        ({"allaprima.stride_px": "\x1b[2J" * 10**5}, r"^.{0,250}$"),
        ({"allaprima.io": "film"}, "damaged contract"),
        ({"allaprima.precision": "int4"}, "damaged contract"),
        ({"allaprima.strength": "nan"}, "damaged contract"),
    ],
)
def test_contracts_that_are_not_ours_newer_or_damaged_are_refused(change, message):
    metadata = Contract(4, 16).to_metadata("1.0") | change
    with pytest.raises(StyleError, match=message):
        Contract.from_metadata({key: value for key, value in metadata.items() if value is not None}, "x.onnx")
