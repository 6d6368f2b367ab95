"""README's snippet for ONNX Runtime in Python. Arguments: a frame file, the photo, where the painting goes."""

# README begins
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

style, photo, painting = sys.argv[1:]
session = onnxruntime.InferenceSession(style, providers=["CPUExecutionProvider"])  # once
frame = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
feeds = {"content_frame": frame[None]}
feeds["keep_color"] = np.array(1, np.float32)  # the photo's colors; leave this line out for the painting's
Image.fromarray(session.run(["stylized_frame"], feeds)[0][0]).save(painting)
# README ends
