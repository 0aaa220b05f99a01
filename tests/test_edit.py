"""Edits of a model: as files of data, in place, as modules that export; and every sentence for what is no edit."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as as_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny
import vismech
from vismech.commands.edit import concepts_of, main, value_of
from vismech.config.choices import Code, EditValue
from vismech.dictionaries import Dictionary
from vismech.dictionaries.coding import Coding
from vismech.edit.edited import LayerEdit
from vismech.edit.saved import KEY, ModelEdit, load
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit, apply
from vismech.network.cut import LOGITS, open_network
from vismech.network.pfv import layout_of
from vismech.sources.weights import fingerprint

SHAPES = {"layer1": (8, 16, 16), "layer2": (16, 8, 8), "layer3": (16, 4, 4)}
SAE = {"activation": "topk", "l0": 3, "method": "sae", "vector_norm": 2.0}
REMOVED, HALVED = Edit((1, 4)), Edit((5,), EditValue.scale, 0.5)
TO_MEAN = Edit((0, 2), EditValue.mean, means=(0.25, -1.5))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def dictionary(kind: str, channels: int) -> Dictionary:
    atoms = drawn(12, channels, seed=channels)
    match kind:
        case "sae":
            encoder = {"weight": drawn(12, channels, seed=1), "bias": drawn(1, 12)[0]}
            return Dictionary(atoms, Coding(Code.encoder), info=SAE, encoder=encoder)
        case "centred":
            return Dictionary(atoms, Coding(Code.omp, l0=3), 11, {"mean_norm": 0.7, "method": "bisecting"})
        case "lasso":
            return Dictionary(atoms, Coding(Code.lasso, 0.05))
        case code:
            return Dictionary(atoms, Coding(Code(code), l0=4, coarse=3, fine=2))


KINDS = ("lasso", "omp", "centred", "sae", "simultaneous_omp", "coarse_to_fine")


def made(model: nn.Module, **layers: tuple[str, tuple[Edit, ...]]) -> ModelEdit:
    """An edit of a tiny model: layer=(kind of dictionary, edits)."""
    parts = {
        name: LayerEdit(Layer(layout_of(SHAPES[name], name), dictionary(kind, SHAPES[name][0])), edits)
        for name, (kind, edits) in layers.items()
    }
    return ModelEdit(parts, "tiny", fingerprint(model))


@pytest.fixture
def model() -> nn.Module:
    return tiny.network()


@pytest.fixture
def edit(model) -> ModelEdit:
    return made(model, layer1=("lasso", (REMOVED, TO_MEAN)), layer3=("sae", (HALVED,)))


@pytest.fixture(scope="module")
def batch() -> Tensor:
    return tiny.images(3)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


# In place, and as a module


@pytest.mark.parametrize("kind", KINDS)
def test_scale_one_changes_no_bit(model, batch, kind) -> None:
    every = Edit(tuple(range(12)), EditValue.scale, 1.0)
    same = made(model, **dict.fromkeys(SHAPES, (kind, (every,))))
    assert torch.equal(same.apply(model)(batch), model(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_model_is_the_edit_in_its_segment(model, batch, kind) -> None:
    edits = (REMOVED, HALVED, TO_MEAN)
    one = made(model, layer2=(kind, edits))
    network = open_network(model, batch)
    clean = network.activations(batch, ["layer2"])["layer2"]
    twin = network.segment("layer2", LOGITS)(apply(one.layers["layer2"].layer, clean, edits))
    found = one.apply(model)(batch)
    assert (found - twin).abs().max() < 1e-6
    assert (found - model(batch)).abs().max() > 1e-3


def test_each_layer_is_coded_as_it_is_then(model, edit, batch) -> None:
    network = open_network(model, batch)
    (first, some), (third, others) = edit.layers["layer1"], edit.layers["layer3"]
    between = network.segment("layer1", "layer3")(apply(first, network.activations(batch, ["layer1"])["layer1"], some))
    twin = network.segment("layer3", LOGITS)(apply(third, between, others))
    assert (edit.apply(model)(batch) - twin).abs().max() < 1e-6


def test_inside_of_a_with_the_model_itself_is_edited_and_once(model, edit, batch) -> None:
    clean, edited = model(batch), edit.apply(model)
    alone = edited(batch)
    with edited as inside:
        assert inside is edited
        assert torch.equal(model(batch), alone) and torch.equal(edited(batch), alone)
        with edited:
            assert torch.equal(model(batch), alone)
        assert torch.equal(model(batch), alone)
    assert torch.equal(model(batch), clean) and not torch.equal(alone, clean)
    assert tiny.hooks(model) == 0


def test_nothing_is_left_behind_by_an_error(model, edit, batch) -> None:
    clean, edited, hooks = model(batch), edit.apply(model), []
    with pytest.raises(RuntimeError, match="stop"), edited:
        hooks.append(tiny.hooks(model))
        raise RuntimeError("stop")
    with pytest.raises(RuntimeError):
        edited(batch[:, :2])
    with pytest.raises(UserError, match="layer1 answers 8×8×8 numbers per image, but the edit was made for 8×16×16"):
        edited(tiny.images(2, 16))
    assert hooks == [2] and tiny.hooks(model) == 0 and torch.equal(model(batch), clean)


def test_the_parameters_are_the_models_own(model, edit, batch) -> None:
    edited = edit.apply(model)
    assert next(edited.parameters()) is next(model.parameters()) and not edited.training
    assert fingerprint(model) == edit.weights
    twin = copy.deepcopy(edited)
    model.head.bias.add_(1)
    assert (edited(batch) - twin(batch) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_an_edit_follows_the_models_type(model, edit, batch, dtype) -> None:
    wanted = edit.apply(model)(batch) - model(batch)
    other = tiny.network().to(dtype)
    with pytest.raises(UserError, match="check=False"):
        edit.apply(other)
    found = edit.apply(other, check=False)(batch.to(dtype))
    assert found.dtype == dtype
    near = 1e-4 if dtype is torch.float64 else 0.1
    assert (found - other(batch.to(dtype)) - wanted).abs().max() < near * wanted.abs().max()
    every = Edit(tuple(range(12)), EditValue.scale, 1.0)
    same = made(model, layer1=("lasso", (every,))).apply(other, check=False)
    assert torch.equal(same(batch.to(dtype)), other(batch.to(dtype)))


def test_gradients_go_past_an_edit(model, edit, batch) -> None:
    with torch.enable_grad():
        images = batch.clone().requires_grad_()
        edit.apply(model)(images).sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 0


def test_an_autocast_does_not_reach_the_solvers(model, edit, batch) -> None:
    wanted = edit.apply(model)(batch) - model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = edit.apply(model)(batch) - model(batch)
    assert (found - wanted).abs().max() < 0.1 * wanted.abs().max()


# Exported


def apart(code: str, folder: Path) -> None:
    """Run code in a process of its own."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=paths, check=True, timeout=120)


def program_of(edited: nn.Module, batch: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(edited, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_edit_answers_the_same_at_any_batch_size(model, batch, kind) -> None:
    edited = made(model, layer1=("lasso", (TO_MEAN,)), layer2=(kind, (REMOVED, HALVED))).apply(model)
    module = program_of(edited, batch).module()
    for count in (1, 3, 7):
        assert (module(tiny.images(count)) - edited(tiny.images(count))).abs().max() < 1e-6
    assert tiny.hooks(model) == 0


class Tokens(nn.Module):
    """A class token and 16 patch tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.start = nn.Parameter(torch.ones(1, 1, 8))

    def forward(self, images: Tensor) -> Tensor:
        tokens = torch.cat([self.start.expand(images.shape[0], -1, -1), self.embed(images).flatten(2).mT], 1)
        return self.head(self.mix(tokens).mean(1))


def test_tokens_before_the_patches_stay_as_they_are(batch) -> None:
    model = tiny.seeded(Tokens())
    layer = Layer(layout_of((17, 8), "mix"), dictionary("omp", 8))
    edited = ModelEdit({"mix": LayerEdit(layer, (REMOVED,))}, "tokens", fingerprint(model)).apply(model)
    seen = []
    handle = model.head.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    edited(batch), model(batch)
    handle.remove()
    assert not torch.equal(seen[0], seen[1])
    module = program_of(edited, batch).module()
    assert (module(tiny.images(5)) - edited(tiny.images(5))).abs().max() < 1e-6


@pytest.mark.slow  # a process that imports everything
def test_an_exported_edit_is_read_by_whoever_imports_the_package(model, edit, batch, tmp_path) -> None:
    edited = edit.apply(model)
    torch.export.save(program_of(edited, batch), tmp_path / "edited.pt2")
    save_file({"images": batch}, tmp_path / "images.safetensors")
    code = (
        "import torch, vismech.edit\nfrom safetensors.torch import load_file, save_file\n"
        "images = load_file('images.safetensors')['images']\n"
        "save_file({'logits': torch.export.load('edited.pt2').module()(images)}, 'logits.safetensors')"
    )
    apart(code, tmp_path)
    logits = from_bytes((tmp_path / "logits.safetensors").read_bytes())["logits"]
    assert (logits - edited(batch)).abs().max() < 1e-6


# As a file


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_edit_answers_the_same_bytes(model, batch, tmp_path, kind) -> None:
    edit = made(model, layer2=("lasso", (REMOVED, HALVED)), layer3=(kind, (TO_MEAN,)))
    size = edit.save(tmp_path / "edit.safetensors")
    loaded = vismech.edit.load(str(tmp_path / "edit.safetensors"))
    assert torch.equal(loaded.apply(model)(batch), edit.apply(model)(batch))
    assert loaded.layers.keys() == edit.layers.keys() and loaded.weights == edit.weights and loaded.model == "tiny"
    assert size == (tmp_path / "edit.safetensors").stat().st_size
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "edit.safetensors").read_bytes()


@pytest.mark.slow  # a process that imports everything
def test_the_same_content_is_the_same_bytes_in_every_process(model, edit, tmp_path) -> None:
    """What is hashed with a seed of its own, such as a set, would show."""
    edit.save(tmp_path / "here.safetensors")
    code = "import vismech\nfor name in 'ab':\n    vismech.edit.load('here.safetensors').save(f'{name}.safetensors')"
    apart(code, tmp_path)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1 and len([*tmp_path.iterdir()]) == 3


def record_of(path: Path) -> tuple[dict, dict[str, Tensor]]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"][KEY]), from_bytes(content)


def test_a_file_holds_data_alone(edit, tmp_path) -> None:
    edit.save(tmp_path / "edit.safetensors")
    record, tensors = record_of(tmp_path / "edit.safetensors")
    assert sorted(tensors) == [
        *("0.atoms", "0.edits.0.concepts", "0.edits.1.concepts", "0.edits.1.means"),
        *("1.atoms", "1.edits.0.concepts", "1.encoder.0", "1.encoder.1"),
    ]
    assert tensors["0.edits.1.means"].tolist() == [0.25, -1.5]
    assert record["weights"] == edit.weights and record["vismech"] and record["format"] == 1
    assert record["layers"][1]["info"] == SAE and record["layers"][1]["layout"]["grid"] == [4, 4]


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value) and len(str(raised.value)) > 20
    return str(raised.value)


def test_damage_anywhere_is_told_or_changes_nothing(model, edit, batch, tmp_path) -> None:
    edit.save(tmp_path / "edit.safetensors")
    whole, logits = (tmp_path / "edit.safetensors").read_bytes(), edit.apply(model)(batch)
    draw, told, header = (
        random.Random(0),
        0,
        8 + int.from_bytes((tmp_path / "edit.safetensors").read_bytes()[:8], "little"),
    )
    pieces = [whole[:cut] for cut in (*range(12), header - 1, header, header + 1, len(whole) - 1)]
    pieces += [whole[: draw.randrange(len(whole))] for _ in range(20)]
    pieces += [whole + b"\0", b"\0" * len(whole), whole[::-1]]
    for end in (header, len(whole)):
        for _ in range(150):
            place, bit = draw.randrange(end), 1 << draw.randrange(8)
            pieces.append(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
    for piece in pieces:
        (tmp_path / "damaged.safetensors").write_bytes(piece)
        try:
            found = load(tmp_path / "damaged.safetensors")
        except UserError as error:
            assert "damaged.safetensors" in str(error) and "\n" not in str(error)
            told += 1
        else:
            assert torch.equal(found.apply(model)(batch), logits)
    assert told > len(pieces) - 5


def rewritten(path: Path, change: Callable[[dict, dict[str, Tensor]], None]) -> Path:
    """A file made by hand, its hash set right."""
    from vismech.edit.saved import _canonical, _digest

    record, tensors = record_of(path)
    del record["digest"]
    change(record, tensors)
    content = as_bytes(tensors, {KEY: _canonical({**record, "digest": _digest(record, tensors)})})
    path.with_name("made.safetensors").write_bytes(content)
    return path.with_name("made.safetensors")


def in_layer(*keys: str | int, value: object) -> Callable[[dict, dict], None]:
    def change(record: dict, _tensors: dict) -> None:
        part = record["layers"][1]
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        in_layer("coding", "code", value="custom"),
        in_layer("coding", "code", value="nonsense"),
        in_layer("coding", "own", value={"target": "os:system", "options": {}}),
        in_layer("coding", "penalty", value="0.1"),
        in_layer("info", "method", value="os:system"),
        in_layer("info", "activation", value="nonsense"),
        in_layer("info", "l0", value=True),
        in_layer("info", value={}),
        in_layer("mean_index", value=3),
        in_layer("encoder", value=["weight"]),
        in_layer("encoder", value=["weight", "bias", "threshold"]),
        in_layer("layout", "axes", value="nonsense"),
        in_layer("layout", "grid", value=[4]),
        in_layer("layout", "channels", value=7),
        in_layer("edits", value=[]),
        in_layer("edits", value=[{"value": "resample", "scale": 0.0}]),
        in_layer("edits", value=[{"value": "mean", "scale": 0.0}]),
        in_layer("edits", 0, value="zero"),
        lambda record, _: record.pop("weights"),
        lambda record, _: record.update(layers=[]),
        lambda record, _: record.update(layers="no layers"),
        lambda record, _: record.update(layers=[1]),
        lambda _, tensors: tensors.pop("1.atoms"),
        lambda _, tensors: tensors.update({"1.atoms": torch.ones(16)}),
        lambda _, tensors: tensors.update({"1.atoms": torch.full((12, 16), torch.nan)}),
        lambda _, tensors: tensors.update({"1.atoms": torch.ones(12, 16, dtype=torch.int32)}),
        lambda _, tensors: tensors.update({"1.encoder.0": torch.ones(3)}),
        lambda _, tensors: tensors.update({"1.edits.0.concepts": torch.tensor([12])}),
        lambda _, tensors: tensors.update({"1.edits.0.concepts": torch.tensor([0.5])}),
        lambda _, tensors: tensors.update({"1.edits.0.concepts": torch.tensor([3, 3])}),
    ],
)
def test_what_was_made_by_hand_is_refused_where_it_fits_nothing(edit, tmp_path, change) -> None:
    edit.save(tmp_path / "edit.safetensors")
    said = sentence(lambda: load(rewritten(tmp_path / "edit.safetensors", change)))
    assert "made.safetensors is damaged" in said and said.endswith("make it anew with vismech-edit")


def test_what_is_no_edit_is_told(edit, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"weight": torch.ones(3)}, "weights.safetensors")
    save_file({"weight": torch.ones(3)}, "other.safetensors", {KEY: "[1, 2]"})
    Path("text.safetensors").write_text("no tensors")
    Path("empty.safetensors").touch()
    edit.save("edit.safetensors")
    later = rewritten(Path("edit.safetensors").absolute(), lambda record, _: record.update(format=2))
    assert "nowhere.safetensors is not a file" in sentence(lambda: load("nowhere.safetensors"))
    assert "is not a file" in sentence(lambda: load(tmp_path))
    assert "weights.safetensors is a safetensors file, but no edit" in sentence(lambda: load("weights.safetensors"))
    assert "other.safetensors is a safetensors file, but no edit" in sentence(lambda: load("other.safetensors"))
    assert "text.safetensors cannot be read as an edit" in sentence(lambda: load("text.safetensors"))
    assert "empty.safetensors cannot be read as an edit" in sentence(lambda: load("empty.safetensors"))
    assert "has the format 2, but this version of vismech knows 1" in sentence(lambda: load(later))


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(edit, tmp_path, monkeypatch) -> None:
    (tmp_path / "there").write_text("mine")
    assert "there exists already: remove it" in sentence(lambda: edit.save(tmp_path / "there"))
    assert (tmp_path / "there").read_text() == "mine"
    assert "exists already" in sentence(lambda: edit.save(tmp_path))
    assert "no is no folder" in sentence(lambda: edit.save(tmp_path / "no/edit"))
    assert "cannot be written" in sentence(lambda: edit.save(tmp_path / ("x" * 300)))
    assert "cannot be written" in sentence(lambda: edit.save(tmp_path / "x\0y"))

    class Full(io.BytesIO):
        def write(self, _content) -> int:
            (tmp_path / "full").touch()
            raise OSError(28, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *how, **more: Full() if path.name == "full" else opened(path, *how, **more)
    )
    assert "full cannot be written (No space left on device)" in sentence(lambda: edit.save(tmp_path / "full"))
    assert not (tmp_path / "full").exists()


# What does not fit


def test_other_weights_are_refused_unless_one_says_so(model, edit, batch) -> None:
    other = tiny.seeded(tiny.TinyNetwork(3, 8), seed=1)
    said = sentence(lambda: edit.apply(other))
    assert edit.weights in said and fingerprint(other) in said and "check=False" in said
    assert not torch.equal(edit.apply(other, check=False)(batch), other(batch))
    assert tiny.hooks(other) == 0


def test_a_model_without_the_layer_is_refused(edit) -> None:
    assert "the model has no layer 'layer1'" in sentence(lambda: edit.apply(nn.Sequential(nn.Linear(3, 3))))
    assert "the model has no layer 'layer1'" in sentence(lambda: edit.apply(nn.Linear(3, 3), check=False))


def test_a_layer_of_several_values_is_refused(batch) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x, None

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(x)[0]

    layer = Layer(layout_of((3, 32, 32), "pair"), dictionary("omp", 3))
    edited = ModelEdit({"pair": LayerEdit(layer, (REMOVED,))}, "pair", fingerprint(Model())).apply(Model())
    assert "pair hands on tuple, not one tensor" in sentence(lambda: edited(batch))


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ((), "without concepts"),
        ((Edit(()),), "without concepts"),
        ((Edit((3, 12)),), "layer2/12: layer2 has 12 concepts, numbered from 0: give 0 to 11"),
        ((Edit((3,)), Edit((4, 3))), "layer2/3 has two edits"),
        ((Edit((3,), EditValue.resample),), "codes of other images"),
        ((Edit((3,), EditValue.scale, float("inf")),), "not finite"),
        ((Edit((3,), EditValue.mean, means=(float("nan"),)),), "not finite"),
    ],
)
def test_edits_that_mean_nothing_are_refused(model, edits, words) -> None:
    assert words in sentence(lambda: made(model, layer2=("omp", edits)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"coding": Coding(Code.custom, own={"target": "mine:encode", "options": {}})},
            "layer2 is coded by mine:encode",
        ),
        ({"coding": Coding(Code.encoder), "info": {"method": "custom"}}, "layer2 is coded by an encoder of its own"),
    ],
)
def test_code_of_ones_own_is_no_data(model, changes, words) -> None:
    (layer, edits) = made(model, layer2=("omp", (REMOVED,))).layers["layer2"]
    own = layer._replace(dictionary=replace(layer.dictionary, **changes))
    said = sentence(lambda: ModelEdit({"layer2": LayerEdit(own, edits)}, "tiny", "weights"))
    assert words in said and "dictionary.code" in said


# What is typed


def test_names_and_values_as_typed() -> None:
    names = ["blocks.4/70", "blocks.6/3", "blocks.4/007", "a/b/0"]
    assert concepts_of(names) == {"blocks.4": [70, 7], "blocks.6": [3], "a/b": [0]}
    assert [value_of(text) for text in ("zero", "mean", "scale=0.5", "scale=-1e3")] == [
        *((EditValue.zero, 0.0), (EditValue.mean, 0.0), (EditValue.scale, 0.5), (EditValue.scale, -1000.0)),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(([name], f"{name!r} names no concept: write layer/number") for name in ("layer2", "layer2/", "/3", "")),
        *(([f"layer2/{text}"], "names no concept") for text in ("-1", "eye", "1.5", "3,4", "٣", "²", "9" * 5000)),
        (["layer2/3", "layer2/03"], "layer2/3 is given twice"),
        *(
            (["layer2/3", f"--value={text}"], f"--value {text} is none of")
            for text in ("half", "resample", "zero=1", "")
        ),
        *((["layer2/3", f"--value=scale{text}"], "is none of") for text in ("", "=", "=x", "=nan", "=inf", "=1=2")),
        (["layer2/3"], "give --out FILE to write the edit, --try PHOTO to see it, or both"),
    ],
)
def test_what_is_typed_wrong_is_told_in_a_sentence(arguments, words, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["nowhere", *arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.startswith("vismech-edit: ") and said.count("\n") == 1 and words in said


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\nfrom vismech.commands.edit import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'torchvision', 'lightning', 'numpy', 'PIL', 'omegaconf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: vismech-edit" in done.stdout and done.stdout.endswith("set()\n")
