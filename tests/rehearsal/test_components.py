"""Every component of the mathematics on the make-believe device: the CPU's numbers, within its budget of waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map_only

import tiny
from rehearsal.budgets import within_budget
from rehearsal.device import Counts, device
from rehearsal.trainer import take_over
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.filtering import low_pass
from vismech.attribution.idgi import idgi
from vismech.attribution.methods import OPTIONS as PATHS
from vismech.attribution.sources import ConceptSource, UnitSource
from vismech.attribution.targets import ConceptTargets, LogitTargets, anchors
from vismech.config.choices import Along, Code, Mode, PathWeight, ReadOut, Rule, SaeActivation, SourceKind
from vismech.dictionaries import METHODS, Dictionary, build
from vismech.dictionaries.base import ENCODERS
from vismech.dictionaries.coding import Coding, encode
from vismech.dictionaries.description import members_of
from vismech.dictionaries.refinement import Refinement
from vismech.dictionaries.search import nearest
from vismech.measures.attribution.mosaics import mosaic
from vismech.measures.attribution.road import imputed
from vismech.network.cut import LOGITS, HookedNetwork, Network, open_network
from vismech.network.pfv import layout_of
from vismech.receptive_field import attribution_maps, layer_relevance, sharing_ratios
from vismech.receptive_field.localization import attributed_maps, localization_maps

pytestmark = pytest.mark.filterwarnings("ignore:.*FAISS has no GPU support.*")
LOWER, UPPER = "layer2", "layer3"


class Opened(NamedTuple):
    """A network and the model that it was opened from."""

    model: nn.Module
    network: Network


@pytest.fixture(scope="module")
def opened() -> Opened:
    model = tiny.network(classes=5).requires_grad_(False)
    return Opened(model, open_network(model, torch.zeros(1, 3, 32, 32)))


@contextmanager
def placed(model: nn.Module) -> Iterator[Counts]:
    """The model on the device, as Lightning puts it there and back."""
    with device() as counts:
        model.to("cuda")
        try:
            yield counts
        finally:
            model.cpu()


def there(values: Any) -> Any:
    return tree_map_only(Tensor, lambda value: value.to("cuda"), values)


def same(found: Any, expected: Any, rtol: float = 1e-3, atol: float = 1e-4) -> None:
    for one, other in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if isinstance(other, Tensor):
            torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=rtol, atol=atol)
        else:
            assert one == other


def rehearse(name: str, work: Callable[..., Any], *given: Any, model: nn.Module | None = None, **close: float) -> None:
    """``work`` on the CPU, on the device, and on the CPU again, where all is back."""
    with torch.no_grad():
        expected = work(*given)
        with placed(model if model is not None else nn.Identity()) as counts:
            same(work(*there(given)), expected, **close)
        same(work(*given), expected, **close)
    within_budget(name, counts)


def test_networks(opened) -> None:
    model, network = opened
    cut_before = network.segment(LOWER, LOGITS)

    def work(images: Tensor) -> Any:
        found = network.activations(images, [LOWER, UPPER, LOGITS])
        return found, cut_before(found[LOWER]), network.segment(UPPER, LOGITS)(found[UPPER])

    rehearse("network", work, tiny.images(3), model=model)


def test_hooked_networks() -> None:
    model = tiny.network().requires_grad_(False)
    network = HookedNetwork(model, torch.zeros(1, 3, 32, 32))

    def work(images: Tensor) -> Any:
        found = network.activations(images, [LOWER, LOGITS])
        return found, network.segment(LOWER, LOGITS)(found[LOWER])

    rehearse("network hooked", work, tiny.images(3), model=model)


def test_receptive_fields(opened) -> None:
    model, network = opened

    def work(images: Tensor, codes: Tensor) -> Any:
        ratios = sharing_ratios(network, images)
        fields = ratios.receptive_fields(LOWER, [0, 3])
        maps = localization_maps(ratios, LOWER, codes)
        return tuple(layer_relevance(network, images, [LOWER, UPPER])), fields, maps, ratios.saliency()

    rehearse("receptive fields", work, tiny.images(2), torch.rand(2, 8, 8), model=model)


def test_gradient_maps(opened) -> None:
    model, network = opened

    def work(images: Tensor, codes: Tensor) -> Any:
        maps = attribution_maps(network, images[:1], LOWER, [0, 5])
        return maps, attributed_maps(network, images, LOWER, codes)

    rehearse("gradient maps", work, tiny.images(2), torch.rand(2, 8, 8), model=model)


def vectors_and_atoms(n: int, c: int, k: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    atoms = F.normalize(torch.rand(k, c, generator=generator), dim=1)
    return torch.rand(n, c, generator=generator), atoms


@pytest.mark.parametrize("code", [code for code in Code if code not in (Code.encoder, Code.custom)])
def test_codes(code) -> None:
    vectors, atoms = vectors_and_atoms(180, 12, 30)
    coding = Coding(code, penalty=0.05, l0=4, coarse=3, fine=8)
    rehearse(f"coding {code}", lambda x, v: encode(x, v, coding), vectors.view(3, 60, 12), atoms)


BASES = ("pca", "channels", "rotation")
OPTIONS: dict[str, dict[str, Any]] = {
    "nmf": {"iterations": 3},
    "semi_nmf": {"iterations": 3},
    "dictionary_learning": {"iterations": 2},
    "sae": {"steps": 25, "center": True},
    "transcoder": {"steps": 25, "center": True, "reads": vectors_and_atoms(400, 10, 1)[0]},
}


def fitted(method: str, monkeypatch: pytest.MonkeyPatch, name: str, code: Code, **options: Any) -> None:
    vectors, _ = vectors_and_atoms(400, 10, 1)
    k = 10 if method in BASES else 16

    def fit(where: str) -> tuple[Dictionary, Tensor]:
        found = build(method, vectors, k, 0, code, device=where, **options)
        assert found.atoms.device.type == "cpu"
        placed_there = found.to(where)
        codes = placed_there.encode(vectors[:40].view(2, 20, 10).to(where))
        return found, placed_there.decode(codes)

    expected, rebuilt = fit("cpu")
    with monkeypatch.context() as patch, device() as counts:
        take_over(patch)
        found, rebuilt_there = fit("cuda:0")
        same(rebuilt_there, rebuilt, rtol=1e-2, atol=1e-3)
    same((found.atoms, found.encoder), (expected.atoms, expected.encoder), rtol=1e-2, atol=1e-3)
    within_budget(f"dictionary {name}", counts)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "sae"])
def test_dictionaries(method, monkeypatch) -> None:
    code = Code.encoder if method in ENCODERS else Code.omp
    fitted(method, monkeypatch, method, code, **OPTIONS.get(method, {}))


@pytest.mark.parametrize("activation", list(SaeActivation))
def test_sparse_autoencoders(activation, monkeypatch) -> None:
    options = {**OPTIONS["sae"], "activation": activation.value}
    fitted("sae", monkeypatch, f"sae {activation}", Code.encoder, **options)


def test_neighbours_and_members() -> None:
    """Of vectors in the host's memory, in shards; on the CPU by FAISS, on the device without."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 12, generator=generator).relu_()
    atoms = F.normalize(torch.randn(20, 12, generator=generator), dim=1)

    def work(like: Tensor) -> Any:
        found = nearest(atoms.numpy(), vectors.numpy()[:].reshape(3, 100, 12), 7, device=like.device)
        members = members_of(vectors, atoms, like.device)
        return torch.from_numpy(found.rows), torch.from_numpy(found.scores), torch.from_numpy(members.concept)

    rehearse("neighbours", work, torch.zeros(1))


def test_refinement(monkeypatch) -> None:
    fitted("kmeans", monkeypatch, "refined", Code.omp_nonnegative, refinement=Refinement(2, 3, True))


ATTRIBUTIONS: dict[str, dict[str, Any]] = {
    "reverse": {},
    "forward": {"mode": Mode.forward, "weights": (PathWeight.ig,), "steps": 2},
    "auto": {"mode": Mode.auto, "weights": (PathWeight.ig,)},
    "activation": {"along": Along.activation, "baseline": True},
    "sum": {"readout": ReadOut.sum},
    "code": {"readout": ReadOut.code},
    "tolerance": {"weights": (PathWeight.ig,), "tolerance": 0.01, "max_steps": 8},
}


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_attribution(name, opened) -> None:
    weights = (PathWeight.ig, PathWeight.left_ig, PathWeight.idg)
    given = {"mode": Mode.reverse, "weights": weights, "steps": 4, **ATTRIBUTIONS[name]}
    along, readout = given.pop("along", Along.reconstruction), given.pop("readout", ReadOut.max)
    baseline, settings = given.pop("baseline", False), Settings(rows=8, **given)
    model, network = opened
    low, up = (layout_of(network.shape(layer), layer) for layer in (LOWER, UPPER))
    segment, to_class = network.segment(LOWER, UPPER), network.segment(LOWER, LOGITS)
    atoms = [vectors_and_atoms(1, layout.channels, 20)[1] for layout in (low, up)]

    def work(images: Tensor, *atoms: Tensor) -> Any:
        below, above = (Dictionary(own, Coding(Code.omp, l0=4), None, {"vector_norm": 1.0}) for own in atoms)
        found = network.activations(images, [LOWER, UPPER, LOGITS])
        x, y = low.vectors(found[LOWER]), up.vectors(found[UPPER])
        codes = below.encode(x)
        start = (codes.flip(0), x.flip(0)) if baseline else (None, None)
        source: Any = ConceptSource(below.atoms, codes, x, along, *start)
        places = anchors(y, above.encode(y), above.atoms)[:, :3]
        targets = ConceptTargets(above.atoms[:3], places, up, readout, above, (0, 1, 2))
        one = attribute(segment, low, source, found[LOWER], targets, settings)
        two = attribute(to_class, low, source, found[LOWER], LogitTargets(found[LOGITS].argmax(1)), settings)
        return [list(one.edges.values()), one.value, one.steps, list(two.edges.values()), two.moves, two.crossing]

    rehearse(f"attribution {name}", work, tiny.images(2), *atoms, model=model)


@pytest.mark.parametrize("path", [path for path in PATHS if path is not PathWeight.manifold_ig])
def test_other_paths(opened, path) -> None:
    model, network = opened
    layout, segment = layout_of(network.shape(LOWER), LOWER), network.segment(LOWER, LOGITS)
    atoms = vectors_and_atoms(1, layout.channels, 20)[1]
    settings = Settings(Rule.midpoint, 4, (path,), rows=8)

    def work(images: Tensor, atoms: Tensor) -> Any:
        found = network.activations(images, [LOWER, LOGITS])
        x = layout.vectors(found[LOWER])
        codes = Dictionary(atoms, Coding(Code.omp, l0=4), None, {"vector_norm": 1.0}).encode(x)
        source: Any = ConceptSource(atoms, codes, x, Along.activation)
        told = attribute(segment, layout, source, found[LOWER], LogitTargets(found[LOGITS].argmax(1)), settings)
        return [told.edges[path], told.value, told.baseline, told.moves]

    rehearse(f"path {path.value}", work, tiny.images(2), atoms, model=model)


def test_filters_and_filled_in_pixels() -> None:
    def work(maps: Tensor, image: Tensor) -> Any:
        removed = maps[:, :8, :8] > 0
        filled = imputed(image[0, :, :8, :8], removed, torch.Generator().manual_seed(0), rounds=8)
        return low_pass(maps, 3.0), filled, mosaic(image[:1].expand(4, -1, -1, -1), (1, 0, 3, 2))

    maps = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    rehearse("filter, road, mosaic", work, maps, tiny.images(2))


def test_idgi(opened) -> None:
    model, network = opened
    layout, segment = layout_of(network.shape(LOWER), LOWER), network.segment(LOWER, LOGITS)

    def work(images: Tensor) -> Any:
        found = network.activations(images, [LOWER, LOGITS])
        source: Any = UnitSource(SourceKind.channels, layout.vectors(found[LOWER]))
        return tuple(idgi(segment, layout, source, found[LOWER], LogitTargets(found[LOGITS].argmax(1)), 5, 8).edges)

    rehearse("idgi", work, tiny.images(2), model=model)
