import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from inference import session as session_module
from inference.session import StyleSession, pad_image
from models.contract import Contract
from models.errors import StyleError


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (3, 2), (16, 16), (17, 33), (101, 64)])
def test_any_size_from_one_pixel_up_keeps_its_size(style_file, height, width):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert StyleSession(style_file).stylize(frame).shape == frame.shape


def test_frames_and_images_give_the_same_picture(style_file, landscape):
    session = StyleSession(style_file)
    image = (landscape.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    expected = session.stylize_image(image)[0].transpose(1, 2, 0) * 255
    assert np.abs(session.stylize(landscape) - expected).max() <= 0.51


def test_padding_mirrors_and_does_not_move_the_picture(style_file):
    image = np.arange(2 * 3, dtype=np.float32).reshape(1, 1, 2, 3)
    padded = pad_image(image, 4, 4)
    assert padded.shape == (1, 1, 4, 4)
    np.testing.assert_array_equal(padded[0, 0, :2, :3], image[0, 0])
    np.testing.assert_array_equal(padded[0, 0, :, 3], padded[0, 0, :, 1])


def test_a_frame_of_the_wrong_kind_is_refused(style_file):
    with pytest.raises(ValueError, match=r"\(4, 4\) uint8; \(H, W, 3\) uint8 is wanted"):
        StyleSession(style_file).stylize(np.zeros((4, 4), np.uint8))


def test_the_card_travels_in_the_file(style_file):
    assert StyleSession(style_file).contract.card["title"] == "Strokes"


def test_asking_for_cuda_where_there_is_none_says_so(style_file, monkeypatch):
    from inference.session import cuda_devices

    if cuda_devices():
        pytest.skip("this machine has CUDA")
    with pytest.raises(StyleError, match="CUDA was asked for"):
        StyleSession(style_file, "cuda")


@pytest.mark.parametrize("data", [b"", b"not an onnx file", b"\x08\x07" + bytes(100)])
def test_what_is_not_onnx_is_named(tmp_path, data):
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(StyleError, match=r"x\.onnx is"):
        StyleSession(tmp_path / "x.onnx")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StyleError, match=r"y\.onnx cannot be read: No such file"):
        StyleSession(tmp_path / "y.onnx")


def test_an_onnx_file_of_somebody_else_is_refused(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(StyleError, match=r"foreign\.onnx is an ONNX file, but not one of ours"):
        StyleSession(tmp_path / "foreign.onnx")
    onnx.helper.set_model_props(model, Contract(4, 16).to_metadata("1"))
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(StyleError, match=r"renamed\.onnx is not safe to open: it has tensors"):
        StyleSession(tmp_path / "renamed.onnx")


def test_threads_sharing_a_session_paint_what_one_alone_paints(style_file):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (40 + i, 90 - i, 3), dtype=np.uint8) for i in range(12)]
    expected = [StyleSession(style_file).stylize(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        painted = list(pool.map(StyleSession(style_file, shared=True).stylize, frames * 3))
    for i, frame in enumerate(painted):
        np.testing.assert_array_equal(frame, expected[i % 12])


def test_pictures_of_threads_fit_into_the_limit_together_and_a_larger_one_is_alone(style_file, monkeypatch):
    monkeypatch.setattr(session_module, "MOST_PIXELS", 3 * 16 * 16)
    together, seen, lock = [], [], threading.Lock()

    def run(_, inputs, __):
        image = inputs["content_image"]
        with lock:
            together.append(image[0, 0].size)
            seen.append(list(together))
        time.sleep(0.02)
        with lock:
            together.remove(image[0, 0].size)
        return [image]

    session = StyleSession(style_file)
    session._session = SimpleNamespace(run=run)
    sides = [16, 16, 64, 16, 16, 16, 64, 16, 16, 16, 16, 16]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(session.stylize, [np.zeros((side, side, 3), np.uint8) for side in sides]))
    assert len(seen) == 12
    assert max(len(each) for each in seen) == 3
    assert all(sum(each) <= 3 * 16 * 16 or len(each) == 1 for each in seen)


def test_terminate_ends_runs_while_it_is_set(style_file):
    session = StyleSession(style_file)
    frame = np.zeros((16, 16, 3), np.uint8)
    session.run_options.terminate = True
    with pytest.raises(StyleError):
        session.stylize(frame)
    session.run_options.terminate = False
    assert session.stylize(frame).shape == frame.shape
