"""Writes the palette, which styles are mixed from, out of the base. For those who maintain it:

python -m allaprima.training.gallery.palette
"""

import argparse
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from allaprima.inference.style.palette import BODY, NAMES, PALETTE, TEMPLATE
from allaprima.models.contract import Contract
from allaprima.training.conditional_instance_norm import STROKES, Base, load_base, write_npz
from allaprima.training.export.conversion import at_opset
from allaprima.training.export.export import serialized
from allaprima.training.export.graph import to_onnx


def write_palette(base: Base, path: Path = PALETTE) -> None:
    """One style file, and each painting's own numbers, which are put into it."""
    nets = [base.network(name).eval() for name in base.names[:2]]
    for net in nets:
        net.upsampling = str(base.card["options"]["upsampling"])
    models = [at_opset(to_onnx(net)) for net in nets]
    tensors = [{tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} for model in models]
    assert list(models[0].graph.node) == list(models[1].graph.node)
    differing = {name for name, array in tensors[0].items() if not np.array_equal(array, tensors[1][name])}
    # The exporter gives names of its own to what it computes from `skip` and `bias`.
    renamed = {name: "skip" if tensors[0][name].ndim == 4 else "bias" for name in differing - base.own.keys()}
    assert differing == {*renamed, *base.own} - {"skip", "bias"}
    for tensor in models[0].graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in models[0].graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    card = {
        "title": "a mix",
        "license": "public domain",
        "tier": base.tier,
        "strokes": STROKES,
        "photos_seen": base.card["photos_seen"],
    }
    template = serialized(models[0], Contract(nets[0].stride_px, nets[0].least_px, card))
    arrays = {name: tensor.numpy() for name, tensor in base.own.items()}
    write_npz(
        path, {TEMPLATE: np.frombuffer(template, np.uint8), NAMES: np.array(base.names), BODY: np.array(base.body), **arrays}
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_palette(load_base("realtime"))
