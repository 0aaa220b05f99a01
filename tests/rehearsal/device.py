"""A CUDA device made of CPU tensors: it mixes with the CPU as little as CUDA does, and counts what CUDA would wait for.

A :class:`Remote` tensor holds a CPU tensor and says that it is on ``cuda:0``. PyTorch's C++ side takes it for a meta
tensor, so that no driver is asked for anything. Inside :func:`device`, two modes keep this up: :class:`_Named` makes
``device="cuda"`` mean that stand-in, and :class:`_Run` carries every ATen call out on what the tensors hold. It

- refuses what CUDA refuses: tensors of both devices in one call, but for CPU scalars in pointwise calls, CPU indices,
  and copies; a generator of the CPU for numbers on the device;
- counts launches and waits by the function of ours that made them. The host waits where it needs a value or a size:
  ``item``, ``nonzero``, a boolean index, a solver's check, a copy to the CPU.

It is stricter in one thing: moving a module replaces its parameters, too. It knows nothing of CUDA's rounding, speed,
memory, or missing kernels.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

CUDA, STAND_IN, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")

COPIES = {"_to_copy", "copy_"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
WAITS = {
    *("_local_scalar_dense", "is_nonzero", "item", "equal", "allclose"),
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
    *("multinomial", "_linalg_eigh", "_linalg_svd", "linalg_qr", "_linalg_check_errors", "_linalg_solve_ex"),
}
STRICT = {
    *("cat", "stack", "mm", "bmm", "addmm", "baddbmm", "convolution", "native_batch_norm"),
    *("gather", "scatter", "scatter_", "index_select", "take"),
}
"""Calls in which not even a scalar of the CPU may take part."""
OUTSIDE = "outside"
"""The site of calls that no function of ours is behind."""


@dataclass
class Counts:
    """Launches and waits, by the function that asked for them."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        worst = ", ".join(f"{site} {count}" for site, count in self.waits.most_common(6))
        return f"{self.waits.total()} waits ({worst}), {self.launches.total()} launches"


class Remote(Tensor):
    """A tensor on ``cuda:0``; its values lie in ``held``, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Remote:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=STAND_IN
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of device()")

    @property
    def device(self) -> torch.device:
        return CUDA

    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy: copy it to the CPU first")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Remote({self.held!r})"


@contextmanager
def device() -> Iterator[Counts]:
    """Inside, there is a device ``cuda:0``; what is done on it is counted."""
    counts = Counts()
    with ExitStack() as stack:
        # Threads of autograd's own would not know of the modes.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Named())
        stack.enter_context(_Run(counts))
        yield counts


class _Named(TorchFunctionMode):
    """``cuda`` in an argument becomes the stand-in; calls on Python values read them on the CPU, as CUDA's do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.device:  # ours ask for its type
            return func(*args, **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Remote):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in index)
            return func(args[0], index, *args[2:])
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            target = kwargs.pop("device", args[0].device if func is Tensor.new_tensor else CPU)
            if func is Tensor.new_tensor:
                kwargs, args = {"dtype": args[0].dtype, **kwargs}, args[1:]
            return torch.as_tensor(*args, **kwargs).to(_stand_in(target))
        if func is Tensor.pin_memory:
            return args[0]
        if func in (Tensor.numpy, Tensor.tolist, Tensor.data_ptr) and isinstance(args[0], Remote):
            return getattr(Remote, func.__name__)(*args, **kwargs)
        return func(*map(_stand_in, args), **{name: _stand_in(value) for name, value in kwargs.items()})


def _stand_in(value: Any) -> Any:
    named = isinstance(value, (str, torch.device)) and str(value).partition(":")[0] == "cuda"
    return STAND_IN if named else value


class _Run(TorchDispatchMode):
    """Every ATen call, on what the tensors hold."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        remote = [value for value in tensors if isinstance(value, Remote)]
        target = kwargs.get("device")
        made = bool(remote) if target is None else _stand_in(target) == STAND_IN
        if not remote and not made:
            return func(*args, **kwargs)
        _refuse_mixture(name, args, tensors, remote, kwargs.get("generator"))
        if target is not None:
            kwargs = {**kwargs, "device": CPU, **({"pin_memory": False} if kwargs.get("pin_memory") else {})}
        if name == "_efficientzerotensor":  # autograd's zeros without memory, which nothing else can hold
            return Remote(torch.zeros(args[0], dtype=kwargs.get("dtype")))
        self._count(func, name, args, remote, made)
        held = func(*tree_map_only(Remote, _held, args), **tree_map_only(Remote, _held, kwargs))
        if not made:
            return held
        found = tree_map_only(Tensor, lambda value: value if isinstance(value, Remote) else Remote(value), held)
        if func._schema.is_mutable or _is_view(func):
            return return_and_correct_aliasing(func, args, kwargs, found)
        return found

    def _count(self, func: Any, name: str, args: tuple[Any, ...], remote: list[Remote], made: bool) -> None:
        site = _site()
        self.counts.launches[site] += not _is_view(func)
        to_cpu = name in COPIES and bool(remote) and (not made or not isinstance(args[0], Remote))
        mask = name in INDEXED and any(
            isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8) for value in args[1]
        )
        self.counts.waits[site] += name in WAITS or to_cpu or mask


def _held(value: Remote) -> Tensor:
    return value.held


def _is_view(func: Any) -> bool:
    return any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)


def _site() -> str:
    """The innermost function of ours on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        _, ours, rest = frame.f_code.co_filename.partition("/src/vismech/")
        if ours:
            return f"{rest.removesuffix('.py')}:{frame.f_code.co_name}"
        frame = frame.f_back
    return OUTSIDE


def _refuse_mixture(name: str, args: tuple[Any, ...], tensors: list[Tensor], remote: list[Remote], generator) -> None:
    if generator is not None:
        raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'")
    local = [value for value in tensors if not isinstance(value, Remote)]
    if not local or not remote or name in COPIES:
        return
    if name in INDEXED:
        values = args[2] if len(args) > 2 else None
        allowed = isinstance(args[0], Remote) and (
            not isinstance(values, Tensor) or isinstance(values, Remote) or values.ndim == 0
        )
    else:
        allowed = name not in STRICT and all(value.ndim == 0 for value in local)
    if not allowed:
        shapes = [f"{value.device}{tuple(value.shape)}" for value in tensors]
        raise RuntimeError(f"expected all tensors to be on the same device: {name} of {', '.join(shapes)}")
