"""An edit from the concepts of a finished run.

Legend: B images, P positions, C channels, K concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vismech.config.choices import EditValue
from vismech.edit.edited import LayerEdit
from vismech.edit.saved import ModelEdit
from vismech.edit.told import tell
from vismech.finished.opened import Opened
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit
from vismech.stages.effects import mean_of_vectors


def edit_of(
    opened: Opened, concepts: Mapping[str, Sequence[int]], value: EditValue = EditValue.zero, scale: float = 0.0
) -> ModelEdit:
    """The edit that sets concepts to a value.

    The mean is that of measured effects and circuits: over extracted vectors of the run, evenly spread over its images.

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
            means: tuple[float, ...] = ()
            if value is EditValue.mean:
                found = mean_of_vectors(opened.ctx, opened.plan.vectors[name], layer)
                means = tuple(found[list(chosen)].tolist())
            layers[name] = LayerEdit(layer, (Edit(chosen, value, scale, means),))
    identity = opened.ctx.outline.identity
    return ModelEdit(layers, identity["name"], identity["weights"])
