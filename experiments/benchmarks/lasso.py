"""Our lasso against scikit-learn's at the same minimum: seconds a vector, and how far either is above the other.

    python experiments/benchmarks/lasso.py --vectors VECTORS.npy [--k 4096] [--nonnegative]

`VECTORS.npy` holds vectors of a layer [n, c] or [images, positions, c], as an extraction's `vectors.npy` in the store
does. Atoms are K of these vectors at unit length, drawn at random; λ is 0.02 × the mean norm, as by default. Ours codes
`--ours` vectors at once, scikit-learn's coordinate descent `--theirs` of them one after another, with its Gram matrix
given and a tolerance of 1e-6; both get one thread, and take turns. Prints the median over the runs of the ratio of
seconds a vector theirs / ours, and the largest relative lead of either in the objective of the vectors of both.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import Lasso
from threadpoolctl import threadpool_limits

from vismech.dictionaries.lasso import lasso


def objective(vectors: np.ndarray, atoms: np.ndarray, codes: np.ndarray, penalty: float) -> np.ndarray:
    """``½ ‖x − u V‖² + λ ‖u‖₁`` of each vector, in float64."""
    rest = vectors.astype(np.float64) - codes.astype(np.float64) @ atoms.astype(np.float64)
    return 0.5 * (rest**2).sum(1) + penalty * np.abs(codes.astype(np.float64)).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--k", type=int, default=4096)
    parser.add_argument("--ours", type=int, default=512)
    parser.add_argument("--theirs", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nonnegative", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = np.load(options.vectors, mmap_mode="r")
    found = found.reshape(-1, found.shape[-1])
    if len(found) < options.k + options.ours:
        parser.error(f"{options.vectors} holds {len(found)} vectors: give --k + --ours of at most so many")
    ratios, above, below = [], 0.0, 0.0
    with threadpool_limits(1):
        for run in range(options.runs):
            drawn = np.random.default_rng(run).permutation(len(found))[: options.k + options.ours]
            rows = np.asarray(found[np.sort(drawn)], np.float32)[np.argsort(np.argsort(drawn))]
            atoms = rows[: options.k] / np.linalg.norm(rows[: options.k], axis=1, keepdims=True)
            vectors = rows[options.k :]
            penalty = 0.02 * float(np.linalg.norm(vectors, axis=1).mean())
            started = time.perf_counter()
            codes = lasso(torch.from_numpy(vectors), torch.from_numpy(atoms), penalty, nonnegative=options.nonnegative)
            between = time.perf_counter()
            design = np.asfortranarray(atoms.T, np.float64)
            peer = Lasso(
                penalty / design.shape[0],
                fit_intercept=False,
                precompute=design.T @ design,
                positive=options.nonnegative,
                max_iter=100_000,
                tol=1e-6,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Of vectors that have not converged: their objective is compared, too.
                few = vectors[: options.theirs]
                peer.fit(design, few.T.astype(np.float64))
            ended = time.perf_counter()
            ours, theirs = (between - started) / len(vectors), (ended - between) / len(few)
            ratios.append(theirs / ours)
            own = objective(few, atoms, codes[: len(few)].numpy(), penalty)
            other = objective(few, atoms, np.atleast_2d(peer.coef_), penalty)
            above, below = max(above, float((own / other - 1).max())), max(below, float((other / own - 1).max()))
            print(f"run {run}: {1000 * ours:.2f} ms a vector, scikit-learn {1000 * theirs:.1f}", flush=True)
    kind = "non-negative" if options.nonnegative else "signed"
    print(
        f"{kind}, K = {options.k}, C = {found.shape[1]}: scikit-learn takes {statistics.median(ratios):.1f} x ours; "
        f"objective: ours at most {above:.1e} above theirs, theirs at most {below:.1e} above ours"
    )


if __name__ == "__main__":
    main()
