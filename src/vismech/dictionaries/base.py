"""The contract of every concept dictionary: atoms, how vectors are coded in them, and how that is stored.

Legend: n vectors, k atoms (concept vectors), c channels.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from torch import Tensor

from vismech.coding import Code, Coding, encode
from vismech.errors import UserError


class Fitted(NamedTuple):
    """What a method returns: unit atoms, arrays to keep (the tree of a clustering) and facts for the record."""

    atoms: Float[Tensor, "k c"]
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Concept vectors V and the code that writes a pointwise feature vector x as u V (METHOD §3 and §4).

    In a centred dictionary the last atom is the **mean concept**, the dataset mean m divided by its norm. Its code is
    the constant ‖m‖ (`info["mean_norm"]`) and the other codes are those of x − m, so decoding stays one product.
    """

    atoms: Float[Tensor, "k c"]
    coding: Coding
    mean_index: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        if not bool(self.atoms.isfinite().all()):
            raise UserError("dictionary: an atom is not finite: mend what produced it.")
        if self.mean_index is not None and (self.mean_index != self.k - 1 or "mean_norm" not in self.info):
            raise UserError(
                f"dictionary: mean_index is {self.mean_index} of {self.k} atoms: the mean concept is the last atom, "
                "with its norm in info['mean_norm']."
            )

    @property
    def k(self) -> int:
        """Number of atoms, the mean concept included."""
        return self.atoms.shape[0]

    @property
    def c(self) -> int:
        """Number of channels."""
        return self.atoms.shape[1]

    def encode(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """Return the codes u of each vector, exact zeros where a concept is absent."""
        if self.mean_index is None:
            return encode(vectors, self.atoms, self.coding)
        mean_norm, concepts = self.info["mean_norm"], self.atoms[:-1]
        codes = encode(vectors - mean_norm * self.atoms[-1], concepts, self.coding)
        return torch.cat([codes, codes.new_full((len(codes), 1), mean_norm)], dim=1)

    def decode(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Return the reconstruction u V."""
        return codes @ self.atoms

    def to(self, device: str | torch.device) -> "Dictionary":
        """Return the same dictionary with its atoms on a device."""
        return replace(self, atoms=self.atoms.to(device))

    def coded(self, code: Code, penalty_fraction: float, l0: int | None) -> "Dictionary":
        """Return the same atoms under another coding; λ is a fraction of the training vectors' mean norm."""
        return replace(self, coding=Coding(code, penalty_fraction * self.info["vector_norm"], l0))

    def save(self, folder: Path) -> None:
        """Write `atoms.safetensors`, `arrays.safetensors` and `dictionary.json`: same content, same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays({"atoms": _contiguous(self.atoms.detach().cpu().numpy())}, folder / "atoms.safetensors")
        save_arrays({name: _contiguous(array) for name, array in self.arrays.items()}, folder / "arrays.safetensors")
        coding = {**vars(self.coding), "code": self.coding.code.value}
        record = {"coding": coding, "mean_index": self.mean_index, "info": self.info}
        text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False)
        (folder / "dictionary.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Dictionary":
        """Read what `save` wrote.

        Raises:
            UserError: when the folder holds no dictionary.
        """
        path = folder / "dictionary.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no dictionary.json: give the folder of a stored dictionary.")
        record = json.loads(path.read_text(encoding="utf-8"))
        coding = Coding(**{**record["coding"], "code": Code(record["coding"]["code"])})
        atoms = torch.from_numpy(load_arrays(folder / "atoms.safetensors")["atoms"])
        return cls(atoms, coding, record["mean_index"], record["info"], load_arrays(folder / "arrays.safetensors"))


def _contiguous(array: np.ndarray) -> np.ndarray:
    # safetensors writes the buffer as it lies in memory, whatever the strides say.
    return np.ascontiguousarray(array)
