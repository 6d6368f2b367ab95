"""Fixtures of training's tests."""

import hashlib

import pytest


@pytest.fixture(scope="session", autouse=True)
def networks_traced_once():
    """torch's exporter takes seconds, so its result is cached for later exports of the same network."""
    import onnx

    from allaprima.training.export import export as export_module
    from allaprima.training.export.graph import to_onnx

    kept = {}

    def traced(net, half=False):
        state = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
        key = hashlib.sha256(f"{net} {getattr(net, 'upsampling', '')} {half}".encode() + state).digest()
        if key not in kept:
            kept[key] = to_onnx(net, half)
        model = onnx.ModelProto()
        model.CopyFrom(kept[key])
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "to_onnx", traced)
        yield
