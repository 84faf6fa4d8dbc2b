"""Whether what a command is to write can be written, asked before the work begins.

It takes a millisecond, and no package that is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loaders.errors import DataError
from loaders.files import check_folder_writable, check_writable


def ask_for_file(path: Path, flag: str = "--out") -> None:
    """Make sure that a file can be written.

    Args:
        path: the file; what is there now would be replaced.
        flag: that names another one.

    Raises:
        DataError: it can't.
    """
    _ask(check_writable, path, flag, "name another file")


def ask_for_folder(
    path: Path, flag: str = "--out", remedy: str = "name another folder"
) -> None:
    """Make sure that files can be written to a folder, which may have to be made.

    Args:
        path: the folder.
        flag: that names it, or what it is.
        remedy: what to do where it can't be written.

    Raises:
        DataError: they can't, or a file is in the way.
    """
    _ask(check_folder_writable, path, flag, remedy)


def _ask(check: Callable[[Path], None], path: Path, flag: str, remedy: str) -> None:
    try:
        check(path)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename not in (None, str(path)):
            reason = f"{error.filename}: {reason}"
        raise DataError(
            f"{flag} {path} can't be written ({reason}): {remedy}"
        ) from error
