import cv2  # noqa: F401  before PyAV: both bring a libxcb, and OpenCV's windows hang for ever where PyAV's came first
