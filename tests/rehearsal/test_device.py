"""The device refuses, allows and counts what CUDA would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rehearsal.device import CUDA, device

HERE = torch.arange(6.0).view(2, 3)
REFUSED: dict[str, Callable[[Tensor], object]] = {
    "add": lambda there: there + HERE,
    "product": lambda there: there @ HERE.T,
    "concatenation": lambda there: torch.cat([there, HERE]),
    "a scalar in a concatenation": lambda there: torch.stack([there[0, 0], torch.tensor(1.0)]),
    "convolution": lambda there: nn.functional.conv1d(there[None], torch.ones(1, 2, 1)),
    "batch norm": lambda there: nn.functional.batch_norm(there, torch.zeros(3), torch.ones(3)),
    "indices of the device": lambda there: HERE[there.long()[0]],
    "values of the CPU": lambda there: there.index_put_((torch.tensor([0]),), HERE[0]),
    "gather": lambda there: there.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "numpy": lambda there: there.numpy(),
    "an array": lambda there: np.asarray(there),
    "a generator": lambda there: torch.rand(2, device=there.device, generator=torch.Generator()),
}
ALLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "a scalar": lambda there: there * torch.tensor(2.0),
    "where": lambda there: torch.where(there > 1, there, torch.tensor(0.0)),
    "indices of the CPU": lambda there: there[torch.tensor([1, 0])],
    "a list": lambda there: there[[1, 0]],
    "a factory": lambda there: torch.ones(2, 3, device=there.device) + there,
    "a tensor from values": lambda there: torch.tensor([1.0, 2.0, 3.0], device=there.device) + there,
    "like another": lambda there: there.new_zeros(3) + torch.zeros_like(there),
    "a copy": lambda there: torch.empty(2, 3, device=there.device).copy_(HERE),
    "an assignment": lambda there: there.clone().masked_fill_(there > 1, 7.0),
    "a view": lambda there: there.clone().T[1].add_(1),
}
WAITS: dict[str, tuple[Callable[[Tensor], object], int]] = {
    "arithmetic": (lambda there: (there + 1).sum(0), 0),
    "upload": (lambda there: HERE.to(there), 0),
    "item": (lambda there: there[0, 0].item(), 1),
    "truth": (lambda there: bool((there > 0).all()), 1),
    "a scalar as an index": (lambda there: there[0, there.long()[0, 1]], 1),
    "download": (lambda there: there.cpu(), 1),
    "list": (lambda there: there.tolist(), 1),
    "nonzero": (lambda there: there.nonzero(), 1),
    "a mask": (lambda there: there[there > 1], 1),
    "a solver": (lambda there: torch.linalg.cholesky(torch.eye(2, device=there.device)), 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_does_not_mix(name) -> None:
    with device(), pytest.raises((RuntimeError, TypeError)):
        REFUSED[name](HERE.to("cuda"))


@pytest.mark.parametrize("name", ALLOWED)
def test_what_may_cross_gives_the_cpus_numbers(name) -> None:
    with device():
        found = ALLOWED[name](HERE.to("cuda"))
        assert found.device == CUDA and found.is_cuda
        here = found.cpu()
    assert torch.equal(here, ALLOWED[name](HERE))


@pytest.mark.parametrize("name", WAITS)
def test_it_counts_what_the_host_waits_for(name) -> None:
    work, expected = WAITS[name]
    with device() as counts:
        there = HERE.to("cuda")
        work(there)
    assert counts.waits.total() == expected, counts


def test_gradients_and_modules_go_along() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()
    images = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (expected,) = torch.autograd.grad(model(images).square().sum(), images)
    with device():
        model.to("cuda")
        there = images.detach().to("cuda").requires_grad_()
        (found,) = torch.autograd.grad(model(there).square().sum(), there)
        assert found.device == CUDA
        torch.testing.assert_close(found.cpu(), expected)
        model.cpu()
    assert not any(tensor.is_cuda for tensor in model.state_dict().values())
