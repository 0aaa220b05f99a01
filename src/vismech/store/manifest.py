"""What a manifest and its provenance must look like to be believed: read without trusting a byte of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST, PROVENANCE = "manifest.json", "provenance.json"
DESCRIBED = ("stage", "version", "unit", "inputs", "parents")


def canonical_json(value: Any) -> str:
    """The one JSON text of plain data; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(description: Mapping[str, Any]) -> str:
    """Twenty hexadecimal digits of SHA-256 of what an artifact is."""
    return hashlib.sha256(canonical_json(description).encode()).hexdigest()[:20]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the artifact in ``folder``: of its shape, and of this key, which is the hash of its content.

    Raises:
        ValueError: what is wrong with it.
    """
    found = _read(folder / MANIFEST)
    if not isinstance(found, dict) or {*found} != {*DESCRIBED, "key", "files"}:
        raise ValueError(f"{MANIFEST} is not of an artifact's shape")
    described = {name: found[name] for name in DESCRIBED}
    types = {"stage": str, "version": int, "unit": str, "inputs": dict, "parents": dict}
    if not all(isinstance(described[name], kind) for name, kind in types.items()):
        raise ValueError(f"{MANIFEST} is not of an artifact's shape")
    try:
        key = key_of(described)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is not of an artifact's shape") from error
    if not key == found["key"] == folder.name or found["stage"] != folder.parent.name:
        raise ValueError(f"{MANIFEST} describes another artifact")
    files = found["files"]
    if not isinstance(files, dict) or not all(_is_file(*item) for item in files.items()):
        raise ValueError(f"{MANIFEST} does not say what its files are")
    return found


def read_provenance(folder: Path) -> dict[str, Any]:
    """When, where and how fast the artifact was made; empty where a kill came before it was written.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        (folder / PROVENANCE).lstat()
    except FileNotFoundError:
        return {}
    found = _read(folder / PROVENANCE)
    number = found.get("seconds", 0.0) if isinstance(found, dict) else None
    timed = isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < 1e15
    if not timed or not isinstance(found.get("time", ""), str) or not found.get("time", "").isprintable():
        raise ValueError(f"{PROVENANCE} is not of its shape")
    return found


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{file.name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise ValueError(f"{file.name} cannot be read ({words})") from error


def _is_file(name: str, entry: Any) -> bool:
    path = PurePosixPath(name)
    inside = name == path.as_posix() and path.parts and not path.is_absolute() and ".." not in path.parts
    if not inside or not name.isprintable() or not isinstance(entry, dict) or {*entry} != {"bytes", "sha256"}:
        return False
    size, digest = entry["bytes"], entry["sha256"]
    return isinstance(size, int) and not isinstance(size, bool) and size >= 0 and isinstance(digest, str)
