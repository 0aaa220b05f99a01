"""The same code on a GPU: numbers as on the CPU, to the rounding of its kernels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from integration.conftest import draw_pictures, tiny_config
from vismech.choices import Code
from vismech.coding import Coding, encode
from vismech.dictionaries.refinement import Refinement, refine
from vismech.run import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
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


@pytest.mark.parametrize("code", list(Code))
def test_codes_on_the_gpu(code) -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = F.normalize(torch.rand(40, 12, generator=generator), dim=1)
    vectors = torch.rand(200, 12, generator=generator)
    coding = Coding(code, penalty=0.05, l0=4)
    here = encode(vectors, atoms, coding) @ atoms
    there = encode(vectors.cuda(), atoms.cuda(), coding) @ atoms.cuda()
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


def test_refined_atoms_on_the_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = F.normalize(torch.randn(24, 16, generator=generator), dim=1)
    codes = torch.rand(3000, 24, generator=generator) * (torch.rand(3000, 24, generator=generator) < 0.1)
    vectors = codes @ atoms
    start = F.normalize(atoms + 0.1 * torch.randn(24, 16, generator=generator), dim=1)
    found = [refine(vectors, start.to(device), Refinement(5, 3)) for device in ("cpu", "cuda")]
    assert found[1].errors == pytest.approx(found[0].errors, rel=0.02)
    assert (found[0].atoms * found[1].atoms.cpu()).sum(1).min() > 0.99
