"""Transformers and hybrids of the zoo: opened, cut, traced, and described by every field over tokens; see README.md.

python experiments/zoo/transformers.py [NAME …] --out experiments/zoo/transformers.csv
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from vismech.attribution.engine import Settings, attribute, completeness_gap
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Mode, PathWeight, Rule
from vismech.errors import UserError
from vismech.network.cut import LOGITS, ExportedNetwork, Network, open_network
from vismech.receptive_field.tokens import TokenField, ground_of, mean_tokens, token_fields
from zoo import MEASURED, Coded, coded, randomised, run, timm_model, torchvision_model, two_layers

FIELDS = [field for field in TokenField if field is not TokenField.sharing_ratios]
TRACED = "traced"


class Entry(NamedTuple):
    """How an architecture is made, and the side of its images."""

    make: Callable[[], nn.Module]
    side: int = 64


def _timm(name: str, side: int = 64, **arguments) -> Entry:
    return Entry(timm_model(name, **arguments), side)


def _sized(name: str, side: int = 64, **arguments) -> Entry:
    """One that is made for a size."""
    return _timm(name, side, img_size=side, **arguments)


ARCHITECTURES: dict[str, Entry] = {
    "vit_b_32": Entry(torchvision_model("vit_b_32", image_size=128), 128),
    "swin_t": Entry(torchvision_model("swin_t")),
    "swin_v2_t": Entry(torchvision_model("swin_v2_t")),
    "vit_tiny_patch16_224": _sized("vit_tiny_patch16_224"),
    "deit_tiny_distilled_patch16_224": _sized("deit_tiny_distilled_patch16_224"),
    "deit3_small_patch16_224": _sized("deit3_small_patch16_224", depth=6),
    "beit_base_patch16_224": _sized("beit_base_patch16_224", depth=4),
    "vit_small_patch14_dinov2": _sized("vit_small_patch14_dinov2", 56, depth=6),
    "vit_small_patch14_reg4_dinov2": _sized("vit_small_patch14_reg4_dinov2", 56, depth=6),
    "eva02_tiny_patch14_224": _sized("eva02_tiny_patch14_224", 56, depth=6),
    "swin_tiny_patch4_window4": _sized("swin_tiny_patch4_window7_224", window_size=4),
    "swinv2_tiny_window4": _sized("swinv2_tiny_window8_256", window_size=4),
    "cait_xxs24_224": _sized("cait_xxs24_224"),
    "xcit_nano_12_p16_224": _sized("xcit_nano_12_p16_224"),
    "levit_128s": _sized("levit_128s"),
    "pit_ti_224": _sized("pit_ti_224"),
    "convit_tiny": _sized("convit_tiny"),
    "crossvit_9_240": _sized("crossvit_9_240", 120),
    "twins_svt_small": _sized("twins_svt_small"),
    "pvt_v2_b0": _timm("pvt_v2_b0"),
    "davit_tiny": _timm("davit_tiny"),
    "visformer_tiny": _sized("visformer_tiny"),
    "edgenext_xx_small": _timm("edgenext_xx_small"),
    "mobilevit_xxs": _timm("mobilevit_xxs"),
    "mobilevitv2_050": _timm("mobilevitv2_050"),
    "coatnet_nano_rw_224": _sized("coatnet_nano_rw_224"),
    "maxvit_rmlp_pico_rw_256": _sized("maxvit_rmlp_pico_rw_256"),
    "gcvit_xxtiny": _sized("gcvit_xxtiny"),
    "hiera_tiny_224": _sized("hiera_tiny_224"),
    "efficientformer_l1": _sized("efficientformer_l1"),
}


@dataclass
class Line:
    """One architecture.

    Attributes:
        name: the architecture's.
        answer: traced, or the sentence that refuses it.
        capture: export, or hooks where torch.export cannot.
        ground: positions that fields end at, and before them the class, register and distillation tokens.
        layer, tokens: what was traced to the class and described, and its positions.
        gap: median completeness gap of layer → class with 48 Gauss–Legendre nodes crowded towards the start.
        ig, attnlrp, rollout, gradient_x_input: yes, or the operation that has no rule.
        seconds: of processor time.
    """

    name: str
    answer: str = ""
    capture: str = ""
    ground: str = ""
    layer: str = ""
    tokens: str = ""
    gap: float = float("nan")
    ig: str = ""
    attnlrp: str = ""
    rollout: str = ""
    gradient_x_input: str = ""
    seconds: float = 0.0


def opened(name: str) -> tuple[Network, Tensor]:
    make, side = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomised(make())
    images = torch.randn(MEASURED, 3, side, side, generator=torch.Generator().manual_seed(1))
    return open_network(model, images), images


def gap_of(network: Network, layer: str, part: Coded, classes: Tensor) -> float:
    """Median completeness gap of edges from concepts to the predicted class."""
    first = torch.arange(MEASURED)
    source = ConceptSource(part.atoms, part.codes[first], part.vectors[first])
    settings = Settings(Rule.gauss_legendre, 48, power=2, mode=Mode.reverse, rows=64)
    targets = LogitTargets(classes[first])
    told = attribute(network.segment(layer, LOGITS), part.layout, source, part.clean[first], targets, settings)
    edges = told.edges[PathWeight.ig]
    gap = completeness_gap(edges.units.sum(2) + edges.error, told.value, told.baseline)[told.moves]
    return float(gap.median())


def positions(layout) -> str:
    grid = " × ".join(map(str, layout.grid))
    return f"{layout.prefix} + {grid}" if layout.prefix else grid


def field(network: Network, image: Tensor, layer: str, method: TokenField, baseline: Tensor) -> str:
    """Whether a field can be made; its maps are finite and its shape the ground's."""
    options = {"baseline": baseline} if method is TokenField.ig else {}
    try:
        found = token_fields(network, image, layer, [0, 1], method=method, steps=4, **options)
    except UserError as error:
        operation = re.search(r"no rule for '(\w+)'( in module '[^']*')?( \([^)]*\))?", str(error))
        return f"no: {operation[1]}{operation[3] or ''}" if operation else f"no: {error}"
    assert found.maps.isfinite().all() and found.maps.any()
    return "yes"


def measure(name: str) -> Line:
    """One line of the table."""
    started, line = time.process_time(), Line(name)
    try:
        network, images = opened(name)
        line.capture = "export" if isinstance(network, ExportedNetwork) else "hooks"
        _, layer = two_layers(network)
        line.layer, line.tokens = layer, positions(network.layout(layer))
        with torch.no_grad():
            found = network.activations(images, [layer, LOGITS])
            part = coded(network, layer, found[layer])
        line.gap = gap_of(network, layer, part, found[LOGITS].argmax(1))
        if isinstance(network, ExportedNetwork):
            line.ground = "pixels" if ground_of(network).pixels else positions(ground_of(network).layout)
            baseline = mean_tokens(network, images)
            for method in FIELDS:
                setattr(line, method.value, field(network, images[:1], layer, method, baseline))
        line.answer = TRACED
    except UserError as error:
        line.answer = str(error)
    line.seconds = round(time.process_time() - started, 1)
    return line


def markdown(table: pd.DataFrame) -> str:
    """The table of README.md."""
    shown = ["name", "ground", "layer", "tokens", "gap", "ig", "attnlrp", "rollout", "gradient_x_input"]
    rows = [f"| {' | '.join(shown)} |", "|" + "---|" * len(shown)]
    for line in table.itertuples():
        if line.answer == TRACED:
            cells = [f"{100 * float(line.gap):.2g} %" if name == "gap" else str(getattr(line, name)) for name in shown]
        else:
            cells = [line.name, line.answer, *[""] * (len(shown) - 2)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    print(markdown(run(__doc__, ARCHITECTURES, measure)))


if __name__ == "__main__":
    main()
