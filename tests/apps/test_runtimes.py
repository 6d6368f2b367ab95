"""Other runtimes, installed in folders of their own, paint with README's lines what our own session paints."""

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from test_apps import FRAME_FILE, HERE, IMAGE_FILE, assert_close, call, installed, read

from inference.landscape import paint_landscape
from inference.style.session import StyleSession
from models.targets import TARGETS
from training.export.forms import in_form_for

pytestmark = pytest.mark.thorough  # each takes a download
SIZES = [(152, 200), (150, 199)]  # as the files for one size, and what is padded to it
SIZE = (200, 152)  # width, height


@pytest.fixture(scope="module", params=SIZES, ids=str)
def photo(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(paint_landscape(*request.param)).save(path)
    return path


@pytest.fixture(scope="module")
def wanted(photo):
    return StyleSession(IMAGE_FILE, "cpu").stylize(read(photo))


def write_form(target: str, path: Path) -> Path:
    wants = TARGETS[target]
    onnx.save(in_form_for(onnx.load(IMAGE_FILE), wants, SIZE if wants.fixed_size else None, None), path)
    return path


@pytest.fixture(scope="module")
def openvino(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("openvino"), "openvino")


def test_openvino_paints_the_same(openvino, photo, wanted, tmp_path):
    call(sys.executable, HERE / "use_openvino.py", FRAME_FILE, photo, tmp_path / "painting.png", packages=openvino)
    assert_close(read(tmp_path / "painting.png"), wanted)


@pytest.fixture(scope="module")
def mnn(tmp_path_factory):
    folder = installed(tmp_path_factory.mktemp("mnn"), "MNN")
    # The command mnnconvert does the same, then has pip install a package that reports it to its makers.
    names = ["-f", "ONNX", "--modelFile", str(IMAGE_FILE), "--MNNModel", str(folder / "style.mnn"), "--bizCode", "style"]
    call(sys.executable, "-c", f"import _tools; _tools.mnnconvert({['mnnconvert', *names]})", packages=folder)
    return folder


def test_mnn_paints_the_same(mnn, photo, wanted, tmp_path):
    call(sys.executable, HERE / "use_mnn.py", mnn / "style.mnn", photo, tmp_path / "painting.png", packages=mnn)
    assert_close(read(tmp_path / "painting.png"), wanted)


@pytest.fixture(scope="module")
def ncnn(tmp_path_factory):
    folder = installed(tmp_path_factory.mktemp("ncnn"), "ncnn", "pnnx")
    onnx.save(onnx.load(IMAGE_FILE), folder / "style.onnx")
    call(folder / "bin" / "pnnx", "style.onnx", "inputshape=[1,3,480,640]", folder=folder, packages=folder)
    return folder


def test_ncnn_paints_the_same(ncnn, photo, wanted, tmp_path):
    call(sys.executable, HERE / "use_ncnn.py", ncnn / "style.ncnn", photo, tmp_path / "painting.png", packages=ncnn)
    assert_close(read(tmp_path / "painting.png"), wanted)


@pytest.fixture(scope="module")
def opencv_of_2021(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("opencv"), "opencv-python-headless==4.5.5.64", "numpy<2", "pillow")


def test_an_opencv_of_2021_paints_the_same_from_a_file_for_it(opencv_of_2021, photo, wanted, tmp_path):
    style = write_form("opencv", tmp_path / "style.onnx")
    call(sys.executable, HERE / "use_opencv.py", style, photo, tmp_path / "painting.png", packages=opencv_of_2021)
    assert_close(read(tmp_path / "painting.png"), wanted)


def test_coremltools_convert_a_network(tmp_path):
    """Its operators and ends; to run it takes a Mac."""
    names = ("coremltools", "attrs", "cattrs", "pyaml", "sympy", "mpmath", "tqdm", "packaging")
    packages = installed(tmp_path / "packages", *names)
    program, weights = tmp_path / "style.mlpackage", IMAGE_FILE.with_suffix(".safetensors")
    call(sys.executable, HERE / "use_coreml.py", weights, program, 640, 480, packages=packages)
    look = f"""
import collections, coremltools
spec = coremltools.utils.load_spec({str(program)!r})
(block,) = spec.mlProgram.functions["main"].block_specializations.values()
image = spec.description.input[0].type.imageType
print(image.width, image.height, list(spec.description.output[0].type.multiArrayType.shape))
print(sorted({{operation.type for operation in block.operations}} - {{"const", "cast", "mul", "avg_pool"}}))
"""
    ends, operators = call(sys.executable, "-c", look, packages=packages).splitlines()[-2:]
    assert ends == "640 480 [1, 3, 480, 640]"
    assert operators == str(sorted(["add", "conv", "instance_norm", "pad", "pixel_shuffle", "relu", "sigmoid"]))


@pytest.mark.slow  # TensorFlow, 2.6 GB
def test_litert_paints_the_same_from_a_file_for_it(photo, wanted, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ("ai-edge-litert", "onnx2tf", "onnx", "onnxruntime", "pillow")
    if subprocess.run([python, "-m", "pip", "install", "-q", *packages], capture_output=True).returncode:
        pytest.skip("onnx2tf cannot be installed here")
    write_form("litert", tmp_path / "style.onnx")
    # A picture that it compares both ends on, or else would download.
    np.save(tmp_path / "calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
    command = [python.with_name("onnx2tf"), "-i", "style.onnx", "-o", "made", "-n"]
    path = {"PATH": f"{python.parent}:/usr/bin:/bin"}
    assert subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, timeout=600).returncode == 0
    style = tmp_path / "made" / "style_float32.tflite"
    command = [python, HERE / "use_litert.py", style, photo, tmp_path / "painting.png"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    content = np.asarray(Image.open(photo).convert("RGB").resize(SIZE))
    assert_close(read(tmp_path / "painting.png"), StyleSession(IMAGE_FILE, "cpu").stylize(content))
