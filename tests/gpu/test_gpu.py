"""The same code on a GPU: numbers as on the CPU, to the rounding of its kernels; the README states how far.

Activations agree to 1e-3 of their size, so do the edges of the same run twice, and codes in what they rebuild.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tiny
from integration.conftest import draw_pictures, tiny_config
from vismech.config.choices import Code, SaeActivation
from vismech.dictionaries import build
from vismech.dictionaries.coding import Coding, encode
from vismech.dictionaries.refinement import Refinement, refine
from vismech.dictionaries.search import nearest
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.passes.devices import rounding
from vismech.stages.run import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Which of FAISS's builds is installed is not the question here.
    pytest.mark.filterwarnings("ignore:.*FAISS has no GPU support.*"),
]


def test_a_run_on_the_gpu_gives_the_graph_of_the_cpu(tmp_path) -> None:
    graphs = {}
    for accelerator in ("cpu", "gpu"):
        config = tiny_config(draw_pictures(tmp_path / "pictures"), tmp_path / accelerator)
        config.runtime.accelerator = accelerator
        run(config, tmp_path / f"run-{accelerator}")
        graphs[accelerator] = json.loads((tmp_path / f"run-{accelerator}/graph.json").read_text())
    vectors = [sorted(Path(tmp_path / name).glob("extract/*/vectors.npy")) for name in ("cpu", "gpu")]
    for mine, theirs in zip(*vectors, strict=True):
        assert mine.parent.name == theirs.parent.name
        np.testing.assert_allclose(np.load(mine), np.load(theirs), rtol=1e-3, atol=1e-4)
    totals = [sum(link["weight"] for link in graph["links"]) for graph in graphs.values()]
    assert totals[1] == pytest.approx(totals[0], rel=0.05)


def test_the_same_run_twice(tmp_path) -> None:
    edges = []
    for name in ("first", "second"):
        config = tiny_config(draw_pictures(tmp_path / "pictures"), tmp_path / name)
        config.runtime.accelerator = "gpu"
        run(config, tmp_path / f"run-{name}")
        edges.append([np.load(path) for path in sorted((tmp_path / name).glob("trace/*/edges.npy"))])
    for mine, theirs in zip(*edges, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tf32", [False, True])
def test_convolutions_are_rounded_only_when_that_is_asked_for(tf32) -> None:
    model = tiny.network(width=64).requires_grad_(False)
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    images = tiny.images(8)
    with torch.no_grad(), rounding(tf32):
        here = network.activations(images, ["layer3"])["layer3"]
        model.cuda()
        there = network.activations(images.cuda(), ["layer3"])["layer3"].cpu()
        model.cpu()
        again = network.activations(images, ["layer3"])["layer3"]
    assert torch.equal(again, here)
    error = ((there - here).norm() / here.norm()).item()
    assert error < (1e-2 if tf32 else 1e-5), error
    if tf32 and torch.cuda.get_device_capability() >= (8, 0):
        assert error > 1e-5, "the option does nothing"


def test_exported_and_hooked_networks_compute_where_the_model_is() -> None:
    model = tiny.network().requires_grad_(False)
    for network in (open_network(model, torch.zeros(1, 3, 32, 32)), tiny.hooked(model)):
        model.cuda()
        with torch.no_grad():
            found = network.activations(tiny.images(2).cuda(), ["layer2", "logits"])
            torch.testing.assert_close(network.segment("layer2", "logits")(found["layer2"]), found["logits"])
        model.cpu()


@pytest.mark.parametrize("activation", list(SaeActivation))
def test_sparse_autoencoders_on_the_gpu(activation) -> None:
    vectors = torch.rand(600, 12, generator=torch.Generator().manual_seed(0))
    options = {"steps": 60, "activation": activation.value}
    found = build("sae", vectors, 30, 0, Code.encoder, center=True, device="cuda:0", **options)
    assert found.atoms.device.type == "cpu"
    there = found.to("cuda")
    rebuilt = there.decode(there.encode(vectors.cuda())).cpu()
    torch.testing.assert_close(rebuilt, found.decode(found.encode(vectors)), rtol=1e-3, atol=1e-3)


def test_a_device_that_is_full_is_a_sentence(tmp_path) -> None:
    config = tiny_config(draw_pictures(tmp_path / "pictures"), tmp_path / "store")
    config.runtime.accelerator = "gpu"
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(UserError, match=r"out of memory: lower runtime.batch_size"):
            run(config, tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("code", [code for code in Code if code not in (Code.encoder, Code.custom)])
def test_codes_on_the_gpu(code) -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = F.normalize(torch.rand(40, 12, generator=generator), dim=1)
    vectors = torch.rand(200, 12, generator=generator)
    coding = Coding(code, penalty=0.05, l0=4)
    here = encode(vectors, atoms, coding) @ atoms
    there = encode(vectors.cuda(), atoms.cuda(), coding) @ atoms.cuda()
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tf32", [False, True])
def test_neighbours_on_the_gpu_are_those_of_the_cpu(tf32) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5000, 64, generator=generator).relu_().numpy()
    atoms = F.normalize(torch.randn(300, 64, generator=generator), dim=1).numpy()
    with rounding(tf32):
        here, there = (nearest(atoms, vectors.reshape(5, 1000, 64), 70, device=device) for device in ("cpu", "cuda"))
    assert (here.rows == there.rows).all()  # no two cosines are the same
    torch.testing.assert_close(torch.from_numpy(there.scores), torch.from_numpy(here.scores), rtol=0, atol=1e-6)


def test_refined_atoms_on_the_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = F.normalize(torch.randn(24, 16, generator=generator), dim=1)
    codes = torch.rand(3000, 24, generator=generator) * (torch.rand(3000, 24, generator=generator) < 0.1)
    vectors = codes @ atoms
    start = F.normalize(atoms + 0.1 * torch.randn(24, 16, generator=generator), dim=1)
    found = [refine(vectors, start.to(device), Refinement(5, 3)) for device in ("cpu", "cuda")]
    assert found[1].errors == pytest.approx(found[0].errors, rel=0.02)
    assert (found[0].atoms * found[1].atoms.cpu()).sum(1).min() > 0.99
