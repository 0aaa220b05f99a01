"""The figure of an audit: what each class's first concepts are worth, and whether others use them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D

from vismech.report.figures import EDGE, INK, drawn, open_axes

FIRST, CLASSES = 3, 12
OWN, SHARED = "#0b57a4", "#d1660c"


def audit_figure(table: pd.DataFrame, path: Path) -> Path:
    """The last layer's :data:`FIRST` concepts of each class by the logit that it loses, of :data:`CLASSES` classes at
    most: orange where other classes lose with them."""
    layer = list(dict.fromkeys(table.layer))[-1]
    wide = table[table.layer == layer].pivot(index=["class", "concept"], columns="metric", values="value").reset_index()
    names = list(dict.fromkeys(wide["class"]))[:CLASSES]
    with drawn((8.6, max(3.0, 0.62 * len(names) + 1.2)), path) as figure:
        axes = figure.subplots()
        for row, name in enumerate(names):
            first = pd.DataFrame(wide[wide["class"] == name]).sort_values("logit_effect", ascending=False)[:FIRST]
            values = zip(first["logit_effect"], first["concept"], first["used_by"], strict=True)
            for turn, (lost, concept, others) in enumerate(values):
                height = row + 0.24 * (turn - (FIRST - 1) / 2)
                axes.barh(height, lost, 0.2, color=SHARED if others else OWN)
                axes.text(lost, height, f" #{concept}", va="center", fontsize=8.5, color=INK)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.axvline(0, color=EDGE, linewidth=1)
        axes.set_xlabel(f"logit that the class loses without the concept of {layer}", fontsize=12, color=INK)
        open_axes(axes, 11)
        handles = [
            Line2D([], [], color=OWN, linewidth=6, label="this class alone"),
            Line2D([], [], color=SHARED, linewidth=6, label="other classes lose with it too"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=11)
    return path
