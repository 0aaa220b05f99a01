"""Cuts by forward hooks, for models that ``torch.export`` cannot capture.

Legend: B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from vismech.errors import UserError
from vismech.network.held import HeldCut, Packing
from vismech.network.layers import LOGITS, PIXELS
from vismech.network.network import Network
from vismech.network.placement import device_of


class _Reached(Exception):
    """Raised by a hook once the last wanted layer has answered; never leaves this module."""


class HookedNetwork(Network):
    """Cuts by forward hooks, for models that ``torch.export`` cannot capture.

    A segment re-runs the layers below its lower end, on blank images, and replaces their result: right, but dear.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        self._blank = torch.zeros_like(example[:1])
        calls: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}

        def record(name: str, value: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(value, Tensor) and value.ndim > 1 and len(value) == 2:
                shapes[name] = tuple(value.shape[1:])
            return None

        with ExitStack() as stack, torch.no_grad():
            for name, module in model.named_modules():
                if name:
                    _hook(stack, module, lambda value, name=name: record(name, value))
            logits = model(self._blank.repeat(2, 1, 1, 1))
        if not isinstance(logits, Tensor):
            raise UserError("the model returns several values: wrap it in a module that returns the logits alone")
        self.calls = calls
        shapes = {name: shape for name, shape in shapes.items() if calls[name] == 1 and name not in (PIXELS, LOGITS)}
        self.layers = list(shapes)
        self._shapes = {PIXELS: tuple(example.shape[1:]), **shapes, LOGITS: tuple(logits.shape[1:])}

    def shape(self, layer: str) -> tuple[int, ...]:
        """See :meth:`Network.shape`."""
        if layer not in self._shapes:
            raise self._no_layer(layer)
        return self._shapes[layer]

    def activations(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Network.activations`."""
        found = self._run(images, [layer for layer in layers if layer != PIXELS], None)
        return {layer: images if layer == PIXELS else found[layer] for layer in layers}

    def _run(self, images: Tensor, layers: Sequence[str], given: tuple[str, Tensor] | None) -> dict[str, Tensor]:
        moving = images if given is None else given[1]
        if len(moving) == 1 and moving.requires_grad and torch.is_grad_enabled():
            # Never one row (see norms.py): what calls a model's norms is not known here, so they cannot be guarded.
            held = None if given is None else (given[0], torch.cat([moving, moving]))
            return {name: both[:1] for name, both in self._run(torch.cat([images, images]), layers, held).items()}
        found: dict[str, Tensor] = {}
        wanted = [layer for layer in layers if layer != LOGITS]

        def keep(name: str, value: Tensor) -> Tensor:
            # A later in-place operation would rewrite what is kept; the model goes on from it, so gradients reach it.
            found[name] = value.clone()
            if len(found) == len(layers):
                raise _Reached
            return found[name].clone()

        with ExitStack() as stack:
            if given is not None:
                _hook(stack, self.model.get_submodule(given[0]), lambda _: given[1].clone())
            for layer in wanted:
                self.shape(layer)
                _hook(stack, self.model.get_submodule(layer), lambda value, name=layer: keep(name, value))
            with suppress(_Reached):
                found[LOGITS] = self.model(images)
        return {layer: found[layer] for layer in layers}

    def segment(self, lower: str, upper: str, folded: bool = False) -> nn.Module:
        """See :meth:`Network.segment`; a path around is found by changing the input while ``lower`` is held."""
        self._check_pair(lower, upper)
        if lower == PIXELS:
            return HookedSegment(self, lower, upper)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self._blank.shape, generator=generator).to(self._blank)
        blank, noise = (images.to(device_of(self.model)) for images in (self._blank, noise))
        with torch.no_grad():
            held = self._run(blank, [lower], None)[lower]
            values = [self._run(images, [upper], (lower, held))[upper] for images in (blank, noise)]
        if not torch.equal(*values):
            raise UserError(
                f"{upper!r} can be reached around {lower!r}: it still depends on the image while {lower!r} is held; "
                "cut where all paths meet, such as at the end of a block"
            )
        return HookedSegment(self, lower, upper)

    def around(self, lower: str, upper: str) -> HeldCut:
        """See :meth:`Network.around`; what is held are the images themselves, of which all else is computed again."""
        self._check_pair(lower, upper)
        packing = Packing((self.shape(lower), self.shape(PIXELS)), (torch.float32, torch.float32))

        def read(images: Tensor) -> Tensor:
            return packing.packed((self.activations(images, [lower])[lower], images))

        named = (f"all that does not read {lower!r}",)
        return HeldCut(HeldHookedSegment(self, lower, upper, packing), read, packing, named)


class HookedSegment(nn.Module):
    """A cut of a :class:`HookedNetwork`."""

    def __init__(self, network: HookedNetwork, lower: str, upper: str) -> None:
        super().__init__()
        self.network, self.lower, self.upper = network, lower, upper

    def forward(self, activation: Tensor) -> Tensor:
        """The upper layer's output for the lower layer's."""
        if self.lower == PIXELS:
            return self.network._run(activation, [self.upper], None)[self.upper]
        blank = self.network._blank.to(activation).expand(len(activation), -1, -1, -1)
        return self.network._run(blank, [self.upper], (self.lower, activation))[self.upper]


class HeldHookedSegment(HookedSegment):
    """The same where paths run around its lower layer; rows are an activation and its own image, packed."""

    def __init__(self, network: HookedNetwork, lower: str, upper: str, packing: Packing) -> None:
        super().__init__(network, lower, upper)
        self.packing = packing

    def forward(self, activation: Tensor) -> Tensor:
        """The upper layer's output for the lower layer's, all else as the image has it."""
        given, images = self.packing.parts(activation)
        return self.network._run(images, [self.upper], (self.lower, given))[self.upper]


def _hook(stack: ExitStack, module: nn.Module, function) -> None:
    """Install a forward hook that maps the module's output, removed when ``stack`` unwinds."""
    stack.callback(module.register_forward_hook(lambda _module, _inputs, output: function(output)).remove)
