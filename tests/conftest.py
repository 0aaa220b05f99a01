"""What all tests share: one thread, a fixed order of examples, data where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from vismech.config.choices import DataSource, ModelSource
from vismech.config.runtime import RuntimeConfig
from vismech.config.schema import Config
from vismech.passes.extract import ExtractLoop
from vismech.passes.memory import keep_freed_memory
from vismech.stages.pipeline import open_context
from vismech.store.rows import Column, Rows

torch.set_num_threads(1)
keep_freed_memory()
# The same examples in every run: a failure on one machine can be repeated on another.
settings.register_profile("vismech", deadline=None, derandomize=True, database=None)
settings.load_profile("vismech")

CLASSES = ("apple", "berry", "cherry")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and weights; a test that needs what is not there is skipped."""
    folder = Path(os.environ.get("VISMECH_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no data at {folder}: name it with VISMECH_SHARED")
    return folder


def draw_photos(root: Path, per_class: int = 4, order: int = 1) -> Path:
    """Deterministic 40 × 36 pictures in three class folders; ``order=-1`` creates the same files last to first."""
    items = [(label, index) for label in range(len(CLASSES)) for index in range(per_class)]
    for label, index in items[::order]:
        rng = np.random.default_rng(100 * label + index)
        y, x = np.mgrid[0:40, 0:36] / 36
        waves = np.stack([np.sin(6 * (label + 1) * x + index), np.cos(5 * y * (index + 1)), x * y], 2)
        pixels = 128 + 90 * waves + rng.normal(0, 10, waves.shape)
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:03}.png")
    return root


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve small pictures, four in each of three class folders."""
    return draw_photos(tmp_path / "photos")


def tiny_loop(kind: type[ExtractLoop], folder: Path, **runtime) -> ExtractLoop:
    """A pass of the tiny network over twelve pictures in ``folder``, to their logits [12, 3]."""
    config = Config()
    config.model.source, config.model.name, config.model.target = ModelSource.custom, "tiny", "tiny:network"
    config.model.crop = config.model.resize = 32
    config.data.source, config.data.root = DataSource.imagefolder, str(draw_photos(folder / "photos"))
    config.runtime = RuntimeConfig("cpu", batch_size=8, **runtime)
    ctx = open_context(config)
    rows = Rows(folder, {"logits": Column((3,))}, len(ctx.data))
    return kind(ctx.site, ctx.data, range(len(ctx.data)), {"logits": rows}, "the pass", layouts={})
