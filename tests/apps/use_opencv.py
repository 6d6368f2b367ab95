"""README's snippet for OpenCV DNN in Python. Arguments: an image file, the photo, where the painting goes."""

# README begins
import sys

import cv2

style, photo, painting = sys.argv[1:]
net = cv2.dnn.readNetFromONNX(style)  # once
content = cv2.imread(photo)
height, width = content.shape[:2]  # at least 16 each; the network takes multiples of 4
content = cv2.copyMakeBorder(content, 0, -height % 4, 0, -width % 4, cv2.BORDER_REFLECT_101)
net.setInput(cv2.dnn.blobFromImage(content, 1 / 255, swapRB=True))
stylized = net.forward()[0].transpose(1, 2, 0)[:height, :width, ::-1]  # planes of RGB to pixels of BGR
cv2.imwrite(painting, cv2.convertScaleAbs(stylized, alpha=255))
# README ends
