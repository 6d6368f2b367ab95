"""What other runtimes need in an .onnx file. Standard library only."""

from dataclasses import dataclass

from allaprima.models.contract import PRECISIONS

FIRST_OPSET = 9  # the lowest that is written, for Barracuda


@dataclass(frozen=True)
class Target:
    """What a runtime needs in a file.

    Attributes:
        why: what is changed for it and why, one line for people.
        precisions: those that it accepts.
        frames: it also accepts frame files.
        fixed_size: it takes pictures of one size only.
        opset: the highest it knows, where that matters.
        plain: no mirroring Pad and no DepthToSpace: slices and a transposed convolution do the same work, bit for bit.
        symmetric: int8 zero points are all 0.
    """

    why: str
    precisions: tuple[str, ...] = ("fp32",)
    frames: bool = False
    fixed_size: bool = False
    opset: int | None = None
    plain: bool = False
    symmetric: bool = False


TARGETS = {
    "onnxruntime": Target("the default: nothing is changed", PRECISIONS, frames=True),
    "opencv": Target("one size, plain operators: what 4.5 and up open", fixed_size=True, plain=True),
    "unity": Target("opset 9, which Barracuda and every Sentis read; neither has int8", opset=9),
    "lens-studio": Target("one size, opset 10, plain operators", fixed_size=True, opset=10, plain=True),
    "coreml": Target("one size, plain operators: it splits the network at mirrors", fixed_size=True, plain=True),
    "litert": Target("one size, plain operators: converters get shuffles wrong", fixed_size=True, plain=True),
    "nnapi": Target("one size, plain operators: it mirrors nothing", fixed_size=True, plain=True),
    "qnn": Target("one size", ("fp32", "fp16"), fixed_size=True),
    "openvino": Target("nothing is changed", PRECISIONS, frames=True),
    "tensorrt": Target("int8 without zero points", PRECISIONS, frames=True, symmetric=True),
    "ncnn": Target("nothing is changed; pnnx takes no 8-bit files"),
    "mnn": Target("nothing is changed", PRECISIONS),
}
