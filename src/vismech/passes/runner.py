"""Lightning around a pass over images: devices, processes, progress, and where its columns go."""

from __future__ import annotations

import re
import warnings
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.multiprocessing.spawn import ProcessRaisedException

from vismech.dictionaries.search import release_scratch
from vismech.errors import UserError
from vismech.passes.devices import accelerator_of, devices_of, quiet
from vismech.passes.loop import Batch, Columns, ImageLoop, distinct
from vismech.passes.memory import OUT_OF_MEMORY
from vismech.passes.portions import no_memory, release
from vismech.passes.progress import Meter
from vismech.passes.resources import Resources


class Pass(lightning.LightningModule):
    """A pass as Lightning's predict loop: it moves the network, and tells the pass where that is."""

    def __init__(self, loop: ImageLoop) -> None:
        super().__init__()
        self.loop = loop
        # More processes than batches that are left: some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @property
    def resources(self) -> Resources | None:
        """The pass's model and network, once they are open."""
        return self.loop.resources

    def setup(self, stage: str) -> None:
        """Open the network; Lightning moves it, as a part of this module."""
        self.loop.setup()
        assert self.loop.resources is not None
        self.network_module = self.loop.resources.model.module

    def predict_dataloader(self) -> Any:
        """This process's batches."""
        self.loop.device = self.device
        return self.loop.batches(self.trainer.global_rank, self.trainer.world_size)

    def on_predict_start(self) -> None:
        """The network is where it belongs."""
        self.loop.device = self.device
        self.loop.on_predict_start()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Columns]:
        """Columns for one batch."""
        return self.loop.predict_step(batch)


class RowsWriter(BasePredictionWriter):
    """Hands each batch's columns to the artifacts' rows, without its padding."""

    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(
        self, trainer, pl_module: Pass, prediction, batch_indices, batch: Batch, batch_idx, dataloader_idx
    ) -> None:
        """Write one batch and note it as finished."""
        count = distinct(batch.rows)
        indices, readable = batch.rows[:count].tolist(), batch.readable[:count].tolist()
        for name, columns in prediction.items():
            values = {column: value[:count].cpu().numpy() for column, value in columns.items()}
            pl_module.loop.rows[name].write(indices, readable, values)

    def teardown(self, trainer, pl_module: Pass, stage: str) -> None:
        """Close this process's files."""
        for rows in pl_module.loop.rows.values():
            rows.close()


class Progress(lightning.Callback):
    """A :class:`Meter` over the batches of the first process."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.meter: Meter | None = None

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        """Begin with the first batch."""
        if trainer.is_global_zero and self.meter is None:
            self.meter = Meter(self.title, int(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Advance by one batch."""
        if self.meter is not None:
            self.meter.advance()

    def teardown(self, trainer, pl_module, stage: str) -> None:
        """Take the bar away, after an error too."""
        if self.meter is not None:
            self.meter.close()


def run(loop: ImageLoop) -> None:
    """Run ``loop``; see :func:`~vismech.passes.loop.run_loop`."""
    runtime = loop.site.runtime
    with warnings.catch_warnings():
        quiet()
        try:
            trainer = lightning.Trainer(
                accelerator=accelerator_of(runtime),
                devices=devices_of(runtime),
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
        if runtime.strategy != "auto":
            # What this process has kept of the devices is the other processes' to use.
            release_scratch()
            release()
        try:
            trainer.predict(Pass(loop), return_predictions=False)
        except ProcessRaisedException as error:
            said = re.findall(r"^vismech\.errors\.UserError: (.*)$", str(error), re.MULTILINE)
            if said:
                raise UserError(said[-1]) from error
            if OUT_OF_MEMORY.search(str(error)):
                raise no_memory(loop.title) from error
            raise
