"""The files of a bundle, in a folder or in a zip file that is easier to pass on. Nothing is unpacked to disk."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from .errors import InputError, system_fault, unwritable
from .files import write_atomically
from .work import Work

MANIFEST_FILE = "manifest.json"
ARCHIVE_SUFFIX = ".zip"
_OF_DESKTOPS = (".DS_Store", "Thumbs.db", "desktop.ini")  # Left by file managers that show a folder.
# In bytes. No ONNX file can be larger, and no manifest comes near its limit. Without limits, a small malicious archive
# could fill the memory.
_LARGEST, _LARGEST_MANIFEST = 2**31, 2**23
_PORTION_BYTES = 4 * 1024 * 1024  # Portion handled in one piece of work, while a window waits.


def is_bundle(path: Path) -> bool:
    """Whether a folder or a zip file has a manifest, and so is meant to be a bundle."""
    try:
        read_bundle_file(path, MANIFEST_FILE)
    except (OSError, InputError):
        return False
    return True


def is_bundle_alone(path: Path, names: Collection[str]) -> bool:
    """Whether a folder or a zip file is meant to be a bundle, and holds no files but those of these `names`."""
    if not is_bundle(path):
        return False
    if path.is_dir():
        return {entry.name for entry in path.iterdir()} <= {*names, *_OF_DESKTOPS}
    with zipfile.ZipFile(path) as archive:
        own = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    return {name.rsplit("/", 1)[-1] for name in own} <= {*names, *_OF_DESKTOPS}


def read_bundle_file(path: Path, name: str) -> bytes:
    """Read one file of the bundle at `path`, without checking its SHA-256.

    Raises:
        OSError: The file is missing or can't be read.
        InputError: The archive is damaged, or the file is larger than any model or manifest can be.
    """
    if path.suffix.lower() != ARCHIVE_SUFFIX or path.is_dir():
        _check_size(path / name, (path / name).stat().st_size)
        return (path / name).read_bytes()
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(_folder_inside(archive) + name)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{path} is compressed in an unusual way", "pack it as a plain zip file")
            _check_size(path / name, entry.file_size)
            return archive.read(entry)
    except KeyError:
        raise FileNotFoundError(f"{path} has no {name}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError means that it is encrypted, NotImplementedError that it needs a later version of zip.
        raise InputError(f"{path} is damaged or no plain zip file ({error})", "copy it again") from error


def _check_size(path: Path, size: int) -> None:
    kind, largest = ("manifest", _LARGEST_MANIFEST) if path.name == MANIFEST_FILE else ("model", _LARGEST)
    if size > largest:
        raise InputError(f"{path} is larger than any {kind}", "get the bundle anew from where it came")


def portions_of(path: Path) -> Iterator[bytes]:
    """Yield the content of a file of a bundle's folder in portions.

    Raises:
        OSError: The file is missing or unreadable.
        InputError: The file is larger than any model or manifest can be.
    """
    _check_size(path, path.stat().st_size)
    with path.open("rb") as file:
        while portion := file.read(_PORTION_BYTES):
            yield portion


def write_archive_in_pieces(folder: Path, names: Iterable[str], path: Path) -> Work[None]:
    """Pack files of a folder into a zip file, atomically; the same files give the same bytes.

    Yields after each portion; if abandoned before the end, it leaves no file behind.

    Raises:
        InputError: A file can't be read, or the zip file can't be written.
    """
    try:
        with write_atomically(path) as partial, zipfile.ZipFile(partial, "w") as archive:
            for name in sorted(names):
                # Without the file's time, so that the bytes are reproducible. Uncompressed: compressing takes seconds
                # and makes weights hardly smaller.
                entry = zipfile.ZipInfo(name)
                entry.file_size = (folder / name).stat().st_size
                with archive.open(entry, "w") as file:
                    for portion in portions_of(folder / name):
                        file.write(portion)
                        yield
    except OSError as error:
        raise system_fault(error) or unwritable(path, error) from error


def _folder_inside(archive: zipfile.ZipFile) -> str:
    """Prefix of the bundle's files: empty if they are at the top, else the one folder that a file manager added."""
    manifests = [name for name in archive.namelist() if name.split("/")[-1] == MANIFEST_FILE and name.count("/") <= 1]
    return manifests[0].removesuffix(MANIFEST_FILE) if len(manifests) == 1 else ""
