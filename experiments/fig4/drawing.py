"""The figures of concept insertion and deletion: curves at one block, areas against the block, strongest concepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("agg")
from matplotlib import pyplot as plt

COLOURS = ["#0b57a4", "#d1660c", "#1f8f86", "#c2408c", "#7d4aa5", "#8a6d1f", "#5aa02c", "#6aaee0", "#b0413e", "#444b57"]
MARKERS = "osD^vPX<>*"
RANDOM = "#9aa0a8"


def style_of(methods: list[str]) -> dict[str, tuple[str, str]]:
    """Method → colour and marker; the random dictionary is grey."""
    coloured = [method for method in methods if not method.startswith("random ")]
    found = {method: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, method in enumerate(coloured)}
    return {method: found.get(method, (RANDOM, "x")) for method in methods}


def _clean(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)


def curves_figure(table: pd.DataFrame, path: Path) -> None:
    """Insertion (full) and deletion (dashed) at the first block, over shares and over counts."""
    layer, style = table.layer.iloc[0], style_of(list(dict.fromkeys(table.method)))
    part = table[(table.layer == layer) & (table.variant == "plain") & (table.order == "gig")]
    plt.rcParams.update({"font.size": 11, "font.family": "DejaVu Sans"})
    drawn, panels = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained", sharey=True)
    for panel, axis, label in zip(
        panels, ("share", "count"), ("share of the active concepts", "concepts"), strict=True
    ):
        for method, (colour, _) in style.items():
            curve = pd.DataFrame(part[(part.method == method) & (part.axis == axis)])
            panel.plot(curve["x"], curve["insertion"], color=colour, lw=1.8, label=method)
            panel.plot(curve["x"], curve["deletion"], color=colour, lw=1.4, ls="--")
        panel.set_xlabel(label)
        panel.set(ylim=(0, 1), xlim=(0, 1) if axis == "share" else (0, 32))
        _clean(panel)
    panels[0].set_ylabel("probability of the predicted class")
    drawn.suptitle(f"{layer}: concepts inserted (full) and deleted (dashed) in the order of their GIG", fontsize=12)
    _legend(drawn, panels[0])
    drawn.savefig(path, dpi=140)
    plt.close(drawn)


def _legend(drawn, panel) -> None:
    handles, labels = panel.get_legend_handles_labels()
    columns = max(1, min(3, 120 // max(map(len, labels))))  # About 120 characters fit side by side.
    drawn.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def areas_figure(table: pd.DataFrame, path: Path) -> None:
    """AUC difference over shares, over the first 8 and 32 concepts, and transferred, against the block."""
    style, layers = style_of(list(dict.fromkeys(table.method))), list(dict.fromkeys(table.layer))
    titles = {
        "auc_difference": "over shares of the active concepts",
        "auc_first_8": "over the first 8 concepts",
        "auc_first_32": "over the first 32 concepts",
        "transfer_first_8": "over 8 concepts that other images ranked",
    }
    plt.rcParams.update({"font.size": 11, "font.family": "DejaVu Sans"})
    drawn, panels = plt.subplots(2, 2, figsize=(11, 9), layout="constrained", sharex=True)
    for panel, (metric, title) in zip(panels.flat, titles.items(), strict=True):
        rows = table[(table.metric == metric) & (table.variant == "plain") & (table.order == "gig")]
        if not len(rows):  # transfer was not measured
            panel.set_axis_off()
            continue
        for method, (colour, marker) in style.items():
            part = pd.DataFrame(rows[rows.method == method]).set_index("layer").reindex(layers)
            spread = [part.value - part.ci_low, part.ci_high - part.value]
            panel.errorbar(
                range(len(layers)),
                part.value,
                spread,
                color=colour,
                marker=marker,
                ms=5,
                lw=1.5,
                capsize=2,
                label=method,
            )
        panel.set_title(title, fontsize=11.5, loc="left")
        panel.set_xticks(range(len(layers)), layers, rotation=35)
        panel.axhline(0, color="black", lw=0.8)
        _clean(panel)
    drawn.supylabel("C-Ins − C-Del")
    _legend(drawn, panels[0, 0])
    drawn.savefig(path, dpi=140)
    plt.close(drawn)


def strongest_figure(runs: dict[str, Path], sample: str, layer: str | None, path: Path, count: int = 3) -> None:
    """One image and where its concepts of largest GIG are, a row for each method; each with its share of the logit."""
    import torch

    from vismech.config.choices import Evaluation, Patches, Stage
    from vismech.finished.configuration import config_of
    from vismech.report.crops import draw_light, map_light
    from vismech.stages import dictionary as dictionary_stage
    from vismech.stages.fields import concept_maps
    from vismech.stages.pipeline import make_plan, open_context
    from vismech.stages.work import read_images

    plt.rcParams.update({"font.size": 11, "font.family": "DejaVu Sans"})
    drawn, panels = plt.subplots(
        len(runs), count + 1, figsize=(2.6 * (count + 1), 3.1 * len(runs)), layout="constrained"
    )
    for line, (method, run) in zip(panels, runs.items(), strict=True):
        ctx = open_context(replace(config_of(run), until=Stage.evaluate))
        plan, name = make_plan(ctx), layer or ctx.layers[-1]
        artifact = ctx.store.open(plan.evaluations[Evaluation.insertion][name])
        row = read_images(artifact).ids.index(sample)
        edges = np.asarray(artifact.array("edges.npy"))[row] * np.asarray(artifact.array("ranked.npy"))[row]
        dictionary = dictionary_stage.read(ctx, plan.dictionaries[name], dictionary_stage.coding_of(ctx.config))
        picture = ctx.measured.load(ctx.measured.ids.index(sample))
        seen, layout = ctx.model.preprocess.geometry(picture), ctx.layout(name)
        inputs = ctx.model.preprocess(picture)[None]
        with torch.no_grad():
            codes = dictionary.encode(layout.vectors(ctx.network.activations(inputs, [name])[name]))[0]
        line[0].imshow(seen)
        line[0].set_title(method, fontsize=10)
        for panel, concept in zip(line[1:], np.argsort(-edges)[:count], strict=True):
            light = concept_maps(
                ctx.network, inputs, name, codes[None, :, concept].view(1, *layout.grid), Patches.upsampling
            )
            panel.imshow(draw_light(seen.resize((256, 256)), map_light(light[0].numpy())))
            panel.set_title(f"#{concept}: {edges[concept]:+.2f} logits", fontsize=10)
        for panel in line:
            panel.axis("off")
    drawn.suptitle(f"{sample}: the {count} concepts of {name} with the largest GIG", fontsize=11.5)
    drawn.savefig(path, dpi=140)
    plt.close(drawn)
