"""Positions drawn in proportion to their contribution, through the whole extraction."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny as tiny_network
from integration.conftest import digest
from vismech.config.choices import Positions, Stage
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.network.pfv import layout_of
from vismech.passes.extract import ExtractLoop
from vismech.receptive_field import layer_relevance
from vismech.stages.run import run
from vismech.store.artifacts import Artifact, Store

BOTH = pytest.mark.parametrize("positions", [Positions.relevance, Positions.gradient])
LAYERS = ("layer1", "layer2", "layer3")


def _extract(config: Config, folder, name: str = "store", **runtime) -> dict[str, Artifact]:
    """Layer → artifact of a run that stops after extraction."""
    mine = copy.deepcopy(config)
    mine.until, mine.store.root = Stage.extract, str(folder / name)
    for key, value in runtime.items():
        setattr(mine.runtime, key, value)
    run(mine, folder / f"run of {name}")
    return _artifacts(mine)


def _artifacts(config: Config) -> dict[str, Artifact]:
    """Unit → artifact of the extraction."""
    found = (Artifact(path) for path in Store(config.store.root).artifacts())
    return {each.manifest["unit"]: each for each in found if each.manifest["stage"] == "extract"}


@pytest.mark.parametrize("positions", [Positions.relevance, Positions.contrastive, Positions.gradient])
def test_a_draw_does_not_depend_on_batches_or_processes(positions, tiny, tmp_path) -> None:
    tiny.extract.positions, tiny.extract.per_image = positions, 2
    first = _extract(tiny, tmp_path)
    again = _extract(tiny, tmp_path, "workers", workers=2)
    for layer, artifact in _extract(tiny, tmp_path, "batches", batch_size=7).items():
        assert (artifact.array("positions.npy") == first[layer].array("positions.npy")).all()
        np.testing.assert_allclose(artifact.array("vectors.npy"), first[layer].array("vectors.npy"), atol=1e-5)
    assert digest(tmp_path / "store") == digest(tmp_path / "workers")
    assert again.keys() == set(LAYERS)
    others = copy.deepcopy(tiny)
    others.seed = 1
    drawn = _extract(others, tmp_path, "seed")["layer1"].array("positions.npy")
    assert (drawn != first["layer1"].array("positions.npy")).any()


@pytest.mark.parametrize("hooked", [False, True])
def test_gradient_weighs_by_what_a_position_adds_to_the_logit(hooked, tiny) -> None:
    """Against the head's own formula at the last layer, <w_c, x_p>/P, and autograd through the plain modules."""
    model, images = tiny_network.network().requires_grad_(False), tiny_network.images(4)
    network = tiny_network.hooked(model) if hooked else open_network(model, images)
    loop = object.__new__(ExtractLoop)
    loop.layouts = {layer: layout_of(network.shape(layer), layer) for layer in LAYERS}
    loop.resources = type("Opened", (), {"network": network})()
    with torch.no_grad():
        found = loop._gradient(images)
    logits = model(images)
    weight = model.head.weight[logits.argmax(1)]
    clean = tiny_network.outputs(model, images)["layer3"]
    last = torch.einsum("bc,bcp->bp", weight, clean.flatten(2)) / clean.flatten(2).shape[2]
    torch.testing.assert_close(found.contributions["layer3"], last, atol=1e-5, rtol=1e-5)
    below = tiny_network.outputs(model, images)["layer2"].requires_grad_()
    (gradient,) = torch.autograd.grad(model.head(model.layer3(below).mean((2, 3))).max(1).values.sum(), below)
    expected = (below * gradient).sum(1).flatten(1).detach()
    torch.testing.assert_close(found.contributions["layer2"], expected, atol=1e-5, rtol=1e-5)


def test_relevance_draws_where_the_relevance_is(tiny, tmp_path) -> None:
    """With as many draws as there are positive positions, they are the positive ones."""
    tiny.extract.positions, tiny.extract.per_image = Positions.relevance, 1
    artifact = _extract(tiny, tmp_path)["layer3"]
    network = open_network(tiny_network.network(), tiny_network.images(1))
    assert artifact.array("uniform.npy").dtype == bool
    weights = layer_relevance(network, _preprocessed(tiny), ["layer3"]).relevance["layer3"].flatten(1).numpy()
    drawn = artifact.array("positions.npy")[:, 0]
    positive = (weights > 0).any(1)
    assert (weights[np.arange(len(drawn)), drawn][positive] > 0).all()
    assert (np.asarray(artifact.array("uniform.npy")) == ~positive).all()


def _preprocessed(config: Config) -> torch.Tensor:
    from vismech.stages.pipeline import open_context

    ctx = open_context(config)
    return torch.stack([ctx.model.preprocess(ctx.data.load(index)) for index in range(len(ctx.data))])


@BOTH
def test_images_without_a_contribution_are_drawn_uniformly_and_counted(positions, tiny, tmp_path, caplog) -> None:
    tiny.model.target = "tiny:against_everything"
    tiny.extract.positions, tiny.extract.per_image = positions, 1
    with caplog.at_level(logging.INFO, "vismech"):
        artifact = _extract(tiny, tmp_path)["layer3"]
    assert np.asarray(artifact.array("uniform.npy")).all()
    assert "layer3: no position adds to the logit in 30 of 30 images, drawn uniformly" in caplog.text
    assert len(np.unique(artifact.array("positions.npy"))) > 5


@pytest.mark.slow
def test_relevance_and_uniform_runs_share_their_logits(tiny, tmp_path) -> None:
    """The logits' key does not name the draw, so their bytes may not depend on it either."""
    found = {}
    for positions in (Positions.uniform, Positions.relevance, Positions.gradient):
        mine = copy.deepcopy(tiny)
        mine.extract.positions, mine.until = positions, Stage.graph
        mine.store.root = str(tmp_path / positions)
        run(mine, tmp_path / f"run {positions}")
        found[positions] = _artifacts(mine)["logits"].path("logits.npy").read_bytes()
    assert len(set(found.values())) == 1


def test_a_network_without_rules_is_refused_with_the_remedy(tiny, tmp_path) -> None:
    tiny.model.target = "tiny:gated"
    tiny.extract.positions, tiny.extract.per_image = Positions.relevance, 1
    with pytest.raises(UserError, match=r"no rule for 'mul'.*: set extract\.positions=gradient"):
        _extract(tiny, tmp_path)
    tiny.extract.positions = Positions.gradient
    assert _extract(tiny, tmp_path)["layer3"].array("vectors.npy").shape == (30, 1, 16)


def test_bad_numbers_are_no_missing_rule(tiny, tmp_path) -> None:
    state = tiny_network.network().state_dict()
    state["layer2.bn1.weight"] *= torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    tiny.model.checkpoint = str(tmp_path / "nan.safetensors")
    tiny.extract.positions, tiny.extract.per_image = Positions.relevance, 1
    with pytest.raises(UserError, match=r"not finite from layer 'layer2\.bn1' on"):
        _extract(tiny, tmp_path)
