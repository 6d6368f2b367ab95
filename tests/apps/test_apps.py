"""The README's snippets for other apps run as printed, and paint what our own session paints."""

import base64
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from painted import DEADLINE_S, FRAME_FILE, HERE, IMAGE_FILE, LEVELS, ROOT, STYLE, assert_close, call, installed, read
from PIL import Image
from toolbox import NPM, find_chromium, find_node_modules, node_folder, why_no_node

from allaprima.inference.color import keep_color
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.levels import paint_levels
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style

SNIPPETS = {
    "use_onnxruntime.py": "python",
    "use_opencv.py": "python",
    "pipe.py": "python",
    "use_coreml.py": "python",
    "use_openvino.py": "python",
    "use_mnn.py": "python",
    "use_ncnn.py": "python",
    "use_litert.py": "python",
    "browser.mjs": "js",
    "node.mjs": "js",
    "opencv.cpp": "cpp",
    "onnxruntime.cpp": "cpp",
    "csharp.cs": "csharp",
}


def printed(name: str) -> str:
    """The part of a file that the README shows."""
    lines = (HERE / name).read_text().splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if f"README {mark}" in line) for mark in ("begins", "ends"))
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    return "\n".join(line[indent:] for line in lines[begin + 1 : end])


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_readme_shows_exactly_what_is_tested_here(name):
    readme = (ROOT / "inference" / "style" / "README.md").read_text()
    assert f"```{SNIPPETS[name]}\n{printed(name)}\n```" in readme


def test_onnxruntime_in_python_paints_in_the_photos_colors(photo, wanted, tmp_path):
    call(sys.executable, HERE / "use_onnxruntime.py", FRAME_FILE, photo, tmp_path / "painting.png")
    # There are two more roundings than inside the file: the painting's and the luminance's.
    assert_close(read(tmp_path / "painting.png"), keep_color(read(photo), wanted, "luminance"), levels=2)


def test_onnxruntime_in_python_without_the_option_paints_in_the_paintings_colors(photo, wanted, tmp_path):
    lines = (HERE / "use_onnxruntime.py").read_text().splitlines()
    plain = [line for line in lines if '"keep_color"' not in line]
    assert len(plain) == len(lines) - 1
    (tmp_path / "plain.py").write_text("\n".join(plain))
    call(sys.executable, tmp_path / "plain.py", FRAME_FILE, photo, tmp_path / "painting.png")
    assert_close(read(tmp_path / "painting.png"), wanted)


def test_raw_frames_go_through_a_pipe(wanted, photo):
    frames = read(photo), read(photo)[::-1]
    raw = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
    height, width, _ = frames[0].shape
    command = [sys.executable, str(HERE / "pipe.py"), str(FRAME_FILE), str(width), str(height)]
    result = subprocess.run(command, input=raw + b"half a frame", capture_output=True, timeout=DEADLINE_S)
    assert result.returncode == 0, result.stderr[-2000:]
    painted = np.frombuffer(result.stdout, np.uint8).reshape(2, height, width, 3)
    assert_close(painted[0], wanted)
    assert_close(painted[1], StyleSession(IMAGE_FILE, "cpu").stylize(frames[1]))


@pytest.fixture(scope="module")
def runtime_of_2024(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last ONNX Runtime that refuses files newer than IR 9, in a folder to put on PYTHONPATH."""
    return installed(tmp_path_factory.mktemp("onnxruntime"), "onnxruntime==1.17.1", "numpy<2")


PAINT = """
import sys
import numpy, onnxruntime
assert onnxruntime.__version__ == "1.17.1"
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
content = numpy.load(sys.argv[1])
for style, painting in zip(sys.argv[2::2], sys.argv[3::2]):
    session = onnxruntime.InferenceSession(style, options, providers=["CPUExecutionProvider"])
    tensor = content if session.get_inputs()[0].type == "tensor(uint8)" else content.transpose(0, 3, 1, 2) / numpy.float32(255)
    numpy.save(painting, session.run(None, {session.get_inputs()[0].name: tensor})[0])
"""


@pytest.mark.thorough
def test_a_runtime_from_2024_opens_every_flavor_and_paints_the_same(runtime_of_2024, levels_file, tmp_path):
    content = paint_landscape(152, 200)[None]
    np.save(tmp_path / "content.npy", content)
    styles = [*STYLE.glob("*.onnx"), levels_file]
    paintings = [tmp_path / f"{i}.npy" for i in range(len(styles))]
    environment = {**os.environ, "PYTHONPATH": str(runtime_of_2024)}
    arguments = [str(path) for pair in zip(styles, paintings, strict=True) for path in pair]
    command = [sys.executable, "-c", PAINT, str(tmp_path / "content.npy"), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for style, painting in zip(styles, paintings, strict=True):
        session = onnxruntime.InferenceSession(style, options, providers=["CPUExecutionProvider"])
        levels = session.get_inputs()[0].type == "tensor(uint8)"
        tensor = content if levels else content.transpose(0, 3, 1, 2) / np.float32(255)
        wanted = session.run(None, {session.get_inputs()[0].name: tensor})[0].astype(float)
        difference = np.abs(np.load(painting) - wanted) * (1.0 if levels else 255.0)
        assert difference.mean() < (2.0 if "int8" in style.name else 0.05), style.name


OPENCV = tuple(map(int, cv2.__version__.split(".")[:2]))


@pytest.mark.skipif(OPENCV < (4, 12), reason="older OpenCVs read files of one size only; pip install 'opencv-python>=4.12'")
def test_opencv_in_python_paints_the_same(photo, wanted, tmp_path):
    call(sys.executable, HERE / "use_opencv.py", IMAGE_FILE, photo, tmp_path / "painting.png")
    # OpenCV also sums in another order, so it may differ by one level, like ONNX Runtime.
    assert_close(read(tmp_path / "painting.png"), wanted)


def compiled(source: Path, program: Path, *options: str) -> Path:
    call("g++", "-std=c++17", "-O1", source, "-o", program, *options)
    return program


@pytest.fixture(scope="module")
def opencv_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not all(map(shutil.which, ("g++", "pkg-config"))):
        pytest.skip("no C++ compiler: apt-get install g++ pkg-config libopencv-dev")
    names = ("opencv5", "opencv4")
    found = [name for name in names if subprocess.run(["pkg-config", "--exists", name], timeout=DEADLINE_S).returncode == 0]
    if not found:
        pytest.skip("no OpenCV for C++: apt-get install libopencv-dev")
    options = call("pkg-config", "--cflags", "--libs", found[0]).split()
    return compiled(HERE / "opencv.cpp", tmp_path_factory.mktemp("opencv") / "paint", *options)


def test_opencv_in_cpp_paints_the_same_from_a_file_of_one_size(opencv_program, form_for, photo, wanted, tmp_path):
    call(opencv_program, form_for("opencv"), photo, tmp_path / "painting.png")
    assert_close(read(tmp_path / "painting.png"), wanted)


def library_options(headers: Path, libraries: Path) -> list[str]:
    return [f"-I{headers}", f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lonnxruntime"]


def on_linux_x64() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.fixture(scope="module")
def onnxruntime_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler: apt-get install g++")
    program = tmp_path_factory.mktemp("onnxruntime") / "paint"
    if named := os.environ.get("ALLAPRIMA_ONNXRUNTIME"):
        folder = Path(named).resolve()
        return compiled(HERE / "onnxruntime.cpp", program, *library_options(folder / "include", folder / "lib"))
    if (modules := find_node_modules()) and (package := modules / "com.github.asus4.onnxruntime").is_dir() and on_linux_x64():
        library = program.parent / "libonnxruntime.so.1"  # in the package, its name lacks the .1 that programs link to
        library.symlink_to((package / "Plugins/Linux/x64/libonnxruntime.so").resolve())
        (program.parent / "libonnxruntime.so").symlink_to(library)
        headers = next(package.glob("Plugins/iOS~/**/onnxruntime_cxx_api.h")).parent
        return compiled(HERE / "onnxruntime.cpp", program, *library_options(headers, program.parent))
    if (
        shutil.which("pkg-config") is None
        or subprocess.run(["pkg-config", "--exists", "libonnxruntime"], timeout=DEADLINE_S).returncode
    ):
        pytest.skip(f"no ONNX Runtime for C++: {NPM}, or ALLAPRIMA_ONNXRUNTIME=FOLDER with include and lib")
    options = call("pkg-config", "--cflags", "--libs", "libonnxruntime").split()
    return compiled(HERE / "onnxruntime.cpp", program, *options)


def write_ppm(photo: Path, folder: Path) -> Path:
    Image.open(photo).save(folder / "photo.ppm")
    return folder / "photo.ppm"


def test_onnxruntime_in_cpp_paints_in_the_photos_colors(onnxruntime_program, photo, wanted, tmp_path):
    call(onnxruntime_program, FRAME_FILE, write_ppm(photo, tmp_path), tmp_path / "painting.ppm")
    assert_close(read(tmp_path / "painting.ppm"), keep_color(read(photo), wanted, "luminance"), levels=2)


def need_node(*packages: str) -> None:
    if missing := why_no_node(*packages):
        pytest.skip(missing)


def need_chromium() -> None:
    need_node("onnxruntime-web", "playwright-core")
    if find_chromium() is None:
        pytest.skip("no browser: apt-get install chromium, or CHROMIUM=FILE")


def test_node_paints_the_same(photo, wanted, tmp_path):
    need_node("onnxruntime-node", "sharp")
    call("node", "node.mjs", FRAME_FILE, photo, tmp_path / "painting.png", folder=node_folder(tmp_path))
    assert_close(read(tmp_path / "painting.png"), wanted)


@pytest.mark.thorough
def test_the_browser_paints_the_same(photo, wanted, tmp_path):
    need_chromium()
    call("node", "chromium.mjs", "paint", FRAME_FILE, photo, tmp_path / "painting.png", folder=node_folder(tmp_path))
    assert_close(read(tmp_path / "painting.png"), wanted)


JAVASCRIPT = {
    "node": ("onnxruntime-node", ["node", "measure.mjs"]),
    "browser": ("onnxruntime-web", ["node", "chromium.mjs", "measure", "2"]),
}


def ask(runtime: str, folder: Path, style: Path = STYLE, **request: object) -> str:
    """The answer of measure.mjs or measure.html."""
    package, command = JAVASCRIPT[runtime]
    need_node(package)
    if runtime == "browser":
        need_chromium()
    return json.loads(call(*command, folder=node_folder(folder), stdin=json.dumps({"folder": str(style), **request}) + "\n"))


@pytest.mark.thorough
@pytest.mark.parametrize("flavor", ["realtime", "realtime.int8", "realtime.fp16", "realtime.frame"])
@pytest.mark.parametrize("runtime", JAVASCRIPT)
def test_every_flavor_paints_the_same_in_javascript(runtime, flavor, tmp_path):
    frame = paint_landscape(152, 200)
    (tmp_path / "photo.rgb").write_bytes(frame.tobytes())
    answer = ask(runtime, tmp_path, flavor=flavor, height=152, width=200, rgb=str(tmp_path / "photo.rgb"))
    painting = np.frombuffer(base64.b64decode(answer), np.uint8).reshape(frame.shape)
    wanted = StyleSession(STYLE / f"{flavor}.onnx", "cpu").stylize(frame)
    difference = np.abs(painting.astype(int) - wanted)
    if flavor == "realtime.int8":  # like OpenCV, which differed by up to 13, 0.94 on average
        assert difference.mean() < 1.5
        assert difference.max() <= 16
    else:
        assert difference.max() <= (2 if flavor == "realtime.fp16" else LEVELS)


@pytest.mark.parametrize("flavor", ["mix", "mix.frame"])
@pytest.mark.parametrize("runtime", JAVASCRIPT)
def test_a_file_of_several_styles_paints_a_mix_in_javascript(runtime, flavor, tmp_path):
    from allaprima.training.conditional_instance_norm import save_mix
    from allaprima.training.config import Flavor
    from allaprima.training.export.export import export

    save_mix(tmp_path / "mix.safetensors", {"great_wave": 1.0})
    how = Flavor(io="frame" if flavor.endswith("frame") else "image", mix=True)
    export(tmp_path / "mix.safetensors", tmp_path / f"{flavor}.onnx", how, weights={"great_wave": 1.0})
    frame = paint_landscape(152, 200)
    (tmp_path / "photo.rgb").write_bytes(frame.tobytes())
    names = list(StyleSession(tmp_path / f"{flavor}.onnx", "cpu").contract.mix)
    weights = [{"the_scream": 1.0, "sunflowers": 3.0}.get(name, 0.0) for name in names]
    answer = ask(
        *(runtime, tmp_path, tmp_path), flavor=flavor, height=152, width=200, rgb=str(tmp_path / "photo.rgb"), weights=weights
    )
    painting = np.frombuffer(base64.b64decode(answer), np.uint8).reshape(frame.shape)
    assert_close(painting, StyleSession(find_style("the_scream:0.25,sunflowers:0.75"), "cpu").stylize(frame))


@pytest.fixture(scope="module")
def levels_file(tmp_path_factory):
    """A style file that itself paints coarse to fine, at any size."""
    from allaprima.training.config import Flavor
    from allaprima.training.export.export import export

    path = tmp_path_factory.mktemp("levels") / "levels.frame.onnx"
    export(STYLE / "realtime.safetensors", path, Flavor("frame", strokes=10.0))
    return path


@pytest.mark.thorough
@pytest.mark.parametrize("runtime", JAVASCRIPT)
def test_a_file_with_levels_inside_paints_the_same_in_javascript(runtime, levels_file, tmp_path):
    frame = paint_landscape(152, 200)
    (tmp_path / "photo.rgb").write_bytes(frame.tobytes())
    rgb = str(tmp_path / "photo.rgb")
    answer = ask(runtime, tmp_path, levels_file.parent, flavor="levels.frame", height=152, width=200, rgb=rgb)
    painting = np.frombuffer(base64.b64decode(answer), np.uint8).reshape(frame.shape).astype(int)
    fine = StyleSession(STYLE / "realtime.onnx", "cpu")
    assert np.abs(painting - paint_levels(fine, frame, strokes=10.0, detail=1.0)).mean() < 3
    assert np.abs(painting - fine.stylize(frame)).mean() > 6


def test_node_silently_ignores_the_optional_inputs(tmp_path):
    assert ask("node", tmp_path, flavor="realtime.frame", height=64, width=64, optional=True) == "ignored"


@pytest.mark.thorough
def test_the_browser_refuses_the_optional_inputs(tmp_path):
    answer = ask("browser", tmp_path, flavor="realtime.frame", height=64, width=64, optional=True)
    assert answer == "invalid input 'strength'"


def test_the_csharp_snippet_is_valid_csharp(tmp_path):
    """It is only parsed: the library is available only from NuGet."""
    if shutil.which("mcs") is None:
        pytest.skip("no C# compiler: apt-get install mono-mcs")
    call("mcs", "--parse", HERE / "csharp.cs", folder=tmp_path)
