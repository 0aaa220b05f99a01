"""Where each draw of positions lands: ``python experiments/positions/analysis.py --imagenet PHOTOS [--cifar10 …]``.

Extracts with every kind of draw (each is an artifact, read again the next time), prints a table and writes it as CSV.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from vismech.config.choices import DataSource, LoggerKind, ModelSource, Positions
from vismech.config.schema import Config, DataConfig, ExtractConfig, ModelConfig
from vismech.measures.statistics import bootstrap
from vismech.stages import extract
from vismech.stages.pipeline import open_context
from vismech.stages.tables import tidy

DRAWS = (Positions.uniform, Positions.relevance, Positions.contrastive, Positions.gradient)
KEYS = ["model", "layer", "positions"]


def central(grid: tuple[int, int]) -> np.ndarray:
    """Which positions [P] have their cell's centre in the central square of half the image's area (sides of 1/√2)."""
    inside = [np.abs((np.arange(side) + 0.5) / side - 0.5) <= 0.5 * np.sqrt(0.5) for side in grid]
    return np.logical_and.outer(*inside).ravel()


def rows(model: ModelConfig, data: DataConfig, layers: list[str], store: str, seed: int) -> list[dict[str, Any]]:
    """The share of sampled positions in the centre, per layer and draw; one position per image."""
    found = []
    for positions in DRAWS:
        config = Config(model=model, data=data, seed=seed)
        config.extract = ExtractConfig(layers=layers, positions=positions, per_image=1)
        config.logger.kind, config.store.root = LoggerKind.none, store
        ctx = open_context(config)
        job = extract.job(ctx, logits=False)
        missing = {layer: spec for layer, spec in job.specs.items() if ctx.store.find(spec) is None}
        if missing:
            job.compute(ctx, missing)
        for layer, spec in job.specs.items():
            drawn = ctx.store.open(spec).array("positions.npy")[:, 0]
            hits = central(ctx.layout(layer).grid)[drawn].astype(float)
            low, high = bootstrap(hits)
            key = {"model": model.name, "layer": layer, "positions": positions.value}
            tail = {"metric": "central_share", "value": hits.mean(), "n": len(hits), "ci_low": low, "ci_high": high}
            found.append(key | tail | {"units": "share of draws"})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--imagenet", help="folder of wnid folders of photographs")
    parser.add_argument("--cifar10", help="folder of the ten class folders")
    parser.add_argument("--cifar-weights", help="safetensors file of the CIFAR ResNet-20")
    parser.add_argument("--cifar-images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", default="outputs/artifacts")
    parser.add_argument("--table", type=Path, default=Path("outputs/positions.csv"))
    options = parser.parse_args()
    found = []
    if options.imagenet:
        model = ModelConfig(source=ModelSource.efficientnet_lite, name="efficientnet_lite0")
        data = DataConfig(source=DataSource.imagenet, root=options.imagenet)
        found += rows(model, data, ["blocks.2", "blocks.4", "blocks.6"], options.store, options.seed)
    if options.cifar10:
        model = ModelConfig(ModelSource.cifar_resnet, "cifar_resnet20", checkpoint=options.cifar_weights)
        data = DataConfig(source=DataSource.cifar10, root=options.cifar10, limit=options.cifar_images)
        found += rows(model, data, ["layer1.2", "layer2.2", "layer3.2"], options.store, options.seed)
    table = tidy(found, KEYS)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.table, index=False, float_format="%.4f")
    shown = table["value"].map("{:.3f}".format) + " [" + table["ci_low"].map("{:.3f}".format)
    table["share in the centre"] = shown + ", " + table["ci_high"].map("{:.3f}".format) + "]"
    draws = [positions.value for positions in DRAWS]
    wide = table.pivot(index=["model", "layer"], columns="positions", values="share in the centre")[draws]
    print(wide.to_string())


if __name__ == "__main__":
    main()
