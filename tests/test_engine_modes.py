"""Modes of the attribution engine, settings that it refuses, and paths of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from curves import (
    LOWER,
    Segment,
    Through,
    activations,
    clean,
    concept_targets,
    one_number,
    source,
)
from vismech.attribution.engine import Settings, attribute, cheaper_mode, choose_mode
from vismech.attribution.paths import Curve, Path, load_path
from vismech.attribution.sources import UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Mode, PathWeight, Rule, SourceKind
from vismech.errors import UserError
from vismech.measures.saturation.scores import WEIGHTS

ALL = WEIGHTS
COMPLETE = (PathWeight.ig, PathWeight.idg)


# Modes and refusals


def test_the_cheaper_mode_depends_on_targets_and_units_of_each_image() -> None:
    assert cheaper_mode(1, 100) is Mode.reverse and cheaper_mode(100, 1) is Mode.forward
    vectors, targets = activations(1), concept_targets()
    vectors[1, :, 1:] = 0  # one channel is left
    vectors[2] = 0
    one = UnitSource(SourceKind.channels, vectors)
    assert [choose_mode(targets, one, image=image) for image in range(3)] == [Mode.reverse, Mode.forward, Mode.forward]
    assert choose_mode(targets, one, profile=True, image=1) is Mode.reverse
    found = [
        attribute(Segment().double(), LOWER, one, clean(vectors), targets, Settings(steps=8, mode=mode))
        for mode in (Mode.auto, Mode.reverse)
    ]
    torch.testing.assert_close(
        found[0].edges[PathWeight.ig].units, found[1].edges[PathWeight.ig].units, rtol=1e-10, atol=1e-12
    )
    assert not found[0].moves[2].any()


def test_attention_has_forward_mode_and_what_has_none_falls_back_to_reverse() -> None:
    class Once(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output) -> None: ...

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient * 2

    vectors = activations(1).float()

    def attention(x: Tensor) -> Tensor:
        tokens = LOWER.vectors(x)[:, None]
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(1)

    one, targets = UnitSource(SourceKind.channels, vectors), LogitTargets(torch.tensor([[0, 3]] * 3))
    for segment, refused in ((attention, False), (lambda x: Once.apply(attention(x)), True)):
        found = {}
        for mode in Mode:
            asked = Settings(steps=4, mode=mode)
            if refused and mode is Mode.forward:
                with pytest.raises(UserError, match=r"attribute\.mode=forward: .*use mode=reverse"):
                    attribute(segment, LOWER, one, clean(vectors), targets, asked)
            else:
                found[mode] = attribute(segment, LOWER, one, clean(vectors), targets, asked).edges[PathWeight.ig].units
        for edges in found.values():
            torch.testing.assert_close(edges, found[Mode.reverse], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": ()}, "no path weight"),
        ({"phi": 0.0}, r"attribute\.phi=0\.0"),
        ({"phi": 1.0}, r"attribute\.phi=1\.0"),
        ({"profile": True, "mode": Mode.forward}, "profile"),
        ({"profile": True, "tolerance": 0.1}, "profile"),
        ({"tolerance": 0.0}, r"attribute\.tolerance=0\.0"),
        ({"tolerance": float("nan")}, r"attribute\.tolerance=nan"),
        ({"tolerance": 0.1, "steps": 33, "max_steps": 64}, r"attribute\.max_steps=64 .* give at least 66"),
    ],
)
def test_settings_that_exclude_one_another_are_refused(options, said) -> None:
    with pytest.raises(UserError, match=said):
        Settings(**options)


def test_a_profile_of_several_baselines_is_refused() -> None:
    vectors = activations(1)
    sources = [source("channels", vectors, activations(seed)) for seed in (11, 12)]
    with pytest.raises(UserError, match="single baseline"):
        attribute(
            Segment().double(), LOWER, sources, clean(vectors), concept_targets(), Settings(steps=4, profile=True)
        )


def test_a_profile_holds_values_and_gradient_norms_of_every_node() -> None:
    found = one_number(lambda s: s**3, rule=Rule.trapezoid, steps=5, profile=True).profile
    assert found is not None
    alpha = torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(found.values[0, 0], alpha**3)
    torch.testing.assert_close(found.norms[0, 0], 3 * alpha**2 * 96**0.5)


class Astray(Path):
    """Ends where it likes."""

    def __init__(self, wrong: str = "end") -> None:
        self.wrong = wrong

    def anchors(self, baseline: Tensor, end: Tensor) -> list[Tensor]:
        return [baseline, end.square() if self.wrong == "square" else end]

    def coefficients(self, alpha: Tensor) -> Tensor:
        if self.wrong == "columns":
            return alpha[:, None]
        straight = torch.stack([1 - alpha, alpha], 1)
        return straight + {"start": 1 - alpha, "end": alpha}.get(self.wrong, 0 * alpha)[:, None]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("start", "does not start at the baseline"),
        ("end", "does not end at the end"),
        ("columns", "one column per anchor"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(wrong, said) -> None:
    with pytest.raises(UserError, match=said):
        Curve(activations(11), activations(1), Astray(wrong))


def test_anchors_that_are_not_linear_are_refused() -> None:
    with pytest.raises(UserError, match=r"not linear|does not end"):
        source("reconstruction", activations(1), None, Astray("square"))


def test_a_path_is_loaded_by_its_name() -> None:
    assert type(load_path({"_target_": "curves.Through"})) is Through
    assert load_path({"_target_": "test_engine_modes.Astray", "wrong": "start"}).wrong == "start"  # type: ignore[attr-defined]
    assert load_path({}) is not None and type(load_path({})).__name__ == "Straight"
    for curve in ({"_target_": "curves.Nowhere"}, {"_target_": "curves.Through", "a": 1}, {"of": 1}):
        with pytest.raises(UserError, match=r"attribute\.curve=.*cannot be made"):
            load_path(curve)
    with pytest.raises(UserError, match="is no vismech"):
        load_path({"_target_": "curves.Segment"})


def test_slopes_of_a_path_are_the_derivatives_of_its_coefficients() -> None:
    alpha = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    expected = torch.stack([4 * alpha - 3, 4 - 8 * alpha, 4 * alpha - 1], 1)
    torch.testing.assert_close(Through().speeds(alpha), expected)

    class Resting(Through):
        def coefficients(self, alpha: Tensor) -> Tensor:
            return torch.ones(len(alpha), 3, dtype=alpha.dtype)

    assert (Resting().speeds(alpha) == 0).all()
