"""Expected and found, the tables and the paper's figure: ``python experiments/fig4/analysis.py RUN_OR_SWEEP …``.

Prints every metric, methods against blocks, then each method's paired lead over ``--against`` (mean over the images
that both measured, 95 % bootstrap interval); runs that differ by their seed alone are one method, averaged. Writes
into ``--out``, under ``--name``: what is printed of every run with its interval and the leads as csv, the curves of the
first block, the areas against the block's number, and with ``--image`` one image's three strongest concepts of the last
block by two methods, side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from drawing import areas_figure, curves_figure, strongest_figure

from summary import compare, name_of
from vismech.compare.run_tables import open_runs
from vismech.measures.statistics import paired_difference
from vismech.sources.data import imagenet_wnids

HERE = Path(__file__).parent
# What is printed, and compared in pairs: (variant, order, metric).
SHOWN = [
    ("plain", "gig", "auc_difference"),
    ("plain", "gig", "auc_first_8"),
    ("plain", "gig", "auc_first_32"),
    ("matched_8", "gig", "auc_difference"),
    ("matched_32", "gig", "auc_difference"),
    ("sparse_8", "gig", "auc_difference"),
    ("sparse_32", "gig", "auc_difference"),
    ("plain", "gig", "transfer_first_8"),
    ("plain", "gig", "transfer_first_32"),
    ("plain", "gig", "transfer_gain_8"),
    ("plain", "gig", "transfer_gain_32"),
    ("residual", "gig", "auc_difference"),
    ("residual", "gig", "auc_first_8"),
    ("matched_16", "gig", "auc_difference"),
    ("matched_64", "gig", "auc_difference"),
    ("plain", "greedy", "auc_first_8"),
    ("plain", "greedy", "auc_first_32"),
]
FACTS = [
    ("plain", "none", "l0"),
    ("plain", "none", "distinct_concepts"),
    ("plain", "none", "concepts_in_use"),
    ("reconstruction", "none", "r2"),
    ("reconstruction", "none", "agreement_spliced"),
    ("reconstruction", "none", "loss_recovered"),
    ("plain", "random", "auc_difference"),
    ("plain", "random", "transfer_first_8"),
]
KEYS = ["method", "layer", "variant", "order", "metric"]


@cache
def config_of(run: Path) -> dict:
    """The configuration that a run had."""
    return yaml.safe_load((run / ".hydra/config.yaml").read_text())


def methods_of(runs: list[Path]) -> dict[Path, str]:
    """Run → dictionary and code, then what else tells it from others of the same, but not its seed."""
    facts = []
    for run in runs:
        config = config_of(run)
        wanted = config["dictionary"]
        own = wanted["sae"]["activation"] + " " if wanted["method"] == "sae" else ""
        fine = "fine" in wanted["code"]
        differing = {
            "K": f"{wanted['k_per_channel']}C",
            "L0": f"{wanted['l0_per_channel']:g}C" if fine or "omp" in wanted["code"] else "",
            "coarse": wanted["concepts_per_image"] if fine else "",
            "fine": wanted["fine_concepts"] if fine else "",
            "unit": wanted["unit"] if wanted["method"] in ("bisecting", "kmeans") else "",
            "rounds": wanted.get("refine") or "",
            "half": config["evaluate"]["half"],
        }
        if wanted["center"] and wanted["method"] not in ("sae", "pca"):
            own += "centred "
        own += "refined " if wanted.get("refine") else ""
        facts.append((f"{wanted['method']} {own}{wanted['code']}", differing))
    values: dict[tuple[str, str], set[str]] = {}
    for name, each in facts:
        for key, value in each.items():
            values.setdefault((name, key), set()).add(str(value))
    return {
        run: " ".join([name, *(f"{key}={each[key]}" for key in each if len(values[name, key]) > 1 and each[key] != "")])
        for run, (name, each) in zip(runs, facts, strict=True)
    }


def read(methods: dict[Path, str], kind: str) -> pd.DataFrame:
    """One kind of table of all runs, with the method and the seed as the first columns."""
    parts = []
    for run, name in methods.items():
        parts.append(pd.read_csv(run / kind).assign(method=name, seed=config_of(run)["seed"]))
    table = pd.concat(parts, ignore_index=True)
    return table[["method", "seed", *table.columns.drop(["method", "seed"])]]


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """The seeds' means of numbers and of the ends of their intervals."""
    if table.seed.nunique() == 1:
        return table
    numbers = ["value", "ci_low", "ci_high", "insertion", "deletion"]
    found = [name for name in numbers if name in table]
    keys = [name for name in table if name not in (*found, "seed", "n")]
    return table.groupby(keys, sort=False, dropna=False)[found].mean().reset_index()


def _of(table: pd.DataFrame, variant: str, order: str, metric: str) -> pd.DataFrame:
    chosen = (table["variant"] == variant) & (table["order"] == order) & (table["metric"] == metric)
    return pd.DataFrame(table[chosen])


def show(table: pd.DataFrame, variant: str, order: str, metric: str) -> None:
    """Print one metric, methods against layers."""
    rows = _of(table, variant, order, metric)
    if len(rows):
        wide = rows.pivot(index="method", columns="layer", values="value")
        methods = [method for method in dict.fromkeys(table.method) if method in wide.index]
        wide = wide.reindex(index=methods, columns=list(dict.fromkeys(table.layer)))
        print(f"\n{metric}, {variant}, order {order}\n{wide.round(3).to_string()}")


def group_of(run: Path) -> Callable[[str], str]:
    """What tells a measured image's group, whose halves share an order: its class, or the preset's range of classes.

    Of the correctly classified images of these presets the folder is the predicted class, by which groups are made.
    """
    config = config_of(run)
    ranges = config["evaluate"]["groups"]
    if not ranges:
        return lambda image: image.split("/")[0]
    if config["data"]["source"] != "imagenet":
        sys.exit(f"{run} has evaluate.groups with data={config['data']['source']}: groups are known for imagenet only")
    label = imagenet_wnids()
    names = {index: name for name, each in ranges.items() for first, last in each for index in range(first, last + 1)}
    return lambda image: names[label[image.split("/")[0]]]


def leads(cases: pd.DataFrame, against: str, group: Callable[[str], str]) -> pd.DataFrame:
    """Each method's mean lead over another, image by image, with its interval: KEYS, lead, low, high, n.

    Transferred orders are shared by the images of a half of a group, so that their intervals resample whole groups.
    """
    found = []
    for variant, order, metric in (wanted for wanted in SHOWN if wanted[1] == "gig"):
        some = _of(cases, variant, order, metric)
        for layer, part in some.groupby("layer", sort=False):
            # Only images that all of a method's seeds have.
            seeds = part.groupby("method").seed.nunique()
            both = part.groupby(["image", "method"]).value.agg(["mean", "size"]).reset_index()
            whole = both[both["size"] == both.method.map(seeds)]
            wide = whole.pivot(index="image", columns="method", values="mean")
            if against not in wide:
                continue
            for method in wide.columns.drop(against):
                pairs = wide[[method, against]].dropna()
                clusters = None
                if metric.startswith("transfer"):
                    clusters = np.unique([group(image) for image in pairs.index], return_inverse=True)[1]
                lead = paired_difference(*pairs.to_numpy().T, clusters=clusters)
                found.append([method, layer, variant, order, metric, *lead, len(pairs)])
    return pd.DataFrame(found, columns=[*KEYS, "lead", "low", "high", "n"])


def show_leads(table: pd.DataFrame, against: str) -> None:
    """Print the leads, those whose interval holds zero in brackets, and how often each method is ahead or behind."""
    order = list(dict.fromkeys(table.layer))
    for variant, _, metric in (wanted for wanted in SHOWN if wanted[1] == "gig"):
        part = _of(table, variant, "gig", metric)
        if not len(part):
            continue
        holds = (part.low <= 0) & (part.high >= 0)
        text = np.where(holds, part.lead.map("({:+.3f})".format), part.lead.map("{:+.3f}".format))
        wide = part.assign(text=text).pivot(index="method", columns="layer", values="text")[order]
        wide["ahead"] = part.assign(ahead=part.low > 0).groupby("method").ahead.sum()
        wide["behind"] = part.assign(behind=part.high < 0).groupby("method").behind.sum()
        print(f"\n{metric}, {variant}: lead over {against}\n{wide.to_string()}")


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_OR_SWEEP")
    parser.add_argument("--against", default="sae topk encoder", help="the method that the others are compared with")
    parser.add_argument("--image", help="sample id to draw the three strongest concepts of")
    parser.add_argument("--layer", help="layer of that drawing; default: the last")
    parser.add_argument(
        "--pair", nargs=2, default=["sae topk encoder", "bisecting centred coarse_to_fine"], metavar="METHOD"
    )
    parser.add_argument("--name", help="what the files are called; default: the preset's name")
    parser.add_argument("--out", type=Path, default=Path(), help="where to write")
    options = parser.parse_args()
    runs = [run.folder for run in open_runs(options.runs)]
    methods, name = methods_of(runs), options.name or name_of(runs[0])
    for wanted in [options.against, *(options.pair if options.image else [])]:
        if wanted not in methods.values():
            parser.error(f"there is no method {wanted!r} among {sorted({*methods.values()})}: name one of them")
    table, cases = read(methods, "tables/extraction.csv"), read(methods, "cases/extraction.csv.gz")
    means = over_seeds(table)
    for wanted in [*FACTS, *SHOWN]:
        show(means, *wanted)
    control = table[table.metric == "random_control"]
    held = int(((control.ci_low <= 0) & (control.ci_high >= 0)).sum())
    print(f"\nrandom orders hold zero in their 99.9 % interval in {held} of {len(control)}")
    lead = leads(cases, options.against, group_of(runs[0]))
    show_leads(lead, options.against)
    options.out.mkdir(parents=True, exist_ok=True)
    printed = pd.concat([_of(table, *wanted) for wanted in [*FACTS, *SHOWN]])
    printed.to_csv(options.out / f"{name}.csv", index=False, float_format="%.5g")
    lead.assign(against=options.against).to_csv(options.out / f"{name}_leads.csv", index=False, float_format="%.5g")
    curves_figure(over_seeds(read(methods, "tables/curves.csv")), options.out / f"{name}_curves.png")
    areas_figure(means, options.out / f"{name}_areas.png")
    if options.image:
        two = {method: next(run for run, own in methods.items() if own == method) for method in options.pair}
        strongest_figure(two, options.image, options.layer, options.out / f"{name}_strongest.png")
    print()
    sys.exit(0 if all([compare(run, HERE / "expected.json") for run in runs]) else 1)


if __name__ == "__main__":
    main()
