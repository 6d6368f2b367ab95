import json

import pytest
from torch import nn

from allaprima.training.studies.benchmark import count_gflop, table


def test_operations_of_a_convolution_are_counted():
    net = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert count_gflop(net, 10, 20) == pytest.approx(2 * 3 * 5 * 9 * 200 / 1e9)
    assert net.weight.device.type == "cpu"


@pytest.mark.thorough
def test_bench_measures_optimization_networks_and_training(run):
    code, out, _ = run("bench", "--sizes", "32x64", "--rounds", "1", "--json", "--device", "cpu", "--precision", "fp32")
    assert code == 0
    result = json.loads(out)
    found = result["sizes"]["32x64"]
    assert set(found["networks"]) == {"johnson", "quality", "realtime"}
    assert found["iteration_s"] > 0
    assert all(row[key] > 0 for row in found["networks"].values() for key in row)
    assert result["training_photos_per_s"] > 0


def test_the_table_shows_ratios_next_to_the_papers():
    row = {"gflop": 1.0, "torch_ms": 30.0, "onnx_ms": 20.0, "onnx_fastest_ms": 18.0}
    networks = {"johnson": {**row, "onnx_ms": 200.0}, "realtime": row}
    result = {
        "date": "2026-01-02",
        "machine": "abacus",
        "versions": "Python 4",
        "provider": "CPU",
        "vgg19": "fp32",
        "peak_gflops": 100.0,
        "training_photos_per_s": 4.0,
        "sizes": {"256x256": {"iteration_s": 0.5, "networks": networks, "openvino_ms": {"realtime, bf16": 8.0}}},
    }
    text = table(result)
    assert "optimization 50.0 / 150.0 / 250.0 s" in text
    line, other = [line for line in text.splitlines() if line.lstrip().startswith("realtime")]
    assert other.lstrip() == "realtime, bf16 in OpenVINO 8.0 ms, 25.0 x johnson in ONNX Runtime"
    assert line.split() == ["realtime", "30.0", "20.0", "18.0", "10.0", "2,500", "/", "7,500", "/", "12,500", "50%"]
    assert "optimization 3.17 / 9.52 / 15.86 s, network 15 ms: 211 / 635 / 1,057" in text


def test_a_size_that_is_not_a_multiple_of_the_stride_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("bench", "--sizes", "30")
    assert "30 is not a side, or WIDTHxHEIGHT, of multiples of 4" in capsys.readouterr().err


def test_options_of_the_training_benchmark_are_refused_without_it(run):
    code, _, err = run("bench", "--size", "512", "--tier", "quality")
    assert code == 1
    assert "--tier, --size: only with --training; sizes are given with --sizes" in err
