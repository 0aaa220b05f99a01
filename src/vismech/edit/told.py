"""A dictionary as data: its tensors, and how it codes as plain words and numbers; no code, and nothing that names any.

Legend: k concepts, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vismech.config.choices import Code
from vismech.dictionaries.base import ENCODERS, Dictionary
from vismech.dictionaries.coding import Coding
from vismech.errors import UserError

# Of what is recorded of a dictionary, that which coding reads, and where its λ came from.
FACTS = {"activation": str, "l0": int, "mean_norm": float, "method": str, "vector_norm": float}
CODING = {
    "code": str,
    "penalty": float,
    "l0": int | None,
    "coarse": int,
    "fine": int | None,
    "tolerance": float,
    "max_iterations": int,
}


def tell(dictionary: Dictionary, layer: str) -> dict[str, Any]:
    """How a dictionary codes, as JSON has it.

    Raises:
        UserError: it codes by a function of somebody's own, which no data can tell, or from another layer's vectors.
    """
    coding = dictionary.coding
    if dictionary.reads is not None:
        raise UserError(
            f"the code of {layer} is read from {dictionary.reads} (a transcoder), and an edit codes what it changes: "
            "make the run with another dictionary, or with dictionary.code=lasso"
        )
    own = coding.own["target"] if coding.own else None
    if own is not None or (coding.code is Code.encoder and dictionary.info.get("method") not in ENCODERS):
        raise UserError(
            f"{layer} is coded by {own or 'an encoder of its own'}, code that no file of data can hold: "
            "make the run with another dictionary.code, such as lasso or omp"
        )
    return {
        "coding": {name: getattr(coding, name) for name in CODING} | {"code": coding.code.value},
        "mean_index": dictionary.mean_index,
        "info": {name: dictionary.info[name] for name in FACTS if name in dictionary.info},
        "encoder": sorted(dictionary.encoder),
    }


def tensors_of(dictionary: Dictionary) -> list[Tensor]:
    """The atoms [k, c], and the arrays of its own encoder in the order of their names."""
    return [dictionary.atoms, *(dictionary.encoder[name] for name in sorted(dictionary.encoder))]


def dictionary_of(told: Mapping[str, Any], atoms: Tensor, encoder: list[Tensor]) -> Dictionary:
    """The dictionary that :func:`tell` and :func:`tensors_of` told.

    Raises:
        UserError: code of somebody's own, or what is no dictionary's.
        KeyError, TypeError, ValueError: what :func:`tell` has not told.
    """
    coding, info = _typed(told["coding"], CODING), _typed(told["info"], FACTS)
    code = Code(coding["code"])
    if code is Code.custom or (code is Code.encoder and info.get("method") not in ENCODERS):
        raise UserError("it names code, which an edit never holds")
    arrays = dict(zip(told["encoder"], encoder, strict=True))
    for tensor in (atoms, *encoder):
        if not tensor.is_floating_point():
            raise ValueError(f"an array of {tensor.dtype}")
    if atoms.ndim != 2 or not len(atoms):
        raise ValueError(f"atoms of shape {tuple(atoms.shape)}")
    return Dictionary(atoms, Coding(**{**coding, "code": code}), told["mean_index"], info, encoder=arrays)


def check_encoder(dictionary: Dictionary) -> None:
    """Code blank vectors, where a method's own arrays may not fit one another.

    Raises:
        Exception: of many kinds, where they do not.
    """
    if dictionary.coding.code is Code.encoder:
        dictionary.encode(torch.zeros(1, 2, dictionary.c, dtype=dictionary.atoms.dtype))


def _typed(found: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are known, each of its type; a whole number is a float, too."""
    for name, value in found.items():
        wanted = known[name]
        if isinstance(value, bool) or not isinstance(value, int | float if wanted is float else wanted):
            raise TypeError(f"{name} is {value!r}")
    return dict(found)
