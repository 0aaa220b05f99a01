"""Names that people give to concepts: a file of them, as the page saves it, and those of a run's own dictionaries."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vismech.errors import UserError
from vismech.store.artifacts import Spec

log = logging.getLogger(__name__)
LONGEST = 80
"""Letters of a name; the page cuts what is longer."""


def given_names(file: str | None, dictionaries: Mapping[str, Spec[Any]]) -> dict[str, str]:
    """ "<layer>/<concept>" → its name, of the names in ``file`` those of these dictionaries (layer → spec).

    A concept's number means something in its dictionary alone, so that names are kept by the dictionary's key. How
    many are of other dictionaries is logged.

    Raises:
        UserError: a file that is not there, or holds no names.
    """
    if file is None:
        return {}
    told = _read(Path(file))
    layers = {spec.key: layer for layer, spec in dictionaries.items()}
    found: dict[str, str] = {}
    for key, names in told.items():
        for concept, name in names.items():
            line = " ".join(name.split())[:LONGEST].strip()
            if key in layers and concept.isascii() and concept.isdigit() and line:
                found[f"{layers[key]}/{int(concept)}"] = line
    if others := sum(len(names) for key, names in told.items() if key not in layers):
        log.warning("report.names=%s: names of other dictionaries than this run's are not shown: %d", file, others)
    return found


def _read(file: Path) -> dict[str, dict[str, str]]:
    """Dictionary's key → concept → name."""
    names: Any = None
    try:
        names = json.loads(file.read_bytes())["names"]
    except OSError as error:
        raise UserError(f"report.names={file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        pass  # refused below
    parts = names.values() if isinstance(names, dict) else [None]
    if not all(isinstance(part, dict) and all(isinstance(name, str) for name in part.values()) for part in parts):
        raise UserError(
            f'report.names={file} holds no names of concepts: it must be a file that the page saved, {{"names": '
            "{dictionary: {concept: name}}}"
        )
    return names
