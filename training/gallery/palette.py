"""Writes the palette, which styles are mixed from, out of the base. For those who maintain it:

python -m allaprima.training.gallery.palette
"""

import argparse
import io
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from allaprima.inference.atomic import write_atomically
from allaprima.inference.style.palette import NAMES, PALETTE, TEMPLATE
from allaprima.models.contract import Contract
from allaprima.training.conditional_instance_norm import Base, load_base
from allaprima.training.export.conversion import at_opset
from allaprima.training.export.export import serialized
from allaprima.training.export.graph import to_onnx


def write_palette(base: Base, path: Path = PALETTE) -> None:
    """One style file, and the numbers in it that are each painting's own.

    All of them depend linearly on the parameters that are a painting's own, so that a mean of files is the file of the
    mean.
    """
    models, nets = [], [base.network(name).eval() for name in base.names]
    for net in nets:
        net.upsampling = str(base.card["options"]["upsampling"])
        models.append(at_opset(to_onnx(net)))
    tensors = [{tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} for model in models]
    assert all(list(model.graph.node) == list(models[0].graph.node) for model in models)
    own = {
        name: np.stack([each[name] for each in tensors])
        for name, array in tensors[0].items()
        if any(not np.array_equal(each[name], array) for each in tensors)
    }
    card = {
        "title": "a mix",
        "license": "public domain",
        "tier": base.tier,
        "strokes": 1.5,
        "photos_seen": base.card["photos_seen"],
    }
    template = serialized(models[0], Contract(nets[0].stride_px, nets[0].least_px, card))
    write_npz(path, {TEMPLATE: np.frombuffer(template, np.uint8), NAMES: np.array(base.names), **own})


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    write_atomically(path, data.getvalue())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_palette(load_base("realtime"))
