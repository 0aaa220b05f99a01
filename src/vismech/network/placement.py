"""Where the tensors of an exported graph lie: always where the model's lie now.

`nn.Module.to` keeps a parameter and changes its data, but *replaces* a buffer, and knows nothing of constants that
`torch.export` lifted out of the code. A graph that held them would compute on two devices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn


class _Place(NamedTuple):
    """Where a module keeps a tensor, under which name."""

    store: dict[str, Any]
    name: str


class Placement:
    """The tensors that a graph reads, put where they belong before each pass.

    Args:
        module: a graph.
        model: the model that was captured; its parameters and buffers go by the same names.
    """

    def __init__(self, module: fx.GraphModule, model: nn.Module) -> None:
        self._shared: list[tuple[_Place, _Place]] = []
        self._constants: list[tuple[_Place, Tensor]] = []
        for target in {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}:
            here, there = _place(module, target), _place(model, target)
            assert here is not None
            # A tensor that is a plain attribute of the model stays behind when the model is moved.
            if there is None or there.store is model.get_submodule(target.rpartition(".")[0]).__dict__:
                self._constants.append((here, here.store[here.name]))
            else:
                self._shared.append((here, there))

    def follow(self, device: torch.device) -> None:
        """Read the model's tensors anew, and put constants on ``device``, the device of what comes in."""
        for here, there in self._shared:
            here.store[here.name] = there.store[there.name]
        for here, original in self._constants:
            if here.store[here.name].device != device:
                here.store[here.name] = original.to(device)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are, or its buffers where it has no parameters; the CPU where it has neither."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def _place(module: nn.Module, target: str) -> _Place | None:
    """Where ``module`` keeps the tensor called ``target``, if it has one."""
    path, _, name = target.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        return None
    for store in (owner._parameters, owner._buffers, owner.__dict__):
        if isinstance(store.get(name), Tensor):
            return _Place(store, name)
    return None
