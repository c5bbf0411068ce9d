"""File names, and files that are written atomically."""

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

_REMAINS = re.compile(r"\.[0-9a-f]{8}\.(partial|old)\.(.+)")  # Temporary names that `write_atomically` gives.
_TRIES, _BETWEEN_TRIES_SECONDS = 50, 0.05  # For removing a folder that is in use.


def check_name(path: Path) -> None:
    """Check that a path is valid text; at one that is not, as from an archive of another system, ITK ends the process.

    Raises:
        InputError: The path can't be encoded in UTF-8; the message shows what can be shown of it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="replace").decode()
        raise InputError(f"The name of {shown} is not in UTF-8", "rename the file or folder") from None


def file_name(text: str) -> str:
    """Turn a text into a file name, without characters that a system forbids or that lead to another folder."""
    return re.sub(r"[^\w.-]+", "_", text)


def file_names(texts: Iterable[str]) -> list[str]:
    """A distinct file name for each text, even on disks that ignore case."""
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
    """Let ITK open files whose path is not plain ASCII; for programs that are about to read images.

    ITK's readers use C++ streams, which on Windows interpret paths in the code page of the process. Slicer's is UTF-8;
    that of the Python process in which jobs run has to be set to it (Windows 10, version 1803 and later).
    """
    if sys.platform == "win32":
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, ".UTF8")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for a file or folder, which replaces `path` when the block succeeds.

    If the block raises, `path` stays as it was and the temporary file is removed; an error of the system then names
    `path`. The temporary path has the same suffixes, since image writers go by them.

    >>> with write_atomically(Path("scores.json")) as partial:
    ...     _ = partial.write_text("{}")
    """
    # The name is random because threads, and processes on several machines with a shared disk, may write one path.
    partial = path.with_name(f".{secrets.token_hex(4)}.partial.{path.name}")
    try:
        yield partial
        if partial.is_dir() and path.is_dir():
            _replace_folder(partial, path)
        else:
            partial.replace(path)
    except OSError as error:
        # An error of the system while writing to an open file does not name the file.
        named = error.filename or str(partial)
        if error.errno is not None and isinstance(named, str) and Path(named).is_relative_to(partial):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            _remove(partial)


def _replace_folder(new: Path, path: Path) -> None:
    """Replace a folder, which takes two steps: the old one is removed only once the new one is in its place."""
    old = path.with_name(f".{secrets.token_hex(4)}.old.{path.name}")
    path.replace(old)
    try:
        new.replace(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old)


def check_can_write(folder: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet, before work is done that would be lost.

    Raises:
        InputError: They can't, or it is a file.
    """
    try:
        # Even the topmost parent can be missing: a drive of Windows.
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        with TemporaryDirectory(dir=there, prefix=".SIFA-"):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def remove_remains(
    folder: Path, of: str | None = None, *, in_use: Callable[[Path], bool] = lambda _path: False
) -> None:
    """Clear a folder of what killed processes left behind in `write_atomically`.

    A folder that was moved aside and never replaced is restored.

    Args:
        folder: Folder to which nobody else writes, except to files that are `in_use`.
        of: Name of the file or folder that was being written; all unless given.
        in_use: Says of a temporary path whether somebody is still writing to it.
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
    """Whether a path is a temporary one of `write_atomically`, in use or left by a killed process."""
    return _REMAINS.fullmatch(path.name) is not None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or the user's quota on it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def remove_folder_in_use(folder: Path) -> None:
    """Remove a folder that a process may still be using, trying again for a few seconds until it is gone."""
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
