import os

import numpy as np
import pytest
import torch
from PIL import Image

from allaprima.models.errors import PictureError, TrainingError
from allaprima.training.photos import folder, hub
from allaprima.training.photos.batch import Share, prefetched
from allaprima.training.photos.crops import crop, crop_batch, random_box
from allaprima.training.photos.folder import PhotoFolder, list_photos
from allaprima.training.photos.hub import HubPhotos
from allaprima.training.photos.store import PackedPhotos


def test_a_batch_is_a_pure_function_of_seed_and_step(photo_folder):
    first, second = (PhotoFolder(list_photos(photo_folder), 3, 64, seed=5) for _ in range(2))
    for step in range(4):
        first.load(step)
    torch.testing.assert_close(first.load(7).content_image, second.load(7).content_image)
    assert not torch.equal(
        first.load(7).content_image, PhotoFolder(list_photos(photo_folder), 3, 64, seed=6).load(7).content_image
    )


def test_an_epoch_shows_every_photo_once(photo_folder, monkeypatch):

    seen = []
    read = folder.read_picture
    monkeypatch.setattr(folder, "read_picture", lambda path, *a, **k: (seen.append(path), read(path, *a, **k))[1])
    photos = PhotoFolder(list_photos(photo_folder), 2, 64, seed=0)
    for step in range(3):
        photos.load(step)
    assert sorted(seen) == sorted(list_photos(photo_folder))


def test_batches_have_the_documented_shape(photo_folder):
    batch = PhotoFolder(list_photos(photo_folder), 2, 96, seed=0).load(0)
    assert batch.content_image.shape == (2, 96, 96, 3)
    assert batch.content_image.dtype == torch.uint8


def packed(frames):
    store = PackedPhotos(sum(frame.nbytes for frame in frames), torch.device("cpu"))
    assert all(store.add(i, frame) for i, frame in enumerate(frames))
    return store


def cropped(frame, size_px, seed, in_a_batch=False):
    box = random_box(*frame.shape[:2], size_px, np.random.default_rng(seed))
    if not in_a_batch:
        return crop(frame, box, size_px).numpy()
    store = packed([frame])
    return crop_batch(store.pixels, [store.place(0)], [box], size_px)[0].numpy()


@pytest.mark.parametrize("in_a_batch", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 300), (300, 40), (1, 1), (65, 64), (96, 600)])
def test_crops_of_any_photo_are_square_and_whole(height, width, in_a_batch):
    frame = np.full((height, width, 3), 7, np.uint8)
    for seed in range(20):
        pixels = cropped(frame, 64, seed, in_a_batch)
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == 7).all()


def test_crops_of_a_batch_are_those_of_single_photos(landscape):
    """Batches are cut as on a GPU, with bicubic sums in floating point; Pillow's are fixed-point."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 144, 3), dtype=np.uint8)
    frames = [landscape[:96], np.ascontiguousarray(landscape[:70, ::-1]), landscape[:90, :40], noise, noise[:3, :2]]
    store = packed(frames)
    rng = np.random.default_rng(1)
    for _ in range(20):
        boxes = [random_box(*frame.shape[:2], 64, rng) for frame in frames]
        together = crop_batch(store.pixels, [store.place(i) for i in range(len(frames))], boxes, 64)
        for frame, box, found in zip(frames, boxes, together, strict=True):
            difference = (crop(frame, box, 64).float() - found.float()).abs()
            assert (difference > 2.0).float().mean() < 0.005  # of 255; at overshooting edges, Pillow may clip earlier
            assert difference.max() < 25.0
            assert difference.mean() < 0.5
    assert {box.flip for box in boxes} == {True, False}


def test_a_batch_cut_from_the_packed_buffer_equals_one_cut_photo_by_photo(photo_folder):
    paths = list_photos(photo_folder)
    plain = PhotoFolder(paths, 4, 64, seed=2)
    folder = PhotoFolder(paths, 4, 64, seed=2, gpu_bytes=100_000)  # room for some of them
    for step in range(6):
        difference = (folder.load(step).content_image.float() - plain.load(step).content_image.float()).abs()
        assert (difference > 2.0).float().mean() < 0.005
    assert 0 < len(folder._here) < len(paths)
    assert len(folder._here) + len(folder._cache) == len(paths)  # those that do not fit stay in main memory


def test_crops_are_not_distorted():
    yy, xx = np.mgrid[0:200, 0:400]
    disc = ((yy - 100) ** 2 + (xx - 200) ** 2 < 45**2).astype(np.uint8) * 255
    frame = np.repeat(disc[:, :, None], 3, axis=2)
    for seed in range(30):
        pixels = cropped(frame, 128, seed)[:, :, 0] > 127
        rows, columns = pixels.any(axis=1).sum(), pixels.any(axis=0).sum()
        touches = pixels[0].any() or pixels[-1].any() or pixels[:, 0].any() or pixels[:, -1].any()
        assert touches or abs(int(rows) - int(columns)) <= 2


def test_damaged_photos_are_replaced_and_named(tmp_path, photo_folder):
    for i, path in enumerate(list_photos(photo_folder)):
        (tmp_path / f"{i}.jpg").write_bytes(path.read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:700])
    photos = PhotoFolder(list_photos(tmp_path), 4, 64, seed=0)
    bad = {text for step in range(2) for text in photos.load(step).bad}
    assert len(bad) == 2
    assert any("bad.jpg is not a picture" in text for text in bad)
    assert any("cut.jpg is damaged" in text for text in bad)


def test_a_folder_of_damaged_photos_stops_with_a_message(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.jpg").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="none of 30 photos can be used"):
        PhotoFolder(list_photos(tmp_path), 2, 64, seed=0).load(0)


def test_a_missing_folder_and_one_without_pictures_get_different_messages(tmp_path):
    with pytest.raises(TrainingError, match="not a folder"):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(TrainingError, match="holds no pictures"):
        list_photos(tmp_path)


def test_a_hub_datasets_image_column_is_found_by_type_and_bad_photos_skipped(monkeypatch, photo_folder):
    import datasets

    cells = [{"bytes": path.read_bytes(), "path": None} for path in list_photos(photo_folder)]
    cells.insert(2, {"bytes": b"not a jpeg", "path": None})
    features = datasets.Features({"label": datasets.Value("int64"), "scan": datasets.Image()})
    rows = datasets.Dataset.from_dict({"label": list(range(7)), "scan": cells}, features=features).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    batches = iter(HubPhotos("somebody/photos", 2, 64, seed=0))
    first_epoch = [next(batches) for _ in range(4)]
    assert all(batch.content_image.shape == (2, 64, 64, 3) for batch in first_epoch)
    assert sum(len(batch.bad) for batch in first_epoch) >= 1
    assert hub.open_hub_dataset("x")[1] == "scan"


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
    exif[0x0112] = 6  # needs a turn by 90 degrees
    Image.fromarray(frame).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    crop = PhotoFolder(list_photos(tmp_path), 1, 64, seed=0).load(0).content_image[0].float().mean(dim=2)
    assert crop.std(dim=0).mean() > crop.std(dim=1).mean()


def test_epochs_differ_in_order_and_photos_are_flipped_both_ways(tmp_path):
    for i in range(12):
        frame = np.full((64, 64, 3), 20 * i, np.uint8)
        frame[:, :8] = 255  # a white left edge
        Image.fromarray(frame).save(tmp_path / f"{i:02}.png")
    photos = PhotoFolder(list_photos(tmp_path), 12, 64, seed=0)
    first, second = (photos.load(epoch).content_image[:, 32, 32, 0].tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) == [20 * i for i in range(12)]
    assert first != second
    assert first != sorted(first)
    left_is_white = (photos.load(0).content_image[:, 32, 0, 0] == 255).tolist()
    assert set(left_is_white) == {True, False}


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}])
def test_an_empty_cell_of_a_dataset_is_a_bad_photo(cell):
    from allaprima.training.photos.hub import decode_hub_image

    with pytest.raises(PictureError, match="row 3 holds no picture"):
        decode_hub_image(cell, "row 3")


def test_the_pixel_limit_holds_for_folders_and_datasets_alike(photo_folder):
    from allaprima.training.photos.hub import decode_hub_image

    with pytest.raises(TrainingError, match="--max-pixels"):
        PhotoFolder(list_photos(photo_folder), 1, 64, seed=0, max_pixels=100).load(0)
    with pytest.raises(PictureError, match="--max-pixels"):
        decode_hub_image({"bytes": list_photos(photo_folder)[0].read_bytes()}, "row 1", max_pixels=100)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_workers_and_cache_change_nothing(photo_folder, workers, cache_bytes):
    paths = list_photos(photo_folder)
    plain = PhotoFolder(paths, 2, 64, seed=3, cache_bytes=0)
    photos = PhotoFolder(paths, 2, 64, seed=3, cache_bytes=cache_bytes)
    batches = list(prefetched(photos.load, range(5, 14), workers))
    assert len(batches) == 9
    for step, batch in zip(range(5, 14), batches, strict=True):
        assert torch.equal(batch.content_image, plain.load(step).content_image), step


def test_a_photo_is_decoded_once_if_the_cache_has_room(photo_folder, monkeypatch):

    seen = []
    read = folder.read_picture
    monkeypatch.setattr(folder, "read_picture", lambda path, *a, **k: (seen.append(path), read(path, *a, **k))[1])
    photos = PhotoFolder(list_photos(photo_folder), 3, 64, seed=0, cache_bytes=10**9)
    for step in range(8):
        photos.load(step)
    assert len(seen) == 6
    small = PhotoFolder(list_photos(photo_folder), 3, 64, seed=0, cache_bytes=100_000)
    for step in range(8):
        small.load(step)
    kept = [small._cache.frame(photo) for photo in range(6)]
    assert 0 < sum(frame.nbytes for frame in kept if frame is not None) <= 100_000


def test_the_file_of_decoded_photos_is_reused_by_the_next_training(photo_folder, tmp_path, monkeypatch):

    (tmp_path / "photos").mkdir()
    for path in list_photos(photo_folder):
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"<html>")
    paths, store = list_photos(tmp_path / "photos"), tmp_path / "store"
    first = PhotoFolder(paths, 3, 64, seed=0, store=store)
    batches = [first.load(step) for step in range(4)]
    assert any("all 7 photos are decoded and kept in" in note for batch in batches for note in batch.notes)
    assert len(list(store.iterdir())) == 1

    read = folder.read_picture
    again = lambda path, *a, **k: read(path, *a, **k) if path.name == "bad.jpg" else pytest.fail("decoded again")  # noqa: E731
    monkeypatch.setattr(folder, "read_picture", again)  # damaged photos are read again; they may have been repaired
    second = PhotoFolder(paths, 3, 64, seed=0, store=store)
    for step, batch in enumerate(batches):
        later = second.load(step)
        assert torch.equal(later.content_image, batch.content_image)
        assert later.bad == batch.bad
    os.utime(paths[0])  # a changed photo gets another store file
    changed = PhotoFolder(paths, 3, 64, seed=0, store=store)
    with pytest.raises(pytest.fail.Exception):
        changed.load(0)
    changed.close()


def test_an_incomplete_file_of_decoded_photos_is_not_used(photo_folder, tmp_path):
    paths = list_photos(photo_folder)
    cut_short = PhotoFolder(paths, 3, 64, seed=0, store=tmp_path)
    cut_short.load(0)
    [part] = tmp_path.iterdir()
    assert part.suffix == ".part"
    cut_short.close()
    assert not list(tmp_path.iterdir())
    part.touch()  # left by a training that was killed long ago
    os.utime(part, (0, 0))
    whole = PhotoFolder(paths, 3, 64, seed=0, store=tmp_path)
    expected = [whole.load(step).content_image for step in range(3)]
    [data] = tmp_path.iterdir()
    data.write_bytes(data.read_bytes()[:-30])
    damaged = PhotoFolder(paths, 3, 64, seed=0, store=tmp_path)
    batches = [damaged.load(step) for step in range(3)]
    assert all(torch.equal(batch.content_image, image) for batch, image in zip(batches, expected, strict=True))
    assert "are not kept in" in batches[0].notes[0]


def test_a_disk_without_room_for_decoded_photos_is_reported_and_training_goes_on(photo_folder, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from allaprima.training.photos import store as photo_store

    monkeypatch.setattr(photo_store.shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000))
    folder = PhotoFolder(list_photos(photo_folder), 3, 64, seed=0, store=tmp_path)
    notes = [note for step in range(3) for note in folder.load(step).notes]
    assert len(notes) == 1
    assert "the disk has no room for more" in notes[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("world", [1, 2, 3])
def test_several_processes_together_see_what_one_alone_sees(photo_folder, world):
    paths = list_photos(photo_folder)
    alone = PhotoFolder(paths, 6, 64, seed=1)
    parts = [PhotoFolder(paths, 6, 64, seed=1, share=Share(rank, world)) for rank in range(world)]
    for step in range(3):
        together = torch.cat([part.load(step).content_image for part in parts])
        assert torch.equal(together, alone.load(step).content_image)


def damage(folder, kind, i, rng, healthy):
    """One of the ways in which photos go bad on real disks."""
    path = folder / f"bad_{i:03}_{kind}.jpg"
    if kind == "cut":
        path.write_bytes(healthy[: rng.integers(1, len(healthy) - 20)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "html":
        path.write_bytes(b"<!DOCTYPE html><title>404</title>")
    elif kind == "bomb":  # claims 50,000 x 50,000 pixels
        at = healthy.index(b"\xff\xc0")
        path.write_bytes(healthy[: at + 5] + (50_000).to_bytes(2, "big") * 2 + healthy[at + 9 :])
    elif kind == "unreadable":
        path.symlink_to("/proc/self/mem" if os.path.exists("/proc/self/mem") else folder)  # an I/O error, even for root
    else:
        path.symlink_to(folder / "nowhere.jpg")


@pytest.mark.thorough
def test_of_2000_photos_with_5_percent_damaged_every_healthy_one_is_used_and_memory_stays_flat(tmp_path, monkeypatch):
    import io
    import resource

    rng = np.random.default_rng(0)
    encoded = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(encoded, "JPEG")
    kinds = ("cut", "empty", "html", "bomb", "link", "unreadable")
    for i in range(100):
        damage(tmp_path, kinds[i % len(kinds)], i, rng, encoded.getvalue())
    for i in range(1900):
        frame = np.full((40, 48, 3), (i % 256, i // 256, 77), np.uint8)
        odd = [("RGB", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("I;16", "png"), ("RGB", "tif")][i // 50 % 5]
        mode, suffix = odd if i % 50 == 0 else ("RGB", "png")
        picture = (
            Image.fromarray(frame[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(frame).convert(mode)
        )
        picture.save(tmp_path / f"{i:04}.{suffix}")
    paths = list_photos(tmp_path)
    assert len(paths) == 2000
    read = folder.read_picture
    used = []

    def read_and_note(path, *args, **kwargs):
        picture = read(path, *args, **kwargs)
        used.append(path)
        return picture

    monkeypatch.setattr(folder, "read_picture", read_and_note)
    photos = PhotoFolder(paths, 20, 32, seed=0, cache_bytes=0)
    bad, peaks = [], []
    for batch in prefetched(photos.load, range(200), 2):
        bad += batch.bad
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert len(bad) == len(set(bad)) == 100
    assert {text.split()[0].rsplit("_", 1)[1].split(".")[0] for text in bad} == set(kinds)
    assert set(used) == {path for path in paths if not path.name.startswith("bad")}
    assert peaks[-1] - peaks[50] < 30_000  # kB, over one and a half epochs


class BrokenRows:
    """A stream that fails at its third row, the first `breaks` times."""

    num_shards = 1

    def __init__(self, rows, breaks):
        self.rows, self.breaks = rows, breaks

    def shuffle(self, **_):
        self.start = 0
        return self

    def state_dict(self):
        return {"row": self.start}

    def load_state_dict(self, state):
        self.start = state["row"]

    def __iter__(self):
        for i, row in enumerate(self.rows):
            if i == 2 and self.breaks:
                self.breaks -= 1
                raise ConnectionError("reset by peer")
            yield row


@pytest.mark.parametrize(("breaks", "stops"), [(2, False), (10**6, True)])
def test_a_broken_stream_is_retried_and_its_place_reported_as_approximate(monkeypatch, photo_folder, breaks, stops):

    waits = []
    monkeypatch.setattr(hub.time, "sleep", waits.append)
    rows = [{"image": {"bytes": path.read_bytes(), "path": None}} for path in list_photos(photo_folder)]
    broken = BrokenRows(rows if not stops else [], breaks)
    if stops:
        broken.__class__ = type(
            "Dead", (BrokenRows,), {"__iter__": lambda self: (_ for _ in ()).throw(ConnectionError("down"))}
        )
    monkeypatch.setattr(hub, "open_hub_dataset", lambda name: (broken, "image"))
    batches = iter(HubPhotos("somebody/photos", 2, 64, seed=0))
    if stops:
        with pytest.raises(TrainingError, match=r"failed 6 times in a row \(down\); go on later with --resume"):
            next(batches)
        assert waits == [1, 2, 4, 8, 16]
    else:
        notes = [note for _ in range(8) for note in next(batches).notes]
        assert len(notes) == 2
        assert all("reset by peer" in note and "approximately" in note for note in notes)


def test_a_stream_is_split_among_processes(monkeypatch, tmp_path):
    import datasets

    cells = []
    for i in range(8):
        Image.fromarray(np.full((64, 64, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        cells.append({"bytes": (tmp_path / f"{i}.png").read_bytes(), "path": None})
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": cells}, features=features).to_iterable_dataset(num_shards=4)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    seen = []
    for rank in (0, 1):
        batches = iter(HubPhotos("somebody/photos", 4, 64, seed=0, share=Share(rank, 2)))
        seen.append({int(value) for _ in range(2) for value in next(batches).content_image[:, 32, 32, 0]})
    assert seen[0] | seen[1] == {30 * i for i in range(8)}
    assert not seen[0] & seen[1]
