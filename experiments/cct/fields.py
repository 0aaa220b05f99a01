"""Which field of a vector is right? Patches are inserted and deleted in the order of each, in two networks.

python experiments/cct/fields.py --images CIFAR10_TEST --resnet WEIGHTS --out experiments/cct

A unit is ⟨x_p, x_p/‖x_p‖⟩ of one vector of a block's output, its direction held. Patches are the 64 tokens that block 0
of the transformer reads, or the 64 squares of 4 × 4 pixels of the ResNet's image; one that is deleted becomes the
mean token with its own position (the mean image). r = (g − g_∅) / (g_full − g_∅), ∅ with all patches deleted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

matplotlib.use("agg")
from matplotlib import pyplot as plt

from vismech.draws import generator_of
from vismech.measures.statistics import bootstrap, paired_difference
from vismech.network.cut import ExportedNetwork, open_network
from vismech.network.pfv import uniform_positions
from vismech.receptive_field.tokens import TokenField, ground_of, mean_tokens, token_fields
from vismech.sources.data import CIFAR10
from vismech.sources.models import open_model

HERE = Path(__file__).parent
SIDE, COUNT, BUDGETS, DRAWS, TOP = 8, 64, 21, 5, 8
"""Patches along a side; patches; budgets and draws of stochastic insertion; patches whose overlap is told."""
LAYERS = {"cct_3_3x2": ["blocks.0", "blocks.1", "blocks.2"], "cifar_resnet20": ["layer1.2", "layer2.2", "layer3.2"]}
FIELDS = {
    "cct_3_3x2": [TokenField.ig, TokenField.attnlrp, TokenField.rollout, TokenField.gradient_x_input],
    "cifar_resnet20": [TokenField.sharing_ratios, TokenField.ig, TokenField.gradient_x_input],
}
METRICS = ["insertion", "deletion", "stochastic", "rank_correlation"]
COLOURS = {
    "sharing_ratios": "#2b8a3e", "ig": "#0b57a4", "attnlrp": "#d1660c", "rollout": "#7b3fa0",
    "gradient_x_input": "#8a8f98", "random": "#bbbbbb",
}  # fmt: skip


@dataclass
class Unit:
    """g of one vector as a function of which patches are kept.

    Attributes:
        of: kept patches [n, 64], 0 or 1, to g [n].
        full, empty: g with all patches and with none.
    """

    of: Callable[[Tensor], Tensor]
    full: float
    empty: float

    def recovered(self, kept: Tensor) -> np.ndarray:
        return ((self.of(kept) - self.empty) / (self.full - self.empty)).double().numpy()


@torch.no_grad()
def unit_of(network: ExportedNetwork, image: Tensor, layer: str, position: int, baseline: Tensor) -> Unit:
    ground = ground_of(network)
    graph, layout = network.graph_from(ground.node, network.output[layer]), network.layout(layer)
    tokens = network.graph_from(None, ground.node)(image)[0]
    vectors = ground.layout.vectors(tokens)
    unit = F.normalize(layout.vectors(graph(tokens)[0])[0, position], dim=0)

    def of(kept: Tensor) -> Tensor:
        with torch.no_grad():
            found = []
            for part in kept.split(256):
                squares = F.interpolate(part.view(-1, 1, SIDE, SIDE), ground.layout.grid, mode="nearest")
                mask = squares.flatten(1)[..., None]
                mixed = ground.layout.activation(mask * vectors + (1 - mask) * baseline, tokens)
                found.append(layout.vectors(graph(mixed)[0])[:, position] @ unit)
            return torch.cat(found)

    empty, full = of(torch.stack([torch.zeros(COUNT), torch.ones(COUNT)])).tolist()
    return Unit(of, full, empty)


def patches_of(maps: Tensor) -> np.ndarray:
    """A field [h, w] summed over patches, [64]."""
    return (F.adaptive_avg_pool2d(maps[None], SIDE)[0] * (maps.numel() / COUNT)).flatten().double().numpy()


def in_order(unit: Unit, scores: np.ndarray) -> tuple[float, float]:
    """Areas under r as patches are inserted, and as they are deleted, the highest score first."""
    ranks = np.empty(COUNT)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(COUNT)
    counts = np.arange(0, COUNT + 1, 4)
    kept = torch.from_numpy((ranks[None] < counts[:, None]).astype(np.float32))
    r = unit.recovered(torch.cat([kept, 1 - kept]))
    return tuple(float(np.trapezoid(part, counts / COUNT)) for part in (r[: len(counts)], r[len(counts) :]))


def stochastic(unit: Unit, scores: np.ndarray, seed: str) -> float:
    """Mean r over budgets and draws, each patch kept with probability min(b·s/Σs, 1)."""
    positive = np.maximum(scores, 0)
    share = positive / positive.sum() if positive.sum() > 0 else np.full(COUNT, 1 / COUNT)
    chance = np.minimum(np.linspace(0, COUNT, BUDGETS)[:, None] * share[None], 1)
    noise = generator_of(0, seed).random((DRAWS, BUDGETS, COUNT))
    return float(unit.recovered(torch.from_numpy((noise < chance).reshape(-1, COUNT).astype(np.float32))).mean())


def ranks(values: np.ndarray) -> np.ndarray:
    return pd.Series(values).rank().to_numpy()


def measure(
    name: str, layers: list[str], network: ExportedNetwork, images: Tensor, ids: list[str], baseline: Tensor
) -> tuple[list[dict], dict[str, int]]:
    """A row for each (unit, field, metric); and the units left out, whose value the patches hardly change."""
    rows, skipped = [], {}
    for layer in layers:
        for image, sample in zip(images, ids, strict=True):
            layout = network.layout(layer)
            position = int(uniform_positions(f"{layer} {sample}", 0, layout.positions, 1)[0])
            unit = unit_of(network, image[None], layer, position, baseline)
            if unit.full <= 0 or abs(unit.full - unit.empty) < 0.05 * unit.full:
                skipped[layer] = skipped.get(layer, 0) + 1
                continue
            each = torch.eye(COUNT)
            needed, enough = 1 - unit.recovered(1 - each), unit.recovered(each)
            uniform = stochastic(unit, np.ones(COUNT), f"{sample} {layer} uniform")
            told = {"network": name, "layer": layer, "sample": sample}

            def keep(field: str, metric: str, value: float, told: dict = told) -> None:
                rows.append({**told, "field": field, "metric": metric, "value": value})

            scores = {"random": generator_of(0, f"{sample} {layer} order").random(COUNT)}
            for method in FIELDS[name]:
                options = {"baseline": baseline} if method is TokenField.ig else {}
                found = token_fields(network, image[None], layer, [position], method=method, **options)
                scores[method.value] = patches_of(found.maps[0])
            for field, own in scores.items():
                values = *in_order(unit, own), stochastic(unit, own, f"{sample} {layer} {field}") - uniform
                for metric, value in zip(METRICS, values, strict=False):
                    keep(field, metric, value)
                keep(field, "rank_correlation", float(np.corrcoef(ranks(own), ranks(needed))[0, 1]))
            best = [set(np.argsort(-one, kind="stable")[:TOP].tolist()) for one in (needed, enough)]
            keep("none", "overlap_of_needed_and_enough", len(best[0] & best[1]) / TOP)
        print(name, layer, "done", flush=True)
    return rows, skipped


def table(cases: pd.DataFrame) -> pd.DataFrame:
    """Means with 95 % intervals over images."""
    rows = []
    for keys, part in cases.groupby(["network", "layer", "field", "metric"], sort=False):
        low, high = bootstrap(part.value.to_numpy())
        row = [*keys, part.value.mean(), len(part), low, high]
        rows.append(row)
    return pd.DataFrame(rows, columns=["network", "layer", "field", "metric", "value", "n", "ci_low", "ci_high"])


def figure(found: pd.DataFrame, path: Path) -> None:
    """A row for each network, a column for each metric."""
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    titles = ["insertion ↑", "deletion ↓", "stochastic insertion − uniform ↑", "rank correlation with deletions ↑"]
    networks = list(dict.fromkeys(found.network))
    drawn, panels = plt.subplots(
        len(networks), 4, figsize=(13, 2.9 * len(networks) + 0.6), squeeze=False, layout="constrained"
    )
    for network, line in zip(networks, panels, strict=True):
        layers = LAYERS[network]
        layers = [layer for layer in layers if ((found.network == network) & (found.layer == layer)).any()]
        for metric, title, panel in zip(METRICS, titles, line, strict=True):
            part = found[(found.network == network) & (found.metric == metric)]
            fields = [field for field in COLOURS if (part.field == field).any()]
            for place, field in enumerate(fields):
                own = part[part.field == field].set_index("layer").loc[layers]
                error = np.abs(own[["ci_low", "ci_high"]].to_numpy().T - own.value.to_numpy())
                at = np.arange(len(layers)) + (place - (len(fields) - 1) / 2) * 0.14
                panel.errorbar(at, own.value, error, fmt="o", ms=4, color=COLOURS[field], label=field.replace("_", " "))
            panel.set_xticks(range(len(layers)), layers)
            panel.axhline(0, color="#dddddd", lw=0.8, zorder=0)
            panel.set_title(title if network == networks[0] else "", fontsize=9)
        line[0].set_ylabel(network)
        line[0].legend(fontsize=7, frameon=False)
    drawn.savefig(path, dpi=110)


def compare(found: pd.DataFrame, expected: Path) -> bool:
    """Print the expected values with their bounds; True when all hold."""
    fine = True
    values = found.set_index(["network", "layer", "field", "metric"]).value
    for key, (low, high) in json.loads(expected.read_text()).items():
        if not ((found.network == key.split("/")[0]) & (found.layer == key.split("/")[1])).any():
            continue  # neither measured now nor before
        value = values.get(tuple(key.split("/")))
        holds = value is not None and low <= value <= high
        fine &= holds
        shown = "missing" if value is None else f"{value:.3f}"
        print(f"{'ok  ' if holds else 'FAIL'}  {key:<70} {shown} [{low}, {high}]")
    return fine


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--images", type=Path, required=True, help="folder of class folders")
    p.add_argument("--resnet", type=Path, required=True, help="weights of CIFAR ResNet-20")
    p.add_argument("--weights", type=Path, default=HERE / "cct_3_3x2.safetensors")
    p.add_argument("--networks", nargs="+", choices=list(LAYERS), default=list(LAYERS), help="others: as in OUT")
    p.add_argument("--layers", nargs="+", default=[], help="of these layers only; others: as in OUT")
    p.add_argument("--per-class", type=int, default=20, help="images of each class, one unit of every layer in each")
    p.add_argument("--out", type=Path, default=Path())
    a = p.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    models = {
        "cct_3_3x2": lambda: open_model(
            "custom", "cct", target="vismech.sources.cct:cct_3_3x2", checkpoint=a.weights, preprocess={"crop": 32}
        ),
        "cifar_resnet20": lambda: open_model("cifar_resnet", "cifar_resnet20", weights=None, checkpoint=a.resnet),
    }
    files = [file for name in CIFAR10 for file in sorted((a.images / name).iterdir())[: a.per_class]]
    ids = [f"{file.parent.name}/{file.name}" for file in files]
    rows = []
    for name in a.networks:
        model = models[name]()
        network = open_network(model.module, model.example)
        assert isinstance(network, ExportedNetwork)
        images = torch.stack([model.preprocess(Image.open(file).convert("RGB")) for file in files])
        layers = [layer for layer in LAYERS[name] if not a.layers or layer in a.layers]
        found, skipped = measure(name, layers, network, images, ids, mean_tokens(network, images))
        rows += found
        print(f"{name}: units left out {skipped or 'none'}")
    cases = pd.DataFrame(rows)
    found, before = table(cases), a.out / "fields.csv"
    if before.exists():
        kept = pd.read_csv(before, keep_default_na=False)
        found = pd.concat([found, kept[~(kept.network + kept.layer).isin(set(found.network + found.layer))]])
        found = found.reset_index(drop=True)
    order = [network + layer for network, layers in LAYERS.items() for layer in layers]
    found = found.loc[(found.network + found.layer).map(order.index).sort_values(kind="stable").index]
    a.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(a.out / "fields.csv", index=False, float_format="%.4f")
    figure(found, a.out / "fields.png")
    shown = found.assign(cell=[f"{r.value:.3f} [{r.ci_low:.3f}, {r.ci_high:.3f}]" for r in found.itertuples()])
    for metric, part in shown.groupby("metric", sort=False):
        print(f"\n{metric}\n{part.pivot(index=['network', 'layer'], columns='field', values='cell').to_string()}")
    for (layer, metric), part in cases[cases.field != "none"].groupby(["layer", "metric"], sort=False):
        wide = part.pivot(index="sample", columns="field", values="value")  # paired over images
        for other in [field for field in wide.columns if field not in ("ig", "random")]:
            value, low, high = paired_difference(wide.ig.to_numpy(), wide[other].to_numpy())
            print(f"{layer}: {metric}, ig − {other}: {value:.3f} [{low:.3f}, {high:.3f}]")
    print(f"{time.monotonic() - started:.0f} s")
    if (HERE / "expected.json").exists() and not compare(found, HERE / "expected.json"):
        sys.exit(1)


if __name__ == "__main__":
    main()
