"""The crops and localisations on cards: receptive fields where the network has them, gradients where not."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from vismech.config.choices import Patches, Stage
from vismech.errors import UserError
from vismech.receptive_field import attribution_maps, sharing_ratios
from vismech.receptive_field.localization import attributed_maps, localization_maps
from vismech.receptive_field.tokens import pixel_maps, token_fields
from vismech.report.crops import field_crop, map_light, position_crop
from vismech.report.text import TRACED
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.checks import check
from vismech.stages.describe import Descriptions
from vismech.stages.fields import TOKENS, Pictures, fields_of, fields_settings, mean_token_of, patches_for
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.run import run

CONCEPTS = [("layer1", 3), ("layer1", 7), ("layer2", 0), ("layer2", 5)]


@pytest.fixture
def described(tiny, tmp_path):
    """Called with a network and a way: the run's context, plan, descriptions of four concepts, and pictures."""

    def describe(target: str, patches: Patches):
        tiny.model.target, tiny.describe.patches = target, patches
        tiny.describe.cards, tiny.until = 0, Stage.describe
        run(tiny, tmp_path / "run")
        ctx = open_context(tiny)
        plan = make_plan(ctx)
        layers = {layer: Descriptions(ctx, layer, plan.descriptions[layer]) for layer, _ in CONCEPTS}
        return ctx, plan, [layers[layer].concept(concept) for layer, concept in CONCEPTS], Pictures(ctx)

    return describe


def codes(ctx, plan, layer: str, concept: int, image: torch.Tensor) -> torch.Tensor:
    dictionary = dictionary_stage.read(ctx, plan.dictionaries[layer], dictionary_stage.coding_of(ctx.config))
    vectors = ctx.layout(layer).vectors(ctx.network.activations(image, [layer])[layer])[0]
    return dictionary.encode(vectors)[:, concept].view(1, *ctx.layout(layer).grid)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("tiny:network", Patches.receptive_field),
        ("tiny:gated", Patches.gradient_x_input),
        ("tiny:gated", Patches.integrated_gradients),
        ("tiny:gated", Patches.upsampling),
        ("tiny:attending", Patches.attnlrp),
        pytest.param("tiny:attending", Patches.ig, marks=pytest.mark.thorough),
        pytest.param("tiny:attending", Patches.rollout, marks=pytest.mark.thorough),
    ],
)
def test_crops_and_lights_are_those_of_each_vector_on_its_own(target, kind, described, caplog) -> None:
    ctx, plan, concepts, pictures = described(target, kind)
    assert patches_for(ctx, ctx.config.describe.patches, ["layer1", "layer2"]) is kind
    found = fields_of(ctx, fields_settings(ctx), plan, concepts, kind, pictures)
    assert found.crops.keys() == {place for each in concepts for place in each.places}
    for place in concepts[0].places[:2] + concepts[2].places[:2]:
        image = pictures.tensor([place.sample])
        if kind is Patches.receptive_field:
            field = sharing_ratios(ctx.network, image).receptive_fields(place.layer, [place.position])[0]
            expected = field_crop(field.numpy())
        elif kind is Patches.upsampling:
            grid = ctx.layout(place.layer).grid
            expected = position_crop(divmod(place.position, grid[1]), grid, (32, 32))
        elif kind in TOKENS:
            options = {"baseline": mean_token_of(ctx, kind)} if kind is Patches.ig else {}
            field = token_fields(ctx.network, image, place.layer, [place.position], method=kind.value, **options)
            assert ctx.layout(place.layer).prefix == 1
            expected = field_crop(pixel_maps(field.maps, (32, 32))[0].numpy())
        else:
            field = attribution_maps(ctx.network, image, place.layer, [place.position], method=kind.value)[0]
            expected = field_crop(field.numpy())
        assert found.crops[place].box == expected.box
        np.testing.assert_allclose(found.crops[place].light, expected.light, atol=1e-3)
    for each in concepts if kind in (Patches.receptive_field, Patches.gradient_x_input) else []:
        image = pictures.tensor([each.places[0].sample])
        own = codes(ctx, plan, each.layer, each.concept, image)
        if kind is Patches.receptive_field:
            map = localization_maps(sharing_ratios(ctx.network, image), each.layer, own)[0]
        else:
            map = attributed_maps(ctx.network, image, each.layer, own)[0]
        np.testing.assert_allclose(found.lights[each.layer, each.concept], map_light(map.numpy()), atol=1e-3)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("tiny:network", Patches.receptive_field),
        ("tiny:attending", Patches.attnlrp),
        ("tiny:gated", Patches.ig),  # AttnLRP has no rule for the gate's sigmoid
    ],
)
def test_auto_takes_the_best_field_that_has_rules(target, kind, tiny) -> None:
    tiny.model.target = target
    assert patches_for(open_context(tiny), Patches.auto, ["layer1", "layer2"]) is kind


def test_a_network_without_rules_is_shown_by_gradients_and_everything_says_so(tiny, tmp_path, caplog) -> None:
    tiny.model.target, tiny.describe.cards = "tiny:gated", 2
    with caplog.at_level(logging.WARNING, "vismech"):
        run(tiny, tmp_path / "run")
    said = [record.getMessage() for record in caplog.records if "gradient × input" in record.getMessage()]
    assert len(said) == 1 and "no rule for 'mul'" in said[0]
    page = (tmp_path / "run/report/index.html").read_text()
    assert TRACED[Patches.gradient_x_input].page in page
    assert TRACED[Patches.receptive_field].page not in page
    assert "gradient_x_input" in (tmp_path / "run/tables/concepts.csv").read_text()


@pytest.mark.parametrize(("key", "value"), [("mass", 0.0), ("mass", 1.2), ("context", -0.5), ("cards", -1)])
def test_shares_margins_and_numbers_out_of_range_are_refused(key, value, tiny) -> None:
    setattr(tiny.describe, key, value)
    with pytest.raises(UserError, match=f"describe.{key}={value}"):
        check(tiny)
