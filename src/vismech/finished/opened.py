"""What a finished run left in its store: layers and concepts checked by name and number, and what is known of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from vismech.config.schema import Config
from vismech.dictionaries import Dictionary
from vismech.errors import UserError
from vismech.finished.configuration import described
from vismech.measures.base import alone
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Plan
from vismech.stages.describe import Description, Descriptions
from vismech.stages.fields import fields_settings
from vismech.stages.gallery import Gallery
from vismech.stages.pipeline import make_plan, open_context


class Opened:
    """A finished run's plan and store; the model is opened only where something asks for it."""

    def __init__(self, config: Config) -> None:
        """Of the run with ``config``.

        Raises:
            UserError: it has no layers, its store is not there, or its images cannot be listed.
        """
        if alone(config):
            kinds = ", ".join(config.evaluate.kinds)
            raise UserError(f"the run has no layers and no concepts: evaluate.kinds=[{kinds}] makes its own networks")
        root = Path(config.store.root)
        if not root.is_dir():
            raise UserError(
                f"the run's store {root} is not there: bring it back, or run the same command again; only tables, "
                "metrics and graph are in the run's own folder"
            )
        self.ctx: Context = open_context(described(config))

    @cached_property
    def plan(self) -> Plan:
        """The artifacts that concepts are read from."""
        return make_plan(self.ctx)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside, cleaning up the store leaves everything of this run alone; not to be entered twice."""
        uses = self.ctx.store.uses
        with uses.recorded():
            for spec in self.plan.specs():
                uses.note(spec.key)
            yield

    @property
    def layers(self) -> list[str]:
        """The layers of the run, in network order."""
        return list(self.ctx.layers)

    def layer(self, name: str) -> str:
        """The layer of that name.

        Raises:
            UserError: there is none; the message tells the nearest.
        """
        if name not in self.ctx.layers:
            near = difflib.get_close_matches(str(name), self.ctx.layers, n=3, cutoff=0.3) or self.ctx.layers
            raise UserError(f"the run has no layer {name!r}; nearest: {', '.join(near)}")
        return name

    def describe(self, layer: str, concept: int | str) -> Description:
        """What is known of a concept, given by its number or as one types it.

        Raises:
            UserError: an unknown layer or concept, or an artifact that is gone.
        """
        self.layer(layer)
        spec = self.plan.descriptions[layer]
        with self.reading():
            found = Descriptions(self.ctx, layer, spec)
        text, count = str(concept), len(found)
        number = int(text) if text.isdecimal() else -1
        if not 0 <= number < count:
            near = difflib.get_close_matches(text, [str(each) for each in range(count)], n=3, cutoff=0.3)
            known = f"; nearest: {', '.join(near)}" if near else ""
            raise UserError(f"layer {layer!r} has no concept {concept!r}, they are 0 to {count - 1}{known}")
        return found.concept(number)

    def gallery(self, layer: str, number: int) -> Gallery:
        """One concept, ready to be drawn; its fields are traced where the store has none. Inside :meth:`reading`."""
        return Gallery(self.ctx, self.plan, [(layer, number)], fields_settings(self.ctx), self.plan.given)

    def read_dictionary(self, layer: str) -> Dictionary:
        """A layer's dictionary under the configured coding. Inside :meth:`reading`."""
        coding = dictionary_stage.coding_of(self.ctx.config)
        return dictionary_stage.read(self.ctx, self.plan.dictionaries[layer], coding)
