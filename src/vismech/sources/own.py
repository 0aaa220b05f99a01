"""Code of one's own, named as ``package.module:name`` in the configuration: what it is, and what tells it in keys."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vismech.errors import UserError
from vismech.store.settings import Settings


def load_own(target: str | None, key: str, options: Mapping[str, Any] | None = None) -> Any:
    """What the configuration's ``key`` names, to be called with ``options``.

    Raises:
        UserError: no ``package.module:name``, one that cannot be imported, or options that it does not take.
    """
    module, colon, name = (target or "").partition(":")
    if not (module and colon and name):
        raise UserError(f"{key}={target} must be package.module:name, something of yours that can be imported")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}={target} cannot be imported ({error}): is its folder on PYTHONPATH?") from error
    if options:
        try:
            inspect.signature(found).bind_partial(**options)
        except TypeError as error:
            raise UserError(f"{key}={target} does not take the options {dict(options)}: {error}") from error
        except ValueError:  # of something built in, which tells no signature
            pass
    return found


def code_hash(value: Any) -> str:
    """What tells a function, class or object of one's own in keys: its code, and the user's code that it names."""
    from vismech.sources.source_code import tell_value  # loads torch
    from vismech.store.artifacts import canonical

    return hashlib.sha256(canonical(tell_value(value)).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Own(Settings):
    """Something of one's own, with its options; the key holds its code, so that a change of it is another artifact.

    Attributes:
        target: ``package.module:name``.
        code: hash of its source, and of the user's code that it names.
        options: its keyword arguments.
    """

    target: str
    code: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, target: str | None, options: Mapping[str, Any], key: str) -> Own:
        """What the configuration's ``key`` names.

        Raises:
            UserError: see :func:`load_own`.
        """
        return cls(str(target), code_hash(load_own(target, key, options)), dict(options))

    @property
    def name(self) -> str:
        """The last word of the target, for tables."""
        return self.target.rpartition(":")[2]

    def load(self) -> Any:
        """The thing itself."""
        return load_own(self.target, "the run's code")
