"""The configuration of what a run starts from: the network and the images; the text below a field documents it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import DataSource, Fingerprint, Half, Labels, ModelSource, Unreadable


@dataclass
class ModelConfig:
    """The network that is explained."""

    source: ModelSource = ModelSource.efficientnet_lite
    """Where the architecture comes from."""
    name: str = "efficientnet_lite0"
    """The architecture's name there."""
    weights: str | None = "default"
    """`default`, a torchvision weights enum's member, a timm tag, or null for initial values."""
    checkpoint: str | None = None
    """A .safetensors or torch file (read without executing code) that replaces `weights`."""
    target: str | None = None
    """With source=custom: package.module:factory, called with `kwargs`, returning a torch.nn.Module."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the architecture or factory."""
    resize: int | None = None
    """Short side in pixels before the crop; null: the model's own, with source=custom the crop."""
    crop: int | None = None
    """Side of the square input in pixels; null: the model's own, with source=custom 224."""
    interpolation: str | None = None
    """nearest, bilinear, bicubic or lanczos; null: the model's own."""
    mean: list[float] | None = None
    """Mean per channel after scaling to [0, 1]; null: the model's own."""
    std: list[float] | None = None
    """Standard deviation per channel; null: the model's own."""
    classes: list[str] | None = None
    """Class names in index order; null: ImageNet's or CIFAR-10's where they fit."""


@dataclass
class DataConfig:
    """The images."""

    source: DataSource = DataSource.samples
    """imagefolder (your own folders), imagenet (folders named by wnids), cifar10, or samples (20 of foolbox)."""
    root: str | None = None
    """The folder that holds one folder per class."""
    target: str | None = None
    """source=custom: package.module:open, a function of your own: open(root, **options) to an ImageData of
    vismech.sources.data, or a class derived from it."""
    options: dict[str, Any] = field(default_factory=dict)
    """source=custom: its keyword arguments."""
    limit: int | None = None
    """At most so many images, taken round robin over the classes."""
    half: Half = Half.all
    """Of these all, or one half, told by a hash as in evaluate.half: two runs on different images, or dictionaries made
    from one half and measured on the other (give evaluate.root, too)."""
    classes: list[int] = field(default_factory=list)
    """Classes to keep, ImageNet's or CIFAR-10's indices, of imagefolder the ranks of folders; empty keeps all."""
    labels: Labels = Labels.names
    """imagefolder: a folder is the class of the model's that has its name (or its wnid), or with rank the class of its
    rank, if there are as many folders as classes. Of other folders the class, and so accuracy, is unknown."""
    class_map: dict[str, Any] = field(default_factory=dict)
    """imagefolder: folder → class of the model, its index or name, or null for none; before labels."""
    groups: str | None = None
    """What is known of images beside their class: a CSV file whose first column is the sample id and whose others are
    attributes (left, top, right and bottom: a box around the object, as shares), or level:N, the N-th folder of the
    id; null: nothing."""
    fingerprint: Fingerprint = Fingerprint.listing
    """What identifies the data in keys."""
    unreadable: Unreadable = Unreadable.fail
    """Whether an unreadable image ends the run or is skipped and counted; named either way."""
