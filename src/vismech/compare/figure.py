"""A comparison of runs as Markdown and as LaTeX (booktabs): one block per metric, the best bold, ties marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vismech.compare.comparison import direction
from vismech.compare.run_tables import Row, text_of


class Block(NamedTuple):
    """One metric's cells, keys first, with a mark for each of them (best, tied or empty)."""

    caption: str
    keys: list[str]
    columns: list[str]
    rows: list[list[str]]
    marks: list[list[str]]


def blocks(
    judged: Sequence[Row],
    rows: Sequence[str],
    columns: Sequence[str],
    directions: Mapping[str, int],
    intervals: bool = False,
) -> list[Block]:
    """One block per metric; row keys that are the same throughout it are said in its caption instead.

    Args:
        judged: what :func:`~vismech.compare.comparison.judge` found.
        rows: keys of the rows.
        columns: keys of the columns.
        directions: metric → 1, −1 or 0 where the defaults do not hold.
        intervals: write each number's interval behind it.
    """

    def column_of(row: Row) -> str:
        return "→".join(text_of(row[key]) for key in columns) or "value"

    names, found = list(dict.fromkeys(map(column_of, judged))), []
    for metric in dict.fromkeys(row["metric"] for row in judged):
        part = [row for row in judged if row["metric"] == metric]
        texts = {key: list(dict.fromkeys(text_of(row[key]) for row in part)) for key in rows}
        shown = [key for key in rows if len(texts[key]) > 1] or [rows[0]]
        lines: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in part:
            lines.setdefault(tuple(text_of(row[key]) or "–" for key in shown), {})[column_of(row)] = row
        used = [name for name in names if any(name in line for line in lines.values())]
        write = _writer(part, intervals)
        cells = [
            [*keys, *(write(line[name]) if name in line else "–" for name in used)] for keys, line in lines.items()
        ]
        marks = [
            [*[""] * len(shown), *(line.get(name, {}).get("mark") or "" for name in used)] for line in lines.values()
        ]
        fixed = [f"{key} {texts[key][0]}" for key in rows if key not in shown and texts[key][0]]
        caption = _caption(metric, part, fixed, directions.get(metric, direction(metric)))
        found.append(Block(caption, shown, used, cells, marks))
    return found


def _caption(metric: str, part: Sequence[Row], fixed: Sequence[str], sign: int) -> str:
    units = next((row["units"] for row in part if row["units"]), None)
    sentences = [", ".join([f"{metric} ({units})" if units else metric, *fixed])]
    paired = [row["common_images"] for row in part if row["test"] == "paired"]
    apart = sum(row["test"] == "overlap" for row in part)
    if any(row["mark"] for row in part):
        sentences.append(f"Bold: the {'largest' if sign > 0 else 'smallest'} of its column")
        if not paired and not apart:
            sentences.append("Without intervals, ties are unknown")
    if paired:
        few, many = min(paired), max(paired)
        images = f"{few}" if few == many else f"{few} to {many}"
        among = f" ({len(paired)} of {len(paired) + apart} comparisons)" if apart else ""
        sentences.append(
            f"†: ties with it, the 95 % bootstrap interval of their paired difference over {images} common images "
            f"contains zero{among}"
        )
    if apart:
        lead = "In the others" if paired else "†: ties with it"
        sentences.append(f"{lead}, the two 95 % intervals overlap, a rougher test than a paired one")
    if len(paired) + apart > 1:
        sentences.append("Intervals are not corrected for the number of comparisons")
    return ". ".join(sentences) + "."


def _writer(part: Sequence[Row], intervals: bool) -> Callable[[Row], str]:
    values = [row["value"] for row in part]
    largest = max(map(abs, values))
    form = ".0f" if all(value % 1 == 0 for value in values) else ".1f" if largest >= 100 else ".3f"
    form = ".2e" if 0 < largest < 0.01 else form

    def write(row: Row) -> str:
        ends = [row["ci_low"], row["ci_high"]]
        between = f" [{ends[0]:{form}}, {ends[1]:{form}}]" if intervals and None not in ends else ""
        return f"{row['value']:{form}}{between}".replace("-", "−")

    return write


def markdown(title: str, found: Sequence[Block]) -> str:
    """A heading, then each block as a pipe table with its caption above it."""
    parts = [f"# {title}\n"]
    for block in found:
        lines = [f"{block.caption}\n", _pipes([*block.keys, *block.columns])]
        lines.append("|" + "---|" * len(block.keys) + "---:|" * len(block.columns))
        lines += [_pipes(cells) for cells in _marked(block, "**{}**", "{}†")]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$", "†": r"$^{\dagger}$", "−": "$-$", "–": "--",
}  # fmt: skip


def latex(found: Sequence[Block]) -> str:
    """Each block as a table with booktabs' rules; needs \\usepackage{booktabs}."""
    parts = []
    for block in found:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(block.caption)}}}"]
        lines.append(rf"\begin{{tabular}}{{{'l' * len(block.keys)}{'r' * len(block.columns)}}}")
        lines += [r"\toprule", _row([*block.keys, *block.columns]), r"\midrule"]
        plain = block._replace(rows=[[_escaped(cell) for cell in row] for row in block.rows])
        lines += [" & ".join(cells) + r" \\" for cells in _marked(plain, r"\textbf{{{}}}", r"{}$^{{\dagger}}$")]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _marked(block: Block, best: str, tied: str) -> list[list[str]]:
    forms = {"best": best, "tied": tied, "": "{}"}
    return [
        [forms[mark].format(cell) for cell, mark in zip(row, marks, strict=True)]
        for row, marks in zip(block.rows, block.marks, strict=True)
    ]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
