"""Every architecture of the zoo: opened, cut, traced and described with random weights; see README.md.

python experiments/zoo/zoo.py [NAME …] --out experiments/zoo/zoo.csv
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from vismech.attribution.automatic import PROBED, Choice
from vismech.attribution.engine import Settings, attribute, completeness_gap, settled
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import ConceptTargets, LogitTargets, Targets, anchors
from vismech.config.choices import Mode, PathWeight, Rule
from vismech.dictionaries import build
from vismech.errors import UserError
from vismech.network.cut import LOGITS, ExportedNetwork, Network, open_network
from vismech.network.pfv import Layout, layout_of
from vismech.receptive_field import attribution_maps, sharing_ratios
from vismech.receptive_field.localization import localization_maps

SIDE, IMAGES, MEASURED, RUN = 64, 6, 2, 64
"""Pixels; images that are opened; those of them that gaps are measured on, none of which the nodes were chosen on; and
images of the run that the nodes are chosen for, which decides what trying may cost."""
CONCEPTS, TARGETS = 4, 2


def torchvision_model(name: str, **arguments) -> Callable[[], nn.Module]:
    from torchvision import models

    return lambda: models.get_model(name, weights=None, **arguments)


def timm_model(name: str, **arguments) -> Callable[[], nn.Module]:
    import timm

    return lambda: timm.create_model(name, pretrained=False, **arguments)


def _sized(*names: str) -> dict[str, Callable[[], nn.Module]]:
    """Architectures of timm that are made for a size."""
    return {name: timm_model(name, img_size=SIDE) for name in names}


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    **{
        name: torchvision_model(name)
        for name in [
            "alexnet",
            "vgg11_bn",
            "resnet18",
            "resnet50",
            "resnext50_32x4d",
            "densenet121",
            "squeezenet1_1",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "efficientnet_b0",
            "regnet_x_400mf",
            "regnet_y_400mf",
            "shufflenet_v2_x0_5",
            "mnasnet0_5",
            "convnext_tiny",
            "swin_t",
        ]
    },
    "googlenet": torchvision_model("googlenet", aux_logits=False, init_weights=False),
    "vit_b_32": torchvision_model("vit_b_32", image_size=SIDE),
    **{
        name: timm_model(name)
        for name in [
            "tf_efficientnet_lite0",
            "convnextv2_atto",
            "repvgg_a0",
            "mobileone_s0",
            "res2net50_14w_8s",
            "dla34",
            "ghostnet_100",
            "mobilevit_xxs",
            "edgenext_xx_small",
            "poolformer_s12",
            "pvt_v2_b0",
            "nf_resnet26",
            "resnetv2_50",
            "resnest14d",
            "skresnet18",
            "cspdarknet53",
            "ese_vovnet19b_dw",
            "rexnet_100",
            "mobilenetv4_conv_small",
            "lcnet_050",
            "selecsls42",
            "inception_next_atto",
            "starnet_s1",
            "convmixer_768_32",
            "davit_tiny",
        ]
    },
    "swin_tiny_patch4_window4": timm_model("swin_tiny_patch4_window7_224", img_size=SIDE, window_size=4),
    **_sized(
        "visformer_tiny",
        "deit_tiny_patch16_224",
        "levit_128s",
        "xcit_nano_12_p16_224",
        "mixer_s32_224",
        "cait_xxs24_224",
    ),
}


@dataclass
class Line:
    """One architecture.

    Attributes:
        name: the architecture's.
        capture: export, or hooks where torch.export cannot.
        layers: that can be named.
        lower, upper: the two that were traced.
        field: how vectors are traced to pixels: sharing ratios, or gradient × input where these have no rule.
        nodes: of lower → upper, lower → logits and upper → logits.
        gap: median completeness gap over the images and targets of all three.
        gap_worst: the largest of the three medians.
        gap_midpoint: gap with 32 midpoints.
        one_row: largest relative difference of a gradient of one row from that of two equal rows.
        seconds: of processor time, for all of it.
    """

    name: str
    capture: str
    layers: int
    lower: str
    upper: str
    field: str
    nodes: str
    gap: float
    gap_worst: float
    gap_midpoint: float
    one_row: float
    seconds: float


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in eval mode, with nothing that is one constant at first.

    Biases and embeddings are drawn around 0, scales around 1 (also those of layer scale, which begin near 0 and would
    switch every block off), running statistics are noisy.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, scale: float, shift: float = 0.0) -> Tensor:
        return torch.randn(like.shape, generator=generator) * scale + shift

    with torch.no_grad():
        for part in model.modules():
            for name, value in part.named_parameters(recurse=False):
                if "bias" in name or (value.ndim > 1 and not value.any()):
                    value.copy_(normal(value, 0.1))
                elif (value == value.flatten()[0]).all():
                    value.copy_(normal(value, 0.1, 1.0))
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.copy_(normal(part.running_mean, 0.1))
                part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) * 1.5 + 0.5)
    return model.eval().requires_grad_(False)


def opened(name: str) -> tuple[Network, Tensor]:
    """The network and its images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomised(ARCHITECTURES[name]())
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return open_network(model, images), images


def two_layers(network: Network) -> tuple[str, str]:
    """Maps of several positions, about half and three quarters of the way, that the network can be cut at.

    The least deeply named: the ends of stages, or else of blocks.
    """
    place = {layer: index / len(network.layers) for index, layer in enumerate(network.layers)}

    def best(layers: list[str], target: float) -> list[str]:
        return sorted(layers, key=lambda layer: abs(place[layer] - target))

    maps = [layer for layer in network.layers if _is_map(network, layer)]
    for depth in sorted({layer.count(".") for layer in maps}):
        named = [layer for layer in maps if layer.count(".") <= depth]
        for lower in best([layer for layer in named if 0.3 <= place[layer] <= 0.65], 0.5):
            if not _leads(network, lower, LOGITS):
                continue
            for upper in best([layer for layer in named if place[lower] + 0.1 <= place[layer] <= 0.9], 0.75):
                if _leads(network, lower, upper) and _leads(network, upper, LOGITS):
                    return lower, upper
    raise UserError("no two layers in the middle can be cut from one another")


def _is_map(network: Network, layer: str) -> bool:
    try:
        return network.layout(layer).positions > 1
    except UserError:
        return False


def _leads(network: Network, lower: str, upper: str) -> bool:
    try:
        network.segment(lower, upper)
    except UserError:
        return False
    return True


@dataclass
class Coded:
    layout: Layout
    clean: Tensor
    vectors: Tensor
    atoms: Tensor
    codes: Tensor


def coded(network: Network, layer: str, clean: Tensor) -> Coded:
    layout = network.layout(layer)
    vectors = layout.vectors(clean)
    dictionary = build("bisecting", vectors.flatten(0, 1), k=CONCEPTS, seed=0)
    codes = dictionary.encode(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
    return Coded(layout, clean, vectors, dictionary.atoms, codes)


def gaps(network: Network, lower: str, upper: str, below: Coded, targets: Targets) -> tuple[Choice, Tensor, Tensor]:
    """The nodes chosen on the first images, and the gaps on the last ones with them and with 32 midpoints."""
    segment, last = network.segment(lower, upper), torch.arange(IMAGES - MEASURED, IMAGES)

    def of(images: Tensor):
        source = ConceptSource(below.atoms, below.codes[images], below.vectors[images])
        return segment, below.layout, source, below.clean[images], targets.take(images)

    auto = Settings(Rule.auto, 32, mode=Mode.reverse, rows=64)
    choice = settled(*of(torch.arange(PROBED)), auto, RUN)
    found: dict[Settings, Tensor] = {}
    for settings in (auto.at(choice), auto.at(Choice(Rule.midpoint, 32))):
        if settings in found:
            continue
        told = attribute(*of(last), settings)
        edges = told.edges[PathWeight.ig]
        found[settings] = completeness_gap(edges.units.sum(2) + edges.error, told.value, told.baseline)[told.moves]
    each = list(found.values())
    return choice, each[0], each[-1]


def one_row(network: Network, lower: str, upper: str, clean: Tensor) -> float:
    """Relative difference of a gradient, read through a transposed view, of one row from that of two equal rows."""
    segment, layout = network.segment(lower, upper), layout_of(network.shape(lower), lower)
    above, found = layout_of(network.shape(upper), upper), []
    start = layout.vectors(clean[:1]).contiguous()
    for rows in (1, 2):
        points = start.expand(rows, -1, -1).clone().requires_grad_()
        with torch.enable_grad():
            vectors = above.vectors(segment(layout.activation(points, clean[:1])))
            weights = torch.linspace(-1, 1, vectors.shape[2])
            (slope,) = torch.autograd.grad((vectors[0, vectors.shape[1] // 2] @ weights), points)
        found.append(slope[0])
    return float((found[0] - found[1]).norm() / found[1].norm())


def field_of(network: Network, images: Tensor, layer: str) -> str:
    """How the layer's vectors are traced to pixels; a map is made either way."""
    side = network.layout(layer).grid
    try:
        ratios = sharing_ratios(network, images[:1], layers=[layer])
        found, kind = localization_maps(ratios, layer, torch.ones(1, *side)), "sharing ratios"
    except UserError:
        found, kind = attribution_maps(network, images[:1], layer, [0], method="gradient_x_input"), "gradient × input"
    assert found.isfinite().all(), f"{layer}: a map that is not finite"
    return kind


def measure(name: str) -> Line:
    """One line of the table."""
    started = time.process_time()
    network, images = opened(name)
    lower, upper = two_layers(network)
    with torch.no_grad():
        found = network.activations(images, [lower, upper, LOGITS])
        below, above = coded(network, lower, found[lower]), coded(network, upper, found[upper])
    strongest = anchors(above.vectors, above.codes, above.atoms)[:, :TARGETS]
    concepts = ConceptTargets(above.atoms[:TARGETS], strongest, above.layout)
    logits = LogitTargets(found[LOGITS].argmax(1))
    pairs = (lower, upper, below, concepts), (lower, LOGITS, below, logits), (upper, LOGITS, above, logits)
    each = [gaps(network, *pair) for pair in pairs]
    chosen, midpoint = (torch.cat(part) for part in list(zip(*each, strict=True))[1:])
    return Line(
        name,
        "export" if isinstance(network, ExportedNetwork) else "hooks",
        len(network.layers),
        lower,
        upper,
        field_of(network, images, lower),
        "; ".join(f"{one.rule} {one.steps}" + (f" power {one.power}" if one.power > 1 else "") for one, _, _ in each),
        float(chosen.median()),
        max(float(gap.median()) for _, gap, _ in each if len(gap)),
        float(midpoint.median()),
        one_row(network, lower, upper, found[lower]),
        round(time.process_time() - started, 1),
    )


def run(described: str, architectures: Iterable[str], measured: Callable[[str], Any]) -> pd.DataFrame:
    """The command of a zoo: the named architectures, or all, measured, told and kept one by one; its table."""
    parser = argparse.ArgumentParser(description=described.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(architectures))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    lines: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in arguments.names:
            try:
                lines.append(asdict(measured(name)))
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}", flush=True)
                continue
            values = (f"{value:.3g}" if isinstance(value, float) else value for value in lines[-1].values())
            print(*(f"{key}={value}" for key, value in zip(lines[-1], values, strict=True)), flush=True)
            if arguments.out:
                pd.DataFrame(lines).to_csv(arguments.out, index=False, float_format="%.3g")
    return pd.DataFrame(lines)


def main() -> None:
    run(__doc__, ARCHITECTURES, measure)


if __name__ == "__main__":
    main()
