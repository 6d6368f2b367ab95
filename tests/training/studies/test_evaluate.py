import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from allaprima.inference.style import styles as styles_module
from allaprima.inference.style.session import StyleSession
from allaprima.models.vgg import load_vgg19
from allaprima.training.checkpoint import load_net
from allaprima.training.config import TrainConfig
from allaprima.training.gallery import ship as ship_module
from allaprima.training.photos.folder import list_photos
from allaprima.training.studies import evaluate as evaluate_module
from allaprima.training.studies.evaluate import border_band, first_at_most, heldout_losses, read_square, summarize, table
from allaprima.training.style_image import read_style_image


class Paint(torch.nn.Module):
    """Multiplies the photo by a number: 1 copies it, 0 paints it black."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.gain


def test_a_copy_has_no_content_loss_and_black_a_large_one(photo_folder, landscape):
    vgg = load_vgg19("tiny")
    copy = heldout_losses(Paint(1.0), vgg, landscape, list_photos(photo_folder), 64)
    black = heldout_losses(Paint(0.0), vgg, landscape, list_photos(photo_folder), 64)
    assert copy["content"] == 0
    assert black["content"] > 0.1
    assert copy["total10"] == pytest.approx(copy["content"] + 10 * copy["style"], abs=2e-3)


def test_a_band_at_one_border_is_found_and_a_copy_has_almost_none(photo_folder):
    def with_band(image: torch.Tensor) -> torch.Tensor:
        image = image * 0.8
        image[..., -16:] += 20 / 255
        return image

    photos = list_photos(photo_folder)
    copy = border_band(Paint(0.8), photos, 96)
    assert copy < 5
    assert border_band(with_band, photos, 96) == pytest.approx(20, abs=copy + 0.1)


def test_a_photo_is_measured_in_its_central_square(tmp_path):
    frame = np.arange(64 * 48 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 48, 3)
    Image.fromarray(frame).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(read_square(tmp_path / "photo.png", 48), frame[8:56])


@pytest.mark.thorough
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
        "tiny",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    assert run("train", painting, "--photos", photo_folder, "-o", tmp_path / "run", *options)[0] == 0
    output = ship_module.ship(tmp_path / "run", photo_folder, "strokes", tmp_path / "checkpoints")
    assert output == tmp_path / "checkpoints" / "strokes" / "realtime.onnx"
    names = {"realtime.json", "realtime.safetensors", "realtime.onnx"}
    names |= {f"realtime.{flavor}.onnx" for flavor in ("frame", "int8", "fp16")} | {"painting.jpg"}
    assert {path.name for path in output.parent.iterdir()} == names
    from allaprima.inference.style.onnx_file import read_style
    from allaprima.inference.style.styles import shipped_styles

    [style] = shipped_styles(tmp_path / "checkpoints")
    assert style.card["border_band"] >= 0
    assert set(style.card["heldout"]["64"]) == {"content", "style", "total10"}
    row = {"strokes/realtime": {"total": 1.5, "equals": {"noise": 3, "content": None}}}
    found = {"photos": 2, "optimizer": "lbfgs", "against": [5], "sizes": {"64": {"networks": row}}}
    before = read_style(output.with_name("realtime.int8.onnx"))[1]
    ship_module.add_evaluation(found, tmp_path / "checkpoints")
    for path in output.parent.glob("*.onnx"):
        assert read_style(path)[1].card["classic"]["64"]["content"] == "more than 5"
    assert read_style(output.with_name("realtime.int8.onnx"))[1].report == before.report


def test_the_first_iteration_that_is_as_good_counts():
    assert first_at_most(np.array([5.0, 3.0, 2.0, 2.5, 1.0]), 2.0) == 2
    assert first_at_most(np.array([5.0, 3.0]), 2.0) is None
    assert first_at_most(np.array([5.0, 3.0]), 9.0) == 0


def test_a_network_equals_the_iterations_that_reach_its_mean_total():
    network = [[0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 5.0]]  # two photos: content, style, tv, total
    curves = [[[1.0, 0.0, 0.0, total] for total in totals] for totals in ([9.0, 3.0, 1.0], [9.0, 7.0, 6.0])]
    found = summarize({"net": network}, {"noise": curves})
    assert found["networks"]["net"]["total"] == 4.0
    assert found["networks"]["net"]["equals"] == {"noise": 2}  # means 9, 5, 3.5
    assert found["networks"]["net"]["equals_by_photo"] == {"noise": [1, None]}
    assert found["classic"]["noise"]["total"] == [9.0, 5.0, 3.5]


@pytest.fixture
def evaluation(painting, photo_folder, tmp_path) -> list[object]:
    """Options of a small evaluation."""
    fast = ("--sizes", "32", "--vgg19", "tiny", "--device", "cpu", "--precision", "fp32")
    options = ("--limit", "2", "--against", "1,3", *fast)
    return ["--style-image", painting, "--photos", photo_folder, "-o", tmp_path / "evaluation.json", *options]


def test_evaluate_writes_table_json_and_plot(run, evaluation, painting, photo_folder, style_file, tmp_path):
    code, out, _ = run("evaluate", style_file, *evaluation)
    assert code == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert table(result) in out
    with Image.open(tmp_path / "evaluation.png") as picture:
        assert picture.width > 400
    found = result["sizes"]["32"]
    assert set(found["classic"]) == {"noise", "content"}
    assert all(len(values) == 4 for parts in found["classic"].values() for values in parts.values())
    assert found["classic"]["content"]["content"][0] == 0  # it starts from the photo
    [(name, row)] = found["networks"].items()
    session = StyleSession(style_file)
    expected = heldout_losses(
        lambda image: torch.tensor(session.stylize_image(image.contiguous().numpy())),
        load_vgg19("tiny"),
        read_style_image(str(painting), TrainConfig.style_size_px),
        list_photos(photo_folder)[:2],
        32,
    )
    assert row["content"] == pytest.approx(expected["content"], rel=1e-2)
    assert row["style"] == pytest.approx(expected["style"], rel=1e-2)
    assert row["total"] == pytest.approx(row["content"] + 5 * row["style"] + 0.5 * row["tv"], rel=1e-3)
    assert f"{name:32}" in out


def test_an_interrupted_evaluation_keeps_finished_sizes(run, evaluation, style_file, tmp_path, monkeypatch):
    descend = evaluate_module.descend

    def interrupted(image, *rest):
        for step in descend(image, *rest):
            if image.shape[2] == 48:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    monkeypatch.setattr(evaluate_module, "descend", interrupted)
    code, _, err = run("evaluate", style_file, *evaluation, "--sizes", "32,48")
    assert code == 130
    assert "finished sizes are in" in err
    assert list(json.loads((tmp_path / "evaluation.json").read_text())["sizes"]) == ["32"]


def test_evaluate_overwrites_nothing(run, evaluation, style_file, tmp_path):
    (tmp_path / "evaluation.png").write_text("precious")
    code, _, err = run("evaluate", style_file, *evaluation)
    assert code == 1
    assert "evaluation.png exists" in err
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sizes", "40"], "--sizes is 40; a multiple of 16 is needed"),
        (["--inits", "photo"], '--inits is "photo"; one of noise, content is wanted'),
        (["--against", "-1"], "--against is -1; at least 0 is needed"),
        (["--photos", "nowhere"], "nowhere is not a folder"),
        (["-o", "nowhere/e.json"], "there is no folder nowhere"),
        (["-o", "evaluation.txt"], "a name that ends in .json"),
    ],
)
def test_what_cannot_be_evaluated_says_why(run, evaluation, style_file, more, message, tmp_path):
    code, _, err = run("evaluate", style_file, *evaluation, *more)
    assert code == 1
    assert message in err
    assert not (tmp_path / "evaluation.json").exists()


def test_networks_with_other_weights_are_not_compared(run, evaluation, style_file, tmp_path):
    import onnx

    model = onnx.load(style_file)
    for prop in model.metadata_props:
        if prop.key == "allaprima.card":
            prop.value = json.dumps({**json.loads(prop.value), "options": {"style_weight": 8.0}})
    onnx.save(model, tmp_path / "other.onnx")
    code, _, err = run("evaluate", style_file, tmp_path / "other.onnx", *evaluation)
    assert code == 1
    assert "other loss weights" in err


def test_an_evaluation_is_added_to_the_cards_and_changes_no_weights(style_file, tmp_path, run, monkeypatch):
    (tmp_path / "strokes").mkdir()
    for suffix in (".safetensors", ".json", ".onnx"):
        source = style_file.with_suffix(suffix)
        (tmp_path / "strokes" / f"realtime{suffix}").write_bytes(source.read_bytes())
    before, _ = load_net(style_file.with_suffix(".safetensors"))
    for size, equals in (("256", {"noise": 21, "content": None}), ("512", {"noise": 30, "content": 12})):
        sizes = {size: {"networks": {"strokes/realtime": {"total": 1.2, "equals": equals}}}}
        ship_module.add_evaluation({"photos": 10, "optimizer": "lbfgs", "against": [20, 40], "sizes": sizes}, tmp_path)
    after, card = load_net(tmp_path / "strokes" / "realtime.safetensors")
    assert card["classic"]["256"] == {"photos": 10, "optimizer": "lbfgs", "total": 1.2, "noise": 21, "content": "more than 40"}
    assert card["title"] == "Strokes"
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert StyleSession(tmp_path / "strokes" / "realtime.onnx").contract.card["classic"]["512"]["content"] == 12
    monkeypatch.setattr(styles_module.shipped_styles, "__defaults__", (tmp_path, None))
    _, out, _ = run("styles")
    assert "worth 21 iterations from noise, more than 40 iterations from content of the classic optimization at 256 px" in out
    assert "worth 30 iterations from noise, 12 iterations from content of the classic optimization at 512 px" in out
