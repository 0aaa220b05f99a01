"""Non-negative and semi-non-negative matrix factorisation, and the non-negative codes that belong to them.

Legend: n vectors X, k concepts V (rows of unit length), c channels, U the codes (stored as [k, n]), R = X − Uᵀ V.

    minimise ‖X − Uᵀ V‖², U ≥ 0, and V ≥ 0 (NMF: Lee and Seung 1999) or free (semi-NMF: Ding, Li and Jordan 2010)

by hierarchical alternating least squares (Cichocki et al. 2007; Gillis 2014): every row of U, then every row of V, is
set to its exact minimum with all others fixed, ``u_j ← max(0, u_j + R v_j / ‖v_j‖²)``. scikit-learn's coordinate
descent takes the same steps in the same order, through U Uᵀ and V Vᵀ. Dictionaries here have more concepts than
channels, where the residual is the smaller thing to keep: it is updated by blocks of rows, and within a block the steps
follow from the block's Gram matrix, several times faster (`experiments/benchmarks/nmf.py`).

With k ≥ c there are exact factorisations, the raw channels among them, so the error alone says little.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.dictionaries.base import Fitted
from vismech.dictionaries.canonical import canonical, require_distinct
from vismech.dictionaries.lasso import check_finite, rows_at_once
from vismech.errors import UserError
from vismech.passes.threads import for_each_chunk, one_thread

# Vectors that a factorisation is fitted to, at the most.
MAX_VECTORS = 20_000
# Vectors mixed into each atom of the start: single ones, or atoms of noise, end at larger errors.
MIXED = 4
# Rows set one after the other by their Gram matrix before the residual is brought up to date.
BLOCK = 16
# Vectors at once on a CPU, so that their residuals stay in its cache.
CHUNK = 2048
# The error is looked at this often, and the iterations end once it has fallen by less than this share of the norm of X
# since (scikit-learn's rule for multiplicative updates).
CHECK_EVERY = 10
TOLERANCE = 1e-4
# Sweeps of non-negative least squares: the median slope left is then below 1e-3 of a vector's norm. A fixed number, so
# that a vector's code does not depend on those beside it.
SWEEPS = 50


def fit_nmf(vectors: Float[Tensor, "n c"], k: int, *, center: bool = False, **options: Any) -> Fitted:
    """Fit X ≈ U V with U ≥ 0 and V ≥ 0; `options` are those of `fit_semi_nmf`.

    Raises:
        UserError: for negative or centred vectors, and what `fit_semi_nmf` refuses.
    """
    if center:
        raise UserError("nmf: center=true gives vectors with negative values: set center=false, or use semi_nmf.")
    if bool((vectors < 0).any()):
        raise UserError(f"nmf: the vectors hold negative values, down to {vectors.min().item():.3g}: use semi_nmf.")
    return _fit("nmf", vectors, k, nonnegative=True, **options)


def fit_semi_nmf(vectors: Float[Tensor, "n c"], k: int, *, center: bool = False, **options: Any) -> Fitted:
    """Fit X ≈ U V with U ≥ 0 and V free.

    Options: `seed`; `device`; `iterations`, each one pass over U and one over V; `tolerance` (0: never end early);
    `max_vectors`, above which so many are drawn by the seed.

    Raises:
        UserError: for values that are not finite, or k above the number of distinct directions.
    """
    return _fit("semi_nmf", vectors, k, nonnegative=False, **options)


@torch.no_grad()
def encode_nonnegative(
    vectors: Float[Tensor, "*b n c"],
    atoms: Float[Tensor, "k c"],
    encoder: dict[str, Tensor],
    info: dict[str, Any],
) -> Float[Tensor, "*b n k"]:
    """Non-negative least squares, ``argmin ‖x − u V‖²`` with u ≥ 0, by coordinate descent from zero.

    Of more atoms than channels many codes are minima; this is the one that `SWEEPS` passes over the atoms, in their
    order, lead to. (The sparsest is what `code=lasso_nonnegative` with a small penalty finds.)

    Raises:
        UserError: for vectors that are not finite.
    """
    flat = vectors.flatten(0, -2)
    check_finite(flat, atoms)
    codes = flat.new_zeros(len(flat), len(atoms))

    def solve(chunk: Tensor, out: Tensor) -> None:
        residual, found = chunk.float().clone(), chunk.new_zeros(len(atoms), len(chunk), dtype=torch.float32)
        for _ in range(SWEEPS):
            _update_codes(residual, found, atoms.float())
        out.copy_(found.T)

    size = CHUNK if flat.device.type == "cpu" else rows_at_once(flat, len(atoms))
    for_each_chunk(solve, flat.split(size), codes.split(size))
    return codes.view(*vectors.shape[:-1], len(atoms))


def _fit(
    method: str,
    vectors: Float[Tensor, "n c"],
    k: int,
    *,
    nonnegative: bool,
    seed: int,
    device: str | torch.device = "cpu",
    iterations: int = 200,
    tolerance: float = TOLERANCE,
    max_vectors: int = MAX_VECTORS,
) -> Fitted:
    generator = torch.Generator().manual_seed(seed)
    found = canonical(vectors, method, unit=False)
    data = found.vectors[torch.randperm(len(found.vectors), generator=generator)[:max_vectors]]
    require_distinct(method, k, canonical(data, method), len(vectors))
    with one_thread():
        work = partial(_descend, nonnegative=nonnegative, iterations=iterations, tolerance=tolerance)
        atoms, info = work(data.to(device), k, generator)
    info |= {"fitted_vectors": len(data), "zero_vectors": len(vectors) - len(found.vectors)}
    return Fitted(atoms.cpu(), {}, info)


def _descend(
    data: Float[Tensor, "n c"],
    k: int,
    generator: torch.Generator,
    *,
    nonnegative: bool,
    iterations: int,
    tolerance: float,
) -> tuple[Float[Tensor, "k c"], dict[str, Any]]:
    """Return the atoms and how well they fit; start from random mixtures of vectors, and uniform codes to scale."""
    mixed = data[torch.randint(len(data), (k, MIXED), generator=generator)]
    share = torch.rand(k, 1, MIXED, generator=generator).to(data)
    atoms = torch.nn.functional.normalize((share @ mixed)[:, 0], dim=1)
    drawn = torch.rand(k, len(data), generator=generator).to(data)
    start = drawn.T @ atoms
    drawn *= (data * start).sum(1) / start.square().sum(1).clamp_min(torch.finfo(data.dtype).tiny)
    drawn.clamp_(min=0)
    size, norm, revived, done, last = _chunk(data), torch.linalg.vector_norm(data).item(), 0, 0, float("inf")
    residuals = (data - drawn.T @ atoms).split(size)
    codes = [part.contiguous() for part in drawn.split(size, 1)]
    for done in range(1, iterations + 1):
        for residual, part in zip(residuals, codes, strict=True):
            _update_codes(residual, part, atoms)
        _update_atoms(residuals, codes, atoms, nonnegative)
        revived += _rescale(residuals, codes, atoms, data)
        if done % CHECK_EVERY == 0:
            error = torch.stack([residual.square().sum() for residual in residuals]).sum().sqrt().item() / norm
            if last - error < tolerance:
                break
            last = error
    misfit = data - torch.cat(codes, 1).T @ atoms
    error = torch.linalg.vector_norm(misfit).item() / norm
    return atoms, {"relative_error": error, "iterations": done, "revived": revived}


def _chunk(like: Tensor) -> int:
    return CHUNK if like.device.type == "cpu" else rows_at_once(like, like.shape[1])


def _update_codes(residual: Float[Tensor, "n c"], codes: Float[Tensor, "k n"], atoms: Float[Tensor, "k c"]) -> None:
    """Set each row of the codes to its minimum, in place, and keep the residual up to date."""
    for block in torch.arange(len(atoms)).split(BLOCK):
        rows = slice(int(block[0]), int(block[-1]) + 1)
        change = _solve(codes[rows], atoms[rows] @ atoms[rows].T, atoms[rows] @ residual.T, nonnegative=True)
        residual.addmm_(change.T, atoms[rows], alpha=-1)


def _update_atoms(
    residuals: Sequence[Float[Tensor, "_ c"]],
    codes: Sequence[Float[Tensor, "k _"]],
    atoms: Float[Tensor, "k c"],
    nonnegative: bool,
) -> None:
    """Set each atom to its minimum, in place, and keep the residuals up to date."""
    for block in torch.arange(len(atoms)).split(BLOCK):
        rows = slice(int(block[0]), int(block[-1]) + 1)
        gram = torch.stack([part[rows] @ part[rows].T for part in codes]).sum(0)
        slope = torch.stack([part[rows] @ residual for part, residual in zip(codes, residuals, strict=True)]).sum(0)
        change = _solve(atoms[rows], gram, slope, nonnegative)
        for residual, part in zip(residuals, codes, strict=True):
            residual.addmm_(part[rows].T, change, alpha=-1)


def _solve(
    values: Float[Tensor, "b m"], gram: Float[Tensor, "b b"], slope: Float[Tensor, "b m"], nonnegative: bool
) -> Float[Tensor, "b m"]:
    """Set each row to its minimum given those before it, in place, and return by how much the rows changed.

    `slope` is the negative gradient at the start; a row of no curvature stays as it is.
    """
    before = values.clone()
    for row, curvature in enumerate(gram.diagonal().tolist()):
        if curvature > 0:
            new = torch.add(values[row], slope[row], alpha=1 / curvature)
            if nonnegative:
                new.clamp_(min=0)
            slope[row + 1 :].addr_(gram[row + 1 :, row], new - values[row], alpha=-1)
            values[row] = new
    return values - before


def _rescale(
    residuals: Sequence[Float[Tensor, "_ c"]],
    codes: Sequence[Float[Tensor, "k _"]],
    atoms: Float[Tensor, "k c"],
    data: Float[Tensor, "n c"],
) -> int:
    """Give the atoms unit length, and to those that have vanished the direction of the worst explained vectors.

    Return how many those were. Their codes start from zero, so that no residual changes.
    """
    norms = torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
    gone = (norms[:, 0] == 0).nonzero()[:, 0]
    atoms /= torch.where(norms > 0, norms, 1.0)
    for part in codes:
        part *= norms
    if len(gone):
        misfit = torch.cat([residual.square().sum(1) for residual in residuals])
        # A factorisation of fewer vectors than vanished atoms gives some of them the same direction.
        worst = misfit.argsort(descending=True, stable=True)[torch.arange(len(gone)) % len(data)]
        atoms[gone] = torch.nn.functional.normalize(data[worst], dim=1)
    return len(gone)
