"""How a vector is written in the atoms of a dictionary: lasso, or orthogonal matching pursuit, alone or by image.

Legend: n vectors, k atoms, c channels; the lasso itself is in `lasso`, the pursuits are in `pursuit`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vismech.config.choices import Code
from vismech.dictionaries.lasso import Geometry, lasso
from vismech.dictionaries.pursuit import (
    coarse_to_fine_pursuit,
    nonnegative_orthogonal_matching_pursuit,
    orthogonal_matching_pursuit,
    simultaneous_orthogonal_matching_pursuit,
)
from vismech.errors import UserError

__all__ = ["Code", "Coding", "encode", "l0_of"]

LASSOS = (Code.lasso, Code.lasso_nonnegative)
PURSUITS = (
    Code.omp,
    Code.omp_nonnegative,
    Code.simultaneous_omp,
    Code.coarse_to_fine,
    Code.coarse_to_fine_nonnegative,
)
TWO_STAGES = (Code.coarse_to_fine, Code.coarse_to_fine_nonnegative)
BY_IMAGE = (Code.simultaneous_omp, *TWO_STAGES)
"""Codes that look at all vectors of an image together."""


@dataclass(frozen=True)
class Coding:
    """A code with its numbers: `penalty` is the lasso's absolute λ, `l0` the number of atoms of matching pursuit.

    Simultaneous matching pursuit chooses `l0` atoms for all vectors of an image together; coarse-to-fine pursuit tells
    an image in `coarse` atoms and what is left in `fine` more (None: any), `l0` of them for each vector.
    A code of one's own is `custom`, with the `target` package.module:encode and its `options` in `own`.
    """

    code: Code
    penalty: float = 0.0
    l0: int | None = None
    coarse: int = 8
    fine: int | None = None
    tolerance: float = 1e-5
    max_iterations: int = 10_000
    own: Mapping[str, Any] | None = None

    def __post_init__(self):
        if (self.code is Code.custom) != (self.own is not None):
            raise UserError(
                f"code {self.code} with own={self.own}: a code of your own is custom, and names its target."
            )
        if self.code in PURSUITS and self.l0 is None:
            raise UserError(f"code {self.code} needs l0, the number of atoms: set it.")
        if self.code in LASSOS and not self.penalty > 0:
            raise UserError(f"code {self.code} has penalty {self.penalty}: λ must be above zero.")


def l0_of(per_channel: float, channels: int) -> int:
    """Concepts per vector from their number per channel, at least one."""
    return max(1, round(per_channel * channels))


def load(name: str) -> Any:
    """The object called `package.module:name`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def encode(
    vectors: Float[Tensor, "*b n c"],
    atoms: Float[Tensor, "k c"],
    coding: Coding,
    geometry: Callable[[], Geometry] | None = None,
) -> Float[Tensor, "*b n k"]:
    """Return the codes of each vector under a coding; leading dimensions tell images apart.

    `geometry` gives the atoms' own, for the codes that need it.
    """
    assert coding.code is not Code.encoder, "a method's own encoder is its dictionary's"
    flat = vectors.flatten(0, -2)
    if coding.own is not None:
        codes = load(coding.own["target"])(flat, atoms, **coding.own["options"])
        if codes.shape != (len(flat), len(atoms)) or not codes.isfinite().all():
            raise UserError(
                f"dictionary.code_target={coding.own['target']} must return finite codes {len(flat)} × {len(atoms)}"
            )
        return codes.view(*vectors.shape[:-1], len(atoms))
    if coding.code in PURSUITS:
        assert coding.l0 is not None
        images = vectors[None] if vectors.ndim == 2 else vectors.flatten(0, -3)
        if coding.code is Code.simultaneous_omp:
            codes = simultaneous_orthogonal_matching_pursuit(images, atoms, coding.l0)
        elif coding.code in TWO_STAGES:
            upwards = coding.code is Code.coarse_to_fine_nonnegative
            codes = coarse_to_fine_pursuit(images, atoms, coding.l0, coding.coarse, coding.fine, upwards)
        elif coding.code is Code.omp_nonnegative:
            codes = nonnegative_orthogonal_matching_pursuit(flat, atoms, coding.l0)
        else:
            codes = orthogonal_matching_pursuit(flat, atoms, coding.l0)
        return codes.view(*vectors.shape[:-1], len(atoms))
    codes = lasso(
        flat,
        atoms,
        coding.penalty,
        nonnegative=coding.code is Code.lasso_nonnegative,
        tolerance=coding.tolerance,
        max_iterations=coding.max_iterations,
        geometry=geometry() if geometry else None,
    )
    return codes.view(*vectors.shape[:-1], len(atoms))
