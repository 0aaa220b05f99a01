"""What a server imports and opens once for all the processes that are forked from it."""

from pathlib import Path

import faiss  # noqa: F401
import torch
from hydra.core.plugins import Plugins

import vismech.lit.runner
import vismech.report.figures
import vismech.run
import vismech.stages.fields
import vismech.stages.gallery  # noqa: F401
from integration.conftest import tiny_config
from vismech.lit.resources import resources_of

torch.set_num_threads(1)  # a pool of threads does not survive a fork
Plugins.instance()
config = tiny_config(Path(), Path())
resources_of(config.model, config.runtime.channels_last)
