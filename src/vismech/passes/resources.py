"""The network of a configuration, opened once per process: loops call this after they were spawned."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import NamedTuple

import torch

from vismech.config.schema import ModelConfig
from vismech.network.cut import Network, open_network
from vismech.sources.models import Model, open_model
from vismech.store.artifacts import canonical


class Resources(NamedTuple):
    """A model and the same model as named layers; both share their parameters."""

    model: Model
    network: Network


@lru_cache(maxsize=2)
def _open_model(text: str) -> Model:
    fields = json.loads(text)
    preprocess = {name: fields.pop(name) for name in ("resize", "crop", "interpolation", "mean", "std")}
    return open_model(**fields, preprocess=preprocess)


@lru_cache(maxsize=2)
def _open_network(text: str, channels_last: bool) -> Resources:
    model = _open_model(text)
    if channels_last:
        model.module.to(memory_format=torch.channels_last)
    return Resources(model, open_network(model.module, model.example))


def model_of(config: ModelConfig) -> Model:
    """The model of ``config``, without its graph."""
    return _open_model(canonical(asdict(config)))


def resources_of(config: ModelConfig, channels_last: bool) -> Resources:
    """The model of ``config`` and its network."""
    return _open_network(canonical(asdict(config)), channels_last)
