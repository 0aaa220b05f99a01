"""dictionary.k=auto through the whole run."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest

from vismech.config.choices import Code, Evaluation, Method, Stage
from vismech.errors import UserError
from vismech.stages.dictionary import check_count
from vismech.stages.run import run
from vismech.store.artifacts import Artifact, Store


def _dictionaries(config, folder) -> dict[str, tuple[str, dict]]:
    """Layer → key and record of its dictionary."""
    config.until = Stage.dictionary
    run(config, folder)
    found = (Artifact(path) for path in Store(config.store.root).artifacts())
    return {
        each.manifest["unit"]: (each.folder.name, json.loads(each.path("dictionary.json").read_text())["info"])
        for each in found
        if each.manifest["stage"] == "dictionary"
    }


def test_each_layer_gets_the_number_that_its_code_needs(tiny, tmp_path) -> None:
    tiny.dictionary.k, tiny.dictionary.vectors_per_concept = "auto", 4
    first = _dictionaries(copy.deepcopy(tiny), tmp_path / "first")
    for _, info in first.values():
        chosen = info["chosen"]
        assert info["k"] == chosen["k"] == chosen["tried"][-1] <= 180 // 4
        assert chosen["held_out"] == 36 and chosen["reached"] == (chosen["unexplained"][-1] <= 0.1)
    other = copy.deepcopy(tiny)
    other.store.root, other.dictionary.k = str(tmp_path / "null"), None
    assert _dictionaries(other, tmp_path / "second") == first  # null, without k_per_channel, is auto
    coarse = copy.deepcopy(tiny)
    coarse.store.root, coarse.dictionary.unexplained = str(tmp_path / "coarse"), 0.9
    loose = _dictionaries(coarse, tmp_path / "third")
    assert all(loose[layer][0] != first[layer][0] for layer in first)
    assert sum(info["k"] for _, info in loose.values()) < sum(info["k"] for _, info in first.values())
    coded = copy.deepcopy(tiny)
    coded.store.root, coded.dictionary.code = str(tmp_path / "coded"), Code.omp
    pursuit = _dictionaries(coded, tmp_path / "fourth")
    assert all(pursuit[layer][0] != first[layer][0] for layer in first)


def test_controls_have_no_more_than_channels(tiny, tmp_path) -> None:
    tiny.dictionary.k, tiny.dictionary.method, tiny.dictionary.unexplained = "auto", Method.channels, 0.0
    tiny.dictionary.code = Code.encoder
    for _, info in _dictionaries(tiny, tmp_path / "run").values():
        assert info["k"] == info["chosen"]["tried"][-1] and info["chosen"]["unexplained"][-1] < 1e-9


@pytest.mark.parametrize(("key", "value"), [("k", "many"), ("unexplained", 1.0), ("unexplained", -0.1)])
def test_what_is_no_number_of_concepts_is_refused(tiny, key, value) -> None:
    setattr(tiny.dictionary, key, value)
    with pytest.raises(UserError, match=f"dictionary.{key}={value}"):
        check_count(tiny)


@pytest.mark.thorough
def test_tables_and_page_tell_the_number_that_was_chosen(tiny, tmp_path) -> None:
    """The most that there may be stood in every table's column k, and on the page."""
    tiny.dictionary.k, tiny.dictionary.vectors_per_concept = "auto", 4
    tiny.evaluate.kinds = [Evaluation.reconstruction, Evaluation.insertion, Evaluation.interlayer]
    tiny.evaluate.budgets, tiny.evaluate.images = [2], 4
    result = run(tiny, tmp_path / "run")
    keys = {row["key"]: row["unit"] for row in result.plan if row["stage"] == "dictionary"}
    atoms = {
        keys[found.folder.name]: json.loads(found.path("dictionary.json").read_text())["info"]["k"]
        for found in (Artifact(path) for path in Store(tiny.store.root).artifacts())
        if found.folder.name in keys
    }
    most = {row["unit"]: row for row in result.plan if row["stage"] == "dictionary"}
    assert len(atoms) == len(most) == 3
    extraction = pd.read_csv(tmp_path / "run/tables/extraction.csv")
    assert dict(extraction.groupby("layer").k.unique().explode()) == atoms
    interlayer = pd.read_csv(tmp_path / "run/tables/interlayer.csv")
    assert all(atoms[lower] == k for lower, k in zip(interlayer.lower, interlayer.k, strict=True))
    timings = pd.read_csv(tmp_path / "run/tables/timings.csv")
    items = timings[timings.stage == "dictionary"].set_index("unit")["items"]
    assert items.to_dict() == atoms
