"""One of each thing that a person may add, in a package of their own: what README's "Add your own" says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import tiny
from vismech.config.choices import Stage
from vismech.dictionaries import Fitted
from vismech.measures.base import Kind
from vismech.sources.data import ImageData, Sample
from vismech.stages.context import Context, Job, Plan
from vismech.stages.work import Work
from vismech.store.artifacts import Spec, write_json
from vismech.store.settings import Settings


def fit(vectors, k: int, *, seed: int, center: bool, device, scale: float = 1.0) -> Fitted:
    """A dictionary method: the first k distinct vectors, made unit; ``scale`` is an option of it."""
    atoms = torch.nn.functional.normalize(vectors[:: max(1, len(vectors) // k)][:k] * scale, dim=1)
    return Fitted(atoms, {}, {"scale": scale})


def encode(vectors, atoms, share: float = 0.5):
    """A code: projections, of which the strongest ``share`` of each vector are kept."""
    codes = vectors @ atoms.T
    kept = codes.abs().topk(max(1, int(share * atoms.shape[0])), dim=1)
    return torch.zeros_like(codes).scatter(1, kept.indices, codes.gather(1, kept.indices))


def late(alphas, progress):
    """A path weight: twice ig's in the second half of the path, nothing before."""
    return (2.0 * (alphas >= 0.5)).expand_as(progress)


def network():
    """A model."""
    return tiny.network()


@dataclass(frozen=True)
class Listed(ImageData):
    """A data source that reads its own format: arrays in one file."""

    def load(self, index: int):
        """The image as RGB."""
        from PIL import Image

        return Image.fromarray(np.load(self.root / "images.npy")[int(self.samples[index].id)])

    def fingerprint(self, kind: Any = None) -> str:
        """Of the bytes of all images."""
        import hashlib

        return hashlib.sha256((self.root / "images.npy").read_bytes()).hexdigest()[:20]


def open_arrays(root: str, names: list[str]) -> ImageData:
    """List the images of ``images.npy`` and ``labels.npy``; ``names`` are the classes'."""
    labels = np.load(Path(root) / "labels.npy").tolist()
    samples = [Sample(f"{index:03}", label) for index, label in enumerate(labels)]
    return Listed(Path(root), samples, dict(enumerate(names)))


@dataclass(frozen=True)
class NormSettings(Settings):
    """What the measure depends on."""

    power: float


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One artifact per layer."""
    settings = NormSettings(ctx.config.evaluate.options["power"])
    specs = {
        layer: Spec(Stage.evaluate.value, 1, f"norms {layer}", settings, {"vectors": vectors})
        for layer, vectors in plan.vectors.items()
    }
    return [Job(Stage.evaluate, specs, compute)]


def compute(work: Work, specs: Mapping[str, Spec[NormSettings]]) -> None:
    """The mean norm of a layer's vectors, to a power."""
    for spec in specs.values():
        vectors = work.store.open(spec.parents["vectors"]).array("vectors.npy")
        norms = np.linalg.norm(vectors, axis=-1) ** spec.settings.power
        with work.store.writer(spec) as folder:
            write_json(folder / "metrics.json", {"images": len(vectors), "norm": float(norms.mean())})


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """One row a layer."""
    found = []
    for layer, spec in plan.evaluations["outside:NORMS"].items():
        told = work.store.open(spec).json("metrics.json")
        tail = {"metric": "norm", "value": told["norm"], "n": told["images"], "ci_low": None, "ci_high": None}
        found.append({"layer": layer, **tail, "units": "norm"})
    return pd.DataFrame(found)


NORMS = Kind(jobs, "norms", "norms/{layer}", rows)


def section(page) -> tuple[str, str]:
    """A section of the page: title and HTML."""
    return "Counted by hand", f"<p id='mine'>{len(page.graph['nodes'])} nodes</p>"
