"""README's snippet for LiteRT. Arguments: a style that onnx2tf made, the photo, where the painting goes."""

# README begins
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

style, photo, painting = sys.argv[1:]
net = Interpreter(style)  # once
net.allocate_tensors()
(content,), (stylized,) = net.get_input_details(), net.get_output_details()
height, width = content["shape"][1:3]  # the one size of the file; pixels, not planes
picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB").resize((width, height))
net.set_tensor(content["index"], np.asarray(picture, np.float32)[None] / 255)
net.invoke()
levels = np.rint(255 * net.get_tensor(stylized["index"])[0]).clip(0, 255)
Image.fromarray(levels.astype(np.uint8)).save(painting)
# README ends
