"""Composing a configuration: the groups and their choices, variations of one, and each mistake as a sentence."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vismech.config.documentation import documentation
from vismech.config.schema import Config
from vismech.errors import UserError


def conf_folder() -> Path:
    """The folder of configuration files: inside the installed package, or beside ``src`` in a checkout."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "conf"


def choices() -> dict[str, list[str]]:
    """Configuration group → its choices."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir() and folder.name != "hydra"
    }


def composition_error(error: BaseException) -> str | None:
    """One sentence for an error of Hydra or OmegaConf that a user made; None for anything else."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError
    from yaml import YAMLError

    if isinstance(error, ValueError) and str(error).startswith("Config group override must be a string"):
        return f"{one_line(error)}: the choices of each group are listed by vismech --help"
    if isinstance(error, ValueError) and str(error).startswith("Config group override deletion value must be a string"):
        given = re.search(r"input_line=(.*), config_loader", str(error))
        return f"cannot read {given[1] if given else 'a deletion'}: write ~group or ~group=CHOICE to leave a group out"
    if isinstance(error, YAMLError):
        return f"a configuration file cannot be read: {one_line(error)}"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    # Hydra wraps OmegaConf's error, which knows the key, in one that only says which argument it came from.
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    key = re.sub(r"\[\d+\]$", "", str(getattr(cause, "full_key", None) or ""))
    if (not key or key.isdecimal()) and (argument := re.match(r"Error merging override \+*([^=]+)=", str(error))):
        key = argument[1]  # an item of a list of several types does not know what it is an item of
    doc = next((doc for doc in documentation() if doc.key == key), None)
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: write key=value, and quote a value with any of {{}}[](),:= or spaces"
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} has no value: give {key}=…" + (f" ({doc.text.rstrip('.')})" if doc else "")
    if isinstance(cause, ConfigKeyError):
        file = re.match(r"In '([^']+)'", str(error))
        return no_key(key) + (f" (in {file[1]}.yaml)" if file else "")
    if isinstance(cause, ValidationError) and doc:
        value, options = cause.value, doc.type.removeprefix("list of ").split(" | ")
        if len(options) > 1 and isinstance(value, str) and key != value:
            if doc.type.startswith("list of") and value in options:
                return f"{key}={value} must be a list: write {key}=[{value}]"
            return f"{key}={value} is not a choice; {nearest(value, options)}"
        if doc.type.startswith("list of") and not isinstance(value, (list, tuple)) and cause.full_key == key:
            return f"{key}={value} must be a {doc.type}: write {key}=[{value}]"
        shown = "null" if value is None else value
        return f"{key}={shown} does not fit: it must be {doc.type} ({doc.text.rstrip('.')})"
    if isinstance(error, MissingConfigException):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={choice} is not a choice; {nearest(choice, choices().get(group, []))}"
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    return no_key(unknown[1]) if unknown else one_line(cause or error)


def varied(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of ``config`` with some keys changed, written as on the command line (without groups).

    Raises:
        UserError: an unknown key, or a value that does not fit.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = {doc.key for doc in documentation()}
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UserError(f"cannot read {override!r}: write key=value")
        if key not in known:
            keys = [each for each in known if each.startswith(f"{key}.")]
            raise UserError(
                f"{override} is a choice of files: write single keys such as {min(keys)}" if keys else no_key(key)
            )
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), OmegaConf.from_dotlist([*overrides])))
    except OmegaConfBaseException as error:
        raise UserError(composition_error(error)) from error
    assert isinstance(found, Config)
    return found


def combinations(overrides: Sequence[str]) -> int:
    """How many jobs a sweep over ``overrides`` has: the last word on a key counts, as in Hydra's own product.

    Raises:
        UserError: one that cannot be read, or that is no list of values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        last = {each.get_key_element(): each for each in OverridesParser.create().parse_overrides([*overrides])}
        swept = [each for each in last.values() if each.is_sweep_override()]
        return math.prod(sum(1 for _ in each.sweep_string_iterator()) for each in swept)
    except HydraException as error:
        raise UserError(composition_error(error)) from error


def no_key(key: str) -> str:
    """The sentence for a key or group that the configuration does not have."""
    if key.startswith("hydra."):
        return f"there is no key {key!r}: vismech --cfg hydra shows Hydra's own"
    types = {doc.key: doc.type for doc in documentation()}
    if types.get(key.rpartition(".")[0], "").startswith("dict"):
        return f"{key} is not there yet: add it with +{key}=…"
    return f"there is no key {key!r}; {nearest(key, [*types, *choices()])}"


def one_line(error: BaseException) -> str:
    """An error's words on one line, without OmegaConf's notes on types."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(("reference_type=", "object_type=")))


def refuse_unknown(cfg: Any) -> None:
    """Refuse keys that were added with ``+`` but are none of the schema's, which Hydra accepts.

    Raises:
        UserError: the key and its nearest.
    """
    from omegaconf import DictConfig

    def keys(node: Any, prefix: str = "") -> Iterator[str]:
        for name in node:
            inner = node._get_node(name)
            if isinstance(inner, DictConfig) and prefix + str(name) not in known:
                yield from keys(inner, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    known = {doc.key for doc in documentation()}
    for key in keys(cfg):
        if key not in known:
            raise UserError(no_key(key))


def nearest(name: str, names: Sequence[str]) -> str:
    """What somebody may have meant, as the end of a sentence."""
    last = name.split(".")[-1]
    near = [key for key in names if key.split(".")[-1] == last]
    near += [key for key in difflib.get_close_matches(name, names, n=3, cutoff=0.6) if key not in near]
    if near:
        return f"nearest: {', '.join(near[:3])}"
    return f"it can be {', '.join(names)}" if len(names) <= 20 else "vismech --help lists them all"
