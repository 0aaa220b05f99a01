"""What exact neighbours cost.

Legend: n vectors, k concepts, c channels.
"""

from __future__ import annotations

from vismech.costs.cost import Amount
from vismech.dictionaries.device_search import MORE

CALL = 2.0**19
"""FLOPs that take as long as what surrounds the products of one query and shard on a CPU."""


def search(n: float, k: int, c: int, neighbours: int, shards: float) -> Amount:
    """Every vector against every concept, and the candidates again."""
    again = shards * k * (neighbours + MORE) * c  # each shard's candidates in float64, which are fetched one by one
    products = 2.0 * n * k * c + shards * k * CALL
    return Amount(products, doubles=2.0 * again, traffic=40.0 * n * c + 16.0 * again)
