"""Times one style in every installed runtime, side by side: python tests/apps/measure.py [--rounds 15].

In every round, each runtime in turn does one run that does not count and two that do; the medians are printed. Only the
network's run is timed, without decoding or scaling unless these are inside the file (frame). Runtimes get their default
options, except that the browser is given the number of threads, because its default is half of the cores.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles

import cv2
import numpy as np
import onnxruntime
from toolbox import find_chromium, node_folder, why_no_node

FLAVORS = {
    "realtime": "fp32 image",
    "realtime.frame": "fp32 frame",
    "realtime.int8": "int8 image",
    "realtime.fp16": "fp16 image",
}
WARM, TIMES = 1, 2
Runs = Callable[[], list[float]]


def timed(run: Callable[[], object]) -> Runs:
    def runs() -> list[float]:
        times = []
        for _ in range(WARM + TIMES):
            began = time.perf_counter()
            run()
            times.append(1000.0 * (time.perf_counter() - began))
        return times[WARM:]

    return runs


def onnxruntime_runs(path: Path, frame: np.ndarray, image: np.ndarray) -> Runs:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    content = frame if name == "content_frame" else image
    return timed(lambda: session.run(None, {name: content}))


def opencv_runs(path: Path, frame: np.ndarray, image: np.ndarray) -> Runs:
    net = cv2.dnn.readNetFromONNX(str(path))
    content = frame if path.stem.endswith("frame") else image

    def run() -> None:
        net.setInput(content)
        net.forward()

    return timed(run)


def openvino_runs(path: Path, frame: np.ndarray, image: np.ndarray) -> Runs:
    import openvino

    net = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    content = frame if path.stem.endswith("frame") else image
    return timed(lambda: net(content))


def mnn_runs(path: Path, image: np.ndarray) -> Runs:
    from MNN import expr, nn

    net = nn.load_module_from_file(str(path), ["content_image"], ["stylized_image"])
    content = expr.convert(expr.const(image, image.shape, expr.NCHW), expr.NC4HW4)
    return timed(lambda: expr.convert(net.forward(content), expr.NCHW).read())


def ncnn_runs(path: Path, image: np.ndarray) -> Runs:
    import ncnn

    net = ncnn.Net()
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    content = ncnn.Mat(image[0])

    def run() -> None:
        extractor = net.create_extractor()
        extractor.input("in0", content)
        extractor.extract("out0")

    return timed(run)


def litert_runs(path: Path, image: np.ndarray) -> Runs:
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(path), num_threads=len(os.sched_getaffinity(0)))
    net.allocate_tensors()
    net.set_tensor(net.get_input_details()[0]["index"], np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
    return timed(net.invoke)


CONVERTED = {"realtime.mnn": mnn_runs, "realtime.ncnn.param": ncnn_runs, "realtime.tflite": litert_runs}


@contextmanager
def process_runs(command: list[str], folder: Path, height: int, width: int, where: Path) -> Iterator[Callable[[str], Runs]]:
    """A process that answers requests, one per line, with milliseconds."""
    environment = os.environ | {"CHROMIUM": find_chromium() or ""}
    process = subprocess.Popen(command, cwd=where, env=environment, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def runs_of(flavor: str) -> Runs:
        sizes = {"height": height, "width": width, "warm": WARM, "times": TIMES}
        request = json.dumps({"folder": str(folder), "flavor": flavor, **sizes})

        def runs() -> list[float]:
            print(request, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError(f"{' '.join(command)} ended over {flavor}")
            return json.loads(answer)

        return runs

    try:
        yield runs_of
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[2] / "checkpoints" / "great_wave")
    parser.add_argument("--rounds", type=int, default=15)
    what = f"what other runtimes' converters made of realtime.onnx: {', '.join(CONVERTED)}; those that are there"
    parser.add_argument("--converted", type=Path, default=Path(), metavar="FOLDER", help=what)
    parser.add_argument("--size", default="640x480", metavar="WIDTHxHEIGHT")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    image = np.ascontiguousarray(frame.transpose(0, 3, 1, 2) / np.float32(255))

    with ExitStack() as stack:
        where = node_folder(Path(stack.enter_context(tempfile.TemporaryDirectory()))) if not why_no_node() else Path()
        runs: dict[tuple[str, str], Runs] = {}
        for flavor, name in FLAVORS.items():
            path = options.folder / f"{flavor}.onnx"
            runs[f"ONNX Runtime {onnxruntime.__version__}, Python", name] = onnxruntime_runs(path, frame, image)
            runs[f"OpenCV {cv2.__version__}, DNN", name] = opencv_runs(path, frame, image)
            if find_spec("openvino"):
                runs["OpenVINO", name] = openvino_runs(path, frame, image)
        for converted, runs_of_it in CONVERTED.items():
            if (options.converted / converted).is_file():
                runs[converted, FLAVORS["realtime"]] = runs_of_it(options.converted / converted, image)
        processes = {"onnxruntime-node": (["node", "measure.mjs"], ("onnxruntime-node",))}
        for threads in (1, 2):
            command = ["node", "chromium.mjs", "measure", str(threads)]
            processes[f"onnxruntime-web, WASM, {threads} thread{'s'[: threads - 1]}"] = (
                command,
                ("onnxruntime-web", "playwright-core"),
            )
        for runtime, (command, packages) in processes.items():
            if missing := why_no_node(*packages) or ("" if "web" not in runtime or find_chromium() else "no chromium"):
                print(f"{runtime}: {missing}")
                continue
            runs_of = stack.enter_context(process_runs(command, options.folder, height, width, where))
            runs |= {(runtime, name): runs_of(flavor) for flavor, name in FLAVORS.items()}

        times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for index in range(-1, options.rounds):  # the first round sets up buffers and does not count
            for key in [*runs]:
                try:
                    milliseconds = runs[key]()
                except Exception as error:
                    print(f"{key}: {str(error).strip()[-300:]}")
                    del runs[key]
                    continue
                times[key] += milliseconds if index >= 0 else []

    print(f"{options.size}, {options.rounds} rounds; ms, median (middle half)")
    for (runtime, name), all_ms in sorted(times.items()):
        if all_ms:
            low, _, high = quantiles(all_ms, n=4)
            print(f"{runtime:32} {name:11} {median(all_ms):7.1f} ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
