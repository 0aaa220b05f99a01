"""Opening somebody's run does not run their code: hostile configurations, and those that are none."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from test_config import run_command, sentence_of
from vismech.commands.concept import main
from vismech.compare.run_tables import Run
from vismech.config.choices import ModelSource
from vismech.config.schema import Config, ModelConfig
from vismech.config.trust import check_model, refuse_rerun
from vismech.errors import UserError
from vismech.finished.configuration import config_of
from vismech.store.artifacts import plain

RUN = Path("outputs/runs/theirs")
HOSTILE = """
from pathlib import Path
Path({mark!r}).touch()
def build(**kwargs):
    Path({mark!r}).touch()
"""


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """A file that is there as soon as a hostile module was imported or a pickle was read."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "hostile.py").write_text(HOSTILE.format(mark=str(tmp_path / "mark")))
    (tmp_path / "code" / "evil.pth").write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    (tmp_path / "code" / "hubconf.py").write_text(HOSTILE.format(mark=str(tmp_path / "mark")))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    yield tmp_path / "mark"
    sys.modules.pop("hostile", None)


def theirs(tmp_path: Path, **model) -> Path:
    """The folder of a run with a model of their choice."""
    folder = tmp_path / "theirs" / ".hydra"
    folder.mkdir(parents=True)
    content = plain(Config())
    content["model"] |= model
    OmegaConf.save(OmegaConf.create(content), folder / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": {"runtime": {"cwd": str(tmp_path)}}}), folder / "hydra.yaml")
    OmegaConf.save(OmegaConf.create([]), folder / "overrides.yaml")
    return folder.parent


def custom(target: str, kwargs: dict | None = None) -> dict:
    return {"source": "custom", "target": target, "kwargs": kwargs or {}}


def test_the_trap_is_sprung_by_whoever_imports_it(mark) -> None:
    import hostile

    assert mark.exists() and hostile.build
    mark.unlink()
    pickle.loads((mark.parent / "code/evil.pth").read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        ("hostile:build", {}),
        ("os:system", {"command": "touch {mark}"}),
        ("subprocess:Popen", {"args": ["touch", "{mark}"]}),
        ("builtins:exec", {"source": "open('{mark}', 'w')"}),
        ("torch.hub:load", {"repo_or_dir": "{code}", "model": "build", "source": "local"}),
        ("torch:load", {"f": "{code}/evil.pth", "weights_only": False}),
        ("torch.serialization:load", {"f": "{code}/evil.pth", "weights_only": False}),
        ("torch.os:system", {"command": "touch {mark}"}),
        ("torch:os", {}),
        ("torch.nn.modules.module:torch", {}),
        ("torch.nn.modules.module:functools", {}),
        ("torch.jit:load", {"f": "{code}/evil.pth"}),
        ("torch.utils.cpp_extension:load", {"name": "x", "sources": ["{code}/x.cpp"]}),
        ("timm:create_model", {"model_name": "resnet18", "checkpoint_path": "{code}/evil.pth"}),
        ("timm.models:load_checkpoint", {"model": None, "checkpoint_path": "{code}/evil.pth"}),
        ("timm.models:resnet18", {"checkpoint_path": "evil"}),
        ("timm.models:resnet18", {"pretrained": True, "pretrained_cfg_overlay": {"file": "{code}/evil.pth"}}),
        ("timm.models:resnet18", {"pretrained": True, "cache_dir": "code"}),
        ("torchvision.models:get_model", {"name": "resnet18"}),
        ("torchvision.models._api:load_state_dict_from_url", {"url": "file://{code}/evil.pth"}),
        ("vismech.attribution.paths:importlib", {}),
        ("vismech.sources.weights:read_state", {"path": "{code}/evil.pth"}),
        ("vismech.sources.models:open_model", {"source": "custom", "name": "x", "target": "hostile:build"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_targets_are_not_imported(mark, tmp_path, capsys, target, kwargs) -> None:
    def filled(value):
        if isinstance(value, dict):
            return {name: filled(each) for name, each in value.items()}
        return value.format(mark=mark, code=tmp_path / "code") if isinstance(value, str) else value

    run = theirs(tmp_path, **custom(target, filled(kwargs)))
    with pytest.raises(SystemExit) as stopped:
        main([str(run), "layer1", "0"])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.startswith("vismech-concept: ") and said.count("\n") == 1
    assert "was made with model." in said
    assert not mark.exists() and "hostile" not in sys.modules


@pytest.mark.parametrize("source", ["timm", "torchvision", "efficientnet_lite"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"checkpoint_path": "evil"},
        {"checkpoint_path": "code/evil.pth"},
        {"pretrained_cfg_overlay": {"file": "code/evil.pth"}},
        {"anything": ["a", "../evil"]},
    ],
    ids=str,
)
def test_files_are_not_loaded_by_arguments_of_libraries(source, kwargs) -> None:
    with pytest.raises(UserError, match=r"model.kwargs.\w+=.*, by which a file could be executed"):
        check_model(ModelConfig(ModelSource(source), "resnet18", kwargs=kwargs), RUN)


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        ("vismech.sources.cifar_resnet:CifarResNet", {"depth": 20}),
        ("vismech.sources.cct:cct_3_3x2", {}),
        ("torchvision.models:resnet18", {"num_classes": 7, "weights": "IMAGENET1K_V1"}),
        ("timm.models:resnet18", {"num_classes": 7, "global_pool": "avg", "img_size": [64, 64]}),
        ("timm.models.resnet:ResNet", {}),
        ("torch.nn:Flatten", {"start_dim": 1}),
    ],
)
def test_networks_of_the_libraries_are_built(target, kwargs) -> None:
    check_model(ModelConfig(ModelSource.custom, "x", target=target, kwargs=kwargs), RUN)


def test_what_the_person_trusts_is_imported(mark) -> None:
    model = ModelConfig(ModelSource.custom, "x", target="hostile:build", kwargs={"path": "anything/at/all"})
    with pytest.raises(UserError, match="code of 'hostile' that opening the run would execute: give --trust hostile"):
        check_model(model, RUN, ["other"])
    check_model(model, RUN, ["other", "hostile"])
    assert mark.exists()


def test_trust_is_for_what_a_package_defines(mark, tmp_path, monkeypatch) -> None:
    text = "from os import system\nfrom torch.hub import load\nimport functools, hostile\n"
    text += "partial = functools.partial(hostile.build)\ndef mine(): ...\nown = functools.partial(mine)\n"
    (tmp_path / "code" / "friendly.py").write_text(text)

    def check(name: str, *trusted: str) -> None:
        check_model(ModelConfig(ModelSource.custom, "x", target=f"friendly:{name}"), RUN, trusted)

    for name in ("system", "load", "partial", "functools"):
        with pytest.raises(UserError, match=r"was made with model.target=friendly"):
            check(name, "friendly")
    check("own", "friendly")
    check("partial", "friendly", "hostile")
    with pytest.raises(UserError, match="friendly:gone, which cannot be imported"):
        check("gone", "friendly")


def test_trusting_torch_is_not_trusting_what_it_loads() -> None:
    with pytest.raises(UserError, match="which is no network"):
        check_model(ModelConfig(ModelSource.custom, "x", target="torch.hub:load"), RUN, ["torch"])


def test_a_path_of_somebodys_own_is_not_needed_for_a_card(mark, tmp_path) -> None:
    run = theirs(tmp_path)
    content = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    content["attribute"]["curve"] = {"_target_": "hostile.build"}
    content["evaluate"]["methods"] = ["manifold_ig"]
    content["evaluate"]["method_options"] = {"manifold_ig": {"decoder": {"_target_": "hostile.build"}}}
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump(content))
    found = config_of(run)
    assert found.attribute.curve == {} and found.evaluate.methods == [] and found.evaluate.method_options == {}
    assert not mark.exists()


@pytest.mark.parametrize("file", ["config.yaml", "hydra.yaml"])
@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [touch {mark}]", "a: [", "3", "a: !x 1", "model: 5"], ids=str
)
def test_files_that_are_no_configuration_are_one_sentence(mark, tmp_path, file, text) -> None:
    run = theirs(tmp_path)
    (run / ".hydra" / file).write_text(text.format(mark=mark))
    with pytest.raises(
        UserError, match=r"holds no configuration of this version of vismech|cannot be read as plain YAML"
    ) as error:
        config_of(run)
    assert "\n" not in str(error.value) and not mark.exists()


def test_comparing_runs_imports_nothing_of_them(mark, tmp_path) -> None:
    run = theirs(tmp_path, **custom("hostile:build"))
    assert Run(run).settings["model.target"] == "hostile:build"
    (run / ".hydra/config.yaml").write_text(f"x: !!python/object/apply:os.system ['touch {mark}']")
    with pytest.raises(UserError, match=r"config.yaml cannot be read as plain YAML"):
        _ = Run(run).settings
    assert not mark.exists() and "hostile" not in sys.modules


def test_hydras_rerun_is_refused_before_it_unpickles(mark, tmp_path) -> None:
    done = run_command("--experimental-rerun", str(tmp_path / "code/evil.pth"), cwd=tmp_path)
    assert "--experimental-rerun executes whatever is in the file" in sentence_of(done)
    assert not mark.exists()


def test_a_runs_folder_is_no_folder_of_configurations(mark, tmp_path) -> None:
    run = theirs(tmp_path)
    hostile = {"hydra": {"callbacks": {"x": {"_target_": "hostile.build"}}}}
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump(hostile))
    done = run_command("--config-dir", str(run / ".hydra"), "--config-name", "config", cwd=tmp_path)
    assert "holds the configuration of a run, which can name code to execute" in sentence_of(done)
    assert not mark.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--exp=x"],
        ["--config-dir", "{run}", "-cn", ".hydra/config"],
        ["--config-path={run}/.hydra"],
        ["-cp", "{copy}"],
        ["-cd{copy}"],
        ["--config-d={copy}"],
        ["hydra.searchpath=[file://{copy}]"],
        ["+.hydra=config"],
        ["+experiment=../theirs/.hydra/config"],
    ],
    ids=str,
)
def test_other_ways_to_a_runs_configuration(tmp_path, arguments) -> None:
    run = theirs(tmp_path)
    copy = (run / ".hydra").rename(tmp_path / "copy")
    theirs(tmp_path / "again")
    with pytest.raises(UserError):
        refuse_rerun([argument.format(run=tmp_path / "again/theirs", copy=copy) for argument in arguments])


def test_what_people_type_is_left_alone(tmp_path) -> None:
    run = theirs(tmp_path)
    refuse_rerun(["-m", "experiment=quickstart", "--config-dir", str(tmp_path), f"hydra.run.dir={run}"])
    refuse_rerun(["hydra.output_subdir=.hydra", "--cfg", "job", "x" * 5000, f"data.root={run}", "name='a b'"])
