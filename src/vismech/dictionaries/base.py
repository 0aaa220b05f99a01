"""The contract of every concept dictionary: atoms, how vectors are coded in them, and how that is stored.

Legend: n vectors, k atoms (concept vectors), c channels.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from torch import Tensor

from vismech.dictionaries.coding import Code, Coding, encode, load
from vismech.dictionaries.lasso import Geometry
from vismech.errors import UserError

_MAKING = Lock()


class Fitted(NamedTuple):
    """What a method returns.

    Attributes:
        atoms: unit concept vectors.
        arrays: what else to keep, such as the tree of a clustering.
        info: facts for the record.
        encoder: arrays of the method's own encoder, if it has one with parameters.
        shift: what the method adds to every reconstruction, learnt beyond the mean that it was given; it becomes a part
            of the mean concept (a sparse autoencoder's pre-bias). Only of centred dictionaries.
    """

    atoms: Float[Tensor, "k c"]
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]
    encoder: dict[str, Tensor] | None = None
    shift: Float[Tensor, " c"] | None = None


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Concept vectors V and the code that writes a pointwise feature vector x as u V.

    In a centred dictionary the last atom is the **mean concept**, the dataset mean m divided by its norm. Its code is
    the constant ‖m‖ (`info["mean_norm"]`) and the other codes are those of x − m, so decoding stays one product.
    `encoder` holds the arrays of the method's own encoder, which `code=encoder` asks for.

    A **transcoder**'s encoder reads the vectors of another place (`reads`): given these, `encode` gives the codes with
    which `decode` rebuilds the vectors of the layer that the dictionary is of. Its mean concept is what it always adds.
    """

    atoms: Float[Tensor, "k c"]
    coding: Coding
    mean_index: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    encoder: dict[str, Tensor] = field(default_factory=dict)

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

    @property
    def concepts(self) -> Float[Tensor, "q c"]:
        """The atoms without the mean concept."""
        return self.atoms if self.mean_index is None else self.atoms[:-1]

    @property
    def reads(self) -> str | None:
        """The layer whose vectors are coded, where it is another than the one whose vectors are rebuilt."""
        return self.info.get("reads") if self.coding.code is Code.encoder else None

    def encode(self, vectors: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b n k"]:
        """Return the codes u of each vector, exact zeros where a concept is absent.

        Where leading dimensions tell images apart, simultaneous matching pursuit chooses its concepts for each of them;
        every other code is that of the vector alone.

        Raises:
            UserError: `code=encoder` of a method that has no encoder of its own, or a transcoder's of vectors that have
                not as many channels as what it reads.
        """
        mean_norm = self.info["mean_norm"] if self.mean_index is not None else 0.0
        if self.reads is not None and vectors.shape[-1] != (width := self.encoder["weight"].shape[1]):
            raise UserError(
                f"transcoder: vectors of {vectors.shape[-1]} channels, but it reads {width}: give those of the place "
                f"that it reads ({self.reads or 'reads'}), not those that it rebuilds."
            )
        own = self.mean_index is not None and self.reads is None
        centred = vectors - mean_norm * self.atoms[-1] if own else vectors
        if self.coding.code is Code.encoder:
            codes = own_encoder(self.info.get("method", ""))(centred, self.concepts, self.encoder, self.info)
        else:
            codes = encode(centred, self.concepts, self.coding, self._geometry)
        if self.mean_index is None:
            return codes
        return torch.cat([codes, codes.new_full((*codes.shape[:-1], 1), mean_norm)], dim=-1)

    def _geometry(self) -> Geometry:
        """That of the atoms, made once for this dictionary: the atoms never change."""
        with _MAKING:  # one of several threads that ask at once
            kept = self.__dict__.get("_kept_geometry")
            if kept is None:
                kept = Geometry.of(self.concepts)
                object.__setattr__(self, "_kept_geometry", kept)
        return kept

    def __getstate__(self) -> dict[str, Any]:
        """Another process makes its own geometry."""
        return {name: value for name, value in self.__dict__.items() if name != "_kept_geometry"}

    def decode(self, codes: Float[Tensor, "*b n k"]) -> Float[Tensor, "*b n c"]:
        """Return the reconstruction u V."""
        return codes @ self.atoms

    def to(self, device: str | torch.device) -> "Dictionary":
        """Return the same dictionary with its atoms on a device."""
        encoder = {name: array.to(device) for name, array in self.encoder.items()}
        return replace(self, atoms=self.atoms.to(device), encoder=encoder)

    def coded(
        self,
        code: Code,
        penalty_fraction: float,
        l0: int | None,
        coarse: int = 8,
        fine: int | None = None,
        own: Mapping[str, Any] | None = None,
    ) -> "Dictionary":
        """Return the same atoms under another coding; λ is a fraction of the training vectors' mean norm."""
        penalty = penalty_fraction * self.info["vector_norm"]
        return replace(self, coding=Coding(code, penalty, l0, coarse, fine, own=own))

    def save(self, folder: Path) -> None:
        """Write `atoms`, `arrays`, any `encoder.safetensors`, and `dictionary.json`: same content, same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays({"atoms": _contiguous(self.atoms.detach().cpu().numpy())}, folder / "atoms.safetensors")
        save_arrays({name: _contiguous(array) for name, array in self.arrays.items()}, folder / "arrays.safetensors")
        if self.encoder:
            encoder = {name: _contiguous(array.detach().cpu().numpy()) for name, array in self.encoder.items()}
            save_arrays(encoder, folder / "encoder.safetensors")
        coding = {**vars(self.coding), "code": self.coding.code.value}
        if self.coding.own is None:
            del coding["own"]
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
        arrays, own = load_arrays(folder / "arrays.safetensors"), folder / "encoder.safetensors"
        encoder = {name: torch.from_numpy(array) for name, array in (load_arrays(own) if own.is_file() else {}).items()}
        return cls(atoms, coding, record["mean_index"], record["info"], arrays, encoder)


Encoder = Callable[[Tensor, Tensor, dict[str, Tensor], dict[str, Any]], Tensor]
"""A method's own encoder: (vectors − mean [*b, n, c], concepts [k, c], its arrays, the record) → codes [*b, n, k]."""

# Named, not imported: a method is loaded when it is used.
ENCODERS: dict[str, str] = {
    "sae": "vismech.dictionaries.sae.model:encode_sae",
    "transcoder": "vismech.dictionaries.sae.model:encode_sae",
    "nmf": "vismech.dictionaries.factorization:encode_nonnegative",
    "semi_nmf": "vismech.dictionaries.factorization:encode_nonnegative",
    "pca": "vismech.dictionaries.bases:encode_projection",
    "channels": "vismech.dictionaries.bases:encode_projection",
    "rotation": "vismech.dictionaries.bases:encode_projection",
}


def own_encoder(method: str) -> Encoder:
    """The encoder that belongs to a method.

    Raises:
        UserError: for a method without one.
    """
    if method not in ENCODERS:
        raise UserError(
            f"code encoder: {method or 'this dictionary'} has no encoder of its own (those with one: "
            f"{', '.join(ENCODERS)}): choose lasso, lasso_nonnegative, omp or simultaneous_omp."
        )
    return load(ENCODERS[method])


def _contiguous(array: np.ndarray) -> np.ndarray:
    # safetensors writes the buffer as it lies in memory, whatever the strides say.
    return np.ascontiguousarray(array)
