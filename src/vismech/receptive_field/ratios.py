"""The sharing ratios of images, all that is left of a pass: receptive fields and saliency come from them.

A small value object without model or activations (3.4 MB per image for ResNet-50).

Legend: B images, N positions asked for, K classes, h×w positions of a layer, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError
from vismech.receptive_field.sweep import RatioMap, map_of_layer, sweep

_CHUNK = 32  # positions swept at once: more no longer helps, and the maps outgrow the cache


@dataclass(frozen=True)
class SharingRatios:
    """μ of every map of a network for B images (SRD §3), made by :func:`~vismech.receptive_field.sharing_ratios`.

    Attributes:
        images: B.
        maps: the network's maps; 0 is the pixels.
        layers: layer → the maps whose relevance is the layer's; the first one also takes its seeds.
        unmapped: layer → why it has no map.
        head: relevance of each position for each class [B, K, h, w], summing to the logit; for the target alone when
            one was given; None where there is no such map, for the reason ``no_head``.
        head_map: the map that ``head`` lies on.
        logits: [B, K]; None when the pass stopped at a layer.
        target: the class of each image whose relevance is meant by default, [B].
    """

    images: int
    maps: tuple[RatioMap, ...]
    layers: dict[str, tuple[int, ...]]
    unmapped: dict[str, str]
    head: Tensor | None
    head_map: int
    no_head: str
    logits: Tensor | None
    target: Tensor | None

    def receptive_fields(
        self, layer: str, positions: Int[Tensor, "n"] | Sequence[int], image: int = 0
    ) -> Float[Tensor, "n H W"]:
        """Effective receptive fields of the PFVs at flat ``positions`` of one image: signed maps that each sum to 1.

        Raises:
            UserError: a layer without a map or without measured ratios, a position or image out of range.
        """
        return self.receptive_fields_of({layer: positions}, image)[layer]

    def receptive_fields_of(
        self, positions: Mapping[str, Int[Tensor, "n"] | Sequence[int]], image: int = 0
    ) -> dict[str, Float[Tensor, "_ H W"]]:
        """Effective receptive fields at several layers, in the same sweeps; see :meth:`receptive_fields`."""
        count = self.images
        if not -count <= image < count:
            raise UserError(f"image {image} is out of range: these are the ratios of {count} images")
        image %= count
        wanted = []
        for layer, chosen in positions.items():
            number = self._map_of(layer)
            rows, columns = self.maps[number].size
            for position in torch.as_tensor(chosen).tolist():
                if not 0 <= position < rows * columns:
                    raise UserError(
                        f"position {position} is out of range: layer {layer!r} has {rows}×{columns} positions"
                    )
                wanted.append((number, position))
        fields = self._like().new_empty(len(wanted), *self.maps[0].size)
        for start in range(0, len(wanted), _CHUNK):
            fields[start : start + _CHUNK] = self._fields(wanted[start : start + _CHUNK], image)
        return dict(zip(positions, fields.split([len(chosen) for chosen in positions.values()]), strict=True))

    def saliency(
        self,
        target: int | Int[Tensor, "b"] | None = None,
        contrastive: bool = False,
        seeds: Mapping[str, Float[Tensor, "b _ _"]] | None = None,
    ) -> Float[Tensor, "b H W"]:
        """Relevance of every pixel for a class, summing to its logit.

        Args:
            target: one class, or one per image; None: the target of the pass, or the predicted class.
            contrastive: subtract from the head's map (or the seeds) the mean over positions, so that it sums to 0.
            seeds: relevance put at layers instead of the head's map, for networks whose head gives none.

        Raises:
            UserError: no map of the head and no seeds, a class out of range, seeds of another shape.
        """
        return self._sweep_head({0}, target, contrastive, seeds)[0]

    def relevance(
        self,
        layers: Sequence[str],
        target: int | Int[Tensor, "b"] | None = None,
        contrastive: bool = False,
        seeds: Mapping[str, Float[Tensor, "b _ _"]] | None = None,
    ) -> dict[str, Float[Tensor, "b _ _"]]:
        """Relevance of every position of ``layers`` for a class, in one sweep; see :meth:`saliency`.

        It sums to the logit at every layer that all paths to the logits pass.
        """
        numbers = {layer: (self._map_of(layer), *self.layers[layer][1:]) for layer in layers}
        kept = self._sweep_head(
            {number for all_of in numbers.values() for number in all_of}, target, contrastive, seeds
        )
        found = {}
        for layer, all_of in numbers.items():
            parts = [kept[number] for number in all_of if number in kept]
            found[layer] = torch.stack(parts).sum(0) if parts else self._zeros(all_of[0], self.images, 1)[..., 0]
        return found

    def _map_of(self, layer: str) -> int:
        return map_of_layer(layer, self.layers, self.unmapped)

    def _fields(self, wanted: list[tuple[int, int]], image: int) -> Float[Tensor, "n H W"]:
        seeds = {}
        for number in {number for number, _ in wanted}:
            columns = [column for column, (other, _) in enumerate(wanted) if other == number]
            seed = self._zeros(number, 1, len(wanted))
            seed.flatten(1, 2)[0, [wanted[column][1] for column in columns], columns] = 1
            seeds[number] = seed
        return sweep(self.maps, seeds, {0}, slice(image, image + 1))[0][0].movedim(-1, 0)

    def _sweep_head(
        self,
        keep: set[int],
        target: int | Int[Tensor, "b"] | None,
        contrastive: bool,
        seeds: Mapping[str, Float[Tensor, "b _ _"]] | None,
    ) -> dict[int, Float[Tensor, "b _ _"]]:
        if seeds is None:
            starts = {self.head_map: self._head_of(target)}
        else:
            starts = {}
            for layer, seed in seeds.items():
                number = self._map_of(layer)
                if tuple(seed.shape) != (self.images, *self.maps[number].size):
                    expected = (self.images, *self.maps[number].size)
                    raise UserError(f"the seeds at {layer!r} have shape {tuple(seed.shape)}: give {expected}")
                starts[number] = seed
        if contrastive:
            starts = {number: seed - seed.mean((1, 2), keepdim=True) for number, seed in starts.items()}
        kept = sweep(self.maps, {number: seed[..., None] for number, seed in starts.items()}, keep, slice(None))
        return {number: here[..., 0] for number, here in kept.items()}

    def _head_of(self, target: int | Int[Tensor, "b"] | None) -> Float[Tensor, "b h w"]:
        if self.head is None or self.target is None:
            raise UserError(f"there is no map of relevance to start from: {self.no_head}")
        classes = self.target if target is None else torch.as_tensor(target).expand(self.images)
        if self.head.shape[1] == 1 and self.logits is not None and self.logits.shape[1] > 1:
            if not torch.equal(classes, self.target):
                raise UserError(
                    "the pass kept the head's map for its target alone: run it without target to ask for other classes"
                )
            return self.head[:, 0]
        if classes.min() < 0 or classes.max() >= self.head.shape[1]:
            raise UserError(f"class {classes.tolist()} is out of range: the network has {self.head.shape[1]} classes")
        return self.head[torch.arange(self.images), classes]

    def _zeros(self, number: int, images: int, last: int) -> Tensor:
        return self._like().new_zeros(images, *self.maps[number].size, last)

    def _like(self) -> Tensor:
        ratios = (share.ratios for one in self.maps for share in one.shares if share.ratios is not None)
        return next(ratios, torch.empty(0))
