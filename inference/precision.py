"""Which files reach a frame rate on this machine: those in fp32, or those in int8."""

from pathlib import Path

from allaprima.inference.profile import bare_session_ms
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import flavor_of

WORTH = 0.9  # int8 must take at most this share of the time, as it is two or three levels of 255 off
TRIAL_S = 0.4  # of each precision
TRIAL_SIZE = (480, 640)  # height and width, if the pictures may have any


def pick_precision(
    paths: dict[str, Path], device: str, target_fps: float, size: tuple[int, int] = TRIAL_SIZE, engine: str = "auto"
) -> tuple[dict[str, Path], str]:
    """The files that reach a rate here: int8 if there is no GPU, fp32 is too slow, and int8 is faster in a short trial.

    Args:
        paths: .onnx files by name; those that also exist in int8 may change. device, engine: see `StyleSession`.
        target_fps: 0 for the best picture.
        size: (height, width) of the pictures.
    Returns:
        the files by name, where those in int8 say so, and the findings, in words.
    """
    first = next(iter(paths.values()))
    int8 = flavor_of(first, "int8")
    if not target_fps or int8 is None:
        return paths, ""
    session = StyleSession(first, device, shared=True, engine=engine)
    if session.device != "cpu":
        return paths, ""
    fp32_ms = bare_session_ms(session, *size, TRIAL_S)
    found = f"fp32 {fp32_ms:.0f} ms a picture of {size[1]}x{size[0]}"
    if fp32_ms < 1000.0 / target_fps:
        return paths, found
    int8_ms = bare_session_ms(StyleSession(int8, device, shared=True, engine=engine), *size, TRIAL_S)
    found = f"int8 {int8_ms:.0f} ms, {found}"
    if int8_ms > WORTH * fp32_ms:
        return paths, found
    others = {name: flavor_of(path, "int8") for name, path in paths.items()}
    return {f"{name}.int8" if others[name] else name: others[name] or path for name, path in paths.items()}, found
