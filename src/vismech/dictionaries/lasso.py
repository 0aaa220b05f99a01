"""The lasso for many vectors at once, each at its exact minimum.

Legend: n vectors, k atoms, c channels, a active atoms of one vector (padded to the largest), x a vector, V the atoms as
rows, u its code, λ the penalty.

Centroids of non-negative activations all point one way: V Vᵀ has one eigenvalue near k/2, and FISTA is nowhere near
after 400 iterations. So three methods follow one another, each on the vectors that the one before has left:

1. a few iterations of ADMM (Boyd et al. 2011 §6.4), float32, find about which atoms are active;
2. a primal-dual active-set method (a semismooth Newton method, Hintermüller et al. 2002) solves for exactly these and
   exchanges all that break the optimality conditions, until none does; it is fast but may cycle. Float32 goes as far
   as it can tell, float64 from there and has the last word;
3. the active-set method of Lawson and Hanson (1974), float64, exchanges one atom at a time; it always ends.

A vector is done only where no optimality condition is broken, so its code does not depend on the vectors beside it.
"""

from functools import partial
from typing import NamedTuple
from warnings import warn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.errors import UserError
from vismech.passes.threads import for_each_chunk

# Numbers held at once by the largest temporary: inside the cache of a CPU core, and enough work for a GPU.
CPU_NUMBERS, GPU_NUMBERS = 2**19, 2**26
# Iterations of ADMM before each try of the active-set method; relaxation; first step size and its range (residuals
# that have sunk into rounding would push it anywhere); how often it is adapted.
ROUNDS = (36, 40)
RELAXATION = 1.8
FIRST_RHO, RHO_RANGE = 0.5, (0.01, 100.0)
ADAPT_EVERY = 5
# Exchanges tried in each round; slack of |<v, x − uV>| ≤ λ, relative to λ; ridge that lets equal atoms share a code;
# of both also what float32 can tell.
EXCHANGES, ROUNDED_EXCHANGES = 6, 4
SLACK, ROUNDED_SLACK = 1e-9, 1e-4
RIDGE, ROUNDED_RIDGE = 1e-10, 1e-6
# The largest V Vᵀ that is held (8,192 atoms); of more atoms each active set's part of it is made when it is needed.
GRAM_BYTES = 2**29


@torch.no_grad()
def lasso(
    vectors: Float[Tensor, "n c"],
    atoms: Float[Tensor, "k c"],
    penalty: float,
    *,
    nonnegative: bool = False,
    tolerance: float = 1e-5,
    max_iterations: int = 10_000,
    geometry: "Geometry | None" = None,
) -> Float[Tensor, "n k"]:
    """Minimise `½ ‖x − u V‖² + λ ‖u‖₁` for each vector, with u ≥ 0 if nonnegative (GIG Eq. 3).

    A vector that still has not settled after `max_iterations` single exchanges keeps its last code, with a warning if
    the relative duality gap exceeds `tolerance`. `geometry` is that of these atoms, from an earlier call.

    Raises:
        UserError: for a penalty that is not positive, or vectors that are not finite.
    """
    check_finite(vectors, atoms)
    if not 0 < penalty < float("inf"):
        raise UserError(f"lasso: the penalty is {penalty}: λ must be positive and finite.")
    problem = _Lasso(geometry or Geometry.of(atoms), penalty, nonnegative)
    codes = vectors.new_zeros(len(vectors), len(atoms))
    left = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    size = rows_at_once(vectors, len(atoms) + atoms.shape[1])
    for_each_chunk(partial(_solve_most, problem), vectors.split(size), codes.split(size), left.split(size))
    rest = left.nonzero()[:, 0]
    if not len(rest):
        return codes
    gap = torch.zeros(len(vectors), dtype=torch.float64, device=vectors.device)

    def solve_rest(rows: Tensor) -> None:
        exact = vectors[rows].double()
        found, solved = _exchange_one(problem, exact @ problem.atoms.T, max_iterations)
        codes[rows] = found.to(codes)
        gap[rows[~solved]] = _relative_gap(problem, exact[~solved], found[~solved])

    for_each_chunk(solve_rest, rest.split(size))
    if bool((gap > tolerance).any()):
        warn(
            f"lasso: {int((gap > tolerance).sum())} of {len(vectors)} codes have a relative duality gap above "
            f"{tolerance}, up to {gap.max().item():.1e}: raise max_iterations above {max_iterations}.",
            stacklevel=2,
        )
    return codes


def check_finite(vectors: Float[Tensor, "n c"], atoms: Float[Tensor, "k d"]) -> None:
    """Refuse to code vectors that are not finite or not as wide as the atoms."""
    if not bool(vectors.isfinite().all()):
        raise UserError("the vectors to encode hold values that are not finite: mend what produced them.")
    if vectors.shape[1] != atoms.shape[1]:
        raise UserError(f"vectors of {vectors.shape[1]} channels cannot be coded in atoms of {atoms.shape[1]}.")


def rows_at_once(like: Tensor, numbers_per_row: int) -> int:
    """Return how many rows to work on at once, on the device of a tensor."""
    numbers = CPU_NUMBERS if like.device.type == "cpu" else GPU_NUMBERS
    return max(16, numbers // numbers_per_row // 16 * 16)


class Geometry(NamedTuple):
    """What every lasso in the same atoms shares: it takes longer than a few codes, and is worth keeping with the atoms.

    V Vᵀ is known through its c × c side, Vᵀ V = Q diag(e) Qᵀ with B = V Q, and as it is where that is not too large.

    Attributes:
        atoms: V in float64, and
        rounded: in float32.
        gram: V Vᵀ in float64 with a row and column of zeros at its end, where places of padded active sets point; None
            above `GRAM_BYTES`.
        rotated: B.
        eigenvalues: e.
    """

    atoms: Float[Tensor, "k c"]
    rounded: Float[Tensor, "k c"]
    gram: Float[Tensor, "k+1 k+1"] | None
    rotated: Float[Tensor, "k c"]
    eigenvalues: Float[Tensor, " c"]

    @classmethod
    def of(cls, atoms: Float[Tensor, "k c"]) -> "Geometry":
        """Of unit atoms, on their device."""
        exact = atoms.double()
        eigenvalues, vectors = torch.linalg.eigh(exact.T @ exact)
        held = 8 * len(atoms) ** 2 <= GRAM_BYTES
        gram = torch.nn.functional.pad(exact @ exact.T, (0, 1, 0, 1)) if held else None
        return cls(exact, exact.float(), gram, (exact @ vectors).float(), eigenvalues.clamp_min(0).float())

    def within(self, precision: torch.dtype) -> Float[Tensor, "k c"]:
        """V in that precision."""
        return self.atoms if precision == torch.float64 else self.rounded

    def of_active(self, active: Int[Tensor, "n a"], precision: torch.dtype) -> Float[Tensor, "n a a"]:
        """Return V_A V_Aᵀ of each active set; places that are k have zeros."""
        k = len(self.atoms)
        if self.gram is not None and precision == torch.float64:
            return torch.take(self.gram, active[:, :, None] * (k + 1) + active[:, None, :])
        own = self.within(precision)[active.clamp_max(k - 1)].masked_fill_((active == k)[:, :, None], 0.0)
        return own @ own.mT


class _Lasso(NamedTuple):
    """One problem in given atoms."""

    geometry: Geometry
    penalty: float
    nonnegative: bool

    @property
    def atoms(self) -> Float[Tensor, "k c"]:
        """V in float64."""
        return self.geometry.atoms

    def shrink(self, values: Float[Tensor, "n k"], threshold: Float[Tensor, "n 1"]) -> Float[Tensor, "n k"]:
        """Return the proximal point of threshold · ‖·‖₁."""
        if self.nonnegative:
            return (values - threshold).clamp_(min=0)
        return values - torch.minimum(torch.maximum(values, -threshold), threshold)

    def slope(self, correlations: Float[Tensor, "n k"], codes: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return `<v, x − u V>` for every atom."""
        atoms = self.geometry.within(codes.dtype)
        return correlations - (codes @ atoms) @ atoms.T

    def pull(self, slope: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return what must not exceed λ at an inactive atom."""
        return slope if self.nonnegative else slope.abs()


def _solve_most(
    problem: _Lasso, vectors: Float[Tensor, "n c"], out: Float[Tensor, "n k"], unsolved: Bool[Tensor, " n"]
) -> None:
    """Write the codes of most vectors to `out`, and to `unsolved` which are still missing."""
    correlations = vectors.double() @ problem.atoms.T
    state = _Admm(correlations.float())
    left = torch.arange(len(vectors), device=vectors.device)
    for iterations in ROUNDS:
        state.run(problem, iterations)
        codes, solved = _exchange_all(problem, correlations[left], state.codes)
        # The others are written again, or left for another method.
        out[left] = codes.to(out)
        rest = (~solved).nonzero()[:, 0]
        left = left[rest]
        if not len(left):
            break
        state.keep(rest)
    unsolved[left] = True


class _Admm:
    """ADMM on u = z with scaled dual w, one step size ρ for each vector, balanced by the residuals (Boyd §3.4.1)."""

    def __init__(self, correlations: Float[Tensor, "n k"]):
        self.correlations, self.codes = correlations, torch.zeros_like(correlations)
        self.dual, self.rho = torch.zeros_like(correlations), torch.full_like(correlations[:, :1], FIRST_RHO)

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        self.correlations, self.codes = self.correlations[rows], self.codes[rows]
        self.dual, self.rho = self.dual[rows], self.rho[rows]

    def run(self, problem: _Lasso, iterations: int) -> None:
        rotated, eigenvalues = problem.geometry.rotated, problem.geometry.eigenvalues
        back = rotated.T.contiguous()
        for iteration in range(1, iterations + 1):
            # u = (V Vᵀ + ρ)⁻¹ q = (q − B diag(1 / (e + ρ)) Bᵀ q) / ρ, since Bᵀ B = diag(e).
            q = torch.sub(self.codes, self.dual).mul_(self.rho).add_(self.correlations)
            inner = (q @ rotated).div_(eigenvalues + self.rho)
            u = torch.addmm(q, inner, back, alpha=-1).div_(self.rho)
            self.dual.add_(u, alpha=RELAXATION).add_(self.codes, alpha=1 - RELAXATION)
            codes = problem.shrink(self.dual, problem.penalty / self.rho)
            self.dual.sub_(codes)
            if iteration % ADAPT_EVERY == 0:
                self._balance(u, codes)
            self.codes = codes

    def _balance(self, u: Float[Tensor, "n k"], codes: Float[Tensor, "n k"]) -> None:
        """Move ρ towards equal relative residuals, primal ‖u − z‖ / ‖z‖ and dual ‖z − z_before‖ / ‖w‖."""
        primal = (u - codes).norm(dim=1, keepdim=True) * self.dual.norm(dim=1, keepdim=True)
        dual = (codes - self.codes).norm(dim=1, keepdim=True) * codes.norm(dim=1, keepdim=True)
        usable = (primal > 0) & (dual > 0)
        factor = torch.where(usable, primal, 1.0) / torch.where(usable, dual, 1.0)
        rho = (self.rho * factor.sqrt().clamp_(0.2, 5)).clamp_(*RHO_RANGE)
        self.dual.mul_(self.rho / rho)
        self.rho = rho


def _exchange_all(
    problem: _Lasso, correlations: Float[Tensor, "n k"], start: Float[Tensor, "n k"]
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, " n"]]:
    """Return codes and which of them are minima: the primal-dual active-set method from the active sets of `start`."""
    _, _, signs = _exchange(problem, correlations.float(), start.sign(), ROUNDED_EXCHANGES)
    codes, solved, _ = _exchange(problem, correlations, signs.to(correlations), EXCHANGES)
    return codes, solved


def _exchange(
    problem: _Lasso, correlations: Float[Tensor, "n k"], start: Float[Tensor, "n k"], exchanges: int
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, " n"], Float[Tensor, "n k"]]:
    """Return codes, which of them are minima in the precision of the correlations, and the signs that were reached."""
    codes, solved = torch.zeros_like(correlations), torch.zeros(len(start), dtype=torch.bool, device=start.device)
    slack = problem.penalty * (1 + (SLACK if correlations.dtype == torch.float64 else ROUNDED_SLACK))
    # More active atoms than dimensions are no minimum in general position, and dear to solve for.
    most = min(problem.atoms.shape)
    left = (start.count_nonzero(1) <= most).nonzero()[:, 0]
    reached, signs = start.clone(), start[left]
    for _ in range(exchanges):
        if not len(left):
            break
        trial = _solve_active(problem, correlations[left], signs)
        slope = problem.slope(correlations[left], trial)
        wrong = trial * signs < 0
        missing = (problem.pull(slope) > slack) & (signs == 0)
        optimal = ~(wrong | missing).any(1) & trial.isfinite().all(1)
        codes[left] = torch.where(optimal[:, None], trial, codes[left])
        solved[left] = optimal
        signs = torch.where(wrong, 0, torch.where(missing, slope.sign(), signs))
        reached[left] = torch.where(optimal[:, None], reached[left], signs)
        rest = (~optimal & (signs.count_nonzero(1) <= most)).nonzero()[:, 0]
        left, signs = left[rest], signs[rest]
    return codes, solved, reached


def _exchange_one(
    problem: _Lasso, correlations: Float[Tensor, "n k"], max_iterations: int
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, " n"]]:
    """Return codes and which of them are minima: the method of Lawson and Hanson, with signs, from zero.

    Every step lowers the objective: go towards the minimum for the present signs, stop where the first code crosses
    zero and drop its atom; once there without a crossing, add the atom that breaks its condition most.
    """
    result, solved = torch.zeros_like(correlations), torch.zeros_like(correlations[:, 0], dtype=torch.bool)
    codes, signs = torch.zeros_like(correlations), torch.zeros_like(correlations)
    settled = ~solved
    left = torch.arange(len(correlations), device=correlations.device)
    for _ in range(max_iterations):
        slope = problem.slope(correlations[left], codes)
        most, atom = torch.where(signs == 0, problem.pull(slope), -torch.inf).max(1)
        done = settled & (most <= problem.penalty * (1 + SLACK))
        solved[left] = done
        rows = (~done).nonzero()[:, 0]
        if not len(rows):
            break
        left, codes, signs, settled, atom = left[rows], codes[rows], signs[rows], settled[rows], atom[rows]
        added = slope[rows].gather(1, atom[:, None]).sign()
        signs.scatter_(1, atom[:, None], torch.where(settled[:, None], added, signs.gather(1, atom[:, None])))
        target = _solve_active(problem, correlations[left], signs)
        target = torch.where(target.isfinite(), target, codes)
        step = torch.where(target * signs < 0, codes / (codes - target), torch.inf)
        length = step.amin(1, keepdim=True).clamp(max=1)
        crossed = step == length
        codes = torch.where(crossed | (signs == 0), 0, codes + length * (target - codes))
        signs = torch.where(crossed, 0, signs)
        settled = ~crossed.any(1)
        result[left] = codes
    return result, solved


def _solve_active(
    problem: _Lasso, correlations: Float[Tensor, "n k"], signs: Float[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Solve `V_A V_Aᵀ u_A = V_A x − λ s_A` on each vector's active set A; NaN where that fails."""
    k = signs.shape[1]
    codes, counts = torch.zeros_like(signs), signs.count_nonzero(1)
    # Sorted by size, so that little of each group is padding.
    order = counts.argsort(stable=True)
    sizes = counts[order].tolist()
    ridge = RIDGE if signs.dtype == torch.float64 else ROUNDED_RIDGE
    taken = problem.geometry.gram is not None and signs.dtype == torch.float64
    made = 0 if taken else sizes[-1] * problem.atoms.shape[1]
    at_once = rows_at_once(signs, 2 * sizes[-1] ** 2 + made + 1)
    for last, rows in zip([*sizes[at_once - 1 :: at_once], sizes[-1]], order.split(at_once), strict=False):
        count = counts[rows]
        row, atom = signs[rows].nonzero(as_tuple=True)
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        active = torch.full((len(rows), last), k, device=row.device)
        active[row, place] = atom
        gram = problem.geometry.of_active(active, signs.dtype)
        gram.diagonal(dim1=1, dim2=2).add_(torch.where(active < k, ridge, 1.0))
        right = gram.new_zeros(active.shape)
        right[row, place] = correlations[rows[row], atom] - problem.penalty * signs[rows[row], atom]
        factor, failed = torch.linalg.cholesky_ex(gram)
        solution = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        solution.masked_fill_((failed != 0)[:, None], torch.nan)
        codes[rows[row], atom] = solution[row, place]
    return codes


def _relative_gap(problem: _Lasso, vectors: Float[Tensor, "n c"], codes: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Return (primal − dual) / primal, the dual point being the residual scaled into `|<v, θ>| ≤ λ`."""
    residual = vectors - codes @ problem.atoms
    largest = problem.pull(residual @ problem.atoms.T).amax(1)
    theta = residual * (problem.penalty / largest.clamp_min(problem.penalty))[:, None]
    primal = 0.5 * residual.square().sum(1) + problem.penalty * codes.abs().sum(1)
    dual = 0.5 * (vectors.square().sum(1) - (vectors - theta).square().sum(1))
    return (primal - dual) / primal.clamp_min(torch.finfo(primal.dtype).tiny)
