"""The configuration: every file composes, every field is documented, every mistake is refused in one sentence."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vismech.commands.main import help_text
from vismech.config.composition import choices, composition_error, conf_folder, refuse_unknown
from vismech.config.documentation import documentation
from vismech.config.schema import Config, register
from vismech.errors import UserError

ALONE = ("experiment", "launcher", "debug")
CHOICES = [(group, choice) for group, names in choices().items() for choice in names]
# The n-th choice of every group in one composition: what one group sets, no other does.
TOGETHER = [
    {group: names[place] for group, names in choices().items() if place < len(names) and group not in ALONE}
    for place in range(max(map(len, choices().values())))
]
KEYS = Path(__file__).parent / "configs" / "keys.txt"


def composed(*overrides: str) -> Config:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", list(overrides))
    refuse_unknown(cfg)
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    return config


def refusal(*overrides: str) -> str:
    """The sentence that refuses ``overrides``."""
    with pytest.raises(Exception) as error:
        composed(*overrides)
    sentence = str(error.value) if isinstance(error.value, UserError) else composition_error(error.value)
    assert sentence is not None, repr(error.value)
    assert "\n" not in sentence
    return sentence


# What composes


def test_the_defaults_are_the_schemas() -> None:
    # YAML says only what differs, so without a choice the files and the dataclasses agree.
    assert composed() == Config()


def test_there_are_groups_with_choices() -> None:
    assert {"model", "data", "extract", "dictionary", "attribute", "graph", "runtime", "experiment"} <= set(choices())
    assert all(choices().values())


def leaves(content: dict, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """Every value of nested mappings, with the keys that lead to it."""
    nested = (
        leaves(value, (*above, key)) if isinstance(value, dict) else [((*above, key), value)]
        for key, value in content.items()
    )
    return [leaf for some in nested for leaf in some]


@pytest.mark.parametrize("together", [some for some in TOGETHER if some])
def test_every_choice_composes_and_sets_what_it_says(together) -> None:
    """Not one key of a file is lost on the way, which is what happens to ``???`` over a schema's value."""
    config = composed(*(f"{group}={choice}" for group, choice in together.items()))
    for group, choice in together.items():
        content = yaml.safe_load((conf_folder() / group / f"{choice}.yaml").read_text())
        assert content
        for key, value in leaves(content):
            found = functools.reduce(getattr, key, getattr(config, group))
            assert found == value, key


@pytest.mark.parametrize(("group", "choice"), [each for each in CHOICES if each[0] in ALONE])
def test_every_preset_and_launcher_composes(group, choice) -> None:
    if group == "launcher":
        names = dict.fromkeys(("slurm", "local"), "hydra_plugins.hydra_submitit_launcher") | {"basic": "hydra"}
        pytest.importorskip(names.get(choice, f"hydra_plugins.hydra_{choice}_launcher"))
    config = composed(f"{group}={choice}")
    if group == "experiment":
        assert config.name == choice


@pytest.mark.parametrize("choice", choices()["experiment"])
def test_every_preset_opens_with_its_command_and_has_its_folder(choice) -> None:
    text = (conf_folder() / "experiment" / f"{choice}.yaml").read_text()
    assert re.match(rf"# @package _global_\n# vismech (-m )?experiment={choice}\b", text)
    # One folder may serve several sizes of a preset: then it has the name's first words.
    words = choice.split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    folders = [conf_folder().parent / "experiments" / name for name in names]
    assert any((folder / "README.md").is_file() for folder in folders)


@pytest.mark.parametrize("choice", choices()["debug"])
def test_debugging_goes_after_every_preset(choice) -> None:
    content = yaml.safe_load((conf_folder() / "debug" / "few.yaml").read_text())
    for preset in (None, "quickstart", "fig4_cifar_resnet20"):
        config = composed(*([f"experiment={preset}"] if preset else []), f"debug={choice}")
        for key, value in leaves(content):
            assert functools.reduce(getattr, key, config) == value, key
        assert config.model.crop == (64 if choice == "small" else None)
    assert composed("debug=few", "dictionary.k=5").dictionary.k == 5


def test_the_sweep_of_the_documentation_is_a_command_of_ours() -> None:
    """W&B's agent writes its arguments, and they compose."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    text = (conf_folder().parent / "docs" / "tutorial" / "4-sweeps-and-tables.md").read_text()
    sweep = yaml.safe_load(re.search(r"```yaml\n(program: vismech\n.*?)```", text, re.DOTALL)[1])
    chosen = {"dictionary.k_per_channel": {"value": 4}, "dictionary.penalty": {"value": 0.0123}}
    assert chosen.keys() == sweep["parameters"].keys()
    written = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    program, *arguments, last = sweep["command"]
    assert (program, last) == ("vismech", "${args_no_hyphens}")
    config = composed(*arguments, *written)
    assert (config.dictionary.k_per_channel, config.dictionary.penalty) == (4, 0.0123)
    assert config.logger.mode == "online" and config.until == "evaluate"


def test_choices_and_values_meet() -> None:
    config = composed("experiment=quickstart", "data=imagenet", "data.root=/photos", "data.limit=200", "dictionary.k=8")
    assert (config.name, config.data.root, config.data.limit, config.dictionary.k) == ("quickstart", "/photos", 200, 8)
    assert config.data.source.value == "imagenet" and config.graph.classes == [129, 99]
    assert composed("graph.classes=[great white shark,3]").graph.classes == ["great white shark", 3]
    assert composed("edit.target=airplane").edit.target == "airplane"
    assert composed("extract.layers=[layer1.*,layer3]").extract.layers == ["layer1.*", "layer3"]
    assert composed("+model.kwargs.width=3", "+model.kwargs.deep.x=1").model.kwargs == {"width": 3, "deep": {"x": 1}}
    assert composed("runtime.devices=[0,1]").runtime.devices == [0, 1]
    assert composed("force=[trace,graph]", "until=graph").force == ["trace", "graph"]
    assert composed("model.mean=[0.1,0.2,0.3]").model.mean == [0.1, 0.2, 0.3]


# Documentation


def schemas(schema: type = Config) -> list[type]:
    inner = [hint for hint in get_type_hints(schema).values() if is_dataclass(hint)]
    return [schema, *(below for hint in inner for below in schemas(hint))]


def test_every_field_has_its_own_docstring() -> None:
    texts = {doc.key: doc.text for doc in documentation()}
    names = sum(not is_dataclass(get_type_hints(schema)[item.name]) for schema in schemas() for item in fields(schema))
    assert len(texts) == names > 50
    assert all(len(text) > 8 and text.endswith((".", "…")) and "\n" not in text for text in texts.values())


def test_every_schema_and_choice_of_values_has_a_docstring() -> None:
    for schema in schemas():
        assert schema.__doc__ and not schema.__doc__.startswith(f"{schema.__name__}(")
    for hint in {hint for schema in schemas() for hint in get_type_hints(schema).values()}:
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            assert hint.__doc__ or hint.__name__ == "Scope"


def test_types_and_defaults_are_shown_as_they_are_written() -> None:
    docs = {doc.key: doc for doc in documentation()}
    assert (docs["data.limit"].type, docs["data.limit"].default) == ("int or null", "null")
    assert (docs["dictionary.center"].type, docs["dictionary.center"].default) == ("bool", "false")
    assert docs["dictionary.code"].type.split(" | ")[0] == "lasso" and docs["dictionary.code"].default == "lasso"
    assert docs["model.mean"].type == "list of float or null"
    assert docs["extract.layers"].type == "list of str"
    # What the help shows as a default can be typed, and changes nothing.
    typed = [f"{doc.key}={doc.default}" for doc in docs.values() if doc.default and doc.default[0] not in "[{"]
    assert composed(*typed) == Config()


def test_the_help_names_every_key_and_choice() -> None:
    text = help_text()
    assert all(f"  {doc.key} (" in text for doc in documentation())
    assert all(choice in text for _, choice in CHOICES)
    assert max(map(len, text.splitlines())) < 200


def test_the_surface_changes_only_on_purpose() -> None:
    """To change it on purpose, write the new list to tests/configs/keys.txt and say so in CHANGELOG.md."""
    found = [f"{doc.key}: {doc.type} = {doc.default}" for doc in documentation()]
    found += [f"{group}={choice}" for group, choice in CHOICES]
    assert KEYS.read_text().splitlines() == found


# Refusals


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        # a key that is not there, and the nearest
        ("extract.layer=[a]", "there is no key 'extract.layer'; nearest: extract.layers"),
        ("modle=resnet18", "there is no key 'modle'; nearest: model"),
        ("rule=simpson", "there is no key 'rule'; nearest: attribute.rule"),
        ("data.rooot=x", "there is no key 'data.rooot'; nearest: data.root"),
        ("+foo=1", "there is no key 'foo'; vismech --help lists them all"),
        ("+extract.perimage=8", "there is no key 'extract.perimage'; nearest: extract.per_image"),
        ("++graph.share=1", "there is no key 'graph.share'; nearest: graph.shared"),
        ("foo/bar=3", "there is no key 'foo/bar'; "),
        ("hydra.foo=1", "there is no key 'hydra.foo': vismech --cfg hydra"),
        ("model.kwargs.width=1", "model.kwargs.width is not there yet: add it with +model.kwargs.width=…"),
        # a value of another type
        (
            "dictionary.k=2.5",
            "dictionary.k=2.5 does not fit: it must be int or str or null (Number of concepts per layer",
        ),
        (
            "attribute.steps=1.5",
            "attribute.steps=1.5 does not fit: it must be int (Nodes of the quadrature, with which rule=auto begins)",
        ),
        ("seed=null", "seed=null does not fit: it must be int"),
        ("dictionary.center=maybe", "dictionary.center=maybe does not fit: it must be bool"),
        ("data.classes=[cat]", "data.classes=cat does not fit: it must be list of int"),
        ("data.classes=3", "data.classes=3 must be a list of int: write data.classes=[3]"),
        ("extract.layers=layer1", "extract.layers=layer1 must be a list of str: write extract.layers=[layer1]"),
        ("graph.classes=spoonbill", "graph.classes=spoonbill must be a list of int or str: write graph.classes=[spoon"),
        ("graph.classes=[1.5]", "graph.classes=1.5 does not fit: it must be list of int or str"),
        ("edit.target=[cat]", "edit.target=['cat'] does not fit: it must be int or str or null"),
        ("force=trace", "force=trace must be a list: write force=[trace]"),
        ("model.kwargs=3", "model.kwargs=3 does not fit: it must be dict"),
        # a value that is not among the choices
        ("dictionary.code=laso", "dictionary.code=laso is not a choice; nearest: lasso"),
        ("until=extarct", "until=extarct is not a choice; nearest: extract"),
        ("force=[tracee]", "force=tracee is not a choice; nearest: trace"),
        ("graph.scope=everything", "graph.scope=everything is not a choice; it can be class, pair, dataset, image"),
        ("model=resnet19", "model=resnet19 is not a choice; nearest: resnet18"),
        ("experiment=quikstart", "experiment=quikstart is not a choice; nearest: quickstart"),
        ("extract=some", "extract=some is not a choice; it can be all, contrastive, gradient, relevance, uniform"),
        # what cannot be read, and what has no value
        ("quickstart", "cannot read 'quickstart': write key=value"),
        ("data.root=[[", "cannot read 'data.root=[[': write key=value, and quote a value with any of"),
        ("model.name=???", "model.name has no value: give model.name=… (The architecture's name there)"),
        ("seed=${nowhere}", "Interpolation key 'nowhere' not found full_key: seed"),
        ("extract=5", "Config group override must be a string or a list. Got int"),
        ("+model=resnet50", "Multiple values for model."),
        ("~=[a,b]", "cannot read '~=[a,b]': write ~group or ~group=CHOICE to leave a group out"),
        ("~model=[]", "cannot read '~model=[]': write ~group"),
    ],
)
def test_a_mistake_is_one_sentence(override, sentence) -> None:
    assert refusal(override).startswith(sentence)


def test_a_misspelt_key_in_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndictionary:\n  k_per_chanel: 3\n")
    done = run_command("--config-dir", str(tmp_path), "experiment=mine")
    assert "there is no key 'dictionary.k_per_chanel'; nearest: dictionary.k_per_channel" in sentence_of(done)
    assert sentence_of(done).endswith("(in experiment/mine.yaml)")


def test_other_errors_are_not_ours_to_explain() -> None:
    assert composition_error(RuntimeError("a bug")) is None
    assert composition_error(ValueError("a bug")) is None


def run_command(*arguments: str, code: str = "from vismech.commands.main import main; main()", **options):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, **options
    )


def sentence_of(done: subprocess.CompletedProcess) -> str:
    """What a command that failed says: its one line, and nothing else."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("vismech: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("vismech: ").strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["extract.layer=[a]"], "there is no key 'extract.layer'"),
        (["+extract.perimage=3"], "there is no key 'extract.perimage'"),
        (["dictionary.k=abc"], "dictionary.k=abc is no number of concepts: give a number, auto or null"),
        (["model.name=???"], "model.name has no value"),
        (["-m", "model=resnet19,resnet18"], "model=resnet19 is not a choice"),
        (["quickstart"], "cannot read 'quickstart'"),
    ],
)
def test_the_command_says_one_sentence_and_fails(tmp_path, arguments, sentence) -> None:
    assert sentence in sentence_of(run_command(*arguments, cwd=tmp_path))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data=imagefolder", "data=imagefolder needs data.root=FOLDER"),
        ("model=timm", "model.name has no value: give model.name=…, the architecture's name in timm"),
        ("model=custom", "model.target=None must be package.module:factory"),
        ("model=cifar_resnet20", "cifar_resnet20 has no published weights: give model.checkpoint=FILE"),
    ],
)
def test_what_a_choice_leaves_to_the_user_is_asked_for(override, sentence, photos, tmp_path) -> None:
    from vismech.stages.run import run

    data = [] if override.startswith("data") else ["data=imagefolder", f"data.root={photos}"]
    config = composed(override, *data, f"store.root={tmp_path / 'store'}", "logger=none", "runtime=cpu")
    with pytest.raises(UserError) as error:
        run(config, tmp_path / "run")
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()
