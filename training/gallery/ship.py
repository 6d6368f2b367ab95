"""Put a finished training into checkpoints/: evaluated, exported, with its card. For maintainers of the styles.

python -m allaprima.training.gallery.ship runs/great_wave-realtime --photos HELDOUT_FOLDER --name great_wave
python -m allaprima.training.gallery.ship --style great_wave/realtime --photos TRAINING_FOLDER --style-image PAINTING
python -m allaprima.training.gallery.ship --evaluation evaluation.json
python -m allaprima.training.gallery.ship --judge PAINTINGS --photos HELDOUT_FOLDER
"""

import argparse
import dataclasses
import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from allaprima.inference.atomic import write_atomically
from allaprima.inference.pictures import read_picture, resize_short_side
from allaprima.inference.style.info import report_text
from allaprima.inference.style.onnx_file import read_style
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import FOLDER, PAINTING, shipped_styles
from allaprima.models.image_transform_net import ImageTransformNet
from allaprima.models.vgg import VGG19Features, load_vgg19
from allaprima.training.checkpoint import find_weights, load_net, load_weights, save_weights
from allaprima.training.config import Flavor, TrainConfig
from allaprima.training.device import in_precision, pick_precision
from allaprima.training.export.export import Yardstick, export, serialized
from allaprima.training.images import to_frame
from allaprima.training.photos.folder import list_photos
from allaprima.training.preview import stylize_frame
from allaprima.training.studies.evaluate import border_band, heldout_losses
from allaprima.training.studies.judges import Bench, is_no_worse
from allaprima.training.style_image import read_style_image

SIZES_PX = (256, 512)  # short sides of the photos that networks are judged on; losses and the decision use the first
# Keys: the part between tier and ".onnx" in a file's name. The small tier comes in every flavor that somebody may want. All
# styles together may take 50 MB, so the large tier has one flavor, in half precision (on a CPU as fast as fp32, and at 97 dB
# from it), and weights only for the style that its trainings start from.
FLAVORS = {
    "realtime": {
        flavor.suffix: flavor for flavor in (Flavor(), Flavor(io="frame"), Flavor(precision="int8"), Flavor(precision="fp16"))
    },
    "quality": {"": Flavor(precision="fp16")},
}
WEIGHTS = {"realtime": torch.float32, "quality": torch.float16}
QUALITY_START = "great_wave"
HELDOUT_PHOTOS = {256: 16, 512: 8}  # short side -> how many of a folder's first photos; at other sizes all
BORDER_ALLOWED = 3.0  # levels of 255, for the band at the worst border
PAINTING_PX = 144  # short side of the small painting for the page's gallery


def ship(run_folder: Path, photos: Path, name: str, folder: Path = FOLDER) -> Path:
    """`ship_net` of a finished run's network.

    Returns:
        the .onnx file of the first flavor.
    """
    net, card = load_net(find_weights(run_folder))
    output = ship_net(net, card, TrainConfig.read(run_folder / "options.json"), photos, name, folder=folder)
    assert output
    return output


def ship_net(
    net: ImageTransformNet,
    card: dict[str, Any],
    config: TrainConfig,
    photos: Path,
    name: str,
    *,
    folder: Path = FOLDER,
    only_if_better: bool = False,
) -> Path | None:
    """Evaluate a network on held-out photos and write <name>/<tier>.safetensors, .json and `FLAVORS` of .onnx.

    Args:
        config: the options it was trained with.
        only_if_better: write nothing unless it `is_better` than the shipped network.
    Returns:
        the .onnx file of the first flavor; None if nothing was written.
    """
    vgg = judging_vgg19(config.vgg19)
    style_frame = read_style_image(config.style_image, config.style_size_px, config.max_pixels, crop_border=config.crop_border)
    output = folder / name / f"{config.tier}.onnx"
    first, paint = SIZES_PX[0], painter_of_frames(net)
    paths = heldout_photos(photos, first)
    bench = Bench(vgg, config.style_image, paths, first)
    card["judged"] = {str(first): bench.judge(paint)}
    card["border_band"] = border_band(net, paths, first)
    shipped = shipped_card(name, config.tier, folder) if only_if_better else None
    if shipped:
        shipped["judged"] = {str(first): bench.judge(StyleSession(output).stylize)}  # its card may be about other photos
        if not is_better(card, shipped):
            print(f"{name}/{config.tier}: {judged_text(card)} is no better than {judged_text(shipped)}")
            return None
    card["heldout"] = {str(first): heldout_losses(net, vgg, style_frame, paths, first)}
    card["heldout_photos"] = len(paths)
    for size in SIZES_PX[1:]:
        card["judged"][str(size)] = Bench(vgg, config.style_image, heldout_photos(photos, size), size).judge(paint)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_style(net, card, output, Yardstick(Path(config.photos), Path(config.style_image), config.vgg19))
    write_small_style_image(Path(config.style_image), output.parent)
    print(f"{name}/{config.tier}: {judged_text(card)}")
    return output


def heldout_photos(folder: Path, size_px: int) -> list[Path]:
    """The photos of a folder that networks are judged on at a size."""
    return list_photos(folder)[: HELDOUT_PHOTOS.get(size_px)]


def judging_vgg19(source: str | None = None) -> VGG19Features:
    """VGG-19, in bfloat16 if that is faster: the judges' figures change by less than a thousandth."""
    vgg = load_vgg19(source)
    return in_precision(vgg, pick_precision("auto", vgg, vgg.mean.device))


def painter_of_frames(net: ImageTransformNet) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a function on (H, W, 3) uint8 frames."""
    return lambda frame: to_frame(stylize_frame(net, frame))


def write_small_style_image(style_image: Path, style_folder: Path) -> None:
    """Write the painting as a small picture, for the page's gallery."""
    small = resize_short_side(read_picture(style_image).frame, PAINTING_PX)
    file = io.BytesIO()
    Image.fromarray(small).save(file, "JPEG", quality=80)
    write_atomically(style_folder / PAINTING, file.getvalue())


def judged_text(card: Mapping[str, Any]) -> str:
    """What the judges say of a network, and its band at the worst border."""
    sizes = (
        f"{size} px: " + ", ".join(f"{name} {value:g}" for name, value in each.items()) for size, each in card["judged"].items()
    )
    return f"{'; '.join(sizes)}; band {card.get('border_band', 0.0):g} levels of 255"


def is_better(card: Mapping[str, Any], shipped: Mapping[str, Any]) -> bool:
    """Whether a network may replace the shipped one, by its numbers; whoever ships it also looks at its pictures."""
    judged, before = (each["judged"][str(SIZES_PX[0])] for each in (card, shipped))
    band, band_before = card["border_band"], shipped.get("border_band", 0.0)
    return judged != before and is_no_worse(judged, before) and band <= max(BORDER_ALLOWED, band_before)


def shipped_card(name: str, tier: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The card of the shipped network; None if there is none."""
    path = folder / name / f"{tier}.json"
    return dict(json.loads(path.read_text())) if path.is_file() else None


def shipped_swd(name: str, tier: str) -> float:
    """How far the shipped network is from its painting, according to its card; infinite if there is none."""
    card = shipped_card(name, tier)
    return float(card["judged"][str(SIZES_PX[0])]["swd"]) if card else math.inf


def add_judged(style_images: Path, photos: Path, folder: Path = FOLDER) -> list[Path]:
    """Add what the judges say to the cards of shipped networks that lack it; returns the .onnx files."""
    cards: dict[Path, dict[str, Any]] = {}
    vgg = judging_vgg19()
    for style in shipped_styles(folder):
        style_image = next(iter(sorted(style_images.glob(f"{style.name}.*"))), None)
        if "judged" in style.card or style_image is None:
            continue
        session = StyleSession(style.path)
        judged = {
            str(size): Bench(vgg, style_image, heldout_photos(photos, size), size).judge(session.stylize) for size in SIZES_PX
        }
        cards[style.path] = dict(style.card) | {"judged": judged}
        print(f"{style.full_name}: {judged_text(cards[style.path])}", flush=True)
    write_cards(cards)
    return list(cards)


def add_evaluation(result: Mapping[str, Any], folder: Path = FOLDER) -> list[Path]:
    """Write on the shipped networks' cards how many iterations of the classic optimization they are worth.

    Args:
        result: of `training.studies.evaluate.evaluate`, its networks named <style>/<tier>.
    Returns:
        the .onnx files.
    """
    cards: dict[Path, dict[str, Any]] = {}
    for size, found in result["sizes"].items():
        for name, row in found["networks"].items():
            output = folder / f"{name}.onnx"
            if output not in cards:
                cards[output] = dict(read_style(output)[1].card)
            most = max(result["against"])
            equals = {start: f"more than {most}" if n is None else n for start, n in row["equals"].items()}
            figures = {"photos": result["photos"], "optimizer": result["optimizer"], "total": row["total"], **equals}
            cards[output].setdefault("classic", {}).setdefault(size, {}).update(figures)
    write_cards(cards)
    return list(cards)


def write_cards(cards: Mapping[Path, Mapping[str, Any]]) -> None:
    """Replace the cards of shipped networks, named by their first .onnx file; networks and weights are not changed."""
    for output, card in cards.items():
        with tempfile.TemporaryDirectory() as trial:
            weights = output.with_suffix(".safetensors")
            if weights.is_file():
                save_weights(Path(trial, weights.name), load_weights(weights)[0], card, WEIGHTS[output.stem])
            else:
                Path(trial, f"{output.stem}.json").write_text(json.dumps(card, indent=2) + "\n")
            for path in sorted(output.parent.glob(f"{output.stem}*.onnx")):
                contract = dataclasses.replace(read_style(path)[1], card=card)
                Path(trial, path.name).write_bytes(serialized(onnx.load(path), contract))
            _move(Path(trial), output.parent)


def write_style(net: ImageTransformNet, card: Mapping[str, Any], output: Path, yardstick: Yardstick) -> None:
    """Write weights, card and every flavor of a shipped network; no existing file is touched before all have passed
    their checks."""
    with tempfile.TemporaryDirectory() as trial:
        weights = Path(trial, f"{output.stem}.safetensors")
        save_weights(weights, net.state_dict(), card)
        for suffix, flavor in FLAVORS[output.stem].items():
            path = weights.with_name(f"{output.stem}{suffix}.onnx")
            print(f"{path.name}: {report_text(export(weights, path, flavor, yardstick))}", flush=True)
        save_weights(weights, net.state_dict(), card, WEIGHTS[output.stem])
        if output.stem == "quality" and output.parent.name != QUALITY_START:
            weights.unlink()
        _move(Path(trial), output.parent)


def _move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        write_atomically(target / path.name, path.read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, nargs="?")
    parser.add_argument("--photos", type=Path, help="held-out photos; with --style those of the training")
    parser.add_argument("--name", help="of the style, a folder name")
    parser.add_argument("--evaluation", type=Path, help="of shipped networks, what allaprima evaluate wrote; instead of a run")
    parser.add_argument("--judge", type=Path, metavar="PAINTINGS", help="write what the judges say onto cards that lack it")
    parser.add_argument("--style", metavar="NAME/TIER", help="a shipped network, to export again; instead of a run")
    parser.add_argument("--style-image", type=Path, help="with --style, its painting")
    arguments = parser.parse_args()
    if arguments.evaluation:
        print(*add_evaluation(json.loads(arguments.evaluation.read_text())))
    elif arguments.judge and arguments.photos:
        print(*add_judged(arguments.judge, arguments.photos))
    elif arguments.style and arguments.photos and arguments.style_image:
        exported = FOLDER / f"{arguments.style}.onnx"
        write_style(
            *load_net(exported.with_suffix(".safetensors")), exported, Yardstick(arguments.photos, arguments.style_image)
        )
    elif arguments.run_folder and arguments.photos and arguments.name:
        print(ship(arguments.run_folder, arguments.photos, arguments.name))
    else:
        parser.error(
            "a run folder with --photos and --name is needed, or --style with --photos and --style-image, "
            "or --judge with --photos, or --evaluation"
        )
