"""One concept of a finished run: what is known of it, its card, and where it is in images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path

from PIL import Image

from vismech.dictionaries.description import TreePlace
from vismech.finished.localization import panels_of, read
from vismech.finished.opened import Opened
from vismech.finished.shown import Shown, picture
from vismech.report.text import number
from vismech.stages.describe import Description, Place
from vismech.stages.gallery import LISTED, Gallery, facts

HEAD = "<div><p><b>{title}</b> of <code>{layer}</code></p><table>{rows}</table>"
CARD = '<img alt="{alt}" width="800" src="data:image/png;base64,{data}"></div>'


@dataclass(frozen=True, eq=False)
class Concept:
    """One concept of a run; notebooks show it as its facts and its card.

    Attributes:
        layer: its layer.
        number: its number there.
        name: what people call it; None where it has no name (``report.names``).
        places: the nearest vectors, best first, and
        cosines: their cosines to it.
        share: members among all vectors.
        members: how many these are.
        tightness: mean cosine between it and its members; None without members.
        entropy: bits of the histogram of its members' classes; None without members.
        classes: names of its members' classes and how many each has, most frequent first.
        tree: its place in the tree of clusters; None for dictionaries without a tree.
    """

    layer: str
    number: int
    name: str | None
    places: list[Place] = field(repr=False)
    cosines: list[float]
    share: float
    members: int
    tightness: float | None
    entropy: float | None
    classes: list[tuple[str, int]]
    tree: TreePlace | None
    _known: Description = field(repr=False)
    _opened: Opened = field(repr=False)

    @classmethod
    def read(cls, opened: Opened, layer: str, concept: int | str) -> Concept:
        """From a run's store.

        Raises:
            UserError: an unknown layer or concept, or an artifact that is gone.
        """
        known = opened.describe(layer, concept)
        classes = [(opened.ctx.label_name(label), count) for label, count in known.classes]
        given = {**known._asdict(), "classes": classes}
        name = opened.plan.given.get(f"{layer}/{known.concept}")
        return cls(number=given.pop("concept"), name=name, **given, _known=known, _opened=opened)

    @cached_property
    def _gallery(self) -> Gallery:
        with self._opened.reading():
            return self._opened.gallery(self.layer, self.number)

    @cached_property
    def _card(self) -> Image.Image:
        gallery = self._gallery
        with self._opened.reading():
            return gallery.picture(self.layer, self.number)

    def picture(self) -> Image.Image:
        """Its card: the nearest image lit where the concept is, crops of the nearest vectors, facts and classes.

        Raises:
            UserError: images or artifacts that are gone.
        """
        return self._card.copy()

    def localize(self, images: str | Path | Image.Image | Sequence[str | Path | Image.Image]) -> list[Image.Image]:
        """Of each image, as file or picture, panels: the image, and the image lit where the concept is.

        Lit as the concept's vectors are traced on its card, and by plain upsampling of its code.

        Raises:
            UserError: an image that cannot be read or is too narrow for a network, or an artifact that is gone.
        """
        several = [images] if isinstance(images, (str, Path, Image.Image)) else list(images)
        if not several:
            return []
        preprocess = self._opened.ctx.model.preprocess
        loaded = [read(each, f"image {index}", preprocess) for index, each in enumerate(several)]
        kind = self._gallery.kind
        with self._opened.reading():
            return panels_of(self._opened, self.layer, self.number, kind, loaded)

    def show(self, *images: str | Path | Image.Image, width: int = 800) -> Shown:
        """For a notebook its facts and its card, or of ``images`` where it is in them; at most so many pixels wide.

        Raises:
            UserError: as of :meth:`picture` and :meth:`localize`.
        """
        words = f"concept {self.number} of {self.layer}"
        if images:
            return Shown("".join(picture(each, words, width) for each in self.localize(images)), f"<{words}>")
        return Shown(self._facts() + picture(self._card, f"The card of {words}", width) + "</div>", f"<{words}>")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self._card.save(buffer, format="PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self._repr_png_()).decode()
        return self._facts() + CARD.format(alt=f"The card of concept {self.number} of {escape(self.layer)}", data=data)

    def _facts(self) -> str:
        classes = "; ".join(f"{name} {count}" for name, count in self.classes[:LISTED])
        told = {
            "Holds": f"{number(100 * self.share, 3)} % of the vectors ({self.members:,})",
            "Cosines": ", ".join(f"{cosine:.2f}".replace("-", "−") for cosine in self.cosines),
            **facts(self._known),
            "Classes": classes + ("; …" if len(self.classes) > LISTED else ""),
        }
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in told.items())
        title = f"{self.name} (concept {self.number})" if self.name else f"Concept {self.number}"
        return HEAD.format(title=escape(title), layer=escape(self.layer), rows=rows)
