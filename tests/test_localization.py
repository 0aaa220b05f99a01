"""Localisation against the sum that defines it, and against what a planted concept is known to have seen."""

from __future__ import annotations

import pytest
import torch

import tiny as tiny_network
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.receptive_field import attribution_maps, sharing_ratios
from vismech.receptive_field.localization import attributed_maps, localization_maps, upsampled_maps


@pytest.mark.parametrize("layer", ["layer1", "layer3"])
def test_localisation_is_the_positive_part_of_the_sum_over_positions(layer: str) -> None:
    images = tiny_network.images(3)
    network = open_network(tiny_network.network(), images)
    ratios = sharing_ratios(network, images, layers=[layer])
    _, rows, columns = network.shape(layer)
    codes = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    found = localization_maps(ratios, layer, codes)
    for image in range(3):
        fields = ratios.receptive_fields(layer, range(rows * columns), image)
        expected = sum(u * field for u, field in zip(codes[image].flatten(), fields, strict=True)).clamp(min=0)
        torch.testing.assert_close(found[image], expected, atol=1e-5 * float(expected.max()), rtol=1e-4)
    assert (found > 0).any() and (found == 0).any()


def test_a_concept_at_one_position_lies_inside_what_the_position_can_see() -> None:
    """layer1's first position reads at most rows and columns 0 to 8 of the image (kernels 3, 3, 3; strides 2, 1, 1)."""
    images = tiny_network.images(1)
    ratios = sharing_ratios(open_network(tiny_network.network(), images), images, layers=["layer1"])
    codes = torch.zeros(1, 16, 16)
    codes[0, 0, 0] = 1.0
    found = localization_maps(ratios, "layer1", codes)[0]
    assert found[:6, :6].sum() > 0
    assert found[6:].abs().sum() == found[:, 6:].abs().sum() == 0


def test_codes_of_another_grid_are_refused() -> None:
    images = tiny_network.images(2)
    ratios = sharing_ratios(open_network(tiny_network.network(), images), images, layers=["layer1"])
    with pytest.raises(UserError, match="shape"):
        localization_maps(ratios, "layer1", torch.ones(2, 4, 4))


def test_upsampling_keeps_the_positive_part_at_the_positions_own_squares() -> None:
    codes = torch.tensor([[[0.0, 0.0], [2.0, -3.0]]])
    found = upsampled_maps(codes, (32, 32))
    assert found.shape == (1, 32, 32)
    assert found.min() == 0
    assert found[0, -8:, :8].min() == found.max() == 2
    assert found[0, :8].max() == found[0, -8:, -8:].max() == 0


@pytest.mark.parametrize("method", ["gradient_x_input", "integrated_gradients"])
@pytest.mark.parametrize("hooked", [False, True])
def test_by_gradients_it_is_the_sum_of_the_attribution_maps_of_all_positions(method: str, hooked: bool) -> None:
    """One backward pass for all positions against one for each, on a network that sharing ratios have no rule for."""
    images = tiny_network.images(2)
    model = tiny_network.gated()
    network = tiny_network.hooked(model) if hooked else open_network(model, images)
    _, rows, columns = network.shape("layer2")
    codes = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(0))
    found = attributed_maps(network, images, "layer2", codes, method, steps=4)
    vectors = network.activations(images, ["layer2"])["layer2"].detach().flatten(2)
    for image in range(2):
        maps = attribution_maps(
            network, images[image : image + 1], "layer2", range(rows * columns), method=method, steps=4
        )
        lengths = vectors[image].norm(dim=0)
        expected = (codes[image].flatten() / lengths)[:, None, None] * maps
        expected = expected.sum(0).clamp(min=0)
        torch.testing.assert_close(found[image], expected, atol=1e-5 * float(expected.max()), rtol=1e-4)
    assert (found > 0).any() and (found == 0).any()
    with pytest.raises(UserError, match="shape"):
        attributed_maps(network, images, "layer2", codes[:, :2], method)
