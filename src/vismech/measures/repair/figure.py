"""The figure of repair: how many errors become right as concepts are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from vismech.measures.interlayer.figure import COLOURS, NAMES
from vismech.measures.repair.scores import COUNTS, ORDERS, Selection
from vismech.report.figures import INK, drawn, open_axes

LINES: dict[Selection, Any] = {Selection.image: "solid", Selection.group: "dashed"}


def repair_figure(table: pd.DataFrame, path: Path) -> Path:
    """Repair rate with its interval against the number of concepts removed, a panel for each layer."""
    chosen = table[table.metric == "repair_rate"]
    layers = list(dict.fromkeys(chosen.layer))
    with drawn((max(5.2, 2.3 * len(layers)), 3.6), path) as figure:
        panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for layer, axes in zip(layers, panels, strict=True):
            for number, (selection, order) in enumerate((one, two) for one in Selection for two in ORDERS):
                here = (chosen.layer == layer) & (chosen.selection == selection) & (chosen.order == order)
                part = pd.DataFrame(chosen[here])
                at = np.arange(len(part)) + 0.05 * (number - 2.5)
                spread = [part.value - part.ci_low, part.ci_high - part.value]
                style = {"color": COLOURS[order], "linestyle": LINES[selection], "elinewidth": 0.8}
                axes.errorbar(at, part.value, spread, fmt="o", markersize=3.5, linewidth=1.4, **style)
            axes.set_title(layer, fontsize=11, color=INK)
            axes.set(ylim=(-0.02, 1.02), xlim=(-0.4, len(COUNTS) - 0.6))
            axes.set_xticks(range(len(COUNTS)), [str(count) for count in COUNTS])
            open_axes(axes, 9)
        panels[0].set_ylabel("share of errors repaired", fontsize=11, color=INK)
        figure.supxlabel("concepts removed", fontsize=11, color=INK)
        handles = [Line2D([], [], color=COLOURS[order], linewidth=3, label=NAMES[order]) for order in ORDERS]
        told = {Selection.image: "by the image's own edges", Selection.group: "by other images' edges"}
        handles += [Line2D([], [], color=INK, linestyle=LINES[one], label=text) for one, text in told.items()]
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=min(len(handles), len(layers) + 1),
            frameon=False,
            fontsize=9,
        )
    return path
