"""What the key of an artifact depends on: everything that it is made of, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vismech.config.choices import Along, Baseline, Mode, Output, PathWeight, ReadOut, Rule
from vismech.config.schema import AttributeConfig, Config
from vismech.network.cut import LOGITS
from vismech.stages.trace import path_of
from vismech.store.artifacts import Spec, canonical, plain, write_json

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
INPUTS = st.dictionaries(st.text(max_size=5), TREES, min_size=1, max_size=4)


def places(tree, path=()):
    """Paths to all leaves and empty containers."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    if not items:
        yield path
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(tree, path, value):
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


def reversed_order(tree):
    if isinstance(tree, dict):
        return {key: reversed_order(tree[key]) for key in reversed(tree)}
    return [reversed_order(item) for item in tree] if isinstance(tree, list) else tree


def at(tree, path):
    return at(tree[path[0]], path[1:]) if path else tree


@given(INPUTS, st.data())
def test_any_leaf_changes_the_key(inputs, data) -> None:
    path = data.draw(st.sampled_from(list(places(inputs))))
    value = data.draw(LEAVES)
    assume(json.dumps(value) != json.dumps(at(inputs, path)))
    assert Spec("s", 1, "u", inputs).key != Spec("s", 1, "u", replaced(inputs, path, value)).key


@given(INPUTS)
def test_the_order_of_mappings_does_not_change_the_key(inputs) -> None:
    assert Spec("s", 1, "u", inputs).key == Spec("s", 1, "u", reversed_order(inputs)).key


@given(INPUTS, INPUTS)
def test_stage_version_unit_and_parents_change_the_key(inputs, others) -> None:
    assume(inputs != others and canonical(inputs) != canonical(others))
    parent = Spec("p", 1, "", inputs)
    specs = [
        Spec("s", 1, "u", inputs),
        Spec("t", 1, "u", inputs),
        Spec("s", 2, "u", inputs),
        Spec("s", 1, "v", inputs),
        Spec("s", 1, "u", inputs, {"a": parent}),
        Spec("s", 1, "u", inputs, {"b": parent}),
        Spec("s", 1, "u", inputs, {"a": Spec("p", 1, "", others)}),
        Spec("s", 1, "u", inputs, {"a": Spec("p", 2, "", inputs)}),
        Spec("s", 1, "u", inputs, {"a": Spec("p", 1, "", inputs, {"deep": parent})}),
    ]
    assert len({spec.key for spec in specs}) == len(specs)
    assert specs[4].key == Spec("s", 1, "u", dict(inputs), {"a": Spec("p", 1, "", dict(inputs))}).key


def test_the_key_is_pinned() -> None:
    # Another value means that every artifact of every user is computed again.
    spec = Spec("extract", 1, "layer1", {"model": {"name": "é", "k": 8}, "seed": 0, "λ": 0.02, "root": None})
    assert spec.key == "835231f0d4c19e6e8420"
    assert Spec("graph", 3, "", {}, {"parent": spec}).key == "f7eb2015ea7136281eb9"


class Colour(StrEnum):
    red = "red"


@dataclass
class Settings:
    colour: Colour
    sizes: tuple[int, ...]
    folder: Path


def test_what_python_calls_otherwise_is_the_same_key() -> None:
    first = {"settings": Settings(Colour.red, (1, 2), Path("a/b"))}
    second = {"settings": {"sizes": [1, 2], "folder": "a/b", "colour": "red"}}
    assert plain(first) == second
    assert Spec("s", 1, "u", first).key == Spec("s", 1, "u", second).key


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_refused(value, tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Spec("s", 1, "u", {"deep": [{"x": value}]}).key
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": value})


@pytest.mark.parametrize("value", [{1, 2}, object(), np.zeros(2), np.int64(3), b"x"])
def test_what_json_does_not_know_is_refused(value) -> None:
    with pytest.raises(TypeError, match="cannot be part of a key"):
        _ = Spec("s", 1, "u", {"x": value}).key


# What edges depend on: what makes a field matter, and another value of it; what the edges lead to.
IMAGE, IMAGES = {"baseline": Baseline.image, "baseline_image": "a.png"}, {"baseline": Baseline.images}
PART, ADAPTIVE, OWN = (
    {"path": PathWeight.left_ig},
    {"tolerance": 0.1},
    {"curve": {"_target_": "curves.Power", "power": 1}},
)
MATTERS: dict[str, tuple[dict, object, str]] = {
    "path": ({}, PathWeight.idg, "layer"),
    "weight": ({"path": PathWeight.custom, "weight": "torch:ones_like"}, "torch:zeros_like", "layer"),
    "phi": (PART, 0.95, "layer"),
    "baseline": ({}, Baseline.blank, "layer"),
    "baseline_image": (IMAGE, "b.png", "layer"),
    "baselines": (IMAGES, 9, "layer"),
    "blur": ({"baseline": Baseline.blur}, 0.2, "layer"),
    "along": ({}, Along.reconstruction, "layer"),
    "curve": (OWN, {"_target_": "curves.Power", "power": 2}, "layer"),
    "options": ({"path": PathWeight.guided_ig}, {"fraction": 0.5}, "layer"),
    "rule": ({}, Rule.trapezoid, "layer"),
    "steps": ({}, 33, "layer"),
    "tolerance": (ADAPTIVE, 0.2, "layer"),
    "max_steps": (ADAPTIVE, 64, "layer"),
    "check_images": ({}, 2, "layer"),
    "readout": ({}, ReadOut.sum, "layer"),
    "output": ({}, Output.probability, LOGITS),
}


def path_key(attribute: AttributeConfig, upper: str = "layer", seed: int = 0) -> str:
    return canonical(path_of(Config(attribute=attribute, seed=seed), upper).inputs())


ELSEWHERE = ("mode", "around")
"""In no key, and in that of a pair with a path around its lower layer (integration/test_class_tokens.py)."""


@pytest.mark.parametrize("name", [field.name for field in fields(AttributeConfig) if field.name not in ELSEWHERE])
def test_every_field_of_the_path_changes_the_key_where_it_matters(name) -> None:
    given, value, upper = MATTERS[name]
    before = AttributeConfig(**given)
    assert path_key(before, upper) != path_key(replace(before, **{name: value}), upper)


@pytest.mark.parametrize(
    ("change", "upper"),
    [
        ({"phi": 0.95}, "layer"),
        ({"baseline_image": "b.png"}, "layer"),
        ({"baselines": 9}, "layer"),
        ({"blur": 0.2}, "layer"),
        ({"max_steps": 64}, "layer"),
        ({"mode": Mode.forward}, "layer"),
        ({"output": Output.probability}, "layer"),
        ({"readout": ReadOut.sum}, LOGITS),
    ],
)
def test_what_does_not_matter_for_the_path_is_in_no_key(change, upper) -> None:
    assert path_key(AttributeConfig(), upper) == path_key(AttributeConfig(**change), upper)


def test_the_seed_matters_where_baselines_are_drawn() -> None:
    drawn = AttributeConfig(baseline=Baseline.images)
    assert path_key(drawn, seed=1) != path_key(drawn)
    assert path_key(AttributeConfig(), seed=1) == path_key(AttributeConfig())
