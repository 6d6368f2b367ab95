"""A trained network as an .onnx file, compared with torch before it is kept."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from inference.atomic import write_atomically
from inference.demo import paint_landscape
from inference.session import StyleSession, pad_image
from models import __version__
from models.contract import DIMS, INPUT, OPSET, OUTPUT, Contract
from models.errors import StyleError
from models.image_transform_net import ImageTransformNet
from training.checkpoint import find_weights, load_net

SIZES = ((1, 1), (17, 33), (64, 64), (123, 250), (301, 199))  # height, width of the comparison
TOLERANCE = 1e-3  # largest difference on [0, 1]: a quarter of an 8-bit level


def export(run_or_checkpoint: Path, output: Path) -> float:
    """Write a network as .onnx, if ONNX Runtime paints the same with it as torch.

    Args:
        run_or_checkpoint: a run folder (its weights.safetensors, else its newest checkpoint) or a .safetensors file.
        output: the .onnx file.
    Returns:
        the largest difference between torch and ONNX Runtime, on [0, 1].
    Raises:
        StyleError: not weights of ours, or the two differ by more than `TOLERANCE`; nothing is written then.
        TrainingError: a run folder without weights.
    """
    if output.suffix.lower() != ".onnx":
        raise StyleError(f"{output} is not named .onnx; give -o FILE.onnx")
    net, card = load_net(find_weights(run_or_checkpoint))
    model = to_onnx(net)
    contract = Contract(net.stride_px, net.least_px, card)
    onnx.helper.set_model_props(model, contract.to_metadata(__version__))
    model.producer_name, model.producer_version = "allaprima", __version__
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, "trial.onnx")
        trial.write_bytes(data)
        difference = largest_difference(net, StyleSession(trial, "cpu"))
    if not difference <= TOLERANCE:
        raise StyleError(
            f"ONNX Runtime differs from torch by {difference:.2g} (at most {TOLERANCE} is wanted); {output} is not written"
        )
    try:
        write_atomically(output, data)
    except OSError as error:
        raise StyleError(f"{output} cannot be written: {error.strerror or error}") from error
    return difference


def to_onnx(net: torch.nn.Module) -> onnx.ModelProto:
    """The network as an ONNX graph with our names and no trace of the machine it was made on."""
    net = net.eval().cpu()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; the comparison is what counts
        program = torch.onnx.export(
            net,
            (torch.rand(2, 3, 64, 96),),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: DIMS[0], 2: DIMS[2], 3: DIMS[3]},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]  # stack traces with absolute paths
    for value in (*model.graph.input, *model.graph.output):
        # The exporter calls the output's height "4*(height//4)"; at the sizes we allow it is the input's.
        for dim, name in zip(value.type.tensor_type.shape.dim, DIMS, strict=True):
            if isinstance(name, str):
                dim.dim_param = name
    return model


@torch.no_grad()
def largest_difference(net: ImageTransformNet, session: StyleSession) -> float:
    """Between torch and ONNX Runtime over `SIZES`, on a landscape and on noise; on [0, 1], nan counts as infinite."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for height, width in SIZES:
        landscape = paint_landscape(320, 320)[:height, :width].transpose(2, 0, 1).astype(np.float32) / 255.0
        for image in (landscape[None], rng.random((1, 3, height, width), dtype=np.float32)):
            padded = torch.from_numpy(pad_image(image, net.stride_px, net.least_px))
            expected = net(padded)[:, :, :height, :width].numpy()
            difference = float(np.abs(session.stylize_image(image) - expected).max())
            worst = max(worst, difference if np.isfinite(difference) else np.inf)
    return worst
