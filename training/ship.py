"""Put a finished training into checkpoints/: evaluated, exported, with its card. For those who maintain the styles.

python -m training.ship runs/great_wave-realtime --photos HELDOUT_FOLDER --name great_wave
"""

import argparse
import json
from pathlib import Path

from allaprima import __version__
from inference.styles import FOLDER
from models.vgg import load_vgg19
from training.checkpoint import load_net, save_weights
from training.config import TrainConfig
from training.evaluate import heldout_losses
from training.export import export, find_weights
from training.loop import read_painting

SIZES_PX = (256, 512)


def ship(run_folder: Path, photos: Path, name: str, folder: Path = FOLDER) -> Path:
    """Evaluate a run's network on held-out photos and write <name>/<tier>.safetensors, .json and .onnx.

    Returns:
        the .onnx file.
    """
    options = run_folder / "options.json"
    config = TrainConfig.from_json(options.read_text(), options)
    net, card = load_net(find_weights(run_folder))
    vgg = load_vgg19(config.vgg19)
    style_frame = read_painting(config)
    card["heldout"] = {str(size): heldout_losses(net, vgg, style_frame, photos, size) for size in SIZES_PX}
    card["heldout_photos"] = f"{photos.name}, unitless losses"
    style_folder = folder / name
    style_folder.mkdir(parents=True, exist_ok=True)
    weights = style_folder / f"{config.tier}.safetensors"
    save_weights(weights, net.state_dict(), card)
    output = weights.with_suffix(".onnx")
    difference = export(weights, output, __version__)
    print(json.dumps(card["heldout"]), f"torch and ONNX Runtime differ by {difference:.1e}")
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="held-out photos")
    parser.add_argument("--name", required=True, help="of the style, a folder name")
    arguments = parser.parse_args()
    print(ship(arguments.run_folder, arguments.photos, arguments.name))
