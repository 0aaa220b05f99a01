"""One pass of images through a network, reduced to sharing ratios as soon as a pre-activation is known.

Legend: B images, C channels, K classes, h×w positions of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError
from vismech.network.cut import Network
from vismech.network.layers import LOGITS
from vismech.receptive_field.plan import Head
from vismech.receptive_field.ratios import SharingRatios
from vismech.receptive_field.runner import runner_of


class LayerRelevance(NamedTuple):
    """What sampling needs: activations [B, C, h, w] and relevance [B, h, w] of layers, logits [B, K], classes [B]."""

    activations: dict[str, Tensor]
    relevance: dict[str, Tensor]
    logits: Tensor
    target: Tensor


@torch.no_grad()
def sharing_ratios(
    network: Network,
    images: Float[Tensor, "b c h w"],
    *,
    layers: Sequence[str] | None = None,
    target: int | Int[Tensor, "b"] | None = None,
) -> SharingRatios:
    """Sharing ratios of ``images`` (SRD §3), for any number of receptive fields and saliency maps.

    Args:
        network: cut by its exported graph (:func:`vismech.network.cut.open_network`).
        images: in the size that the network was opened for.
        layers: measure only what the receptive fields of these layers need, and stop the pass at the last of them (no
            logits then); None: everything.
        target: keep the head's map for this class (one, or one per image) alone; None: keep all, and take the predicted
            class by default.

    Raises:
        UserError: an operation without a rule, by name; an unknown layer; images of another size or not finite.
    """
    runner = runner_of(network)
    plan, output = runner.plan, runner.output
    if layers is not None:
        measured = plan.below({plan.map_of(layer) for layer in layers})
        done = runner.run(images, measured, set())
        stopped = "the pass stopped at a layer: run sharing_ratios without layers"
        return SharingRatios(len(images), done.maps, plan.layers, plan.unmapped, None, 0, stopped, None, None)
    if plan.refused:
        raise UserError(plan.no_head)
    ends = {output[LOGITS], *([plan.head.flat.value] if plan.head else [])}
    done = runner.run(images, set(range(len(plan.maps))), ends)
    logits = done.values[output[LOGITS]]
    classes = classes_of(logits, target) if logits.ndim == 2 else None
    head = None
    if plan.head is not None:
        head = _head_map(plan.head, done.values[plan.head.flat.value], None if target is None else classes)
    number = plan.head.flat.map if plan.head else 0
    return SharingRatios(
        len(images), done.maps, plan.layers, plan.unmapped, head, number, plan.no_head, logits, classes
    )


@torch.no_grad()
def layer_relevance(
    network: Network,
    images: Float[Tensor, "b c h w"],
    layers: Sequence[str],
    *,
    target: int | Int[Tensor, "b"] | None = None,
    contrastive: bool = False,
) -> LayerRelevance:
    """Relevance of the predicted class (or ``target``) at every position of ``layers``, with their activations.

    One pass that measures only the ratios above the earliest of the layers. ``contrastive`` as in
    :meth:`SharingRatios.relevance`.

    Raises:
        UserError: as :func:`sharing_ratios`; a network whose head gives no map.
    """
    runner = runner_of(network)
    plan, output = runner.plan, runner.output
    if plan.head is None:
        raise UserError(plan.no_head)
    for layer in layers:
        plan.map_of(layer)
    wanted = {number for layer in layers for number in plan.layers[layer]}
    ends = {output[LOGITS], plan.head.flat.value, *(output[layer] for layer in layers)}
    done = runner.run(images, plan.above(wanted), ends)
    logits = done.values[output[LOGITS]]
    classes = classes_of(logits, target)
    head = _head_map(plan.head, done.values[plan.head.flat.value], classes)
    ratios = SharingRatios(
        len(images), done.maps, plan.layers, plan.unmapped, head, plan.head.flat.map, "", logits, classes
    )
    activations = {layer: done.values[output[layer]] for layer in layers}
    return LayerRelevance(activations, ratios.relevance(layers, contrastive=contrastive), logits, classes)


def classes_of(logits: Float[Tensor, "b k"], target: int | Int[Tensor, " b"] | None) -> Int[Tensor, " b"]:
    """The class of each image: ``target``, or the predicted one.

    Raises:
        UserError: a class that the network does not have.
    """
    if target is None:
        return logits.argmax(1)
    classes = torch.as_tensor(target, device=logits.device).expand(len(logits))
    if classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise UserError(f"target {classes.tolist()} is out of range: the network has {logits.shape[1]} classes")
    return classes


def _head_map(head: Head, x: Float[Tensor, "b c h w"], classes: Int[Tensor, "b"] | None) -> Float[Tensor, "b k h w"]:
    """Relevance of position p for class c: <w_c, x_p>/P + b_c/P; <w_cp, x_p> + b_c/P where the map is not averaged."""
    positions = x.shape[2] * x.shape[3]
    if head.weight is None:
        return x / positions
    weight, bias = head.weight, head.weight.new_zeros(1) if head.bias is None else head.bias / positions
    if classes is not None:
        weight, bias = weight[classes], bias.expand(len(head.weight))[classes, None]
        chosen = weight.unflatten(1, x.shape[1:]) if not head.flat.averaged else weight[..., None, None] / positions
        part = (chosen * x).sum(1, keepdim=True)
    elif head.flat.averaged:
        part = torch.matmul(weight, x.flatten(2) / positions).unflatten(2, x.shape[2:])
    else:
        part = torch.einsum("kchw,bchw->bkhw", weight.unflatten(1, x.shape[1:]), x)
    return part + bias[..., None, None]
