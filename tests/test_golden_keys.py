"""The keys of every preset's artifacts: a store that somebody filled is still found, or the change was meant.

To change keys on purpose, run ``python tests/test_golden_keys.py`` and say why in CHANGELOG.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vismech.config.choices import DataSource, Evaluation
from vismech.config.composition import choices
from vismech.config.schema import Config, register
from vismech.network.outline import Outline
from vismech.sources.data import imagenet_names, imagenet_wnids
from vismech.stages.context import Context
from vismech.stages.pipeline import make_plan, open_context

GOLDEN = Path(__file__).parent / "golden"
PRESETS = choices()["experiment"]


def composed(preset: str) -> Config:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vismech.config.composition import conf_folder

    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [f"experiment={preset}", "data.root=photographs"]))
    assert isinstance(config, Config)
    return config


def photographs(root: Path, source: DataSource) -> Path:
    """Four files of each of some classes; a plan reads their names and sizes only."""
    if source is DataSource.cifar10:
        names = ("airplane", "automobile", "bird", "cat", "deer")
    else:
        names = tuple(name for name, index in imagenet_wnids().items() if index < 10 or index in (99, 129))
    for name in names:
        folder = root / source.value / name
        folder.mkdir(parents=True, exist_ok=True)
        for image in range(4):
            (folder / f"{image}.jpg").write_bytes(b"photograph"[: 4 + image])
    return root / source.value


def sizes(root: Path) -> Path:
    """A table of attributes: whether a file has an even number of bytes."""
    files = sorted(root.glob("*/*.jpg"))
    rows = [f"{path.relative_to(root).as_posix()},{path.stat().st_size % 2}" for path in files]
    (root.parent / "groups.csv").write_text("\n".join(["id,even", *rows]) + "\n")
    return root.parent / "groups.csv"


def outline(config: Config) -> Outline:
    known = json.loads((GOLDEN / "outlines.json").read_text())[config.model.name]
    shapes = {name: tuple(shape) for name, shape in known["shapes"].items()}
    names = list(shapes)
    identity = {"source": config.model.source.value, "name": config.model.name, "weights": "golden"}
    classes = dict(enumerate(imagenet_names())) if shapes["logits"] == (1000,) else {}
    pairs = {(lower, upper) for place, lower in enumerate(names) for upper in names[place + 1 :]}
    return Outline(
        identity,
        classes,
        known["layers"],
        dict.fromkeys(known["layers"], 1),
        shapes,
        pairs,
        inputs=known.get("inputs", {}),
    )


@contextmanager
def outlined() -> Iterator[None]:
    """Every run's model is an outline of its own network, with the same weights everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "outline", property(lambda self: outline(self.config)))
        patch.setattr(Context, "_outline_file", None)
        yield


def keys(preset: str, root: Path) -> dict[str, str]:
    """``stage unit`` → key, of all that a preset computes."""
    config = composed(preset)
    if config.data.source is not DataSource.samples:
        config.data.root = str(photographs(root, config.data.source))
    if Evaluation.shortcut in config.evaluate.kinds:  # each photograph's size says what it has
        config.data.groups = str(sizes(Path(config.data.root)))
    with outlined():
        ctx = open_context(config)
        found: dict[str, str] = {}
        for spec in make_plan(ctx).specs():
            measure = spec.inputs.get("measure", "")
            name = f"{spec.stage} {spec.unit} {measure}".strip()
            while found.get(name, spec.key) != spec.key:
                name += "'"  # a variant of stability
            found[name] = spec.key
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_a_presets_keys_are_those_of_before(preset, tmp_path) -> None:
    assert keys(preset, tmp_path) == json.loads((GOLDEN / "keys.json").read_text())[preset]


def test_every_preset_is_pinned() -> None:
    assert sorted(json.loads((GOLDEN / "keys.json").read_text())) == sorted(PRESETS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        pinned = {preset: keys(preset, Path(folder)) for preset in PRESETS}
    (GOLDEN / "keys.json").write_text(json.dumps(pinned, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{sum(map(len, pinned.values()))} keys of {len(pinned)} presets\n")
