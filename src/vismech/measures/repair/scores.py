"""Repair and damage: which images are tried, which concepts are removed from them, and what their answers tell.

An image of class t that is answered w is *repaired* where its answer becomes t; an image of t or of w that is answered
right is *damaged* where its answer becomes another. Concepts are removed in the order of what they add to the
difference ``logit_w − logit_t``, the one that speaks most for w first.

Legend: N images, K concepts, Q concepts of an order, M counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.config.choices import Order
from vismech.draws import generator_of

ORDERS = (Order.gig, Order.u_x_gradient, Order.random)
COUNTS = (1, 3, 10)
"""So many concepts are removed."""


class Selection(StrEnum):
    """By what concepts are chosen: the image's own edges, or the mean edges of wrong images of the other half."""

    image = "image"
    group = "group"


class Tried(StrEnum):
    """What an image is: of class t and answered w, of t and right, or of w and right."""

    wrong = "wrong"
    right_t = "right_t"
    right_w = "right_w"


METRICS = {Tried.wrong: "repair_rate", Tried.right_t: "damage_rate_t", Tried.right_w: "damage_rate_w"}
AHEAD = {Tried.wrong: "gig_ahead", Tried.right_t: "gig_ahead_damage_t", Tried.right_w: "gig_ahead_damage_w"}


def first_concepts(
    values: Float[Tensor, "*#n k"], active: Bool[Tensor, "*#n k"], count: int = COUNTS[-1]
) -> Int[Tensor, "*n q"]:
    """The first of the active concepts by descending value, ties by their number; −1 where there are fewer."""
    order = values.masked_fill(~active, -torch.inf).sort(descending=True, stable=True).indices[..., :count]
    order = order.masked_fill(~active.expand_as(values).gather(-1, order), -1)
    return torch.nn.functional.pad(order, (0, count - order.shape[-1]), value=-1)


def leading(order: Int[Tensor, "*n q"], counts: Sequence[int] = COUNTS) -> Int[Tensor, "*n m q"]:
    """For each count the order's first so many concepts, and −1 after them."""
    place = torch.arange(order.shape[-1], device=order.device)
    beyond = place >= torch.tensor(counts, device=order.device)[:, None]
    return order[..., None, :].masked_fill(beyond, -1)


def group_orders(
    edges: Mapping[Order, Float[np.ndarray, "n k"]], rankable: Bool[np.ndarray, " k"], *names: object
) -> Int[Tensor, "o q"]:
    """What the images that choose say of all others: for each of :data:`ORDERS` its first concepts.

    By their mean edge over these images, zero where a concept is absent; at random among those that any image has.

    Args:
        edges: of gig and u × gradient to the difference.
        rankable: concepts that may be removed.
        names: that the random order is drawn from.
    """
    active = rankable & np.any(edges[Order.gig] != 0, axis=0)
    noise = generator_of(*names).random(len(active))
    means = {order: each.mean(0, dtype=np.float64) for order, each in edges.items()} | {Order.random: noise}
    values = torch.from_numpy(np.stack([means[order] for order in ORDERS]))
    return first_concepts(values, torch.from_numpy(active))


def happened(
    answers: Int[np.ndarray, "n *rest"], tried: Tried, true: int, answered: int
) -> Bool[np.ndarray, "n *rest"]:
    """Whether wrong images became right, or right ones wrong."""
    if tried is Tried.wrong:
        return answers == true
    return answers != (true if tried is Tried.right_t else answered)
