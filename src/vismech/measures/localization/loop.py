"""How much of an image's concepts survives in the pixels that localisation maps point at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vismech.config.choices import Evaluation
from vismech.dictionaries import Dictionary
from vismech.draws import generator_of
from vismech.measures.localization import LocalizationOptions
from vismech.measures.localization.scores import (
    Place,
    Region,
    gradient_maps,
    pixel_count,
    projections,
    read,
    square,
    strongest_concepts,
    top_pixels,
)
from vismech.network.pfv import Layout
from vismech.passes.loop import Columns, ImageLoop
from vismech.receptive_field import SharingRatios, sharing_ratios
from vismech.receptive_field.localization import localization_maps, upsampled_maps
from vismech.stages.dictionary import CodingSettings
from vismech.store.rows import Column
from vismech.store.settings import FLAT


@dataclass(frozen=True, kw_only=True)
class LocalizationSettings(LocalizationOptions):
    """Which concepts of which images, and what shares of the pixels."""

    measure: Evaluation
    coding: CodingSettings = field(metadata=FLAT)
    images: int | None
    seed: int


def localize_columns(concepts: int, regions: int, fractions: int) -> dict[str, Column]:
    """Arrays of one layer, per image.

    ``concepts`` the strongest ones [q], −1 where an image holds fewer; their values at each place on the ``clean``
    [q, 2] and the ``blank`` image [q, 2], and with the pixels of a region and fraction ``kept`` [q, regions, fractions,
    2].
    """
    value = Column((concepts, len(Place)))
    kept = Column((concepts, regions, fractions, len(Place)))
    return {"concepts": Column((concepts,), "int32"), "clean": value, "blank": value, "kept": kept}


class LocalizeLoop(ImageLoop):
    """Keeps some pixels of every image, for each of its strongest concepts at ``layer``, and looks again.

    Args:
        how: concepts, shares of the pixels, and the seed of random regions.
        layer: the layer.
        layout: of the layer.
        dictionary: of the layer.
        regions: what chooses the pixels; ``receptive_fields`` only where the network has sharing ratios at the layer.
    """

    def __init__(
        self,
        *args,
        how: LocalizationSettings,
        layer: str,
        layout: Layout,
        dictionary: Dictionary,
        regions: Sequence[Region],
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.how = how
        self.layer, self.layout, self.dictionary, self.regions = layer, layout, dictionary, list(regions)

    def on_predict_start(self) -> None:
        """Move the dictionary once."""
        self.dictionary = self.dictionary.to(self.device)

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: codes, and float64 beside them while they are solved for."""
        return 3 * self.layout.positions * self.dictionary.k

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        vectors = self.layout.vectors(self.network.activations(images, [self.layer])[self.layer])
        codes = self.dictionary.encode(vectors)
        concepts = strongest_concepts(codes, self.how.concepts_per_image, self.dictionary.mean_index)
        ratios = None
        if Region.receptive_fields in self.regions:
            ratios = sharing_ratios(self.network, images, layers=[self.layer])
        found = [self._concept(images, rows, codes, chosen, ratios) for chosen in concepts.unbind(1)]
        columns = {name: torch.stack([each[name] for each in found], 1) for name in found[0]}
        return {"evaluate": {"concepts": concepts, **columns}}

    def _concept(
        self, images: Tensor, rows: list[int], codes: Tensor, chosen: Tensor, ratios: SharingRatios | None
    ) -> Columns:
        """One concept of each image; where there is none (−1) any will do, but its values are set to zero."""
        concept = chosen.clamp(min=0)
        atoms = self.dictionary.atoms[concept]
        mine = codes.gather(2, concept[:, None, None].expand(-1, codes.shape[1], 1))[:, :, 0]
        clean = projections(self.network, self.layer, self.layout, images, atoms)
        strongest = clean.masked_fill(mine <= 0, -torch.inf).argmax(1)

        def value(pixels: Tensor) -> Tensor:
            masked = images * pixels.to(images)[:, None]
            found = projections(self.network, self.layer, self.layout, masked, atoms)
            return read(found, strongest).masked_fill(chosen[:, None] < 0, 0)

        size = (images.shape[2], images.shape[3])
        counts = [pixel_count(fraction, size) for fraction in self.how.fractions]
        numbers = [self._random(row, number, size) for row, number in zip(rows, concept.tolist(), strict=True)]
        kept = []
        for region in self.regions:
            if region is Region.random:
                masks = [torch.stack([square(size, count, place) for place, _ in numbers]) for count in counts]
            elif region is Region.centre:
                masks = [square(size, count).expand(len(images), -1, -1) for count in counts]
            elif region is Region.random_pixels:
                noise = torch.stack([each for _, each in numbers])
                masks = [top_pixels(noise, count) for count in counts]
            else:
                maps = self._maps(region, images, mine, atoms, ratios)
                masks = [top_pixels(maps, count) for count in counts]
            kept.append(torch.stack([value(mask) for mask in masks], 1))
        whole = torch.ones_like(images[:, 0])
        return {"clean": value(whole), "blank": value(torch.zeros_like(whole)), "kept": torch.stack(kept, 1)}

    def _random(self, row: int, concept: int, size: tuple[int, int]) -> tuple[tuple[float, float], Tensor]:
        """A place for a square and noise on the pixels."""
        generator = generator_of(self.how.seed, concept, self.sample_id(row))
        down, right = generator.random(2)
        return (float(down), float(right)), torch.from_numpy(generator.random(size))

    def _maps(
        self, region: Region, images: Tensor, codes: Tensor, atoms: Tensor, ratios: SharingRatios | None
    ) -> Tensor:
        grid = codes.unflatten(1, self.layout.grid)
        if region is Region.receptive_fields:
            assert ratios is not None
            return localization_maps(ratios, self.layer, grid)
        if region is Region.upsampling:
            return upsampled_maps(grid, (images.shape[2], images.shape[3]))
        return gradient_maps(self.network, self.layer, self.layout, images, codes, atoms)
