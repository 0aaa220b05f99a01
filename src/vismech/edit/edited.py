"""A model under an edit: in place inside of a ``with``, or as a module of its own that ``torch.export`` takes.

Legend: B images, P positions, C channels, K concepts.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vismech.edit.operator import encode
from vismech.edit.told import tell, tensors_of
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit, edited
from vismech.network.pfv import Axes, Layout


class LayerEdit(NamedTuple):
    """One layer with its concepts, and what is done to them."""

    layer: Layer
    edits: tuple[Edit, ...]


class EditedModel(nn.Module):
    """A model whose layers answer with their concepts edited; its parameters are the model's own.

    Called, it answers as the edited model does and leaves the model as it was. Inside of a ``with`` the model itself
    is edited. Each layer is coded as it is then, after the edits of the layers before it. Gradients flow past an edit
    with the codes held at their values.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, LayerEdit]) -> None:
        """Of ``model``, which computes nothing yet.

        Raises:
            UserError: the model has no such layer.
        """
        super().__init__()
        names = [name for name, _ in model.named_modules() if name]
        for name in layers:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
                raise UserError(
                    f"the model has no layer {name!r}, which the edit changes: give the model that it was made for "
                    f"(nearest: {', '.join(near) or 'none'})"
                )
        self.model, self.names = model, list(layers)
        device = next(model.parameters(), torch.empty(0)).device
        self.layers = nn.ModuleList(_EditedLayer(name, one).to(device) for name, one in layers.items())
        self.training = model.training
        self._entered, self._hooks = 0, list[RemovableHandle]()

    def forward(self, images: Tensor) -> Tensor:
        """What the edited model answers."""
        with self:
            return self.model(images)

    def __enter__(self) -> Self:
        if not self._entered:
            for name, layer in zip(self.names, self.layers, strict=True):
                self._hooks.append(self.model.get_submodule(name).register_forward_hook(cast(_EditedLayer, layer).hook))
        self._entered += 1
        return self

    def __exit__(self, *_error: object) -> None:
        self._entered -= 1
        while not self._entered and self._hooks:
            self._hooks.pop().remove()


class _EditedLayer(nn.Module):
    """The activation of one layer → the same, edited."""

    def __init__(self, name: str, edit: LayerEdit) -> None:
        super().__init__()
        layout, dictionary = edit.layer
        self.name, self.layout, self.edits = name, layout, edit.edits
        self.told = json.dumps(tell(dictionary, name), sort_keys=True)
        atoms, *encoder = tensors_of(dictionary)
        self.register_buffer("atoms", atoms)
        self.arrays = [f"encoder_{index}" for index in range(len(encoder))]
        for array, tensor in zip(self.arrays, encoder, strict=True):
            self.register_buffer(array, tensor)

    def forward(self, activation: Tensor) -> Tensor:
        vectors = self.layout.vectors(activation)
        # What is narrower than float32 is edited in float32, and rounded once.
        wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        atoms = self.get_buffer("atoms").to(wide)
        encoder = [self.get_buffer(array).to(wide) for array in self.arrays]
        codes = encode(wide.detach(), atoms, encoder, self.told)
        return self.layout.activation(edited(wide, codes, atoms, self.edits).to(vectors.dtype), activation)

    def hook(self, _module: nn.Module, _inputs: Sequence[object], output: object) -> Tensor:
        """What the layer hands on instead of ``output``.

        Raises:
            UserError: it is no tensor, or one of another shape than the edit was made for.
        """
        wanted = _shape(self.layout)
        if not isinstance(output, Tensor):
            raise UserError(
                f"{self.name} hands on {type(output).__name__}, not one tensor, so that it cannot be edited: edit the "
                "block around it"
            )
        if tuple(output.shape[1:]) != wanted:
            raise UserError(
                f"{self.name} answers {_times(output.shape[1:])} numbers per image, but the edit was made for "
                f"{_times(wanted)}: give the model, and images of the size, that it was made for"
            )
        return self(output)


def _shape(layout: Layout) -> tuple[int, ...]:
    """The shape of one image's activation."""
    match layout.axes:
        case Axes.channels_first:
            return layout.channels, *layout.grid
        case Axes.channels_last:
            return *layout.grid, layout.channels
        case Axes.tokens:
            return layout.prefix + layout.positions, layout.channels
        case Axes.vector:
            return (layout.channels,)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "single"
