"""What it costs to write vectors in concepts, method by method.

Legend: n vectors, k concepts, c channels, L concepts per vector.
"""

from __future__ import annotations

from math import ceil

from vismech.config.choices import Code
from vismech.costs.cost import Amount, Kind

CHUNK_NUMBERS = 2**26
"""Numbers that a chunk of a GPU holds; on a CPU chunks are small and their launches are part of the measured rate."""
ADMM, EXCHANGES = 30, 4
"""The lasso's iterations, and rounds of exchanges after which few vectors are left, as observed."""
SWEEPS = 50
"""Of the encoder of a factorisation."""


def lasso(n: float, k: int, c: int) -> dict[Kind, Amount]:
    """Two products n × k × c an iteration, in float32, and as much for each exchange in float64."""
    chunks = ceil(n * (k + c) / CHUNK_NUMBERS)
    return {
        Kind.lasso: Amount(4.0 * ADMM * n * k * c, 2.0 * (1 + 2 * EXCHANGES) * n * k * c, launches=500.0 * chunks),
        Kind.products: Amount(doubles=2.0 * k * k * c),
    }


def pursuit(n: float, k: int, c: int, l0: int, nonnegative: bool) -> dict[Kind, Amount]:
    """A product n × k × c for each atom; signs need a few solutions more for each."""
    chunks = ceil(n * (k + c) / CHUNK_NUMBERS)
    times = 2 if nonnegative else 1
    return {Kind.pursuit: Amount(2.0 * times * l0 * n * k * c, launches=30.0 * times * l0 * chunks)}


def coding(code: Code, n: float, k: int, c: int, l0: int, images: float) -> dict[Kind, Amount]:
    """Work of a code.

    Args:
        code: which.
        n: vectors.
        k: concepts.
        c: channels.
        l0: concepts per vector, where the code has so many.
        images: that the vectors are of; of some codes each is solved for itself.
    """
    match code:
        case Code.lasso | Code.lasso_nonnegative:
            return lasso(n, k, c)
        case Code.encoder | Code.custom:
            # A product for autoencoders and bases; the factorisations' sweeps are told by their rate.
            return {Kind.products: Amount(2.0 * n * k * c, launches=10.0)}
    found = pursuit(n, k, c, l0, code in (Code.omp_nonnegative, Code.coarse_to_fine_nonnegative))
    if code in (Code.coarse_to_fine, Code.coarse_to_fine_nonnegative, Code.simultaneous_omp):
        found = {kind: amount + Amount(launches=30.0 * l0 * images) for kind, amount in found.items()}
    return found


def encoder_sweeps(n: float, k: int) -> dict[Kind, Amount]:
    """The encoder of a factorisation: a row of the Gram matrix for each concept and sweep."""
    return {Kind.products: Amount(2.0 * SWEEPS * n * k * k, launches=5.4 * SWEEPS * k)}
