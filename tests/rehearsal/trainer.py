"""What Lightning does to a loop on one GPU, on the make-believe device: who is moved, in which order, and back."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from rehearsal.device import CUDA


class Trainer:
    """Stands in for :class:`lightning.Trainer`, for the loops and the training of ours."""

    global_rank, world_size, is_global_zero = 0, 1, True

    def __init__(self, *, accelerator: str, devices: Any, callbacks: list[Any] | None = None, **_: Any) -> None:
        assert (accelerator, devices) == ("cuda", [0])
        self.callbacks = callbacks or []

    def predict(self, loop: Any, return_predictions: bool) -> None:
        """Strategy and hooks of one process: set up, move, run batch by batch, move back."""
        loop._trainer = self
        loop.setup("predict")
        try:
            loop.to(CUDA)
            loop._device = CUDA
            batches = loop.predict_dataloader()
            self.num_predict_batches = [len(batches)]
            loop.on_predict_start()
            for number, batch in enumerate(batches):
                there = type(batch)(*(part.to(CUDA) for part in batch))
                found = loop.predict_step(there, number)
                for callback in self.callbacks:
                    if hasattr(callback, "write_on_batch_end"):
                        callback.write_on_batch_end(self, loop, found, None, there, number, 0)
                    else:
                        callback.on_predict_batch_end(self, loop, found, there, number)
        finally:
            loop.cpu()
            loop._device = torch.device("cpu")
            for callback in self.callbacks:
                callback.teardown(self, loop, "predict")

    def fit(self, training: Any) -> None:
        """One epoch, then everything that is the module's back to the CPU."""
        training._trainer = self
        optimizer = training.configure_optimizers()
        for number, batch in enumerate(training.train_dataloader()):
            optimizer.zero_grad()
            with torch.enable_grad():
                training.training_step(batch, number).backward()
            training.on_before_optimizer_step(optimizer)
            optimizer.step()
            training.on_train_batch_end(None, batch, number)
        training.cpu()


def take_over(monkeypatch: Any) -> None:
    """A machine with one GPU, as far as our own code asks."""
    monkeypatch.setattr(lightning, "Trainer", Trainer)
    monkeypatch.setattr(lightning.LightningModule, "trainer", property(lambda self: self._trainer))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**34, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 0)
    # Torch's optimisers ask a device that is there for its streams.
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        monkeypatch.setattr(torch.optim.Optimizer, name, lambda self: None, raising=False)
