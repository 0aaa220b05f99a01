"""How an integral along a path is taken, and which settings exclude one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vismech.attribution.automatic import Choice
from vismech.attribution.methods import OPTIONS, Options
from vismech.attribution.quadrature import doubled
from vismech.attribution.weights import OwnWeight
from vismech.config.choices import Mode, PathWeight, Rule
from vismech.errors import UserError


@dataclass(frozen=True)
class Settings:
    """How the integral is taken.

    Attributes:
        rule, steps, power: quadrature; the rule auto begins with ``steps`` and settles for what :func:`settled` finds.
        weights: which weights to put under the integral.
        phi: share of the change that left_ig ends at.
        mode: reverse, forward, or the cheaper of the two for each image.
        rows: path points per pass; memory grows with it and not with the number of steps.
        profile: keep values and gradient norms at the nodes too; needs reverse mode, one source and no tolerance.
        tolerance: double the steps of an image as long as that changes its edges by more than this share,
            ``Σ|fine − coarse| / Σ|fine|`` over the units, at the worst target and weight.
        max_steps: the most steps that ``tolerance`` may lead to.
        own: the weight of one's own, for ``custom``.
        options: of a method that is no weight, such as guided_ig, which is then the only one of ``weights``.

    Raises:
        UserError: settings that exclude one another.
    """

    rule: Rule = Rule.midpoint
    steps: int = 32
    weights: tuple[PathWeight, ...] = (PathWeight.ig,)
    phi: float = 0.9
    mode: Mode = Mode.auto
    rows: int = 256
    profile: bool = False
    tolerance: float | None = None
    max_steps: int = 512
    power: int = 1
    own: OwnWeight | None = None
    options: Options | None = None

    def at(self, choice: Choice) -> Settings:
        """The same with chosen nodes."""
        return replace(self, rule=choice.rule, steps=choice.steps, power=choice.power)

    def without_profile(self, rows: int) -> Settings:
        """The same without a profile, with so many path points at a time."""
        return replace(self, profile=False, rows=rows)

    def __post_init__(self) -> None:
        if not self.weights:
            raise UserError("no path weight is asked for: name one, such as ig")
        if not 0 < self.phi < 1:
            raise UserError(f"attribute.phi={self.phi} is no share of a change: give a number between 0 and 1")
        if (PathWeight.custom in self.weights) != (self.own is not None):
            raise UserError(
                "attribute.path=custom and attribute.weight=package.module:weight belong together: give both"
            )
        named = [weight for weight in self.weights if weight in OPTIONS]
        if named:
            _check_method(self, named)
        if self.profile and (self.mode is Mode.forward or self.tolerance is not None):
            raise UserError(
                "a profile holds gradients at fixed nodes: ask for it in reverse mode and without tolerance"
            )
        if self.tolerance is None:
            return
        if not self.tolerance > 0:
            raise UserError(f"attribute.tolerance={self.tolerance}: give a share above zero, or null for fixed steps")
        if self.max_steps < doubled(self.rule, self.steps):
            raise UserError(
                f"attribute.max_steps={self.max_steps} leaves no room to double attribute.steps={self.steps}: give at "
                f"least {doubled(self.rule, self.steps)}"
            )


def _check_method(settings: Settings, named: Sequence[PathWeight]) -> None:
    method = f"attribute.path={named[0].value}"
    if len(settings.weights) > 1:
        raise UserError(f"{method} is no weight on a path that others share: ask for it alone")
    if settings.tolerance is not None:
        raise UserError(f"{method} takes its steps once: leave attribute.tolerance at null")
    if settings.mode is Mode.forward or settings.profile:
        raise UserError(f"{method} looks at gradients: give attribute.mode=reverse or auto, and no profile")
    if settings.options is not None and type(settings.options) is not OPTIONS[named[0]]:
        raise UserError(f"{method} has other options: give those of {OPTIONS[named[0]].__name__}")


PLAIN = Settings()
"""The defaults."""
