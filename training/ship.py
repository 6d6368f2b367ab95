"""Put a finished training into checkpoints/: evaluated, exported, with its card. For those who maintain the styles.

python -m training.ship runs/great_wave-realtime --photos HELDOUT_FOLDER --name great_wave
python -m training.ship --evaluation evaluation.json
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.atomic import write_atomically
from inference.styles import FOLDER
from models.image_transform_net import ImageTransformNet
from models.vgg import load_vgg19
from training.checkpoint import find_weights, load_net, save_weights
from training.config import TrainConfig
from training.evaluate import heldout_losses
from training.export import export
from training.loop import read_painting
from training.photos import list_photos

SIZES_PX = (256, 512)


def ship(run_folder: Path, photos: Path, name: str, folder: Path = FOLDER) -> Path:
    """Evaluate a run's network on held-out photos and write <name>/<tier>.safetensors, .json and .onnx.

    Returns:
        the .onnx file.
    """
    config = TrainConfig.read(run_folder / "options.json")
    net, card = load_net(find_weights(run_folder))
    vgg = load_vgg19(config.vgg19)
    style_frame = read_painting(config.painting, config.style_size_px, config.max_pixels)
    paths = list_photos(photos)
    card["heldout"] = {str(size): heldout_losses(net, vgg, style_frame, paths, size) for size in SIZES_PX}
    card["heldout_photos"] = len(paths)
    (folder / name).mkdir(parents=True, exist_ok=True)
    output = folder / name / f"{config.tier}.onnx"
    difference = write_style(net, card, output)
    print(json.dumps(card["heldout"]), f"torch and ONNX Runtime differ by {difference:.1e}")
    return output


def add_evaluation(result: Mapping[str, Any], folder: Path = FOLDER) -> list[Path]:
    """Write onto the shipped networks' cards how many iterations of the classic optimization they are worth.

    Args:
        result: of `training.evaluate.evaluate`, its networks named <style>/<tier>.
    Returns:
        the .onnx files.
    """
    cards: dict[Path, dict[str, Any]] = {}
    nets = {}
    for size, found in result["sizes"].items():
        for name, row in found["networks"].items():
            output = folder / f"{name}.onnx"
            if output not in cards:
                nets[output], cards[output] = load_net(output.with_suffix(".safetensors"))
            most = max(result["against"])
            equals = {start: f"more than {most}" if n is None else n for start, n in row["equals"].items()}
            figures = {"photos": result["photos"], "optimizer": result["optimizer"], "total": row["total"], **equals}
            cards[output].setdefault("classic", {}).setdefault(size, {}).update(figures)
    for output, card in cards.items():
        write_style(nets[output], card, output)
    return list(cards)


def write_style(net: ImageTransformNet, card: Mapping[str, Any], output: Path) -> float:
    """Write weights, card and .onnx of a shipped network; nothing there is touched before the export has proved itself.

    Returns:
        the largest difference between torch and ONNX Runtime.
    """
    with tempfile.TemporaryDirectory() as trial:
        weights = Path(trial, f"{output.stem}.safetensors")
        save_weights(weights, net.state_dict(), card)
        difference = export(weights, weights.with_suffix(".onnx"))
        for path in Path(trial).iterdir():
            write_atomically(output.parent / path.name, path.read_bytes())
    return difference


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, nargs="?")
    parser.add_argument("--photos", type=Path, help="held-out photos")
    parser.add_argument("--name", help="of the style, a folder name")
    parser.add_argument("--evaluation", type=Path, help="of shipped networks, what allaprima evaluate wrote; instead of a run")
    arguments = parser.parse_args()
    if arguments.evaluation:
        print(*add_evaluation(json.loads(arguments.evaluation.read_text())))
    elif arguments.run_folder and arguments.photos and arguments.name:
        print(ship(arguments.run_folder, arguments.photos, arguments.name))
    else:
        parser.error("a run folder with --photos and --name is needed, or --evaluation")
