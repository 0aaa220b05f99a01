"""Inter-layer insertion and deletion: against plain loops, against effects known by hand, and at the ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import anchors
from vismech.config.choices import Code, Mode, Order, PathWeight, ReadOut, Rule
from vismech.dictionaries import Dictionary
from vismech.dictionaries.coding import Coding
from vismech.measures.insertion.scores import GRID, share_area, share_counts
from vismech.measures.interlayer.orders import (
    EARLY,
    SMALL,
    activation_patching,
    composition,
    curves,
    image_scores,
    leave_one_out,
    magnitudes,
    random_effects,
    strongest_targets,
)
from vismech.measures.interlayer.scores import scored
from vismech.network.pfv import layout_of

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def dictionary(k, c, mean=False):
    atoms = nn.functional.normalize(draw(k, c), dim=1)
    info = {"mean_norm": 0.7} if mean else {}
    return Dictionary(atoms, Coding(Code.lasso, 0.1, None), k - 1 if mean else None, info)


class Case:
    """Three images of 4 × 4 positions and 6 channels, 10 concepts, a segment to 2 × 2 positions and 5 channels."""

    def __init__(self, segment=None, mean=False, count=3, k=10):
        torch.manual_seed(0)
        layers = nn.Conv2d(6, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 5, 1)
        self.segment = (segment or nn.Sequential(*layers)).requires_grad_(False)
        self.lower, self.upper = dictionary(k, 6, mean), dictionary(7, 5)
        self.layout, self.above = layout_of((6, 4, 4), "a"), layout_of((5, 2, 2), "b")
        self.codes = draw(3, 16, k) * (draw(3, 1, k) > -0.8)
        if mean:
            self.codes[..., -1] = 0.7
        self.clean = self.layout.activation(self.lower.decode(self.codes), self.codes)
        vectors = self.above.vectors(self.segment(self.clean))
        self.codes_above = vectors @ self.upper.atoms.T
        self.targets = strongest_targets(vectors, self.codes_above, self.upper, self.above, count)
        self.vectors = vectors

    def scores(self, image=0, rows=64):
        return image_scores(self.segment, self.layout, self.clean, self.targets, image, rows)

    def direct(self, vectors, image=0):
        """Both read-outs of one reconstruction by the formula, target by target."""
        output = self.above.vectors(self.segment(self.layout.activation(vectors[None], self.clean[:1])))[0]
        projections = output @ self.targets.atoms[image].T
        return torch.stack([projections.max(0).values, projections.mean(0)], 1)


def effects_of(case, image=0, whole=None):
    whole = whole or composition(case.codes[image], case.lower, False)
    return {
        Order.random: random_effects(len(whole.units), "one"),
        Order.magnitude: magnitudes(whole),
        Order.leave_one_out: leave_one_out(whole, case.scores(image), 64),
    }


def test_targets_are_the_strongest_projections_where_codes_are_positive():
    case = Case(count=4)
    where = anchors(case.vectors, case.codes_above, case.upper.atoms)
    for image in range(3):
        values = {
            j: float(
                max(case.vectors[image, p] @ case.upper.atoms[j] for p in range(4) if case.codes_above[image, p, j] > 0)
            )
            for j in range(7)
            if (case.codes_above[image, :, j] > 0).any()
        }
        best = sorted(values, key=values.__getitem__, reverse=True)[:4]
        expected = best + [-1] * (4 - len(best))
        assert case.targets.concepts[image].tolist() == expected
        assert case.targets.anchors[image].tolist() == [int(where[image, j]) if j >= 0 else -1 for j in expected]


def test_an_image_has_no_more_targets_than_concepts_and_never_the_mean_concept():
    vectors, upper = draw(2, 4, 5), dictionary(3, 5, mean=True)
    codes = torch.stack([torch.full((4, 3), -1.0), torch.ones(4, 3)])
    vectors[1] = upper.atoms.sum(0) * 3
    found = strongest_targets(vectors, codes, upper, layout_of((5, 2, 2), "b"), 5)
    assert found.concepts[0].tolist() == [-1] * 5 and not found.present[0].any()
    there = set(found.concepts[1].tolist()) - {-1}
    assert there <= {0, 1} and there


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("rows", [3, 64, 1000])
def test_curves_follow_from_codes_set_to_zero(mean, rows):
    case = Case(mean=mean)
    whole = composition(case.codes[0], case.lower, mean_kept=mean)
    assert not (mean and 9 in whole.units)
    effects = effects_of(case, whole=whole)
    found = curves(whole, effects, case.scores(rows=rows), rows)
    inserted, deleted = share_counts(len(whole.units))
    for number, effect in enumerate(effects.values()):
        for target in range(3):
            order = effect[min(target, len(effect) - 1)].argsort(descending=True, stable=True)
            ranked = whole.units[order].tolist()
            for curve, counts, keep in (
                (found.insertion, inserted, True),
                (found.deletion, deleted, False),
                (found.insertion_first, np.minimum(EARLY, len(ranked)), True),
                (found.deletion_first, np.minimum(EARLY, len(ranked)), False),
            ):
                for place, count in enumerate(counts):
                    codes = case.codes[0].clone()
                    codes[:, ranked[count:] if keep else ranked[:count]] = 0
                    expected = case.direct(case.lower.decode(codes))[target]
                    torch.testing.assert_close(curve[target, number, :, place], expected, rtol=1e-4, atol=1e-5)


def test_ends_are_direct_forward_passes_bit_for_bit():
    case = Case()
    whole = composition(case.codes[1], case.lower, False)
    found = curves(whole, effects_of(case, 1), case.scores(1), 64)
    full = case.lower.decode(case.codes[1])
    nothing, everything = case.scores(1)(torch.stack([torch.zeros_like(full), full]))
    for curve, first, last in ((found.insertion, nothing, everything), (found.deletion, everything, nothing)):
        for number in range(3):
            assert torch.equal(curve[:, number, :, 0], first)
            assert torch.equal(curve[:, number, :, -1], last)


def test_an_order_and_its_reverse_cancel():
    case = Case(k=9)  # an odd number of concepts, whose half is no whole number
    case.codes[case.codes == 0] = 0.3
    whole = composition(case.codes[0], case.lower, False)
    assert len(whole.units) == 9
    effect = random_effects(9, "one")
    found = curves(whole, {Order.random: effect, Order.magnitude: -effect}, case.scores(), 64)
    difference = share_area((found.insertion - found.deletion).numpy())
    np.testing.assert_allclose(difference[:, 0], -difference[:, 1], atol=1e-5)
    assert np.abs(difference[:, 0]).max() > 1e-3


def test_leave_one_out_and_patching_against_plain_loops():
    case = Case()
    whole, donor = composition(case.codes[0], case.lower, False), case.codes[2]
    lost = leave_one_out(whole, case.scores(), 4)
    restored = activation_patching(whole, donor, case.lower, case.scores(), 4)
    for place, unit in enumerate(whole.units.tolist()):
        without, patched = case.codes[0].clone(), donor.clone()
        without[:, unit], patched[:, unit] = 0, case.codes[0][:, unit]
        drop = case.direct(case.lower.decode(case.codes[0])) - case.direct(case.lower.decode(without))
        torch.testing.assert_close(lost[:, place], drop[:, 0], rtol=1e-4, atol=1e-5)
        gain = case.direct(case.lower.decode(patched)) - case.direct(case.lower.decode(donor))
        torch.testing.assert_close(restored[:, place], gain[:, 0], rtol=1e-4, atol=1e-5)


def test_targets_summed_over_positions_are_judged_by_their_mean():
    case = Case()
    summed = replace(case.targets, readout=ReadOut.sum)
    output = case.segment(case.clean)
    values, means = summed(output, torch.arange(3)), summed.read(output, 1)[1, :, summed.column]
    torch.testing.assert_close(values[1], 4 * means)
    assert not torch.allclose(values, case.targets(output, torch.arange(3)))


def test_on_a_linear_segment_with_one_position_all_effects_are_the_same_number():
    torch.manual_seed(0)
    case = Case(nn.Sequential(nn.Conv2d(6, 5, 4, bias=False)))
    case.above = layout_of((5, 1, 1), "b")
    vectors = case.above.vectors(case.segment(case.clean))
    case.targets = strongest_targets(vectors, vectors @ case.upper.atoms.T, case.upper, case.above, 2)
    assert case.targets.present.all()
    source: Any = ConceptSource(case.lower.atoms, case.codes, case.layout.vectors(case.clean))
    weights = (PathWeight.ig, PathWeight.left_ig, PathWeight.idg)

    def told(**how):
        settings = Settings(mode=Mode.reverse, **how)
        return attribute(case.segment, case.layout, source, case.clean, case.targets, settings).edges

    along, end = told(weights=weights, steps=8), told(rule=Rule.riemann_right, steps=1)[PathWeight.ig].units[0]
    whole = composition(case.codes[0], case.lower, False)
    by_hand = torch.stack(
        [torch.stack([case.direct(part)[target, 0] for part in whole.part(slice(None))]) for target in range(2)]
    )
    lost = leave_one_out(whole, case.scores(), 64)
    restored = activation_patching(whole, torch.zeros_like(case.codes[0]), case.lower, case.scores(), 64)
    for effect in (along[PathWeight.ig].units[0][:, whole.units], end[:, whole.units], lost, restored):
        torch.testing.assert_close(effect, by_hand, rtol=1e-3, atol=1e-5)
    # An order by the true effects is the best that there is.
    found = curves(whole, {Order.gig: by_hand, Order.random: effects_of(case)[Order.random]}, case.scores(), 64)
    assert (found.insertion[:, 0, 0] >= found.insertion[:, 1, 0] - 1e-5).all()
    assert (found.deletion[:, 0, 0] <= found.deletion[:, 1, 0] + 1e-5).all()


def test_random_orders_are_centred_on_zero():
    case = Case()
    whole, scores = composition(case.codes[0], case.lower, False), case.scores()
    differences = []
    for number in range(300):
        effect = random_effects(len(whole.units), number)
        found = curves(whole, {Order.random: effect}, scores, 64)
        differences.append(share_area((found.insertion - found.deletion)[:, 0, 0].numpy()))
    cases = np.array(differences)
    assert (np.abs(cases.mean(0)) < 3.5 * cases.std(0) / len(cases) ** 0.5).all()
    assert (cases.std(0) > 1e-3).all()


def test_no_active_concept_in_an_order_of_none():
    case = Case()
    whole = composition(torch.zeros_like(case.codes[0]), case.lower, False)
    effects = {Order.random: random_effects(0, "one")}
    found = curves(whole, effects, case.scores(), 64)
    assert found.insertion.shape == (3, 1, 2, GRID)
    torch.testing.assert_close(found.insertion, found.deletion)


def stored(ends):
    """Curves that rise in a straight line between given ends [n, T, 2], one order; deletion falls likewise."""
    low, high = np.moveaxis(np.asarray(ends, dtype=np.float64), -1, 0)
    rise = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, GRID)
    early = low[..., None] + (high - low)[..., None] * np.array(EARLY) / 100
    parts = {"insertion": rise, "deletion": rise[..., ::-1], "insertion_first": early, "deletion_first": early}
    return {name: values[:, :, None] for name, values in parts.items()}


def test_small_denominators_are_skipped_and_absent_targets_left_out():
    ends = [[[0.0, 2.0], [1.0, 1.0 + SMALL / 2]], [[0.0, SMALL / 2], [1.0, 9.0]]]
    present = np.array([[True, True], [True, False]])
    ratio, recovery = (scored(stored(ends), present, score) for score in ("ratio", "recovery"))
    assert ratio.measured.tolist() == [[True, True], [False, False]]
    assert np.median([2.0, SMALL / 2, SMALL / 2]) == SMALL / 2  # so that nothing is small beside the typical recovery
    assert recovery.measured.tolist() == [[True, True], [True, False]]
    np.testing.assert_allclose(recovery.insertion[0, 0, 0, [0, -1]], [0, 1])
    np.testing.assert_allclose(ratio.insertion[0, 1, 0, [0, -1]], [1 / (1 + SMALL / 2), 1])
    assert np.isnan(recovery.insertion[1, 1]).all()
    areas = ratio.areas()
    assert {name: values.shape for name, values in areas.items()} == dict.fromkeys(areas, (1, 1))
    np.testing.assert_allclose(areas["auc_difference"], 0, atol=1e-12)


def test_a_score_that_is_not_finite_is_an_error():
    case = Case(nn.Sequential(nn.Conv2d(6, 5, 3, 2, 1)))
    scores = case.scores()
    with pytest.raises(FloatingPointError, match="not finite"):
        scores(torch.full((1, 16, 6), torch.inf))
