"""A whole run and every evaluation on the make-believe device: the CPU's numbers, each stage within its budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from integration.conftest import draw_pictures, tiny_config
from rehearsal.budgets import within_budget
from rehearsal.device import Counts, device
from rehearsal.trainer import take_over
from vismech.config.choices import Around, Baseline, Evaluation, Images, Method, Positions, Rule, Scope, Stage
from vismech.config.schema import Config
from vismech.measures.planted import stage as planted
from vismech.measures.planted.networks import NETWORKS
from vismech.stages import running
from vismech.stages.run import run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*FAISS has no GPU support.*"),
    pytest.mark.filterwarnings("ignore:.*no accelerator is found.*"),  # pinned memory,
    pytest.mark.thorough,
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("rehearsal"), per_class=2)


@contextmanager
def on_the_device(monkeypatch) -> Iterator[dict[str, Counts]]:
    """A machine with a GPU; yields what each stage, and each kind of evaluation, did on it."""
    found: dict[str, Counts] = {}
    each = running._run_job

    def counted(ctx, job, events, place) -> None:
        kinds = {str(spec.inputs.get("measure", "")) for spec in job.specs.values()}
        name = " ".join(["stage", job.stage.value, *sorted(kinds - {""})])
        before = counts.launches.copy(), counts.waits.copy()
        each(ctx, job, events, place)
        spent = found.setdefault(name, Counts())
        spent.launches += counts.launches - before[0]
        spent.waits += counts.waits - before[1]

    with monkeypatch.context() as patch, device() as counts:
        take_over(patch)
        patch.setattr(running, "_run_job", counted)
        yield found


def small(pictures: Path, store: Path, *kinds: Evaluation) -> Config:
    config = tiny_config(pictures, store)
    config.extract.layers = ["layer2", "layer3"]
    config.dictionary.k, config.attribute.steps, config.describe.nearest = 5, 2, 2
    config.attribute.rule = Rule.midpoint
    config.graph.images_per_class, config.graph.limit, config.evaluate.images = None, 2, 2
    config.evaluate.kinds, config.evaluate.seeds, config.evaluate.training_images = list(kinds), 1, 16
    config.evaluate.budgets, config.evaluate.budget_l0_per_channel = [2], 0.25
    return config


def arrays(store: Path) -> dict[str, np.ndarray]:
    """Every array of floating-point numbers in the store, by its artifact's key."""
    files = {str(path.relative_to(store)): np.load(path) for path in sorted(store.glob("*/*/*.npy"))}
    return {name: array for name, array in files.items() if array.dtype.kind == "f"}


def rehearse(title: str, config: Config, folder: Path, monkeypatch) -> None:
    """The run on the CPU and on the device: the same keys, the same numbers."""
    stores = []
    for accelerator in ("cpu", "gpu"):
        config.runtime.accelerator, config.store.root = accelerator, str(folder / accelerator)
        if accelerator == "cpu":
            run(config, folder / "run-cpu")
        else:
            with on_the_device(monkeypatch) as found:
                run(config, folder / "run-gpu")
            for name, counts in found.items():
                if counts.launches:
                    within_budget(f"{title}: {name}", counts)
            assert any(counts.launches for counts in found.values())
        stores.append(arrays(Path(config.store.root)))
    assert list(stores[0]) == list(stores[1])
    for name, expected in stores[0].items():
        np.testing.assert_allclose(stores[1][name], expected, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_run(pictures, tmp_path, monkeypatch) -> None:
    config = small(pictures, tmp_path)
    config.graph.measured = True
    rehearse("run", config, tmp_path, monkeypatch)


def test_a_run_whose_nodes_are_chosen(pictures, tmp_path, monkeypatch) -> None:
    config = small(pictures, tmp_path)
    config.until, config.attribute.rule, config.extract.layers = Stage.graph, Rule.auto, ["layer3"]
    rehearse("rule=auto", config, tmp_path, monkeypatch)


@pytest.mark.parametrize("baseline", [Baseline.blur, Baseline.mean_position])
def test_contributions_with_the_stream_held(baseline, pictures, tmp_path, monkeypatch) -> None:
    config = small(pictures, tmp_path)
    config.model.target, config.extract.layers = "tiny:attending", ["layer1.attn", "layer1.mlp"]
    config.until, config.attribute.around, config.attribute.baseline = Stage.graph, Around.hold, baseline
    config.describe.cards, config.dictionary.method = 0, Method.channels  # clusters of so few vectors hang on last bits
    rehearse(f"held, {baseline}", config, tmp_path, monkeypatch)


@pytest.mark.parametrize("positions", [Positions.relevance, Positions.gradient])
def test_extraction_by_contribution(positions, pictures, tmp_path, monkeypatch) -> None:
    config = small(pictures, tmp_path)
    config.until, config.extract.positions = Stage.extract, positions
    rehearse(f"extract={positions}", config, tmp_path, monkeypatch)


ABOUT_DICTIONARIES = ("reconstruction", "insertion", "transfer", "interlayer", "localization")
GROUPS = {
    "dictionaries": [Evaluation(name) for name in ABOUT_DICTIONARIES],
    "attributions": [Evaluation.saturation, Evaluation.attribution],
    "stability": [Evaluation.stability],
    "errors": [Evaluation.repair],
    "circuits": [Evaluation.circuit],
    "edits": [Evaluation.shortcut, Evaluation.audit],
}
LAYERS = {"dictionaries": ["layer2", "layer3"]}


@pytest.mark.parametrize("group", GROUPS)
def test_evaluations(group, pictures, tmp_path, monkeypatch) -> None:
    config = small(pictures, tmp_path, *GROUPS[group])
    config.until = Stage.evaluate
    config.extract.layers = LAYERS.get(group, ["layer3"])
    if Evaluation.repair in GROUPS[group]:
        config.graph.scope, config.graph.classes = Scope["error"], [0, 1]
    if Evaluation.circuit in GROUPS[group]:
        config.graph.limit, config.evaluate.groups = None, {"all": [[0, 2]]}
    if Evaluation.shortcut in GROUPS[group]:
        edit(config, pictures, tmp_path)
        monkeypatch.setattr("vismech.measures.audit.stage.LEAST_IMAGES", 1)
    if Evaluation.transfer in GROUPS[group]:
        config.evaluate.images, config.evaluate.groups = 4, {"all": [[0, 2]]}
    rehearse(group, config, tmp_path, monkeypatch)


def edit(config: Config, pictures: Path, folder: Path) -> None:
    """Concepts of the first class are edited; every second picture is said to have something."""
    ids = sorted(str(path.relative_to(pictures)) for path in pictures.glob("*/*.png"))
    rows = ["id,stamp", *(f"{sample},{place % 2}" for place, sample in enumerate(ids))]
    (folder / "groups.csv").write_text("\n".join(rows))
    config.data.groups, config.evaluate.images = str(folder / "groups.csv"), None
    config.graph.scope, config.graph.classes, config.graph.images = Scope["class"], [0], Images.labelled
    config.edit.target, config.edit.counts = 0, [1, 2]


def test_planted_circuits(pictures, tmp_path, monkeypatch) -> None:
    """Their networks stay on the CPU; only learning concepts from them reaches the device."""
    config = small(pictures, tmp_path, Evaluation.planted)
    config.until, config.evaluate.networks, config.evaluate.noise = Stage.evaluate, list(NETWORKS)[:2], [0.0]
    config.runtime.accelerator, fit, seen = "gpu", planted.build, []

    def on_it(*args, **kwargs):
        assert kwargs["device"] == "cuda:0"
        with device() as counts:
            found = fit(*args, **kwargs)
        seen.append(counts)
        return found

    with monkeypatch.context() as patch:
        take_over(patch)
        patch.setattr(planted, "build", on_it)
        run(config, tmp_path / "run")
    assert len(seen) == 4 and all(counts.waits.total() == 0 for counts in seen)
    assert {kind for group in GROUPS.values() for kind in group} | {Evaluation.planted} == set(Evaluation)
