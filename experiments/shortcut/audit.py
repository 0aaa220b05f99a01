"""Where an audit that knows nothing of the stamp puts its concepts: ``python experiments/shortcut/audit.py RUN F …``.

RUN is an audit of the planted network, F the folder that ``plant.py`` wrote. For each layer the concepts that carry the
planted class, strongest measured effect on its logit first, with the area under the ROC curve by which a concept's mean
code tells stamped test images from others (``--images`` of them, round robin over the classes). Writes ``audit.csv``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

import vismech
from vismech.config.choices import DataSource, ModelSource
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.network.pfv import layout_of
from vismech.sources.data import CIFAR10, open_data
from vismech.sources.models import open_model

SHOWN = ["importance", "logit_effect", "class_effect", "used_by", "entropy_stamp"]


def audited(run: Path, planted: Path, images: int) -> pd.DataFrame:
    """The candidates of the planted class, with what tells stamped images."""
    told = vismech.open_run(run)
    target = told.config.edit.target
    if not isinstance(target, int) or "audit" not in told.tables:
        raise UserError(f"{run} is no audit with edit.target as a class's index: make it as the README says")
    name, table = CIFAR10[target], told.tables["audit"]
    with (planted / "test_groups.csv").open(encoding="utf-8", newline="") as file:
        stamps = {row["id"]: row["stamp"] == "1" for row in csv.DictReader(file)}
    data = open_data(DataSource.cifar10, planted / "test", limit=images)
    model = open_model(
        ModelSource.cifar_resnet, "cifar_resnet20", weights=None, checkpoint=str(planted / "planted.safetensors")
    )
    network = open_network(model.module, model.example)
    stamped = np.array([stamps[sample.id] for sample in data.samples])
    batch = torch.stack([model.preprocess(data.load(index)) for index in range(len(data))])
    frames = []
    with torch.no_grad():
        found = network.activations(batch, told.layers)
    for layer in told.layers:
        vectors = layout_of(network.shape(layer), layer).vectors(found[layer])
        codes = told.dictionary(layer).encode(vectors).mean(1).numpy()
        own = table[(table["layer"] == layer) & (table["class"] == name)]
        wide = pd.DataFrame(own.pivot(index="concept", columns="metric", values="value")[SHOWN])
        wide["auc"] = [roc_auc_score(stamped, codes[:, concept]) for concept in wide.index]
        wide = wide.sort_values("logit_effect", ascending=False).reset_index()
        frames.append(wide.assign(network=planted.name, layer=layer, place=range(1, len(wide) + 1)))
    return pd.concat(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="RUN F, in turn")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    if len(given.runs) % 2:
        parser.error("give each run with the folder of its planted network")
    pairs = list(zip(given.runs[::2], given.runs[1::2], strict=True))
    for _, planted in pairs:
        if not (planted / "planted.safetensors").is_file():
            parser.error(f"{planted} is not a folder that plant.py wrote: it has no planted.safetensors")
    try:
        table = pd.concat([audited(run, planted, given.images) for run, planted in pairs])
    except UserError as error:
        parser.error(str(error))
    table = table[["network", "layer", "place", "concept", *SHOWN, "auc"]]
    table.to_csv(given.out / "audit.csv", index=False, float_format="%.4g")
    print(pd.DataFrame(table[table["place"] <= 3]).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
