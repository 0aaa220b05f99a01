"""A finished artifact, read only: every file's hash is checked when it is first opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vismech.errors import UserError
from vismech.store.manifest import MANIFEST, PROVENANCE, read_manifest


class Artifact:
    """A finished artifact, read only.

    Raises:
        UserError: its manifest is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest = read_manifest(folder)
        except ValueError as error:
            raise _corrupted(folder, str(error)) from error
        self._files: dict[str, dict[str, Any]] = self.manifest["files"]
        self._checked: set[str] = set()

    @property
    def key(self) -> str:
        """The artifact's key."""
        return self.folder.name

    def path(self, name: str) -> Path:
        """Path of a payload file, its hash checked the first time.

        Raises:
            UserError: the file is missing or not the one that was written.
        """
        path = self.folder / name
        if name not in self._checked:
            problem = self._problem(name)
            if problem:
                raise _corrupted(self.folder, problem)
            self._checked.add(name)
        return path

    def json(self, name: str) -> Any:
        """Content of a JSON payload file."""
        return json.loads(self.path(name).read_bytes())

    def array(self, name: str, *, copy_on_write: bool = False) -> Any:
        """A .npy payload file, memory-mapped read-only, or so that what is written stays in this process's memory."""
        import numpy as np

        return np.load(self.path(name), mmap_mode="c" if copy_on_write else "r")

    def problems(self) -> list[str]:
        """Every payload file that is missing, differs from the manifest or is not in it."""
        names = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*")}
        others = [
            name
            for name, path in sorted(names.items())
            if name not in (*self._files, MANIFEST, PROVENANCE) and path.is_file() and not path.name.startswith(".")
        ]
        return [problem for name in (*self._files, *others) if (problem := self._problem(name))]

    @property
    def bytes(self) -> int:
        """Size of the payload."""
        return sum(entry["bytes"] for entry in self._files.values())

    def _problem(self, name: str) -> str | None:
        entry, path = self._files.get(name), self.folder / name
        if entry is None:
            return f"{name} is not in its manifest"
        if not path.is_file():
            return f"{name} is missing"
        try:
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"
            if hash_file(path) != entry["sha256"]:
                return f"{name} has another content than was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None


def _corrupted(folder: Path, problem: str) -> UserError:
    return UserError(
        f"the artifact {folder.parent.name}/{folder.name} is corrupted: {problem}; set it aside with `vismech-store "
        f"--root {folder.parent.parent} verify --repair` and run again, or recompute it with "
        f"force=[{folder.parent.name}]"
    )


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
