"""Settings: what an artifact's numbers depend on, which is what its key is the hash of.

A stage or measure has one frozen dataclass of these. Planning fills it from the configuration, the key hashes it, and
the code that computes is given nothing else, so that no number can depend on what is in no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


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


def used(value: Any, default: Any) -> Any:
    """A field's value, or a default where the field does not matter."""
    return default if value is UNUSED else value


@dataclass(frozen=True)
class Settings:
    """Base of all settings."""

    def inputs(self) -> dict[str, Any]:
        """What the key is the hash of, by the names of the fields."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is UNUSED or one.metadata.get("unhashed"):
                continue
            content = value.inputs() if isinstance(value, Settings) else value
            if named := getattr(value, "_asdict", None):  # a NamedTuple
                content = named()
            if one.metadata.get("flat"):
                assert isinstance(content, Mapping)
                found |= content
            else:
                found[one.name] = content
        return found
