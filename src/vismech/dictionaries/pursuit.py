"""Matching pursuit, which chooses the atoms of a code one by one: for each vector, for an image, or in two stages.

Legend: n vectors, k atoms, c channels, b images, s atoms chosen so far.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.dictionaries.lasso import RIDGE, check_finite, rows_at_once
from vismech.errors import UserError
from vismech.passes.threads import for_each_chunk

# Matrix products of fewer rows use other kernels, which round differently: the last rows are padded to a multiple.
ROW_MULTIPLE = 16
# Matching pursuit has nothing left to explain when the residual is below this fraction of the vector.
RESIDUAL_FLOOR = 1e-6
# Sweeps of coordinate descent after each choice of non-negative pursuit, from the codes before it, and after the last.
SWEEPS, LAST_SWEEPS = 4, 30


@torch.no_grad()
def orthogonal_matching_pursuit(
    vectors: Float[Tensor, "n c"], atoms: Float[Tensor, "k c"], l0: int
) -> Float[Tensor, "n k"]:
    """Choose l0 atoms for each vector, greedily by |<residual, v>|, and fit it by least squares (Pati et al. 1993).

    The residual is kept orthogonal to the chosen atoms by Gram–Schmidt, twice a step; the codes are solved for at the
    end, in float64. A vector that fewer atoms explain exactly gets fewer. Atoms must have unit length.

    Raises:
        UserError: for l0 outside 1 … min(k, c), or vectors that are not finite.
    """
    check_finite(vectors, atoms)
    if not 1 <= l0 <= min(atoms.shape):
        raise UserError(
            f"omp: l0 is {l0} for {len(atoms)} atoms of {atoms.shape[1]} channels: use 1 … {min(atoms.shape)}."
        )
    gram, exact = torch.nn.functional.pad(atoms.double() @ atoms.double().T, (0, 1, 0, 1)), atoms.double()
    codes = vectors.new_zeros(len(vectors), len(atoms))
    size = rows_at_once(vectors, len(atoms) + l0 * (atoms.shape[1] + 2 * l0))

    def pursue(chunk: Tensor, out: Tensor) -> None:
        chosen = _pursue(chunk.float(), atoms.float(), l0)
        system = torch.take(gram, chosen[:, :, None] * (len(atoms) + 1) + chosen[:, None, :])
        system.diagonal(dim1=1, dim2=2).add_(torch.where(chosen < len(atoms), RIDGE, 1.0))
        right = torch.nn.functional.pad(chunk.double() @ exact.T, (0, 1)).gather(1, chosen)
        solution = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(system))[:, :, 0]
        wide = out.new_zeros(len(out), len(atoms) + 1).scatter_(1, chosen, solution.to(out))
        out.copy_(wide[:, :-1])

    for_each_chunk(pursue, vectors.split(size), codes.split(size))
    return codes


@torch.no_grad()
def simultaneous_orthogonal_matching_pursuit(
    vectors: Float[Tensor, "b n c"], atoms: Float[Tensor, "k c"], l0: int
) -> Float[Tensor, "b n k"]:
    """Choose l0 atoms for all vectors of an image together, and fit each vector by least squares (Tropp et al. 2006).

    Each step takes the atom of largest ``Σ_n <residual_n, v>²`` over the image's vectors, and takes what all chosen
    atoms explain out of every residual, all in float64. An image that fewer atoms explain exactly gets fewer.

    Raises:
        UserError: for l0 outside 1 … k, or vectors that are not finite.
    """
    check_finite(vectors.flatten(0, 1), atoms)
    if not 1 <= l0 <= len(atoms):
        raise UserError(f"simultaneous_omp: l0 is {l0} for {len(atoms)} atoms: use 1 … {len(atoms)}.")
    codes = vectors.new_zeros(*vectors.shape[:2], len(atoms))
    steps = min(l0, atoms.shape[1])
    size = rows_at_once(vectors, 2 * (vectors.shape[1] * (atoms.shape[1] + steps) + len(atoms) * (steps + 4)))

    def pursue(images: Tensor, out: Tensor) -> None:
        exact = images.double()
        chosen = _pursue_together(exact.mT @ exact, atoms.double(), steps)
        fitted = least_squares(exact, torch.nn.functional.pad(atoms.double(), (0, 0, 0, 1))[chosen])
        wide = out.new_zeros(*out.shape[:2], len(atoms) + 1)
        index = chosen[:, None].expand(-1, out.shape[1], -1)
        out.copy_(wide.scatter_(2, index, fitted.to(out))[..., :-1])

    for_each_chunk(pursue, vectors.split(size), codes.split(size))
    return codes


def _pursue_together(
    scatter: Float[Tensor, "b c c"], atoms: Float[Tensor, "k c"], steps: int
) -> Int[Tensor, "b {steps}"]:
    """Return the chosen atoms of each image; k where nothing was left to explain.

    All that the choice needs of an image is ``S = Σ_n x xᵀ``: an atom's share of the energy is ``vᵀ S v``, and taking a
    unit direction q out of every vector makes it ``vᵀ S v − 2 <v, q> <v, S q> + <v, q>² qᵀ S q``.
    """
    k = len(atoms)
    fit = ((atoms @ scatter) * atoms).sum(2)
    floor = RESIDUAL_FLOOR**2 * scatter.diagonal(dim1=1, dim2=2).sum(1)
    basis = scatter.new_zeros(len(scatter), steps, atoms.shape[1])
    chosen = torch.full((len(scatter), steps), k, device=atoms.device)
    for step in range(steps):
        best, atom = fit.max(1)
        useful = best > floor
        direction = _next_direction(atoms[atom] * useful[:, None], basis[:, :step])
        basis[:, step] = direction
        image = (scatter @ direction[:, :, None])[:, :, 0]
        energy = (direction * image).sum(1)
        across, along = image @ atoms.T, direction @ atoms.T
        fit += along * (along * energy[:, None] - 2 * across)
        fit.scatter_(1, atom[:, None], -torch.inf)
        pair = direction[:, :, None] * (image - 0.5 * energy[:, None] * direction)[:, None]
        scatter = scatter - pair - pair.mT
        chosen[:, step] = torch.where(useful, atom, k)
    return chosen


def _next_direction(atoms: Float[Tensor, "n c"], basis: Float[Tensor, "n s c"]) -> Float[Tensor, "n c"]:
    """Return the unit part of each atom outside its orthonormal basis: Gram–Schmidt, twice; zero stays zero."""
    for _ in range(2 if basis.shape[1] else 0):
        # Row vectors on the left: batched products of this shape are ten times faster than an einsum.
        shares = torch.bmm(atoms[:, None], basis.mT)
        atoms = torch.baddbmm(atoms[:, None], shares, basis, alpha=-1)[:, 0]
    return torch.nn.functional.normalize(atoms, dim=1)


def least_squares(vectors: Float[Tensor, "b n c"], atoms: Float[Tensor, "b s c"]) -> Float[Tensor, "b n s"]:
    """Codes of each image's vectors in its own s atoms: ``argmin ‖x − u V_s‖²``, nearly the shortest where many are.

    A ridge of 1e-10 (RIDGE) decides between codes where atoms depend on one another; an all-zero atom gets the code 0.
    """
    exact = atoms.double()
    gram = exact @ exact.mT
    gram.diagonal(dim1=1, dim2=2).add_(RIDGE)
    return torch.cholesky_solve(exact @ vectors.double().mT, torch.linalg.cholesky(gram)).mT.to(vectors)


def _pursue(vectors: Float[Tensor, "n c"], atoms: Float[Tensor, "k c"], l0: int) -> Int[Tensor, "n l0"]:
    """Return the chosen atoms of each vector; k where nothing was left to explain."""
    n, k = len(vectors), len(atoms)
    padded = torch.nn.functional.pad(vectors, (0, 0, 0, -n % ROW_MULTIPLE))
    residual = padded.clone()
    floor = RESIDUAL_FLOOR * torch.linalg.vector_norm(padded, dim=1)
    basis = padded.new_zeros(len(padded), l0, atoms.shape[1])
    chosen = torch.full((len(padded), l0), k, device=vectors.device)
    taken = torch.zeros_like(chosen)
    for step in range(l0):
        fit = (residual @ atoms.T).abs_().scatter_(1, taken[:, :step], -1)
        best, atom = fit.max(1)
        taken[:, step] = atom
        useful = best > floor
        direction = _next_direction(atoms[atom] * useful[:, None], basis[:, :step])
        basis[:, step] = direction
        residual = residual - (residual * direction).sum(1, keepdim=True) * direction
        chosen[:, step] = torch.where(useful, atom, k)
    return chosen[:n]


@torch.no_grad()
def nonnegative_orthogonal_matching_pursuit(
    vectors: Float[Tensor, "n c"], atoms: Float[Tensor, "k c"], l0: int
) -> Float[Tensor, "n k"]:
    """Choose l0 atoms for each vector, greedily by <residual, v>, with codes that are never negative.

    After each choice the chosen atoms are fitted by non-negative least squares (Bruckstein et al. 2008), by coordinate
    descent whose number of sweeps is fixed, so that a code does not depend on the vectors beside it. An atom whose code
    falls to zero keeps its place: a vector may have fewer than l0 concepts.

    Raises:
        UserError: for l0 outside 1 … min(k, c), or vectors that are not finite.
    """
    check_finite(vectors, atoms)
    if not 1 <= l0 <= min(atoms.shape):
        raise UserError(
            f"omp_nonnegative: l0 is {l0} for {len(atoms)} atoms of {atoms.shape[1]} channels: "
            f"use 1 … {min(atoms.shape)}."
        )
    codes = vectors.new_zeros(len(vectors), len(atoms))
    size = rows_at_once(vectors, len(atoms) + l0 * (2 * l0 + atoms.shape[1]))
    padded = torch.nn.functional.pad(atoms.float(), (0, 0, 0, 1))
    for_each_chunk(partial(_pursue_upwards, padded, l0), vectors.split(size), codes.split(size))
    return codes


def _pursue_upwards(padded: Float[Tensor, "z c"], l0: int, vectors: Tensor, out: Tensor) -> None:
    """Write the codes; the last of the z = k + 1 atoms is zero, and is chosen where nothing is left to explain."""
    n, k = len(vectors), len(padded) - 1
    rows = torch.nn.functional.pad(vectors.float(), (0, 0, 0, -n % ROW_MULTIPLE))
    floor = RESIDUAL_FLOOR * torch.linalg.vector_norm(rows, dim=1)
    chosen = torch.full((len(rows), l0), k, device=rows.device)
    # Vectors last: descent goes atom by atom, for all vectors at once.
    codes, slopes = rows.new_zeros(l0, len(rows)), rows.new_zeros(l0, len(rows))
    system, residual = rows.new_zeros(l0, l0, len(rows)), rows
    for step in range(l0):
        fit = (residual @ padded.T).scatter_(1, chosen[:, :step], -1)
        best, atom = fit.max(1)
        chosen[:, step] = torch.where(best > floor, atom, k)
        own = padded[chosen[:, : step + 1]]
        new = torch.bmm(own, own[:, step, :, None])[:, :, 0].T
        system[step, : step + 1], system[: step + 1, step] = new, new
        slopes[step] = (rows * own[:, step]).sum(1)
        _descend(system[: step + 1, : step + 1], slopes[: step + 1], codes[: step + 1], SWEEPS)
        if step == l0 - 1:
            _descend(system, slopes, codes, LAST_SWEEPS)
        residual = rows - torch.bmm(codes[: step + 1].T[:, None], own)[:, 0]
    wide = out.new_zeros(len(rows), k + 1).scatter_(1, chosen, codes.T.to(out))
    out.copy_(wide[:n, :k])


def _descend(
    system: Float[Tensor, "s s n"], slopes: Float[Tensor, "s n"], codes: Float[Tensor, "s n"], sweeps: int
) -> None:
    """Coordinate descent on ``½ uᵀ G u − uᵀ b`` over u ≥ 0, unit diagonal; an atom that is zero keeps the code 0."""
    for _ in range(sweeps):
        for place in range(len(codes)):
            change = slopes[place] - (system[place] * codes).sum(0)
            codes[place] = (codes[place] + change).clamp_min_(0)


@torch.no_grad()
def coarse_to_fine_pursuit(
    vectors: Float[Tensor, "b n c"],
    atoms: Float[Tensor, "k c"],
    l0: int,
    coarse: int,
    fine: int | None,
    nonnegative: bool = False,
) -> Float[Tensor, "b n k"]:
    """First tell an image in few concepts as well as these can, then add what they miss in further ones (ours).

    1. Simultaneous matching pursuit chooses `coarse` atoms for the image, and each vector is coded in l0 / 2 of them.
    2. What is left of each vector is coded in l0 − l0 / 2 of all atoms; with `fine`, only of those that have the most
       energy ``Σ_n u_nk²`` in the image when all may be chosen.

    Codes of the first stage do not know of the second's, so no later concept takes back what an early one says; a
    vector has at most l0 concepts and an image at most ``coarse + fine``.

    Raises:
        UserError: for l0 outside 2 … min(k, c), other numbers below 1, or vectors that are not finite.
    """
    if not 2 <= l0 <= min(atoms.shape) or coarse < 1 or (fine is not None and fine < 1):
        raise UserError(
            f"coarse_to_fine: l0={l0}, coarse={coarse}, fine={fine} for {len(atoms)} atoms of {atoms.shape[1]} "
            f"channels: use an l0 of 2 … {min(atoms.shape)}, and at least one concept in each stage."
        )
    pursue = nonnegative_orthogonal_matching_pursuit if nonnegative else orthogonal_matching_pursuit
    supports = simultaneous_orthogonal_matching_pursuit(vectors, atoms, min(coarse, len(atoms))).any(1)
    codes = vectors.new_zeros(*vectors.shape[:2], len(atoms))
    for image, support, out in zip(vectors, supports, codes, strict=True):
        first = support.nonzero()[:, 0]
        if not len(first):
            continue
        out[:, first] = pursue(image, atoms[first], min(l0 // 2, len(first)))
        rest, left = image - out[:, first] @ atoms[first], l0 - l0 // 2
        more = pursue(rest, atoms, left)
        if fine is not None and fine < len(atoms):
            kept = more.square().sum(0).topk(fine).indices.sort().values
            more = torch.zeros_like(more).index_copy_(1, kept, pursue(rest, atoms[kept], min(left, fine)))
        out += more
    return codes
