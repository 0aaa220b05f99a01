"""What a plan declares beside what a run does: bytes, rows through the network, gradients."""

from __future__ import annotations

import json

import pytest
import torch

from integration.conftest import draw_pictures, tiny_config
from integration.test_commands import command, tiny_arguments
from vismech.attribution import gig
from vismech.config.choices import Evaluation, Method, Rule, Scope, Stage
from vismech.config.schema import Config
from vismech.intervene import effects
from vismech.measures import unit_loop
from vismech.measures.audit import loop as audit_loop
from vismech.measures.circuit import loop
from vismech.measures.planted.models import plant
from vismech.measures.repair import loop as repair_loop
from vismech.measures.shortcut import loop as shortcut_loop
from vismech.sources.data import open_data
from vismech.stages.pipeline import describe_plan, make_plan, open_context
from vismech.stages.planned import prices
from vismech.stages.run import run

pytestmark = pytest.mark.thorough

KINDS = [
    *(Evaluation.reconstruction, Evaluation.insertion, Evaluation.transfer, Evaluation.interlayer),
    *(Evaluation.circuit, Evaluation.saturation, Evaluation.localization, Evaluation.attribution),
]


@pytest.fixture(scope="module")
def planned_and_done(pictures, tmp_path_factory):
    """Costs of a tiny run before it is run, and after it; gradients that its traces took; and its store."""
    base = tmp_path_factory.mktemp("costs")
    config = tiny_config(pictures, base / "store")
    config.attribute.rule, config.graph.measured, config.evaluate.kinds = Rule.midpoint, True, KINDS
    gradients: dict[str, int] = {"trace": 0, "circuit": 0, "masks": 0}

    def costs():
        ctx = open_context(config)
        plan = make_plan(ctx)
        keys = [spec.key for spec in plan.specs()]
        return prices(ctx, plan, keys), ctx, plan

    before, _, _ = costs()
    plain = gig.pieces

    def counted(*arguments, **options):
        for piece in plain(*arguments, **options):
            gradients["trace"] += piece.values.numel()
            yield piece

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gig, "pieces", counted)
        config.until = Stage.trace
        run(config, base / "traced")
    forward, outputs = loop.circuit_forward, unit_loop.unit_outputs

    def passed(segments, layers, first, *rest):
        answer = forward(segments, layers, first, *rest)
        gradients["circuit"] += len(answer) * len(segments)
        return answer

    def masked(*arguments):
        each = outputs(*arguments)

        def counted(kept):
            gradients["masks"] += len(kept)
            return each(kept)

        return counted

    config.until = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "circuit_forward", passed)
        patch.setattr(unit_loop, "unit_outputs", masked)
        run(config, base / "run")
    after, ctx, plan = costs()
    return before, after, ctx, plan, gradients


@pytest.mark.thorough
def test_every_stage_of_a_run_tells_its_cost(planned_and_done) -> None:
    before, after, *_ = planned_and_done
    assert len(before.rows) == len(after.rows) > 20
    assert all(row.cost is not None and row.seconds is not None for row in before.rows)
    assert {row.unit.split()[0] for row in before.rows if row.stage == "evaluate"} == {kind.value for kind in KINDS}


@pytest.mark.thorough
def test_vectors_take_the_bytes_that_were_planned(planned_and_done) -> None:
    before, _, ctx, plan, _ = planned_and_done
    planned = {row.unit: row.cost.written for row in before.rows if row.stage == "extract"}
    for unit, spec in [*plan.vectors.items(), ("logits", plan.logits)]:
        arrays = [path for path in ctx.store.open(spec).folder.glob("*.npy")]
        there = sum(path.stat().st_size - 128 for path in arrays)  # a header of 128 bytes each
        marks = sum(path.stat().st_size - 128 for path in arrays if path.stem not in ("vectors", "positions", "logits"))
        assert planned[unit] == there - marks > 0


@pytest.mark.thorough
def test_gradients_of_traces_are_those_that_were_planned(planned_and_done) -> None:
    """With predictions known the plan is what was done, but for targets that images lack or that were shared."""
    before, after, _, _, gradients = planned_and_done
    told = {
        name: sum(row.cost.backward for row in one.rows if row.stage == "trace")
        for name, one in {"before": before, "after": after}.items()
    }
    assert gradients["trace"] <= told["after"] <= told["before"]
    assert told["after"] < 1.35 * gradients["trace"]


@pytest.mark.thorough
def test_rows_of_circuits_are_those_that_were_planned(planned_and_done) -> None:
    """But for those that are the same, as in a small network most are, and images of groups that are too small."""
    _, after, ctx, _, done = planned_and_done
    (row,) = [row for row in after.rows if row.unit == "circuit circuit"]
    clean = row.cost.images * (1 + len(ctx.layers))
    assert 0 < done["circuit"] <= row.cost.forward - clean <= 2 * done["circuit"]


@pytest.mark.thorough
def test_masked_rows_of_attributions_are_those_that_were_planned(planned_and_done) -> None:
    """But for targets that images lack."""
    _, after, ctx, _, done = planned_and_done
    rows = [row for row in after.rows if row.unit.startswith(("saturation ", "attribution "))]
    steps = ctx.config.attribute.steps
    masks = 0.0
    for row in rows:
        pixels = "pixels" in row.unit
        points = steps * (row.cost.images + 10 * min(row.cost.images, ctx.config.evaluate.sensitivity_images))
        masks += row.cost.forward - points - row.cost.images * (2 + (not pixels))
    assert 0 < done["masks"] <= masks < 1.5 * done["masks"]


@pytest.mark.thorough
def test_what_is_there_costs_nothing(planned_and_done) -> None:
    _, _, ctx, plan, _ = planned_and_done
    missing = [row["key"] for row in describe_plan(ctx, plan) if not row["hit"]]
    assert missing == [] and prices(ctx, plan, missing).rows == []


def test_the_command_prints_costs_and_the_network_is_counted_once(pictures, tmp_path) -> None:
    arguments = [*tiny_arguments(pictures, tmp_path / "store"), "plan=true", "until=trace"]
    told = command([*arguments, "plan_device=h100"], tmp_path / "here")
    assert told.status == 0, told.err
    lines = told.out.splitlines()
    head = next(line for line in lines if line.startswith("stage"))
    assert head.split()[-2:] == ["here", "h100"] and lines[-1].endswith("0 hits, 17 misses")
    assert sum(line.startswith("trace") for line in lines) == 5
    assert any("a slow core, by default; vismech-bench measures this machine" in line for line in lines)
    without = command(arguments, tmp_path / "here")
    assert "h100" not in without.out


@pytest.mark.parametrize("value", ["h1000", "3", "[h100]"])
def test_another_gpu_is_one_sentence(value, pictures, tmp_path) -> None:
    done = command([*tiny_arguments(pictures, tmp_path / "store"), "plan=true", f"plan_device={value}"], tmp_path)
    assert done.status == 1 and "plan_device" in done.sentence and "h100" in done.sentence


def test_counts_are_kept_with_the_outline(tmp_path) -> None:
    from vismech.network.outline import Outline, read_outline

    outline = Outline({"a": 1}, {}, ["x"], {}, {"x": (3,)}, counts={("pixels", "x"): (1.0, 2.0)})
    outline.write(tmp_path / "one.json")
    assert read_outline(tmp_path / "one.json") == outline
    content = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps({**content, "counts": [["pixels"]]}))
    assert read_outline(tmp_path / "one.json") is None


@pytest.mark.thorough
def test_this_machine_is_measured(tmp_path, monkeypatch, capsys) -> None:
    from vismech.commands import bench
    from vismech.costs import measure
    from vismech.costs.machines import machine_of

    monkeypatch.setattr(measure, "LONG", 0.0)
    monkeypatch.setattr(measure.seconds, "__defaults__", (0.0,))  # once each
    bench.main(["--root", str(tmp_path / "store")])
    machine = machine_of(tmp_path / "store")
    assert machine.measured and min(machine.rates.values()) > 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == str(tmp_path / "store/machines.json") and len(told) == len(machine.rates) + 4
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["machines.json"]


def test_a_store_that_cannot_be_made_is_one_sentence(tmp_path, capsys) -> None:
    from vismech.commands import bench

    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        bench.main(["--root", str(tmp_path / "file/store")])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("vismech-bench: ") and "--root" in told and len(told.splitlines()) == 1


EDITS = {
    Evaluation.audit: (audit_loop, "measured_effects"),
    Evaluation.repair: (repair_loop, "answers_without"),
    Evaluation.shortcut: (shortcut_loop, "answers_without"),
}


def _audit(config, folder) -> None:
    config.evaluate.images, config.edit.candidates, config.graph.images_per_class = None, 2, 4


def _repair(config, folder) -> None:
    config.model.target = "tiny:undecided"
    config.graph.scope, config.graph.classes, config.evaluate.images = Scope["error"], [0, 1], 4


def _shortcut(config, folder) -> None:
    ids = open_data(config.data.source, config.data.root).ids
    (folder / "groups.csv").write_text("id,stamp\n" + "".join(f"{name},{at % 2}\n" for at, name in enumerate(ids)))
    config.data.groups, config.evaluate.images = str(folder / "groups.csv"), None
    config.model.target = "tiny:undecided"
    config.graph.scope, config.graph.classes, config.edit.target = Scope["class"], [1], 1
    config.edit.counts = [1, 3]


@pytest.mark.parametrize("measure", [_audit, _repair, _shortcut])
def test_rows_of_edits_are_those_that_were_planned(measure, pictures, tmp_path, monkeypatch) -> None:
    """But for concepts that an image lacks, or that speak for several classes."""
    kind = Evaluation[measure.__name__.removeprefix("_")]
    per_class = 10 if kind is not Evaluation.audit else 32
    config = tiny_config(draw_pictures(tmp_path / "pictures", per_class), tmp_path / "store")
    config.extract.layers, config.evaluate.kinds = ["layer2", "layer3"], [kind]
    measure(config, tmp_path)
    config.until = Stage.graph
    run(config, tmp_path / "first")
    config.until = None
    ctx = open_context(config)
    plan = make_plan(ctx)
    missing = [row["key"] for row in describe_plan(ctx, plan) if not row["hit"]]
    told = [row for row in prices(ctx, plan, missing).rows if row.stage in ("evaluate", "effects")]
    assert told and all(row.cost is not None for row in told)
    done, padded = 0, effects._padded
    module, name = EDITS[kind]
    edits = getattr(module, name)

    def counted(read, activation, image):
        nonlocal done
        done += len(image)
        return padded(read, activation, image)

    def called(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(effects, "_padded", counted)
            return edits(*arguments)

    monkeypatch.setattr(module, name, called)
    run(config, tmp_path / "run")
    steps = config.attribute.steps + 1 if kind is Evaluation.repair else 0
    rows = 0.0
    for row in told:
        if row.unit.startswith(f"{kind.value} "):
            first = kind is Evaluation.repair or row.unit.endswith("layer2")
            rows += row.cost.forward - row.cost.images * (first + steps)
    assert 0 < done <= 1.1 * rows <= 2.75 * done  # the last batch is filled up


def test_rows_through_planted_networks_are_those_that_were_planned(tmp_path, monkeypatch) -> None:
    config = Config(name="planted", until=Stage.evaluate)
    config.store.root, config.report.page, config.attribute.steps = str(tmp_path / "store"), False, 5
    config.evaluate.kinds, config.evaluate.networks = [Evaluation.planted], ["linear", "multi_hop"]
    config.evaluate.seeds, config.evaluate.images, config.evaluate.noise = 2, 8, [0.0, 0.1]
    config.evaluate.training_images, config.dictionary.method = 8, Method.bisecting
    ctx = open_context(config)
    told = prices(ctx, plan := make_plan(ctx), [spec.key for spec in plan.specs()]).rows
    assert len(told) == 4 and all(row.cost is not None and row.seconds > 0 for row in told)
    done, gradients, plain = 0, 0, torch.autograd.grad

    def counted(circuit):
        network = plant(circuit)

        def passed(module, inputs, outputs) -> None:
            nonlocal done
            done += len(outputs)

        network.model[1].register_forward_hook(passed)
        return network

    def back(*arguments, **options):
        nonlocal gradients
        found = plain(*arguments, **options)
        gradients += len(found[0])
        return found

    monkeypatch.setattr("vismech.measures.planted.stage.plant", counted)
    monkeypatch.setattr(torch.autograd, "grad", back)
    run(config, tmp_path / "run")
    assert done == sum(row.cost.forward for row in told)
    assert gradients == sum(row.cost.backward for row in told)
