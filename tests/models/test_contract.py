import pytest

from models.contract import Contract
from models.errors import StyleError


def test_contract_survives_the_metadata():
    contract = Contract(4, 16, {"title": "Strokes", "tier": "realtime"})
    assert Contract.from_metadata(contract.to_metadata("1.0"), "x.onnx") == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allaprima.contract": None}, "not one of ours"),
        ({"allaprima.contract": "99"}, "contract 99"),
        ({"allaprima.stride_px": "four"}, "damaged contract"),
        ({"allaprima.stride_px": "0"}, "damaged contract"),
        ({"allaprima.card": "{"}, "damaged contract"),
    ],
)
def test_foreign_newer_and_damaged_contracts_are_refused(change, message):
    metadata = Contract(4, 16).to_metadata("1.0") | change
    with pytest.raises(StyleError, match=message):
        Contract.from_metadata({key: value for key, value in metadata.items() if value is not None}, "x.onnx")
