"""How a vector is written in the atoms of a dictionary: lasso, or orthogonal matching pursuit, alone or by image.

Legend: n vectors, k atoms, c channels, s atoms chosen so far; the lasso itself is in `vismech.lasso`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.choices import Code
from vismech.errors import UserError
from vismech.lasso import RIDGE, check_finite, lasso, rows_at_once
from vismech.threads import for_each_chunk

__all__ = ["Code", "Coding", "encode", "lasso", "orthogonal_matching_pursuit"]

LASSOS = (Code.lasso, Code.lasso_nonnegative)
PURSUITS = (Code.omp, Code.simultaneous_omp)
# Matrix products of fewer rows use other kernels, which round differently: the last rows are padded to a multiple.
ROW_MULTIPLE = 16
# Matching pursuit has nothing left to explain when the residual is below this fraction of the vector.
RESIDUAL_FLOOR = 1e-6


@dataclass(frozen=True)
class Coding:
    """A code with its numbers: `penalty` is the lasso's absolute λ, `l0` the number of atoms of matching pursuit.

    Simultaneous matching pursuit chooses `l0` atoms for all vectors of an image together.
    """

    code: Code
    penalty: float = 0.0
    l0: int | None = None
    tolerance: float = 1e-5
    max_iterations: int = 10_000

    def __post_init__(self):
        if self.code in PURSUITS and self.l0 is None:
            raise UserError(f"code {self.code} needs l0, the number of atoms: set it.")
        if self.code in LASSOS and not self.penalty > 0:
            raise UserError(f"code {self.code} has penalty {self.penalty}: λ must be above zero.")


def encode(vectors: Float[Tensor, "*b n c"], atoms: Float[Tensor, "k c"], coding: Coding) -> Float[Tensor, "*b n k"]:
    """Return the codes of each vector under a coding; leading dimensions tell images apart."""
    flat = vectors.flatten(0, -2)
    if coding.code in PURSUITS:
        assert coding.l0 is not None
        if coding.code is Code.simultaneous_omp:
            images = vectors.reshape(-1, *vectors.shape[-2:])
            codes = simultaneous_orthogonal_matching_pursuit(images, atoms, coding.l0)
        else:
            codes = orthogonal_matching_pursuit(flat, atoms, coding.l0)
        return codes.view(*vectors.shape[:-1], -1)
    codes = lasso(
        flat,
        atoms,
        coding.penalty,
        nonnegative=coding.code is Code.lasso_nonnegative,
        tolerance=coding.tolerance,
        max_iterations=coding.max_iterations,
    )
    return codes.view(*vectors.shape[:-1], -1)


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
    atoms explain out of every residual by Gram–Schmidt. An image that fewer atoms explain exactly gets fewer.

    Raises:
        UserError: for l0 outside 1 … k, or vectors that are not finite.
    """
    check_finite(vectors.flatten(0, 1), atoms)
    if not 1 <= l0 <= len(atoms):
        raise UserError(f"simultaneous_omp: l0 is {l0} for {len(atoms)} atoms: use 1 … {len(atoms)}.")
    codes = vectors.new_zeros(*vectors.shape[:2], len(atoms))

    def pursue(image: Tensor, out: Tensor) -> None:
        chosen = _pursue_together(image[0].float(), atoms.float(), l0)
        out[0, :, chosen] = least_squares(image, atoms[chosen][None])[0].to(out)

    for_each_chunk(pursue, vectors.split(1), codes.split(1))
    return codes


def _pursue_together(vectors: Float[Tensor, "n c"], atoms: Float[Tensor, "k c"], l0: int) -> Int[Tensor, " s"]:
    """Return the chosen atoms of one image, at most one for each of its dimensions."""
    residual, directions, chosen = vectors.clone(), atoms.clone(), []
    floor = (RESIDUAL_FLOOR * torch.linalg.vector_norm(vectors)) ** 2
    taken = torch.zeros(len(atoms), dtype=torch.bool, device=vectors.device)
    for _ in range(min(l0, atoms.shape[1])):
        fit = (residual @ atoms.T).square_().sum(0).masked_fill_(taken, -1)
        best, atom = fit.max(0)
        if best <= floor:
            break
        direction = torch.nn.functional.normalize(directions[atom], dim=0)
        # Every atom's part outside the chosen ones, so that the next direction is orthogonal to them.
        directions = directions - (directions @ direction)[:, None] * direction
        residual = residual - (residual @ direction)[:, None] * direction
        taken[atom] = True
        chosen.append(atom)
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.int64, device=vectors.device)


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
    taken = torch.zeros(len(padded), k + 1, dtype=torch.bool, device=vectors.device)
    for step in range(l0):
        fit = (residual @ atoms.T).abs_().masked_fill_(taken[:, :-1], -1)
        best, atom = fit.max(1)
        useful = best > floor
        direction = atoms[atom] * useful[:, None]
        earlier = basis[:, :step]
        for _ in range(2 if step else 0):
            # Row vectors on the left: batched products of this shape are ten times faster than an einsum.
            shares = torch.bmm(direction[:, None], earlier.mT)
            direction = torch.baddbmm(direction[:, None], shares, earlier, alpha=-1)[:, 0]
        direction = torch.nn.functional.normalize(direction, dim=1)
        basis[:, step] = direction
        residual = residual - (residual * direction).sum(1, keepdim=True) * direction
        chosen[:, step] = torch.where(useful, atom, k)
        taken.scatter_(1, chosen[:, step, None], True)
    return chosen[:n]
