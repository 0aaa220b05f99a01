"""Weights as names and tensors: read without executing anything, checked, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vismech.errors import UserError


def fingerprint(module: nn.Module) -> str:
    """Hash of every parameter and buffer: name, type, shape and bytes."""
    return fingerprint_of(module.state_dict())


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors: name, type, shape and bytes, wherever they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:20]


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a safetensors or torch file; nothing in it is executed.

    A dictionary nested under ``state_dict`` or ``model`` is taken out, and a ``module.`` prefix of data-parallel
    training is dropped.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"model.checkpoint={path} is not a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"model.checkpoint={path} cannot be read ({error.strerror or error}): look at its permissions"
        ) from error
    except Exception as error:  # pickle, zip and safetensors errors all mean the same to a user
        raise UserError(
            f"{path} holds no weights that can be read without executing code ({type(error).__name__}): "
            "save model.state_dict(), with torch.save or safetensors"
        ) from error
    for nested in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nested), dict):
            state = state[nested]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(f"{path} holds no state dictionary (names → tensors): save model.state_dict()")
    parallel = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if parallel else key: value for key, value in state.items()}


def load_state(module: nn.Module, state: dict[str, Tensor], origin: str, name: str) -> None:
    """Load ``state`` into ``module``, all of it and nothing else.

    Raises:
        UserError: the first name or shape that does not fit.
    """
    own = module.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counters)
    unexpected = sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or shapes:
        where = (
            f"it lacks {missing[0]}"
            if missing
            else f"it has {unexpected[0]}"
            if unexpected
            else f"{min(shapes)} has shape {tuple(state[min(shapes)].shape)}, not {tuple(own[min(shapes)].shape)}"
        )
        raise UserError(f"{origin} holds weights of another architecture than {name}: {where}")
    module.load_state_dict(state, strict=False)


class Download:
    """Turns the many errors of a failed download into one sentence."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> None:
        network = (
            "URLError",
            "HTTPError",
            "ConnectionError",
            "OfflineModeIsEnabled",
            "LocalEntryNotFoundError",
            "OSError",
        )
        if isinstance(error, OSError) or (error is not None and type(error).__name__ in network):
            raise UserError(
                f"the weights of {self.name} could not be downloaded from {self.url} (offline?): "
                "give a local file with model.checkpoint=FILE, or model.weights=null for initial values"
            ) from error
