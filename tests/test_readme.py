"""The README's and the guide's claims that a machine can hold: their Python runs, commands and paths exist."""

import re
import sys
from pathlib import Path
from types import ModuleType

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vismech.attribution.paths import load_path
from vismech.config.composition import choices, conf_folder, refuse_unknown
from vismech.config.documentation import documentation
from vismech.config.schema import register

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "README.md").read_text()
GUIDE = (REPOSITORY / "docs/guide.md").read_text()


def examples(text: str = TEXT) -> list[str]:
    """Python, block by block."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_python_examples_run_and_are_complete(monkeypatch) -> None:
    # Those of finished runs are in integration/test_{open_run,edit_command}.py.
    (first, *_), (module, second, *_) = examples(), examples(GUIDE)
    mine = ModuleType("mypaths")
    exec(compile(module, "README.md", "exec"), mine.__dict__)
    monkeypatch.setitem(sys.modules, "mypaths", mine)
    torch.manual_seed(0)
    names: dict = {}
    for example in (first, second):
        exec(compile(example, "README.md", "exec"), names)
    assert names["edges"].shape == (12, 24)
    for result in (names["path"], names["curved"]):
        change = (result.value - result.baseline)[:, 0]
        assert (result.edges["ig"].units[:, 0].sum(1) - change).abs().max() < 0.05 * change.abs().max()
    assert not torch.allclose(names["curved"].edges["ig"].units, names["path"].edges["ig"].units)


def test_the_path_of_ones_own_is_what_the_command_chooses(monkeypatch) -> None:
    (override,) = re.findall(r"(\+attribute\.curve\._target_=\S+)", GUIDE)
    module = examples(GUIDE)[0]
    mine = ModuleType("mypaths")
    exec(compile(module, "README.md", "exec"), mine.__dict__)
    monkeypatch.setitem(sys.modules, "mypaths", mine)
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", ["experiment=quickstart", override])
    refuse_unknown(config)
    curve = OmegaConf.to_container(config.attribute.curve)
    assert isinstance(curve, dict) and type(load_path(curve)) is mine.__dict__["Through"]  # type: ignore[arg-type]


def test_every_key_and_choice_in_a_command_exists() -> None:
    keys, groups = {doc.key for doc in documentation()}, choices()
    commands = re.findall(r"^    (vismech .*(?:\\\n.*)*)$", TEXT, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        for key, value in re.findall(r"'?([a-z_.]+)=([^\s']+)", command.replace("\\\n", " ")):
            if key in groups:
                assert value in groups[key], f"{key}={value}"
            else:
                assert key in keys, key


def test_every_file_it_shows_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (REPOSITORY / target).is_file(), target


def test_the_map_names_only_what_exists() -> None:
    tree = TEXT.split("## Architecture")[1].split("Each stage is")[0]
    inside = re.findall(r"([a-z_]+\.py|[a-z_]+/)", tree)
    known = {path.name + ("/" if path.is_dir() else "") for path in REPOSITORY.rglob("*") if ".venv" not in path.parts}
    assert not set(inside) - known
