"""Which device a run takes, and how its products are rounded there, on machines that this one is not."""

from __future__ import annotations

import sys

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from conftest import tiny_loop
from vismech.commands import main as cli
from vismech.config.choices import Code
from vismech.config.schema import Config, RuntimeConfig
from vismech.dictionaries import build
from vismech.errors import UserError
from vismech.passes.devices import accelerator_of, devices_of, first_device, rounding
from vismech.passes.extract import ExtractLoop
from vismech.passes.start import run_loop


@pytest.fixture
def gpus(monkeypatch):
    """Torch and Lightning told that there are so many CUDA devices."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: count > 0))

    return pretend


def test_auto_is_cuda_or_the_cpu_and_never_mps(gpus, monkeypatch) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    gpus(0)
    assert (accelerator_of(RuntimeConfig()), first_device(RuntimeConfig())) == ("cpu", "cpu")
    assert accelerator_of(RuntimeConfig("gpu")) == "cuda"
    gpus(1)
    assert (accelerator_of(RuntimeConfig()), first_device(RuntimeConfig())) == ("cuda", "cuda:0")
    assert first_device(RuntimeConfig("cpu")) == "cpu"
    with pytest.raises(UserError, match=r"accelerator=mps has no float64.*auto, cpu, gpu, cuda"):
        accelerator_of(RuntimeConfig("mps"))


def test_jobs_that_want_one_gpu_take_one_each(gpus) -> None:
    gpus(3)
    taken = [first_device(RuntimeConfig(job=job)) for job in range(5)]
    assert taken == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert devices_of(RuntimeConfig(job=4)) == [1]
    assert devices_of(RuntimeConfig(devices=[2], job=4)) == [2] and first_device(RuntimeConfig(devices=[2])) == "cuda:2"
    assert devices_of(RuntimeConfig("cpu", job=4)) == 1
    assert devices_of(RuntimeConfig(devices="auto", job=4)) == "auto"


@pytest.mark.parametrize("given", [[], ["runtime.job=5"]])
def test_a_sweeps_jobs_know_their_numbers(given, monkeypatch, tmp_path) -> None:
    seen = []

    def note(config: Config, folder) -> None:
        seen.append((config.seed, config.runtime.job))
        raise UserError("that is all")

    monkeypatch.setattr("vismech.stages.run.run", note)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vismech", "-m", "seed=7,8", "data.root=.", *given])
    with pytest.raises((SystemExit, UserError)):
        cli.main()
    assert seen in ([(7, 0), (8, 1)], [(7, 0)]) if not given else all(job == 5 for _, job in seen)


def test_convolutions_are_not_rounded_unless_asked_and_the_setting_is_restored() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for wanted in (False, True):
        with rounding(wanted):
            assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (wanted, wanted)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


@pytest.mark.parametrize("tf32", [False, True])
def test_a_pass_rounds_as_it_is_told_in_its_own_process(tf32, tmp_path) -> None:
    seen = []

    class Loop(ExtractLoop):
        def step(self, images, rows):
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return super().step(images, rows)

    loop = tiny_loop(ExtractLoop, tmp_path, tf32=tf32)
    loop.__class__ = Loop
    with rounding(not tf32):
        run_loop(loop)
    assert set(seen) == {(tf32, tf32)}


def test_work_on_the_cpu_is_no_warning_where_there_is_a_gpu(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    run_loop(tiny_loop(ExtractLoop, tmp_path))
    vectors = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    assert build("sae", vectors, 8, 0, Code.encoder, steps=2).k == 8
