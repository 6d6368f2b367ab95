"""Files that are complete or absent: written next to their final name, flushed to the disk, then renamed."""

import contextlib
import errno
import itertools
import os
import tempfile
from pathlib import Path

# Errors of file systems without it, mostly network ones, and of folders that may be written but not read.
NO_FOLDER_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)

_UMASK = os.umask(0)  # can only be read by setting it, which is not safe once there are threads
os.umask(_UMASK)


class AtomicFile:
    """An empty file `temporary` next to `path`, for writers that need a file name; then committed or discarded.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path)) if path.is_symlink() else path  # a link stays; its target is written
        prefix = f".{self.path.name[:20]}."  # a letter may take four bytes of the 255 that a name may have
        self.handle, temporary = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=self.path.parent)
        self.temporary = Path(temporary)

    def commit(self, overwrite: bool = True, numbered: bool = True) -> Path:
        """Give the file its name.

        Args:
            overwrite: whether a file of that name may be replaced, even one that has just appeared.
            numbered: if not, whether to add a number: clip.mp4 becomes clip_2.mp4.
        Returns:
            the name it got.
        Raises:
            FileExistsError: neither is allowed.
            OSError: an earlier file is still there, unless only the final flush of the folder failed.
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
        if os.name == "posix":  # makes the new name survive a power cut, too
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
        """Remove the temporary file; harmless after `commit`."""
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
    """Write a complete file or nothing.

    Raises:
        FileExistsError: there is a file of that name, and `overwrite` is False.
        OSError: an earlier file is still there, unless only the final flush of the folder failed.
    """
    file = AtomicFile(path)
    try:
        left = memoryview(data)
        while left:  # one call may write only a part: 2 GB on Linux, less if the disk is nearly full
            left = left[os.write(file.handle, left) :]
    except BaseException:
        file.discard()
        raise
    file.commit(overwrite, numbered=False)


def remove_partial_files(folder: Path) -> None:
    """Delete what a killed `write_atomically` left in a folder; nothing may be writing there."""
    for path in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            path.unlink()
