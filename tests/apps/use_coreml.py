"""README's snippet for Core ML. Arguments: a .safetensors file, the package to write, width, height."""

# README begins
import sys
from pathlib import Path

import coremltools as ct
import torch

from allaprima.training.checkpoint import load_net

weights, package, width, height = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
net, card = load_net(weights)
content = torch.zeros(1, 3, height, width)
program = torch.export.export(net.eval(), (content,)).run_decompositions({})
image = ct.ImageType(name="content_image", shape=content.shape, scale=1 / 255)
ct.convert(program, inputs=[image], minimum_deployment_target=ct.target.iOS16).save(package)
# README ends
