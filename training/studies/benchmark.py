"""How fast the networks paint, compared with the classic optimization and with the network that similar projects use: Table
1 of Johnson et al. 2016 on this machine, all in one process.

    allaprima bench

Nothing is downloaded: the time does not depend on VGG-19's weights, so they are random. Johnson's network is the one of
pytorch/examples (1.68 M parameters, reflection padding, instance norm, nearest resize, clipped output), which
`training.export.import_torch` also imports. The networks' runs in ONNX Runtime alternate, so that a busy machine slows all
of them alike; the optimization and torch are each timed in one go.
"""

import copy
import datetime
import functools
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style import engines
from allaprima.inference.style.session import probe_cuda
from allaprima.models.contract import IMAGE, OPSET
from allaprima.models.image_transform_net import TIERS, JohnsonNet
from allaprima.models.vgg import VGG19Features, load_vgg19
from allaprima.training import losses
from allaprima.training.classic.descent import Objective, descend
from allaprima.training.config import CONTENT_LAYERS, STYLE_LAYERS, TrainConfig
from allaprima.training.device import device_name, in_precision, pick_device, pick_precision
from allaprima.training.export.graph import to_onnx
from allaprima.training.studies.benchmark_loop import Gate, our_loop, take_turn, wait_for
from allaprima.training.style_image import read_style_image

UNTIMED, TIMED = 3, 5  # runs of one network in a row
ITERATIONS = (100, 300, 500)  # of the optimization, as in the paper's table
TIMED_ITERATIONS = 3  # measured; the times of `ITERATIONS` are computed from these
# Johnson et al. 2016, Table 1, on a Titan X: seconds of 100, 300 and 500 iterations, and of the network.
PAPER = {256: (3.17, 9.52, 15.86, 0.015), 512: (10.97, 32.91, 54.85, 0.05), 1024: (42.89, 128.66, 214.44, 0.21)}


def measure(sizes: list[tuple[int, int]], rounds: int, device_wanted: str, precision_wanted: str) -> dict[str, Any]:
    """Measure everything.

    Args:
        sizes: height and width of each.
        rounds: turns of each network in ONNX Runtime.
        device_wanted, precision_wanted: of torch and of VGG-19, as in `TrainConfig`.
    Returns:
        "machine", "versions", "date", "peak_gflops" of a matrix product, "training_photos_per_s", and "sizes" -> "640x480"
        -> "iteration_s" of the optimization and "networks" -> name -> "gflop", "torch_ms", "onnx_ms" (median) and
        "onnx_fastest_ms"; "openvino_ms" of tiers and precisions, if OpenVINO is installed.
    """
    device = pick_device(device_wanted)
    vgg = load_vgg19("random", device=device)
    precision = pick_precision(precision_wanted, vgg, device)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": device_name(device),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
        "vgg19": precision,
        "provider": providers(device)[0],
        "peak_gflops": peak_gflops(device),
        "sizes": {},
    }
    looking_vgg = in_precision(vgg, precision)
    nets: dict[str, nn.Module] = {"johnson": JohnsonNet(), **{tier: net() for tier, net in TIERS.items()}}
    with tempfile.TemporaryDirectory() as folder:
        sessions: dict[str, engines.Session] = {}
        for name, net in nets.items():
            path = Path(folder, f"{name}.onnx")
            path.write_bytes(to_onnx(net).SerializeToString())
            sessions[name] = onnxruntime.InferenceSession(path, providers=providers(device))
            if name in TIERS and device.type == "cpu" and not engines.engine_trouble():
                sessions |= {
                    f"{name}, {precision}": engines.OpenVinoSession(path.read_bytes(), precision)
                    for precision in engines.precisions()
                }
        for height, width in sizes:
            onnx_ms = time_sessions(sessions, height, width, rounds)
            rows = {
                name: {
                    "gflop": count_gflop(net, height, width),
                    "torch_ms": time_net(net.to(device), height, width, device),
                    "onnx_ms": float(np.median(onnx_ms[name])),
                    "onnx_fastest_ms": min(onnx_ms[name]),
                }
                for name, net in nets.items()
            }
            iteration_s = time_iteration(looking_vgg, height, width)
            in_openvino = {name: float(np.median(onnx_ms[name])) for name in sessions if name not in nets}
            result["sizes"][f"{width}x{height}"] = {
                "iteration_s": iteration_s,
                "networks": rows,
                "openvino_ms": in_openvino,
            }
        result["training_photos_per_s"] = training_speed(Path(folder), device_wanted, precision)
    return result


def providers(device: torch.device) -> list[str]:
    cuda = device.type == "cuda" and not probe_cuda()[1]
    return [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]


def peak_gflops(device: torch.device) -> float:
    """The speed of large float32 matrix products here: the best of several and, on a CPU, of several libraries.

    On one machine torch reached 201, numpy 239, ONNX Runtime 445.
    """
    best_s: dict[int, float] = {}
    for n in (1024, 2048):
        a, b = torch.rand(n, n, device=device), torch.rand(n, n, device=device)
        products: list[Callable[[], object]] = [functools.partial(torch.matmul, a, b)]
        if device.type == "cpu":
            session = onnxruntime.InferenceSession(matmul_onnx(b.numpy()), providers=["CPUExecutionProvider"])
            products.append(functools.partial(np.matmul, a.numpy(), b.numpy()))
            products.append(functools.partial(session.run, None, {"a": a.numpy()}))
        times = []
        for product in products:
            for _ in range(8):
                wait_for(device)
                began = time.perf_counter()
                product()
                wait_for(device)
                times.append(time.perf_counter() - began)
        best_s[n] = min(times)
    return max(2e-9 * n**3 / seconds for n, seconds in best_s.items())


def matmul_onnx(b: np.ndarray) -> bytes:
    """A model that multiplies its input "a" by a square matrix."""
    a, c = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, b.shape) for name in ("a", "c"))
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([node], "matmul", [a], [c], [onnx.numpy_helper.from_array(b, "b")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    return model.SerializeToString()


def count_gflop(net: nn.Module, height: int, width: int) -> float:
    """GFLOP per picture; a multiplication and an addition count as two."""
    with torch.device("meta"):
        image = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(net).to("meta")(image)
    return counter.get_total_flops() / 1e9


def time_sessions(sessions: dict[str, engines.Session], height: int, width: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every timed run of each network in ONNX Runtime or OpenVINO, at batch 1."""
    image = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
    times_ms: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            # In use, one network runs frame after frame. A single realtime run right after another network's took 44 ms,
            # in a burst about 20 (the cause was not investigated), so each runs in bursts.
            for i in range(UNTIMED + TIMED):
                began = time.perf_counter()
                session.run([IMAGE.output], {IMAGE.input: image})
                if i >= UNTIMED:
                    times_ms[name].append(1000 * (time.perf_counter() - began))
    return times_ms


@torch.inference_mode()
def time_net(net: nn.Module, height: int, width: int, device: torch.device) -> float:
    """Milliseconds per picture in torch, the median of several."""
    net = net.to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    times_ms = []
    for _ in range(UNTIMED + TIMED):
        wait_for(device)
        began = time.perf_counter()
        net(image)
        wait_for(device)
        times_ms.append(1000 * (time.perf_counter() - began))
    return float(np.median(times_ms[UNTIMED:]))


def time_iteration(vgg: VGG19Features, height: int, width: int) -> float:
    """Seconds per iteration of the optimization, L-BFGS from noise, the mean of several after the first."""
    content_image, style_image, image = torch.rand(3, 1, 3, height, width, device=vgg.mean.device).unbind()
    with torch.no_grad():
        content_features = vgg(content_image, CONTENT_LAYERS)
        style_features = vgg(style_image, STYLE_LAYERS)
    style_grams = losses.gram_matrices(style_features)
    objective = Objective(vgg, content_features, style_grams)
    began = 0.0
    for step in descend(image, objective, TIMED_ITERATIONS + 1):  # each step's losses are read, which waits for a GPU
        if step.iteration == 0:
            began = time.perf_counter()
        if step.iteration == TIMED_ITERATIONS:
            break
    return (time.perf_counter() - began) / TIMED_ITERATIONS


def training_speed(folder: Path, device: str, precision: str) -> float:
    """Photos per second of the training loop with its defaults, on synthetic photos that are written to a folder."""
    for i in range(8):
        Image.fromarray(paint_landscape(320, 420, seed=i)).save(folder / f"{i}.jpg", quality=90)
    config = TrainConfig(str(folder / "0.jpg"), str(folder), device=device, precision=precision, vgg19="random")
    style_frame = read_style_image(config.style_image, config.style_size_px)
    gate = Gate()
    loop = our_loop(config, load_vgg19("random", device=pick_device(device)), style_frame, pick_device(device), gate)
    take_turn(loop, gate, [], pick_device(device))  # fills caches, picks kernels
    steps, seconds = take_turn(loop, gate, [], pick_device(device))
    gate.open()  # else the loading threads would wait there forever
    loop.close()
    return steps * config.batch_size / seconds


def table(result: dict[str, Any]) -> str:
    """The measurements as text, next to the paper's."""
    lines = [
        f"{result['date']}, {result['machine']}",
        f"{result['versions']}, {result['provider']}, VGG-19 in {result['vgg19']}",
        f"optimization: seconds of {', '.join(str(n) for n in ITERATIONS)} iterations, "
        f"computed from {TIMED_ITERATIONS} measured ones; networks: milliseconds a picture; the paper's on a Titan X",
    ]
    for size, found in result["sizes"].items():
        seconds = [n * found["iteration_s"] for n in ITERATIONS]
        lines += ["", f"{size:>10}  optimization {slashed(seconds, '.1f')} s"]
        heads = ("torch ms", "ONNX ms", "fastest", "x johnson", "x faster than the optimization", "share of peak")
        lines.append(f"{'':10}  {heads[0]:>9} {heads[1]:>9} {heads[2]:>9} {heads[3]:>10}  {heads[4]:30} {heads[5]:>13}")
        johnson_ms = found["networks"]["johnson"]["onnx_ms"]
        for name, row in found["networks"].items():
            ratios = slashed([1000 * s / row["onnx_ms"] for s in seconds], ",.0f")
            share = row["gflop"] / (row["onnx_ms"] / 1000) / result["peak_gflops"]
            lines.append(
                f"{name:>10}  {row['torch_ms']:9.1f} {row['onnx_ms']:9.1f} {row['onnx_fastest_ms']:9.1f} "
                f"{johnson_ms / row['onnx_ms']:10.1f}  {ratios:30} {share:13.0%}"
            )
        for name, milliseconds in found.get("openvino_ms", {}).items():
            lines.append(
                f"{name:>20} in OpenVINO {milliseconds:.1f} ms, {johnson_ms / milliseconds:.1f} x johnson in ONNX Runtime"
            )
        side = int(size.split("x")[0])
        if size == f"{side}x{side}" and side in PAPER:
            *paper_s, network_s = PAPER[side]
            ratios = slashed([s / network_s for s in paper_s], ",.0f")
            lines.append(
                f"{'the paper':>10}  optimization {slashed(paper_s, '')} s, network {1000 * network_s:.0f} ms: {ratios}"
            )
    lines.append("")
    lines.append(f"training: {result['training_photos_per_s']:.1f} photos/s (realtime, batch 4, 256 px)")
    lines.append(f"peak: {result['peak_gflops']:.0f} GFLOP/s, the best float32 matrix product")
    return "\n".join(lines)


def slashed(numbers: Sequence[float], form: str) -> str:
    return " / ".join(f"{number:{form}}" for number in numbers)
