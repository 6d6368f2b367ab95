import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from allaprima.inference import doctor
from allaprima.inference.style import session as session_module
from allaprima.inference.style.session import StyleSession, pad_image, probe_cuda
from allaprima.inference.style.styles import find_style
from allaprima.models.contract import Contract
from allaprima.models.errors import StyleError


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (3, 2), (16, 16), (17, 33), (101, 64)])
def test_any_size_from_one_pixel_up_is_kept(style_file, height, width):
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


def test_asking_for_cuda_without_cuda_says_so(style_file):
    if probe_cuda()[0]:
        pytest.skip("this machine has CUDA")
    with pytest.raises(StyleError, match="CUDA was asked for and does not work here: th"):
        StyleSession(style_file, "cuda")


@pytest.mark.parametrize("data", [b"", b"not an onnx file", b"\x08\x07" + bytes(100)])
def test_a_file_that_is_not_onnx_is_named(tmp_path, data):
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(StyleError, match=r"x\.onnx is"):
        StyleSession(tmp_path / "x.onnx")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StyleError, match=r"y\.onnx cannot be read: No such file"):
        StyleSession(tmp_path / "y.onnx")


def test_an_onnx_file_that_is_not_ours_is_refused(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(StyleError, match=r"foreign\.onnx is an ONNX file, but not one of ours"):
        StyleSession(tmp_path / "foreign.onnx")
    onnx.helper.set_model_props(model, Contract(4, 16).to_metadata("1"))
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(StyleError, match=r"renamed\.onnx is not safe to open: it has no network that makes stylized_image"):
        StyleSession(tmp_path / "renamed.onnx")


def test_threads_sharing_a_session_paint_what_one_thread_paints(style_file):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (40 + i, 90 - i, 3), dtype=np.uint8) for i in range(12)]
    expected = [StyleSession(style_file).stylize(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        painted = list(pool.map(StyleSession(style_file, shared=True).stylize, frames * 3))
    for i, frame in enumerate(painted):
        np.testing.assert_array_equal(frame, expected[i % 12])


def test_pictures_of_threads_share_the_limit_and_a_larger_one_runs_alone(style_file, monkeypatch):
    monkeypatch.setattr(session_module, "MAX_PIXELS", 3 * 16 * 16)
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


CUDNN_MISSING = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'node_conv2d' Status Message: "
    "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0 ; hostname=here ; file=conv.cc ; line=467 ; expr=forward()\nmore"
)


@pytest.fixture
def driver(monkeypatch):
    """An NVIDIA driver for CUDA 13.0 with one GPU, and an ONNX Runtime with CUDA; tests may change its numbers."""
    numbers = SimpleNamespace(init=0, gpus=1, version=13000)

    def answer(pointer, number):
        pointer._obj.value = number
        return 0

    library = SimpleNamespace(
        cuInit=lambda _: numbers.init,
        cuDeviceGetCount=lambda pointer: answer(pointer, numbers.gpus),
        cuDriverGetVersion=lambda pointer: answer(pointer, numbers.version),
    )
    monkeypatch.setattr(
        session_module, "ctypes", SimpleNamespace(CDLL=lambda _: library, c_int=ctypes.c_int, byref=ctypes.byref)
    )
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    session_module._preload_cuda.cache_clear()
    yield numbers
    session_module._preload_cuda.cache_clear()


@pytest.fixture
def cuda(driver, monkeypatch):
    """ONNX Runtime's CUDA, simulated on the CPU. `fails` says at which step, `error` how; `options` is what it was given."""
    real = onnxruntime.InferenceSession
    stand_in = SimpleNamespace(fails="", error=RuntimeError(CUDNN_MISSING), options=None, painted=[])

    class Session(real):
        def _create_inference_session(self, providers, *more):
            self.on_cuda = isinstance(providers[0], tuple)
            if self.on_cuda:
                stand_in.options = providers[0][1]
                if stand_in.fails == "opening":
                    raise stand_in.error
            super()._create_inference_session(["CPUExecutionProvider"], *more)

        def get_providers(self):
            loaded = self.on_cuda and stand_in.fails != "loading"
            return [*(["CUDAExecutionProvider"] if loaded else []), "CPUExecutionProvider"]

        def run(self, outputs, inputs, *more):
            if self.on_cuda:
                stand_in.painted.append(next(iter(inputs.values())).shape)
                if stand_in.fails == "painting":
                    raise stand_in.error
            return super().run(outputs, inputs, *more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return stand_in


def test_a_cuda_session_is_tried_out_when_it_is_opened(style_file, cuda):
    session = StyleSession(style_file)
    assert (session.device, session.where, session.cuda_trouble) == ("cuda", "a GPU (CUDA)", "")
    assert cuda.painted == [(1, 3, 32, 32)]
    assert StyleSession(find_style("great_wave/realtime.frame")).device == "cuda"
    assert cuda.painted[1:] == [(1, 32, 32, 3)]


def test_cuda_does_not_search_for_convolutions_at_every_new_size(style_file, cuda):
    StyleSession(style_file)
    assert cuda.options == {"cudnn_conv_algo_search": "HEURISTIC"}


@pytest.mark.parametrize("fails", ["opening", "painting", "loading"])
def test_if_cuda_fails_auto_paints_on_the_cpu_and_keeps_the_reason(style_file, landscape, cuda, monkeypatch, capfd, fails):
    cuda.fails = fails
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13: no such file\nPlease ...")
    )
    session = StyleSession(style_file)
    reason = {"loading": "Failed to load libcublasLt.so.13: no such file"}.get(
        fails, "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED"
    )
    assert session.device == "cpu"
    assert session.cuda_trouble == f"{reason} (CUDA's libraries: pip install -e '.[gpu]')"
    assert session.where == f"the CPU, as CUDA does not work: {session.cuda_trouble}"
    assert session.stylize(landscape).shape == landscape.shape
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("fails", ["opening", "painting"])
def test_if_cuda_fails_asking_for_it_gives_the_reason_in_one_line(style_file, cuda, capfd, fails):
    cuda.fails = fails
    with pytest.raises(StyleError) as caught:
        StyleSession(style_file, "cuda")
    assert str(caught.value) == (
        "CUDA was asked for and does not work here: CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED "
        "(CUDA's libraries: pip install -e '.[gpu]')"
    )
    assert capfd.readouterr().out == ""


def test_a_provider_that_silently_fails_to_load_is_named(style_file, cuda):
    cuda.fails = "loading"
    with pytest.raises(StyleError, match="does not work here: ONNX Runtime cannot load its CUDA provider"):
        StyleSession(style_file, "cuda")


def test_cuda_libraries_are_loaded_only_once_even_if_that_fails(style_file, cuda, monkeypatch):
    loads = []

    def preload():
        loads.append(1)
        raise RuntimeError("no such folder")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    assert [StyleSession(style_file).device for _ in range(2)] == ["cuda", "cuda"]
    assert loads == [1]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (CUDNN_MISSING, "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED"),
        ("bfc_arena.cc:376 Failed to allocate memory for 123\nmore", "bfc_arena.cc:376 Failed to allocate memory for 123"),
        ("", "RuntimeError"),
    ],
)
def test_a_picture_that_fails_on_cuda_gives_cudas_reason(style_file, cuda, message, reason):
    session = StyleSession(style_file)
    cuda.fails, cuda.error = "painting", RuntimeError(message)
    with pytest.raises(StyleError) as caught:
        session.stylize(np.zeros((48, 64, 3), np.uint8))
    assert str(caught.value) == f"painting 64x48 px on CUDA failed: {reason}; try --max-side 2000 or --device cpu"


def test_a_driver_that_is_too_old_for_cuda_13_is_named_and_not_used(style_file, driver):
    driver.version = 12080
    wanted = "the NVIDIA driver is for CUDA 12.8, and CUDA 13.0 is wanted; install driver 580 or newer"
    assert probe_cuda() == (1, wanted)
    assert StyleSession(style_file).cuda_trouble == wanted
    with pytest.raises(StyleError, match=wanted):
        StyleSession(style_file, "cuda")


@pytest.mark.parametrize(("init", "gpus"), [(100, 1), (0, 0)])
def test_a_driver_without_a_gpu_matters_only_if_cuda_is_asked_for(style_file, driver, init, gpus):
    driver.init, driver.gpus = init, gpus
    session = StyleSession(style_file)
    assert (session.device, session.where, session.cuda_trouble) == ("cpu", "the CPU", "")
    with pytest.raises(StyleError, match=rf"the NVIDIA driver has no GPU to offer \(error {init}\)"):
        StyleSession(style_file, "cuda")


def test_an_onnxruntime_without_cuda_is_named(style_file, driver, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert StyleSession(style_file).where == "the CPU"
    with pytest.raises(StyleError, match="this onnxruntime is built without CUDA; pip install onnxruntime-gpu"):
        StyleSession(style_file, "cuda")


def test_doctor_says_why_a_gpu_cannot_paint(driver, cuda):
    assert doctor.cuda_provider() == ("CUDA", True, "1 GPU(s), works")
    cuda.fails = "painting"
    name, well, text = doctor.cuda_provider()
    assert (name, well) == ("CUDA", False)
    assert text.startswith("1 GPU(s), but CUDA was asked for and does not work here: CUDNN failure 1001")
    driver.version = 12080
    assert doctor.cuda_provider()[2].startswith("the NVIDIA driver is for CUDA 12.8")


def test_stylize_prints_only_results_to_standard_output_when_cuda_fails(run, style_file, photo, cuda, monkeypatch):
    cuda.fails = "opening"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13"))
    code, out, err = run("stylize", photo, "--style", style_file, "-o", photo.with_name("painted.png"))
    assert (code, out) == (0, f"{photo.with_name('painted.png')}\n")
    assert "on the CPU, as CUDA does not work: CUDNN failure 1001" in err


def test_an_image_too_large_for_memory_is_refused_with_the_size_that_fits(style_file, monkeypatch):
    def black(height, width):
        return np.zeros((1, 3, height, width), np.float32)

    session = StyleSession(style_file)
    session.stylize_image(black(40, 40))
    monkeypatch.setattr(session_module, "free_bytes", lambda: 135 * 100 * 100)
    session.stylize_image(black(100, 100))  # counting what the previous one allocated
    session = StyleSession(style_file)
    with pytest.raises(StyleError, match=r"painting 400x100 px needs about .* GB are free; --max-side 189 would fit"):
        session.stylize_image(black(100, 400))
    session.stylize_image(black(47, 189))


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:0", None])
def test_an_unknown_device_is_named(device):
    with pytest.raises(StyleError, match=r"there is no device .*; one of auto, cpu, cuda, coreml, directml is wanted"):
        StyleSession(find_style("the_scream"), device)


class Elsewhere:
    """ONNX Runtime's session on another provider, as far as it is needed here."""

    fails = ""
    falls_back = False

    def __init__(self, data, options, providers, enable_fallback):
        assert enable_fallback == 0
        if self.fails == "opening":
            raise RuntimeError("no such device\nmore of that")
        self.providers = providers

    def get_providers(self):
        return ["CPUExecutionProvider"] if self.falls_back else [self.providers[0][0], "CPUExecutionProvider"]

    def run(self, wanted, given, options=None):
        if self.fails == "painting":
            raise RuntimeError("an operator it does not know")
        return [np.zeros_like(next(iter(given.values())))]


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(Elsewhere, "fails", "")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Elsewhere)
    names = ["CoreMLExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    return monkeypatch


@pytest.mark.parametrize(("device", "name"), [("coreml", "CoreML"), ("directml", "DirectML")])
def test_another_provider_is_used_if_asked_for_or_says_why_not(elsewhere, device, name):
    session = StyleSession(find_style("the_scream"), device)
    assert (session.device, session.where) == (device, name)
    assert session.stylize(np.zeros((32, 40, 3), np.uint8)).shape == (32, 40, 3)
    for fails, reason in {"opening": "no such device", "painting": "an operator it does not know"}.items():
        elsewhere.setattr(Elsewhere, "fails", fails)
        with pytest.raises(StyleError, match=f"{name} was asked for and does not work here: {reason}$"):
            StyleSession(find_style("the_scream"), device)
    elsewhere.setattr(Elsewhere, "fails", "")
    elsewhere.setattr(Elsewhere, "falls_back", True)
    with pytest.raises(StyleError, match=f"{name} was asked for and does not work here: ONNX Runtime cannot load it"):
        StyleSession(find_style("the_scream"), device)


@pytest.mark.parametrize(("device", "words"), [("coreml", "a Mac's"), ("directml", "pip install onnxruntime-directml")])
def test_a_missing_provider_is_named_with_how_to_get_it(device, words):
    with pytest.raises(StyleError, match=f"was asked for, and this onnxruntime is built without it; .*{words}"):
        StyleSession(find_style("the_scream"), device)
