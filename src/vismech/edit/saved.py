"""An edit of a model as a file of data: safetensors with the atoms, and one line of JSON in its header.

Tensors of the n-th layer are ``n.atoms`` [k, c], ``n.encoder.m`` for a method's own encoder, and of its m-th edit
``n.edits.m.concepts`` [q] and, towards the mean, ``n.edits.m.means`` [q]. The JSON holds everything else and a hash of
all, so that damage is told. Same content, same bytes.

Legend: k concepts, c channels, q edited concepts.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from vismech.config.choices import EditValue
from vismech.edit.edited import EditedModel, LayerEdit
from vismech.edit.told import check_encoder, dictionary_of, tell, tensors_of
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit
from vismech.network.pfv import Axes, Layout
from vismech.sources.weights import fingerprint, fingerprint_of

FORMAT = 1
# One key alone: safetensors writes several in any order.
KEY = "vismech.edit"


@dataclass(frozen=True, eq=False)
class ModelEdit:
    """What is done to some concepts of a model.

    Attributes:
        layers: layer name → its layout and concepts, and the edits of these.
        model: the name of the model.
        weights: the hash of the weights that the concepts were found in.

    Raises:
        UserError: no edit, a concept that a layer does not have or that has two edits, a value that is not finite or is
            another image's, or a code that is not vismech's own.
    """

    layers: Mapping[str, LayerEdit]
    model: str
    weights: str

    def __post_init__(self) -> None:
        if not self.layers or not all(any(edit.concepts for edit in one.edits) for one in self.layers.values()):
            raise UserError("an edit without concepts changes nothing: name at least one in each layer")
        for name, (layer, edits) in self.layers.items():
            tell(layer.dictionary, name)
            concepts = [concept for edit in edits for concept in edit.concepts]
            for edit in edits:
                edit.check(layer, name)
                if edit.value is EditValue.resample:
                    raise UserError(f"{name}: codes of other images are no part of a model: use zero, mean or scale")
                if not all(map(math.isfinite, (edit.scale, *edit.means))):
                    raise UserError(f"{name}: an edit to values that are not finite: give numbers")
            for concept in concepts:
                if concepts.count(concept) > 1:
                    raise UserError(f"{name}/{concept} has two edits: give one")

    def apply(self, model: nn.Module, check: bool = True) -> EditedModel:
        """The model under this edit.

        Args:
            model: the one that the edit was made for, on any device.
            check: whether other weights are refused. Weights of another type (half, double) are others, too.

        Raises:
            UserError: other weights, or a model that has no such layer.
        """
        edited = EditedModel(model, self.layers)
        if check and (found := fingerprint(model)) != self.weights:
            raise UserError(
                f"the edit was made for the weights {self.weights} of {self.model}, but the model has {found}: load "
                "those, or say check=False if you know that its concepts are the same"
            )
        return edited

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the file and return its size in bytes.

        Raises:
            UserError: as of :func:`check_new`, or it cannot be written.
        """
        place, tensors = Path(path).expanduser(), dict[str, Tensor]()
        record = {
            "format": FORMAT,
            "vismech": _version(),
            "model": self.model,
            "weights": self.weights,
            "layers": [_tell(index, name, one, tensors) for index, (name, one) in enumerate(self.layers.items())],
        }
        content = as_bytes(tensors, {KEY: _canonical({**record, "digest": _digest(record, tensors)})})
        check_new(place)
        try:
            with place.open("xb") as file:
                try:
                    file.write(content)
                except BaseException:
                    with suppress(OSError):
                        place.unlink()
                    raise
        except (OSError, ValueError) as error:
            raise UserError(f"{place} cannot be written ({_why(error)}): give another file") from error
        return len(content)


def check_new(place: Path) -> None:
    """Refuse a place where no file can be made anew.

    Raises:
        UserError: something is there already, or its folder is not.
    """
    try:
        if os.path.lexists(place):
            raise UserError(f"{place} exists already: remove it, or give another file")
        if not place.parent.is_dir():
            raise UserError(f"{place} cannot be written, as {place.parent} is no folder: make it, or give another file")
    except OSError as error:
        raise UserError(f"{place} cannot be written ({_why(error)}): give another file") from error


def load(path: str | os.PathLike[str]) -> ModelEdit:
    """Read what :meth:`ModelEdit.save` wrote; nothing in it is executed.

    Raises:
        UserError: no file, one that is no edit, is damaged or of a later version.
    """
    place = Path(path).expanduser()
    record, tensors = _read(place)
    if record.get("format") != FORMAT:
        raise UserError(
            f"{place} has the format {record.get('format')}, but this version of vismech knows {FORMAT}: install a "
            "version that knows it, or make the edit anew with vismech-edit"
        )
    try:
        if record.pop("digest") != _digest(record, tensors):
            raise ValueError("its content is not what was written")
        layers = {one["name"]: _layer(one, index, tensors) for index, one in enumerate(record["layers"])}
        return ModelEdit(layers, str(record["model"]), str(record["weights"]))
    except Exception as error:  # whatever a file that was made by hand may lack
        raise UserError(f"{place} is damaged ({_reason(error)}): make it anew with vismech-edit") from error


def _read(place: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not place.is_file():
        raise UserError(f"{place} is not a file: name one that vismech-edit wrote")
    try:
        with safe_open(place, "pt") as file:
            record = json.loads((file.metadata() or {}).get(KEY, "null"))
            # A copy: what is read lazily would change with the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()} if record else {}  # noqa: SIM118
    except Exception as error:  # safetensors, JSON and the system raise many kinds
        raise UserError(
            f"{place} cannot be read as an edit ({_reason(error)}): name a whole file that vismech-edit wrote"
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"{place} is a safetensors file, but no edit of a model: name one that vismech-edit wrote")
    return record, tensors


def _tell(index: int, name: str, one: LayerEdit, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One layer as JSON; its tensors go to ``tensors``."""
    layout, dictionary = one.layer
    atoms, *encoder = (tensor.detach().cpu().contiguous() for tensor in tensors_of(dictionary))
    tensors[f"{index}.atoms"] = atoms
    tensors |= {f"{index}.encoder.{number}": array for number, array in enumerate(encoder)}
    for number, edit in enumerate(one.edits):
        tensors[f"{index}.edits.{number}.concepts"] = torch.tensor(edit.concepts)
        if edit.value is EditValue.mean:
            tensors[f"{index}.edits.{number}.means"] = torch.tensor(edit.means, dtype=torch.float64)
    return {
        "name": name,
        "layout": {**vars(layout), "axes": layout.axes.value},
        "edits": [{"value": edit.value.value, "scale": edit.scale} for edit in one.edits],
        **tell(dictionary, name),
    }


def _layer(told: Mapping[str, Any], index: int, tensors: Mapping[str, Tensor]) -> LayerEdit:
    given, atoms = told["layout"], tensors[f"{index}.atoms"]
    rows, columns = map(int, given["grid"])
    layout = Layout(Axes(given["axes"]), (rows, columns), int(given["channels"]), int(given["prefix"]))
    encoder = [tensors[f"{index}.encoder.{number}"] for number in range(len(told["encoder"]))]
    dictionary = dictionary_of(told, atoms, encoder)
    if dictionary.c != layout.channels:
        raise ValueError(f"atoms of {dictionary.c} channels for {layout.channels}")
    check_encoder(dictionary)
    edits = []
    for number, one in enumerate(told["edits"]):
        value, part = EditValue(one["value"]), f"{index}.edits.{number}"
        means = tensors[f"{part}.means"].tolist() if value is EditValue.mean else ()
        concepts = tuple(map(operator.index, tensors[f"{part}.concepts"].tolist()))
        edits.append(Edit(concepts, value, float(one["scale"]), tuple(means)))
    return LayerEdit(Layer(layout, dictionary), tuple(edits))


def _digest(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{_canonical(record)}\n{fingerprint_of(tensors)}".encode()).hexdigest()[:20]


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, allow_nan=False)


def _reason(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"it lacks {text}" if isinstance(error, KeyError) else text or type(error).__name__


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _version() -> str:
    try:
        return version("vismech")
    except PackageNotFoundError:
        return ""
