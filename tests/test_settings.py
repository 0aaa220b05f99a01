"""Settings are the key: each field of each class changes it, what does not matter is in none, and nothing else is."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest

import vismech
from vismech.config.choices import Evaluation
from vismech.config.documentation import documentation
from vismech.config.schema import Config
from vismech.measures.insertion import InsertionOptions
from vismech.passes.settings import PathSettings
from vismech.stages.settings import KeptSettings, PathOptions
from vismech.store.artifacts import Spec
from vismech.store.settings import FLAT, UNHASHED, UNUSED, Settings, named

for module in pkgutil.walk_packages(vismech.__path__, "vismech."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)


def below(kind: type) -> list[type]:
    return [found for one in kind.__subclasses__() for found in (one, *below(one))]


EVERY = [
    one
    for one in dict.fromkeys(below(Settings))
    if one.__module__.startswith("vismech.") and ".config." not in one.__module__
]


def sample(name: str, kind: Any, other: bool) -> Any:
    """Some value of a field, and an ``other`` one."""
    text = str(kind)
    if isinstance(kind, type) and issubclass(kind, Settings):
        return filled(kind, other)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)[int(other)]
    if "Mapping" in text:
        return {f"{name} a": 2 if other else 1}
    if kind is bool:
        return other
    if "int" in text or "float" in text:
        return 3 if other else 2
    word = f"{name}{'y' if other else 'x'}"
    return [word] if text.startswith(("list", "tuple")) else word


def filled(kind: type, other: bool = False, among: str = "") -> Any:
    """One of a class with every field given; ``other`` values of all, or of the one called ``among``."""
    import typing

    kinds = typing.get_type_hints(kind)
    values = {one.name: sample(one.name, kinds[one.name], other or one.name == among) for one in fields(kind)}
    return kind(**values)


def test_there_are_settings_of_every_stage_and_measure() -> None:
    names = {one.__module__ for one in EVERY}
    stages = ("settings", "dictionary", "fields", "cards", "graph", "report", "trace")
    assert {f"vismech.stages.{stage}" for stage in stages} | {"vismech.passes.extract"} <= names
    measures = {name.split(".")[2] for name in names if name.startswith("vismech.measures.")}
    # saturation and attribution share theirs
    assert {each.value for each in Evaluation} - {"saturation", "attribution"} | {"units"} <= measures


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_each_is_frozen_and_documented(kind) -> None:
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")


CASES = [(kind, one.name) for kind in EVERY for one in fields(kind)]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_every_field_changes_the_key(kind, name) -> None:
    first, second = filled(kind), filled(kind, among=name)
    assert getattr(first, name) != getattr(second, name)
    unhashed = next(one for one in fields(kind) if one.name == name).metadata.get("unhashed", False)
    keys = [Spec("stage", 1, "unit", one).key for one in (first, second)]
    assert (keys[0] == keys[1]) == unhashed


def test_only_the_mode_and_what_a_hash_tells_are_in_no_key() -> None:
    unhashed = [(kind.__name__, one.name) for kind in EVERY for one in fields(kind) if one.metadata.get("unhashed")]
    modes = [("PathOptions", "mode"), ("PathSettings", "mode")]
    # Of groups the hash of the columns is in keys, of a saved dictionary that of its files and not where they are.
    assert sorted(unhashed) == [("DictionarySettings", "folder"), ("Groups", "columns"), *modes]


@dataclass(frozen=True)
class Inner(Settings):
    """Inner."""

    size: int
    spare: int = UNUSED


@dataclass(frozen=True)
class Outer(Settings):
    """Outer."""

    name: str
    inner: Inner
    beside: Inner = field(metadata=FLAT)
    rows: int = field(default=1, metadata=UNHASHED)


def test_the_key_holds_what_is_used_by_its_name_or_within_its_field() -> None:
    settings = Outer("a", Inner(1), Inner(2, 3), 7)
    assert settings.inputs() == {"name": "a", "inner": {"size": 1}, "size": 2, "spare": 3}
    assert Spec("s", 1, "u", settings).key == Spec("s", 1, "u", settings.inputs()).key
    assert Spec("s", 1, "u", settings).key == Spec("s", 1, "u", replace(settings, rows=9)).key


@dataclass(frozen=True)
class Same(Settings):
    """Two parts of the same name."""

    size: int
    beside: Inner = field(metadata=FLAT)


def test_parts_of_the_same_name_are_both_in_the_key() -> None:
    assert Same(1, Inner(2)).inputs() == {"size": 1, "beside.size": 2}


@dataclass(frozen=True)
class Filled(Settings):
    """From a group."""

    budgets: list[int]
    order: str = field(default="a", metadata=named("way"))
    seed: int = 0


def test_settings_are_filled_from_a_group_by_name_and_share_nothing_with_it() -> None:
    group = Config().evaluate
    found = Filled.from_group(group, order="b")
    assert found == Filled(group.budgets, "b") and found.budgets is not group.budgets
    assert found.inputs() == {"budgets": group.budgets, "way": "b", "seed": 0}
    assert Filled.only(budgets=[1]).inputs() == {"budgets": [1]}


def test_a_group_has_the_fields_of_its_settings_with_their_text_and_may_be_changed() -> None:
    texts = {one.key: one.text for one in documentation()}
    for kind, prefix in ((InsertionOptions, "evaluate"), (PathOptions, "attribute"), (KeptSettings, "graph")):
        assert all(texts[f"{prefix}.{one.name}"] for one in fields(kind))
    config = Config()
    config.evaluate.fractions = [0.5]
    assert Config().evaluate.fractions == [0.2] and replace(config.evaluate, images=3).fractions == [0.5]


def test_what_is_unused_is_one_thing_also_in_another_process() -> None:
    import copy
    import pickle

    assert pickle.loads(pickle.dumps(UNUSED)) is UNUSED and copy.deepcopy(UNUSED) is UNUSED and not UNUSED


def test_the_code_of_a_curve_of_ones_own_is_in_the_key(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = []
    for turn, body in enumerate(("alpha", "alpha**2")):
        (tmp_path / f"bent{turn}.py").write_text(
            "import torch\nfrom vismech import Path\n\n\nclass Bent(Path):\n"
            "    def anchors(self, baseline, end):\n        return [baseline, end]\n\n"
            f"    def coefficients(self, alpha):\n        return torch.stack([1 - {body}, {body}], 1)\n"
        )
        for again in (1, 2):
            config = Config().attribute
            config.curve = {"_target_": f"bent{turn}.Bent"}
            found = PathSettings.of(config, {"path", "baseline", "along"})
            keys.append((again, found.inputs()["curve_code"]))
    codes = [code for _, code in keys]
    assert codes[0] == codes[1] and codes[2] == codes[3] and codes[0] != codes[2]
    assert "curve_code" not in PathSettings.of(Config().attribute, {"path", "baseline"}).inputs()
