"""Where passes run: on which network, with which means, and what becomes of images that cannot be read."""

from __future__ import annotations

from typing import NamedTuple

from vismech.config.choices import Unreadable
from vismech.config.runtime import RuntimeConfig
from vismech.sources.settings import ModelConfig


class Site(NamedTuple):
    """What a pass is given beside its settings; of these only the model and tf32 are in keys.

    Attributes:
        model: the network, opened in each process.
        runtime: devices, processes and batches.
        unreadable: whether an image that cannot be read ends the pass.
        prefix_tokens: tokens before the patch tokens, where the user says so; it is in the keys of what is extracted.
        shared: whether other runs fill the same rows at this time, so that what is filled is not yet to be committed.
    """

    model: ModelConfig
    runtime: RuntimeConfig
    unreadable: Unreadable
    prefix_tokens: int | None = None
    shared: bool = False
