"""A landscape generated from noise, for use when there is no photo."""

import cv2
import numpy as np


def paint_landscape(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A lake below mountains at sunset, generated from noise.

    Args:
        height, width: in pixels, at least 32.
    Returns:
        (height, width, 3) uint8 RGB, the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    v, u = y / height, x / width
    horizon = 0.62

    # Sky: blue to peach, a sun with its glow, clouds.
    t = np.clip(v / horizon, 0.0, 1.0)[:, :, None]
    sky = (1 - t) * _rgb(58, 104, 168) + t * _rgb(250, 196, 138)
    sun_u, sun_v = 0.2 + 0.6 * rng.random(), horizon * 0.55
    distance = np.hypot((u - sun_u) * width / height, v - sun_v)[:, :, None]
    sky += np.exp(-distance * 6.0) * _rgb(90, 60, 10)
    clouds = np.clip(_noise(rng, height, width, 4) * 4.0 - 1.9 - 0.4 * t[:, :, 0], 0.0, 0.85)[:, :, None]
    sky = sky * (1 - clouds) + clouds * _rgb(255, 236, 220)
    image = np.where(distance < 0.055, _rgb(255, 246, 205), sky)

    # Three ranges, each nearer, darker and rougher; snow on the farthest.
    for depth, (base, amplitude, color) in enumerate(
        ((0.30, 0.30, _rgb(106, 118, 158)), (0.46, 0.20, _rgb(66, 88, 104)), (0.57, 0.12, _rgb(36, 62, 48)))
    ):
        profile = _noise(rng, 8, width, 4 + 2 * depth)[4]
        profile = (profile - profile.min()) / (profile.max() - profile.min())
        ridge = base + 0.5 * amplitude - amplitude * profile**1.4  # sharper peaks than valleys
        inside = (v > ridge[None, :]) & (v < horizon)
        shade = (0.75 + 0.5 * _noise(rng, height, width, 24))[:, :, None]
        rock = color * shade
        if depth == 0:
            snow = np.clip((ridge[None, :] + 0.05 - v) * 30 + 4 * (shade[:, :, 0] - 1), 0, 1)[:, :, None]
            rock = rock * (1 - snow) + snow * _rgb(240, 242, 250)
        image = np.where(inside[:, :, None], rock, image)

    # The lake mirrors it all, rippled and darker.
    line = int(horizon * height)
    depth_px = np.arange(height - line)
    mirror = image[np.clip(line - 1 - depth_px, 0, line - 1)]
    ripple = (_noise(rng, height - line, width, 40) - 0.5) * (4 + depth_px[:, None] * 0.12)
    columns = np.clip(np.arange(width)[None, :] + ripple, 0, width - 1).astype(int)
    water = np.take_along_axis(mirror, columns[:, :, None].repeat(3, axis=2), axis=1)
    image[line:] = 0.72 * water + 0.28 * _rgb(34, 66, 96)

    # A boat, and firs on the near shore.
    boat_x, boat_y, s = int((1.05 - sun_u) * 0.8 * width), int(0.78 * height), height / 400
    cv2.fillPoly(image, [_points(boat_x, boat_y, s, (-34, 0), (34, 0), (22, 14), (-24, 14))], (70, 32, 22))
    cv2.fillPoly(image, [_points(boat_x, boat_y, s, (-2, -6), (-2, -70), (30, -8))], (246, 238, 224))
    cv2.fillPoly(image, [_points(boat_x, boat_y, s, (-6, -6), (-6, -58), (-26, -8))], (200, 64, 44))
    for _ in range(9):
        side = rng.random()
        tree_x = int(width * (0.16 * side if rng.random() < 0.55 else 1 - 0.2 * side))
        foot, tall = int(height * (0.93 + 0.1 * rng.random())), (90 + 90 * rng.random()) * s
        for level in range(4):
            top, half = foot - tall * (1 - 0.2 * level), tall * (0.10 + 0.05 * level)
            green = tuple(float(c) for c in _rgb(18, 44, 30) * (0.8 + 0.5 * rng.random()))
            triangle = np.array([(tree_x, top), (tree_x - half, top + 0.4 * tall), (tree_x + half, top + 0.4 * tall)])
            cv2.fillPoly(image, [triangle.astype(np.int32)], green)
    grain = rng.normal(0.0, 3.0, (height, width, 1)).astype(np.float32)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _rgb(*values: int) -> np.ndarray:
    return np.array(values, np.float32)


def _points(x: int, y: int, scale: float, *corners: tuple[int, int]) -> np.ndarray:
    return np.array([(x + dx * scale, y + dy * scale) for dx, dy in corners], np.int32)


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Fractal value noise in about [0, 1], five octaves, the coarsest with `cells` cells across."""
    total, weight = np.zeros((height, width), np.float32), 0.0
    for octave in range(5):
        across = cells * 2**octave
        down = max(2, round(across * height / width))
        grid = rng.random((down + 1, across + 1), dtype=np.float32)
        total += 0.5**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight += 0.5**octave
    return total / weight
