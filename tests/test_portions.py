"""Batches in portions: what the memory holds, less after an error, and the same numbers."""

from __future__ import annotations

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from threading import Barrier

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tiny
from conftest import tiny_loop
from vismech.config.choices import Code
from vismech.dictionaries import Dictionary
from vismech.dictionaries.coding import Coding
from vismech.dictionaries.lasso import Geometry
from vismech.errors import UserError
from vismech.measures.insertion.loop import ConceptLoop, Layer
from vismech.network.cut import LOGITS, open_network
from vismech.network.pfv import Layout, layout_of
from vismech.passes import capacity, loop
from vismech.passes.capacity import available_bytes, numbers_per_row, rows_that_fit
from vismech.passes.extract import ExtractLoop
from vismech.passes.memory import out_of_memory
from vismech.passes.portions import Portions, concurrent_size, in_portions
from vismech.passes.start import run_loop
from vismech.passes.threads import allowed_threads, one_thread

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def free(monkeypatch):
    """So many bytes free on every device."""
    return lambda count: monkeypatch.setattr(capacity, "free_bytes", lambda device: count)


def test_a_segment_counts_what_it_computes_for_a_row() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5))
    network = open_network(model.eval(), torch.zeros(1, 3, 8, 8))
    # relu, flat, linear
    assert numbers_per_row(network.segment("0", LOGITS)) == 144 + 144 + 5
    hooked = tiny.hooked(tiny.network())
    assert numbers_per_row(hooked.segment("layer1", LOGITS)) > numbers_per_row(
        open_network(tiny.network(), torch.zeros(1, 3, 32, 32)).segment("layer3", LOGITS)
    )


def test_rows_are_what_the_free_memory_holds(free) -> None:
    free(10_000)
    assert rows_that_fit(1024, 100, CUDA) == 20  # 0.8 × 10,000 / (4 × 100)
    assert rows_that_fit(8, 100, CUDA) == 8
    assert rows_that_fit(1024, 10**9, CUDA) == 2
    free(None)
    assert rows_that_fit(1024, 10**9, CPU) == 1024


def test_what_is_lowered_is_said(free, caplog) -> None:
    free(10_000)
    with caplog.at_level(logging.INFO):
        assert Portions.that_fit(Portions(256, 1024), 250, 100, CUDA, "pass") == Portions(8, 20)
    assert "pass: 8 images (of 256), 20 path points (of 1024) at a time" in caplog.text


def test_halving_ends_at_one_image_and_two_path_points() -> None:
    portions, tried = Portions(6, 9), []
    while portions is not None:
        tried.append(tuple(portions))
        portions = portions.halved()
    assert tried == [(6, 9), (3, 4), (1, 2)]
    assert Portions(1, 1).halved() is None


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 2, 2], [3, 3, 3, 3, 3, 3]])
@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_portions_give_each_row_once(rows, size) -> None:
    images, asked = torch.tensor(rows).float()[:, None], []

    def step(some: Tensor, numbers: list[int]) -> dict[str, dict[str, Tensor]]:
        asked.append(len(numbers))
        return {"a": {"double": 2 * some[:, 0]}}

    found = in_portions(step, images, rows, size)["a"]["double"]
    assert found.tolist() == [2 * row for row in dict.fromkeys(rows)]
    assert max(asked) <= size


def test_workers_take_portions_at_once_and_give_the_same() -> None:
    rows, met, without = [0, 1, 2, 3, 4, 5, 5, 5], Barrier(3, timeout=60), []
    images = torch.tensor(rows).float()[:, None]

    def step(some: Tensor, numbers: list[int]) -> dict[str, dict[str, Tensor]]:
        met.wait()  # breaks unless three are here at once
        without.append((torch.is_grad_enabled(), torch.get_num_threads()))
        return {"a": {"double": 2 * some[:, 0]}}

    with one_thread():
        found = in_portions(step, images, rows, 2, workers=3)["a"]["double"]
    assert found.tolist() == [0, 2, 4, 6, 8, 10]
    assert without == 3 * [(False, 1)]


def test_the_first_portions_error_is_told() -> None:
    def step(some: Tensor, numbers: list[int]) -> dict[str, dict[str, Tensor]]:
        raise UserError(f"row {numbers[0]}")

    with pytest.raises(UserError, match="row 0"):
        in_portions(step, torch.zeros(8, 1), list(range(8)), 2, workers=4)


@given(st.integers(1, 12), st.integers(0, 100), st.integers(1, 20))
def test_each_worker_has_a_portion_of_whole_eights(eights, padding, workers) -> None:
    rows = list(range(8 * eights - min(padding, 8 * eights - 1)))
    rows += [rows[-1]] * (8 * eights - len(rows))
    size = concurrent_size(rows, workers)
    assert workers == 1 or size % 8 == 0
    assert size * workers >= len(set(rows))
    assert workers == 1 or size - 8 < len(set(rows)) / workers
    assert concurrent_size([*rows, rows[-1]], workers) == len(rows) + 1


def test_as_many_portions_at_once_as_threads_and_memory_allow(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "allowed_threads", lambda: 5)
    for free, expected in ((None, 5), (10**12, 5), (1, 1)):
        monkeypatch.setattr(loop, "available_bytes", lambda free=free: free)
        (folder := tmp_path / str(free)).mkdir()
        plain = tiny_loop(ExtractLoop, folder)
        plain.setup()
        assert plain.workers() == expected
        plain.device = CUDA
        assert plain.workers() == 1


def test_available_memory_is_the_containers_where_that_is_less(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(capacity, "CONTAINER", tmp_path)
    whole = available_bytes()
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert whole is None or (available_bytes() or 0) > 0.5 * whole
    (tmp_path / "memory.max").write_text("5000000\n")
    assert available_bytes() == 4_000_000


def test_threads_share_one_geometry_of_a_dictionary(monkeypatch) -> None:
    atoms = torch.nn.functional.normalize(torch.rand(40, 8), dim=1)
    dictionary, made = Dictionary(atoms, Coding(Code.lasso, penalty=0.1)), []
    slow, met = Geometry.of, Barrier(4, timeout=60)
    monkeypatch.setattr(Geometry, "of", lambda given: made.append(1) or slow(given))

    def code(_: int) -> Tensor:
        met.wait()
        return dictionary.encode(torch.ones(2, 8))

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(code, range(4))
    assert len(made) == 1 and all(torch.equal(first, other) for other in others)


def test_threads_inside_of_one_are_those_outside() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert allowed_threads() == 3
        with one_thread(), one_thread():
            assert torch.get_num_threads() == 1 and allowed_threads() == 3
        assert allowed_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert allowed_threads() == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("StandardGpuResources: alloc fail: Cuda error 2 out of memory"),
    ],
    ids=lambda error: str(error)[:16],
)
def test_every_librarys_words_are_known(error) -> None:
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


class Small(ExtractLoop):
    """On a device that holds so many images at once."""

    held, seen = 2, 0

    def step(self, images, rows):
        if len(images) > self.held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.seen = max(self.seen, len(images))
        return super().step(images, rows)


class Full(ExtractLoop):
    """Out of memory before the first image."""

    def on_predict_start(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def logits(made: ExtractLoop) -> np.ndarray:
    run_loop(made)
    assert made.rows["logits"].finish() == list(range(12))
    return np.load(made.rows["logits"].folder / "logits.npy")


def test_a_pass_that_runs_out_of_memory_goes_on_with_less(tmp_path, caplog) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    small = tiny_loop(Small, tmp_path / "a")
    found = logits(small)
    np.testing.assert_allclose(found, logits(tiny_loop(ExtractLoop, tmp_path / "b")), rtol=1e-5, atol=1e-5)
    assert small.seen == 2
    assert "the pass: out of memory; going on with 2 images" in caplog.text


def test_a_single_image_too_much_is_a_sentence(tmp_path) -> None:
    none = tiny_loop(Small, tmp_path)
    none.held = 0
    with pytest.raises(UserError, match=r"^the pass: out of memory: lower runtime.batch_size or runtime.path_batch"):
        run_loop(none)


def test_another_error_is_no_matter_of_memory(tmp_path, monkeypatch) -> None:
    broken = tiny_loop(ExtractLoop, tmp_path)
    monkeypatch.setattr(broken, "step", lambda images, rows: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run_loop(broken)


@pytest.mark.slow  # two processes that import everything
def test_memory_that_runs_out_in_another_process_is_a_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^the pass: out of memory: lower runtime.batch_size"):
        run_loop(tiny_loop(Full, tmp_path, devices=2, strategy="ddp_spawn"))


def test_dictionaries_do_not_travel_through_shared_memory(tmp_path) -> None:
    plain = tiny_loop(ExtractLoop, tmp_path)
    atoms = torch.nn.functional.normalize(torch.rand(6, 4), dim=1)
    layer = Layer(layout_of((4, 2, 2), "a"), Dictionary(atoms, Coding(Code.omp, l0=2), encoder={"weight": atoms + 1}))
    assert isinstance(layer.layout, Layout)
    sent = ConceptLoop(plain.site, plain.data, plain.indices, plain.rows, "pass", layers={"a": layer}, mean_kept=False)
    arrived = pickle.loads(bytes(ForkingPickler.dumps(sent))).layers["a"].dictionary
    assert not atoms.is_shared() and not layer.dictionary.encoder["weight"].is_shared()
    assert torch.equal(arrived.atoms, atoms) and torch.equal(arrived.encoder["weight"], atoms + 1)
