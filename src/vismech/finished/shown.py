"""What a notebook shows of a finished run: HTML of modest size, whoever the run is from without a script of its own."""

from __future__ import annotations

import base64
import difflib
import io
import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vismech.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

LINKS = 3
"""Links of a concept that a layer's table names, in and out of it each."""


class Shown:
    """Something that a notebook shows where it is a cell's last line."""

    def __init__(self, html: str, words: str) -> None:
        """Of ``html``; ``words`` are for where there is no notebook."""
        self._html, self._words = html, words

    def __repr__(self) -> str:
        return self._words

    def _repr_html_(self) -> str:
        return self._html


def picture(image: Image.Image, words: str, width: int) -> str:
    """A picture as HTML, at most so many pixels wide and as JPEG, which keeps notebooks small."""
    from PIL import Image

    small = image.convert("RGB")
    if small.width > width:
        small = small.resize((width, round(small.height * width / small.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(words)}" style="max-width:100%" src="data:image/jpeg;base64,{data}">'


def page(file: Path, height: int, embed: bool) -> Shown:
    """A run's page in a frame of its own, from which it reaches nothing of the notebook.

    Raises:
        UserError: the run has no page.
    """
    if not file.is_file():
        raise UserError(f"{file} is not there: the run drew no page; run the same command with report=page")
    place = Path(os.path.relpath(file)).as_posix()
    content = f'srcdoc="{escape(file.read_text(encoding="utf-8"))}"' if embed else f'src="{quote(place)}"'
    frame = f'<iframe sandbox="allow-scripts" width="100%" height="{height}" style="border:0" {content}></iframe>'
    return Shown(frame, f"<page: {place}>")


def layer_table(graph: Mapping[str, Any], layer: str) -> Shown:
    """The concepts that a graph keeps in a layer: importance, measured effect, strongest links.

    Raises:
        UserError: the graph has no such layer.
    """
    if layer not in graph["layers"]:
        near = difflib.get_close_matches(str(layer), graph["layers"], n=3, cutoff=0.3) or graph["layers"]
        raise UserError(f"the graph has no layer {layer!r}; nearest: {', '.join(near)}")
    groups = {group["key"]: group.get("name", group["key"]) for group in graph["groups"]}
    nodes = [node for node in graph["nodes"] if node["layer"] == layer and node["kind"] == "concept"]
    nodes.sort(key=lambda node: -max(map(abs, node["importance"].values())))
    measured = any("effects" in node for node in nodes)
    head = ["concept", *(f"importance, {name}" for name in groups.values())]
    head += [f"effect, {name}" for name in groups.values()] if measured else []
    rows = [[*head, "strongest from", "strongest to"]]
    for node in nodes:
        cells = [f"{node['concept']}", *(_number(node["importance"].get(key)) for key in groups)]
        if measured:
            effects = node.get("effects", {})
            cells += [_number(effects.get(key, {}).get("value")) for key in groups]
        into = (link for link in graph["links"] if link["target"] == node["id"])
        out = (link for link in graph["links"] if link["source"] == node["id"])
        rows.append([*cells, _ends(into, "source"), _ends(out, "target")])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    top = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    words = "\n".join("  ".join(row) for row in rows)
    return Shown(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>", words)


def _ends(links: Iterable[Mapping[str, Any]], end: str) -> str:
    strongest = sorted(links, key=lambda link: -abs(link["weight"]))[:LINKS]
    return ", ".join(f"{link[end]} ({_number(link['weight'])})" for link in strongest)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2g}".replace("-", "−")
