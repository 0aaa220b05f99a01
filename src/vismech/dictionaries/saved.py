"""Dictionaries that are kept outside of a store: a folder with ``atoms.safetensors`` and ``dictionary.json``.

``vismech-store export`` writes one per layer, ``dictionary=saved`` reads them. Nothing in them is executed: arrays are
safetensors, and how vectors are coded is the configuration's word and not the folder's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError

from vismech.dictionaries.base import Dictionary
from vismech.dictionaries.coding import Code
from vismech.errors import UserError

ATOMS, RECORD = "atoms.safetensors", "dictionary.json"
FILES = (ATOMS, "arrays.safetensors", "encoder.safetensors", RECORD)


def saved_folder(path: str | None, layer: str) -> Path:
    """The folder of a layer's dictionary: ``path``/``layer``, or ``path`` itself where that is one.

    Raises:
        UserError: there is none.
    """
    if path is None:
        raise UserError("dictionary=saved needs dictionary.path=FOLDER, as vismech-store export writes it")
    root = Path(path).expanduser()
    for folder in (root / layer, root):
        if (folder / ATOMS).is_file() and (folder / RECORD).is_file():
            return folder
    raise UserError(
        f"dictionary.path={path} has no dictionary of {layer}: neither its folder {layer}/ nor itself holds "
        f"{ATOMS} and {RECORD}"
    )


def content_of(folder: Path) -> str:
    """Twenty hexadecimal digits of SHA-256 of the files of a dictionary; a model card and whatever else is no part."""
    digest = hashlib.sha256()
    for name in FILES:
        file = folder / name
        if file.is_file():
            digest.update(f"{name} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:20]


def read_saved(folder: Path, channels: int | None = None) -> Dictionary:
    """The dictionary in a folder; its code is the default until another is put on it.

    Args:
        folder: see :func:`saved_folder`.
        channels: of the layer that it is for.

    Raises:
        UserError: files that are no dictionary, or one of another number of channels, or a transcoder of no place.
    """
    try:
        found = Dictionary.load(folder)
        found = found.coded(Code.lasso, 0.02, None)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder} holds no dictionary that can be read ({type(error).__name__}: {error})") from error
    if found.atoms.ndim != 2:
        raise UserError(f"{folder} has atoms {list(found.atoms.shape)}, not [concepts, channels]")
    reads, weight = found.info.get("reads"), found.encoder.get("weight")
    if reads is not None and not (isinstance(reads, str) and reads and weight is not None and weight.ndim == 2):
        raise UserError(
            f"{folder} is a transcoder that does not say which layer it reads, and how: fit it with place=LAYER"
        )
    if channels is not None and found.c != channels:
        raise UserError(f"{folder} has concepts of {found.c} channels, but the layer has {channels}: is it another's?")
    return found
