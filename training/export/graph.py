"""A network as an ONNX graph: with color and strength built in, in fp16, in int8."""

import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper, parser
from onnxscript import optimizer
from torch import Tensor, nn

from allaprima.models.contract import IMAGE, OPSET, Tensors
from allaprima.models.frame_model import IR_VERSION, around, mixing_matrices

FOLDED = 2**26  # elements


class _HalfInside(nn.Module):
    """The network in float16, with float32 input and output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).half()

    def forward(self, content_image: Tensor) -> Tensor:
        stylized_image: Tensor = self.net(content_image.half())
        return stylized_image.float()


def to_onnx(net: nn.Module, half: bool = False) -> ModelProto:
    """The network as an ONNX graph with our names and no trace of the machine it was made on.

    Args:
        net: not changed.
        half: weights and activations in float16; input and output stay float32.
    """
    net = net.eval().cpu()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; the comparison is what counts
        program = torch.onnx.export(
            _HalfInside(net).eval() if half else net,
            (torch.rand(2, 3, 64, 96),),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[IMAGE.input],
            output_names=[IMAGE.output],
            dynamic_shapes=({i: dim for i, dim in enumerate(IMAGE.dims) if isinstance(dim, str)},),
            verbose=False,
        )
    assert program is not None
    # Values computed from weights alone are folded into weights; by default only small ones are.
    optimizer.optimize(program.model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    model = program.model_proto
    model.ir_version = IR_VERSION
    return tidied(model, IMAGE)


def with_own_names(model: ModelProto, own: Mapping[str, np.ndarray]) -> ModelProto:
    """The same model with these names for those initializers that are these arrays: the exporter gives names of its own to
    what it computes from `skip` and `bias`."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    names = {}
    for name, array in own.items():
        found = [
            each for each, tensor in tensors.items() if tensor.shape == array.shape and np.allclose(tensor, array, atol=1e-5)
        ]
        assert len(found) == 1 or name in found, name
        names[name if name in found else found[0]] = name
    named = ModelProto()
    named.CopyFrom(model)
    for tensor in named.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in named.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return named


def tidied(model: ModelProto, tensors: Tensors) -> ModelProto:
    """The same model with only what is needed in it, and with named dims for input and output."""
    tidy = ModelProto()
    tidy.CopyFrom(model)
    del tidy.metadata_props[:]
    del tidy.graph.metadata_props[:]
    del tidy.graph.value_info[:]
    for part in (*tidy.graph.node, *tidy.graph.input, *tidy.graph.output, *tidy.graph.initializer):
        del part.metadata_props[:]  # stack traces with absolute paths
        part.ClearField("doc_string")
    for tensor in tidy.graph.initializer:  # all in the one form that the runtime's check knows
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    for value in (tidy.graph.input[0], tidy.graph.output[0]):
        # The exporter calls the output's height "4*(height//4)"; at the sizes we allow, this is the input's height.
        for dim, name in zip(value.type.tensor_type.shape.dim, tensors.dims, strict=True):
            if isinstance(name, str):
                dim.dim_param = name
    return tidy


def with_color(model: ModelProto, strength: float, keep_color: float) -> ModelProto:
    """The image graph with strength and the content's luminance-only colors built in, as in `mixing_matrices`.

    Args:
        model: what `to_onnx` or `quantize` made. strength, keep_color: 0 to 1.
    """
    p0, p1, p2 = mixing_matrices()
    mixing = (p0 + strength * p1 + strength * keep_color * p2).astype(np.float32).reshape(3, 6, 1, 1)
    dims = ", ".join(str(dim) for dim in IMAGE.dims)
    how = "dilations = [1, 1], group = 1, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]"
    # Two convolutions and a sum, because OpenCV 4 cannot concatenate pictures of free sizes.
    graph = parser.parse_graph(
        f"""
        image (float[{dims}] {IMAGE.input}) => (float[{dims}] {IMAGE.output})
        {{
          content_share = Conv<{how}>({IMAGE.input}, mixing_of_content)
          painted_share = Conv<{how}>(painted_image, mixing_of_painted)
          mixed_image = Add(content_share, painted_share)
          {IMAGE.output} = Clip(mixed_image, darkest, lightest)
        }}
        """
    )
    arrays = {
        "mixing_of_content": mixing[:, :3],
        "mixing_of_painted": mixing[:, 3:],
        "darkest": np.array(0.0, np.float32),
        "lightest": np.array(1.0, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return around(model, graph, 0, "painted_image")


def quantize(model: ModelProto, content_images: Sequence[np.ndarray], symmetric: bool = False) -> ModelProto:
    """The image graph with 8-bit convolutions between its norms: QDQ, per-channel weights, static ranges.

    The first convolution, which sees the picture, and the last ones, which no norm follows, stay in float32. They are 20 %
    of the realtime tier's work; with them in 8 bits, too, it took 17 instead of 18 ms at 640x480, and The Starry Night got
    31.1 instead of 37.6 dB. Ranges are means over the photos, not extremes: 40.0 instead of 36.5 dB for The Great Wave.
    Weights have 7 bits, as processors without VNNI overflow at 8; that cost 0.1 dB.

    Args:
        model: what `to_onnx` made, in float32.
        content_images: (1, 3, H, W) float32, to measure the ranges on.
        symmetric: activations in signed 8 bits, every zero point 0.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest: Iterator[np.ndarray] = iter(content_images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._rest, None)
            return None if image is None else {IMAGE.input: image}

    normed = {node.input[0] for node in model.graph.node if node.op_type == "InstanceNormalization"}
    normed |= {node.input[0] for node in model.graph.node if node.op_type == "DepthToSpace" and node.output[0] in normed}
    channels = {tensor.name: tensor.dims[1] for tensor in model.graph.initializer if len(tensor.dims) == 4}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("plain", "prepared", "quantized"))
        onnx.save(model, plain)  # as a file: given the model itself, it moves the weights out of it
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        nodes = [node for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
        quantize_static(
            prepared,
            quantized,
            Photos(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[node.name for node in nodes if node.output[0] not in normed or channels[node.input[1]] == 3],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.1, "ActivationSymmetric": symmetric},
        )
        result = onnx.load(quantized)
    del result.opset_import[:]  # it adds com.microsoft, which nothing here uses
    result.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    return tidied(result, IMAGE)
