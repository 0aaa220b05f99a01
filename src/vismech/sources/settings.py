"""The configuration of what a run starts from: the network and the images; the text below a field documents it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import DataSource, Fingerprint, Half, Labels, ModelSource, Unreadable


@dataclass
class ModelConfig:
    """The network that is explained."""

    source: ModelSource = ModelSource.efficientnet_lite
    """Where the architecture comes from; timm's names may be hf-hub:OWNER/NAME or local-dir:FOLDER."""
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
    probe: str | None = None
    """A linear layer of your own on a network that ends in features (timm: built without its head): .safetensors with
    weight [classes, channels] and bias, or .csv with rows class,bias,weights; layers are then called encoder.NAME."""


@dataclass
class DataConfig:
    """The images."""

    source: DataSource = DataSource.samples
    """imagefolder (your own folders), imagenet (folders named by wnids), cifar10, samples (20 of foolbox), folder
    (images without classes), csv (a table of paths and labels), huggingface (a data set on the disk or the hub) or
    webdataset (tar files)."""
    root: str | None = None
    """The folder that holds one folder per class; csv: the table; huggingface: a folder or NAME or NAME@REVISION on the
    hub; webdataset: a tar file or a folder of them."""
    image_column: str | None = None
    """csv: the column of paths, relative to the table's folder (null: path); huggingface: that of images (null: image);
    webdataset: which of several images, such as input.jpg."""
    label_column: str | None = "label"
    """csv, huggingface: the column of labels; webdataset: the label's name in .json, where there is no .cls; null: no
    labels."""
    split: str = "train"
    """huggingface: the split."""
    subset: str | None = None
    """huggingface: the configuration of a data set that has several."""
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
    """Classes to keep, ImageNet's or CIFAR-10's indices, else the ranks of folders or labels; empty keeps all."""
    labels: Labels = Labels.names
    """imagefolder, csv, huggingface, webdataset: a folder or label is the class of the model's that has its name (or
    its wnid), or with rank the class of its rank, if there are as many as classes, or with indices that of this index.
    Of others the class, and so accuracy, is unknown."""
    class_map: dict[str, Any] = field(default_factory=dict)
    """The same sources: folder or label → class of the model, its index or name, or null for none; before labels."""
    groups: str | None = None
    """What is known of images beside their class: a CSV file whose first column is the sample id and whose others are
    attributes (left, top, right and bottom: a box around the object, as shares), or level:N, the N-th folder of the
    id; null: nothing."""
    fingerprint: Fingerprint = Fingerprint.listing
    """What identifies the data in keys; huggingface and webdataset are always told by content."""
    unreadable: Unreadable = Unreadable.fail
    """Whether an unreadable image ends the run or is skipped and counted; named either way."""
