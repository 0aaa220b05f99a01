"""Runs and sweeps in one table: what shares a cell, what is best, what ties with it; every mistake is a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from vismech.commands.compare import main
from vismech.compare.comparison import direction
from vismech.compare.run_tables import TAIL, text_of
from vismech.measures.statistics import bootstrap, clustered_bootstrap, paired_difference

LAYERS = ("layer1", "layer2")


def extraction(method: str, **metrics: list[float]) -> pd.DataFrame:
    """A table whose k is a multiple of the layer's channels; intervals of ± 0.05."""
    rows = [
        [
            layer,
            method,
            8 * (index + 1),
            metric,
            values[index],
            100,
            values[index] - 0.05,
            values[index] + 0.05,
            "share",
        ]
        for metric, values in metrics.items()
        for index, layer in enumerate(LAYERS)
    ]
    return pd.DataFrame(rows, columns=["layer", "dictionary", "k", *TAIL])


def write_run(folder: Path, table: pd.DataFrame, name: str = "extraction", **settings) -> Path:
    (folder / "tables").mkdir(parents=True)
    table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    (folder / ".hydra").mkdir()
    config = {"name": folder.name, "seed": 0, "logger": {"project": folder.name}, **settings}
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_cases(run: Path, table: pd.DataFrame, noise: dict[str, np.ndarray], images: range) -> None:
    """Values of images whose mean is the number in the table; the k of cases is a float, as beside missing values."""
    rows = [
        {**{key: row[key] for key in ("layer", "dictionary")}, "k": float(row["k"]), "metric": row["metric"]}
        | {"image": f"{image:03}", "value": row["value"] + noise[row["dictionary"]][image]}
        for row in table.to_dict("records")
        for image in images
    ]
    (run / "cases").mkdir()
    pd.DataFrame(rows).to_csv(run / "cases/extraction.csv.gz", index=False)


def compared(capsys, *arguments) -> str:
    main([str(each) for each in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.startswith("vismech-compare: ") and error.count("\n") == 1
    return error


@pytest.fixture
def two(tmp_path):
    sae = write_run(tmp_path / "a", extraction("sae", auc_difference=[0.9, 0.5], l0=[3, 4], relative_error=[0.2, 0.4]))
    ours = write_run(
        tmp_path / "b", extraction("bisecting", auc_difference=[0.85, 0.7], l0=[5, 6], relative_error=[0.35, 0.1])
    )
    return sae, ours


def test_best_is_bold_and_overlap_is_marked(two, capsys) -> None:
    text = compared(capsys, *two, "--metric", "auc_difference", "relative_error", "l0")
    blocks = text.split("\n\n")
    assert "| dictionary | layer1 | layer2 |" in text and "k" not in text.split("\n")[4].split(" ")
    assert "| sae | **0.900** | 0.500 |" in text and "| bisecting | 0.850† | **0.700** |" in text
    # Less of an error is better; what is neither better nor worse is not marked.
    assert "| sae | **0.200** | 0.400 |" in text and "| bisecting | 0.350 | **0.100** |" in text
    assert "| sae | 3 | 4 |" in text
    assert "the two 95 % intervals overlap" in blocks[1] and "paired difference over" not in text


def test_values_of_images_decide_ties_where_both_have_them(two, capsys) -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.3, 60)
    shared[:50] -= shared[:50].mean()
    for run, method in zip(two, ("sae", "bisecting"), strict=True):
        table = pd.read_csv(run / "tables/extraction.csv")
        own = shared + rng.normal(0, 0.01, 60)
        own[:50] -= own[:50].mean()
        write_cases(run, table, {method: own}, range(50))
    text = compared(capsys, *two, "--metric", "auc_difference", "--out", two[0])
    # The intervals overlap, but the images differ all alike.
    assert "| bisecting | 0.850 | **0.700** |" in text and "over 50 common images" in text
    long = pd.read_csv(two[0] / "extraction.csv")
    row = long[(long["dictionary"] == "bisecting") & (long["layer"] == "layer1")].iloc[0]
    assert row["test"] == "paired" and row["difference"] == pytest.approx(-0.05)
    assert row["difference_low"] < -0.05 < row["difference_high"] < 0


def test_values_of_images_whose_mean_is_not_the_number_are_not_used(two, capsys) -> None:
    for run, method in zip(two, ("sae", "bisecting"), strict=True):
        table = pd.read_csv(run / "tables/extraction.csv")
        write_cases(run, table, {method: np.full(50, 0.2)}, range(50))
    assert "common images" not in compared(capsys, *two, "--metric", "auc_difference")


def test_settings_tell_apart_what_the_table_does_not(tmp_path, capsys) -> None:
    for number, seed in enumerate((0, 1)):
        write_run(tmp_path / "sweep" / str(number), extraction("sae", r2=[0.5 + seed / 10, 0.6]), seed=seed)
    (tmp_path / "sweep" / "2").mkdir()  # failed
    text = compared(capsys, tmp_path / "sweep")
    assert "| seed | layer1 | layer2 |" in text and "| 1 | **0.600** | **0.600** |" in text
    twice = compared(capsys, tmp_path / "sweep" / "0", tmp_path / "sweep")
    assert twice == text


def test_replicates_are_told_apart_by_their_folders(tmp_path, capsys) -> None:
    for time in ("01", "02"):
        write_run(tmp_path / "fig4" / time, extraction("sae", r2=[0.5, 0.6]))
    text = compared(capsys, tmp_path / "fig4/01", tmp_path / "fig4/02")
    assert "| fig4/01 | **0.500** |" in text and "| fig4/02 | **0.500** |" in text


def test_columns_are_pairs_of_layers_where_the_table_has_them(tmp_path, capsys) -> None:
    rows = [
        ["a", "b", order, "deletion", value, 9, None, None, "ratio"] for order, value in (("gig", 0.1), ("random", 0.4))
    ]
    names = ["lower", "upper", "order", "metric", "value", "n", "ci_low", "ci_high", "units"]
    run = write_run(tmp_path / "run", pd.DataFrame(rows, columns=names), "interlayer")
    text = compared(capsys, run)
    assert "| order | a→b |" in text and "| gig | **0.100** |" in text and "ties are unknown" in text
    assert "**0.400**" in compared(capsys, run, "--higher", "deletion")
    assert "| value |" in compared(capsys, run, "--columns", "", "--where", "order=gig")


def test_files_are_the_same_every_time_and_hold_the_same(two, tmp_path, capsys) -> None:
    arguments = [*two, "--intervals", "--out"]
    first, second = (compared(capsys, *arguments, tmp_path / name) for name in ("x", "y"))
    assert first == second == (tmp_path / "x/extraction.md").read_text()
    for name in ("extraction.csv", "extraction.md", "extraction.tex"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()
    latex = (tmp_path / "x/extraction.tex").read_text()
    assert r"\textbf{0.900 [0.850, 0.950]}" in latex and r"0.850 [0.800, 0.900]$^{\dagger}$" in latex
    assert r"\caption{auc\_difference (share)." in latex and r"95 \% intervals" in latex
    assert latex.count(r"\toprule") == latex.count(r"\end{table}") == 3 and "†" not in latex


def test_where_chooses_rows(two, capsys) -> None:
    text = compared(capsys, *two, "--where", "dictionary=bisecting", "--metric", "l0")
    assert text.startswith("# extraction, dictionary=bisecting\n") and "| 5 | 6 |" in text and "| 3 |" not in text
    assert "layer2" not in compared(capsys, *two, "--where", "layer=layer1")
    one, other = (compared(capsys, *two, "--where", where).split("\n", 1) for where in ("k=8.0", "layer=layer1"))
    assert one[1] == other[1]


def test_mistakes_are_sentences(two, tmp_path, capsys) -> None:
    assert "nowhere holds no tables" in refused(capsys, tmp_path / "nowhere")
    assert "has no table 'extractio' to compare; it has extraction" in refused(capsys, *two, "--table", "extractio")
    assert "no metric 'auc_diference'; it can be auc_difference" in refused(capsys, *two, "--metric", "auc_diference")
    assert "no key 'dictionnary'; it can be dictionary" in refused(capsys, *two, "--where", "dictionnary=sae")
    assert "no row with dictionary 'sa'; it can be sae" in refused(capsys, *two, "--where", "dictionary=sa")
    assert "write key=value" in refused(capsys, *two, "--where", "dictionary")
    assert "no key 'laier'; it can be layer" in refused(capsys, *two, "--columns", "laier")
    assert "add to --rows, or choose with --where, one of dictionary" in refused(capsys, *two, "--rows", "layer")
    assert "there is no metric 'l9'" in refused(capsys, *two, "--lower", "l9")
    write_run(tmp_path / "other", extraction("sae", r2=[1, 1]), "planted")
    assert "there is no table that all of these runs have" in refused(capsys, *two, tmp_path / "other")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(capsys, *two, "--out", tmp_path / "file" / "x")


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from vismech.commands.compare import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'pandas', 'numpy', 'lightning', 'hydra'} & {name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "usage: vismech-compare" in done.stdout and done.stdout.endswith("set()\n")


def test_comparing_loads_no_torch(two) -> None:
    code = (
        "import sys; from vismech.commands.compare import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, two)], capture_output=True, timeout=60, check=True)


def test_the_table_is_logged_to_wandb(two, tmp_path, capsys, monkeypatch) -> None:
    import wandb

    logged = {}

    class Fake:
        def __init__(self, **options):
            logged.update(options)

        def log(self, values):
            logged.update(values)

        def finish(self):
            logged["finished"] = True

    monkeypatch.setattr(wandb, "init", Fake)
    compared(capsys, *two, "--wandb", "study", "--out", tmp_path / "out")
    assert logged["project"] == "study" and logged["mode"] == "offline" and logged["finished"]
    assert len(logged["tables/comparison/extraction"].data) == 12


def transfer_run(folder: Path, method: str, values: np.ndarray, clusters: list | None) -> Path:
    """A run with transfer's score of 60 images at one layer."""
    row = ["layer1", method, "transfer_first_8", values.mean(), 60, values.mean() - 0.5, values.mean() + 0.5, "area"]
    run = write_run(folder, pd.DataFrame([row], columns=["layer", "dictionary", *TAIL]))
    cases = pd.DataFrame({"layer": "layer1", "dictionary": method, "metric": "transfer_first_8"}, index=range(60))
    cases = cases.assign(image=[f"{image:03}" for image in range(60)], value=values)
    (run / "cases").mkdir()
    (cases if clusters is None else cases.assign(cluster=clusters)).to_csv(run / "cases/extraction.csv.gz", index=False)
    return run


def transfer_case() -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Two methods whose difference lies between halves of groups: ten halves of six images that go together."""
    rng = np.random.default_rng(2)
    halves = np.repeat(np.arange(10), 6)
    shift = rng.normal(-0.2, 0.6, 10)[halves] + rng.normal(0, 0.02, 60)
    first = rng.normal(0.5, 0.1, 60)
    return first, first + shift - shift.mean() - 0.18, halves.tolist()


def test_images_that_share_an_order_are_drawn_together(tmp_path, capsys) -> None:
    """The paired difference over transfer is as wide as the halves say, not as if images were independent."""
    first, second, halves = transfer_case()
    runs = [transfer_run(tmp_path / name, name, values, halves) for name, values in (("a", first), ("b", second))]
    text = compared(capsys, *runs, "--rows", "dictionary", "--out", tmp_path / "out")
    row = pd.read_csv(tmp_path / "out/extraction.csv").set_index("dictionary").loc["b"]
    narrow, wide = paired_difference(second, first), paired_difference(second, first, clusters=np.array(halves))
    assert narrow.high < 0 < wide.high  # the two would say opposite things
    assert (row["test"], row["mark"]) == ("paired", "tied") and "†" in text
    found = row[["difference", "difference_low", "difference_high"]].astype(float)
    assert found.tolist() == pytest.approx([*wide])


def test_images_that_share_an_order_in_either_run_are_drawn_together(tmp_path, capsys) -> None:
    """With another seed the halves are others: then whole groups go together."""
    first, second, halves = transfer_case()
    others = [f"g{half // 2}-{image % 2}" for image, half in enumerate(halves)]
    runs = [
        transfer_run(tmp_path / name, name, values, clusters)
        for name, values, clusters in (("a", first, halves), ("b", second, others))
    ]
    compared(capsys, *runs, "--rows", "dictionary", "--out", tmp_path / "out")
    row = pd.read_csv(tmp_path / "out/extraction.csv").set_index("dictionary").loc["b"]
    groups = paired_difference(second, first, clusters=np.array(halves) // 2)
    assert [row["difference_low"], row["difference_high"]] == pytest.approx([groups.low, groups.high])


@pytest.mark.parametrize("clusters", [None, [0] * 60], ids=["unknown", "one"])
def test_transfer_without_its_clusters_is_not_compared_image_by_image(tmp_path, capsys, clusters) -> None:
    first, second, _ = transfer_case()
    runs = [transfer_run(tmp_path / name, name, values, clusters) for name, values in (("a", first), ("b", second))]
    compared(capsys, *runs, "--rows", "dictionary", "--out", tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/extraction.csv").set_index("dictionary").loc["b", "test"] == "overlap"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".hydra/config.yaml", b"model: !!python/object/apply:os.system [touch hacked]\n"),
        (".hydra/config.yaml", b"[1, 2]"),
        (".hydra/config.yaml", b"a: [\n"),
        (".hydra/config.yaml", b"\xff\xfe\x00"),
        ("tables/extraction.csv", b"metric,value\n\xff\xfe,1\n"),
        ("cases/extraction.csv.gz", b"garbage"),
        ("cases/extraction.csv.gz", b""),
    ],
    ids=str,
)
def test_a_damaged_run_is_one_sentence_and_executes_nothing(two, capsys, file, content, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (two[0] / file).parent.mkdir(exist_ok=True)
    (two[0] / file).write_bytes(content)
    assert str(two[0] / file) in refused(capsys, *two, "--metric", "auc_difference", "--table", "extraction")
    assert not (tmp_path / "hacked").exists()


def test_a_value_that_is_no_number_is_one_sentence(two, capsys) -> None:
    (two[0] / "tables/extraction.csv").write_text("metric,value\nauc_difference,abc\n")
    assert "holds a value that is no number" in refused(capsys, *two)


@pytest.mark.parametrize(
    ("metric", "sign"),
    [
        ("auc_difference", 1),
        ("loss_spliced", -1),
        ("completeness_gap", -1),
        ("random_control", 0),
        ("c_deletion", -1),
        ("sensitivity_minus_ig", -1),
        ("abpc_minus_ig", 1),
        ("l0", 0),
    ],
)
def test_directions(metric, sign) -> None:
    assert direction(metric) == sign


def test_keys_are_equal_where_their_values_are() -> None:
    assert {text_of(8), text_of(8.0), text_of("8"), text_of(np.float64(8))} == {"8"}
    assert text_of(None) == text_of(float("nan")) == "" and text_of(True) == "True" and text_of("0.02") == text_of(0.02)


def test_a_paired_difference_is_the_bootstrap_of_differences() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=40), rng.normal(size=40)
    found = paired_difference(first, second)
    assert found[1:] == bootstrap(first - second) and found.value == pytest.approx((first - second).mean())
    assert paired_difference(second, first).low == pytest.approx(-found.high, abs=0.05)


def test_cases_that_share_something_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(12), 25)
    values = rng.normal(size=12)[clusters] + 0.1 * rng.normal(size=300)
    narrow, wide = bootstrap(values), clustered_bootstrap(values, clusters)
    # All of the spread is between clusters, so that there are twelve cases and not three hundred.
    assert 3 < (wide.high - wide.low) / (narrow.high - narrow.low) < 7
    alone = clustered_bootstrap(values, np.arange(300))
    assert alone == pytest.approx(narrow, abs=0.02)
    assert paired_difference(values, 0 * values, clusters=clusters)[1:] == wide


def test_what_measures_something_else_does_not_compete(tmp_path, capsys) -> None:
    plain = extraction("sae", auc_difference=[0.9, 0.5]).assign(variant="plain")
    other = extraction("sae", auc_difference=[0.2, 0.6]).assign(variant="matched_8")
    columns = ["layer", "dictionary", "k", "variant", *TAIL]
    run = write_run(tmp_path / "a", pd.concat([plain, other])[columns])
    ours = extraction("nmf", auc_difference=[0.1, 0.1]).assign(variant="matched_8")[columns]
    second = write_run(tmp_path / "b", ours)
    text = compared(capsys, run, second, "--metric", "auc_difference", "--rows", "dictionary,variant")
    assert "| sae | plain | 0.900 | 0.500 |" in text
    assert "| sae | matched_8 | **0.200** | **0.600** |" in text
