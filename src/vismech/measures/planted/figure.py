"""The figure of planted circuits: average precision of every network and method as a heat map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vismech.report.figures import FAINT, INK, drawn

DARK = 0.55
"""Numbers are white on cells below this value."""
NAMES = {"gig_code": "gig (code)", "u_x_gradient": "u × gradient", "magnitude": "|u|"}


def heat_map(table: pd.DataFrame, path: Path) -> Path:
    """Rows are networks, columns methods, in the order of the table; one map for each dictionary and noise.

    Args:
        table: rows of ``planted.csv`` of one metric between 0 and 1.
        path: the file, PNG; equal input gives equal bytes.
    """
    maps = list(table.groupby(["dictionary", "noise"], sort=False))
    networks = table.network.nunique()
    columns = min(2, len(maps))
    rows = -(-len(maps) // columns)
    with drawn((8.2 * columns, (0.36 * networks + 1.7) * rows), path, dpi=100) as figure:
        for place, (key, part) in enumerate(maps, 1):
            dictionary, noise = key if isinstance(key, tuple) else (key, 0.0)
            wide = part.pivot_table(index="network", columns="method", values="value", sort=False)
            axes = figure.add_subplot(rows, columns, place)
            values = wide.to_numpy()
            axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
            for (row, column), value in np.ndenumerate(values):
                colour = "white" if value < DARK else INK
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)
            names = [NAMES.get(str(name), str(name).replace("_", " ")) for name in wide.columns]
            axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=10)
            axes.set_yticks(range(len(wide)), [str(name).replace("_", " ") for name in wide.index], fontsize=10)
            axes.tick_params(length=0, colors=FAINT)
            axes.spines[:].set_visible(False)
            concepts = "planted concepts" if dictionary == "planted" else f"concepts of {dictionary}"
            axes.set_title(f"{concepts}, {f'noise {noise:g}' if noise else 'no noise'}", fontsize=12, color=INK)
    return path
