"""Coding as one operation of torch, ``vismech::encode``: its loops depend on data, which no exported graph can hold.

Legend: B images, P positions, C channels, K concepts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vismech.edit.told import dictionary_of


@torch.library.custom_op(
    "vismech::encode", mutates_args=(), schema="(Tensor vectors, Tensor atoms, Tensor[] encoder, str told) -> Tensor"
)
def encode(vectors: Tensor, atoms: Tensor, encoder: list[Tensor], told: str) -> Tensor:
    """Codes [B, P, K] of vectors [B, P, C].

    Args:
        vectors: X.
        atoms: of the dictionary [K, C].
        encoder: the arrays of its own encoder, if it codes by that.
        told: how it codes, the JSON of :func:`vismech.edit.told.tell`.
    """
    # Solvers choose the precision of their products themselves.
    with torch.autocast(vectors.device.type, enabled=False):
        return dictionary_of(_read(told), atoms, encoder).encode(vectors).contiguous()


@encode.register_fake
def _(vectors: Tensor, atoms: Tensor, encoder: list[Tensor], told: str) -> Tensor:
    return vectors.new_empty((*vectors.shape[:-1], atoms.shape[0]))


@lru_cache(maxsize=64)
def _read(told: str) -> Mapping[str, Any]:
    return json.loads(told)
