"""Passes over images that several runs fill together: ``runtime.shard=i/n`` on any machines that share a store.

A pass's batches are in n parts, the k-th of which has every n-th batch from the k-th on. Run i begins with part i. A
part is whoever's holds its lock, which the system takes back when a process dies: so a run that is done with its own
takes any other part that has batches left and that nobody is at. Nobody waits for work that no living process does.
Batches are the same ones whoever computes them, and so are their rows (see :mod:`vismech.passes.loop`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vismech.config.runtime import RuntimeConfig
from vismech.errors import UserError
from vismech.passes.loop import ImageLoop
from vismech.store.locks import tried

log = logging.getLogger(__name__)


class Shard(NamedTuple):
    """The i-th of n parts; i counts from 1."""

    part: int
    parts: int


def shard_of(runtime: RuntimeConfig) -> Shard | None:
    """The part that this run begins with; None where it is the only one.

    Raises:
        UserError: no i/n, or no such part.
    """
    if runtime.shard is None:
        return None
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", runtime.shard)
    shard = Shard(*map(int, found.groups())) if found else None
    if shard is None or not 1 <= shard.part <= shard.parts:
        raise UserError(f"runtime.shard={runtime.shard} must be i/n, the i-th of n parts, such as 1/3, 2/3 and 3/3")
    return shard


def fill(loop: ImageLoop, shard: Shard, run: Callable[[ImageLoop], None]) -> None:
    """Fill all parts of ``loop`` that nobody else is at, the own first, until no such part has anything left."""
    (folder, *_) = [rows.folder for rows in loop.rows.values()]
    order = [1 + (shard.part - 1 + step) % shard.parts for step in range(shard.parts)]
    while any([_take(loop, Shard(part, shard.parts), folder, run) for part in order]):
        pass  # a run that died meanwhile has left its part


def _take(loop: ImageLoop, part: Shard, folder: Path, run: Callable[[ImageLoop], None]) -> bool:
    """Compute what is left of one part; False where there is nothing left, or somebody is at it."""
    file = folder / f".part.{part.part}.{part.parts}"
    with tried(file, make=True) as mine:
        if not mine:
            return False
        loop.share = part.part - 1, part.parts
        loop.look()
        if not len(loop.sampler(0, 1)):
            return False
        log.info("%s: part %d of %d", loop.title, *part)
        run(loop)
        return True
