"""Sparse autoencoders: planted directions, sparsity as asked for, revival, scale, and exact continuation."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vismech.config.choices import Code, SaeActivation
from vismech.dictionaries import Dictionary, build
from vismech.dictionaries.sae import training as sae
from vismech.dictionaries.sae.model import BANDWIDTH, THRESHOLD, SparseAutoencoder, largest, nests
from vismech.dictionaries.sae.training import fit_sae
from vismech.errors import UserError

ACTIVATIONS = [activation.value for activation in SaeActivation]
QUICK = {"steps": 60, "batch_size": 64}


def planted(n: int = 3000, k: int = 24, c: int = 16, active: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse positive combinations of k unit directions, and these."""
    generator = torch.Generator().manual_seed(5)
    directions = F.normalize(torch.randn(k, c, generator=generator), dim=1)
    codes = torch.zeros(n, k).scatter_(
        1, torch.rand(n, k, generator=generator).topk(active).indices, 1 + torch.rand(n, active, generator=generator)
    )
    return codes @ directions, directions


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return planted()[0]


def build_sae(vectors: torch.Tensor, k: int = 24, seed: int = 0, center: bool = True, **options) -> Dictionary:
    return build("sae", vectors, k, seed, code=Code.encoder, center=center, **{**QUICK, **options})


def explained(dictionary: Dictionary, vectors: torch.Tensor) -> float:
    residual = (vectors - dictionary.decode(dictionary.encode(vectors))).square().sum()
    return 1 - (residual / (vectors - vectors.mean(0)).square().sum()).item()


@pytest.mark.parametrize("center", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "activation, sparsity, most", [("topk", 0.0, 2), ("batchtopk", 0.0, 2.5), ("relu", 0.2, 9), ("jumprelu", 0.1, 3)]
)
def test_planted_directions_are_found(activation, sparsity, most, center) -> None:
    vectors, directions = planted()
    options = {"steps": 500, "batch_size": 256, "learning_rate": 0.01, "l0_per_channel": 2 / 16}
    dictionary = build_sae(vectors, 48, center=center, activation=activation, sparsity=sparsity, **options)
    assert explained(dictionary, vectors) > 0.85
    cosines = (dictionary.concepts @ directions.T).max(0).values
    assert (cosines > 0.9).float().mean() > 0.8
    assert 1.5 < (dictionary.encode(vectors)[:, :48] != 0).sum(1).float().mean() <= most
    torch.testing.assert_close(dictionary.atoms.norm(dim=1), torch.ones(dictionary.k))


def test_topk_keeps_at_most_so_many_of_each_vector_and_batchtopk_on_average(vectors) -> None:
    for activation, largest_l0 in (("topk", 4), ("batchtopk", 16)):
        dictionary = build_sae(vectors, center=False, activation=activation, l0_per_channel=0.25, steps=200)
        count = (dictionary.encode(vectors) != 0).sum(1).float()
        assert dictionary.info["l0"] == 4 and count.max() <= largest_l0
        assert 3.2 < count.mean() <= 4.4
        assert (dictionary.encode(vectors) >= 0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_codes_belong_to_the_vector_alone(activation, vectors) -> None:
    dictionary = build_sae(vectors, activation=activation)
    codes = dictionary.encode(vectors[:40])
    torch.testing.assert_close(dictionary.encode(vectors[7:9]), codes[7:9], rtol=0, atol=1e-5)
    torch.testing.assert_close(dictionary.encode(vectors[:40].view(4, 10, -1)).flatten(0, 1), codes)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_vectors_of_another_scale_have_codes_of_that_scale(activation, vectors) -> None:
    one, other = (build_sae(scale * vectors, activation=activation) for scale in (1, 4))
    torch.testing.assert_close(other.atoms, one.atoms)
    torch.testing.assert_close(other.encode(4 * vectors), 4 * one.encode(vectors))


def test_neither_the_order_of_the_rows_nor_anything_but_the_seed_shows(vectors) -> None:
    fits = [fit_sae(rows, 24, seed=seed, **QUICK) for rows, seed in ((vectors, 0), (vectors.flip(0), 0), (vectors, 1))]
    assert torch.equal(fits[0].atoms, fits[1].atoms) and not torch.equal(fits[0].atoms, fits[2].atoms)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(fit_sae(vectors, 24, seed=0, **QUICK).atoms, fits[0].atoms)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("center", [False, True])
def test_the_pre_bias_is_part_of_the_mean_concept(center, vectors) -> None:
    mean = vectors.mean(0, dtype=torch.float64).float()
    shift = fit_sae(vectors - mean, 24, seed=0, center=center, **QUICK).shift
    dictionary = build_sae(vectors, center=center)
    if not center:
        assert shift is None and dictionary.mean_index is None
        return
    assert shift is not None and shift.norm() > 0
    torch.testing.assert_close(dictionary.info["mean_norm"] * dictionary.atoms[-1], mean + shift)


class Killed(Exception):
    pass


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_run_that_is_killed_and_continued_gives_the_same_bytes(activation, vectors, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sae, "CHECKPOINT_STEPS", 20)
    options = {"k": 24, "seed": 0, "center": True, "activation": activation, **QUICK}
    whole = fit_sae(vectors, **options)
    trained: list[int] = []
    step = sae.SaeTraining.loss

    def counted(self, batch):
        trained.append(self.done)
        if len(trained) == 48:
            raise Killed
        return step(self, batch)

    monkeypatch.setattr(sae.SaeTraining, "loss", counted)
    with pytest.raises(Killed):
        fit_sae(vectors, **options, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [sae.CHECKPOINT]
    continued = fit_sae(vectors, **options, folder=tmp_path)
    assert trained[48:] == list(range(40, 60))
    again = fit_sae(vectors, **options, folder=tmp_path)
    assert len(trained) == 68
    for fitted in (continued, again):
        assert fitted.info == whole.info and fitted.encoder is not None and whole.encoder is not None
        assert torch.equal(fitted.atoms, whole.atoms) and torch.equal(fitted.shift, whole.shift)
        assert all(torch.equal(array, fitted.encoder[name]) for name, array in whole.encoder.items())


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", None, {}, {"module": {}, "adam": {}}], ids=repr)
def test_a_checkpoint_that_cannot_be_read_is_none(tmp_path, caplog, content) -> None:
    """Cut, empty, of another kind: training starts anew, and ends in the same bytes."""
    vectors = torch.rand(60, 4, generator=torch.Generator().manual_seed(3))
    options = {"seed": 1, "l0_per_channel": 0.25, "steps": 30, "batch_size": 16}
    whole = fit_sae(vectors, 6, **options)
    fit_sae(vectors, 6, **options, folder=tmp_path)
    checkpoint = tmp_path / sae.CHECKPOINT
    if isinstance(content, bytes):
        checkpoint.write_bytes(content)
    elif content is None:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    else:
        torch.save(content, checkpoint)
    again = fit_sae(vectors, 6, **options, folder=tmp_path)
    assert "training starts anew" in caplog.text and torch.equal(again.atoms, whole.atoms)


def test_the_nests_of_a_matryoshka_each_rebuild_alone(vectors) -> None:
    generator = torch.Generator().manual_seed(0)
    model = SparseAutoencoder(torch.randn(32, 5, generator=generator), SaeActivation.matryoshka, 4, centred=False)
    centred = torch.randn(7, 5, generator=generator)
    codes = model.activate(model.latents(centred))
    assert ((codes > 0).sum(1) <= 4).all() and nests(32) == [2, 4, 8, 16, 32] and nests(3) == [1, 3]
    alone = [(centred - codes[:, :m] @ model.decoder[:m]).square().sum(1).mean() for m in (2, 4, 8, 16, 32)]
    torch.testing.assert_close(model.unexplained(centred, codes), torch.stack(alone).mean())

    def by_the_first(activation: str) -> float:
        """What the first quarter of the latents explains."""
        found = build_sae(vectors, center=False, activation=activation, steps=300)
        rest = vectors - found.encode(vectors)[:, :6] @ found.atoms[:6]
        return 1 - float(rest.square().sum() / vectors.square().sum())

    assert by_the_first("matryoshka") > by_the_first("topk") + 0.1


def test_dead_latents_point_at_what_is_badly_reconstructed() -> None:
    generator = torch.Generator().manual_seed(0)
    model = SparseAutoencoder(torch.eye(4)[:3], SaeActivation.topk, 1, centred=True)
    vectors = torch.rand(200, 4, generator=generator) * torch.tensor([1.0, 0, 0, 0])
    vectors[:5] = torch.tensor([0.0, 0, 0, 3])
    model.revive(torch.tensor([False, True, True]), vectors, generator)
    torch.testing.assert_close(model.decoder[1:].abs(), torch.eye(4)[3].expand(2, 4))
    assert torch.equal(model.decoder[0], torch.eye(4)[0])
    assert torch.equal(model.encoder[1:], model.decoder[1:])


def test_latents_that_no_vector_reaches_are_revived(vectors, monkeypatch) -> None:
    draw = sae.initial_directions

    def half_dead(data, k, generator):
        directions = draw(data, k, generator)
        # Every vector is positive in the last channel.
        directions[: k // 2] = F.one_hot(torch.tensor(16)).float().neg()
        return directions

    constant = F.pad(vectors, (0, 1), value=0.2)
    monkeypatch.setattr(sae, "initial_directions", half_dead)
    dictionary = build_sae(constant, center=False, steps=300)
    monkeypatch.setattr(SparseAutoencoder, "revive", lambda *_: None)
    alone = build_sae(constant, center=False, steps=300)
    alive, alive_alone = (int((fit.encode(constant) != 0).any(0).sum()) for fit in (dictionary, alone))
    assert dictionary.info["revived"] >= 12 and alive_alone <= 12 and alive >= 20
    assert explained(dictionary, constant) > explained(alone, constant)


def test_thresholds_learn_by_the_straight_through_estimator() -> None:
    """The rectangle kernel, written out: −θ/ε near the threshold for the codes, −1/ε for their number."""
    model = SparseAutoencoder(torch.eye(3), SaeActivation.jumprelu, 1, centred=False)
    inside = THRESHOLD + 0.4 * BANDWIDTH
    latents = torch.tensor([[inside, 1.0, -1.0]], requires_grad=True)
    codes = model.activate(latents)
    penalty = model.penalty(latents, codes)
    assert penalty is not None and penalty.item() == 2
    torch.testing.assert_close(codes, torch.tensor([[inside, 1.0, 0.0]]))
    threshold, slope = model.log_threshold, torch.tensor([[2.0, 3.0, 5.0]])
    assert threshold is not None
    by_codes, to_latents = torch.autograd.grad((slope * codes).sum(), [threshold, latents])
    torch.testing.assert_close(by_codes, torch.tensor([-2 * THRESHOLD**2 / BANDWIDTH, 0, 0]))
    torch.testing.assert_close(to_latents, torch.tensor([[2.0, 3.0, 0.0]]))
    (by_number,) = torch.autograd.grad(penalty, threshold)
    torch.testing.assert_close(by_number, torch.tensor([-THRESHOLD / BANDWIDTH, 0, 0]))


def test_the_decoder_moves_on_the_sphere() -> None:
    model = SparseAutoencoder(
        F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=1),
        SaeActivation.relu,
        1,
        centred=True,
    )
    model.decoder.grad = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    model.constrain_gradient()
    torch.testing.assert_close((model.decoder.grad * model.decoder).sum(1), torch.zeros(5))


def test_the_largest_values_are_those_of_sorting() -> None:
    values = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    for count in (1, 4, 9):
        assert torch.equal(largest(values, count)[:, 0], values.sort(descending=True).values[:, count - 1])


@pytest.mark.parametrize("n, size", [(10, 4), (3, 8), (5, 5)])
def test_batches_go_through_every_vector_before_any_comes_again(n, size) -> None:
    vectors = torch.arange(n, dtype=torch.float32)[:, None]
    plan = sae.Schedule(0, 0.0, 20, size, 0.1, 0.0, 0.0)
    seen = torch.cat(list(sae.Batches(vectors, plan, 0, 20)))[:, 0]
    for epoch in seen[: len(seen) // n * n].view(-1, n):
        assert torch.equal(epoch.sort().values, vectors[:, 0])
    assert torch.equal(torch.cat(list(sae.Batches(vectors, plan, 7, 20)))[:, 0], seen[7 * size :])


def test_the_learning_rate_rises_stays_and_falls() -> None:
    plan = sae.Schedule(0, 0.0, 100, 1, 0.1, 0.1, 0.2)
    rates = np.array([plan.rise(step) * plan.fall(step) for step in range(100)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:81], 1)
    np.testing.assert_allclose(rates[80:], np.arange(20, 0, -1) / 20)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 4000}, "4000 concepts were asked of 3000 distinct values"),
        ({"k": 2}, "asks for 4 active latents of 2"),
        ({"l0_per_channel": 3.0}, "asks for 48 active latents of 24"),
        ({"l0_per_channel": 0.0}, "l0_per_channel=0.0"),
        ({"steps": 0}, r"sae\.steps is 0"),
        ({"batch_size": 0}, r"sae\.batch_size is 0"),
        ({"learning_rate": 0.0}, r"sae\.learning_rate is 0"),
        ({"sparsity": -1.0}, r"sae\.sparsity is -1"),
        ({"warmup": 0.6, "decay": 0.6}, "at most 1"),
        ({"learning_rate": 1e38, "activation": "relu"}, "diverged"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, message, vectors) -> None:
    with pytest.raises(UserError, match=message):
        fit_sae(vectors, **{"k": 24, "seed": 0, **QUICK, **options})


def test_values_that_are_not_finite_are_refused(vectors) -> None:
    broken = vectors.clone()
    broken[3, 2] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        fit_sae(broken, 24, seed=0, **QUICK)


def test_topk_explains_as_much_as_overcompletes_at_the_same_budget(monkeypatch) -> None:
    """In small; `experiments/benchmarks/sae.py` does the same with vectors of a network."""
    pytest.importorskip("einops", reason="overcomplete needs einops")
    if importlib.util.find_spec("overcomplete") is None:
        pytest.skip("overcomplete is not installed (pip install --no-deps overcomplete einops)")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments" / "benchmarks")
    benchmark = importlib.import_module("sae")
    train, test = planted(4000)[0].chunk(2)
    assert min(benchmark.compare(train, test, 400, 128, 1, [1e-3, 5e-3])) >= -0.01


def test_a_process_that_is_killed_leaves_what_another_continues(vectors, tmp_path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
import numpy as np
import torch
from vismech.dictionaries.sae import training as sae
sae.CHECKPOINT_STEPS = 20
step = sae.SaeTraining.loss
def killed(self, batch):
    if self.done == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)
sae.SaeTraining.loss = killed
vectors = torch.from_numpy(np.load(sys.argv[1]))
sae.fit_sae(vectors, 24, seed=0, center=True, steps=60, batch_size=64, folder=Path(sys.argv[2]))
"""
    np.save(tmp_path / "vectors.npy", vectors.numpy())
    folder = tmp_path / "partial"
    folder.mkdir()
    arguments = [sys.executable, "-c", program, tmp_path / "vectors.npy", folder]
    assert subprocess.run(arguments, timeout=300).returncode == -signal.SIGKILL
    assert torch.load(folder / sae.CHECKPOINT, weights_only=True)["numbers"]["done"] == 20
    whole, continued = (fit_sae(vectors, 24, seed=0, center=True, **QUICK, folder=path) for path in (None, folder))
    assert torch.equal(whole.atoms, continued.atoms) and torch.equal(whole.shift, continued.shift)
    assert whole.encoder is not None and continued.encoder is not None
    assert all(torch.equal(array, continued.encoder[name]) for name, array in whole.encoder.items())
