"""The configuration's documentation, read off the docstrings below the schema's fields: for ``--help`` and the docs."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from itertools import pairwise
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from vismech.config.group import PARTS
from vismech.config.schema import Config


class FieldDoc(NamedTuple):
    """One field of the configuration as documentation shows it."""

    key: str
    type: str
    default: str
    text: str


def documentation(schema: type = Config, prefix: str = "") -> list[FieldDoc]:
    """Every field below ``schema`` with its type, default and docstring, in the order of the source."""
    texts = {name: text for part in getattr(schema, PARTS, (schema,)) for name, text in _texts(part)}
    hints = get_type_hints(schema)
    found: list[FieldDoc] = []
    for item in fields(schema):
        hint = hints[item.name]
        if is_dataclass(hint):
            found += documentation(hint, f"{prefix}{item.name}.")  # type: ignore[arg-type]
            continue
        default = item.default if item.default is not MISSING else item.default_factory()  # type: ignore[misc]
        found.append(FieldDoc(prefix + item.name, _type_name(hint), _text(default), " ".join(texts[item.name].split())))
    return found


def _texts(part: type) -> Iterator[tuple[str, str]]:
    """The docstrings below a class's own fields."""
    body = ast.parse(inspect.getsource(part)).body[0].body  # type: ignore[attr-defined]
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield ast.unparse(node.target), str(after.value.value)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is UnionType:
        return " or ".join("null" if argument is type(None) else _type_name(argument) for argument in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return " | ".join(member.value for member in hint)
    if get_args(hint):
        return f"{hint.__origin__.__name__} of {_type_name(get_args(hint)[-1])}"
    return getattr(hint, "__name__", "any").lower()


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return str([item.value if isinstance(item, StrEnum) else item for item in value])
    return str(value).lower() if isinstance(value, bool) else str(value)
