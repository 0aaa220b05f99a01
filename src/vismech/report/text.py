"""Numbers, names and tables as the page and the figure write them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from vismech.config.choices import Patches
from vismech.errors import UserError

# Column, heading, and how its cells are written; a table's other columns follow under their own names.
COMPLETENESS = (
    ("lower", "From", "text"),
    ("upper", "To", "text"),
    ("path", "Path", "text"),
    ("rule", "Quadrature", "text"),
    ("steps", "Steps", "number"),
    ("power", "Crowded towards the start, power", "number"),
    ("gap_median", "Gap, median", "percent"),
    ("gap_p95", "Gap, 95th percentile", "percent"),
    ("step_change", "Change with twice the steps", "percent"),
    ("share_median", "Share of the change, median", "percent"),
    ("prefix_share", "Through class and other prefix tokens, median", "percent"),
    ("held_around", "Values held around the layer", "number"),
    ("absent_targets", "Targets absent", "number"),
    ("still_targets", "Targets that do not move", "number"),
    ("uncrossed_targets", "Targets that never cross", "number"),
    ("steps_mean", "Steps, mean", "number"),
    ("steps_max", "Steps, most", "number"),
    ("images", "Images", "number"),
    ("targets", "Targets", "number"),
)
RECONSTRUCTION = (
    ("layer", "Layer", "text"),
    ("dictionary", "Dictionary", "text"),
    ("k", "Concepts K", "number"),
    ("code", "Code", "text"),
    ("r2", "R²", "number"),
    ("relative_error", "Relative error", "percent"),
    ("l0", "L0", "number"),
    ("dead", "Dead", "number"),
    ("dense", "Dense", "number"),
    ("accuracy_spliced", "Top-1 with rebuilt layer", "percent"),
    ("accuracy_clean", "Top-1 as trained", "percent"),
    ("agreement_spliced", "Same answer", "percent"),
)
ACCOUNT = (
    ("layer", "Layer", "text"),
    ("of", "Of", "text"),
    ("value", "The network’s own value", "number"),
    ("drawn", "Drawn concepts", "number"),
    ("other", "Concepts not drawn", "number"),
    ("offset", "Offset", "number"),
    ("error", "Error", "number"),
    ("lost", "Lost by rebuilding", "number"),
    ("rest", "Left by quadrature", "number"),
)
INSERTION = (
    ("layer", "Layer", "text"),
    ("variant", "Variant", "text"),
    ("order", "Order", "text"),
    ("c_insertion", "C-Ins", "number"),
    ("c_deletion", "C-Del", "number"),
    ("auc_difference", "Difference", "number"),
    ("auc_first_8", "First 8", "number"),
    ("auc_first_32", "First 32", "number"),
)


class Traced(NamedTuple):
    """How vectors are traced to pixels: in a few words, after "nearest vectors" on a card, and in full on the page."""

    short: str
    card: str
    page: str


TRACED = {
    Patches.receptive_field: Traced(
        "by receptive fields",
        "bright where they came from: effective receptive fields by sharing ratios",
        "A patch is bright where the network looked for that feature vector, its effective receptive field by sharing "
        "ratios, and dimmed around it; the whole image beside them is lit where the concept’s code, carried down "
        "through these fields, is largest.",
    ),
    Patches.gradient_x_input: Traced(
        "by gradient × input",
        "bright where they came from: gradient × input of each vector",
        "A patch is bright where that feature vector came from by gradient × input of its length, a coarser "
        "answer than a receptive field, and dimmed around it; the whole image beside them is lit where the concept’s "
        "code, carried down in the same way, is largest.",
    ),
    Patches.integrated_gradients: Traced(
        "by integrated gradients",
        "bright where they came from: integrated gradients of each vector",
        "A patch is bright where that feature vector came from by integrated gradients of its length, and dimmed "
        "around it; the whole image beside them is lit where the concept’s code, carried down in the same way, is "
        "largest.",
    ),
    Patches.attnlrp: Traced(
        "by AttnLRP",
        "bright where they came from: the tokens of the first block, by AttnLRP",
        "A patch is bright where that feature vector came from: its relevance by AttnLRP, carried down to the tokens "
        "that the first block with attention reads and spread over their squares, and dimmed around it; the whole "
        "image beside them is lit where the concept’s code, carried down in the same way, is largest.",
    ),
    Patches.ig: Traced(
        "by integrated gradients of tokens",
        "bright where they came from: the tokens of the first block, by integrated gradients from the mean token",
        "A patch is bright where that feature vector came from: integrated gradients of its length, on the path from "
        "the mean token to the tokens that the first block with attention reads, spread over their squares, and dimmed "
        "around it; the whole image beside them is lit where the concept’s code, carried down in the same way, is "
        "largest.",
    ),
    Patches.rollout: Traced(
        "by attention rollout",
        "bright where they came from: the tokens of the first block, by attention rollout",
        "A patch is bright where attention brought that position’s content from (rollout: the same for every feature "
        "vector of that position), and dimmed around it; the whole image beside them is lit where the concept’s code, "
        "carried down in the same way, is largest.",
    ),
    Patches.upsampling: Traced(
        "by plain upsampling",
        "as plain squares of their positions, which is not all that they saw",
        "The patches are plain upsampled squares, not what the network saw at that position; the whole image beside "
        "them is lit by the concept’s upsampled code.",
    ),
}


class Table(NamedTuple):
    """A table as text: headings, whether each column is numeric, and the rows."""

    headings: list[str]
    numeric: list[bool]
    rows: list[list[str]]


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and a true minus sign.

    Raises:
        UserError: the value is NaN or infinite.
    """
    if not math.isfinite(value):
        raise UserError(f"cannot show {value}; mend the value where it first appears.")
    size = abs(value)
    if value == 0:
        text = "0"
    elif size >= 10**6 or size < 1e-4:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """A share as whole per cent; less than one but not nothing is "<1 %"."""
    return "<1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def shorten(text: str, width: float, size: float) -> str:
    """The text cut with an ellipsis to fit `width` pixels at font size `size`, wide characters counted as two."""
    units = max(int(width / (0.56 * size)), 1)
    cost = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text]
    if sum(cost) <= units:
        return text
    kept = 0
    while kept < len(text) and sum(cost[: kept + 1]) <= units - 1:
        kept += 1
    return text[:kept].rstrip() + "…"


def wide(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """A tidy table with a column for each metric; nothing is averaged.

    Args:
        frame: the table's keys, then metric and value, as :func:`~vismech.stages.tables.tidy` makes it.
        keys: the keys that are shown; of the others those that tell rows apart follow them.

    Raises:
        ValueError: two rows of one metric whose keys are all the same.
    """
    rest = list(frame.columns[: list(frame.columns).index("metric")]) if "metric" in frame else []
    filled = frame.assign(**{key: frame[key].astype(object).where(frame[key].notna(), "") for key in rest})
    more = [key for key in rest if key not in keys and len(set(filled[key])) > 1]
    index = [key for key in keys if key in rest] + more
    if frame.empty:
        return pd.DataFrame(columns=index)
    order = filled[index].drop_duplicates()
    metrics = list(dict.fromkeys(filled["metric"]))
    # Unlike pivot_table it refuses duplicates, of which it would otherwise show the mean.
    spread = filled.pivot(index=index, columns="metric", values="value")[metrics].reset_index()
    return order.merge(spread, on=index, how="left", validate="one_to_one")


def tabulate(frame: pd.DataFrame, columns: Sequence[tuple[str, str, str]]) -> Table:
    """A frame as text with plain headings; columns that are not listed follow as they are, a missing value is "—"."""
    known = [column for column in columns if column[0] in frame.columns]
    known += [
        (str(name), str(name), "number") for name in frame.columns if name not in {column[0] for column in columns}
    ]
    rows = [[_cell(record[name], form) for name, _, form in known] for record in frame.to_dict("records")]
    return Table([title for _, title, _ in known], [form != "text" for _, _, form in known], rows)


def _cell(value: Any, form: str) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if form == "text" or isinstance(value, (str, bool)):
        return str(value)
    if form == "percent":
        return f"{number(100 * float(value), 3)} %"
    return f"{int(value):,}" if float(value).is_integer() else number(float(value), 3)
