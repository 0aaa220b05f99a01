"""A plan's costs as ``plan=true`` prints them."""

from __future__ import annotations

from collections.abc import Iterator

from vismech.commands.sizes import size
from vismech.stages.planned import Priced, Prices

HEAD = ("stage", "unit", "images", "vectors", "forward", "backward", "FLOPs", "launches", "written", "held", "here")


def lines(prices: Prices, gpu: str | None) -> Iterator[str]:
    """A table of what is missing, in all, and what its seconds are of."""
    if not prices.rows:
        return
    head = [*HEAD, *([gpu] if gpu else [])]
    table = [head, *(_cells(row, gpu is not None) for row in prices.rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    yield ""
    for row in table:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join([*left, *right])
    untold = sorted({row.stage for row in prices.rows if row.cost is None})
    total = f"{span(prices.seconds)} here" + (f", {span(prices.gpu)} on {gpu}" if gpu else "")
    yield f"{total}{'' if not untold else ', without what is not told (-)'}"
    if any(row.cost is not None and row.cost.about for row in prices.rows):
        yield "≈: images, targets or concepts are estimates, as what decides is not computed yet"
    if prices.machine.measured:
        yield "here: this machine as vismech-bench measured it, one thread for each process"
    else:
        yield "here: a slow core, by default; vismech-bench measures this machine"
    if gpu:
        yield f"{gpu}: its maker's numbers, 40 % of the peak, 70 % of the bandwidth and 5 µs a launch; not measured"
    yield ""


def _cells(row: Priced, gpu: bool) -> list[str]:
    cost = row.cost
    if cost is None:
        return [row.stage, row.unit, *("-" for _ in HEAD[2:]), *(["-"] if gpu else [])]
    about = "≈ " if cost.about else ""
    counts = (cost.images, cost.vectors, cost.forward, cost.backward, cost.flops, cost.launches)
    cells = [row.stage, row.unit, *(number(each) for each in counts), size(int(cost.written)), size(int(cost.held))]
    times = [row.seconds, *([row.gpu] if gpu else [])]
    return [*cells, *(about + span(each or 0.0) for each in times)]


def number(value: float) -> str:
    """A count with three digits and the unit of thousands."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if value < 1000 or unit == "P":
            break
        value /= 1000
    return f"{value:.0f}{unit}" if value >= 100 or unit == "" else f"{value:.3g}{unit}"


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
