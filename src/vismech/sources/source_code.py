"""A module told by its code and its attributes, for networks whose graph cannot be exported.

Every class is told by the source of its methods, and these by whatever code of the user's they name: functions,
classes and constants of their files, closures, defaults, partial arguments. Code of installed libraries is told by its
name. Settings such as a stride or an epsilon are attributes of modules, and every attribute is told.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# What nn.Module keeps for itself; parameters are in the weights' fingerprint, children have their own entries.
_OWN = set(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, slice)
_LIBRARIES = tuple(
    str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_SKIPPED = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__", "__firstlineno__"}
_SKIPPED |= {"__static_attributes__", "__parameters__", "__orig_bases__", "__abstractmethods__", "_abc_impl"}


def tell_module(module: nn.Module) -> Any:
    """Class, settings and unsaved tensors of ``module`` and of every module in it, as JSON."""
    reader = _Reader(module)
    return [[path, reader.part(path, part)] for path, part in module.named_modules()]


def tell_value(value: Any) -> Any:
    """A function, class or object by its code and whatever code of the user's it names, as JSON."""
    return _Reader(nn.Module())(value)


def tensor_digest(tensor: Tensor) -> list[Any]:
    """A tensor's type, shape and bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(content).hexdigest()]


class _Reader:
    """Tells values as JSON; one that was told before is told by its number, so that circles end."""

    def __init__(self, module: nn.Module) -> None:
        self._paths = {id(part): path for path, part in module.named_modules()}
        self._saved = set(module.state_dict())
        self._told: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is one object's only as long as that lives

    def part(self, path: str, part: nn.Module) -> Any:
        """One module without its children."""
        attributes = {name: value for name, value in vars(part).items() if name not in _OWN and value is not None}
        prefix = f"{path}." if path else ""
        unsaved = {name: each for name, each in part._buffers.items() if f"{prefix}{name}" not in self._saved}
        shapes = {name: None if each is None else list(each.shape) for name, each in part._parameters.items()}
        return [self(type(part)), self._attributes(attributes), self._attributes(unsaved), shapes, part.training]

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Enum):
            return [type(value).__qualname__, value.name]
        if isinstance(value, (*_PLAIN, torch.dtype, torch.memory_format, torch.layout)):
            return repr(value)
        if isinstance(value, torch.device):
            return "device"
        if isinstance(value, np.generic):
            return [str(value.dtype), repr(value.item())]
        if id(value) in self._told:
            return ["told", self._told[id(value)]]
        self._told[id(value)] = len(self._told)
        self._kept.append(value)
        return self._tell(value)

    def _tell(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return tensor_digest(value)
        if isinstance(value, np.ndarray):
            return [str(value.dtype), list(value.shape), np.ascontiguousarray(value).tobytes().hex()]
        if isinstance(value, nn.Module) and id(value) in self._paths:
            return ["module", self._paths[id(value)]]
        if isinstance(value, nn.Module):  # one that hides in a list: nobody else tells of its weights
            state = {name: self(tensor) for name, tensor in value.state_dict().items()}
            return [[[path, self.part(path, part)] for path, part in value.named_modules()], state]
        if isinstance(value, Mapping):
            return [type(value).__name__, [[self(key), self(item)] for key, item in value.items()]]
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, [self(item) for item in value]]
        if isinstance(value, (set, frozenset)):
            return [type(value).__name__, sorted(str(self(item)) for item in value)]
        if isinstance(value, functools.partial):
            return ["partial", self(value.func), self(value.args), self(value.keywords)]
        return self._tell_code(value)

    def _tell_code(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return ["library" if _is_library(value) else "module", value.__name__.rpartition(".")[2]]
        if isinstance(value, MethodType):
            return ["method", self(value.__func__), self(value.__self__)]
        if isinstance(value, (staticmethod, classmethod)):
            return [type(value).__name__, self(value.__func__)]
        if isinstance(value, property):
            return ["property", *(self(each) for each in (value.fget, value.fset, value.fdel))]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, BuiltinFunctionType):
            return [str(value.__module__), value.__qualname__]
        if isinstance(value, type):
            return self._class(value)
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if not hasattr(value, "__dict__"):  # such as an operator of torch
            return [type(value).__name__, name if isinstance(name, str) else str(type(value))]
        return [self(type(value)), name, self._attributes(vars(value))]

    def _attributes(self, attributes: Mapping[str, Any]) -> Any:
        return {name: self(attributes[name]) for name in sorted(attributes)}

    def _class(self, value: type) -> Any:
        if _is_library(value):
            return [value.__module__, value.__qualname__]
        own = {name: each for name, each in vars(value).items() if name not in _SKIPPED}
        return [value.__qualname__, [self(base) for base in value.__bases__], self._attributes(own)]

    def _function(self, value: FunctionType) -> Any:
        if _is_library(value):
            return [value.__module__, value.__qualname__]
        names = sorted(_names(value.__code__))
        known = {name: value.__globals__[name] for name in names if name in value.__globals__}
        # Of a file that is imported as a whole, what is read from it.
        for module in [each for each in known.values() if isinstance(each, ModuleType) and not _is_library(each)]:
            known |= {name: vars(module)[name] for name in names if name in vars(module)}
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        around = [self(each) for each in (cells, value.__defaults__, value.__kwdefaults__)]
        return ["function", *_text(value), *around, self._attributes(known)]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _text(value: FunctionType) -> list[str]:
    """The function's source, with its constants, since a line may hold several lambdas; without a file its code."""
    constants = [repr(each) for each in value.__code__.co_consts if isinstance(each, (int, float, complex, str, bytes))]
    try:
        return [inspect.cleandoc(inspect.getsource(value)), *constants]
    except (OSError, TypeError):
        return [value.__code__.co_code.hex(), *constants]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_library(value: Any) -> bool:
    """Whether a class, function or module is of an installed package or of Python itself."""
    name = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))
    if name.partition(".")[0] in sys.stdlib_module_names and name != "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and str(Path(file).resolve()).startswith(_LIBRARIES)
