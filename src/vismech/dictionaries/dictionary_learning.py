"""Online dictionary learning (Mairal et al. 2009), with this project's exact lasso.

Legend: n vectors, k concepts V, c channels, b vectors of a minibatch, U their codes [b, k].

    minimise over V, ‖v_j‖ ≤ 1:  mean of  min_u ½ ‖x − u V‖² + λ ‖u‖₁

Each minibatch is coded in the present atoms; then `A ← β A + Uᵀ U / b`, `B ← β B + Uᵀ X / b` and, for each atom in
turn, `v_j ← v_j + (B_j − A_j V) / A_jj`, shortened to length 1 where longer. These are the steps of scikit-learn's
`MiniBatchDictionaryLearning`, its forgetting factor β included, and from the same start they give the same atoms; only
its lasso is too slow (1.7 s for 256 vectors in 512 atoms of 64 channels) to give this baseline enough training.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.dictionaries.base import Fitted
from vismech.dictionaries.canonical import canonical, require_distinct
from vismech.dictionaries.lasso import lasso
from vismech.passes.threads import one_thread

# scikit-learn's bound: an atom of less weight in A is not in use.
UNUSED = 1e-6


def fit_dictionary_learning(
    vectors: Float[Tensor, "n c"],
    k: int,
    *,
    seed: int,
    center: bool = False,
    device: str | torch.device = "cpu",
    iterations: int = 200,
    batch_size: int = 128,
    penalty_fraction: float = 0.02,
) -> Fitted:
    """Fit k atoms in so many minibatches, from the directions of k vectors, both drawn by the seed.

    `λ = penalty_fraction × mean ‖x‖` of the vectors as they come, centred or not. An atom that is not in use is
    replaced by the direction of a vector of the minibatch.

    Raises:
        UserError: for values that are not finite, or k above the number of distinct directions.
    """
    generator = torch.Generator().manual_seed(seed)
    found = canonical(vectors, "dictionary_learning", unit=False)
    data = found.vectors[torch.randperm(len(found.vectors), generator=generator)]
    unit = canonical(data, "dictionary_learning")
    require_distinct("dictionary_learning", k, unit, len(vectors))
    distinct = torch.unique_consecutive(unit.vectors, dim=0)
    start = distinct[torch.randperm(len(distinct), generator=generator)[:k]].to(device)
    penalty = penalty_fraction * torch.linalg.vector_norm(data, dim=1, dtype=torch.float64).mean().item()
    data, size = data.to(device), min(batch_size, len(data))
    with one_thread():
        atoms, replaced = learn(data, start, penalty, iterations, size, generator)
    info = {"penalty": penalty, "minibatches": iterations, "batch_size": size, "replaced": replaced}
    atoms = torch.nn.functional.normalize(atoms, dim=1)
    return Fitted(atoms.cpu(), {}, {**info, "zero_vectors": len(vectors) - len(data)})


def learn(
    data: Float[Tensor, "n c"],
    start: Float[Tensor, "k c"],
    penalty: float,
    iterations: int,
    batch_size: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "k c"], int]:
    """Return the atoms after so many minibatches, taken from the data in order, and how often one was replaced."""
    atoms, replaced = start.double(), 0
    weights, targets = atoms.new_zeros(len(atoms), len(atoms)), torch.zeros_like(atoms)
    rows, place = torch.arange(len(data)), 0
    for step in range(iterations):
        if place + batch_size > len(data):
            rows, place = torch.randperm(len(data), generator=generator), 0
        batch = data[rows[place : place + batch_size].to(data.device)].double()
        place += batch_size
        codes = lasso(batch, atoms, penalty)
        early = (step + 1) * batch_size
        theta = early if step < batch_size - 1 else batch_size**2 + step + 1 - batch_size
        forget = (theta + 1 - batch_size) / (theta + 1)
        weights.mul_(forget).addmm_(codes.T, codes, alpha=1 / batch_size)
        targets.mul_(forget).addmm_(codes.T, batch, alpha=1 / batch_size)
        replaced += _update(atoms, weights, targets, batch, generator)
    return atoms.float(), replaced


def _update(
    atoms: Float[Tensor, "k c"],
    weights: Float[Tensor, "k k"],
    targets: Float[Tensor, "k c"],
    batch: Float[Tensor, "b c"],
    generator: torch.Generator,
) -> int:
    """Set each atom to its minimum in turn, in place; return how many were not in use and replaced."""
    replaced = 0
    for j, weight in enumerate(weights.diagonal().tolist()):
        if weight > UNUSED:
            atoms[j] += (targets[j] - weights[j] @ atoms) / weight
            atoms[j] /= atoms[j].norm().clamp_min(1)
        else:
            chosen = int(torch.randint(len(batch), (1,), generator=generator))
            atoms[j] = torch.nn.functional.normalize(batch[chosen], dim=0)
            weights[j], weights[:, j], targets[j] = 0, 0, 0
            replaced += 1
    return replaced
