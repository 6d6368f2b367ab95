import itertools
import threading
import time

import pytest
import torch

from allaprima.training.config import TrainConfig
from allaprima.training.photos.batch import Batch, prefetched
from allaprima.training.record import LOG_EVERY
from allaprima.training.studies import benchmark_loop
from allaprima.training.studies.benchmark_loop import PARTS, TURN_S, TURN_STEPS, Gate, measure, take_turn

CPU = torch.device("cpu")
BATCH = Batch(torch.zeros(1, 4, 4, 3, dtype=torch.uint8))


@pytest.fixture
def config(painting, photo_folder) -> TrainConfig:
    return TrainConfig(
        str(painting), str(photo_folder), batch_size=2, size_px=32, style_size_px=32, precision="fp32", vgg19="tiny"
    )


class Clock:
    """A clock that the loop advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def loop(self, seconds_a_step: float):
        """An endless loop whose losses are the number of the step."""
        for step in itertools.count(1):
            self.now += seconds_a_step
            yield torch.full((len(PARTS),), float(step))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(benchmark_loop, "time", clock)
    return clock


def test_a_turn_lasts_until_both_its_time_and_its_steps_are_reached(clock):
    assert take_turn(clock.loop(0.3), Gate(), [], CPU) == (7, pytest.approx(2.1))
    assert take_turn(clock.loop(5.0), Gate(), [], CPU) == (TURN_STEPS, pytest.approx(5.0 * TURN_STEPS))
    assert TURN_S >= 2
    assert TURN_STEPS >= 2


def test_speeds_count_all_steps_and_losses_are_those_of_the_same_step(clock, config, monkeypatch):
    loops = {"plain": lambda gate: clock.loop(1.5), "ours": lambda gate: clock.loop(0.3)}
    monkeypatch.setattr(benchmark_loop, "loops_of", lambda config: loops)
    speeds, newest = measure(config, rounds=2)
    assert speeds["plain"] == pytest.approx([config.batch_size / 1.5] * 2)
    assert speeds["ours"] == pytest.approx([config.batch_size / 0.3] * 2)
    assert newest["plain"] == newest["ours"] == dict.fromkeys(PARTS, 6.0)  # ours did 21 steps, plain 6


def test_losses_are_read_as_rarely_as_in_a_training(clock):
    reads = []

    class Losses:
        def tolist(self) -> None:
            reads.append(len(curve))

    curve: list = []
    take_turn((Losses() for _ in clock.loop(TURN_S / (2.5 * LOG_EVERY))), Gate(), curve, CPU)
    take_turn((Losses() for _ in clock.loop(TURN_S / (0.5 * LOG_EVERY))), Gate(), curve, CPU)
    assert len(curve) >= 3 * LOG_EVERY - 1
    assert reads == list(range(LOG_EVERY, len(curve) + 1, LOG_EVERY))


@pytest.mark.parametrize("name", ["plain", "ours"])
def test_a_loop_yields_losses_that_stay_unchanged_and_loads_through_its_gate(config, name):
    passed = []

    class CountedGate(Gate):
        def through(self, load):
            passed.append(load)
            return super().through(load)

    loop = benchmark_loop.loops_of(config)[name](CountedGate())
    first = next(loop)
    kept = first.clone()
    second = next(loop)
    loop.close()
    assert first.shape == (len(PARTS),)
    assert not first.requires_grad
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    assert not torch.equal(first, second)
    assert len(passed) == 1


def test_no_photo_is_loaded_during_another_loops_turn(monkeypatch):
    """The loops' threads still have batches to prepare when a turn ends."""
    monkeypatch.setattr(benchmark_loop, "TURN_S", 0.05)
    gates = {"a": Gate(), "b": Gate()}
    whose_turn = ""
    met: list[tuple[str, str]] = []

    def loading(name: str):
        def load(step: int) -> Batch:
            met.append((name, whose_turn))
            time.sleep(0.005)
            met.append((name, whose_turn))
            return BATCH

        for _ in prefetched(gates[name].through(load), range(10**9), workers=3):
            yield torch.zeros(len(PARTS))

    loops = {name: loading(name) for name in gates}
    for whose_turn in "abab":
        take_turn(loops[whose_turn], gates[whose_turn], [], CPU)
    in_turns = list(met)
    for name, loop in loops.items():
        gates[name].open()
        loop.close()
    assert {name for name, _ in in_turns} == {"a", "b"}
    assert all(name == turn for name, turn in in_turns)


def test_closing_a_gate_waits_for_the_running_load_and_blocks_others():
    gate = Gate()
    begun, let_end, ended = threading.Event(), threading.Event(), []

    def load(step: int) -> Batch:
        begun.set()
        let_end.wait()
        ended.append(step)
        return BATCH

    def load_two() -> None:
        for step in range(2):
            gate.through(load)(step)

    loading, closing = threading.Thread(target=load_two), threading.Thread(target=gate.close)
    loading.start()
    begun.wait()
    closing.start()
    while gate._is_open:
        time.sleep(0.001)
    assert closing.is_alive()
    let_end.set()
    closing.join()
    assert ended == [0]
    gate.open()
    loading.join()
    assert ended == [0, 1]


def test_a_benchmark_that_fails_leaves_no_thread_waiting(config, monkeypatch):
    def loop(gate):
        for _ in prefetched(gate.through(lambda step: BATCH), range(10**9), workers=2):
            yield torch.zeros(len(PARTS))

    def failing(gate):
        yield torch.zeros(len(PARTS))
        raise RuntimeError("no more")

    monkeypatch.setattr(benchmark_loop, "loops_of", lambda config: {"plain": loop, "ours": failing})
    monkeypatch.setattr(benchmark_loop, "TURN_S", 0.0)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no more"):
        measure(config, rounds=1)
    assert threading.active_count() == before


@pytest.mark.thorough
def test_the_training_benchmark_compares_the_same_losses(config, monkeypatch):
    monkeypatch.setattr(benchmark_loop, "TURN_S", 0.0)
    speeds, newest = measure(config, rounds=1)
    assert list(speeds) == ["plain", "ours"]
    assert all(speed > 0 for values in speeds.values() for speed in values)
    for name in ("content", "style"):
        plain, without_bf16 = newest["plain"][name], newest["ours"][name]
        assert without_bf16 == pytest.approx(plain, rel=0.02), name
