"""Paths through activation space from a baseline to an activation, and the user's own.

A path is a curve in the span of a few anchors, ``γ(α) = Σ_m c_m(α) Z_m``, α ∈ [0, 1]. Anchors are linear in the
baseline and the end, so the same curve is described in activations and in codes of concepts, and what a path
attributes to a concept needs one mean gradient per anchor, however many concepts there are:

    ∫ ∂_u g(γ(α)) γ'_u(α) dα = Σ_m Z_m,u · ∫ c'_m(α) ∂_u g(γ(α)) dα

Legend: B images, S nodes, M anchors, D directions, P positions, C channels, K concepts.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError


class Path:
    """A curve of anchors; a path of your own defines these two methods in a subclass, in a module of your own.

    ``c(0)`` must give the baseline and ``c(1)`` the end, which :func:`Curve` checks.
    """

    def anchors(self, baseline: Float[Tensor, "b p _"], end: Float[Tensor, "b p _"]) -> Sequence[Tensor]:
        """Z_m [B, P, ·], linear in ``baseline`` and ``end``; called with activations and with codes alike."""
        raise NotImplementedError

    def coefficients(self, alpha: Float[Tensor, " s"]) -> Float[Tensor, "s m"]:
        """c_m(α) for every node, by differentiable operations of torch."""
        raise NotImplementedError

    def directions(self, baseline: Float[Tensor, "b p _"], end: Float[Tensor, "b p _"]) -> Sequence[Tensor]:
        """What the velocity γ' is a combination of, [B, P, ·] each."""
        return self.anchors(baseline, end)

    def speeds(self, alpha: Float[Tensor, " s"]) -> Float[Tensor, "s d"]:
        """The velocity's coefficients, ``γ'(α) = Σ_d speeds_d(α) directions_d``."""
        with torch.enable_grad():
            at = alpha.detach().requires_grad_()
            columns = (self.coefficients(at) + 0 * at[:, None]).unbind(1)  # a constant has a derivative too
            return torch.stack([torch.autograd.grad(column.sum(), at, retain_graph=True)[0] for column in columns], 1)


class Straight(Path):
    """``γ(α) = b + α (x − b)``, the path of integrated gradients (Sundararajan et al. 2017)."""

    def anchors(self, baseline: Float[Tensor, "b p _"], end: Float[Tensor, "b p _"]) -> Sequence[Tensor]:
        """The two ends."""
        return [baseline, end]

    def coefficients(self, alpha: Float[Tensor, " s"]) -> Float[Tensor, "s 2"]:
        """1 − α and α."""
        return torch.stack([1 - alpha, alpha], 1)

    def directions(self, baseline: Float[Tensor, "b p _"], end: Float[Tensor, "b p _"]) -> Sequence[Tensor]:
        """One, the whole way."""
        return [end - baseline]

    def speeds(self, alpha: Float[Tensor, " s"]) -> Float[Tensor, "s 1"]:
        """One."""
        return torch.ones_like(alpha)[:, None]


STRAIGHT = Straight()


@runtime_checkable
class Points(Protocol):
    """What can be followed: points of each image, whatever makes them."""

    def points(self, image: Int[Tensor, " b"], alpha: Float[Tensor, " s"]) -> Float[Tensor, "b s p c"]:
        """PFVs at α of some images."""
        ...


@dataclass(frozen=True)
class Curve:
    """A path between two activations of each image.

    Attributes:
        baseline: its start, PFVs; all zero where None.
        end: its end.
        path: its shape.

    Raises:
        UserError: a path that does not start at the baseline or end at the end.
    """

    baseline: Float[Tensor, "b p c"] | None
    end: Float[Tensor, "b p c"]
    path: Path = STRAIGHT

    def __post_init__(self) -> None:
        if self._from_zero:
            return
        ends = self.path.coefficients(self.end.new_tensor([0.0, 1.0]))
        if ends.shape != (2, len(self.anchors)):
            raise UserError(
                f"attribute.curve: {type(self.path).__name__} has {len(self.anchors)} anchors, but its coefficients at "
                f"two nodes are of shape {tuple(ends.shape)}: give one column per anchor"
            )
        for wanted, given, name in zip(
            (self.start, self.end), ends, ("start at the baseline", "end at the end"), strict=True
        ):
            found = self._mix(given[None], slice(None))[:, 0]
            if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(self.end.abs().max())):
                raise UserError(
                    f"attribute.curve: {type(self.path).__name__} does not {name}: its coefficients there are "
                    f"{given.tolist()}"
                )

    @property
    def _from_zero(self) -> bool:
        return self.baseline is None and type(self.path) is Straight

    @property
    def start(self) -> Float[Tensor, "b p c"]:
        """γ(0)."""
        return torch.zeros_like(self.end) if self.baseline is None else self.baseline

    @cached_property
    def anchors(self) -> Sequence[Float[Tensor, "b p c"]]:
        """Z_m."""
        return self.path.anchors(self.start, self.end)

    @cached_property
    def directions(self) -> Sequence[Float[Tensor, "b p c"]]:
        """What the velocity is a combination of."""
        return [self.end] if self._from_zero else self.path.directions(self.start, self.end)

    def points(self, image: Int[Tensor, " b"], alpha: Float[Tensor, " s"]) -> Float[Tensor, "b s p c"]:
        """γ(α) of some images."""
        return self._at(alpha, image)

    def within(
        self, image: Int[Tensor, " b"], places: Int[Tensor, "b w"], alpha: Float[Tensor, " s"]
    ) -> Float[Tensor, "b s w c"]:
        """γ(α) of some images at some positions of each."""
        return self._at(alpha, (image[:, None], places))

    def _at(self, alpha: Float[Tensor, " s"], where: Any) -> Float[Tensor, "b s w c"]:
        if self._from_zero:
            return alpha[:, None, None] * self.end[where][:, None]
        return self._mix(self.path.coefficients(alpha), where)

    def _mix(self, coefficients: Float[Tensor, "s m"], where: Any) -> Float[Tensor, "b s w c"]:
        total: Any = 0
        for column, anchor in zip(coefficients.T, self.anchors, strict=True):
            total = total + column[:, None, None] * anchor[where][:, None]
        return total


def load_path(curve: Mapping[str, Any]) -> Path:
    """The path that ``attribute.curve`` names: ``_target_``, package.module.Class, and the arguments of the class.

    An empty mapping is the straight path.

    Raises:
        UserError: no such class, arguments that it does not take, or a class that is no :class:`Path`.
    """
    if not curve:
        return Straight()
    path = made(curve, "attribute.curve")
    if not isinstance(path, Path):
        target = curve["_target_"]
        raise UserError(f"attribute.curve: {target} is no vismech.attribution.paths.Path: derive it from that class")
    return path


def made(named: Mapping[str, Any], key: str) -> Any:
    """The object that the configuration's ``key`` names: ``_target_`` and the arguments of the class.

    Raises:
        UserError: no such class, or arguments that it does not take.
    """
    arguments = dict(named)
    module, _, name = str(arguments.pop("_target_", "")).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{key}={dict(named)} cannot be made: {error}; give _target_=package.module.Class and its arguments"
        ) from error
