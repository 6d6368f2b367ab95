"""README's snippet for OpenVINO. Arguments: a frame file, the photo, where the painting goes."""

# README begins
import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

style, photo, painting = sys.argv[1:]
net = openvino.compile_model(style, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # once; "GPU", "NPU"
frame = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
Image.fromarray(net(frame[None])["stylized_frame"][0]).save(painting)
# README ends
