"""The nodes that ``attribute.rule=auto`` chose for one artifact, kept in its folder so that every try uses the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vismech.attribution.automatic import TOO_MUCH, Choice
from vismech.config.choices import Rule
from vismech.store.rows import writer_name

log = logging.getLogger(__name__)
NODES = "nodes.json"


def read_nodes(path: Path) -> Choice:
    """What :func:`chosen_nodes` kept."""
    content = json.loads(path.read_bytes())
    return Choice(Rule(content["rule"]), content["steps"], content["power"], content["gap"])


def chosen_nodes(folder: Path, settle: Callable[[], Choice]) -> Choice:
    """The nodes of an earlier try, or those that ``settle`` finds, which are kept.

    Processes that share the work find the same, so it does not matter whose file is the last.
    """
    path = folder / NODES
    if path.exists():
        return read_nodes(path)
    choice = settle()
    # Two digits: the last ones depend on how many path points share a pass.
    choice = choice._replace(gap=float(f"{choice.gap:.2g}"))
    partial = folder / f".{NODES}.{writer_name()}"
    partial.write_text(json.dumps(choice._asdict(), sort_keys=True, separators=(",", ":")) + "\n")
    partial.rename(path)
    return choice


def tell_nodes(folder: Path, unit: str) -> None:
    """Log what was chosen, as a warning where it is not complete."""
    if not (folder / NODES).exists():
        return
    choice = read_nodes(folder / NODES)
    told: tuple[Any, ...] = (unit, choice.steps, choice.rule, choice.power, choice.gap)
    if choice.gap > TOO_MUCH:
        log.warning(
            "%s: with %d %s nodes of power %d, the best within reach, the edges of the first images miss %.2g of the "
            "change (median): give more attribute.steps, or another attribute.baseline",
            *told,
        )
    else:
        log.info("%s: %d %s nodes of power %d, median completeness gap of the first images %.2g", *told)
