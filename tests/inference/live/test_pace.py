"""The pace, with a network whose times are simulated."""

from collections.abc import Callable

from allaprima.inference.live.pace import Pace


def settle(pace: Pace, full_ms: Callable[[float], float], seconds: float) -> list[tuple[float, float]]:
    """Scales over time for a network whose full-size frames take `full_ms(time)`; the time a frame takes grows with area."""
    now_s, history = 0.0, []
    while now_s < seconds:
        frame_ms = full_ms(now_s) * pace.scale**2 + 1.0
        now_s += frame_ms / 1000
        pace.update(frame_ms, now_s)
        history.append((now_s, pace.scale))
    return history


def test_the_size_comes_down_to_meet_the_target_within_a_second_and_stays():
    pace = Pace(30)
    history = settle(pace, lambda _: 90.0, 20)
    assert 90 * pace.scale**2 + 1 < 1000 / 30
    late = [scale for now_s, scale in history if now_s > 1.5]
    assert max(late) == min(late)  # it does not oscillate
    assert 0.5 < pace.scale < 0.62


def test_the_size_grows_again_when_there_is_time_but_not_beyond_the_picture():
    pace = Pace(30)
    settle(pace, lambda now_s: 120.0 if now_s < 5 else 15.0, 60)
    assert pace.scale == 1.0
    assert Pace(0).update(1000.0, 1.0) == 1.0
