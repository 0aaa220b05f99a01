"""What the system refuses while files are made or written, as one sentence: full disks, and places that cannot be."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vismech.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EIO, errno.ESTALE, errno.ENOLCK),
}
_MAKING = {errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.ENOTSUP, errno.ENXIO}


@contextmanager
def writing(folder: Path, key: str, *, making: bool = False) -> Iterator[None]:
    """Turn what the system refuses below ``folder`` into a sentence that names it and the key that sets it.

    Args:
        folder: where is written.
        key: of the configuration, the remedy.
        making: whether nothing but ``folder`` itself is at hand, so that every error of the system means it.

    Raises:
        UserError: the disk is full, or the folder cannot be made or written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = refusal(error, folder, key)
        if sentence is None and making and (isinstance(error, ValueError) or system_error(error) in _MAKING):
            sentence = f"{str(folder)!r} cannot be made ({_words(error)}): set {key} to another folder"
        if sentence is None:
            raise
        raise UserError(sentence) from error


def refusal(error: BaseException, folder: Path | None = None, key: str | None = None) -> str | None:
    """The sentence for an error of the system, about the file that it names or else ``folder``; None for any other."""
    number = system_error(error)
    named = getattr(error, "filename", None)
    place = folder
    if isinstance(named, (str, bytes, os.PathLike)):
        file = Path(os.fsdecode(named))
        if folder is None or not (_below(file, folder) or _below(folder, file)):
            place, key = file, None
    if number in _FULL:
        disk = "the disk is full" if place is None else f"the disk that holds {place} is full"
        other = f" or set {key} to another disk" if key else ""
        return f"{disk}: free some space{other}, then run the same command again; finished artifacts are kept"
    if number in _REFUSED:
        if place is None:
            return f"a file cannot be read or written ({_words(error)})"
        if key is None:
            return f"{place} cannot be read or written ({os.strerror(number)})"
        return f"{place} cannot be written ({os.strerror(number)}): set {key} to another folder"
    return None


def system_error(error: BaseException) -> int | None:
    """The system's error number, also from those that tell it in words only.

    These are safetensors, numpy's ``tofile``, and errors that came from another process.
    """
    if isinstance(error, OSError):
        if error.errno is not None:
            return error.errno
        if "requested and" in str(error):
            return errno.ENOSPC
    told = re.findall(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    return int(told[-1][0] or told[-1][1]) if told else None


def remove(path: Path) -> None:
    """Remove whatever stands at ``path``, a link itself and not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _below(file: Path, folder: Path) -> bool:
    return Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
