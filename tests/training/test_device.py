import os

import pytest
import torch

from allaprima.models import memory
from allaprima.training import device as device_module
from allaprima.training.device import pick_device, pick_precision, worker_count


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_gpu_is_asked_whether_it_has_bf16_and_not_timed(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert pick_precision("auto", None, torch.device("cuda", 0)) == precision  # None for VGG-19: nothing may be run


def test_float32_on_a_gpu_is_not_tensorfloat32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("allow_tf32", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))  # to be restored afterward
    torch.backends.cudnn.allow_tf32 = True
    assert pick_device("cuda") == torch.device("cuda", 0)
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.benchmark


def test_with_a_gpu_all_cores_prepare_photos(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    gpu = torch.device("cuda", 0)
    assert worker_count(None, gpu) == 12
    assert worker_count(None, gpu, processes=4) == 3
    assert worker_count(None, gpu, processes=40) == 1
    assert worker_count(None, torch.device("cpu")) == 4
    assert worker_count(0, gpu) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(208), raising=False)
    assert worker_count(None, gpu) == 16


@pytest.mark.parametrize("names", memory.FILES)
def test_a_containers_memory_limit_counts(monkeypatch, tmp_path, names):
    most, used, stat = (tmp_path / name for name in names)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    most.parent.mkdir(exist_ok=True)
    most.write_text("3000000\n")
    used.write_text("1000000\n")
    assert device_module.free_bytes(torch.device("cpu")) == 2_000_000
    stat.write_text("anon 500000\ninactive_file 300000\nactive_file 50000\n")
    assert device_module.free_bytes(torch.device("cpu")) == 2_350_000
    mapped = "mapped_file" if "memory/" in names[2] else "file_mapped"
    stat.write_text(f"anon 500000\ninactive_file 300000\nactive_file 50000\n{mapped} 60000\n")
    assert device_module.free_bytes(torch.device("cpu")) == 2_290_000
    most.write_text(f"{'max' if most.name == 'memory.max' else 2**63 - 4096}\n")
    assert device_module.free_bytes(torch.device("cpu")) > 3_000_000
