"""What exact neighbours cost.

Legend: n vectors, k concepts, c channels.
"""

from __future__ import annotations

from vismech.costs.cost import Amount

CALL = 2.0**19
"""FLOPs that take as long as what surrounds the products of one query and shard on a CPU."""
MORE = 8
"""Candidates beyond the neighbours that are asked for."""


def search(n: float, k: int, c: int, neighbours: int, shards: float) -> Amount:
    """Every vector against every concept, and the candidates again."""
    return Amount(2.0 * n * k * c, traffic=40.0 * n * c) + search_again(k, c, neighbours, shards)


def search_again(k: int, c: int, neighbours: int, shards: float) -> Amount:
    """Each shard's candidates in float64, which are fetched one by one."""
    numbers = shards * k * (neighbours + MORE) * c
    return Amount(shards * k * CALL, doubles=2.0 * numbers, traffic=16.0 * numbers)
