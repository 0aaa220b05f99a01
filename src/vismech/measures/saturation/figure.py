"""The figures of saturation: curves along the path, ratios of its parts, what the parts tell, heat maps of pixels.

Legend: n images, S nodes of the path, H×W pixels, h×w cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vismech.report.figures import FAINT, INK, drawn, open_axes

LEFT, RIGHT, OTHER = "#1f6fb4", "#d1660c", "#8a8f98"
COLOURS = {"left_ig": LEFT, "right_ig": RIGHT, "idg": OTHER}
NAMES = {"left_ig": "left", "right_ig": "right", "idg": "idg"}
BANDS = ((5, 95, 0.13), (25, 75, 0.28))
RATIOS = np.geomspace(2.0**-8, 2.0**6, 43)


class Panel(NamedTuple):
    """One source and its targets, image by image; only images with a target that moves.

    Attributes:
        title: which layers.
        alpha: nodes of the path.
        outputs: share of the target's change that is made, mean over targets.
        norms: gradient norm as a share of its largest along the path, mean over targets.
        crossing: median α* of the targets.
        ratios: norm of right over norm of left, median of an image's targets.
    """

    title: str
    alpha: Float[np.ndarray, " s"]
    outputs: Float[np.ndarray, "n s"]
    norms: Float[np.ndarray, "n s"]
    crossing: float
    ratios: Float[np.ndarray, " m"]


class Photograph(NamedTuple):
    """One image, its class, and mean |φ| of left, right and full in cells."""

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    maps: Float[np.ndarray, "3 h w"]


def curves_figure(panels: Sequence[Panel], phi: float, path: Path) -> Path:
    """Output and gradient norm against α: medians over images, with bands of the middle 50 % and 90 %."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with drawn((max(8.6, 3.7 * columns), (2.7 if rows > 1 else 4.2) * rows + 1.1), path) as figure:
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, index + 1)
            for values, colour in ((panel.outputs, LEFT), (panel.norms, RIGHT)):
                for low, high, strength in BANDS:
                    band = np.percentile(values, (low, high), axis=0)
                    axes.fill_between(panel.alpha, *band, color=colour, alpha=strength, linewidth=0)
                axes.plot(panel.alpha, np.median(values, axis=0), color=colour, linewidth=2.4)
            axes.axhline(phi, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.axvline(panel.crossing, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.set(xlim=(0, 1), ylim=(-0.1, 1.3), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.set_title(panel.title, fontsize=13, color=INK, weight="bold")
            open_axes(axes, 12)
            if index >= len(panels) - columns:
                axes.set_xlabel("α along the path", fontsize=12, color=FAINT)
        _key(figure, {"output, of its change": LEFT, "gradient norm, of its largest": RIGHT, "median α*": INK})
    return path


def ratios_figure(panels: Sequence[Panel], path: Path) -> Path:
    """Histograms of ‖right‖ / ‖left‖ over images on a logarithmic axis, the median marked."""
    with drawn((8.2, 0.66 * len(panels) + 1.5), path) as figure:
        axes = figure.subplots()
        for index, panel in enumerate(panels):
            base = len(panels) - 1 - index
            inside = panel.ratios.clip(RATIOS[0], RATIOS[-1])
            counts, _ = np.histogram(inside, RATIOS)
            heights = 0.82 * counts / max(1, counts.max())
            axes.stairs(base + heights, RATIOS, baseline=base, fill=True, color=LEFT, alpha=0.75)
            middle = float(np.median(panel.ratios))
            if middle > 0:
                axes.plot([middle, middle], [base, base + 0.9], color=INK, linewidth=1.8)
            axes.text(RATIOS[-1] * 0.9, base + 0.62, f"{middle:.2f}", fontsize=12, color=INK, ha="right")
        axes.axvline(1, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.set_xscale("log", base=2)
        ticks = 2.0 ** np.arange(-8, 7, 2)
        axes.set_xticks(
            ticks, ["0" if tick == ticks[0] else f"{tick:g}" if tick >= 1 else f"1/{1 / tick:g}" for tick in ticks]
        )
        axes.set_yticks(np.arange(len(panels))[::-1] + 0.3, [panel.title for panel in panels])
        axes.set(xlim=(RATIOS[0], RATIOS[-1]), ylim=(-0.05, len(panels)))
        axes.set_xlabel("norm of the right part ÷ norm of the left part (line: median; 0: never crosses)", fontsize=12)
        open_axes(axes, 12)
    return path


def paths_figure(rows: pd.DataFrame, path: Path) -> Path:
    """Differences to ig of ABPC and max-sensitivity with their intervals, from ``saturation.csv``."""
    titles = {
        "abpc_minus_ig": "ABPC − ABPC of ig\nmore is better",
        "sensitivity_minus_ig": "max-sensitivity − that of ig\nless is better",
    }
    cells = {(row["lower"], row["upper"], row["path"], row["metric"]): row for row in rows.to_dict("records")}
    units = list(dict.fromkeys(zip(rows["lower"], rows["upper"], strict=True)))
    with drawn((11.0, 0.62 * len(units) + 2.3), path) as figure:
        both = figure.subplots(1, 2, sharey=True)
        for axes, (metric, title) in zip(both, titles.items(), strict=True):
            for number, weight in enumerate(COLOURS):
                for index, unit in enumerate(units):
                    found = cells.get((*unit, weight, metric))
                    if found is not None:
                        place = len(units) - 1 - index + 0.22 * (1 - number)
                        axes.plot([found["ci_low"], found["ci_high"]], [place] * 2, color=COLOURS[weight], linewidth=3)
                        axes.plot(found["value"], place, "o", color=COLOURS[weight], markersize=7)
            axes.axvline(0, color=INK, linewidth=1)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(title, fontsize=13, color=INK)
            open_axes(axes, 12)
        both[0].set_yticks(np.arange(len(units))[::-1], [" → ".join(unit) for unit in units])
        both[0].set_ylim(-0.6, len(units) - 0.4)
        _key(figure, {NAMES[weight]: colour for weight, colour in COLOURS.items()})
    return path


def maps_figure(photographs: Sequence[Photograph], path: Path) -> Path:
    """Photographs beside |φ| of the left part, of the right part and of the whole, the three on one scale."""
    with drawn((10.4, 2.62 * len(photographs) + 0.35), path) as figure:
        grid = figure.subplots(len(photographs), 4, squeeze=False)
        for line, photograph in zip(grid, photographs, strict=True):
            line[0].imshow(photograph.pixels)
            line[0].set_ylabel(photograph.name, fontsize=12, color=INK)
            largest = np.percentile(photograph.maps[2], 99.5)
            for axes, values in zip(line[1:], photograph.maps, strict=True):
                axes.imshow(values, cmap="magma", vmin=0, vmax=largest, interpolation="bilinear")
            for axes in line:
                axes.set(xticks=(), yticks=())
                axes.spines[:].set_visible(False)
        for axes, name in zip(grid[0], ("photograph", "left", "right", "full"), strict=True):
            axes.set_title(name, fontsize=15, color=INK, weight="bold")
    return path


def _key(figure: Figure, entries: Mapping[str, str]) -> None:
    handles = [
        Line2D([], [], color=colour, linewidth=3, linestyle="dashed" if "α" in name else "solid", label=name)
        for name, colour in entries.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=13)
