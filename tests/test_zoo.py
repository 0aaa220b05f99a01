"""The zoo: architectures with random weights are opened, cut, traced and described; experiments/zoo is its table."""

from __future__ import annotations

import math
import re
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch

from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.network.layers import LOGITS

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
def folder():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def zoo(folder):
    import zoo

    return zoo


@pytest.fixture(scope="module")
def transformers(folder):
    import transformers

    return transformers


TOLD = ("answer", "capture", "ground", "layer", "tokens", "ig", "attnlrp", "rollout", "gradient_x_input")
"""What is told of a transformer, whatever its numbers."""


def told(line) -> list[str]:
    return [getattr(line, name) for name in TOLD]


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


def table_of_transformers() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "transformers.csv", keep_default_na=False).set_index("name")


def test_of_transformers_each_is_traced_or_refused_in_a_sentence(transformers) -> None:
    table = table_of_transformers()
    assert list(table.index) == list(transformers.ARCHITECTURES) and len(table) >= 25
    traced, told = table[table.answer == transformers.TRACED], (FOLDER / "README.md").read_text()
    assert f"| transformers and hybrids traced and described | {len(traced)} | {len(table)} |" in told
    for name, column in (("AttnLRP", "attnlrp"), ("rollout", "rollout")):
        assert f"| … {name} | {(traced[column] == 'yes').sum()} | {len(traced)} |" in told
    assert len(traced) >= 25
    for answer in table.answer:
        assert answer == transformers.TRACED or (len(answer) > 20 and "\n" not in answer)
    for method in ("ig", "gradient_x_input"):
        assert (traced[traced.capture == "export"][method] == "yes").all()
    for method in ("attnlrp", "rollout"):  # or the operation, by its name
        assert traced[traced.capture == "export"][method].str.fullmatch(r"yes|no: .+").all()


def test_a_distilled_transformer_is_traced_and_has_all_four_fields(transformers) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        line = transformers.measure("deit_tiny_distilled_patch16_224")
    assert told(line) == list(table_of_transformers().loc[line.name, list(TOLD)])
    assert line.ground == line.tokens == "2 + 4 × 4"  # a class token and a distillation token
    assert [line.ig, line.attnlrp, line.rollout, line.gradient_x_input] == ["yes"] * 4


@pytest.mark.slow
def test_the_transformers_are_what_their_table_says(transformers) -> None:
    table = table_of_transformers()
    for name in transformers.ARCHITECTURES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            line = transformers.measure(name)
        assert told(line) == list(table.loc[name, list(TOLD)]), name


HELD = re.compile(r"(attn|attention|self_attention|mlp)$")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("vit_b_32", "swin_tiny_patch4_window4", "cait_xxs24_224", "crossvit_9_240", "gcvit_xxtiny")
        ),
    ],
)
def test_what_a_block_adds_to_the_stream_is_a_layer_of_its_own(transformers, name) -> None:
    """At its clean value, the stream around it held, the network answers as it does."""
    entry = transformers.ARCHITECTURES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other people's architectures
        network = open_network(transformers.randomised(entry.make()), torch.zeros(1, 3, entry.side, entry.side))
    images = torch.randn(2, 3, entry.side, entry.side, generator=torch.Generator().manual_seed(0))
    parts = [layer for layer in network.layers if HELD.search(layer)]
    assert len(parts) > 3
    for lower in parts[len(parts) // 2 :][:2]:
        with pytest.raises(UserError, match="can be reached around"):
            network.segment(lower, LOGITS)
        cut = network.around(lower, LOGITS)
        assert cut.held and network.layout(lower).positions > 1
        with torch.no_grad():
            expected = network.activations(images, [LOGITS])[LOGITS]
            torch.testing.assert_close(cut.segment(cut.read(images)), expected, rtol=1e-5, atol=1e-5)
