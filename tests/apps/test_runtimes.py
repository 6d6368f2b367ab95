"""With the README's code, other runtimes, each installed in a separate folder, paint what our own session paints."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from painted import FRAME_FILE, HERE, IMAGE_FILE, assert_close, call, installed, read
from PIL import Image

from allaprima.inference.style.session import StyleSession

pytestmark = pytest.mark.thorough  # each needs a download


def openvino(packages: Path) -> Path:
    installed(packages, "openvino")
    return FRAME_FILE


def mnn(packages: Path) -> Path:
    installed(packages, "MNN")
    # The command mnnconvert does the same, but then has pip install a package that reports its use.
    names = ["-f", "ONNX", "--modelFile", str(IMAGE_FILE), "--MNNModel", str(packages / "style.mnn"), "--bizCode", "style"]
    call(sys.executable, "-c", f"import _tools; _tools.mnnconvert({['mnnconvert', *names]})", packages=packages)
    return packages / "style.mnn"


def ncnn(packages: Path) -> Path:
    installed(packages, "ncnn", "pnnx")
    shutil.copy(IMAGE_FILE, packages / "style.onnx")
    call(packages / "bin" / "pnnx", "style.onnx", "inputshape=[1,3,480,640]", folder=packages, packages=packages)
    return packages / "style.ncnn"


@pytest.fixture(scope="module", params=[openvino, mnn, ncnn], ids=lambda prepare: prepare.__name__)
def runtime(request, tmp_path_factory):
    """The README's program for a runtime, a style in its format, and the folder of its packages."""
    name = request.param.__name__
    packages = tmp_path_factory.mktemp(name)
    return HERE / f"use_{name}.py", request.param(packages), packages


def test_a_runtime_for_any_size_paints_the_same(runtime, photo, wanted, tmp_path):
    program, style, packages = runtime
    call(sys.executable, program, style, photo, tmp_path / "painting.png", packages=packages)
    assert_close(read(tmp_path / "painting.png"), wanted)


@pytest.fixture(scope="module")
def opencv_of_2021(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("opencv"), "opencv-python-headless==4.5.5.64", "numpy<2")


def test_an_opencv_from_2021_paints_the_same_from_a_file_made_for_it(opencv_of_2021, form_for, photo, wanted, tmp_path):
    arguments = (form_for("opencv"), photo, tmp_path / "painting.png")
    call(sys.executable, HERE / "use_opencv.py", *arguments, packages=opencv_of_2021)
    assert_close(read(tmp_path / "painting.png"), wanted)


def test_coremltools_converts_a_network(tmp_path):
    """Only its operators, inputs and outputs are checked: running it needs a Mac."""
    names = ("coremltools", "attrs", "cattrs", "pyaml", "sympy", "mpmath", "tqdm", "packaging")
    packages = installed(tmp_path / "packages", *names)
    program, weights = tmp_path / "style.mlpackage", IMAGE_FILE.with_suffix(".safetensors")
    call(sys.executable, HERE / "use_coreml.py", weights, program, 640, 480, packages=packages)
    look = f"""
import coremltools
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
def test_litert_paints_the_same_from_a_file_made_for_it(form_for, photo, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ("ai-edge-litert", "onnx2tf", "onnx", "onnxruntime", "pillow")
    if subprocess.run([python, "-m", "pip", "install", "-q", *packages], capture_output=True).returncode:
        pytest.skip("onnx2tf cannot be installed here")
    # onnx2tf compares its input and output on this picture, which it would otherwise download.
    np.save(tmp_path / "calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
    command = [python.with_name("onnx2tf"), "-i", form_for("litert"), "-o", "made", "-n"]
    path = {"PATH": f"{python.parent}:/usr/bin:/bin"}
    assert subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, timeout=600).returncode == 0
    style = tmp_path / "made" / "style_float32.tflite"
    command = [python, HERE / "use_litert.py", style, photo, tmp_path / "painting.png"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    painting = read(tmp_path / "painting.png")
    assert painting.shape[:2] == tuple(side + -side % 4 for side in read(photo).shape[:2])
    content = np.asarray(Image.open(photo).convert("RGB").resize(painting.shape[1::-1]))
    assert_close(painting, StyleSession(IMAGE_FILE, "cpu").stylize(content))
