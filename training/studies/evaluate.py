"""How good a network is: its losses on photos it was never trained on, compared with the classic optimization's losses on
the same photos (Johnson et al. 2016, Sec. 4.1, Fig. 5)."""

import datetime
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from allaprima.inference.console import progress_bar
from allaprima.inference.interrupt import catch_interrupt
from allaprima.inference.pictures import check_folder, check_no_input, read_picture, resize_short_side, write_encoded
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import Interrupted, OptimizeError
from allaprima.models.vgg import VGG19Features, load_vgg19
from allaprima.training.classic.descent import Objective, descend
from allaprima.training.classic.optimize import noise_image
from allaprima.training.config import CONTENT_LAYERS, EvaluateConfig, TrainConfig
from allaprima.training.device import device_name, guarded_memory, pick_device, pick_precision
from allaprima.training.images import to_image
from allaprima.training.photos.folder import list_photos
from allaprima.training.studies import judges
from allaprima.training.studies.faces import face_finder
from allaprima.training.style_image import StyleTarget, make_target, read_style_image

Painter = Callable[[Tensor], Tensor]  # image -> stylized image
PARTS = ("content", "style", "tv", "total")


@torch.no_grad()
def heldout_losses(
    paint: Painter, vgg: VGG19Features, style_frame: np.ndarray, photos: Sequence[Path], size_px: int
) -> dict[str, float]:
    """Mean unitless losses of a network over photos.

    Args:
        paint: (1, 3, H, W) content image -> stylized image, both in [0, 1].
        vgg: in any precision; bfloat16 changes the losses by less than a hundredth.
        style_frame: the painting as it was trained on, (H, W, 3) uint8.
        photos: each is scaled to `size_px` on its short side and cut to the middle square.
        size_px: a multiple of 16.
    Returns:
        {"content": ..., "style": ..., "total10": content + 10 x style}.
    """
    target = make_target(vgg, style_frame, "fp32")
    rows = []
    for path in photos:
        frame = read_square(path, size_px)
        losses = make_objective(target, frame)(paint(to_image(frame, vgg.mean.device)))
        rows.append((losses["content"].item(), losses["style"].item()))
    content, style = np.mean(rows, axis=0)
    return {"content": round(content, 4), "style": round(style, 4), "total10": round(content + 10 * style, 4)}


@torch.no_grad()
def border_band(paint: Painter, photos: Sequence[Path], size_px: int) -> float:
    """How much the worst of the four borders is painted lighter, darker or in another color than the area inside it.

    Every photo is painted in all eight ways to rotate and mirror it, so that nothing of the photos is left in the mean of
    the paintings. In it, along each border, the mean color of the outer 16 pixels is compared with that of the next 24.

    Args:
        paint: (1, 3, H, W) content image -> stylized image, both in [0, 1] and on the CPU.
        photos, size_px: as for `heldout_losses`; `size_px` is 80 or more.
    Returns:
        the mean difference of red, green and blue at the worst border, in levels of 255; about 1 if there is no band.
    """
    mean = np.zeros((size_px, size_px, 3))
    for path in photos:
        frame = read_square(path, size_px)
        for turned in (np.rot90(way, turns) for way in (frame, frame[:, ::-1]) for turns in range(4)):
            painted = paint(to_image(np.ascontiguousarray(turned), torch.device("cpu")))
            mean += painted[0].permute(1, 2, 0).numpy(force=True) / (8 * len(photos))
    sides = (np.rot90(mean, turns) for turns in range(4))
    return round(float(max(np.abs(side[:16].mean((0, 1)) - side[16:40].mean((0, 1))).mean() for side in sides) * 255), 1)


def read_square(path: Path, size_px: int, max_pixels: int = 0) -> np.ndarray:
    """The middle of a photo, scaled to its short side: (size_px, size_px, 3) uint8."""
    frame = resize_short_side(read_picture(path, max_pixels).frame, size_px)
    top, left = ((side - size_px) // 2 for side in frame.shape[:2])
    return frame[top : top + size_px, left : left + size_px]


def make_objective(
    target: StyleTarget, content_frame: np.ndarray, weights: Mapping[str, Any] = MappingProxyType({})
) -> Objective:
    """The objective for painting a photo, (H, W, 3) uint8; `weights` are those of `Objective`."""
    with torch.no_grad():
        features = target.vgg(to_image(content_frame, target.vgg.mean.device), CONTENT_LAYERS)
    return Objective(target.vgg, features, target.style_grams, **weights)


@dataclass(frozen=True)
class Training:
    """What a network was trained for: the weights of the losses, as in `Objective`, and the painting's size."""

    weights: dict[str, Any]
    style_size_px: int

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> "Training":
        """The training of a card; defaults where the card lacks an entry, as with an imported style."""
        defaults = {f.name: f.default for f in fields(TrainConfig)}
        options = {name: value for name, value in card.get("options", {}).items() if value != "auto"}  # possible in 0.1.0
        names = ("content_weight", "style_weight", "tv_weight", "normalization")
        return cls(
            {name: options.get(name, defaults[name]) for name in names}, options.get("style_size_px", defaults["style_size_px"])
        )


def evaluate(config: EvaluateConfig, networks: Mapping[str, Path], output: Path, console: Console) -> dict[str, Any]:
    """Losses of networks next to those of the optimization, for the same objective on the same photos.

    Args:
        config: what to compare.
        networks: name -> .onnx file, all trained on one painting with the same weights.
        output: gets the result as JSON, complete after every size, like the plot next to it, .png.
        console: for progress.
    Returns:
        what the JSON holds: "sizes" -> size -> "networks" -> name -> mean losses, "border_band", "judged" (see
        `training.studies.judges`), and "equals" -> start -> the iterations after which the optimization's mean total is as
        low, None if it never is; "classic" -> start -> loss -> its mean after 0, 1, 2, ... iterations.
    Raises:
        OptimizeError, StyleError, PictureError, TrainingError: something cannot be used.
        Interrupted: by Ctrl-C or SIGTERM; finished sizes are written.
    """
    # Load.
    check_folder(output)
    check_no_input(output.with_suffix(".png"), [config.style_image])
    device = pick_device(config.device)
    onnx_device = config.device if config.device in ("cpu", "cuda") else "auto"
    sessions = {name: StyleSession(path, onnx_device) for name, path in networks.items()}
    trainings = {name: Training.of(session.contract.card) for name, session in sessions.items()}
    first = next(iter(trainings))
    for name in trainings:
        if trainings[name] != trainings[first]:
            raise OptimizeError(
                f"{first} and {name} were trained with other loss weights or style sizes; evaluate one at a time"
            )
    weights, style_size_px = trainings[first].weights, trainings[first].style_size_px
    style_frame = read_style_image(config.style_image, style_size_px, config.max_pixels)
    paths = list_photos(Path(config.photos))[: config.limit or None]
    vgg = load_vgg19(config.vgg19, device=device)
    precision = pick_precision(config.precision, vgg, device)
    target = make_target(vgg, style_frame, precision)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{device_name(device)}, torch {torch.__version__}, VGG-19 in {precision}",
        "style_image": Path(config.style_image).name,
        "style_size_px": style_size_px,
        "photos": len(paths),
        "weights": weights,
        "optimizer": config.optimizer,
        "against": list(config.against),
        "sizes": {},
    }

    find_faces = face_finder()
    if not find_faces:
        console.print("faces are not counted: pip install requests && pip install --no-deps facenet-pytorch", soft_wrap=True)
    most = max(config.against)
    largest = max(config.sizes_px)
    with (
        guarded_memory(largest, largest, precision, device, "--sizes"),
        catch_interrupt() as interrupted,
        progress_bar(console) as progress,
    ):
        task = progress.add_task("", total=len(config.sizes_px) * len(paths) * len(config.inits) * (most + 1), losses="")
        for size_px in config.sizes_px:
            rows: dict[str, list[list[float]]] = {name: [] for name in sessions}
            curves: dict[str, list[list[list[float]]]] = {start: [] for start in config.inits}
            for path in paths:
                frame = read_square(path, size_px, config.max_pixels)
                objective = make_objective(target, frame, weights)
                for name, session in sessions.items():
                    with torch.no_grad():
                        losses = objective(painter_of(session)(to_image(frame, device)))
                    rows[name].append([losses[part].item() for part in PARTS])
                for start in config.inits:
                    image = to_image(frame, device)
                    init = noise_image(size_px, size_px, config.seed, device) if start == "noise" else image
                    curve = []
                    for step in descend(init, objective, most, config.optimizer):
                        curve.append([step.losses[part] for part in PARTS])
                        progress.update(task, advance=1, losses=f"{size_px} px, {path.name}, from {start}")
                        if interrupted:
                            done = f"finished sizes are in {output}" if result["sizes"] else "no size was finished"
                            raise Interrupted(f"stopped; {done}")
                    curves[start].append(curve)
                if not console.is_terminal:
                    console.print(f"{size_px} px, {path.name} done", soft_wrap=True)
            result["sizes"][str(size_px)] = found = summarize(rows, curves)
            bench = judges.Bench(target.vgg, config.style_image, paths, size_px, find_faces)
            for name, session in sessions.items():
                found["networks"][name]["border_band"] = border_band(painter_of(session), paths, size_px)
                found["networks"][name]["judged"] = bench.judge(session.stylize)
            write_encoded(output, json.dumps(result, indent=1).encode() + b"\n")
            plot(result, output.with_suffix(".png"))
    return result


def painter_of(session: StyleSession) -> Painter:
    """A session as a function on torch tensors."""

    def paint(image: Tensor) -> Tensor:
        return torch.tensor(session.stylize_image(image.contiguous().cpu().numpy()), device=image.device)

    return paint


def summarize(rows: Mapping[str, list[list[float]]], curves: Mapping[str, list[list[list[float]]]]) -> dict[str, Any]:
    """Means over the photos, and how many iterations each network is worth.

    Args:
        rows: network -> photo -> the losses `PARTS`.
        curves: start -> photo -> iteration -> the losses `PARTS`.
    """
    means = {start: np.mean(photos, axis=0).T for start, photos in curves.items()}  # (parts, iterations + 1)
    networks = {}
    for name, photos in rows.items():
        mean = np.mean(photos, axis=0)
        equals = {start: first_at_most(parts[-1], mean[-1]) for start, parts in means.items()}
        each = {
            start: [first_at_most(np.array(curve)[:, -1], row[-1]) for curve, row in zip(curves[start], photos, strict=True)]
            for start in curves
        }
        networks[name] = {
            **{part: round(float(value), 4) for part, value in zip(PARTS, mean, strict=True)},
            "equals": equals,
            "equals_by_photo": each,
        }
    classic = {
        start: {part: [round(float(v), 4) for v in values] for part, values in zip(PARTS, parts, strict=True)}
        for start, parts in means.items()
    }
    return {"networks": networks, "classic": classic}


def first_at_most(totals: np.ndarray, wanted: float) -> int | None:
    """The number of iterations after which a total loss, (iterations + 1,), is as low as wanted; None if it never is."""
    reached = np.nonzero(totals <= wanted)[0]
    return int(reached[0]) if len(reached) else None


def table(result: Mapping[str, Any]) -> str:
    """The result as text."""
    w = result["weights"]
    lines = [
        f"{result['style_image']}, {result['photos']} photos, {result['date']}, {result['machine']}",
        f"total = {w['content_weight']:g} content + {w['style_weight']:g} style + {w['tv_weight']:g} tv, {w['normalization']};"
        " equals: iterations of the optimization to the same total; band: at the worst border, in levels of 255;",
        "swd (style), ss (content), grid, palette, faces kept: by judges that no training sees, see training/studies/judges.py",
    ]
    for size, found in result["sizes"].items():
        lines.append(f"{size + ' px':32} content   style   total   band    swd     ss   grid palette faces  equals")
        for name, row in found["networks"].items():
            equals = ", ".join(f"{'more' if n is None else n} from {start}" for start, n in row["equals"].items())
            losses = " ".join(f"{row[part]:7.3f}" for part in ("content", "style", "total"))
            judged = " ".join(f"{row['judged'].get(part, math.nan):6.3f}" for part in (*judges.NAMES, "faces"))
            lines.append(f"{name:32} {losses}  {row['border_band']:5.1f} {judged}   {equals}")
        for start, parts in found["classic"].items():
            for n in result["against"]:
                name = f"{result['optimizer']} from {start}, {n}"
                lines.append(f"{name:32} {parts['content'][n]:7.3f} {parts['style'][n]:7.3f} {parts['total'][n]:7.3f}")
    return "\n".join(lines)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Loss against iterations, the networks as horizontal lines (Johnson et al. 2016, Fig. 5), as PNG."""
    from matplotlib.figure import Figure

    sizes = result["sizes"]
    figure = Figure(figsize=(5.2 * len(sizes), 4.2), layout="constrained", facecolor="#f8f6f2")
    for i, (size, found) in enumerate(sizes.items()):
        axes = figure.add_subplot(1, len(sizes), i + 1, facecolor="#f8f6f2")
        for start, parts in found["classic"].items():
            axes.plot(parts["total"], label=f"{result['optimizer']} from {start}", linewidth=2)
        for j, (name, row) in enumerate(found["networks"].items()):
            axes.axhline(row["total"], label=name, color=f"C{len(found['classic']) + j}", linestyle="--", linewidth=1.5)
        axes.set_yscale("log")
        axes.set_xlabel("iterations")
        axes.set_ylabel("total loss")
        axes.set_title(f"{Path(result['style_image']).stem}, {result['photos']} photos, {size} px", fontsize=11)
        axes.legend(fontsize=9, facecolor="#f8f6f2")
        axes.grid(alpha=0.3, which="both")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_encoded(path, buffer.getvalue())
