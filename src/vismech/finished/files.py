"""The files of a run's folder that are read without its store: tables, and the graph with its figure."""

from __future__ import annotations

import base64
import difflib
import io
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vismech.errors import UserError
from vismech.finished.shown import Shown, layer_table, picture

if TYPE_CHECKING:
    import pandas as pd

VIEW = re.compile(r'<svg\b[^>]*\bviewBox="(-?[\d.]+) (-?[\d.]+) ([\d.]+) ([\d.]+)"')


class NoTable(UserError, KeyError):
    """A run has no table of that name."""

    def __str__(self) -> str:  # a KeyError's would be in quotation marks
        return str(self.args[0])


def read_json(file: Path, lacking: str) -> Any:
    """The content of a run's JSON file.

    Args:
        file: the file.
        lacking: why it may be missing, and the remedy.

    Raises:
        UserError: it is missing or damaged.
    """
    if not file.is_file():
        raise UserError(f"{file.parent} has no {file.name}: {lacking}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}): take a run whose folder is whole") from error


class Tables(Mapping[str, "pd.DataFrame"]):
    """The tables of a run by name; each is read when it is asked for, and a copy of one's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> pd.DataFrame:
        names = list(self)
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=3) or names
            known = f"; nearest: {', '.join(near)}" if near else ", as it has no tables at all"
            raise NoTable(f"the run has no table {name!r}{known}")
        import pandas as pd

        file = self._folder / f"{name}.csv"
        try:
            return pd.read_csv(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}): take a run whose folder is whole") from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(file.stem for file in self._folder.glob("*.csv")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<tables: {', '.join(self)}>"


class Graph(Mapping[str, Any]):
    """A run's causal concept graph: ``graph.json`` by key, nodes and links as tables; notebooks show its figure.

    What it gives are copies: nothing that is done to them changes the graph.
    """

    def __init__(self, content: Mapping[str, Any], figures: Path) -> None:
        self._content, self._figures = content, figures

    def __getitem__(self, key: str) -> Any:
        return deepcopy(self._content[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return f"<graph: {self._words}>"

    @property
    def nodes(self) -> pd.DataFrame:
        """A row for each node; what a node has for each group is in columns such as ``importance.129``."""
        return self._frame("nodes")

    @property
    def links(self) -> pd.DataFrame:
        """A row for each link; what a link has for each group is in columns such as ``weights.129``."""
        return self._frame("links")

    @property
    def layers(self) -> list[str]:
        """The layers, input to output."""
        return self["layers"]

    def show(self, layer: str | None = None, width: int = 1000) -> Shown:
        """The run's figure for a notebook, or of one layer a table of its concepts and their strongest links.

        Args:
            layer: the layer; None: the figure.
            width: pixels of the figure, at the most; the whole of it is what ``run.graph`` itself shows.

        Raises:
            UserError: the graph has no such layer.
        """
        if layer is not None:
            return layer_table(self._content, layer)
        figure = self._figure("png")
        if figure is None:
            return Shown(self._repr_html_(), repr(self))
        from PIL import Image

        with Image.open(io.BytesIO(figure)) as image:
            return Shown(picture(image, f"The graph: {self._words}", width), repr(self))

    @property
    def _words(self) -> str:
        parts = {"nodes": "nodes", "links": "links", "layers": "layers"}
        return ", ".join(f"{len(self._content[key])} {word}" for key, word in parts.items())

    def _frame(self, key: str) -> pd.DataFrame:
        import pandas as pd

        return pd.json_normalize(self[key])

    def _figure(self, suffix: str) -> bytes | None:
        file = self._figures / f"graph.{suffix}"
        return file.read_bytes() if file.is_file() else None

    def _repr_png_(self) -> bytes | None:
        return self._figure("png")

    def _repr_svg_(self) -> str | None:
        """The figure as an image inside of another: as such browsers run no script, whoever the run is from."""
        figure = self._figure("svg")
        view = figure and VIEW.search(figure[:4096].decode(errors="replace"))
        if not figure or not view:
            return None
        left, top, width, height = view.groups()
        place = f'x="{left}" y="{top}" width="{width}" height="{height}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="{left} {top} {width} {height}"><image {place} href="{_uri("svg+xml", figure)}"/></svg>'
        )

    def _repr_html_(self) -> str:
        for suffix, kind in (("svg", "svg+xml"), ("png", "png")):
            if figure := self._figure(suffix):
                return f'<img alt="The graph: {self._words}" style="max-width:100%" src="{_uri(kind, figure)}">'
        return f"<p>The graph: {self._words}. The run drew no figure of it.</p>"


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
