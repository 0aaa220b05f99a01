"""The autoencoder that Manifold IG runs on: its path is one, its weights are data and in keys, its training goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from curves import Segment, activations, concept_targets, source, value_of, whole
from oracles import method_twins
from test_path_methods import assert_same, flat_value, parts_of, run
from vismech.attribution.autoencoder import Autoencoder, of_state, read
from vismech.attribution.bent import geodesic
from vismech.attribution.coordinates import coordinates_of
from vismech.attribution.engine import completeness_gap
from vismech.attribution.methods import Manifold
from vismech.attribution.sources import UnitSource
from vismech.config.choices import AttributionMethod, PathWeight, SourceKind
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.measures.attribution.methods import MethodSettings
from vismech.passes.settings import PathSettings

MANIFOLD = PathWeight.manifold_ig


def tiny(seed: int = 0, widths: tuple[int, ...] = (5,), latent: int = 7) -> Autoencoder:
    """Random weights, large enough for a path that bends, for 4 × 4 positions of six numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = Autoencoder(4, 6, widths, latent).requires_grad_(False)
    for weight in found.parameters():
        weight.mul_(4)
    return found


class Components:
    """A linear decoder of fewer numbers than there are: principal components, or any axes."""

    def __init__(self, shape, count):
        drawn = torch.randn(shape[0] * shape[1], count, generator=torch.Generator().manual_seed(4))
        self.axes, self.shape = torch.linalg.qr(drawn.double())[0], shape
        self.mean = torch.linspace(-1, 1, shape[0] * shape[1], dtype=torch.float64)

    def encode(self, numbers):
        return (numbers.flatten(1) - self.mean) @ self.axes

    def decode(self, latent):
        return (self.mean + latent @ self.axes.T).unflatten(1, self.shape)


@pytest.mark.parametrize("kind", [SourceKind.pixels, SourceKind.channels])
def test_along_the_decoded_path_it_is_the_line_integral(kind) -> None:
    vectors, start = activations(1), activations(11)
    one, segment, decoder, steps = UnitSource(kind, vectors, start), Segment().double(), tiny(), 6
    found = run(MANIFOLD, segment, one, vectors, concept_targets(), Manifold(decoder, iterations=0), steps=steps)
    for image, target in ((0, 1), (2, 3)):
        first, last = decoder.encode(torch.stack([start[image], vectors[image]]))
        corners = [decoder.decode((first + s / steps * (last - first))[None])[0] for s in range(steps + 1)]
        before, after = start[image] - corners[0], vectors[image] - corners[-1]
        corners = [x + (1 - s / steps) * before + s / steps * after for s, x in enumerate(corners)]
        value = value_of(segment, concept_targets(), image, target)
        twin = method_twins.polygon(value, corners).sum(0 if kind is SourceKind.channels else 1)
        assert torch.allclose(found.edges[MANIFOLD].units[image, target], twin, rtol=1e-6, atol=1e-9)
        assert float(found.value[image, target]) == pytest.approx(float(value(vectors[image])))
        assert float(found.baseline[image, target]) == pytest.approx(float(value(start[image])))
    assert not torch.allclose(corners[3], (start[2] + vectors[2]) / 2, atol=0.1)  # the path does bend


def test_it_is_complete_to_the_order_of_the_midpoint_rule() -> None:
    vectors, segment = activations(1), Segment().double()
    one = UnitSource(SourceKind.pixels, vectors, activations(11))

    def gap(steps, iterations):
        found = run(MANIFOLD, segment, one, vectors, concept_targets(), Manifold(tiny(), iterations), steps=steps)
        return completeness_gap(whole(found.edges[MANIFOLD]), found.value, found.baseline).median()

    coarse, fine = gap(8, 0), gap(32, 0)
    assert fine < coarse / 12 and fine < 2e-3
    assert gap(8, 1) < 5e-2


def test_the_search_makes_its_path_shorter() -> None:
    vectors, start = activations(1)[0], activations(11)[0]
    energy = [geodesic(tiny(), start, vectors, 6, turns).diff(dim=0).square().sum() for turns in (0, 10)]
    assert energy[1] < 0.999 * energy[0]


@pytest.mark.parametrize("kind", ["reconstruction", "activation"])
def test_along_a_few_components_of_codes_the_shortest_path_is_the_straight_one(kind) -> None:
    segment, vectors, _, one, numbers = parts_of(kind, 11)
    decoder = Components(tuple(numbers.end.shape[1:]), 9)
    found = run(MANIFOLD, segment, one, vectors, concept_targets(), Manifold(decoder))
    straight = run(PathWeight.ig, segment, one, vectors, concept_targets())
    assert_same(found.edges[MANIFOLD], straight.edges[PathWeight.ig])
    value = flat_value(segment, concept_targets(), numbers, 0, 1)
    ends = numbers.start[0].flatten(), numbers.end[0].flatten()
    corners = [ends[0] + s / 6 * (ends[1] - ends[0]) for s in range(7)]
    twin = numbers.edges(method_twins.polygon(value, corners).unflatten(0, numbers.end.shape[1:]))
    assert torch.allclose(found.edges[MANIFOLD].units[0, 1], twin.units, rtol=1e-6, atol=1e-9)


def test_an_image_without_a_way_has_no_attribution() -> None:
    vectors = activations(1)
    vectors[0] = 0
    found = run(MANIFOLD, Segment().double(), UnitSource(SourceKind.pixels, vectors), vectors, concept_targets(),
                Manifold(tiny()))  # fmt: skip
    assert found.edges[MANIFOLD].units.isfinite().all()
    assert not found.moves[0].any() and found.moves[1].any()


def saved(model: Autoencoder, path: Path) -> str:
    save_file({name: value.half() for name, value in model.state_dict().items()}, path)
    return str(path)


def test_weights_tell_the_sizes(tmp_path) -> None:
    file = saved(tiny(widths=(5, 3)), tmp_path / "a.safetensors")
    found, vectors = read(file), activations(1)
    assert (found.side, found.colours, found.from_latent.in_features) == (4, 6, 7)
    half = tiny(widths=(5, 3)).half()
    assert torch.equal(found.to_latent.weight, half.to_latent.weight.float())
    latent = found.encode(vectors)
    assert latent.dtype == torch.float64 and found.decode(latent).shape == vectors.shape
    images = vectors.float().transpose(1, 2).unflatten(2, (4, 4))
    assert torch.allclose(found.float().posterior(images).mean.double(), latent, atol=1e-5)


def test_what_is_typed_by_hand_ends_in_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match=r"decoder=nowhere is not a file: train one"):
        read("nowhere")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(UserError, match=r"text is no safetensors file"):
        read(str(tmp_path / "text"))
    with pytest.raises(UserError, match=r"holds no autoencoder of .*vae.py, but fc.weight"):
        of_state({"fc.weight": torch.ones(2, 2)})
    with pytest.raises(UserError, match="6 pixels cannot be"):
        Autoencoder(6, 3, (4, 4), 2)
    vectors = activations(1)
    one = source("activation", vectors)
    with pytest.raises(UserError, match=r"4 × 4 pixels with 6 numbers each, but the source has 16 positions with 11"):
        run(MANIFOLD, Segment().double(), one, vectors, concept_targets(), Manifold(tiny()))
    assert coordinates_of(one).end.shape[2] == 11


def test_a_decoders_weights_are_in_keys(tmp_path) -> None:
    def codes(seed: int) -> tuple[str, str]:
        file = saved(tiny(seed), tmp_path / "one.safetensors")
        config = Config()
        config.attribute.path, config.attribute.options = MANIFOLD, {"decoder": file}
        config.evaluate.methods = [AttributionMethod.manifold_ig]
        config.evaluate.method_options = {"manifold_ig": {"decoder": file}}
        traced = PathSettings.of(config.attribute, {"path"}).inputs()["decoder_code"]
        return traced, MethodSettings.of(config.evaluate).inputs()["decoder_code"]

    first, second = codes(0), codes(1)
    assert first == codes(0) and first[0] == first[1]
    assert first[0] != second[0]
    assert "decoder_code" not in PathSettings.of(Config().attribute, {"path"}).inputs()


@pytest.fixture
def vae(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments" / "paths"))
    import vae

    return vae


def test_the_loss_is_the_bound_of_its_gaussians(vae) -> None:
    model, images = tiny().double(), activations(1).transpose(1, 2).unflatten(2, (4, 4))
    missed, divergence = vae.loss_of(model, images, 1.0, torch.Generator().manual_seed(5))
    mean, log_variance = model.posterior(images)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    assert float(divergence) == pytest.approx(float(torch.distributions.kl_divergence(posterior, prior).sum(1).mean()))
    drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    rebuilt = torch.distributions.Normal(model.rebuilt(mean + posterior.scale * drawn), 1.0)
    constant = 96 * torch.log(torch.tensor(2 * torch.pi)) / 2
    assert float(-missed) == pytest.approx(float((rebuilt.log_prob(images).flatten(1).sum(1) + constant).mean()), 1e-5)


def test_training_that_was_stopped_goes_on_to_the_same_weights(vae, monkeypatch, tmp_path) -> None:
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    for name in vae.CIFAR10:
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = torch.randint(256, (32, 32, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "images" / name / "a.png")
    loss = vae.loss_of
    told = []
    monkeypatch.setattr(vae, "told", lambda *given: told.append(given) or {})

    def trained(folder: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
        calls = [0]

        def until(*given):
            calls[0] += 1
            if calls[0] == stop:
                raise KeyboardInterrupt
            return loss(*given)

        monkeypatch.setattr(vae, "loss_of", until)
        given = ["--train", str(tmp_path / "images"), "--test", str(tmp_path / "images"), "--out", str(folder)]
        rest = ["--epochs", "3", "--batch", "5", "--widths", "4", "4", "--latent", "3", "--threads", "1"]
        monkeypatch.setattr(sys, "argv", ["vae.py", *given, *rest])
        vae.main()
        return read(str(folder / "vae.safetensors")).state_dict()

    straight = trained(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", 4)
    again = trained(tmp_path / "stopped")
    assert len(told) == 2 and all(torch.equal(straight[name], again[name]) for name in straight)
    assert len((tmp_path / "stopped" / "vae.jsonl").read_text().splitlines()) == 3
