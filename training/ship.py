"""Put a finished training into checkpoints/: evaluated, exported, with its card. For those who maintain the styles.

python -m training.ship runs/great_wave-realtime --photos HELDOUT_FOLDER --name great_wave
"""

import argparse
import json
import tempfile
from pathlib import Path

from inference.atomic import write_atomically
from inference.styles import FOLDER
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
    card["heldout"] = {str(size): heldout_losses(net, vgg, style_frame, list_photos(photos), size) for size in SIZES_PX}
    card["heldout_photos"] = len(list_photos(photos))
    style_folder = folder / name
    style_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as trial:  # nothing shipped is touched before the export has proved itself
        weights = Path(trial, f"{config.tier}.safetensors")
        save_weights(weights, net.state_dict(), card)
        difference = export(weights, weights.with_suffix(".onnx"))
        for path in Path(trial).iterdir():
            write_atomically(style_folder / path.name, path.read_bytes())
    print(json.dumps(card["heldout"]), f"torch and ONNX Runtime differ by {difference:.1e}")
    return style_folder / f"{config.tier}.onnx"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="held-out photos")
    parser.add_argument("--name", required=True, help="of the style, a folder name")
    arguments = parser.parse_args()
    print(ship(arguments.run_folder, arguments.photos, arguments.name))
