"""README's snippet for raw frames through a pipe. Arguments: a frame file, width, height."""

# README begins
import sys

import numpy as np
import onnxruntime

style, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
session = onnxruntime.InferenceSession(style, providers=["CPUExecutionProvider"])
while len(data := sys.stdin.buffer.read(3 * width * height)) == 3 * width * height:
    frame = np.frombuffer(data, np.uint8).reshape(1, height, width, 3)
    sys.stdout.buffer.write(session.run(["stylized_frame"], {"content_frame": frame})[0].tobytes())
# README ends
