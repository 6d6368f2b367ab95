import numpy as np
import pytest
import torch

from models.vgg import load_vgg19
from training import ship as ship_module
from training.evaluate import heldout_losses, middle_square


class Paint(torch.nn.Module):
    """Multiplies the photo by one number: 1 copies it, 0 paints it black."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.gain


def test_a_copy_has_no_content_loss_and_black_a_large_one(photo_folder, landscape):
    vgg = load_vgg19("random")
    copy = heldout_losses(Paint(1.0), vgg, landscape, photo_folder, 64)
    black = heldout_losses(Paint(0.0), vgg, landscape, photo_folder, 64)
    assert copy["content"] == 0
    assert black["content"] > 0.1
    assert copy["total10"] == pytest.approx(copy["content"] + 10 * copy["style"], abs=2e-3)


def test_middle_square_is_the_middle():
    frame = np.arange(6 * 4).reshape(6, 4)[:, :, None].repeat(3, axis=2)
    np.testing.assert_array_equal(middle_square(frame, 4)[:, :, 0], frame[1:5, :, 0])


def test_shipping_writes_weights_card_and_onnx(run, painting, photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ship_module, "SIZES_PX", (64,))
    options = [
        "--steps",
        "1",
        "--batch-size",
        "1",
        "--size",
        "32",
        "--style-size",
        "32",
        "--vgg19",
        "random",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    assert run("train", painting, "--photos", photo_folder, "-o", tmp_path / "run", *options)[0] == 0
    output = ship_module.ship(tmp_path / "run", photo_folder, "strokes", tmp_path / "checkpoints")
    assert output == tmp_path / "checkpoints" / "strokes" / "realtime.onnx"
    assert sorted(path.suffix for path in output.parent.iterdir()) == [".json", ".onnx", ".safetensors"]
    from inference.styles import shipped_styles

    [style] = shipped_styles(tmp_path / "checkpoints")
    assert set(style.card["heldout"]["64"]) == {"content", "style", "total10"}
