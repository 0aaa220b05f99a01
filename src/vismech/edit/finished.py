"""An edit from the concepts of a finished run.

Legend: B images, P positions, C channels, K concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vismech.config.choices import EditValue
from vismech.dictionaries import Dictionary
from vismech.edit.edited import LayerEdit
from vismech.edit.saved import ModelEdit
from vismech.edit.told import tell
from vismech.finished.opened import Opened
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit, mean_codes
from vismech.passes.progress import track

# Vectors that are coded at once.
CHUNK = 4096


def edit_of(
    opened: Opened, concepts: Mapping[str, Sequence[int]], value: EditValue = EditValue.zero, scale: float = 0.0
) -> ModelEdit:
    """The edit that sets concepts to a value.

    The mean is that of the codes of the run's extracted vectors: over its images, and over the positions that it drew.

    Args:
        opened: the run.
        concepts: layer name → its concepts to edit.
        value: zero, mean or scale.
        scale: of ``value=scale``.

    Raises:
        UserError: a layer that the run does not have, a concept that the layer does not have, a code of somebody's own,
            an artifact that is gone.
    """
    for name in concepts:
        opened.layer(name)
    names = [name for name in opened.layers if name in concepts]
    layers: dict[str, LayerEdit] = {}
    with opened.reading():
        for name in names:
            layer = Layer(opened.ctx.layout(name), opened.read_dictionary(name))
            tell(layer.dictionary, name)  # before anything is coded
            chosen = tuple(sorted(concepts[name]))
            Edit(chosen).check(layer, name)
            means = _means(opened, name, layer.dictionary, chosen) if value is EditValue.mean else ()
            layers[name] = LayerEdit(layer, (Edit(chosen, value, scale, means),))
    identity = opened.ctx.outline.identity
    return ModelEdit(layers, identity["name"], identity["weights"])


def _means(opened: Opened, name: str, dictionary: Dictionary, concepts: Sequence[int]) -> tuple[float, ...]:
    ctx = opened.ctx
    vectors = ctx.store.open(opened.plan.vectors[name]).array("vectors.npy")  # [B, P, C]
    dictionary, images = dictionary.to(ctx.device), max(1, CHUNK // vectors.shape[1])
    starts = range(0, len(vectors), images)
    codes = [
        dictionary.encode(torch.from_numpy(np.array(vectors[start : start + images])).to(ctx.device))[
            ..., list(concepts)
        ]
        for start in track(starts, f"codes of {name}", len(starts))
    ]
    return tuple(mean_codes(codes).tolist())
