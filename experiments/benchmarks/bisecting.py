"""Bisecting spherical k-means against scikit-learn's BisectingKMeans: seconds, and SSE around the cluster means.

    python experiments/benchmarks/bisecting.py --cifar-root CIFAR10_TEST --weights CIFAR_RESNET20_WEIGHTS \\
        --imagenet-root IMAGENET
    python experiments/benchmarks/bisecting.py --vectors VECTORS.npy:512
    python experiments/benchmarks/bisecting.py --before COMMIT --shape 12500:1024:4096

Two sets of pointwise feature vectors: 30,000 of CIFAR ResNet-20's layer3.1 (K = 512; 3 positions of each of 10,000
images) and all of EfficientNet-Lite0's blocks.4 on 200 photographs (K = 896). `--vectors FILE.npy:K` adds any other
file [n, c] or [images, positions, c], such as the vectors.npy of an extraction artifact (`vismech-store ls` finds it).
Prints, for each set, the medians of ours / theirs over alternating runs with one thread; run r of both has seed r.
Both get the same unit vectors; our time includes normalising them again. scikit-learn runs with its defaults but for
the strategy, "biggest_inertia".

`--before COMMIT` takes the package of another commit instead of scikit-learn: N vectors of C channels and 64
directions, half of their numbers zero, in K concepts, each in a process of its own; prints seconds of CPU, the median
of the ratios over alternating runs, and whether the trees are the same bytes. Against 0ab344a, on one thread of two
shared cores: 0.45 at 50000:2048:16384 (18.3 s, now 8.3 s) and 0.57 at 12500:1024:4096. Its cosines came from products
of matrices and rounded otherwise: in 10 of 101 fits of real layers, and here from 25,000 vectors on, some vector falls
to the other side of a split and what is below it is another tree, of the same SSE within 3 parts in 10,000 (9 in one).
Of what is left half is FAISS's 2-means, bound by reading the vectors twice an iteration, and a fifth the means and SSE.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import BisectingKMeans
from threadpoolctl import threadpool_limits

from vismech.config.choices import DataSource, ModelSource
from vismech.dictionaries.bisecting import bisecting_kmeans
from vismech.network.cut import open_network
from vismech.network.pfv import layout_of, uniform_positions
from vismech.sources.data import open_data
from vismech.sources.models import Model, open_model
from vismech.sources.pictures import ImageData

BATCH = 50


def pfvs(model: Model, data: ImageData, layer: str, per_image: int | None) -> np.ndarray:
    """Pointwise feature vectors [n, c] of a layer: all of every image, or so many of each at random positions."""
    network = open_network(model.module, model.example)
    layout = layout_of(network.shape(layer), layer)
    rows = []
    with torch.inference_mode():
        for first in range(0, len(data), BATCH):
            batch = range(first, min(first + BATCH, len(data)))
            images = torch.stack([model.preprocess(data.load(index)) for index in batch])
            vectors = layout.vectors(network.activations(images, [layer])[layer]).numpy()
            for index, image in zip(batch, vectors, strict=True):
                if per_image is not None:
                    image = image[uniform_positions(data.samples[index].id, 0, layout.positions, per_image)]
                rows.append(image)
    return np.concatenate(rows)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.reshape(-1, vectors.shape[-1]).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors[norms[:, 0] > 0] / norms[norms > 0][:, None]).astype(np.float32)


def sse(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Σ ‖x − mean of its cluster‖², the same computation for both."""
    clusters = (vectors[labels == label].astype(np.float64) for label in np.unique(labels))
    return sum(float(((cluster - cluster.mean(0)) ** 2).sum()) for cluster in clusters)


def compare(name: str, vectors: np.ndarray, k: int, runs: int) -> None:
    vectors = unit(vectors)
    seconds: list[tuple[float, float]] = []
    errors: list[tuple[float, float]] = []
    for run in range(-1, runs):  # the first turn warms up
        started = time.perf_counter()
        ours = bisecting_kmeans(torch.from_numpy(vectors), k, seed=max(run, 0)).labels.numpy()
        between = time.perf_counter()
        peer = BisectingKMeans(k, bisecting_strategy="biggest_inertia", random_state=max(run, 0))
        theirs = peer.fit(vectors).labels_
        ended = time.perf_counter()
        if run >= 0:
            seconds.append((between - started, ended - between))
            errors.append((sse(vectors, ours), sse(vectors, theirs)))
    speed, tightness = (statistics.median(a / b for a, b in pairs) for pairs in (seconds, errors))
    own, other = (statistics.median(column) for column in zip(*seconds, strict=True))
    shape = f"{len(vectors)} x {vectors.shape[1]}, K = {k}"
    print(f"{name} ({shape}): time {speed:.3f} ({own:.2f} s, {other:.2f} s), SSE {tightness:.4f} (median of {runs})")


BESIDE = """
import hashlib, sys, time, torch
from vismech.dictionaries.bisecting import bisecting_kmeans
torch.set_num_threads(1)
n, c, k = map(int, sys.argv[1:])
draw = torch.Generator().manual_seed(0)
vectors = (torch.randn(n, 64, generator=draw) @ torch.randn(64, c, generator=draw)).relu_()
bisecting_kmeans(vectors[:100], 4, seed=0)
started = time.process_time()
found = bisecting_kmeans(vectors, k, seed=0)
spent, digest = time.process_time() - started, hashlib.sha256()
for array in (found.atoms.numpy(), found.labels.numpy(), *found.tree):
    digest.update(array.tobytes())
print(spent, digest.hexdigest())
"""


def beside(commit: str, shape: str, runs: int) -> None:
    here = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit, "src/vismech"], cwd=here, check=True, capture_output=True)
        subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
        found: dict[Path, list[list[str]]] = {Path(folder) / "src": [], here / "src": []}
        for _ in range(runs):
            for source, told in found.items():
                environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
                command = [sys.executable, "-c", BESIDE, *shape.split(":")]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                told.append(done.stdout.split())
    before, after = ([float(each[0]) for each in told] for told in found.values())
    same = len({each[1] for told in found.values() for each in told}) == 1
    ratio = statistics.median(new / old for old, new in zip(before, after, strict=True))
    spent = f"{statistics.median(before):.2f} s, now {statistics.median(after):.2f} s"
    trees = "the same trees" if same else "OTHER TREES"
    print(f"{shape}: {ratio:.2f} of {commit}'s time ({spent}; median of {runs}), {trees}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar-root", type=Path)
    parser.add_argument("--weights", type=Path, help="safetensors of CIFAR ResNet-20")
    parser.add_argument("--imagenet-root", type=Path)
    parser.add_argument("--vectors", action="append", default=[], metavar="FILE.npy:K")
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--shape", action="append", default=[], metavar="N:C:K")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if options.before:
        for shape in options.shape or ["12500:1024:4096"]:
            beside(options.before, shape, options.runs)
        return
    if bool(options.cifar_root) != bool(options.weights):
        parser.error("--cifar-root and --weights go together")
    if not (options.cifar_root or options.imagenet_root or options.vectors):
        parser.error("give --cifar-root and --weights, --imagenet-root, or --vectors")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if options.cifar_root:
            model = open_model(ModelSource.cifar_resnet, "cifar_resnet20", checkpoint=options.weights)
            data = open_data(DataSource.cifar10, options.cifar_root, limit=10_000)
            compare("CIFAR ResNet-20 layer3.1", pfvs(model, data, "layer3.1", 3), 512, options.runs)
        if options.imagenet_root:
            model = open_model(ModelSource.efficientnet_lite, "efficientnet_lite0")
            data = open_data(DataSource.imagenet, options.imagenet_root, limit=200)
            compare("EfficientNet-Lite0 blocks.4", pfvs(model, data, "blocks.4", None), 896, options.runs)
        for pair in options.vectors:
            file, _, k = pair.rpartition(":")
            compare(Path(file).name, np.load(file, allow_pickle=False), int(k), options.runs)


if __name__ == "__main__":
    main()
