"""Runs that fill one store's passes together: the bytes of one run, whoever dies or never comes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from integration.conftest import _child, _preloaded, digest, run_apart, tiny_arguments, tiny_config
from vismech.config.choices import Evaluation, Stage
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.passes.loop import PaddedBatches
from vismech.passes.shards import Shard, shard_of
from vismech.stages.run import run
from vismech.store.artifacts import Spec, Store
from vismech.store.rows import Column, Rows

LIMIT = 300
# The plugin of Hydra that each needs, and what is typed.
LAUNCHERS = {
    "basic": ("",),
    "joblib": ("hydra_joblib_launcher", "launcher=joblib", "hydra.launcher.n_jobs=3"),
    "slurm": ("hydra_submitit_launcher", "launcher=local", "hydra.launcher.timeout_min=5"),
    "ray": ("hydra_ray_launcher", "launcher=ray", "+hydra.launcher.ray.init.num_cpus=3"),
}


def shard(config: Config, text: str, store: Path) -> Config:
    runtime = dataclasses.replace(config.runtime, shard=text)
    return dataclasses.replace(config, runtime=runtime, store=dataclasses.replace(config.store, root=str(store)))


class Meet:
    """Nobody writes a stage's first batch before everybody has one to write; one may be killed at its second.

    Args:
        gate: where they meet, once for each of the stages.
        stages: the stages.
        killed: of which this one does not survive.
    """

    def __init__(self, gate, stages: tuple[str, ...], killed: str = "") -> None:
        self.gate, self.stages, self.killed = gate, stages, killed

    def __call__(self) -> None:
        write, met, folders = Rows.write, set(), []

        def meeting(rows, *arguments) -> None:
            stage = rows.folder.parent.name
            if stage in self.stages and stage not in met:
                met.add(stage)
                self.gate.wait(LIMIT)
            folders.append(rows.folder)
            if stage == self.killed and folders.count(rows.folder) > 1:
                os.kill(os.getpid(), signal.SIGKILL)
            write(rows, *arguments)

        Rows.write = meeting


def together(configs: list[Config], base: Path, prepare: Callable[[int], Callable[[], None]]) -> list[int | None]:
    """Exit codes of runs that are started at once."""
    started = []
    for number, config in enumerate(configs, 1):
        (folder := base / str(number)).mkdir()
        started.append(_preloaded().Process(target=_child, args=(config, folder, prepare(number))))
        started[-1].start()
    for process in started:
        process.join(LIMIT)
    return [process.exitcode for process in started]


@pytest.fixture(scope="module")
def config(pictures) -> Config:
    config = tiny_config(pictures, Path("nowhere"))
    config.extract.layers, config.until = ["layer2", "layer3"], Stage.trace
    return config


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> dict[str, str]:
    """What one run makes."""
    base = tmp_path_factory.mktemp("alone")
    run(dataclasses.replace(config, store=dataclasses.replace(config.store, root=str(base / "store"))), base / "run")
    return digest(base / "store")


@pytest.mark.thorough
def test_three_runs_make_what_one_makes_though_one_is_killed_and_comes_again(config, alone, tmp_path) -> None:
    each = [shard(config, f"{part}/3", tmp_path / "store") for part in (1, 2, 3)]
    gate = _preloaded().Barrier(3)
    ends = together(each, tmp_path, lambda number: Meet(gate, ("extract",), "extract" if number == 2 else ""))
    assert ends == [0, -signal.SIGKILL, 0]
    assert digest(tmp_path / "store") == alone
    assert run_apart(each[1], tmp_path / "again") == 0
    assert digest(tmp_path / "store") == alone
    assert not [*tmp_path.glob("store/*/*.partial"), *tmp_path.glob("store/*/*/.*")]
    timings = pd.read_csv(tmp_path / "again/tables/timings.csv")
    assert timings.cached.all()


@pytest.mark.thorough
def test_every_pass_of_a_run_is_shared(pictures, tmp_path) -> None:
    config = tiny_config(pictures, tmp_path / "one")
    config.graph.measured = True
    config.extract.layers, config.evaluate.sensitivity_images = ["layer2", "layer3"], 4
    config.evaluate.kinds = [
        Evaluation.reconstruction,
        Evaluation.interlayer,
        Evaluation.saturation,
        Evaluation.circuit,
    ]
    run(config, tmp_path / "run")
    gate = _preloaded().Barrier(3)
    each = [shard(config, f"{part}/3", tmp_path / "store") for part in (1, 2, 3)]
    ends = together(each, tmp_path, lambda _: Meet(gate, ("extract", "trace", "effects", "evaluate")))
    assert ends == [0, 0, 0], [path.read_text() for path in tmp_path.glob("*/error.txt")]
    assert digest(tmp_path / "store") == digest(tmp_path / "one")


def test_a_run_whose_fellows_never_come_does_it_all(config, alone, tmp_path) -> None:
    run(shard(config, "2/3", tmp_path / "store"), tmp_path / "run")
    assert digest(tmp_path / "store") == alone


@pytest.mark.thorough
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_over_shards(launcher, config, alone, pictures, tmp_path) -> None:
    extra, *own = LAUNCHERS[launcher]
    if extra:
        pytest.importorskip(
            f"hydra_plugins.{extra}", reason=f"{extra} is not installed: pip install vismech[{launcher}]"
        )
    layers = f"extract.layers=[{','.join(config.extract.layers)}]"
    arguments = [*tiny_arguments(pictures, tmp_path / "store"), layers, "until=trace", *own]
    # A process like any other: joblib's own ones outlive it in a forked one.
    ended = subprocess.run(
        [sys.executable, "-m", "vismech", "-m", *arguments, "runtime.shard=1/3,2/3,3/3"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert digest(tmp_path / "store") == alone
    (table,) = tmp_path.glob("outputs/sweeps/*/*/completeness.csv")
    assert {*pd.read_csv(table)["runtime.shard"]} == {"1/3", "2/3", "3/3"}


# Parts


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
@pytest.mark.parametrize("world", [1, 2])
def test_parts_and_processes_have_every_batch_once(parts, world) -> None:
    whole = PaddedBatches(22, 4).batches
    shares = [PaddedBatches(22, 4, rank, world, share=(part, parts)) for part in range(parts) for rank in range(world)]
    assert sorted(batch for share in shares for batch in share) == sorted(whole)


@pytest.mark.parametrize("text", ["4/3", "0/3", "x", "1", "1/0", "-1/3", "1/3/5", " 1/3", "1.0/3", "", "٣/٣"])
def test_a_part_that_there_is_not_is_refused(config, text, tmp_path) -> None:
    with pytest.raises(UserError, match=f"^runtime.shard={text} must be i/n, the i-th of n parts"):
        run(shard(config, text, tmp_path / "store"), tmp_path / "run")
    assert not [*tmp_path.iterdir()]


def test_a_part_is_read() -> None:
    runtime = Config().runtime
    assert shard_of(runtime) is None
    assert shard_of(dataclasses.replace(runtime, shard="03/12")) == Shard(3, 12)


def test_force_is_refused(config, tmp_path) -> None:
    forced = dataclasses.replace(shard(config, "1/2", tmp_path / "store"), force=[Stage.trace])
    with pytest.raises(UserError, match=r"runtime\.shard=1/2 cannot go with force"):
        run(forced, tmp_path / "run")


# What they share


def test_who_fills_beside_others_keeps_out_who_does_not(tmp_path) -> None:
    store, other, spec = Store(tmp_path), Store(tmp_path), Spec("extract", 1, "a", {"a": 1})
    with store.lock(spec, shared=True), other.lock(spec, shared=True):
        with store.unless_busy(store.folder(spec)) as free:
            assert not free
        with pytest.raises(AssertionError, match="being filled by others"), store.writer(spec, resume=True):
            pass
    with store.unless_busy(store.folder(spec)) as free:
        assert free
    with other.lock(spec), other.writer(spec, resume=True):
        pass
    assert store.find(spec) is not None


def test_arrays_that_one_has_made_are_the_other_ones_too(tmp_path) -> None:
    columns = {"a": Column((2,)), "b": Column((), "int32")}

    def values(count: int, value: int) -> dict:
        return {"a": np.full((count, 2), value, "float32"), "b": np.full(count, value, "int32")}

    one = Rows(tmp_path, columns, 4)
    one.write([0, 2], [True, True], values(2, 1))
    two = Rows(tmp_path, columns, 4)
    two.write([1, 3], [True, False], values(2, 2))
    assert one.done() == two.done() == {0: True, 1: True, 2: True, 3: False}
    one.close()
    assert two.finish() == [0, 1, 2]
    assert np.load(tmp_path / "b.npy").tolist() == [1, 2, 1]
