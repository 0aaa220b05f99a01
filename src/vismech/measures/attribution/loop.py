"""How well attributions of every image tell what its units do."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vismech.attribution.engine import attribute
from vismech.attribution.filtering import kept_share, low_pass
from vismech.attribution.methods import UNSIGNED
from vismech.attribution.sources import ConceptSource, Source, UnitSource
from vismech.config.choices import AttributionMethod, Output, SourceKind, Unreadable
from vismech.draws import seed_of
from vismech.errors import UserError
from vismech.intervene.coded import Coded
from vismech.measures.attribution import scores as metrics
from vismech.measures.attribution.methods import DRAWN, REFERENCES, Ensemble, MethodSettings, Problem, edges_of
from vismech.measures.attribution.mosaics import Mosaic, focus, mosaic, quadrants
from vismech.measures.attribution.road import imputed
from vismech.measures.attribution.scores import Measured
from vismech.measures.saturation.scores import WEIGHTS
from vismech.measures.unit_loop import Case, UnitLoop
from vismech.measures.unit_scores import all_units
from vismech.network.layers import LOGITS, PIXELS
from vismech.passes.trace import first_readable

METHODS = (*(weight.value for weight in WEIGHTS), "random")
"""Without further ones. The last is a control: ig's values dealt out to the units at random, which keeps their sum."""
SHARES = (0.1, 0.5)
"""Sizes of the random sets of sensitivity-n, as shares of the units; infidelity's are half of them."""
ROAD_SHARES = (0.2, 0.5, 0.8)
UNFILTERED = ("left_ig", "right_ig", "idg")
"""Not measured filtered: parts of a path, and a variant of it."""
SCORES = (
    "completeness",
    *metrics.Areas._fields,
    "diffid",
    "abpc",
    "infidelity",
    "infidelity_relative",
    *(f"sensitivity_n_{share:g}" for share in SHARES),
    "max_sensitivity",
    "road",
    "focus",
    "filter_kept",
)


def methods_of(how: MethodSettings | None, pixels: bool) -> tuple[str, ...]:
    """The columns of the arrays, the random control last."""
    if not how:
        return METHODS
    plain = (*METHODS[:-1], *(name.value for name in how.methods))
    filtered = [f"{name}+filter" for name in plain if name not in UNFILTERED] if how.filter and pixels else []
    return (*plain, *filtered, METHODS[-1])


class AttributionLoop(UnitLoop):
    """Writes the scores of :mod:`~vismech.measures.attribution.scores` of every method [T, W]; ROAD of pixels, on the
    images whose max-sensitivity is measured, and Focus of the class, are defined where they are measured.

    Args:
        methods: further ones, or None.
    """

    scores: ClassVar = dict.fromkeys(SCORES, (len(METHODS),))

    def __init__(self, *args, methods: MethodSettings | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.methods = methods or None
        self.names = methods_of(self.methods, self.lower == PIXELS)
        self.mosaics: list[Mosaic] = []
        self.scores = dict.fromkeys(SCORES, (len(self.names),))  # type: ignore[misc]

    def on_predict_start(self) -> None:
        """See :class:`UnitLoop`; of a covariance also the activations of all images."""
        super().on_predict_start()
        self.ensemble = None
        if self.methods and AttributionMethod.covariance in self.methods.methods and self.upper == LOGITS:
            self.ensemble = self._ensemble()

    @torch.no_grad()
    def _ensemble(self) -> Ensemble:
        found = []
        for image in first_readable(self, len(self.indices))[1]:
            coded = self._coded(image)
            output = self.network.activations(image, [LOGITS])[LOGITS]
            output = output if self.how.output is Output.logit else output.softmax(1)
            found.append((self._told(coded), self._units(coded), output))
        told, units, outputs = zip(*found, strict=True)
        return Ensemble(np.concatenate(told), torch.cat(units), torch.cat(outputs))

    def _told(self, coded: Coded) -> np.ndarray:
        vectors = coded.vectors.flatten(1) if self.lower == PIXELS else coded.vectors.mean(1)
        return vectors.cpu().double().numpy()

    def _units(self, coded: Coded) -> Float[Tensor, "b q"]:
        units = coded.vectors.sum(2) if self.lower == PIXELS else coded.codes.sum(1)
        return torch.nn.functional.pad(units, (0, 1))

    def more(self, coded: Coded, rows: list[int]) -> list[Tensor]:
        """See :class:`UnitLoop`."""
        if self.methods is None:
            return []
        (source,) = self._sources(coded, rows)
        problem = Problem(
            self.segment, self.layout, source, self._starts_of(source, rows), coded.clean, self._targets(rows)
        )
        return [self._more(name, problem, coded, rows) for name in self.methods.methods]

    def _more(self, name: AttributionMethod, problem: Problem, coded: Coded, rows: list[int]) -> Tensor:
        assert self.methods is not None
        if name is not AttributionMethod.covariance:
            with self.telling(f"{self.lower} → {self.upper}, {name.value}", rows):
                return edges_of(name, self.methods, problem, self.settings.steps, self.portions.paths)
        if self.ensemble is None:
            return coded.vectors.new_zeros(len(rows), *self._targets(rows).present.shape[1:], problem.source.count + 1)
        return self.ensemble.covariance(self._told(coded), self.classes[rows], self.methods)

    def _starts_of(self, source: Source, rows: list[int]) -> dict[AttributionMethod, list[Source]]:
        """The source from other images, for the methods that start there."""
        assert self.methods is not None
        found: dict[AttributionMethod, list[Source]] = {}
        if AttributionMethod.ig2 in self.methods.methods:  # of other classes where there are any
            turns = [[self._other(row, f"reference {turn}") for row in rows] for turn in range(REFERENCES)]
            each = [[self._coded(self._open(self.indices[other])) for other in turn] for turn in turns]
            found[AttributionMethod.ig2] = [self._from(source, one) for one in each]
        expected = AttributionMethod.expected_gradients_variance
        if expected in self.methods.methods:
            own = [[one for other, one in self.drawn.items() if other != row][:DRAWN] for row in rows]
            starts = [self._from(source, list(one)) for one in zip(*own, strict=True)]
            found[expected] = starts or [source]  # there is no other image
        return found

    @cached_property
    def drawn(self) -> dict[int, Coded]:
        """Rows that hold the images of expected gradients, and what these are."""
        order = sorted(range(len(self.indices)), key=lambda row: seed_of(self.seed, "expected", self.sample_id(row)))
        found: dict[int, Coded] = {}
        for row in order:
            if len(found) > DRAWN:
                break
            try:
                found[row] = self._coded(self._open(self.indices[row]))
            except UserError:
                if self.site.unreadable is Unreadable.fail:
                    raise
        return found

    def _from(self, source: Source, others: list[Coded]) -> Source:
        other = Coded(*(torch.cat(part) for part in zip(*others, strict=True)))
        found: Any  # pyright does not take a cached property for a property
        if isinstance(source, ConceptSource):
            parts = source.atoms, source.codes, source.vectors, source.along, other.codes, other.vectors
            found = ConceptSource(*parts)
        else:
            assert isinstance(source, UnitSource)
            vectors = other.vectors if source.kind is SourceKind.pixels else other.codes @ self.dictionary.atoms
            found = UnitSource(source.kind, source.vectors, vectors)
        return found

    def _other(self, row: int, what: str, same: bool = False) -> int:
        """Another row, of another class (or of the same), drawn from (seed, sample id)."""
        classes = self.classes.reshape(len(self.classes), -1)[:, 0]
        fits = np.flatnonzero((classes == classes[row]) == same)
        fits = fits[fits != row] if len(fits[fits != row]) else np.flatnonzero(np.arange(len(classes)) != row)
        return int(fits[seed_of(self.seed, what, self.sample_id(row)) % len(fits)]) if len(fits) else row

    def shown(self, edges: Float[Tensor, "*n t w q"], case: Case) -> Float[Tensor, "*n t v q"]:
        """See :class:`UnitLoop`; variances and filtered maps speak for their target's change if they are not zero."""
        if not self.methods:
            return edges
        sign = case.ends.change.sign()[:, None, None]
        unsigned = torch.tensor([name in UNSIGNED for name in self._plain], device=edges.device)[:, None]
        signed = torch.where(unsigned, edges * sign, edges)
        if not (self.methods.filter and self.lower == PIXELS):
            return signed
        return torch.cat([signed, self._filtered(edges) * sign], -2)

    def _filtered(self, edges: Float[Tensor, "*n w q"]) -> Float[Tensor, "*n v q"]:
        assert self.methods is not None and self.methods.filter
        filtered = low_pass(self._maps(edges), self.methods.filter * max(self.layout.grid)).flatten(-2)
        return torch.nn.functional.pad(filtered, (0, edges.shape[-1] - filtered.shape[-1]))

    def _maps(self, edges: Float[Tensor, "*n w q"]) -> Float[Tensor, "*n v h w2"]:
        """The maps that are filtered."""
        chosen = [place for place, name in enumerate(self._plain) if name not in UNFILTERED]
        return edges[..., chosen, : self.layout.positions].unflatten(-1, self.layout.grid)

    @property
    def _plain(self) -> list[str]:
        """The methods as they are, without the random control."""
        return [name for name in self.names if "+" not in name][:-1]

    def _kept(self, case: Case) -> Measured:
        """What share of its energy each filtered map keeps; of the others it does not exist."""
        assert self.methods is not None and self.methods.filter
        kept = kept_share(self._maps(case.edges), self.methods.filter * max(self.layout.grid))
        place = [number for number, name in enumerate(self.names) if "+" in name]
        value = kept.new_zeros(len(kept), len(self.names))
        value[:, place] = kept
        return Measured(value, value > 0)

    def measure(self, coded: Coded, case: Case) -> dict[str, Measured]:
        """See :class:`UnitLoop`; max-sensitivity of a random order says nothing and is left undefined."""
        generator = self._generator(case.row)
        shuffled = torch.randperm(len(case.units), generator=generator).to(case.units)
        shown = self.shown(case.edges, case)[:, :, case.units]
        attribution = torch.cat([shown, shown[:, :1, shuffled]], 1)
        everywhere = attribution.any(2)
        found = {
            "completeness": metrics.completeness(attribution, case.ends),
            "abpc": metrics.abpc(case.outputs, attribution, case.ends),
        }
        areas = metrics.areas(metrics.curves(case.outputs, attribution, case.ends))
        found |= {name: Measured(area, everywhere) for name, area in areas._asdict().items()}
        found["diffid"] = Measured(areas.insertion - areas.deletion, everywhere)
        for share in SHARES:
            drawn = metrics.removals(case.outputs, case.ends, len(case.units), share, generator)
            found[f"sensitivity_n_{share:g}"] = metrics.sensitivity_n(attribution, drawn)
        # The last sets are of half the units.
        infidelity = metrics.infidelity(attribution, drawn)
        change = case.ends.change[:, None].expand_as(infidelity)
        found["infidelity"] = Measured(infidelity, torch.ones_like(everywhere))
        found["infidelity_relative"] = metrics.ratio(infidelity, change.square())
        disturbed = self.sensitivity(coded, case)
        found["max_sensitivity"] = Measured(*(torch.nn.functional.pad(part, (0, 1)) for part in disturbed))
        if self.lower == PIXELS and case.row in self.sensitivity_rows:
            found["road"] = Measured(self._road(coded, case, attribution, generator), everywhere)
        if self.methods and self.methods.filter and self.lower == PIXELS:
            found["filter_kept"] = self._kept(case)
        if self.methods and self.methods.mosaics and self.upper == LOGITS:
            self._tile(case, generator)
        return found

    @torch.no_grad()
    def _road(
        self, coded: Coded, case: Case, attribution: Float[Tensor, "t w n"], generator: torch.Generator
    ) -> Float[Tensor, "t w"]:
        """How much more it costs to fill in the most attributed pixels than the least, the mean over shares."""
        count, grid = attribution.shape[2], self.layout.grid
        removed = torch.tensor([round(share * count) for share in ROAD_SHARES])
        owner, targets = torch.zeros(1, dtype=torch.long, device=case.edges.device), self._targets([case.row])
        found = torch.zeros_like(attribution[..., 0])
        for target, row in enumerate(metrics.ranks(attribution, case.ends)):
            for method, rank in enumerate(row):
                first = rank < removed[:, None].to(rank)
                last = rank >= count - removed[:, None].to(rank)
                masks = first.new_zeros(2 * len(removed), self.layout.positions)
                masks[:, case.units] = torch.cat([first, last])
                filled = imputed(coded.clean[0], masks.unflatten(1, grid), generator)
                values = targets(self.segment(filled), owner.expand(len(filled)))[:, case.targets[target]]
                most, least = ((values - case.ends.baseline[target]) / case.ends.change[target]).chunk(2)
                found[target, method] = (least - most).mean()
        return found

    def _tile(self, case: Case, generator: torch.Generator) -> None:
        """Put a mosaic of this image on the list, unless its class has no other image, or there is no other class."""
        classes = self.classes.reshape(len(self.classes), -1)[:, 0]
        own = classes[case.row]
        rows = [case.row, self._other(case.row, "tile 1", same=True)]
        rows += [self._other(case.row, f"tile {number}") for number in (2, 3)]
        if classes[rows[1]] != own or own in classes[rows[2:]] or rows[1] == case.row:
            return
        places = tuple(torch.randperm(4, generator=generator).tolist())
        shuffled = torch.randperm(self.layout.positions, generator=generator)
        self.mosaics.append(Mosaic(case.row, case.targets, rows, places, shuffled))

    def measure_together(self) -> dict[int, dict[str, Measured]]:
        """See :class:`UnitLoop`: Focus, of the mosaics on the list; methods that go step by step share their passes."""
        mosaics, self.mosaics = self.mosaics, []
        if not mosaics:
            return {}
        each = []
        for one in mosaics:
            tiles = torch.cat([self._open(self.indices[row]) for row in one.tiles])
            each.append(self._coded(mosaic(tiles, one.places)[None]))
        coded = Coded(*(torch.cat(part) for part in zip(*each, strict=True)))
        found = {}
        for one, told in zip(mosaics, self._by_position(coded, [one.row for one in mosaics]), strict=True):
            relevance = told[one.targets]
            inside, anywhere = (part.to(relevance.device) for part in quadrants(self.layout.grid, one.places[:2]))
            if self.methods and self.methods.filter and self.lower == PIXELS:
                relevance = torch.cat([relevance, self._filtered(relevance)], 1)
            shuffled = relevance[:, :1, one.shuffled.to(relevance.device)]
            found[one.row] = {"focus": focus(torch.cat([relevance, shuffled], 1), inside, anywhere)}
        return found

    def _by_position(self, coded: Coded, rows: list[int]) -> Float[Tensor, "b t w p"]:
        """Every method's relevance of pixels, or of positions of what the layer's concepts rebuild, for the class."""
        assert self.methods is not None
        kind = SourceKind.pixels if self.lower == PIXELS else SourceKind.positions
        vectors = coded.vectors if self.lower == PIXELS else coded.codes @ self.dictionary.atoms
        source: Any = UnitSource(kind, vectors)  # pyright does not take a cached property for a property
        given = self.segment, self.layout, source, coded.clean, self._targets(rows)
        with self.telling(f"{self.lower} → {self.upper}, mosaic", rows):
            straight = attribute(*given, self.settings.without_profile(self.portions.paths))
            edges = [all_units(straight.edges[weight]) for weight in WEIGHTS]
            problem = Problem(*given[:3], self._starts_of(source, rows), *given[3:])
            for name in self.methods.methods:
                if name is AttributionMethod.covariance:  # of a mosaic there is no neighbour
                    edges.append(torch.zeros_like(edges[0]))
                else:
                    edges.append(edges_of(name, self.methods, problem, self.settings.steps, self.portions.paths))
        return torch.stack(edges, 2)[..., :-1]

    def _generator(self, row: int) -> torch.Generator:
        """From (seed, sample id) alone."""
        seed = seed_of(self.seed, "units", self.sample_id(row), byteorder="little")
        return torch.Generator().manual_seed(seed)
