"""Files that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import locale
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import InputError, unwritable

_REMAINS = re.compile(r"\.[0-9a-f]{8}\.(partial|old)\.(.+)")  # Names that `write_atomically` gives on the way.
_TRIES, _BETWEEN_TRIES_SECONDS = 50, 0.05  # Of removing what is in use.


def check_name(path: Path) -> None:
    """Refuse a path that is no text, such as one of an archive of another system: ITK would end the process.

    Raises:
        InputError: Shows what can be shown of it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="replace").decode()
        raise InputError(f"The name of {shown} is not in UTF-8", "rename the file or folder") from None


def file_name(text: str) -> str:
    """A text as the name of a file: nothing in it that a system forbids, or that leads to another folder."""
    return re.sub(r"[^\w.-]+", "_", text)


def file_names(texts: Iterable[str]) -> list[str]:
    """A file name for each text, all different, on disks too that know no capital letters."""
    names: list[str] = []
    for text in texts:
        plain = file_name(text).strip("_.") or "unnamed"
        name, number = plain, 1
        while name.casefold() in {other.casefold() for other in names}:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names


def take_names_as_utf8() -> None:
    """Have ITK find files whose path is not plain ASCII, from a program that is about to read images.

    Its readers open files by C++'s streams, which on Windows take the path in the code page of the process. Slicer's is
    UTF-8, but that of the Python in which jobs run is not unless it is told so (Windows 10, 1803 and later).
    """
    if sys.platform == "win32":
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, ".UTF8")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; it takes `path`'s place when the block ends well.

    An error leaves what stood at `path` as it was, and nothing beside it; one of the system names `path`. The suffixes
    stay the same, since writers of images go by them.

    >>> with write_atomically(Path("scores.json")) as partial:
    ...     _ = partial.write_text("{}")
    """
    # Processes on several machines that share a disk, and threads, may write one path.
    partial = path.with_name(f".{secrets.token_hex(4)}.partial.{path.name}")
    try:
        yield partial
        if partial.is_dir() and path.is_dir():
            _replace_folder(partial, path)
        else:
            partial.replace(path)
    except OSError as error:
        # Of the system's errors, what is written to an open file names none.
        named = error.filename or str(partial)
        if error.errno is not None and isinstance(named, str) and Path(named).is_relative_to(partial):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            _remove(partial)


def _replace_folder(new: Path, path: Path) -> None:
    """A folder can't replace a folder in one step: the old one goes only when the new one is whole and there."""
    old = path.with_name(f".{secrets.token_hex(4)}.old.{path.name}")
    path.replace(old)
    try:
        new.replace(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old)


def check_can_write(folder: Path) -> None:
    """See whether files can be written to a folder, there or not yet, before work is done that would be lost.

    Raises:
        InputError: They can't, or it is a file.
    """
    try:
        # On Windows a drive may be missing.
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        with TemporaryDirectory(dir=there, prefix=".SIFA-"):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def remove_remains(
    folder: Path, of: str | None = None, *, in_use: Callable[[Path], bool] = lambda _path: False
) -> None:
    """Clear a folder of what processes that were killed within `write_atomically` left.

    What was put aside, and never replaced, comes back.

    Args:
        folder: Where nobody else writes, or only to what is `in_use`.
        of: What was being written; of everything unless given.
        in_use: Asked of what is there: whether somebody is still writing to it.
    """
    for path in folder.iterdir():
        if (remains := _REMAINS.fullmatch(path.name)) is None or of not in (None, remains[2]) or in_use(path):
            continue
        place = path.with_name(remains[2])
        with suppress(OSError):
            if remains[1] == "old" and not place.exists():
                path.replace(place)
            else:
                _remove(path)


def is_remains(path: Path) -> bool:
    """Whether a file is one that `write_atomically` is at work on, or left when its process was killed."""
    return _REMAINS.fullmatch(path.name) is not None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def remove_folder_in_use(folder: Path) -> None:
    """Remove a folder that a process may still be working in or writing to: again, until it stays away or too long."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_BETWEEN_TRIES_SECONDS)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
