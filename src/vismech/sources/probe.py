"""A linear layer of the user's own on top of a network that ends in features: ``logits = features · weightᵀ + bias``.

A safetensors file has ``weight`` [classes, channels], maybe ``bias`` [classes], and in its metadata maybe ``classes``,
a JSON list of names. A CSV file has a first row ``class,bias,…`` and then a row per class: name, bias and weights.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vismech.errors import UserError


class Probe(NamedTuple):
    """A linear layer, and the names of its classes where they are known."""

    weight: Float[Tensor, "classes channels"]
    bias: Float[Tensor, " classes"]
    names: list[str] | None


class Probed(nn.Module):
    """Images [B, 3, h, w] → logits [B, classes]: a network without a head, and a linear layer on what it returns."""

    def __init__(self, encoder: nn.Module, probe: Probe) -> None:
        super().__init__()
        self.encoder = encoder
        classes, channels = probe.weight.shape
        self.probe = nn.Linear(channels, classes)
        self.probe.load_state_dict({"weight": probe.weight, "bias": probe.bias})

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, h, w] → logits [B, classes]."""
        return self.probe(self.encoder(images))


def probed(encoder: nn.Module, example: Tensor, probe: Probe, file: Path) -> Probed:
    """The encoder with its probe, in eval mode.

    Args:
        encoder: images → features [B, channels].
        example: an input batch.
        probe: what :func:`read_probe` read from ``file``.
        file: for sentences.

    Raises:
        UserError: an encoder that returns something else than what the probe takes.
    """
    with torch.no_grad():
        features = encoder.eval()(example)
    shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
    channels = probe.weight.shape[1]
    if shape != [len(example), channels]:
        raise UserError(
            f"model.probe={file} takes {channels} channels, but the network returns {shape}, not [images, {channels}]: "
            "give a network that ends in features, and the probe of these"
        )
    return Probed(encoder, probe).eval().requires_grad_(False)


def read_probe(file: Path) -> Probe:
    """The linear layer in a safetensors or CSV file.

    Raises:
        UserError: a file that cannot be read, or tensors, rows or names that are no linear layer.
    """
    if not file.is_file():
        raise UserError(f"model.probe={file} is not a file")
    probe = _table(file) if file.suffix.lower() == ".csv" else _tensors(file)
    weight, bias, names = probe
    if weight.ndim != 2 or not weight.numel() or bias.shape != weight.shape[:1]:
        raise UserError(
            f"model.probe={file}: weight {list(weight.shape)} and bias {list(bias.shape)} must be [classes, channels] "
            "and [classes]"
        )
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise UserError(f"model.probe={file} has values that are not finite")
    if names is not None and len(names) != len(weight):
        raise UserError(f"model.probe={file} has {len(names)} names of classes for {len(weight)} rows")
    return probe


def _tensors(file: Path) -> Probe:
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            told = (content.metadata() or {}).get("classes")
        names = None if told is None else [str(name) for name in json.loads(told)]
    except Exception as error:  # safetensors' own errors are no one class
        raise UserError(f"model.probe={file} is no safetensors or .csv file ({error})") from error
    if "weight" not in tensors or tensors.keys() - {"weight", "bias"}:
        raise UserError(
            f"model.probe={file} holds {', '.join(tensors) or 'nothing'}: it must hold weight and maybe bias"
        )
    weight = tensors["weight"].float()
    return Probe(weight, tensors.get("bias", torch.zeros(len(weight))).float(), names)


def _table(file: Path) -> Probe:
    try:
        with file.open(newline="", encoding="utf-8-sig") as content:
            rows = [row for row in csv.reader(content) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"model.probe={file} cannot be read ({error})") from error
    if len(rows) < 2 or rows[0][:2] != ["class", "bias"] or any(len(row) != len(rows[0]) for row in rows):
        raise UserError(
            f"model.probe={file} must have a first row class,bias,… and then one row per class: name, bias, weights"
        )
    try:
        values = torch.tensor([[float(cell) for cell in row[1:]] for row in rows[1:]])
    except ValueError as error:
        raise UserError(f"model.probe={file} has a cell that is no number ({error})") from error
    return Probe(values[:, 1:], values[:, 0], [row[0] for row in rows[1:]])
