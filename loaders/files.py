"""Files that are there whole or not at all, and errors that name them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from loaders.leftovers import create_partial, remove_leftovers, remove_leftovers_of

if TYPE_CHECKING:
    from typing_extensions import Self


def make_durable(path: Path) -> None:
    """Wait until a file's bytes are on the disk, where a power cut can't take them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk: those made, changed and removed.

    Without, a power cut may bring an old name back, or take a new one with its file.
    Where a system or a file system can't do it, nothing is done.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one that may not be listed; or Windows
        return
    try:
        with naming(folder):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.EROFS, errno.EOPNOTSUPP)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there, for good.

    Raises:
        OSError: it can't be made, or is a file.
    """
    missing = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def make_inner_folder(folder: Path) -> None:
    """Make a folder inside of a run's or another of ours; a link there is refused.

    What is written to a link would lie elsewhere, and what is removed there would be
    somebody else's: the folder around it may be a stranger's.

    Raises:
        OSError: it is a link or a file, or can't be made.
    """
    refuse_link(folder)
    make_folder(folder)


def refuse_link(path: Path) -> None:
    """Refuse a link in the place of what a command writes into; nothing is all right.

    Raises:
        OSError: it is one.
    """
    if path.is_symlink():
        reason = "Is a link, and what is written there would lie elsewhere: remove it"
        raise OSError(errno.ELOOP, reason, str(path))


def put_in_place(part: Path, path: Path) -> None:
    """Give a written file its name, once its bytes are on the disk.

    The name itself is there for good only after ``sync_folder``.
    """
    with naming(path):
        make_durable(part)
        part.replace(path)


@contextmanager
def writing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which gets its name only when the block ends, as a whole.

    Nothing outside of the folder is written, whatever lies in it: until then the file
    is a new one, and where ``path`` is a link, the link is what it replaces.

    Args:
        path: the file; there is the old one or the new, whatever happens.
        durable: whether to wait for the disk, so that a power cut changes nothing.

    Raises:
        OSError: it can't be written; the error names ``path``.
    """
    remove_leftovers_of(path)
    with ExitStack() as held:
        part, opened = create_partial(path, held)
        with _naming_instead(part, path):
            with opened as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
            if durable:
                sync_folder(path.parent)


@contextmanager
def _naming_instead(part: Path, path: Path) -> Iterator[None]:
    """Name ``path`` in an error of the part, which nobody knows of, or of no file."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(part)):
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno, reason, str(path)) from error


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a small file so that its name only ever holds the whole of it.

    Args:
        path: the file.
        content: all of it.
        durable: whether to wait for the disk, so that a power cut changes nothing.

    Raises:
        OSError: it can't be written; the error names ``path``.
    """
    with writing(path, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def check_writable(path: Path) -> None:
    """Make sure that ``write_atomically`` could write a file, and leave nothing behind.

    What a killed process has left of it is removed.

    Raises:
        OSError: it could not; the error names ``path``.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with ExitStack() as held:
        _, file = create_partial(path, held)
        file.close()
    remove_leftovers(path.parent, path.name)


def check_folder_writable(path: Path) -> None:
    """Make sure that files could be written to a folder, which need not be there yet.

    Nothing is left behind, and no folder is made.

    Raises:
        OSError: they could not; the error names ``path``, or the file in its place.
    """
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    try:
        check_writable(there / "fastretina")
    except IsADirectoryError:  # somebody's folder has that very name
        check_writable(there / "fastretina.check")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name ``path`` in an ``OSError`` from inside: a failed read or write doesn't."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno, reason, str(path)) from error


class ProcessLock:
    """A lock of this process on a path, which ends with it, however it ends.

    It belongs to the whole process, which must not take it twice: letting go of one
    would let go of both. It is a record lock and not ``flock``'s, which a worker
    process forked off would go on holding after its parent was killed. A link in the
    file's place is refused. Use it in a ``with``.
    """

    _held: ClassVar[set[tuple[int, str]]] = set()  # by process, as forks copy it

    def __init__(self, path: Path) -> None:
        """Take the lock, which makes the file.

        Raises:
            BlockingIOError: another process has it.
            OSError: the system or the file system has no such locks, or it is a link.
        """
        self._path = path
        self._entry = (os.getpid(), os.path.realpath(path))
        assert self._entry not in self._held, f"{path} is locked by this process"
        flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        while True:
            refuse_link(path)
            self._descriptor = os.open(path, flags, 0o666)
            try:
                if _lock(self._descriptor, path):
                    break
            except BaseException:
                os.close(self._descriptor)
                raise
            os.close(self._descriptor)
        self._held.add(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Remove the file and let go."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._held.discard(self._entry)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file; False where it has lost its name since it was opened."""
    try:
        import fcntl
    except ImportError:  # Windows
        reason = "this system has no record locks"
        raise OSError(errno.ENOSYS, reason, str(path)) from None
    with naming(path):
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; a pipe or a device, which would be waited for, is refused.

    Raises:
        OSError: it can't be read, or is no regular file; the error names it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Is no regular file", str(path))
    return file


def hash_file(path: Path) -> str:
    """SHA-256 of a regular file, as hex digits."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
