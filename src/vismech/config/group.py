"""A group of the configuration, made of the settings of what reads it.

A field stands once, where it is read: with its type, default and documentation, in a frozen class of settings. A group
is those of several classes together, which users may change before anything is filled from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")
PARTS = "parts_of_the_group"
"""The attribute of a group that names the classes whose source documents its fields."""


def group(given: type[T]) -> type[T]:
    """Make a mutable dataclass of a class's own fields and, after these, those of its bases in their order.

    Hydra composes plain dataclasses, and takes frozen ones for what nobody may override.
    """
    body = {name: value for name, value in vars(given).items() if name not in ("__dict__", "__weakref__")}
    own = dataclass(type(given.__name__, (), body))
    parts: tuple[Any, ...] = (own, *given.__bases__)
    found = {}
    for part in parts:
        hints = get_type_hints(part)
        for one in fields(part):
            known: Any = {"default": one.default, "default_factory": one.default_factory}
            found[one.name] = (one.name, hints[one.name], field(**known))
    namespace = {"__doc__": given.__doc__, "__module__": given.__module__, PARTS: (given, *given.__bases__)}
    return make_dataclass(given.__name__, found.values(), namespace=namespace)
