"""A tiny run: 30 synthetic pictures of three classes, a tiny network, three layers."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.process
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from vismech.config.choices import Along, DataSource, Labels, LoggerKind, ModelSource, Positions, Scope
from vismech.config.schema import Config

CLASSES = ("dots", "stripes", "waves")


def draw_pictures(root: Path, per_class: int = 10, reverse: bool = False) -> Path:
    """Noisy textures of three kinds; ``reverse`` writes the same files in another order."""
    items = [(label, index) for label in range(3) for index in range(per_class)]
    for label, index in reversed(items) if reverse else items:
        rng = np.random.default_rng(100 * label + index)
        y, x = np.mgrid[0:32, 0:32]
        wave = [np.sin(x) * np.sin(y), np.sin(x + index), np.sin((x + y) / 2 + index)][label]
        pixels = 128 + 80 * wave[..., None] * rng.uniform(0.3, 1, 3) + rng.normal(0, 12, (32, 32, 3))
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:02}.png")
    return root


def tiny_config(pictures: Path, store: Path) -> Config:
    """A whole run that takes a few seconds."""
    config = Config(name="tiny")
    config.model.source, config.model.name, config.model.target = ModelSource.custom, "tiny", "tiny:network"
    config.model.crop, config.model.resize = 32, 32
    config.data.source, config.data.root = DataSource.imagefolder, str(pictures)
    config.data.labels = Labels.rank
    config.extract.layers, config.extract.positions, config.extract.per_image = ["layer*"], Positions.uniform, 6
    config.dictionary.k = 12
    config.describe.nearest, config.describe.cards = 4, 1
    config.attribute.steps, config.attribute.along = 8, Along.reconstruction
    config.graph.scope, config.graph.images_per_class = Scope["dataset"], 12
    config.graph.important = 3
    config.evaluate.images = 10
    config.runtime.accelerator, config.runtime.batch_size = "cpu", 4
    config.runtime.path_batch_size = 16
    config.logger.kind = LoggerKind.none
    config.report.figure = False
    config.store.root = str(store)
    return config


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def tiny(pictures, tmp_path) -> Config:
    return tiny_config(pictures, tmp_path / "store")


def finish(config: Config, base: Path) -> Path:
    """Run ``config``, whose store is ``base``/store, and leave what Hydra would; the run's folder."""
    from omegaconf import OmegaConf

    from vismech.stages.run import run
    from vismech.store.artifacts import plain

    folder = base / "run"
    run(config, folder)
    (folder / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create({**plain(config), "store": {"root": "store"}}), folder / ".hydra/config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": {"runtime": {"cwd": str(base)}}}), folder / ".hydra/hydra.yaml")
    return folder


@pytest.fixture(scope="session")
def finished(pictures, tmp_path_factory) -> Path:
    """The folder of a run with a figure, and with what Hydra leaves there."""
    base = tmp_path_factory.mktemp("finished")
    config = tiny_config(pictures, base / "store")
    config.report.figure = True
    return finish(config, base)


def digest(store: Path) -> dict[str, str]:
    """Hash of manifest and payload of every artifact, by stage and key: what "byte-identical" means."""
    found = {}
    for manifest in sorted(store.glob("*/*/manifest.json")):
        if manifest.parent.suffix:  # unfinished, and a full disk may have cut it off
            continue
        content = json.loads(manifest.read_text())
        total = hashlib.sha256(manifest.read_bytes())
        for name in sorted(content["files"]):
            total.update((manifest.parent / name).read_bytes())
        found[f"{manifest.parent.parent.name}/{manifest.parent.name}"] = total.hexdigest()
    return found


def _preloaded():
    """Processes of the server that has :mod:`integration.preload`; it ignores this process's ``sys.path``."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["integration.preload"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return server


def _begin() -> None:
    """What a forked process does first."""
    import torch

    assert "integration.preload" in sys.modules  # or every process imports for seconds
    # The first use of PyTorch's pool of threads after a fork replaces it; two threads at once there end the process
    # ("Invalid thread pool!"), and autograd starts one with its first gradient.
    torch.set_num_threads(1)


def _child(config: Config, folder: Path, prepare: Callable[[], None] | None) -> None:
    from vismech.errors import UserError
    from vismech.stages.run import run

    _begin()
    if prepare is not None:
        prepare()
    try:
        run(config, folder)
    except UserError as error:
        (folder / "error.txt").write_text(str(error))
        raise SystemExit(1) from error


def run_apart(config: Config, folder: Path, prepare: Callable[[], None] | None = None, limit: int = 120) -> int:
    """Run in a process of its own, forked from a server that has the imports; its exit code (−9: killed)."""
    folder.mkdir(parents=True, exist_ok=True)
    process = _preloaded().Process(target=_child, args=(config, folder, prepare))
    process.start()
    process.join(limit)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


class FileLimit:
    """No file may grow beyond ``bytes``, as on a full disk."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


def _command(arguments: Sequence[str], folder: Path, prepare: Callable[[], None] | None) -> None:
    from vismech.commands.main import main

    _begin()
    os.chdir(folder)
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(folder.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["vismech", *arguments]
    if prepare is not None:
        prepare()
    main()


def start_command(
    arguments: Sequence[str], folder: Path, prepare: Callable[[], None] | None = None
) -> multiprocessing.process.BaseProcess:
    """Start ``vismech`` with ``folder`` as its working directory; what it says is in out.txt and err.txt beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    process = _preloaded().Process(target=_command, args=(arguments, folder, prepare))
    process.start()
    return process


class Said(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Its one sentence, after the log's lines; no traceback anywhere."""
        assert "Traceback" not in self.out + self.err, self.err
        assert self.err.endswith("\n"), self
        last = self.err.splitlines()[-1]
        assert last.startswith("vismech: "), self.err
        return last.removeprefix("vismech: ")


def said(process: multiprocessing.process.BaseProcess, folder: Path, limit: int = 120) -> Said:
    """Wait for a command that was started in ``folder``."""
    process.join(limit)
    assert process.exitcode is not None, "the command hangs"
    return Said(process.exitcode, *((folder.parent / name).read_text() for name in ("out.txt", "err.txt")))


def command(arguments: Sequence[str], folder: Path, prepare: Callable[[], None] | None = None) -> Said:
    """Run ``vismech`` to its end."""
    return said(start_command(arguments, folder, prepare), folder)


def tiny_arguments(pictures: Path, store: Path) -> list[str]:
    """:func:`tiny_config` as typed."""
    return [
        *("name=tiny", "model=custom", "model.name=tiny", "model.target=tiny:network", "model.crop=32"),
        *("model.resize=32", "data=imagefolder", "data.labels=rank", f"data.root={pictures}"),
        "extract.layers=[layer*]",
        *("extract=uniform", "extract.per_image=6", "dictionary.k=12", "describe.nearest=4", "describe.cards=1"),
        *(
            "attribute.steps=8",
            "attribute.along=reconstruction",
            "graph=dataset",
            "graph.images_per_class=12",
            "graph.important=3",
        ),
        *("evaluate.images=10", "runtime=cpu", "runtime.batch_size=4", "runtime.path_batch_size=16"),
        *("logger=none", "report.figure=false", f"store.root={store}"),
    ]
