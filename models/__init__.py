"""What both sides agree on, and the networks."""

__version__ = "0.2.0"  # of the program; goes into every .onnx
