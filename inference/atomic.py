"""Files that are whole or not there: written beside their final name, flushed to the disk, then renamed."""

import contextlib
import errno
import itertools
import os
import tempfile
from pathlib import Path

# What file systems without it, network ones mostly, and folders that may be written but not read answer.
NO_FOLDER_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)

_UMASK = os.umask(0)  # can be read only by setting it, which is not safe once there are threads
os.umask(_UMASK)


class AtomicFile:
    """An empty file `temporary` beside `path`, to be filled by whoever needs a name, then committed or discarded.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path)) if path.is_symlink() else path  # a link stays, what it leads to is written
        prefix = f".{self.path.name[:20]}."  # a letter may take four bytes of the 255 that a name may have
        self.handle, temporary = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=self.path.parent)
        self.temporary = Path(temporary)

    def commit(self, overwrite: bool = True, numbered: bool = True) -> Path:
        """Give the file its name.

        Args:
            overwrite: whether what has that name may be replaced, though it appeared only now.
            numbered: if not, whether the file gets a number: clip.mp4 becomes clip_2.mp4.
        Returns:
            the name it got.
        Raises:
            FileExistsError: neither may be.
            OSError: what was there before still is, unless only the folder failed to be flushed at the very end.
        """
        try:
            try:
                os.fsync(self.handle)
            finally:
                os.close(self.handle)
                self.handle = -1
            os.chmod(self.temporary, 0o666 & ~_UMASK)
            if overwrite:
                os.replace(self.temporary, self.path)
            else:
                names = (self.path.with_stem(f"{self.path.stem}_{i}") for i in itertools.count(2))
                while not _moved(self.temporary, self.path):
                    if not numbered:
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))
                    self.path = next(names)
        except BaseException:
            self.discard()
            raise
        if os.name == "posix":  # the new name, too, survives a power cut
            try:
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            except OSError as error:
                if error.errno not in NO_FOLDER_FSYNC:
                    raise
        return self.path

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        with contextlib.suppress(OSError):
            if self.handle >= 0:
                os.close(self.handle)
                self.handle = -1
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)


def _moved(source: Path, target: Path) -> bool:
    """Give a file a name unless another file has it, even one that another program makes at this moment.

    Returns:
        whether it has the name now.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        os.replace(source, target)
    else:
        os.unlink(source)
    return True


def write_atomically(path: Path, data: bytes, overwrite: bool = True) -> None:
    """Write a whole file or nothing.

    Raises:
        FileExistsError: there is a file of that name, and `overwrite` is False.
        OSError: what was there before still is, unless only the folder failed to be flushed at the very end.
    """
    file = AtomicFile(path)
    try:
        left = memoryview(data)
        while left:  # one write may take only a part: 2 GB on Linux, less where the disk is nearly full
            left = left[os.write(file.handle, left) :]
    except BaseException:
        file.discard()
        raise
    file.commit(overwrite, numbered=False)


def remove_partial_files(folder: Path) -> None:
    """Delete what a killed `write_atomically` left in a folder; nobody may be writing there."""
    for path in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            path.unlink()
