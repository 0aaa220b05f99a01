"""The figure of shortcut removal: what editing more and more concepts recovers, and what it costs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D

from vismech.config.choices import EditOrder, EditValue
from vismech.report.figures import EDGE, INK, drawn, open_axes

COLOURS = {
    EditOrder.attribute: "#1f8f86",
    EditOrder.gig: "#0b57a4",
    EditOrder.effect: "#7d4aa5",
    EditOrder.random: "#8a8f98",
    EditOrder.given: "#d1660c",
}
NAMES = {
    EditOrder.attribute: "by the attribute",
    EditOrder.gig: "gig to the class",
    EditOrder.effect: "measured effect",
    EditOrder.random: "random",
    EditOrder.given: "given by hand",
}


def removal_figure(table: pd.DataFrame, path: Path, edit: EditValue = EditValue.zero) -> Path:
    """Accuracy on images whose attribute contradicts their class (full), and what other images lose (dashed), a panel
    for each layer, on the confirming half."""
    chosen = pd.DataFrame(table[(table.half == "confirming") & (table.edit == edit.value)])
    before = pd.DataFrame(table[(table.half == "confirming") & (table.order == "none")])
    layers = list(dict.fromkeys(chosen.layer))
    orders = [order for order in COLOURS if order in set(chosen.order)]
    with drawn((max(8.6, 3.4 * len(layers)), 4.2), path) as figure:
        every = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for axes, layer in zip(every, layers, strict=True):
            for order in orders:
                part = chosen[(chosen.layer == layer) & (chosen.order == order)]
                for metric, line in (("accuracy_contradicting", "solid"), ("collateral", "dashed")):
                    numbers = part[part.metric == metric]
                    axes.plot(numbers["count"], numbers["value"], color=COLOURS[order], linestyle=line, linewidth=1.8)
            own = before[(before.layer == layer) & (before.metric == "accuracy_contradicting")].value
            for height in (0, *own):
                axes.axhline(height, color=EDGE, linewidth=1.2, zorder=0)
            axes.set_xscale("log")
            ticks = sorted(set(chosen["count"]))
            axes.set_xticks(ticks, [str(count) for count in ticks])
            axes.minorticks_off()
            axes.set_title(layer, fontsize=12, color=INK)
            open_axes(axes, 10)
        figure.supxlabel("concepts removed", fontsize=12, color=INK)
        figure.supylabel("share of the images", fontsize=12, color=INK)
        lines = [Line2D([], [], color=COLOURS[order], linewidth=3, label=NAMES[order]) for order in orders]
        lines.append(Line2D([], [], color=INK, linestyle="solid", label="right where the attribute contradicts"))
        lines.append(Line2D([], [], color=INK, linestyle="dashed", label="lost without the attribute"))
        figure.legend(handles=lines, loc="outside upper center", ncols=3, frameon=False, fontsize=11)
    return path
