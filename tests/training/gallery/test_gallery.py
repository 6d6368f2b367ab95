import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from allaprima.models.errors import TrainingError
from allaprima.models.image_transform_net import TIERS
from allaprima.models.vgg import load_vgg19
from allaprima.training import conditional_instance_norm, preview, start
from allaprima.training.conditional_instance_norm import ManyStyles, save_base
from allaprima.training.gallery import ship
from allaprima.training.gallery import train as gallery
from allaprima.training.gallery.train import config_of, read_gallery, ship_base, train_for, train_gallery, write_table
from allaprima.training.loop import check_alike


@pytest.fixture(scope="module")
def random_vgg():
    return load_vgg19("tiny")


@pytest.fixture
def shipped(tmp_path, monkeypatch, random_vgg):
    """An empty folder for shipped styles; makes trainings take only seconds."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for module in (gallery, conditional_instance_norm):
        monkeypatch.setattr(module, "FOLDER", folder)
    monkeypatch.setitem(ship.ship_net.__kwdefaults__, "folder", folder)
    monkeypatch.setattr(ship.shipped_card, "__defaults__", (folder,))
    monkeypatch.setattr(conditional_instance_norm.starts, "__defaults__", (folder,))
    monkeypatch.setattr(conditional_instance_norm.load_base, "__defaults__", (folder / "base",))
    monkeypatch.setattr(ship, "SIZES_PX", (32, 48))
    monkeypatch.setattr(ship, "FLAVORS", {tier: {"": ship.Flavor()} for tier in TIERS})
    monkeypatch.setattr(preview, "PREVIEW_PX", 32)
    for module in (start, ship):
        monkeypatch.setattr(module, "load_vgg19", lambda source, device="cpu": random_vgg)
    return folder


@pytest.fixture
def configs(tmp_path, painting, photo_folder):
    paintings = tmp_path / "paintings"
    paintings.mkdir()
    shutil.copy(painting, paintings / "strokes.png")
    dots = np.random.default_rng(7).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(dots).save(paintings / "dots.png")
    small = {"steps": 2, "batch_size": 2, "size_px": 32, "margin_px": 8, "style_size_px": 32, "device": "cpu"}
    options = {"photos": str(photo_folder), "precision": "fp32", "vgg19": "tiny", **small}
    return {name: config_of(name, {"title": name.title()}, paintings, **options) for name in ("strokes", "dots")}


def nowhere():
    return Console(file=io.StringIO())


def test_every_shipped_styles_card_agrees_with_the_gallery():
    from allaprima.inference.style.styles import shipped_styles

    entries = read_gallery()
    assert len(entries) >= 12
    for style in shipped_styles():
        entry = entries[style.name]
        assert {key: style.card[key] for key in ("title", "painter", "year")} == {
            key: entry[key] for key in ("title", "painter", "year")
        }
        assert style.card["strokes"] == entry["strokes"]


def test_a_gallery_with_an_unknown_option_is_refused(tmp_path):
    (tmp_path / "gallery.toml").write_text('[a]\nbrush = "large"\n')
    with pytest.raises(TrainingError, match=r"gallery\.toml is not a gallery: .*brush"):
        read_gallery(tmp_path / "gallery.toml")
    with pytest.raises(TrainingError, match=r"holds no painting nobody\.jpg"):
        config_of("nobody", {}, tmp_path, photos="")


@pytest.mark.thorough
def test_the_gallery_is_trained_together_and_later_only_better_networks_are_shipped(shipped, configs, tmp_path, photo_folder):
    runs = tmp_path / "runs"
    train_gallery(configs, runs, photo_folder, nowhere())
    cards = {name: json.loads((shipped / name / "realtime.json").read_text()) for name in configs}
    assert cards["dots"]["title"] == "Dots"
    assert (shipped / "strokes" / "realtime.onnx").is_file()
    before = (shipped / "dots" / "realtime.onnx").stat().st_mtime_ns
    train_gallery(configs, runs, photo_folder, nowhere())  # already finished, so nothing is trained and nothing is better
    assert (shipped / "dots" / "realtime.onnx").stat().st_mtime_ns == before
    assert len(list(runs.iterdir())) == 2


def test_the_shipped_network_is_judged_again_on_the_same_photos(shipped, configs, tmp_path, photo_folder):
    train_gallery(configs, tmp_path / "runs", photo_folder, nowhere())
    path = shipped / "dots" / "realtime.json"
    card = json.loads(path.read_text())
    for judged in card["judged"].values():
        judged["swd"] *= 2  # as if judged on harder photos
    path.write_text(json.dumps(card))
    train_gallery(configs, tmp_path / "runs", photo_folder, nowhere())
    assert json.loads(path.read_text()) == card


def test_a_network_is_shipped_if_no_judge_finds_it_worse_and_the_border_band_is_no_wider():
    judged = {"swd": 0.06, "ss": 0.16, "grid": 0.001, "palette": 0.8}
    card = {"judged": {"256": judged}, "border_band": 2.0}
    assert not ship.is_better(card, card)  # equal is not better
    for change, band, better in (({"swd": 0.05}, 2.0, True), ({"swd": 0.07}, 2.0, False), ({"swd": 0.05}, 3.5, False)):
        assert ship.is_better({"judged": {"256": judged | change}, "border_band": band}, card) == better
    assert ship.is_better({"judged": {"256": judged | {"swd": 0.05}}, "border_band": 3.5}, card | {"border_band": 4.0})


@pytest.mark.thorough
def test_time_goes_to_the_worst_style_first(shipped, configs, tmp_path, photo_folder, monkeypatch):
    monkeypatch.setattr(gallery, "TURN_STEPS", 2)
    train_gallery({"dots": configs["dots"]}, tmp_path / "runs", photo_folder, nowhere())
    trained = []
    begin = gallery.begin_or_go_on
    monkeypatch.setattr(
        gallery, "begin_or_go_on", lambda of, folders, console: (trained.append(of[0]), begin(of, folders, console))
    )
    train_for(0.001, configs, tmp_path / "turns", photo_folder, nowhere())
    assert [config.style_title for config in trained] == ["Strokes"]  # not shipped yet counts as worst
    monkeypatch.setattr(gallery.time, "monotonic", iter([0.0, 0.0, 0.0, 100.0]).__next__)
    monkeypatch.setattr(gallery, "begin_or_go_on", lambda of, folders, console: trained.append(of[0]))
    monkeypatch.setattr(gallery, "load_net", lambda _: (None, {}))
    monkeypatch.setattr(gallery, "find_weights", lambda folder: folder)
    monkeypatch.setattr(gallery, "ship_net", lambda *_, **__: None)
    train_for(1.0, configs, tmp_path / "turns", photo_folder, nowhere())
    assert {config.style_title for config in trained[1:]} == {"Strokes", "Dots"}  # each in turn
    assert all(config.init.endswith("realtime.safetensors") for config in trained[1:])  # starting from the shipped network
    assert all(config.lr == gallery.GO_ON_LR < trained[0].lr for config in trained[1:])


@pytest.mark.thorough
def test_the_bases_own_styles_are_shipped_with_their_share_of_its_training(shipped, configs, photo_folder):
    torch.manual_seed(0)
    net = ManyStyles(TIERS["realtime"](), 2)
    losses = {"content": 0.5, "style": 0.2, "tv": 0.0, "total": 1.5}
    card = {"tier": "realtime", "paintings": ["dots", "else"], "photos_seen": 800, "seconds": 10.0, "losses": losses}
    card["options"] = {"size_px": 48, "lr": 1e-3}
    (shipped / "base").mkdir()
    save_base(shipped / "base" / "realtime.safetensors", net, card)
    ship_base(configs, photo_folder)
    assert not (shipped / "strokes").exists()
    found = json.loads((shipped / "dots" / "realtime.json").read_text())
    assert (found["photos_seen"], found["paintings_together"], found["started_from"]) == (400, 2, "base")
    assert (found["options"]["size_px"], found["options"]["lr"]) == (48, 1e-3)  # those of the base's training


def test_the_sheet_shows_every_style(monkeypatch, tmp_path, style_file):
    style = type("Style", (), {"path": style_file, "full_name": "strokes/realtime"})
    monkeypatch.setattr(gallery, "shipped_styles", lambda: [style] * 2)
    gallery.write_sheet(tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] > 6 * 256  # three photos of two styles side by side
    assert sheet.shape[0] > 2 * 150


def test_the_readmes_table_agrees_with_the_cards(tmp_path):
    readme = tmp_path / "README.md"
    real = gallery.README.read_text()
    readme.write_text(real)
    write_table(readme)
    assert readme.read_text() == real
    readme.write_text(
        real.replace(
            gallery.TABLE_HEAD,
            gallery.TABLE_HEAD + "| gone/realtime | 0.1 | 0.1 | 0.1% | 1.10 | 1.0 | 0.1, 0.1 | 0.1 | 0.1 |\n",
        )
    )
    write_table(readme)
    assert readme.read_text() == real
    readme.write_text("nothing")
    with pytest.raises(TrainingError, match="has no table"):
        write_table(readme)


def test_the_gallery_can_be_trained_together(tmp_path):
    entries = read_gallery()
    for name in entries:
        (tmp_path / f"{name}.jpg").touch()
    check_alike([config_of(name, entry, tmp_path, photos="p") for name, entry in entries.items()])


def test_a_styles_options_are_used_in_its_training(configs, tmp_path):
    config = config_of("dots", {"title": "Dots", "style_size_px": 64}, tmp_path / "paintings", photos="p")
    assert (config.title, config.style_size_px, config.license) == ("Dots", 64, "public domain")


def test_the_gallery_is_trained_with_the_shipped_realtime_networks_recipe(configs, tmp_path):
    from allaprima.inference.style.styles import shipped_styles

    entries = read_gallery()
    for style in shipped_styles():
        shutil.copy(tmp_path / "paintings" / "dots.png", tmp_path / "paintings" / f"{style.name}.png")
        config = config_of(style.name, entries[style.name], tmp_path / "paintings", photos="p")
        if style.card["options"].get("recipe") == "painter":  # older networks were trained with content and Gram losses only
            recipe = {"recipe": "painter", "style_weight": style.card["options"]["style_weight"]}
            assert {name: getattr(config, name) for name in recipe} == recipe
    assert config_of("dots", {"style_weight": 7.0}, tmp_path / "paintings", photos="p").style_weight == 7.0
