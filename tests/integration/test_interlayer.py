"""Inter-layer insertion and deletion in a run: its plan, its tables, and numbers that do not depend on the batches."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from integration.conftest import draw_pictures, tiny_config
from vismech.config.choices import Baseline, Evaluation, MeanRule, Order, ReadOut, Stage
from vismech.errors import UserError
from vismech.measures.interlayer.orders import READOUTS, Curves
from vismech.measures.interlayer.scores import SCORES
from vismech.stages.run import run

PAIRS = [("layer1", "layer2"), ("layer2", "layer3")]
KEYS = ["lower", "upper", "dictionary", "k", "code", "center", "mean_rule", "budget", "order", "score", "readout"]
TAIL = ["metric", "value", "n", "ci_low", "ci_high", "units"]


def config_of(pictures, folder, **more):
    config = tiny_config(pictures, folder / "store")
    config.until, config.evaluate.kinds = Stage.evaluate, [Evaluation.interlayer]
    config.evaluate.images, config.evaluate.targets_per_image = 7, 3
    config.describe.cards = 0
    for key, value in more.items():
        part, name = key.split("__")
        setattr(getattr(config, part), name, value)
    return config


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interlayer")
    return folder, run(config_of(pictures, folder), folder / "run")


def arrays(folder, name):
    """unit → one array of its artifact, of the only run in a store."""
    found = {}
    for manifest in (folder / "store" / "evaluate").glob("*/manifest.json"):
        found[json.loads(manifest.read_text())["unit"]] = np.load(manifest.parent / f"{name}.npy")
    return found


def test_only_what_is_needed_is_planned(finished):
    _, result = finished
    stages = [row["stage"] for row in result.plan]
    assert stages == ["extract"] * 3 + ["dictionary"] * 3 + ["evaluate"] * 2


def test_the_table_holds_every_pair_order_score_and_readout(finished):
    folder, result = finished
    table = pd.read_csv(folder / "run/tables/interlayer.csv")
    assert list(table) == [*KEYS, *TAIL]
    areas = table[table.metric == "auc_difference"]
    expected = {(*pair, order.value, s, r) for pair in PAIRS for order in Order for s in SCORES for r in READOUTS}
    assert set(areas[["lower", "upper", "order", "score", "readout"]].itertuples(index=False, name=None)) == expected
    intervals = table.dropna(subset=["ci_low"])
    assert ((intervals.ci_low <= intervals.value) & (intervals.value <= intervals.ci_high)).all()
    wide = table[table.order.isin([*Order])].pivot_table(index=KEYS[:2] + KEYS[-3:], columns="metric", values="value")
    np.testing.assert_allclose(wide.auc_difference.dropna(), (wide.insertion - wide.deletion).dropna(), atol=1e-9)
    assert set(table[table.metric == "random_control"].order) == {"random"}
    counts = table[table.units == "targets"]
    assert set(counts.metric) == {"skipped", "absent"} and set(counts.n) == {21}
    gaps = table[table.metric == "completeness_gap"]
    assert len(gaps) == 2 and (gaps.value < 0.2).all()
    row = areas[(areas.order == "gig") & (areas.readout == "max")].iloc[0]
    name = f"interlayer/{row.lower}->{row.upper}/gig/{row.score}/max/auc_difference"
    assert result.metrics[name] == pytest.approx(row.value)


def test_cases_are_what_the_table_averages(finished):
    folder, _ = finished
    table = pd.read_csv(folder / "run/tables/interlayer.csv")
    cases = pd.read_csv(folder / "run/cases/interlayer.csv.gz")
    assert list(cases) == [*KEYS, "metric", "image", "value"]
    means = cases.groupby([*KEYS[:2], *KEYS[-3:], "metric"]).value.mean()
    rows = table[table.metric.isin(set(cases.metric)) & table.order.isin([*Order])]
    for row in rows.itertuples():
        found = means[row.lower, row.upper, row.order, row.score, row.readout, row.metric]
        assert found == pytest.approx(row.value, abs=1e-9)
    here = cases[(cases.lower == "layer1") & (cases.score == "ratio") & (cases.readout == "max")]
    wide = here[here.metric == "auc_difference"].pivot(index="image", columns="order", values="value")
    ahead = table[(table.metric == "gig_ahead") & (table.lower == "layer1") & (table.order == "magnitude")].iloc[0]
    assert (wide.gig - wide.magnitude).mean() == pytest.approx(ahead.value, abs=1e-9)


def test_curves_begin_and_end_where_they_must(finished):
    folder, result = finished
    curves = pd.read_csv(folder / "run/tables/curves.csv")
    ratio = curves[curves.score == "ratio"]
    np.testing.assert_allclose(ratio[ratio.x == 1].insertion, 1)
    np.testing.assert_allclose(ratio[ratio.x == 0].deletion, 1)
    recovery = curves[curves.score == "recovery"]
    np.testing.assert_allclose(recovery[recovery.x == 0].insertion, 0, atol=1e-12)
    (figure,) = [path for path in result.written if path.name == "interlayer_curves.png"]
    with Image.open(figure) as picture:
        assert picture.width >= 1400


def test_numbers_do_not_depend_on_batches_or_on_processes(finished, pictures, tmp_path):
    folder, _ = finished
    run(config_of(pictures, tmp_path, runtime__batch_size=3, runtime__path_batch_size=40), tmp_path / "run")
    for name in (*Curves._fields, "gap"):
        for unit, values in arrays(tmp_path, name).items():
            np.testing.assert_allclose(values, arrays(folder, name)[unit], rtol=1e-3, atol=1e-4, err_msg=name)
    for unit, concepts in arrays(tmp_path, "concepts").items():
        assert np.array_equal(concepts, arrays(folder, "concepts")[unit])


def test_a_mean_concept_is_kept_or_ranked_and_other_images_are_measured(pictures, tmp_path):
    others = draw_pictures(tmp_path / "others", per_class=2, reverse=True)
    active = {}
    for rule in MeanRule:
        more = {"dictionary__center": True, "dictionary__mean_rule": rule, "evaluate__root": str(others)}
        more["evaluate__orders"] = [Order.random, Order.gig]
        result = run(config_of(pictures, tmp_path / rule, **more), tmp_path / rule / "run")
        table = pd.read_csv(tmp_path / rule / "run/tables/interlayer.csv")
        assert set(table.mean_rule) == {rule.value}
        counted = table[table.metric == "auc_difference"]
        assert set(counted[(counted.score == "ratio") & (counted.readout == "max")].n) == {6}
        assert len(result.plan) == 8
        active[rule] = arrays(tmp_path / rule, "active")
    assert set(active[MeanRule.kept]) == {f"{lower}->{upper}" for lower, upper in PAIRS}
    for unit, kept in active[MeanRule.kept].items():
        assert (active[MeanRule.ranked][unit] == kept + 1).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attribute__baseline": Baseline.mean}, "attribute.baseline=mean at zero"),
        ({"attribute__readout": ReadOut.code}, "attribute.readout=code as max or sum"),
        ({"evaluate__targets_per_image": 0}, "targets_per_image=0"),
        ({"evaluate__orders": []}, r"evaluate.orders=\[\]"),
        ({"extract__layers": ["layer2"]}, "two layers or more"),
        ({"evaluate__images": 1}, "needs two images"),
    ],
)
def test_what_cannot_be_measured_is_refused(pictures, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        run(config_of(pictures, tmp_path, **change), tmp_path / "run")
