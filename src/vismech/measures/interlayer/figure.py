"""The figures of inter-layer insertion and deletion: curves of every order, and what separates them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vismech.config.choices import Order
from vismech.report.figures import EDGE, INK, drawn, open_axes

COLOURS = {
    Order.gig: "#0b57a4",
    Order.left_ig: "#6aaee0",
    Order.idg: "#1f8f86",
    Order.u_x_gradient: "#d1660c",
    Order.leave_one_out: "#7d4aa5",
    Order.activation_patching: "#c2408c",
    Order.magnitude: "#8a6d1f",
    Order.random: "#8a8f98",
}
NAMES = {order: order.value.replace("u_x", "u ×").replace("left_ig", "left-IG").replace("_", " ") for order in Order}
WIDE = 3


def curves_figure(table: pd.DataFrame, path: Path, score: str = "ratio", readout: str = "max") -> Path:
    """Insertion as full lines and deletion as dashed ones, a panel for each pair of layers, from their mean curves."""
    chosen = pd.DataFrame(table[(table.score == score) & (table.readout == readout)])
    pairs = list(dict.fromkeys(zip(chosen.lower, chosen.upper, strict=True)))
    orders = [order for order in COLOURS if order in set(chosen.order)]
    columns = min(WIDE, len(pairs))
    rows = -(-len(pairs) // columns)
    with drawn((max(8.6, 3.7 * columns), 2.8 * rows + 1.2), path) as figure:
        for index, (lower, upper) in enumerate(pairs):
            axes, part = figure.add_subplot(rows, columns, index + 1), pd.DataFrame(chosen[chosen.upper == upper])
            for order in orders:
                curve, width = part[part.order == order], 2 if order is Order.gig else 1.2
                for side, line in (("insertion", "solid"), ("deletion", "dashed")):
                    axes.plot(curve["x"], curve[side], color=COLOURS[order], linestyle=line, linewidth=width)
            axes.axhline(1, color=EDGE, linewidth=1, zorder=0)
            axes.set_title(f"{lower} → {upper}", fontsize=12, color=INK)
            axes.set(xlim=(0, 1), xticks=(0, 0.5, 1))
            open_axes(axes, 10)
        figure.supylabel("target's value, share of the whole", fontsize=12, color=INK)
        figure.supxlabel("share of the active concepts, inserted (full) or deleted (dashed)", fontsize=12, color=INK)
        _key(figure, orders)
    return path


def differences_figure(table: pd.DataFrame, path: Path, score: str = "ratio", readout: str = "max") -> Path:
    """AUC differences of every pair and order, with intervals, from ``interlayer.csv``."""
    chosen = table[(table.metric == "auc_difference") & (table.score == score) & (table.readout == readout)]
    pairs = list(dict.fromkeys(zip(chosen.lower, chosen.upper, strict=True)))
    orders = [order for order in COLOURS if order in set(chosen.order)]
    with drawn((max(8.6, 1.35 * len(pairs)), 4.6), path) as figure:
        axes = figure.subplots()
        for number, order in enumerate(orders):
            part = pd.DataFrame(chosen[chosen.order == order]).set_index(["lower", "upper"]).reindex(pairs)
            at = np.arange(len(pairs)) + 0.09 * (number - (len(orders) - 1) / 2)
            spread = [part.value - part.ci_low, part.ci_high - part.value]
            axes.errorbar(at, part.value, spread, fmt="o", color=COLOURS[order], markersize=5, linewidth=1.6, capsize=2)
        for edge in range(1, len(pairs)):
            axes.axvline(edge - 0.5, color=EDGE, linewidth=0.8)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xticks(range(len(pairs)), [f"{lower}\n→ {upper}" for lower, upper in pairs])
        axes.set(xlim=(-0.5, len(pairs) - 0.5))
        axes.set_ylabel("insertion − deletion", fontsize=12, color=INK)
        open_axes(axes, 10)
        _key(figure, orders)
    return path


def _key(figure: Figure, orders: Sequence[Order]) -> None:
    handles = [Line2D([], [], color=COLOURS[order], linewidth=3, label=NAMES[order]) for order in orders]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), frameon=False, fontsize=11)
