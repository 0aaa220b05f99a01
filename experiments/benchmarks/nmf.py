"""Our non-negative matrix factorisation against scikit-learn's: relative error ‖X − U V‖ / ‖X‖, and seconds.

    python experiments/benchmarks/nmf.py --cifar-root CIFAR10_TEST --weights CIFAR_RESNET20_WEIGHTS
    python experiments/benchmarks/nmf.py --vectors VECTORS.npy:16,256

5,000 pointwise feature vectors of CIFAR ResNet-20's layer2.2 (32 channels; 5 positions of each of 1,000 images), at
K = C / 2 and at K = 8 C. Both get the same vectors, K, number of iterations and seed, a random start of their own, no
early end, and one thread. scikit-learn runs its coordinate descent, its faster and better solver. Prints, for each K,
the medians over the runs of error ours / theirs and of time ours / theirs. With K ≥ C the exact factorisation exists,
and both errors are small and still falling when the iterations end: what is compared then is how fast.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from bisecting import pfvs
from sklearn.decomposition import NMF
from threadpoolctl import threadpool_limits

from vismech.config.choices import DataSource, ModelSource
from vismech.dictionaries.factorization import fit_nmf
from vismech.sources.data import open_data
from vismech.sources.models import open_model


def compare(name: str, vectors: np.ndarray, k: int, iterations: int, runs: int) -> None:
    vectors = vectors[(vectors > 0).any(1)]
    errors: list[tuple[float, float]] = []
    seconds: list[tuple[float, float]] = []
    for run in range(runs):
        started = time.perf_counter()
        fitted = fit_nmf(
            torch.from_numpy(vectors), k, seed=run, iterations=iterations, tolerance=0.0, max_vectors=len(vectors)
        )
        between = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It warns that the iterations were all that it was given.
            peer = NMF(k, init="random", solver="cd", max_iter=iterations, tol=0, random_state=run).fit(vectors)
        ended = time.perf_counter()
        seconds.append((between - started, ended - between))
        errors.append((fitted.info["relative_error"], peer.reconstruction_err_ / float(np.linalg.norm(vectors))))
    error, speed = (statistics.median(a / b for a, b in pairs) for pairs in (errors, seconds))
    own, other = (statistics.median(column) for column in zip(*errors, strict=True))
    ours, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
    shape = f"{len(vectors)} x {vectors.shape[1]}, K = {k}, {iterations} iterations"
    print(
        f"{name} ({shape}): error {error:.4f} ({own:.5f}, {other:.5f}), "
        f"time {speed:.3f} ({ours:.2f} s, {theirs:.2f} s) (median of {runs})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar-root", type=Path)
    parser.add_argument("--weights", type=Path, help="safetensors of CIFAR ResNet-20")
    parser.add_argument("--vectors", action="append", default=[], metavar="FILE.npy:K,K")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if bool(options.cifar_root) != bool(options.weights):
        parser.error("--cifar-root and --weights go together")
    if not (options.cifar_root or options.vectors):
        parser.error("give --cifar-root and --weights, or --vectors")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if options.cifar_root:
            model = open_model(ModelSource.cifar_resnet, "cifar_resnet20", checkpoint=options.weights)
            data = open_data(DataSource.cifar10, options.cifar_root, limit=1000)
            vectors = pfvs(model, data, "layer2.2", 5)
            for k in (vectors.shape[1] // 2, 8 * vectors.shape[1]):
                compare("CIFAR ResNet-20 layer2.2", vectors, k, options.iterations, options.runs)
        for pair in options.vectors:
            file, _, sizes = pair.rpartition(":")
            vectors = np.load(file, allow_pickle=False)
            for k in map(int, sizes.split(",")):
                compare(Path(file).name, vectors.reshape(-1, vectors.shape[-1]), k, options.iterations, options.runs)


if __name__ == "__main__":
    main()
