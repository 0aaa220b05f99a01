"""Transcoders: a slow twin from the paper, planted features of an MLP, what is read and rebuilt, layers' inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tiny
from vismech.config.choices import Code, SaeActivation
from vismech.dictionaries import Dictionary, build
from vismech.dictionaries.sae import training as sae
from vismech.dictionaries.sae.model import Transcoder
from vismech.dictionaries.sae.transcoder import fit_transcoder
from vismech.errors import UserError
from vismech.network.cut import open_network

ACTIVATIONS = [activation.value for activation in SaeActivation]
QUICK = {"steps": 40, "batch_size": 64, "l0_per_channel": 0.25}


def drawn(n: int, c: int, seed: int = 0) -> Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def planted(n: int = 3000, r: int = 20, c: int = 12, features: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and outputs of an MLP of rare ReLU features, ``Σ max(0, <w, x> − 1.3) d + b``, its w and its d."""
    read, write = F.normalize(drawn(features, r, 1), dim=1), F.normalize(drawn(features, c, 2), dim=1)
    inputs = 2 + drawn(n, r, 3)
    hidden = ((inputs - 2) @ read.T - 1.3).relu()
    return inputs, hidden @ write + drawn(1, c, 4), read, write


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    """What is read, off its centre and large, and a smaller bent function of it."""
    reads = 30 + 5 * drawn(400, 10)
    return reads, torch.tanh(0.2 * (reads - 30) @ drawn(10, 6, 1)) + drawn(1, 6, 2)


def build_transcoder(pairs: tuple[Tensor, Tensor], k: int = 16, center: bool = True, **options) -> Dictionary:
    reads, vectors = pairs
    how = {**QUICK, **options}
    return build("transcoder", vectors, k, 0, code=Code.encoder, center=center, reads=reads, place="norm", **how)


def slow_twin(x: Tensor, dictionary: Dictionary) -> Tensor:
    """``W_dec σ(W_enc x + b_enc) + b_dec`` of one vector, latent by latent (Dunefsky et al. 2024, eq. 1–2), σ: the ReLU
    of the largest l0 alone (Gao et al. 2024)."""
    weight, bias = dictionary.encoder["weight"], dictionary.encoder["bias"]
    latents = [float(sum(w * v for w, v in zip(weight[i], x, strict=True)) + bias[i]) for i in range(len(weight))]
    kept = sorted(range(len(latents)), key=lambda i: -latents[i])[: dictionary.info["l0"]]
    found = torch.zeros(dictionary.c)
    for i in kept:
        found += max(latents[i], 0.0) * dictionary.atoms[i]
    if dictionary.mean_index is not None:  # b_dec
        found += dictionary.info["mean_norm"] * dictionary.atoms[-1]
    return found


@pytest.mark.parametrize("center", [False, True])
def test_what_is_rebuilt_is_the_papers_function_of_what_is_read(center, pairs) -> None:
    reads = pairs[0]
    dictionary = build_transcoder(pairs, center=center)
    rebuilt = dictionary.decode(dictionary.encode(reads[:20]))
    slow = torch.stack([slow_twin(x, dictionary) for x in reads[:20]])
    torch.testing.assert_close(rebuilt, slow, rtol=1e-4, atol=1e-4)
    assert dictionary.reads == "norm" and dictionary.c == 6 and dictionary.encoder["weight"].shape == (16, 10)
    assert (dictionary.encode(reads)[:, :16] > 0).sum(1).max() <= 2
    torch.testing.assert_close(dictionary.atoms.norm(dim=1), torch.ones(dictionary.k))


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_loss_is_what_the_dictionary_misses_of_the_outputs(activation, center, pairs, monkeypatch) -> None:
    """``mean ‖y − TC(x)‖²``, in the training's units of mean ‖y‖²: centre, scale and bias are all folded in."""
    trained: list[sae.SaeTraining] = []
    run = sae.SaeTraining.run
    monkeypatch.setattr(sae.SaeTraining, "run", lambda self: (run(self), trained.append(self)))
    dictionary = build_transcoder(pairs, center=center, activation=activation)
    reads, vectors = pairs
    (training,) = trained
    model, rows = training.model, training.model.centre(training.vectors)
    codes = model.activate(model.latents(rows))
    if activation == "batchtopk":  # a threshold of its own for each batch, one for all afterwards
        threshold = model.global_threshold(sae.Batches(training.vectors, training.plan, 0, sae.THRESHOLD_BATCHES))
        latents = model.latents(rows)
        codes = torch.where(latents > threshold, latents, 0.0)
    loss = (model.goal(rows) - codes @ model.decoder).square().sum(1).mean()
    centre = vectors.mean(0, dtype=torch.float64).float() if center else torch.zeros(6)
    unit = (vectors - centre).square().sum(1).mean()
    missed = (vectors - dictionary.decode(dictionary.encode(reads))).square().sum(1).mean()
    torch.testing.assert_close(missed / unit, loss.detach(), rtol=1e-3, atol=1e-5)
    if activation == "topk":
        torch.testing.assert_close(model.unexplained(rows, codes), loss)


def test_planted_features_of_an_mlp_are_found() -> None:
    """Each with what it reads and what it writes, and nearly all of the MLP's output with them."""
    reads, vectors, read, write = planted()
    options = {"steps": 700, "batch_size": 256, "learning_rate": 0.01, "l0_per_channel": 4 / 12}
    dictionary = build_transcoder((reads, vectors), k=24, **options)
    missed = (vectors - dictionary.decode(dictionary.encode(reads))).square().sum()
    assert 1 - missed / (vectors - vectors.mean(0)).square().sum() > 0.9
    writes = dictionary.concepts @ write.T
    best = writes.argmax(0)
    assert (writes.amax(0) > 0.95).float().mean() > 0.85
    facing = (F.normalize(dictionary.encoder["weight"][best], dim=1) * read).sum(1)
    assert (facing > 0.9).float().mean() > 0.85
    # The autoencoder's loss on what is read finds no such thing: its latents rebuild x.
    inputs = build("sae", reads, 24, 0, code=Code.encoder, center=True, **options).concepts
    assert ((inputs @ read.T).amax(0) > 0.9).float().mean() < 0.5


@pytest.mark.parametrize("center", [False, True])
def test_an_mlp_that_is_a_transcoder_is_its_own(center) -> None:
    """``D max(0, W x + e) + b`` in its own weights, every latent allowed: nothing is left."""
    weight, bias, write, offset = drawn(7, 5, 1), drawn(1, 7, 2)[0], drawn(7, 4, 3), drawn(1, 4, 4)[0]
    norms = write.norm(dim=1)
    encoder = {"weight": norms[:, None] * weight, "bias": norms * bias}
    info = {"method": "transcoder", "activation": "topk", "l0": 7, "reads": "norm", "vector_norm": 1.0}
    atoms = write / norms[:, None]
    if center:
        info["mean_norm"] = offset.norm().item()
        atoms = torch.cat([atoms, offset[None] / offset.norm()])
    fitted = build("random", drawn(9, 4), 2, 0).coded(Code.encoder, 0.02, None)
    dictionary = Dictionary(atoms, fitted.coding, 7 if center else None, info, encoder=encoder)
    reads = drawn(50, 5, 5)
    outputs = (reads @ weight.T + bias).relu() @ write + (offset if center else 0)
    torch.testing.assert_close(dictionary.decode(dictionary.encode(reads)), outputs, rtol=1e-5, atol=1e-5)


def test_vectors_of_other_scales_have_codes_of_the_scale_of_what_is_rebuilt(pairs) -> None:
    reads, vectors = pairs
    one, other = build_transcoder((reads, vectors)), build_transcoder((8 * reads, 4 * vectors))
    torch.testing.assert_close(other.atoms, one.atoms)
    torch.testing.assert_close(other.encode(8 * reads), 4 * one.encode(reads))


def test_with_another_code_it_is_a_dictionary_of_what_it_rebuilds(pairs) -> None:
    vectors = pairs[1]
    dictionary = build_transcoder(pairs)
    coded = dictionary.coded(Code.omp, 0.02, 4)
    assert coded.reads is None
    left = (vectors - coded.decode(coded.encode(vectors))).square().sum()
    assert left < (vectors - vectors.mean(0)).square().sum()


def test_saved_it_still_says_what_it_reads(pairs, tmp_path) -> None:
    dictionary = build_transcoder(pairs)
    dictionary.save(tmp_path)
    loaded = Dictionary.load(tmp_path)
    assert loaded.reads == "norm" and torch.equal(loaded.encode(pairs[0]), dictionary.encode(pairs[0]))


def test_dead_latents_read_where_they_write_what_is_missed() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.cat([torch.eye(3), torch.eye(4)[:3]], 1)
    model = Transcoder(directions, SaeActivation.topk, 1, centred=True, width=3)
    rows = torch.zeros(200, 7)
    rows[:, 0] = rows[:, 3] = torch.rand(200, generator=generator)  # read and written by the first latent
    rows[:5] = torch.tensor([0.0, 0, -2, 0, 0, 0, 3])
    model.revive(torch.tensor([False, True, True]), rows, generator)
    torch.testing.assert_close(model.decoder[1:], torch.eye(4)[3].expand(2, 4))
    torch.testing.assert_close(model.encoder[1:], -torch.eye(3)[2].expand(2, 3))
    assert torch.equal(model.encoder[0], torch.eye(3)[0]) and torch.equal(model.decoder[0], torch.eye(4)[0])


def test_neither_the_order_of_the_rows_nor_a_kill_shows(pairs, tmp_path, monkeypatch) -> None:
    reads, vectors = pairs
    whole = fit_transcoder(vectors, 16, seed=0, reads=reads, center=True, **QUICK)
    turned = fit_transcoder(vectors.flip(0), 16, seed=0, reads=reads.flip(0), center=True, **QUICK)
    assert torch.equal(whole.atoms, turned.atoms)
    monkeypatch.setattr(sae, "CHECKPOINT_STEPS", 10)
    step = sae.SaeTraining.loss

    def killed(self, batch):
        if self.done == 25:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(sae.SaeTraining, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_transcoder(vectors, 16, seed=0, reads=reads, center=True, folder=tmp_path, **QUICK)
    monkeypatch.setattr(sae.SaeTraining, "loss", step)
    continued = fit_transcoder(vectors, 16, seed=0, reads=reads, center=True, folder=tmp_path, **QUICK)
    assert torch.equal(whole.atoms, continued.atoms) and torch.equal(whole.shift, continued.shift)
    assert whole.encoder is not None and continued.encoder is not None
    assert all(torch.equal(array, continued.encoder[name]) for name, array in whole.encoder.items())


def test_what_cannot_be_read_is_one_sentence(pairs) -> None:
    reads, vectors = pairs
    for given, sentence in (
        (None, "transcoder: no vectors to read and 400 to rebuild: give reads="),
        (reads[:7], "transcoder: 7 vectors to read and 400 to rebuild"),
        (torch.ones(400, 3), r"vectors to read \(reads\) or those to rebuild are all the same"),
        (reads * float("nan"), "or not finite"),
    ):
        with pytest.raises(UserError, match=sentence):
            build("transcoder", vectors, 16, 0, reads=given, **QUICK)
    with pytest.raises(UserError, match=r"vectors of 6 channels, but it reads 10: give those of the place .*\(norm\)"):
        build_transcoder(pairs).encode(vectors)


def test_a_layer_knows_the_one_layer_that_it_takes_in() -> None:
    network = open_network(tiny.attending(), torch.zeros(1, 3, 32, 32))
    assert {f"layer{n}.mlp": f"layer{n}.norm2" for n in (1, 2)}.items() <= network.inputs.items()
    assert network.inputs["layer1.mlp.fc1"] == "layer1.norm2" and network.inputs["layer2.attn"] == "layer2.norm1"
    assert network.inputs["layer2"] == "layer1"
    # The class token is joined to the stem's, and what fc2 takes in is a function's value: neither is a layer's.
    assert "layer1" not in network.inputs and "layer1.mlp.fc2" not in network.inputs
    assert not tiny.hooked(tiny.attending()).inputs


def test_a_layer_that_takes_in_two_values_knows_none() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.product, self.head = (
                nn.Conv2d(3, 4, 8, 8),
                nn.Conv2d(3, 4, 8, 8),
                Twice(),
                nn.Linear(4, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.product(self.one(x), self.two(x)).mean((2, 3)))

    network = open_network(tiny.seeded(Both()), torch.zeros(1, 3, 32, 32))
    assert "product" in network.layers and "product" not in network.inputs
