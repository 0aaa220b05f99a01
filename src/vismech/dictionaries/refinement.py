"""Atoms fitted anew to the code that they are used with, from where a method left off.

Legend: n vectors, c channels, k atoms.

A clustering is a code of one concept for each vector, and its centroids are the best atoms for that code. Vectors that
are written in several concepts at once have others, so matching pursuit and the fit of the atoms to its codes alternate
(Engan et al. 1999; the atoms one by one, as in Mairal et al. 2009, algorithm 2, on the unit sphere). With one concept
per vector and codes without a sign that is k-means of directions, each vector weighted by its length along its atom.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.dictionaries.canonical import canonical
from vismech.dictionaries.coding import Code, Coding, encode
from vismech.passes.threads import one_thread

# Passes over the atoms for each round's codes.
PASSES = 3
# Vectors whose products are summed at once in float64.
CHUNK = 2**13


class Refinement(NamedTuple):
    """Rounds of codes and fits, and the code: so many concepts per vector, with or without a sign."""

    rounds: int
    l0: int
    nonnegative: bool = False


class Refined(NamedTuple):
    """Unit atoms, and the relative error ``‖X − U V‖² / ‖X‖²`` of each round's codes, before its fit."""

    atoms: Float[Tensor, "k c"]
    errors: list[float]


@torch.no_grad()
def refine(
    vectors: Float[Tensor, "n c"],
    atoms: Float[Tensor, "k c"],
    how: Refinement,
    on_round: Callable[[], None] = lambda: None,
) -> Refined:
    """Alternate between codes of l0 concepts for each vector and the atoms that rebuild the vectors best from these.

    With the codes U and all other atoms fixed, the unit vector of least error is the direction of
    ``(Uᵀ X)_k − Σ_{j≠k} (Uᵀ U)_kj v_j``. An atom that no vector uses becomes the direction of one of the vectors that
    are rebuilt worst. The order of the vectors does not show. `on_round` is called after each round.

    Raises:
        UserError: for l0 outside 1 … min(k, c), or values that are not finite.
    """
    data, errors = canonical(vectors, "refine", unit=False).vectors, []
    coding = Coding(Code.omp_nonnegative if how.nonnegative else Code.omp, l0=how.l0)
    with one_thread():  # Sums that split among threads round differently.
        energy = data.square().sum(dtype=torch.float64)
    for _ in range(how.rounds):
        gram, cross, missed = _products(data, atoms, coding)
        with one_thread():
            errors.append((missed.sum() / energy).item())
            atoms = _fitted(gram, cross, atoms)
        unused = (gram.diagonal() == 0).nonzero()[:, 0]
        worst = data[missed.topk(min(len(unused), len(data))).indices].to(atoms)
        atoms[unused[: len(worst)]] = torch.nn.functional.normalize(worst, dim=1)
        on_round()
    return Refined(atoms, errors)


def _products(
    data: Float[Tensor, "n c"], atoms: Float[Tensor, "k c"], coding: Coding
) -> tuple[Float[Tensor, "k k"], Float[Tensor, "k c"], Float[Tensor, " n"]]:
    """Return Uᵀ U and Uᵀ X in float64, and each vector's squared error (on the CPU); codes live for a chunk only."""
    gram, cross = atoms.new_zeros(len(atoms), len(atoms), dtype=torch.float64), torch.zeros_like(atoms).double()
    missed = []
    for chunk in data.split(CHUNK):
        rows = chunk.to(atoms.device)
        codes = encode(rows, atoms, coding)
        with one_thread():
            missed.append((rows - codes @ atoms).square().sum(1, dtype=torch.float64).cpu())
            exact = codes.double()
            gram.addmm_(exact.T, exact)
            cross.addmm_(exact.T, rows.double())
    return gram, cross, torch.cat(missed)


def _fitted(
    gram: Float[Tensor, "k k"], cross: Float[Tensor, "k c"], atoms: Float[Tensor, "k c"]
) -> Float[Tensor, "k c"]:
    """Return the atoms after some passes of block coordinate descent, in float64."""
    fitted, own = atoms.double(), gram.diagonal()
    used = (own > 0).nonzero()[:, 0].tolist()
    for atom in used * PASSES:
        target = cross[atom] - gram[atom] @ fitted + own[atom] * fitted[atom]
        norm = torch.linalg.vector_norm(target)
        fitted[atom] = torch.where(norm > 0, target / norm, fitted[atom])
    return fitted.to(atoms)
