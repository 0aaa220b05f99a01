"""Where a finished run goes beside its folder: TensorBoard's files, and artifacts in W&B's offline ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from vismech.config.choices import Evaluation, LoggerKind, Scope
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.run import run

pytestmark = pytest.mark.thorough


def short(config: Config) -> Config:
    """A run with a graph, and nothing that takes long."""
    config.extract.layers, config.evaluate.kinds, config.describe.cards = ["layer2", "layer3"], [], 0
    config.graph.scope, config.report.page = Scope["dataset"], False
    config.evaluate.kinds = [Evaluation.reconstruction]
    return config


def test_tensorboard_has_numbers_configuration_and_figure(tiny, tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = short(tiny)
    config.logger.kind, config.report.figure = LoggerKind.tensorboard, True
    result = run(config, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for name, value in result.metrics.items():
        assert events.Scalars(name)[0].value == pytest.approx(float(value), rel=1e-5)
    assert tags["images"] == ["figures/graph"]
    assert "k: 12" in (tmp_path / "run" / "tensorboard" / "hparams.yaml").read_text()


def test_tensorboard_that_is_not_installed_is_one_sentence(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    config = short(tiny)
    config.logger.kind = LoggerKind.tensorboard
    with pytest.raises(UserError, match=r"logger=tensorboard needs the extra 'tensorboard'"):
        run(config, tmp_path / "run")


def test_offline_wandb_has_dictionaries_and_graph_with_their_provenance(tiny, tmp_path, monkeypatch) -> None:
    """The run's own file of records is read as W&B would upload it."""
    import wandb

    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = short(tiny)
    config.logger.kind, config.logger.artifacts = LoggerKind.wandb, True
    run(config, tmp_path / "run")
    wandb.teardown()  # its own process writes the last of the records, after the run is finished
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    logged = [_artifact(record) for record in _records(file.read_bytes())]
    found = {each.name: each for each in logged if each is not None and each.type in ("dictionary", "graph")}
    assert set(found) == {"tiny-dictionary-layer2", "tiny-dictionary-layer3", "tiny-graph"}
    plan = make_plan(open_context(config))
    for layer, spec in plan.dictionaries.items():
        name = f"tiny-dictionary-{layer}"
        facts, files = json.loads(found[name].metadata), _files(found[name])
        assert facts["key"] == spec.key and facts["inputs"]["k"] == 12
        assert facts["provenance"]["versions"]["vismech"] and set(found[name].aliases) == {spec.key, "latest"}
        atoms = Path(config.store.root) / "dictionary" / spec.key / "atoms.safetensors"
        assert files["atoms.safetensors"] == hashlib.md5(atoms.read_bytes()).digest() and "manifest.json" in files
    assert plan.graph is not None and json.loads(found["tiny-graph"].metadata)["key"] == plan.graph.key


def _records(content: bytes):
    """The records of W&B's file: LevelDB's log after seven bytes, in blocks of 32 KiB that split what is longer."""
    from wandb.proto import wandb_internal_pb2

    place, parts = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def _artifact(record):
    kind = record.WhichOneof("record_type")
    if kind == "artifact":
        return record.artifact
    if kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
        return record.request.log_artifact.artifact
    return None


def _files(artifact) -> dict[str, bytes]:
    import base64

    return {entry.path: base64.b64decode(entry.digest) for entry in artifact.manifest.contents}


def test_artifacts_are_refused_without_wandb(tiny, tmp_path) -> None:
    tiny.logger.artifacts = True
    with pytest.raises(UserError, match=r"logger.artifacts=true is W&B's: give logger=wandb instead of logger=none"):
        run(tiny, tmp_path / "run")
