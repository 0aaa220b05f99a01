"""The cards of a run: receptive fields where the network has them, the position's square where not."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from PIL import Image

from vismech.config import Config, Patches, Positions
from vismech.errors import UserError
from vismech.pipeline import check, open_context
from vismech.receptive_field import sharing_ratios
from vismech.report.cards import field_patch
from vismech.run import run
from vismech.stages.cards import Pictures, Place, patches_of


def _places(config: Config) -> list[Place]:
    ids = open_context(config).data.ids
    return [Place(ids[n], layer, n) for n in (0, 7, 13) for layer in ("layer1", "layer2")]


def test_patches_are_those_of_the_receptive_field_whatever_the_batch(tiny) -> None:
    tiny.runtime.batch_size = 2
    ctx = open_context(tiny)
    pictures = Pictures(ctx)
    found = patches_of(ctx, _places(tiny), pictures)
    assert found.kind is Patches.receptive_field
    assert found.png.keys() == set(_places(tiny))
    for place in _places(tiny):
        ratios = sharing_ratios(ctx.network, pictures.tensor([place.sample]))
        field = ratios.receptive_fields(place.layer, [place.position])[0].numpy()
        expected = np.asarray(field_patch(pictures.open(place.sample), field)).astype(int)
        shown = np.asarray(Image.open(io.BytesIO(found.png[place]))).astype(int)
        assert abs(shown - expected).max() <= 1


@pytest.mark.parametrize(
    ("target", "words"), [("tiny:network", "effective receptive field"), ("tiny:gated", "upsampled")]
)
def test_the_page_says_what_its_patches_are(target, words, tiny, tmp_path, caplog) -> None:
    tiny.model.target = target
    with caplog.at_level(logging.WARNING, "vismech"):
        run(tiny, tmp_path / "run")
    page = (tmp_path / "run/report/index.html").read_text()
    assert words in page
    assert ("no rule for 'mul'" in caplog.text) is (target == "tiny:gated")


def test_upsampling_asks_for_no_rules(tiny, caplog) -> None:
    tiny.describe.patches, tiny.model.target = Patches.upsampling, "tiny:gated"
    tiny.extract.positions = Positions.all
    ctx = open_context(tiny)
    assert patches_of(ctx, _places(tiny), Pictures(ctx)).kind is Patches.upsampling
    assert not caplog.records


@pytest.mark.parametrize(("key", "value"), [("mass", 0.0), ("mass", 1.2), ("context", -0.5)])
def test_shares_and_margins_out_of_range_are_refused(key, value, tiny) -> None:
    setattr(tiny.describe, key, value)
    with pytest.raises(UserError, match=f"describe.{key}={value}"):
        check(tiny)
