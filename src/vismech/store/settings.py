"""Settings: what an artifact's numbers depend on, which is what its key is the hash of.

A stage or measure has one frozen dataclass of these. Planning fills it from the configuration, the key hashes it, and
the code that computes is given nothing else, so that no number can depend on what is in no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, Self


class _Unused:
    """A field that does not matter for the choices beside it, and is in no key."""

    def __repr__(self) -> str:
        return "UNUSED"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "UNUSED"  # the one object, also in another process


UNUSED: Any = _Unused()
FLAT = {"flat": True}
"""Metadata of a field, a mapping or Settings, whose parts stand in the key by their own names."""
UNHASHED = {"unhashed": True}
"""Metadata of a field that is in no key, as the number of images in a batch is: it changes last bits only."""


def named(name: str) -> dict[str, str]:
    """Metadata of a field that has another name in the key."""
    return {"named": name}


def used(value: Any, default: Any) -> Any:
    """A field's value, or a default where the field does not matter."""
    return default if value is UNUSED else value


@dataclass(frozen=True)
class Settings:
    """Base of all settings."""

    @classmethod
    def from_group(cls, group: object, **given: Any) -> Self:
        """Filled from a group of the configuration, field by field by its name, but for what is ``given``."""
        wanted = [one.name for one in fields(cls) if one.name not in given and hasattr(group, one.name)]
        return cls(**{name: deepcopy(getattr(group, name)) for name in wanted}, **given)

    @classmethod
    def only(cls, **given: Any) -> Self:
        """What is ``given``; no other field matters."""
        return cls(**{one.name: UNUSED for one in fields(cls)} | given)

    def inputs(self) -> dict[str, Any]:
        """What the key is the hash of, by the names of the fields; a part of a flat field whose name another has stands
        by both names."""
        found: dict[str, Any] = {}
        flat: dict[str, Mapping[str, Any]] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is UNUSED or one.metadata.get("unhashed"):
                continue
            content = value.inputs() if isinstance(value, Settings) else value
            if told := getattr(value, "_asdict", None):  # a NamedTuple
                content = told()
            if one.metadata.get("flat"):
                assert isinstance(content, Mapping)
                flat[one.name] = content
            else:
                found[one.metadata.get("named", one.name)] = content
        for whose, parts in flat.items():
            found |= {f"{whose}.{name}" if name in found else name: part for name, part in parts.items()}
        return found
