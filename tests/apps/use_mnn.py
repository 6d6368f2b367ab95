"""README's snippet for MNN. Arguments: a style that mnnconvert made, the photo, where the painting goes."""

# README begins
import sys

import MNN.expr as expr
import MNN.nn as nn
import numpy as np
from PIL import Image, ImageOps

style, photo, painting = sys.argv[1:]
net = nn.load_module_from_file(style, ["content_image"], ["stylized_image"])  # once
frame = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"), np.float32) / 255
height, width = frame.shape[:2]  # at least 16 each; the network takes multiples of 4
content = np.pad(frame, ((0, -height % 4), (0, -width % 4), (0, 0)), "reflect").transpose(2, 0, 1)[None]
content = expr.const(np.ascontiguousarray(content), content.shape, expr.NCHW)
stylized = expr.convert(net.forward(expr.convert(content, expr.NC4HW4)), expr.NCHW).read()
levels = np.rint(255 * stylized[0].transpose(1, 2, 0)[:height, :width]).clip(0, 255)
Image.fromarray(levels.astype(np.uint8)).save(painting)
# README ends
