"""A sweep's tables in one: rows of all jobs, in order, beside what the sweep varied."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from vismech.commands.run_folders import count_jobs
from vismech.compare.sweep import collect


def job(sweep, number: int, overrides: list[str] | None, **tables: pd.DataFrame) -> None:
    folder = sweep / str(number)
    (folder / "tables").mkdir(parents=True)
    for name, frame in tables.items():
        frame.to_csv(folder / "tables" / f"{name}.csv", index=False)
    if overrides is not None:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))


def table(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"layer": [f"layer{row}" for row in range(len(values))], "value": values})


def test_what_the_sweep_varied_becomes_columns(tmp_path) -> None:
    for number, k in enumerate((2, 4)):
        job(tmp_path, number, ["experiment=x", f"dictionary.k={k}", "+model.kwargs.a=1"], completeness=table(k, 10 * k))
    assert collect(tmp_path) == [tmp_path / "completeness.csv"]
    found = pd.read_csv(tmp_path / "completeness.csv")
    assert list(found.columns) == ["job", "dictionary.k", "layer", "value"]
    assert found.values.tolist() == [
        [0, 2, "layer0", 2.0],
        [0, 2, "layer1", 20.0],
        [1, 4, "layer0", 4.0],
        [1, 4, "layer1", 40.0],
    ]


def test_jobs_are_in_the_order_of_their_numbers(tmp_path) -> None:
    for number in (10, 9, 0, 2):
        job(tmp_path, number, [f"seed={number}"], timings=table(number))
    collect(tmp_path)
    assert pd.read_csv(tmp_path / "timings.csv")["job"].tolist() == [0, 2, 9, 10]


def test_every_table_is_collected_where_it_is(tmp_path) -> None:
    job(tmp_path, 0, ["a=1"], timings=table(1), extraction=table(2))
    job(tmp_path, 1, ["a=2"], timings=table(3))
    (tmp_path / "notes").mkdir()
    assert {path.name for path in collect(tmp_path)} == {"timings.csv", "extraction.csv"}
    assert len(pd.read_csv(tmp_path / "timings.csv")) == 2 and len(pd.read_csv(tmp_path / "extraction.csv")) == 1


def test_tables_with_other_columns_are_joined_by_name(tmp_path) -> None:
    job(tmp_path, 0, ["a=1"], t=pd.DataFrame({"x": [1], "y": [2]}))
    job(tmp_path, 1, ["a=2"], t=pd.DataFrame({"y": [3], "z": [4]}))
    collect(tmp_path)
    found = pd.read_csv(tmp_path / "t.csv")
    assert found["y"].tolist() == [2, 3] and found["x"].isna().tolist() == [False, True]


def test_an_override_given_to_some_jobs_only_is_a_column(tmp_path) -> None:
    job(tmp_path, 0, ["a=1"], t=table(1))
    job(tmp_path, 1, ["a=1", "++b=x=y"], t=table(2))
    collect(tmp_path)
    found = pd.read_csv(tmp_path / "t.csv")
    assert "a" not in found and found["b"].fillna("").tolist() == ["", "x=y"]


def test_a_column_of_the_table_keeps_its_name(tmp_path) -> None:
    for number in (0, 1):
        job(tmp_path, number, [f"layer={number}", f"job={number}"], t=table(number))
    collect(tmp_path)
    found = pd.read_csv(tmp_path / "t.csv")
    assert list(found.columns) == ["job", "overrides.layer", "overrides.job", "layer", "value"]
    assert found["layer"].tolist() == ["layer0", "layer0"] and found["overrides.layer"].tolist() == [0, 1]


def test_collecting_twice_gives_the_same_table(tmp_path) -> None:
    job(tmp_path, 0, ["a=1"], t=table(1))
    job(tmp_path, 1, ["a=2"], t=table(2))
    first = (collect(tmp_path), (tmp_path / "t.csv").read_bytes())
    assert (collect(tmp_path), (tmp_path / "t.csv").read_bytes()) == first


@pytest.mark.parametrize("jobs", [0, 1])
def test_no_job_and_one_job(tmp_path, jobs) -> None:
    for number in range(jobs):
        job(tmp_path, number, ["a=1"], t=table(1))
    assert [path.name for path in collect(tmp_path)] == ["t.csv"][:jobs]
    if jobs:
        assert pd.read_csv(tmp_path / "t.csv")["a"].tolist() == [1]


def test_jobs_without_tables_or_overrides_are_passed_over(tmp_path) -> None:
    job(tmp_path, 0, None, t=table(1))
    job(tmp_path, 1, ["a=2"], t=table(2))
    (tmp_path / "2").mkdir()  # failed before it wrote anything
    job(tmp_path, 3, ["a=3"], t=table(3))
    (tmp_path / "3" / "tables" / "t.csv").write_bytes(b"")  # killed while it wrote
    collect(tmp_path)
    assert pd.read_csv(tmp_path / "t.csv")["job"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("params", "given", "count"),
    [
        (None, ["seed=0,1,2", "dictionary.k=2,4", "name=x"], 6),
        ({"dictionary.k_per_channel": "1,2,4"}, ["name=x"], 3),
        ({"dictionary.k_per_channel": "1,2,4"}, ["dictionary.k_per_channel=2,8"], 2),
        (None, ["seed=range(0,5)", "extract.layers=[a,b],[c]", "+model.kwargs.a='x,y'"], 10),
        (None, ["name=x"], 1),
        (None, ["seed=0,"], None),
    ],
)
def test_the_number_of_jobs_is_hydras_own(params, given, count, tmp_path) -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    target = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    hydra = {"sweeper": {"_target_": target, "params": params}, "overrides": {"task": given}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    assert count_jobs(tmp_path) == count
    if count is not None:
        texts = [*(f"{key}={value}" for key, value in (params or {}).items()), *given]
        assert len(BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(texts), None)[0]) == count


def test_a_sweeper_that_chooses_as_it_goes_has_no_number(tmp_path) -> None:
    assert count_jobs(tmp_path) is None
    hydra = {"sweeper": {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    assert count_jobs(tmp_path) is None
