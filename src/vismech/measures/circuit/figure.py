"""The figure of circuits: how faithful they are over their size, and what is left without them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D

from vismech.config.choices import CircuitOrder
from vismech.report.figures import EDGE, INK, drawn, open_axes

COLOURS = {
    CircuitOrder.gig: "#0b57a4",
    CircuitOrder.u_x_gradient: "#d1660c",
    CircuitOrder.effect: "#7d4aa5",
    CircuitOrder.magnitude: "#8a6d1f",
    CircuitOrder.random: "#8a8f98",
}
NAMES = {
    CircuitOrder.gig: "gig",
    CircuitOrder.u_x_gradient: "u × gradient",
    CircuitOrder.effect: "measured effect",
    CircuitOrder.magnitude: "|u|",
    CircuitOrder.random: "random",
}


def circuit_figure(table: pd.DataFrame, path: Path, score: str = "logit") -> Path:
    """Faithfulness of the circuits as full lines, and of the rest of the network as dashed ones."""
    chosen = pd.DataFrame(table[table.score == score])
    orders = [order for order in COLOURS if order in set(chosen.order)]
    with drawn((8.6, 4.6), path) as figure:
        axes = figure.subplots()
        for order in orders:
            part, width = chosen[chosen.order == order], 2.2 if order is CircuitOrder.gig else 1.4
            for side, line in (("insertion", "solid"), ("deletion", "dashed")):
                axes.plot(100 * part["x"], part[side], color=COLOURS[order], linestyle=line, linewidth=width)
        for height in (0, 1):
            axes.axhline(height, color=EDGE, linewidth=1, zorder=0)
        axes.set_xscale("log")
        axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.set_xlabel("per cent of each layer's concepts in the circuit", fontsize=12, color=INK)
        axes.set_ylabel("faithfulness f", fontsize=12, color=INK)
        open_axes(axes, 11)
        lines = [Line2D([], [], color=COLOURS[order], linewidth=3, label=NAMES[order]) for order in orders]
        lines.append(Line2D([], [], color=INK, linestyle="solid", label="the circuit alone"))
        lines.append(Line2D([], [], color=INK, linestyle="dashed", label="all but the circuit"))
        figure.legend(handles=lines, loc="outside upper center", ncols=4, frameon=False, fontsize=11)
    return path
