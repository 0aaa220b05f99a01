"""What an artifact comes from: the model, the method and the run, as far as manifests and provenance say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vismech.store.artifacts import Store
from vismech.store.manifest import read_manifest, read_provenance


class Lineage(NamedTuple):
    """Empty where nothing says it.

    Attributes:
        model: the network's name.
        method: how its dictionary was found.
        run: the name of the run that computed it.
        inputs: of the artifact's extraction: the model's identity, the data's fingerprint, which positions.
    """

    model: str
    method: str
    run: str
    inputs: Mapping[str, Any]


class Lineages:
    """Reads manifests of a store, each once."""

    def __init__(self, store: Store) -> None:
        self._folders = {folder.name: folder for folder in store.artifacts()}
        self._manifests: dict[str, dict[str, Any]] = {}

    def of(self, folder: Path) -> Lineage:
        """The lineage of an artifact; of parents that are damaged or gone nothing is known."""
        model, method, found = "", "", {}
        for manifest in self._upwards(folder.name):
            inputs = manifest["inputs"]
            identity = inputs.get("model")
            if isinstance(identity, dict) and not model:
                model, found = _word(identity.get("name")), inputs
            if manifest["stage"] == "dictionary" and not method:
                own = inputs.get("own")
                method = _word(own.get("target") if isinstance(own, dict) else inputs.get("method"))
        try:
            run = _word(read_provenance(folder).get("run"))
        except ValueError:
            run = ""
        return Lineage(model, method, run, found)

    def _upwards(self, key: str) -> Iterator[dict[str, Any]]:
        """Manifests of an artifact and of all that it was made from, the nearest first."""
        seen, stack = {key}, [key]
        while stack:
            manifest = self._read(stack.pop(0))
            if manifest is None:
                continue
            yield manifest
            new = [each for each in manifest["parents"].values() if isinstance(each, str) and each not in seen]
            seen.update(new)
            stack.extend(new)

    def _read(self, key: str) -> dict[str, Any] | None:
        if key not in self._manifests:
            try:
                self._manifests[key] = read_manifest(self._folders[key])
            except (KeyError, ValueError):
                return None
        return self._manifests[key]


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else ""
