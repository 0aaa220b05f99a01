"""Which folders are classes and which files are images: no hidden ones, and nothing that systems leave beside them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from vismech.errors import UserError

log = logging.getLogger(__name__)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
# What operating systems and archivers leave beside photographs; whatever starts with a dot is left out, too.
LITTER = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}


def class_folders(root: Path) -> list[str]:
    """Names of the class folders below ``root``, sorted: no hidden ones, and none that a system leaves there.

    Raises:
        UserError: a folder that cannot be read, or a name that is not UTF-8.
    """
    try:
        with os.scandir(root) as entries:
            found = [entry for entry in entries if not _is_litter(entry.name)]
    except OSError as error:
        raise _no_access(error) from error
    names = sorted(entry.name for entry in found if entry.is_dir())
    for name in names:
        _check_name(root, name)
    for entry in found:
        if entry.is_symlink() and not os.path.exists(root / entry.name):
            log.warning("%s is a link to nothing and is left out", _shown(root / entry.name))
    return names


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{_shown(folder / name)} has a name that is not UTF-8, which no sample id can hold: rename it"
        ) from error


def _shown(path: Path) -> str:
    """The path for a sentence; bytes of it that are no text are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _no_access(error: OSError) -> UserError:
    where = _shown(Path(error.filename)) if error.filename else "a folder of images"
    return UserError(f"{where} cannot be read ({error.strerror}): give yourself access to it or move it away")


def image_files(folder: Path) -> Iterator[Path]:
    """Every image file below ``folder``, links to nothing included: those are unreadable images, not absent ones."""

    def refuse(error: OSError) -> None:
        raise _no_access(error) from error

    for path, inner, files in os.walk(folder, onerror=refuse):
        inner[:] = [name for name in inner if not _is_litter(name)]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not _is_litter(name):
                _check_name(Path(path), name)
                yield Path(path) / name
        for name in inner:
            _check_name(Path(path), name)
