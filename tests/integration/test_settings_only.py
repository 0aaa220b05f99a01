"""Stages and measures compute with their settings alone: a configuration that raises when it is read hinders none."""

from __future__ import annotations

import numpy as np
import pytest

from vismech.config.choices import Baseline, Evaluation, Images, Scope, SourceKind, Stage
from vismech.config.schema import Config
from vismech.stages.context import Context
from vismech.stages.pipeline import make_plan, open_context

pytestmark = pytest.mark.thorough

EDITS = [Evaluation.audit, Evaluation.shortcut]
KINDS = [kind for kind in Evaluation if kind not in (Evaluation.planted, Evaluation.repair, *EDITS)]


def computed_without(monkeypatch, config: Config) -> set[str]:
    """Plan, then compute every job where reading the configuration raises; stage, unit and key of what was computed."""
    ctx, done = open_context(config), set()
    plan = make_plan(ctx)
    read = Context.__getattribute__

    def guarded(self, name: str):
        assert name != "config", "a stage reads the configuration"
        return read(self, name)

    for job in plan.jobs:
        with monkeypatch.context() as patch:
            patch.setattr(Context, "__getattribute__", guarded)
            missing = {unit: spec for unit, spec in job.specs.items() if ctx.store.find(spec) is None}
            if missing:
                job.compute(ctx, missing)
        done |= {f"{spec.stage} {unit} {spec.key}" for unit, spec in missing.items()}
    assert all(ctx.store.find(spec) is not None for spec in plan.specs())
    return done


def test_every_stage_and_measure(tiny, monkeypatch) -> None:
    tiny.evaluate.kinds, tiny.evaluate.sensitivity_images, tiny.evaluate.budgets = KINDS, 1, [4]
    tiny.evaluate.sources = [SourceKind.concepts, SourceKind.pixels]
    tiny.evaluate.images, tiny.evaluate.correct_only = 6, True
    tiny.report.figure, tiny.graph.measured = True, True
    done = computed_without(monkeypatch, tiny)
    assert {name.partition(" ")[0] for name in done} == {stage.value for stage in Stage}
    assert len(done) > 40


@pytest.mark.parametrize("baseline", [Baseline.mean, Baseline.images])
def test_other_paths(baseline, tiny, monkeypatch) -> None:
    tiny.attribute.baseline, tiny.attribute.baselines, tiny.attribute.tolerance = baseline, 2, 0.5
    tiny.until = Stage.graph
    assert any(name.startswith("graph ") for name in computed_without(monkeypatch, tiny))


def test_errors(tiny, monkeypatch) -> None:
    tiny.model.target, tiny.graph.scope, tiny.graph.classes = "tiny:undecided", Scope["error"], [0, 1]
    tiny.evaluate.kinds, tiny.evaluate.images = [Evaluation.repair], 2
    done = computed_without(monkeypatch, tiny)
    assert sum(name.startswith("evaluate ") for name in done) == 3


def test_edits(tiny, pictures, tmp_path, monkeypatch) -> None:
    ids = sorted(str(path.relative_to(pictures)) for path in pictures.glob("*/*.png"))
    rows = ["id,stamp", *(f"{sample},{place % 2}" for place, sample in enumerate(ids))]
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    tiny.data.groups, tiny.evaluate.kinds, tiny.until = str(tmp_path / "groups.csv"), EDITS, Stage.evaluate
    tiny.graph.scope, tiny.graph.classes, tiny.graph.images = Scope["class"], [0], Images.labelled
    tiny.edit.target, tiny.edit.counts, tiny.graph.images_per_class = 0, [1], 2
    monkeypatch.setattr("vismech.measures.audit.stage.LEAST_IMAGES", 1)
    done = computed_without(monkeypatch, tiny)
    assert (
        sum(name.startswith("evaluate ") for name in done) == 3 * 3
    )  # strengths and edits, and an audit, of each layer


def test_planted_networks(tmp_path, monkeypatch) -> None:
    config = Config(until=Stage.evaluate)
    config.store.root = str(tmp_path)
    config.evaluate.kinds, config.evaluate.networks, config.evaluate.seeds = [Evaluation.planted], ["linear"], 1
    config.evaluate.images, config.evaluate.noise, config.evaluate.training_images = 8, [0.0], 32
    config.attribute.steps = 8
    done = computed_without(monkeypatch, config)
    assert len(done) == 2 and np.all([name.startswith("evaluate linear") for name in done])
