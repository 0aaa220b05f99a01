"""A pass over images as a Lightning predict loop whose results go to :class:`~vismech.rows.Rows`, image by image."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from vismech.choices import Unreadable
from vismech.config import Config
from vismech.data import ImageData
from vismech.errors import UserError
from vismech.lit.batches import Batch, Images, PaddedBatches, distinct, loader
from vismech.lit.progress import Progress
from vismech.lit.resources import Resources, resources_of
from vismech.memory import keep_freed_memory
from vismech.rows import Rows
from vismech.threads import one_thread

Columns = dict[str, Tensor]


class ImageLoop(lightning.LightningModule):
    """Maps batches of images to columns of one or more artifacts.

    Args:
        config: model and runtime of the run.
        data: the images.
        indices: which of them, in the order of the artifacts' rows.
        rows: artifact name → its arrays; all have ``len(indices)`` entries.
        title: what the progress bar says.
    """

    def __init__(
        self, config: Config, data: ImageData, indices: Sequence[int], rows: Mapping[str, Rows], title: str
    ) -> None:
        super().__init__()
        self.config, self.data, self.indices, self.rows, self.title = config, data, list(indices), dict(rows), title
        self.done = frozenset.intersection(*(frozenset(part.done()) for part in self.rows.values()))
        self.resources: Resources | None = None
        # More processes than batches that are left: some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """Columns of every artifact for a batch of images [B, 3, H, W]; ``rows`` are their rows, padding included."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Open the network, in the process that will use it."""
        _quiet()  # both again, where this is a process of its own
        keep_freed_memory()
        runtime = self.config.runtime
        self.resources = resources_of(self.config.model, runtime.channels_last)
        self.network_module = self.resources.model.module

    @property
    def network(self):
        """The network as named layers, on this process's device."""
        assert self.resources is not None
        return self.resources.network

    def predict_dataloader(self) -> Any:
        """This process's share of the batches, without those that an earlier try finished."""
        assert self.resources is not None
        runtime = self.config.runtime
        sampler = PaddedBatches(
            len(self.indices), runtime.batch_size, self.trainer.global_rank, self.trainer.world_size, self.done
        )
        images = Images(self.data, self.indices, self.resources.model.preprocess)
        return loader(images, sampler, runtime.workers, self.device.type == "cuda")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Columns]:
        """Columns for one batch; gradients are available to :meth:`step`."""
        rows = batch.rows.tolist()
        if self.config.data.unreadable is Unreadable.fail:
            for row, readable in zip(rows, batch.readable.tolist(), strict=True):
                if not readable:
                    self.data.load(self.indices[row])  # raises, naming the file
        images = batch.images
        if self.config.runtime.channels_last:
            images = images.to(memory_format=torch.channels_last)
        # As in the pipeline's own process, for a process that was spawned.
        with torch.no_grad(), one_thread():
            return self.step(images, rows)

    def sample_id(self, row: int) -> str:
        """Sample id of a row."""
        return self.data.samples[self.indices[row]].id


class RowsWriter(BasePredictionWriter):
    """Hands each batch's columns to the artifacts' rows, without its padding."""

    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(
        self, trainer, pl_module: ImageLoop, prediction, batch_indices, batch: Batch, batch_idx, dataloader_idx
    ) -> None:
        """Write one batch and note it as finished."""
        count = distinct(batch.rows)
        indices, readable = batch.rows[:count].tolist(), batch.readable[:count].tolist()
        for name, columns in prediction.items():
            values = {column: value[:count].cpu().numpy() for column, value in columns.items()}
            pl_module.rows[name].write(indices, readable, values)

    def teardown(self, trainer, pl_module: ImageLoop, stage: str) -> None:
        """Close this process's files."""
        for rows in pl_module.rows.values():
            rows.close()


def _quiet() -> None:
    """Lightning's advice and deprecations that a user of ours cannot follow."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*|.*custom batch sampler.*|.*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*uneven batch length.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run_loop(loop: ImageLoop) -> None:
    """Run ``loop`` over its images on the devices of its runtime.

    Raises:
        UserError: also when it was raised in another process.
    """
    if len(loop.done) == len(loop.indices):  # an earlier try was killed between its last batch and its commit
        return
    runtime = loop.config.runtime
    with warnings.catch_warnings():
        _quiet()
        try:
            trainer = lightning.Trainer(
                accelerator=runtime.accelerator,
                devices=runtime.devices,
                strategy=runtime.strategy,
                callbacks=[RowsWriter(), Progress(loop.title)],
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=False,
                use_distributed_sampler=False,
                inference_mode=False,  # path integrals need gradients inside predict_step
            )
        except (ValueError, TypeError, MisconfigurationException) as error:
            told = f"accelerator={runtime.accelerator}, devices={runtime.devices}, strategy={runtime.strategy}"
            raise UserError(f"runtime: Lightning refuses {told}: {str(error).splitlines()[0]}") from error
        try:
            trainer.predict(loop, return_predictions=False)
        except ProcessRaisedException as error:
            said = re.findall(r"^vismech\.errors\.UserError: (.*)$", str(error), re.MULTILINE)
            if said:
                raise UserError(said[-1]) from error
            raise
