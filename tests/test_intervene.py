"""Edits, measured effects and circuit forwards: identities, and a slow twin of hooks on an ordinary network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import tiny
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import ConceptTargets, LogitTargets, anchors
from vismech.config.choices import CircuitErrors, Code, EditValue, Mode, PathWeight, ReadOut, Rule
from vismech.dictionaries import Dictionary
from vismech.dictionaries.coding import Coding
from vismech.errors import UserError
from vismech.intervene.circuit import bounded, circuit_forward, edited_forward, residuals
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit, apply, mean_codes
from vismech.intervene.effects import achieved, measured_effects
from vismech.network.cut import LOGITS, Network, open_network
from vismech.network.pfv import layout_of

NAMES = ("layer1", "layer2", "layer3")
CODES = (
    Coding(Code.lasso, 0.05),
    Coding(Code.omp, l0=3),
    Coding(Code.lasso_nonnegative, 0.05),
    Coding(Code.simultaneous_omp, l0=4),
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny.network().double()


@pytest.fixture(scope="module")
def network(model) -> Network:
    return open_network(model, torch.zeros(1, 3, 32, 32, dtype=torch.float64))


def layer_of(network: Network, name: str, coding: Coding = CODES[0], count: int = 12) -> Layer:
    layout = layout_of(network.shape(name), name)
    atoms = torch.randn(count, layout.channels, generator=torch.Generator().manual_seed(len(name)), dtype=torch.float64)
    return Layer(layout, Dictionary(torch.nn.functional.normalize(atoms), coding))


@pytest.fixture(scope="module")
def layers(network) -> list[Layer]:
    return [layer_of(network, name) for name in NAMES]


@pytest.fixture(scope="module")
def segments(network) -> list[Callable[[Tensor], Tensor]]:
    return [network.segment(*pair) for pair in zip(NAMES, [*NAMES[1:], LOGITS], strict=True)]


@pytest.fixture(scope="module")
def batch() -> Tensor:
    return tiny.images(3).double()


@pytest.fixture(scope="module")
def first(network, batch) -> Tensor:
    return network.activations(batch, ["layer1"])["layer1"].detach()


def by_hooks(model: nn.Module, batch: Tensor, rewrites: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """An ordinary forward pass whose modules' answers are rewritten."""
    with ExitStack() as stack, torch.no_grad():
        for name, rewrite in rewrites.items():
            hook = model.get_submodule(name).register_forward_hook(lambda _m, _i, out, rewrite=rewrite: rewrite(out))
            stack.callback(hook.remove)
        return model(batch)


def slowly(layer: Layer, value: Callable[[Tensor, int], Tensor | float], concepts, kept: bool, activation: Tensor):
    """Concept by concept: the codes are rewritten and decoded, and what is not rebuilt is added again."""
    vectors = activation.flatten(2).transpose(1, 2)
    codes = layer.dictionary.encode(vectors)
    left = vectors - codes @ layer.dictionary.atoms
    new = codes.clone()
    for concept in range(layer.dictionary.k):
        if (concept in concepts) is not kept:
            new[..., concept] = value(codes[..., concept], concept)
    return (new @ layer.dictionary.atoms + left).transpose(1, 2).reshape(activation.shape)


@pytest.mark.parametrize("coding", CODES, ids=lambda coding: coding.code.value)
@pytest.mark.parametrize("value", list(EditValue))
def test_an_edit_is_that_of_hooks_on_the_network(model, network, batch, coding, value) -> None:
    layer, concepts = layer_of(network, "layer2", coding), (1, 4, 5)
    means, scale = (0.3, -0.2, 0.1), 1.7
    clean = network.activations(batch, ["layer2"])["layer2"].detach()
    donors = layer.code(clean.roll(1, 0)).codes
    edit = Edit(concepts, value, scale, means if value is EditValue.mean else ())
    into = {
        EditValue.zero: lambda code, _: 0 * code,
        EditValue.mean: lambda code, concept: means[concepts.index(concept)] + 0 * code,
        EditValue.scale: lambda code, _: scale * code,
        EditValue.resample: lambda _, concept: donors[..., concept],
    }[value]
    with torch.no_grad():
        edited = network.segment("layer2", LOGITS)(apply(layer, clean, [edit], donors))
    twin = by_hooks(model, batch, {"layer2": partial(slowly, layer, into, concepts, False)})
    assert (edited - twin).abs().max() < 1e-9
    assert (edited - model(batch)).abs().max() > 1e-3
    assert tiny.hooks(model) == 0


def test_scale_one_changes_no_bit(network, layers, segments, first) -> None:
    every = [[Edit(tuple(range(12)), EditValue.scale, 1.0)]] * 3
    with torch.no_grad():
        clean = first
        for segment in segments:
            clean = segment(clean)
        assert torch.equal(edited_forward(segments, layers, first, every), clean)


def test_the_residual_alone_is_left_when_every_concept_is_removed(layers, first) -> None:
    layer = layers[0]
    left = apply(layer, first, [Edit(tuple(range(layer.dictionary.k)))])
    (expected,) = residuals([lambda x: x], [layer], first)
    assert torch.allclose(layer.layout.vectors(left), expected, atol=1e-12)


def test_several_layers_are_edited_as_they_are_then(model, layers, segments, batch, first) -> None:
    edits = [[Edit((0, 3))], [], [Edit((2,), EditValue.scale, 0.5), Edit((7,))]]
    with torch.no_grad():
        found = edited_forward(segments, layers, first, edits)
    twin = by_hooks(
        model,
        batch,
        {
            "layer1": partial(slowly, layers[0], lambda code, _: 0 * code, (0, 3), False),
            "layer3": partial(slowly, layers[2], lambda code, q: (0.5 if q == 2 else 0) * code, (2, 7), False),
        },
    )
    assert (found - twin).abs().max() < 1e-9


@pytest.mark.parametrize("readout", ["concept", "logit"])
def test_removal_on_a_linear_segment_is_the_edge(readout) -> None:
    generator = torch.Generator().manual_seed(3)
    segment = (
        nn.Conv2d(6, 5, 3, 1, 1).double() if readout == "concept" else nn.Sequential(nn.Flatten(), nn.Linear(96, 4))
    )
    segment = tiny.seeded(segment.double())
    clean = torch.randn(2, 6, 4, 4, generator=generator, dtype=torch.float64)
    layout = layout_of((6, 4, 4), "lower")
    atoms = torch.nn.functional.normalize(torch.randn(9, 6, generator=generator, dtype=torch.float64))
    layer = Layer(layout, Dictionary(atoms, CODES[0]))
    coded = layer.code(clean)
    if readout == "concept":
        above = layout_of((5, 4, 4), "upper")
        upper = torch.nn.functional.normalize(torch.randn(7, 5, generator=generator, dtype=torch.float64))
        vectors = above.vectors(segment(clean)).detach()
        where = anchors(vectors, (vectors @ upper.T).clamp(min=0), upper)
        targets = ConceptTargets(upper, where, above, ReadOut.max)
    else:
        targets = LogitTargets(torch.tensor([[0, 1], [3, 2]]))
    source = ConceptSource(atoms, coded.codes, coded.vectors)
    found = attribute(segment, layout, source, clean, targets, Settings(Rule.midpoint, 4, mode=Mode.reverse))
    with torch.no_grad():
        effects = measured_effects(
            lambda x, image: targets(segment(x), image), layer, coded, Edit(tuple(range(9))), rows=5
        )
    edges = found.edges[PathWeight.ig].units
    assert edges.abs().max() > 0.1
    present = found.present[..., None]
    assert ((effects - edges) * present).abs().max() < 1e-6


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_effects_are_those_of_one_edit_after_the_other(network, layers, first, rows) -> None:
    layer, segment = layers[0], network.segment("layer1", LOGITS)
    chosen, coded = (2, 0, 7, 11), layers[0].code(first)
    with torch.no_grad():
        effects = measured_effects(lambda x, _: segment(x), layer, coded, Edit(chosen), rows)
        for place, concept in enumerate(chosen):
            one = segment(first) - segment(apply(layer, first, [Edit((concept,))]))
            assert (effects[..., place] - one).abs().max() < 1e-9
    gone = ~coded.codes[..., list(chosen)].any(1)
    assert (effects.mT[gone] == 0).all()


@pytest.mark.parametrize("errors", list(CircuitErrors))
def test_a_circuit_forward_is_that_of_hooks(model, layers, segments, batch, first, errors) -> None:
    inside = [(0, 1, 5), (2, 3), (4, 8, 9, 10)]
    means = [
        mean_codes([layer.code(first if level == 0 else chain(segments[:level], first)).codes])
        for level, layer in enumerate(layers)
    ]
    kept = [torch.zeros(3, 12, dtype=torch.bool).index_fill(1, torch.tensor(some), True) for some in inside]
    clean = residuals(segments, layers, first)
    with torch.no_grad():
        found = circuit_forward(segments, layers, first, kept, means, errors, clean)

    def rewrite(level: int, activation: Tensor) -> Tensor:
        vectors = activation.flatten(2).transpose(1, 2)
        codes = layers[level].dictionary.encode(vectors)
        left = vectors - codes @ layers[level].dictionary.atoms
        for concept in range(12):
            if concept not in inside[level]:
                codes[..., concept] = means[level][concept]
        left = {CircuitErrors.keep: left, CircuitErrors.node: clean[level], CircuitErrors.remove: 0 * left}[errors]
        return (codes @ layers[level].dictionary.atoms + left).transpose(1, 2).reshape(activation.shape)

    twin = by_hooks(model, batch, {name: partial(rewrite, level) for level, name in enumerate(NAMES)})
    assert (found - twin).abs().max() < 1e-9


def chain(segments, activation: Tensor) -> Tensor:
    with torch.no_grad():
        for segment in segments:
            activation = segment(activation)
    return activation


def test_a_circuit_of_everything_is_the_clean_network(layers, segments, first) -> None:
    every, zero = [torch.ones(3, 12, dtype=torch.bool)] * 3, [torch.zeros(12, dtype=torch.float64)] * 3
    clean = residuals(segments, layers, first)
    with torch.no_grad():
        assert torch.equal(circuit_forward(segments, layers, first, every, zero), chain(segments, first))
        node = circuit_forward(segments, layers, first, every, zero, CircuitErrors.node, clean)
    assert (node - chain(segments, first)).abs().max() < 1e-9


def test_the_share_that_arrives(network, first) -> None:
    orthogonal = Dictionary(torch.eye(8, dtype=torch.float64), Coding(Code.omp, l0=8))
    layer = Layer(layout_of(network.shape("layer1"), "layer1"), orthogonal)
    coded = layer.code(first)
    found = achieved(layer, coded, Edit((0, 3)), rows=2)
    assert torch.allclose(found, torch.ones_like(found))
    for coding in CODES:
        layer = layer_of(network, "layer1", coding)
        coded, edit = layer.code(first), Edit((0, 3, 6))
        shares = achieved(layer, coded, edit, rows=2)
        for place, concept in enumerate(edit.concepts):
            after = layer.code(apply(layer, first, [Edit((concept,))])).codes
            change = -coded.codes[..., concept]
            twin = ((after - coded.codes)[..., concept] * change).sum(1) / change.square().sum(1)
            assert torch.allclose(shares[:, place], twin, atol=1e-6, equal_nan=True), coding.code


def test_the_mean_concept_is_always_inside() -> None:
    atoms = torch.nn.functional.normalize(torch.randn(4, 3))
    layer = Layer(layout_of((3, 2, 2), "layer"), Dictionary(atoms, CODES[0], 3, {"mean_norm": 1.0}))
    assert bounded(torch.zeros(2, 4, dtype=torch.bool), layer)[:, -1].all()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda: Edit((1, 1)), "twice"),
        (lambda: Edit((1,), EditValue.mean), "0 means for 1 concepts"),
        (lambda: Edit((1,), EditValue.resample).changes(torch.zeros(1, 1, 2)), "codes of other images"),
    ],
)
def test_edits_that_mean_nothing_are_refused(edit, said) -> None:
    with pytest.raises(UserError, match=said):
        edit()


def test_an_unknown_concept_is_refused(layers) -> None:
    with pytest.raises(UserError, match=r"layer1/12: layer1 has 12 concepts.*give 0 to 11"):
        Edit((3, 12)).check(layers[0], "layer1")
