"""The zoo: architectures with random weights are opened, cut, traced and described; experiments/zoo is its table."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "zoo"
COMPLETE, WANTED = 0.01, 45
FEW = {
    "resnet18": "sharing ratios",
    "deit_tiny_patch16_224": "gradient × input",
    "convnextv2_atto": "gradient × input",
}
NORMED = {"deit_tiny_patch16_224", "convnextv2_atto"}
"""Those whose change is all near the start of the path."""


@pytest.fixture(scope="module")
def zoo():
    sys.path.insert(0, str(FOLDER))
    try:
        import zoo

        yield zoo
    finally:
        sys.path.remove(str(FOLDER))


def measured(zoo, name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other people's architectures
        line = zoo.measure(name)
    assert line.one_row <= 1e-5, name
    assert line.layers > 2 and all(map(math.isfinite, (line.gap, line.gap_worst)))
    return line


@pytest.mark.parametrize("name", FEW)
def test_an_architecture_of_each_family_is_captured_traced_and_described(zoo, name) -> None:
    line = measured(zoo, name)
    assert (line.capture, line.field) == ("export", FEW[name])
    assert line.gap <= COMPLETE
    assert (line.gap_midpoint > 0.05) == (name in NORMED)
    assert ("power" in line.nodes) == (name in NORMED)


def test_the_table_is_of_the_whole_zoo_and_most_of_it_is_complete(zoo) -> None:
    table = pd.read_csv(FOLDER / "zoo.csv")
    assert list(table) == list(zoo.Line.__dataclass_fields__)
    assert list(table.name) == list(zoo.ARCHITECTURES) and len(table) == 50
    assert (table.gap <= COMPLETE).sum() >= WANTED
    assert (table.one_row <= 1e-5).all()


@pytest.mark.slow
def test_the_whole_zoo_is_what_its_table_says(zoo) -> None:
    table = pd.read_csv(FOLDER / "zoo.csv").set_index("name")
    gaps = {}
    for name in zoo.ARCHITECTURES:
        line = measured(zoo, name)
        assert (line.capture, line.layers, line.field) == tuple(table.loc[name, ["capture", "layers", "field"]]), name
        gaps[name] = line.gap
    incomplete = {name: gap for name, gap in gaps.items() if gap > COMPLETE}
    assert len(gaps) - len(incomplete) >= WANTED, incomplete
