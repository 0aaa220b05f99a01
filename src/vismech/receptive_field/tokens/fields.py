"""Fields of vectors over the tokens that the first block reads, four ways and sharing ratios behind one contract.

A vector x_p at position p of a layer is the unit ⟨x_p, x_p/‖x_p‖⟩, its direction held fixed; its field says for each
patch token of the ground (:mod:`.ground`) how much of the unit came from there.

Legend: n positions asked for, P tokens of the ground, D its channels, h×w the ground's grid, S steps, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, fx

from vismech.errors import UserError
from vismech.network.capture import operation
from vismech.network.cut import Network
from vismech.network.pfv import Layout
from vismech.receptive_field.gradient import finite, midpoints, one_images
from vismech.receptive_field.measure import sharing_ratios
from vismech.receptive_field.tokens import lrp, rollout
from vismech.receptive_field.tokens.ground import ATTENTION, Ground, exported, ground_of
from vismech.receptive_field.tokens.steps import Carried, compute

ROWS = 32
"""Units (or path points) in one pass."""


class TokenField(StrEnum):
    """How a unit is traced to tokens."""

    ig = "ig"
    attnlrp = "attnlrp"
    rollout = "rollout"
    gradient_x_input = "gradient_x_input"
    sharing_ratios = "sharing_ratios"


class TokenMaps(NamedTuple):
    """Fields [n, h, w] over the ground's grid, and what of each fell on prefix tokens [n], such as a class token."""

    maps: Tensor
    prefix: Tensor


def token_fields(
    network: Network,
    image: Float[Tensor, "b c H W"],
    layer: str,
    positions: Int[Tensor, " n"] | Sequence[int],
    *,
    method: TokenField | str = TokenField.gradient_x_input,
    steps: int = 32,
    baseline: Float[Tensor, "p d"] | None = None,
) -> TokenMaps:
    """Fields of the vectors at ``positions`` of one image, many in one pass.

        gradient_x_input  Σ_c x_c ∂g/∂x_c
        ig                Σ_c |(x − b)_c (1/S) Σ_s ∂g/∂x_c at b + (s + ½)/S·(x − b)|
        attnlrp           gradient × input with the rules of :mod:`.lrp`
        rollout           a row of the product of ½A + ½I over the blocks between; of the position, whatever its vector
        sharing_ratios    effective receptive fields, where every operation down to the pixels has a rule

    The field of a token of the ground itself is that token. Signed, but for ig and rollout.

    Args:
        baseline: b of ig, the tokens that say nothing (:func:`.ground.mean_tokens`); None: zero.

    Raises:
        UserError: a method or layer that is not known, a layer not after the ground, an operation without a rule, by
            name; a position out of range; several images.
    """
    method = _method(method)
    network = exported(network)
    layout = network.layout(layer)
    chosen = one_images(image, positions, layout, layer, steps)
    if method is TokenField.sharing_ratios:
        found = sharing_ratios(network, image, layers=[layer]).receptive_fields_of({layer: chosen.tolist()}, 0)[layer]
        return TokenMaps(found, found.new_zeros(len(found)))
    ground = ground_of(network)
    graph = network.graph_from(ground.node, network.output[layer])
    with torch.no_grad():
        tokens = network.graph_from(None, ground.node)(image.detach())[0].contiguous()
        vectors = layout.vectors(graph(tokens)[0])[0][chosen]
    directions = F.normalize(vectors, dim=1, eps=torch.finfo(vectors.dtype).tiny)
    if baseline is not None and tuple(baseline.shape) != (ground.layout.positions, ground.layout.channels):
        expected = (ground.layout.positions, ground.layout.channels)
        raise UserError(f"the baseline has shape {tuple(baseline.shape)}: give {expected}")
    seeds = directions.new_zeros(len(chosen), layout.positions, layout.channels)
    rows = torch.arange(len(chosen), device=image.device)
    seeds[rows, chosen] = 1 / layout.channels if method is TokenField.rollout else directions
    task = _Task(graph, ground, layout, rows.new_zeros(len(rows)), seeds, tokens)
    return TokenMaps(*(finite(part, layer) for part in _parts(task.whole(method, steps, baseline), ground.layout)))


def concept_fields(
    network: Network,
    images: Float[Tensor, "b c H W"],
    layer: str,
    codes: Float[Tensor, "b h w"],
    *,
    method: TokenField | str,
    steps: int = 32,
    baseline: Float[Tensor, "p d"] | None = None,
) -> Float[Tensor, "b h0 w0"]:
    """``max(Σ_p u_p A_p / ‖x_p‖, 0)`` over the ground's tokens: a concept's codes u carried down, one row per image.

    A_p is the field of position p before its channels are summed, so that attributions of a sum add up; of rollout,
    whose rows sum to 1, u_p A_p.

    Raises:
        UserError: as :func:`token_fields`.
    """
    method, network = _method(method), exported(network)
    if method is TokenField.sharing_ratios:
        raise UserError("sharing ratios of concepts are made by localization_maps")
    ground, layout = ground_of(network), network.layout(layer)
    graph = network.graph_from(ground.node, network.output[layer])
    with torch.no_grad():
        tokens = network.graph_from(None, ground.node)(images.detach())[0].contiguous()
        vectors = layout.vectors(graph(tokens)[0])
    squares = vectors.square().sum(2, keepdim=True)
    each = torch.arange(len(images), device=images.device)
    seeds = vectors * codes.flatten(1)[..., None] / squares.masked_fill(squares == 0, 1)
    if method is TokenField.rollout:
        seeds = (codes.flatten(1)[..., None] / layout.channels).expand_as(vectors)
    task = _Task(graph, ground, layout, each, seeds, tokens)
    return finite(_parts(task.whole(method, steps, baseline), ground.layout).maps, layer).clamp(min=0)


class _Task(NamedTuple):
    """Units of images and the graph between.

    Attributes:
        graph: from the ground to the layer.
        ground, layout: how the two are read.
        images: the image of each unit.
        seeds: what each unit sums of the layer's vectors, [n, P of the layer, C of the layer].
        tokens: the ground's values of the images.
    """

    graph: fx.GraphModule
    ground: Ground
    layout: Layout
    images: Tensor
    seeds: Tensor
    tokens: Tensor

    def whole(self, method: TokenField, steps: int, baseline: Tensor | None) -> Tensor:
        """Each unit's field over all values of the ground: [n, …] as the ground has them."""
        ends = self.tokens[self.images]
        match method:
            case TokenField.attnlrp:
                lrp_of = lambda x: compute(self.graph, x, lrp.RULES, lrp.NAME)  # noqa: E731
                return self._mean_gradient(self.tokens, [1.0], lrp_of) * ends
            case TokenField.ig:
                start = torch.zeros_like(self.tokens)
                if baseline is not None:
                    start = self.ground.layout.activation(baseline.expand(len(self.tokens), -1, -1), self.tokens)
                slopes = self._mean_gradient(start, midpoints(steps), lambda x: self.graph(x)[0])
                return (slopes * (ends - start[self.images])).abs()
            case TokenField.rollout:
                return self._rolled_out()
            case _:
                return self._mean_gradient(self.tokens, [1.0], lambda x: self.graph(x)[0]) * ends

    def _mean_gradient(self, start: Tensor, nodes: Sequence[float], function: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean gradient of each unit over the path from ``start`` to its image's tokens."""
        total = self.tokens.new_zeros(len(self.seeds), *self.tokens.shape[1:])
        work = [(unit, node) for unit in range(len(self.seeds)) for node in nodes]
        for first in range(0, len(work), ROWS):
            units = torch.tensor([unit for unit, _ in work[first : first + ROWS]], device=self.tokens.device)
            alphas = self.tokens.new_tensor([node for _, node in work[first : first + ROWS]])
            here = start[self.images[units]]
            points = here + alphas.view(-1, *(1,) * (start.ndim - 1)) * (self.tokens[self.images[units]] - here)
            total.index_add_(0, units, self._gradient(points, units, function))
        return total / len(nodes)

    def _gradient(self, points: Tensor, units: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            value = function(points)
            seeds = self.layout.activation(self.seeds[units], torch.zeros_like(value)).contiguous()
            return torch.autograd.grad(value, points, seeds)[0]

    def _rolled_out(self) -> Tensor:
        """Rows of the rollout, each token's in all of its channels together."""
        calls = [operation(node) for node in self.graph.graph.nodes if node.op == "call_function"]
        if calls and not ATTENTION & set(calls):
            raise UserError("rollout has nothing to follow: no attention lies between the ground and the layer")
        found = []
        for units in torch.arange(len(self.seeds), device=self.tokens.device).split(ROWS):
            rows = self.tokens[self.images[units]]

            def carried(t: Tensor, rows: Tensor = rows) -> Tensor:
                return compute(self.graph, Carried(rows, t), rollout.RULES, rollout.NAME).carried

            found.append(self._gradient(torch.ones_like(rows), units, carried))
        return torch.cat(found)


def _parts(whole: Tensor, layout: Layout) -> TokenMaps:
    maps = layout.vectors(whole).sum(2)
    prefix = whole[:, : layout.prefix].sum((1, 2)) if layout.prefix else maps.new_zeros(len(maps))
    return TokenMaps(maps.unflatten(1, layout.grid), prefix)


def pixel_maps(maps: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n H W"]:
    """Fields over tokens on the pixels: each token's share spread evenly over its square."""
    if tuple(maps.shape[1:]) == size:
        return maps
    found = F.interpolate(maps[:, None], size, mode="nearest")[:, 0]
    return found * (maps.shape[1] * maps.shape[2] / (size[0] * size[1]))


def _method(method: TokenField | str) -> TokenField:
    try:
        return TokenField(method)
    except ValueError:
        raise UserError(f"there is no field {method!r}: choose one of {', '.join(TokenField)}") from None
