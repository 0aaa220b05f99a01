"""Concept dictionaries: one contract over several methods.

Legend: n vectors, k concepts, c channels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.dictionaries.base import Dictionary, Fitted
from vismech.dictionaries.coding import PURSUITS, Code, Coding, load
from vismech.dictionaries.refinement import Refinement, refine
from vismech.dictionaries.scratch import room
from vismech.errors import UserError

__all__ = ["METHODS", "Dictionary", "Fitted", "build"]

# Rows that are looked at together.
ROWS = 2**13

# fit(vectors, k, *, seed, center, device, **options) -> Fitted. When `center` is true the vectors come with their mean
# already subtracted; a method that needs non-negative vectors refuses then. Named, not imported: a method is loaded
# when it is used.
METHODS: dict[str, str] = {
    "bisecting": "vismech.dictionaries.bisecting:fit_bisecting",
    "kmeans": "vismech.dictionaries.kmeans:fit_kmeans",
    "nmf": "vismech.dictionaries.factorization:fit_nmf",
    "semi_nmf": "vismech.dictionaries.factorization:fit_semi_nmf",
    "dictionary_learning": "vismech.dictionaries.dictionary_learning:fit_dictionary_learning",
    "sae": "vismech.dictionaries.sae.training:fit_sae",
    "transcoder": "vismech.dictionaries.sae.transcoder:fit_transcoder",
    "pca": "vismech.dictionaries.bases:fit_pca",
    "channels": "vismech.dictionaries.bases:fit_channels",
    "rotation": "vismech.dictionaries.bases:fit_rotation",
    "random": "vismech.dictionaries.bases:fit_random",
    "random_pfv": "vismech.dictionaries.bases:fit_random_pfv",
}


def build(
    method: str,
    vectors: Float[Tensor, "n c"],
    k: int,
    seed: int,
    code: Code = Code.lasso,
    penalty_fraction: float = 0.02,
    l0: int | None = None,
    center: bool = False,
    device: str | torch.device = "cpu",
    refinement: Refinement | None = None,
    on_round: Callable[[], None] = lambda: None,
    **options: Any,
) -> Dictionary:
    """Fit a dictionary of k concepts (and the mean concept, if centred) to pointwise feature vectors.

    The lasso's penalty is `λ = penalty_fraction × mean ‖x‖` over these vectors as they are, centred or not.
    Matching pursuit uses `l0` concepts (of an image: simultaneous), by default half the channels but at most k.
    With a `refinement` the method's atoms are only where `refine` starts from, and its tree is not kept.

    Raises:
        UserError: for an unknown method, no vectors, values that are not finite, or a mean to centre by that is zero.
    """
    if method not in METHODS and ":" not in method:
        raise UserError(f"dictionary {method!r} is unknown: choose one of {', '.join(sorted(METHODS))}.")
    vectors = vectors.detach().float()
    norms = vectors.new_empty(len(vectors), dtype=torch.float64)
    for some, there in zip(vectors.split(ROWS), norms.split(ROWS), strict=True):
        torch.linalg.vector_norm(some, dim=1, dtype=torch.float64, out=there)
    mean_norm_of_vectors = norms.mean().item()
    if not 0 < mean_norm_of_vectors < float("inf"):
        raise UserError(
            f"the mean norm of {len(vectors)} vectors is {mean_norm_of_vectors}: give finite vectors, not all zero."
        )
    data, mean = vectors, torch.zeros(vectors.shape[1], dtype=torch.float64)
    if center:
        mean = mean_of(vectors, options.get("scratch"))
        if not bool(mean.any()):
            raise UserError("center=true, but the mean of the vectors is zero and has no direction: set center=false.")
        less = room(*vectors.shape, folder=options["scratch"]) if options.get("scratch") else None
        data = torch.sub(vectors, mean.float(), out=less)
    fitted: Fitted = load(METHODS.get(method, method))(data, k, seed=seed, center=center, device=device, **options)
    atoms = fitted.atoms
    info = {"method": method, "k": k, "seed": seed, "vectors": len(vectors), **fitted.info}
    if refinement is not None:
        coded = data if fitted.shift is None else data - fitted.shift.to(data)
        refined = refine(coded, atoms.to(device), refinement, on_round)
        atoms, info["refinement_errors"] = refined.atoms.to(atoms), refined.errors
        fitted = fitted._replace(arrays={}, encoder=None)  # They tell of the atoms that the method had found.
    info["vector_norm"] = mean_norm_of_vectors
    if center:
        mean = mean if fitted.shift is None else mean + fitted.shift.to(mean)
        mean_norm = mean.norm().item()
        atoms = torch.cat([atoms, (mean / mean_norm).float()[None].to(atoms)])
        info["mean_norm"] = mean_norm
    if code in PURSUITS:
        l0 = min(atoms.shape[1] // 2, len(atoms) - center) if l0 is None else l0
    coding = Coding(code, penalty_fraction * mean_norm_of_vectors, l0)
    return Dictionary(atoms, coding, len(atoms) - 1 if center else None, info, fitted.arrays, fitted.encoder or {})


def mean_of(vectors: Float[Tensor, "n c"], folder: Path | None = None) -> Float[Tensor, " c"]:
    """The mean in float64. PyTorch copies to float64 what it sums: here to a file of ``folder`` if that is large."""
    if folder is None:
        return vectors.mean(0, dtype=torch.float64)
    exact = room(*vectors.shape, folder=folder, dtype=torch.float64)
    for some, there in zip(vectors.split(ROWS), exact.split(ROWS), strict=True):
        there.copy_(some)
    return exact.mean(0)
