"""Fields over tokens: AttnLRP against its formulas written out, rollout against its product, gradients by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tiny import gated, seeded
from tiny import images as pictures
from vismech.errors import UserError
from vismech.network.cut import HookedNetwork, Network, open_network
from vismech.network.pfv import layout_of
from vismech.receptive_field.tokens import (
    TokenField,
    concept_fields,
    ground_of,
    lrp,
    mean_tokens,
    pixel_maps,
    token_fields,
)
from vismech.receptive_field.tokens.steps import compute
from vismech.sources.cct import Cct

SIDE = 32
FOUR = [one for one in TokenField if one is not TokenField.sharing_ratios]


def vit(**more) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=SIDE, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=5, qkv_bias=True, **more
        )
        for value in model.parameters():
            nn.init.normal_(value, std=0.3)
        for name, value in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                nn.init.normal_(value, 1.0, 0.2)
    return model.eval().requires_grad_(False).double()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return vit()


@pytest.fixture(scope="module")
def network(model) -> Network:
    return open_network(model, image())


def image(seed: int = 3, count: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).double()


def tokens_of(model: nn.Module, x: Tensor) -> Tensor:
    """What block 0 reads."""
    found = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    model(x)
    handle.remove()
    return found[0]


def parts(block: nn.Module, h: Tensor) -> dict[str, Tensor]:
    """Every value of a block for tokens [N, C], heads first in q, k, v."""
    n, c = h.shape
    found = {"h": h, "n1": block.norm1(h)}
    found["qkv"] = block.attn.qkv(found["n1"])
    q, k, v = found["qkv"].reshape(n, 3, 2, c // 2).permute(1, 2, 0, 3)
    found |= {"q": q, "k": k, "v": v, "s": q @ k.mT / (c // 2) ** 0.5}
    found["a"] = found["s"].softmax(-1)
    found["o"] = found["a"] @ v
    found["flat"] = found["o"].transpose(0, 1).reshape(n, c)
    found["m"] = block.attn.proj(found["flat"])
    found["g"] = h + found["m"]
    found["n2"] = block.norm2(found["g"])
    found["f1"] = block.mlp.fc1(found["n2"])
    found["act"] = F.gelu(found["f1"])
    found["f2"] = block.mlp.fc2(found["act"])
    found["y"] = found["g"] + found["f2"]
    return found


def linear_rule(x: Tensor, weight: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
    """R_i = Σ_j x_i w_ji / z_j · R_j."""
    return x * ((relevance / z) @ weight)


def norm_rule(x: Tensor, norm: nn.LayerNorm, z: Tensor, relevance: Tensor) -> Tensor:
    """The same of a linear map whose std is a constant."""
    std = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    slope = relevance / z * norm.weight / std
    return x * (slope - slope.mean(-1, keepdim=True))


def lrp_of_block(block: nn.Module, v: dict[str, Tensor], relevance: Tensor) -> Tensor:
    """Relevance of a block's input from that of its output, rule by rule (Achtibat et al. 2024, §3.2–3.3)."""
    r_g, r_f2 = relevance * v["g"] / v["y"], relevance * v["f2"] / v["y"]
    r_act = linear_rule(v["act"], block.mlp.fc2.weight, v["f2"], r_f2)
    r_n2 = linear_rule(v["n2"], block.mlp.fc1.weight, v["f1"], r_act)  # the activation hands its relevance on
    r_g = r_g + norm_rule(v["g"], block.norm2, v["n2"], r_n2)
    r_h, r_m = r_g * v["h"] / v["g"], r_g * v["m"] / v["g"]
    r_flat = linear_rule(v["flat"], block.attn.proj.weight, v["m"], r_m)
    r_o = r_flat.unflatten(1, (2, -1)).transpose(0, 1)
    shares = torch.einsum("hij,hjd->hijd", v["a"], v["v"]) / v["o"][:, :, None] * r_o[:, :, None] / 2
    r_a, r_v = shares.sum(3), shares.sum(1)
    r_s = v["s"] * (r_a - v["a"] * r_a.sum(-1, keepdim=True))
    scale = v["q"].shape[-1] ** -0.5
    shares = torch.einsum("hid,hjd->hijd", v["q"], v["k"]) * scale / v["s"][..., None] * r_s[..., None] / 2
    r_qkv = torch.stack([shares.sum(2), shares.sum(1), r_v]).permute(2, 0, 1, 3).flatten(1)
    r_n1 = linear_rule(v["n1"], block.attn.qkv.weight, v["qkv"], r_qkv)
    return r_h + norm_rule(v["h"], block.norm1, v["n1"], r_n1)


def lrp_twin(model: nn.Module, x: Tensor, layer: int, position: int) -> Tensor:
    """Relevance of all tokens of block 0's input, [N]."""
    h, values = tokens_of(model, x)[0], []
    for block in model.blocks[: layer + 1]:
        values.append(parts(block, h))
        h = values[-1]["y"]
    relevance = torch.zeros_like(h)
    relevance[position] = h[position] * F.normalize(h[position], dim=0)
    for block, found in zip(reversed(model.blocks[: layer + 1]), reversed(values), strict=True):
        relevance = lrp_of_block(block, found, relevance)
    return relevance.sum(1)


@pytest.mark.parametrize("layer", [0, 1])
def test_attnlrp_is_its_formulas_written_out(model, network, layer) -> None:
    x = image()
    found = token_fields(network, x, f"blocks.{layer}", [0, 7], method="attnlrp")
    for row, position in enumerate([0, 7]):
        expected = lrp_twin(model, x, layer, position + 1)
        torch.testing.assert_close(found.maps[row].flatten(), expected[1:], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.prefix[row], expected[0], rtol=1e-6, atol=1e-9)


def test_attnlrp_conserves_without_biases_and_softmax() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = (
            MlpMixer(img_size=SIDE, patch_size=8, embed_dim=12, num_blocks=2, num_classes=5)
            .eval()
            .double()
            .requires_grad_(False)
        )
    sums = []
    for bias in (0.0, 0.3):
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.fill_(bias) if name.endswith("bias") else nn.init.normal_(value, std=0.4)
        network, x = open_network(model, image()), image()
        length = network.activations(x, ["blocks.1"])["blocks.1"][0, 5].norm().detach()
        maps = token_fields(network, x, "blocks.1", [5], method="attnlrp").maps
        sums.append(float(maps.sum() / length))
    assert sums[0] == pytest.approx(1, rel=1e-9) and abs(sums[1] - 1) > 1e-3


def test_of_a_product_each_factor_gets_half_and_of_a_softmax_its_taylor_rule() -> None:
    class Products(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, :1] @ x[:, 1:2].mT * x[:, 2:]).softmax(3).flatten(1)

    x = image()[:, :, :6, :6]
    network = open_network(Products().eval(), x)
    start, end = network.input, network.output["logits"]
    graph = network.graph_from(start, end)
    at = x.clone().requires_grad_()
    with torch.enable_grad():
        value = compute(graph, at, lrp.RULES, lrp.NAME)
    weights = torch.linspace(-1, 1, value.shape[1]).double()[None]
    relevance = (torch.autograd.grad(value, at, weights)[0] * x).sum((2, 3))[0]
    scores = x[:, :1] @ x[:, 1:2].mT * x[:, 2:]
    shares, incoming = scores.softmax(3), (weights.view(1, 1, 6, 6) * scores.softmax(3))
    through = (scores * (incoming - shares * incoming.sum(3, keepdim=True))).sum()
    expected = torch.stack([through / 4, through / 4, through / 2])
    torch.testing.assert_close(relevance, expected)


def test_rollout_is_the_product_of_half_attention_and_half_identity(model, network) -> None:
    h, product = tokens_of(model, image())[0], torch.eye(17).double()
    for block in model.blocks:
        found = parts(block, h)
        product, h = (found["a"].mean(0) / 2 + torch.eye(17) / 2) @ product, found["y"]
    found = token_fields(network, image(), "blocks.1", range(16), method="rollout")
    torch.testing.assert_close(found.maps.flatten(1), product[1:, 1:], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.prefix, product[1:, 0], rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_the_blocks_themselves(model, network) -> None:
    x = image()
    tokens, baseline = tokens_of(model, x), mean_tokens(network, image(count=3))
    start = torch.cat([tokens[:, :1], baseline[None]], 1)
    unit = F.normalize(model.blocks[:2](tokens)[0, 3], dim=0)

    def slope(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(model.blocks[:2](at)[0, 3] @ unit, at)[0]

    found = token_fields(network, x, "blocks.1", [2], method="gradient_x_input")
    torch.testing.assert_close(found.maps[0].flatten(), (slope(tokens) * tokens)[0, 1:].sum(1))
    steps = [slope(start + (s + 0.5) / 5 * (tokens - start)) for s in range(5)]
    expected = (torch.stack(steps).mean(0) * (tokens - start)).abs()[0, 1:].sum(1)
    found = token_fields(network, x, "blocks.1", [2], method="ig", steps=5, baseline=baseline)
    torch.testing.assert_close(found.maps[0].flatten(), expected)


@pytest.mark.parametrize("method", FOUR)
def test_the_field_of_a_token_of_the_ground_is_the_token_itself(network, method) -> None:
    assert ground_of(network).node is network.output["pos_drop"]
    found = token_fields(network, image(), "pos_drop", [4, 9], method=method)
    for row, position in enumerate([4, 9]):
        others = found.maps[row].flatten().clone()
        assert float(others[position].abs()) > 0.5
        others[position] = 0
        assert not others.any() and not found.prefix[row]


@pytest.mark.parametrize("method", FOUR)
def test_many_units_at_once_are_single_ones(network, method) -> None:
    together = token_fields(network, image(), "blocks.0", range(16), method=method, steps=3)
    alone = token_fields(network, image(), "blocks.0", [11], method=method, steps=3)
    torch.testing.assert_close(together.maps[11], alone.maps[0])
    assert together.maps.shape == (16, 4, 4) and together.prefix.shape == (16,)


@pytest.mark.parametrize("method", FOUR)
def test_a_concepts_field_is_the_sum_of_its_positions_fields(network, method) -> None:
    x = image(count=2)
    codes = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1)).double().clamp(min=0)
    found = concept_fields(network, x, "blocks.0", codes, method=method, steps=2)
    vectors = network.layout("blocks.0").vectors(network.activations(x, ["blocks.0"])["blocks.0"])
    each = torch.stack(
        [token_fields(network, one[None], "blocks.0", range(16), method=method, steps=2).maps for one in x]
    )
    lengths = vectors.norm(dim=2) if method != "rollout" else torch.ones(2, 16).double()
    expected = torch.einsum("bp,bphw->bhw", codes.flatten(1) / lengths, each).clamp(min=0)
    if method == "ig":  # lengths before the sum over positions: an upper bound
        assert (found <= expected + 1e-9).all()
        codes = (
            torch.zeros(2, 4, 4)
            .double()
            .index_put_((torch.arange(2), torch.tensor(1), torch.tensor(2)), torch.ones(2).double())
        )
        found = concept_fields(network, x, "blocks.0", codes, method=method, steps=2)
        expected = each[:, 6] / lengths[:, 6, None, None]
    torch.testing.assert_close(found, expected)


def test_the_mean_token_keeps_its_position(model, network) -> None:
    x = image(count=5)
    position = model.pos_embed[0, 1:]
    expected = (tokens_of(model, x)[:, 1:] - position).mean((0, 1)) + position
    torch.testing.assert_close(mean_tokens(network, x, rows=2), expected)


def test_networks_without_attention_end_at_the_pixels() -> None:
    network, x = open_network(gated(), pictures(1)), pictures(3)
    assert ground_of(network).pixels
    torch.testing.assert_close(mean_tokens(network, x).T.unflatten(1, (32, 32)), x.mean(0))
    with pytest.raises(UserError, match="no attention lies between"):
        token_fields(network, x[:1], "layer2", [0], method="rollout")
    with pytest.raises(UserError, match=r"attnlrp has no rule for 'sigmoid' in module 'layer2\.1': take gradient"):
        token_fields(network, x[:1], "layer2", [0], method="attnlrp")
    found = token_fields(network, x[:1], "layer1", [0], method="sharing_ratios").maps
    assert found.shape == (1, 32, 32) and float(found.sum()) == pytest.approx(1, abs=1e-4)


def test_a_compact_transformer_has_all_four_and_pixels_get_their_tokens_share() -> None:
    network, x = open_network(seeded(Cct(2, channels=8, heads=2)), pictures(1)), pictures(1)
    for method in FOUR:
        maps = token_fields(network, x, "blocks.1", [10], method=method, steps=2).maps
        spread = pixel_maps(maps, (32, 32))
        torch.testing.assert_close(spread.sum(), maps.sum())
        torch.testing.assert_close(spread[0, :4, :4], maps[0, 0, 0].expand(4, 4) / 16)


def test_bad_questions_are_refused(network) -> None:
    x = image()
    for more, message in [
        ({"method": "lrp"}, "no field 'lrp': choose one of ig"),
        ({"positions": [16]}, "position 16 is out of range: layer 'blocks.1' has 4×4 positions"),
        ({"image": image(count=2)}, "one image at a time, not 2"),
        ({"steps": 0}, "0 steps are too few"),
        ({"layer": "patch_embed"}, "does not follow from the value"),
        ({"baseline": torch.zeros(3, 12)}, r"baseline has shape \(3, 12\): give \(16, 12\)"),
    ]:
        asked = {"image": x, "layer": "blocks.1", "positions": [0], **more}
        with pytest.raises(UserError, match=message):
            token_fields(network, **asked)
    with pytest.raises(UserError, match=r"torch\.export cannot capture"):
        token_fields(HookedNetwork(vit(), x), x, "blocks.1", [0])


@pytest.mark.parametrize(
    ("more", "prefix"),
    [
        ({"reg_tokens": 4, "no_embed_class": True}, 5),
        pytest.param({}, 1, marks=pytest.mark.thorough),
        pytest.param({"class_token": False, "global_pool": "avg"}, 0, marks=pytest.mark.thorough),
    ],
    ids=["registers", "class", "none"],
)
def test_the_graph_tells_class_and_register_tokens(more, prefix) -> None:
    network = open_network(vit(**more), image())
    layout = network.layout("blocks.1")
    assert (layout.grid, layout.prefix) == ((4, 4), prefix)


def test_tokens_that_are_no_grid_are_asked_for(model) -> None:
    assert layout_of((9, 6), "blocks.1", prefix=5).grid == (2, 2)  # four registers and a class token, not 3 × 3
    with pytest.raises(
        UserError, match=r"30 tokens, which are no square grid after 4 others: .*extract.prefix_tokens=N"
    ):
        layout_of((30, 6), "blocks.1", prefix=4)
    network = HookedNetwork(model, image())  # it has no graph that tells
    assert network.layout("blocks.1").prefix == 1
    network.prefix_tokens = 8
    assert network.layout("blocks.1").grid == (3, 3)
