"""Weights: files read without executing anything, refused unless they fit, and hashed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import tiny
from vismech.errors import UserError
from vismech.sources.cifar_resnet import CifarResNet
from vismech.sources.models import open_model
from vismech.sources.weights import fingerprint, load_state, read_state

CIFAR = {"source": "cifar_resnet", "name": "cifar_resnet20"}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return tiny.seeded(CifarResNet(20), seed=5).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    ],
    ids=["plain", "state_dict", "model", "data parallel", "without counters"],
)
def test_checkpoints_of_several_forms(tmp_path, state, wrap) -> None:
    torch.save(wrap(state), tmp_path / "weights.pt")
    module = open_model(**CIFAR, checkpoint=tmp_path / "weights.pt").module
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]) or key.endswith("num_batches_tracked")


def test_safetensors_and_torch_files_give_one_fingerprint(tmp_path, state) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pt")
    names = ("weights.safetensors", "weights.pt")
    first, second = (open_model(**CIFAR, checkpoint=tmp_path / name) for name in names)
    assert first.identity == second.identity  # where the file lies is no part of it either
    assert first.identity["weights"] == fingerprint(tiny.seeded(CifarResNet(20), seed=5))


def test_a_submodule_called_module_is_no_data_parallel_prefix(tmp_path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    torch.save(Wrapped().state_dict(), tmp_path / "weights.pt")
    assert set(read_state(tmp_path / "weights.pt")) == set(Wrapped().state_dict())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("linear.bias"), "another architecture than cifar_resnet20: it lacks linear.bias"),
        (lambda state: state.update(extra=torch.ones(1)), "another architecture than cifar_resnet20: it has extra"),
        (
            lambda state: state.update({"linear.weight": torch.ones(7, 64)}),
            r"another architecture than cifar_resnet20: linear.weight has shape \(7, 64\), not \(10, 64\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_of_another_architecture_are_refused(tmp_path, state, change, sentence) -> None:
    changed = dict(state)
    change(changed)
    save_file(changed, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=rf"weights.safetensors holds weights of {sentence}$"):
        open_model(**CIFAR, checkpoint=tmp_path / "weights.safetensors")


def test_refused_weights_change_nothing(state) -> None:
    module = tiny.seeded(CifarResNet(20))
    before = fingerprint(module)
    with pytest.raises(UserError):
        load_state(module, {**state, "extra": torch.ones(1)}, "file", "name")
    assert fingerprint(module) == before


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"state_dict": {"linear.bias": value}}])
def test_code_in_a_checkpoint_is_not_executed(tmp_path, save, wrap) -> None:
    trace, file = tmp_path / "executed", tmp_path / "weights.pt"
    save(wrap(Malicious(trace)), file)
    with pytest.raises(UserError, match=r"holds no weights that can be read without executing code .*state_dict\(\)"):
        open_model(**CIFAR, checkpoint=file)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malicious(trace)))  # it would have been
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (nn.Linear(2, 2), "holds no weights that can be read without executing code"),
        ([1, 2], r"holds no state dictionary \(names → tensors\)"),
        ({"epoch": 3}, "holds no state dictionary"),
        ({0: torch.ones(1)}, "holds no state dictionary"),
    ],
    ids=["module", "list", "numbers", "integer names"],
)
def test_files_without_weights_are_refused(tmp_path, content, sentence) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=sentence):
        read_state(tmp_path / "weights.pt")


def test_missing_and_damaged_files_are_refused(tmp_path, state) -> None:
    with pytest.raises(UserError, match=r"model.checkpoint=.*nowhere.pt is not a file"):
        read_state(tmp_path / "nowhere.pt")
    save_file(state, tmp_path / "cut.safetensors")
    torch.save(state, tmp_path / "cut.pt")
    for name in ("cut.safetensors", "cut.pt"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(UserError, match=f"{name} holds no weights that can be read"):
            read_state(path)


# Fingerprints


@given(st.data())
def test_the_fingerprint_changes_with_any_value(data) -> None:
    module = tiny.network()
    before = fingerprint(module)
    assert fingerprint(tiny.network()) == before
    name = data.draw(st.sampled_from(sorted(module.state_dict())))
    values = module.state_dict()[name].reshape(-1)
    index = data.draw(st.integers(0, len(values) - 1))
    counter = values.dtype == torch.int64
    values[index] = values[index] + 1 if counter else torch.nextafter(values[index], torch.tensor(9.0))
    assert fingerprint(module) != before


def test_the_fingerprint_knows_names_types_and_shapes() -> None:
    def of(**tensors: torch.Tensor) -> str:
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return fingerprint(module)

    ones = torch.ones(4)
    seen = [
        of(a=ones),
        of(b=ones),
        of(a=ones.view(2, 2)),
        of(a=ones.to(torch.bfloat16)),
        of(a=ones.view(torch.int32)),
        of(a=ones, b=torch.tensor(3)),
        of(a=torch.empty(0), b=ones.bool()),
    ]
    assert len(set(seen)) == len(seen)
    assert of(a=ones, b=2 * ones) == of(b=2 * ones, a=ones)
    channels_last = torch.arange(24.0).view(1, 2, 3, 4)
    assert of(a=channels_last) == of(a=channels_last.to(memory_format=torch.channels_last))
