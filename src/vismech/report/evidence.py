"""What was measured, as tables and pictures of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from pandas.api.types import is_numeric_dtype

from vismech.report.text import Table, tabulate

ROWS = 200
HEADINGS = {"metric": "Metric", "value": "Value", "units": "Unit", "lower": "From", "upper": "To"}


class Measured(NamedTuple):
    """One measure: its table's name, what it asks in a sentence, its rows, tidy and long, and its figures as PNG."""

    name: str
    question: str
    rows: pd.DataFrame
    pictures: Sequence[bytes]


class Shown(NamedTuple):
    """A measure as the page shows it.

    Attributes:
        name: its table's name.
        question: what it asks.
        told: what stands above the table.
        table: the first of its rows, without the columns that say the same in all.
        pictures: its figures as PNG.
    """

    name: str
    question: str
    told: str
    table: Table
    pictures: Sequence[bytes]


def shown(measured: Measured) -> Shown:
    """At most ``ROWS`` rows; what is the same in all of them, and how many more there are, is told above the table."""
    rows = measured.rows
    keys = list(rows.columns[: list(rows.columns).index("metric")]) if "metric" in rows else []
    same = [key for key in keys if len(rows) > 1 and len(set(rows[key].astype(str))) == 1]
    alike = ", ".join(f"{key} {rows[key].astype(str).tolist()[0]}" for key in same if bool(rows[key].notna().all()))
    told = [*([f"In all rows: {alike}."] if alike else [])]
    if len(rows) > ROWS:
        told.append(f"The first {ROWS} of {len(rows):,} rows; tables/{measured.name}.csv has all.")
    left = rows.drop(columns=same).head(ROWS).dropna(axis="columns", how="all")
    forms = {column: "number" if is_numeric_dtype(left[column]) else "text" for column in left.columns}
    columns = [(str(column), HEADINGS.get(str(column), str(column)), form) for column, form in forms.items()]
    return Shown(measured.name, measured.question, " ".join(told), tabulate(left, columns), measured.pictures)
