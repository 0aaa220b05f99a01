"""A finished run as an object: numbers and graph from its folder, concepts and dictionaries from its store.

The first need neither the store nor the model, and load no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vismech.config.choices import Patches
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.finished.configuration import DONE, check_folder, config_of
from vismech.finished.files import Graph, Tables, read_json
from vismech.finished.shown import Shown, page

if TYPE_CHECKING:
    from vismech.dictionaries import Dictionary
    from vismech.finished.concept import Concept
    from vismech.finished.opened import Opened


def open_run(
    folder: str | PathLike[str], trust: str | Collection[str] = (), names: str | PathLike[str] | None = None
) -> Run:
    """A finished run.

    Args:
        folder: the run's, ``outputs/runs/<name>/<time>``.
        trust: packages whose code may be imported, such as that of the run's own model.
        names: a file of names of concepts, as the page saves it; the run's own ``report.names`` by default.

    Raises:
        UserError: no run has left the folder.
    """
    place = Path(folder).expanduser()
    check_folder(place)
    given = None if names is None else Path(names).expanduser()
    return Run(place.absolute(), (trust,) if isinstance(trust, str) else tuple(trust), given)


class Run:
    """A finished run.

    Attributes:
        folder: where it is.
        tables: its tables by name, each read when it is asked for.
    """

    def __init__(self, folder: Path, trusted: Collection[str] = (), names: Path | None = None) -> None:
        """In ``folder``; of the code that it names only what is in ``trusted`` packages is imported."""
        self.folder, self.tables = folder, Tables(folder / "tables")
        self._trusted, self._names = trusted, names
        self._opened_as: dict[Patches, Opened] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """The flat numbers of ``metrics.json``.

        Raises:
            UserError: there are none yet.
        """
        lacking = "the run has not come to its end; run the same command again to continue"
        return MappingProxyType(read_json(self.folder / DONE, lacking))

    @cached_property
    def graph(self) -> Graph:
        """The causal concept graph.

        Raises:
            UserError: the run made none.
        """
        lacking = "the run made no graph; run the same command without until"
        return Graph(read_json(self.folder / "graph.json", lacking), self.folder / "figures")

    def show(self, height: int = 800, embed: bool = False) -> Shown:
        """The run's page for a notebook.

        Args:
            height: of the frame in pixels.
            embed: keep the page in the notebook, some megabytes, instead of its place on this machine.

        Raises:
            UserError: the run has no page.
        """
        return page(self.folder / "report" / "index.html", height, embed)

    @cached_property
    def config(self) -> Config:
        """The configuration that it was made with, paths made absolute and ``attribute.curve`` left out.

        Raises:
            UserError: files that are none of a run's, or code of packages that are not trusted.
        """
        return config_of(self.folder, self._trusted, self._names)

    @property
    def layers(self) -> list[str]:
        """The layers, in network order.

        Raises:
            UserError: as of :attr:`config`, or the store or the images are not there.
        """
        return self._opened().layers

    def concept(self, layer: str, concept: int | str, patches: Patches | str | None = None) -> Concept:
        """One concept.

        Args:
            layer: its layer.
            concept: its number there.
            patches: how vectors are traced to pixels; as the run has it by default.

        Raises:
            UserError: as of :attr:`layers`, or an unknown layer, concept or way, or an artifact that is gone.
        """
        opened = self._opened(patches)
        from vismech.finished.concept import Concept

        return Concept.read(opened, layer, concept)

    def dictionary(self, layer: str) -> Dictionary:
        """A layer's dictionary, coded as configured.

        Raises:
            UserError: as of :attr:`layers`, or an unknown layer, or an artifact that is gone.
        """
        opened = self._opened()
        opened.layer(layer)
        with opened.reading():
            return opened.read_dictionary(layer)

    def _opened(self, patches: Patches | str | None = None) -> Opened:
        config = self.config
        way = config.describe.patches if patches is None else _way(patches)
        if way not in self._opened_as:
            from vismech.finished.opened import Opened

            self._opened_as[way] = opened = Opened(config)
            told = opened.ctx.config
            told.describe = replace(told.describe, patches=way)
        return self._opened_as[way]


def _way(patches: str) -> Patches:
    ways = [each.value for each in Patches]
    if patches not in ways:
        near = difflib.get_close_matches(str(patches), ways, n=3, cutoff=0.3) or ways
        raise UserError(f"patches={patches!r} is no way to trace vectors to pixels; nearest: {', '.join(near)}")
    return Patches(patches)
