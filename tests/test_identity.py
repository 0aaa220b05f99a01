"""Two networks that compute differently never share a key, and one that computes the same keeps its own."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import tiny
from vismech.network.cut import ExportedNetwork, HookedNetwork, open_network
from vismech.sources.identity import code_of, identity_of
from vismech.sources.models import open_model

SIDE = 16


class Net(nn.Module):
    """Every kind of thing that an identity must see, each of them a setting."""

    def __init__(
        self,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        stride: int = 1,
        eps: float = 1e-5,
        shift: float = 0.5,
        constant: float = 2.0,
        inside: bool = True,
        wayward: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride, 1)
        self.bn = nn.BatchNorm2d(4, eps=eps)
        self.block = Block(activation if inside else nn.Identity())
        self.after = nn.Identity() if inside else activation
        self.head = nn.Linear(4, 3)
        self.register_buffer("shift", torch.full((4, 1, 1), shift), persistent=False)
        self.constant, self.wayward = constant, wayward

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)) + self.shift
        if self.wayward and x.sum() > 1e9:  # torch.export cannot follow this
            x = x + 1
        x = self.after(self.block(x))
        return self.head((self.constant * x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.activation = nn.Conv2d(4, 4, 1), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))


def scaled(x: Tensor, by: float) -> Tensor:
    return x * by


def code(model: nn.Module, batch: int = 1) -> str:
    model = tiny.seeded(model).requires_grad_(False)
    return code_of(model, open_network(model, torch.zeros(batch, 3, SIDE, SIDE)))


CHANGES = {
    "activation": {"activation": torch.tanh},
    "module": {"activation": nn.ReLU()},
    "slope": {"activation": nn.LeakyReLU(0.2)},
    "other slope": {"activation": nn.LeakyReLU(0.3)},
    "stride": {"stride": 2},
    "epsilon": {"eps": 1e-3},
    "unsaved buffer": {"shift": 0.25},
    "constant": {"constant": 3.0},
    "which layer": {"inside": False},
    "lambda": {"activation": lambda x: x * 2},
    "other lambda": {"activation": lambda x: x * 3},
    "partial": {"activation": functools.partial(scaled, by=4.0)},
    "other partial": {"activation": functools.partial(scaled, by=5.0)},
}
AS_CODE_ONLY = {"module", "slope", "lambda", "other lambda"}  # in a graph these are operations like the others


@pytest.mark.parametrize("wayward", [False, True], ids=["exported", "hooked"])
def test_every_change_of_what_is_computed_is_another_identity(wayward) -> None:
    """With equal weights: that is why the weights' fingerprint cannot tell these networks apart."""
    model = tiny.seeded(Net(wayward=wayward)).requires_grad_(False)
    network = open_network(model, torch.zeros(1, 3, SIDE, SIDE))
    assert isinstance(network, HookedNetwork if wayward else ExportedNetwork)
    codes = {"as it was": code_of(model, network)}
    changes = {name: change for name, change in CHANGES.items() if wayward or name not in AS_CODE_ONLY}
    codes |= {name: code(Net(**change, wayward=wayward)) for name, change in changes.items()}
    assert [(one, other) for one in codes for other in codes if one < other and codes[one] == codes[other]] == []
    again = {name: code(Net(**CHANGES[name], wayward=wayward)) for name in ("activation", "partial")}
    assert again.items() <= codes.items()


@pytest.mark.parametrize("wayward", [False, True])
def test_neither_batch_size_nor_memory_format_nor_gradients_matter(wayward) -> None:
    first = code(Net(wayward=wayward))
    assert code(Net(wayward=wayward), batch=5) == first
    model = tiny.seeded(Net(wayward=wayward)).to(memory_format=torch.channels_last)
    assert code_of(model, open_network(model, torch.zeros(1, 3, SIDE, SIDE))) == first


def test_parametrized_weights_are_part_of_what_is_computed() -> None:
    def normed(model: Net, dim: int) -> Net:
        weight_norm(model.conv, dim=dim)
        return model

    codes = {code(Net()), code(normed(Net(), 0)), code(normed(Net(), 1))}
    assert len(codes) == 3 and code(normed(Net(), 0)) in codes


class Hidden(nn.Module):
    """A network in a list, which no state dictionary holds."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.hidden = [nn.Linear(3, 3)]
        for parameter in self.hidden[0].parameters():
            nn.init.constant_(parameter, weight)
        self.shown = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shown(x)
        if x.sum() > 1e9:
            x = x + 1
        return self.hidden[0](x.mean((2, 3)))


def test_weights_that_no_state_dictionary_holds_are_seen() -> None:
    assert code(Hidden(0.5)) == code(Hidden(0.5)) != code(Hidden(0.25))


def test_hooks_of_a_network_that_cannot_be_exported_are_seen() -> None:
    model = Net(wayward=True)
    model.block.register_forward_hook(lambda _module, _inputs, output: output * 2)
    assert code(model) != code(Net(wayward=True))


NETWORK = """
import torch
from torch import nn
from {package}.parts import Part

class Top(nn.Module):
    def __init__(self):
        super().__init__()
        self.part, self.head = Part(), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        {wayward}
        return self.head(self.part(x)).mean((2, 3))

def build():
    return Top()
"""
PART = """
from torch import nn
from {package}.helpers import shape

class Part(nn.Module):
    def forward(self, x):
        return shape(x) {change}
"""
HELPERS = """
POWER = {power}

def shape(x):
    return x.abs() ** POWER
"""


def package(root: Path, name: str, wayward: bool, change: str = "", power: int = 2) -> str:
    folder = root / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    line = "x = x + 1 if x.sum() > 1e9 else x" if wayward else "pass"
    (folder / "net.py").write_text(NETWORK.format(package=name, wayward=line))
    (folder / "parts.py").write_text(PART.format(package=name, change=change))
    (folder / "helpers.py").write_text(HELPERS.format(power=power))
    return f"{name}.net:build"


@pytest.mark.parametrize("wayward", [False, True], ids=["exported", "hooked"])
def test_code_in_other_files_is_seen_and_names_of_files_are_not(tmp_path, monkeypatch, wayward) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = "hooked" if wayward else "exported"

    def found(name: str, **options) -> dict:
        target = package(tmp_path, f"{kind}_{name}", wayward, **options)
        model = open_model("custom", "mine", target=target, preprocess={"crop": SIDE})
        return identity_of(model, open_network(model.module, model.example))

    first = found("first")
    assert found("moved") == first and first["code"]
    assert found("part", change="+ 1") != first
    assert found("helper", power=3) != first


@pytest.mark.thorough
def test_the_same_in_every_process() -> None:
    lines = [
        "import torch, tiny, test_identity as t",
        "both = [(way, name) for way in (False, True) for name in ('partial', 'lambda')]",
        "print(*(t.code(t.Net(wayward=way, **t.CHANGES[name])) for way, name in both))",
    ]
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    ).stdout
    here = [code(Net(wayward=way, **CHANGES[name])) for way in (False, True) for name in ("partial", "lambda")]
    assert found == " ".join(here) + "\n"


def test_models_of_libraries_keep_their_keys() -> None:
    model = open_model("cifar_resnet", "cifar_resnet20", weights=None)
    assert identity_of(model, tiny.hooked(model.module)) == model.identity
    assert model.identity["code"] is None
