import os

import pytest

from allaprima.inference.atomic import AtomicFile, write_atomically
from allaprima.inference.pictures import Picture, write_picture
from allaprima.models.errors import PictureError


def no_links(*_):
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_another_program_creates_in_the_meantime_is_not_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "painting.png"
    file = AtomicFile(path)
    path.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        file.commit(overwrite=False, numbered=False)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"ours", overwrite=False)
    assert path.read_bytes() == b"theirs"
    write_atomically(tmp_path / "new.png", b"ours", overwrite=False)
    write_atomically(path, b"ours")
    assert path.read_bytes() == (tmp_path / "new.png").read_bytes() == b"ours"
    numbered = AtomicFile(path)
    assert numbered.commit(overwrite=False) == tmp_path / "painting_2.png"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new.png", "painting.png", "painting_2.png"]


def test_a_picture_that_appears_during_painting_is_kept(tmp_path, landscape, monkeypatch):
    path = tmp_path / "painting.png"
    real = AtomicFile.commit

    def late(self, *arguments, **options):
        path.write_bytes(b"theirs")
        return real(self, *arguments, **options)

    monkeypatch.setattr(AtomicFile, "commit", late)
    with pytest.raises(PictureError, match=r"painting\.png exists; give --overwrite"):
        write_picture(path, Picture(landscape), overwrite=False)
    assert path.read_bytes() == b"theirs"
