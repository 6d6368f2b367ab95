"""Writes the palette, which styles are mixed from, out of the base. For those who maintain it:

python -m allaprima.training.gallery.palette
"""

import argparse
from pathlib import Path

import numpy as np

from allaprima.inference.style.palette import BODY, NAMES, PALETTE, TEMPLATE, initializers
from allaprima.models.contract import Contract
from allaprima.training.conditional_instance_norm import STROKES, Base, load_base, write_npz
from allaprima.training.export.conversion import at_opset
from allaprima.training.export.export import serialized
from allaprima.training.export.graph import to_onnx, with_own_names


def write_palette(base: Base, path: Path = PALETTE) -> None:
    """One style file, and each painting's own numbers, which are put into it."""
    net = base.network(base.names[0]).eval()
    net.upsampling = str(base.card["options"]["upsampling"])
    own = {name: tensor.numpy() for name, tensor in base.own.items()}
    model = with_own_names(at_opset(to_onnx(net)), initializers({name: array[0] for name, array in own.items()}))
    card = {
        "title": "a mix",
        "license": "public domain",
        "tier": base.tier,
        "strokes": STROKES,
        "photos_seen": base.card["photos_seen"],
    }
    template = serialized(model, Contract(net.stride_px, net.least_px, card))
    write_npz(
        path, {TEMPLATE: np.frombuffer(template, np.uint8), NAMES: np.array(base.names), BODY: np.array(base.body), **own}
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_palette(load_base("realtime"))
