import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import PictureError, TrainingError
from training.photos import HubPhotos, PhotoFolder, list_photos, random_crop


def test_a_batch_is_a_pure_function_of_seed_and_step(photo_folder):
    first, second = (PhotoFolder(photo_folder, 3, 64, seed=5) for _ in range(2))
    for step in range(4):
        first[step]
    torch.testing.assert_close(first[7].content_image, second[7].content_image)
    assert not torch.equal(first[7].content_image, PhotoFolder(photo_folder, 3, 64, seed=6)[7].content_image)


def test_an_epoch_shows_every_photo_once(photo_folder, monkeypatch):
    import training.photos

    seen = []
    read = training.photos.read_picture
    monkeypatch.setattr(training.photos, "read_picture", lambda path, *a, **k: (seen.append(path), read(path, *a, **k))[1])
    photos = PhotoFolder(photo_folder, 2, 64, seed=0)
    for step in range(3):
        photos[step]
    assert sorted(seen) == sorted(list_photos(photo_folder))


def test_batches_have_the_documented_shape(photo_folder):
    batch = PhotoFolder(photo_folder, 2, 96, seed=0)[0]
    assert batch.content_image.shape == (2, 96, 96, 3)
    assert batch.content_image.dtype == torch.uint8


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 300), (300, 40), (1, 1), (65, 64), (400, 600)])
def test_crops_of_any_photo_are_square_and_whole(height, width):
    frame = np.full((height, width, 3), 7, np.uint8)
    for seed in range(20):
        crop = random_crop(frame, 64, np.random.default_rng(seed))
        assert crop.shape == (64, 64, 3)
        assert (crop == 7).all()


def test_crops_are_not_squashed():
    yy, xx = np.mgrid[0:200, 0:400]
    disc = ((yy - 100) ** 2 + (xx - 200) ** 2 < 45**2).astype(np.uint8) * 255
    frame = np.repeat(disc[:, :, None], 3, axis=2)
    for seed in range(30):
        crop = random_crop(frame, 128, np.random.default_rng(seed))[:, :, 0] > 127
        rows, columns = crop.any(axis=1).sum(), crop.any(axis=0).sum()
        touches = crop[0].any() or crop[-1].any() or crop[:, 0].any() or crop[:, -1].any()
        assert touches or abs(int(rows) - int(columns)) <= 2


def test_damaged_photos_are_replaced_and_named(tmp_path, photo_folder):
    for i, path in enumerate(list_photos(photo_folder)):
        (tmp_path / f"{i}.jpg").write_bytes(path.read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:700])
    photos = PhotoFolder(tmp_path, 4, 64, seed=0)
    bad = {text for step in range(2) for text in photos[step].bad}
    assert len(bad) == 2
    assert any("bad.jpg is not a picture" in text for text in bad)
    assert any("cut.jpg is damaged" in text for text in bad)


def test_a_folder_of_damaged_photos_stops_with_a_message(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.jpg").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="holds no healthy photo"):
        PhotoFolder(tmp_path, 2, 64, seed=0)[0]


def test_no_folder_and_no_pictures_are_told_apart(tmp_path):
    with pytest.raises(TrainingError, match="not a folder"):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(TrainingError, match="holds no pictures"):
        list_photos(tmp_path)


def test_a_hub_datasets_image_column_is_found_by_type_and_bad_photos_skipped(monkeypatch, photo_folder):
    import datasets

    import training.photos

    cells = [{"bytes": path.read_bytes(), "path": None} for path in list_photos(photo_folder)]
    cells.insert(2, {"bytes": b"not a jpeg", "path": None})
    features = datasets.Features({"label": datasets.Value("int64"), "scan": datasets.Image()})
    rows = datasets.Dataset.from_dict({"label": list(range(7)), "scan": cells}, features=features).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    batches = iter(HubPhotos("somebody/photos", 2, 64, seed=0))
    first_epoch = [next(batches) for _ in range(4)]
    assert all(batch.content_image.shape == (2, 64, 64, 3) for batch in first_epoch)
    assert sum(len(batch.bad) for batch in first_epoch) >= 1
    assert training.photos.open_hub_dataset("x")[1] == "scan"


def test_a_dataset_without_pictures_is_refused(monkeypatch):
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(TrainingError, match="no image column, only text"):
        HubPhotos("somebody/words", 2, 64, seed=0)


def test_a_name_that_is_neither_folder_nor_dataset_says_so(monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(TrainingError, match="neither a folder here nor a dataset"):
        HubPhotos("somebody/typo", 2, 64, seed=0)


def test_phone_photos_are_cropped_upright(tmp_path):
    frame = np.zeros((80, 120, 3), np.uint8)
    frame[:, :60] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(frame).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    crop = PhotoFolder(tmp_path, 1, 64, seed=0)[0].content_image[0].float().mean(dim=2)
    assert crop.std(dim=0).mean() > crop.std(dim=1).mean()


def test_epochs_differ_in_order_and_photos_are_flipped_both_ways(tmp_path):
    for i in range(12):
        frame = np.full((64, 64, 3), 20 * i, np.uint8)
        frame[:, :8] = 255  # a white left edge
        Image.fromarray(frame).save(tmp_path / f"{i:02}.png")
    photos = PhotoFolder(tmp_path, 12, 64, seed=0)
    first, second = (photos[epoch].content_image[:, 32, 32, 0].tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) == [20 * i for i in range(12)]
    assert first != second
    assert first != sorted(first)
    left_is_white = (photos[0].content_image[:, 32, 0, 0] == 255).tolist()
    assert set(left_is_white) == {True, False}


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}])
def test_an_empty_cell_of_a_dataset_is_a_bad_photo(cell):
    from training.photos import decode_hub_image

    with pytest.raises(PictureError, match="row 3 holds no picture"):
        decode_hub_image(cell, "row 3")


def test_the_pixel_limit_holds_for_folders_and_datasets_alike(photo_folder):
    from training.photos import decode_hub_image

    with pytest.raises(TrainingError, match="--max-pixels"):
        PhotoFolder(photo_folder, 1, 64, seed=0, max_pixels=100)[0]
    with pytest.raises(PictureError, match="--max-pixels"):
        decode_hub_image({"bytes": list_photos(photo_folder)[0].read_bytes()}, "row 1", max_pixels=100)
