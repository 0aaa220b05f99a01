"""What a server imports and opens once for all the processes that are forked from it."""

from pathlib import Path

import faiss  # noqa: F401
import torch
from hydra.core.plugins import Plugins

from integration.conftest import tiny_config
from vismech.passes.resources import resources_of

torch.set_num_threads(1)  # a pool of threads does not survive a fork
Plugins.instance()
config = tiny_config(Path(), Path())
resources_of(config.model, config.runtime.channels_last)
