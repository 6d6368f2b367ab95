"""README's snippet for ncnn. Arguments: a style that pnnx made, without .param, the photo, where the painting goes."""

# README begins
import sys

import ncnn
import numpy as np
from PIL import Image, ImageOps

style, photo, painting = sys.argv[1:]
net = ncnn.Net()  # once
net.load_param(style + ".param")
net.load_model(style + ".bin")
frame = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"), np.float32) / 255
height, width = frame.shape[:2]  # at least 16 each; the network takes multiples of 4
content = np.pad(frame, ((0, -height % 4), (0, -width % 4), (0, 0)), "reflect")
planes = np.ascontiguousarray(content.transpose(2, 0, 1))  # a Mat does not keep what it was made of alive
extractor = net.create_extractor()
extractor.input("in0", ncnn.Mat(planes))
_, result = extractor.extract("out0")
stylized = np.array(result)
levels = np.rint(255 * stylized.transpose(1, 2, 0)[:height, :width]).clip(0, 255)
Image.fromarray(levels.astype(np.uint8)).save(painting)
# README ends
