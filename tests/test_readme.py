"""The README's claims that a machine can hold: its Python example runs, its commands and paths exist."""

import re
from pathlib import Path

import torch

from vismech.cli import choices
from vismech.documentation import documentation

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "README.md").read_text()


def test_the_python_example_runs_and_is_complete() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["edges"].shape == (12, 24)
    change = (names["path"].value - names["path"].baseline)[:, 0]
    assert (names["edges"].sum(1) - change).abs().max() < 0.05 * change.abs().max()


def test_every_key_and_choice_in_a_command_exists() -> None:
    keys, groups = {doc.key for doc in documentation()}, choices()
    commands = re.findall(r"^    (vismech .*(?:\\\n.*)*)$", TEXT, re.MULTILINE)
    assert len(commands) >= 8
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
