"""Styles opened behind the picture."""

import time

from inference.live.rack import StyleRack


def test_the_rack_opens_the_first_style_at_once_and_the_others_behind_the_picture(style_file, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    rack = StyleRack({"a": style_file, "b": style_file, "bad": tmp_path / "bad.onnx"}, "cpu")
    assert rack.session("a") is not None
    assert rack.session("b") is None
    rack.open_all(48, 64)
    deadline = time.monotonic() + 20
    while not (rack.session("b") and rack.errors) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rack.session("b") is not None
    assert "bad.onnx is not an ONNX file" in rack.errors["bad"]
    rack.close()
