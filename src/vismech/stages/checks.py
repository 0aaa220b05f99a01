"""What a configuration is refused for before anything is opened: values that no stage could use."""

from __future__ import annotations

from dataclasses import fields

from vismech.attribution.methods import OPTIONS, Manifold, load_decoder, options_of
from vismech.attribution.paths import load_path
from vismech.attribution.quadrature import quadrature
from vismech.config.choices import Baseline, LoggerKind, Mode, PathWeight, ReadOut, Rule
from vismech.config.schema import AttributeConfig, Config
from vismech.errors import UserError
from vismech.passes.devices import accelerator_of
from vismech.passes.settings import PathSettings
from vismech.passes.shards import shard_of
from vismech.sources.checks import check_config_sources
from vismech.sources.own import Own
from vismech.stages import dictionary
from vismech.stages.explained import check_scope
from vismech.store.settings import UNUSED


def check(config: Config) -> None:
    """Refuse values that no stage could use.

    Raises:
        UserError: the key, its value and the remedy.
    """
    accelerator_of(config.runtime)
    if shard_of(config.runtime) is not None and config.force:
        raise UserError(
            f"runtime.shard={config.runtime.shard} cannot go with force, as each of the jobs would compute all anew: "
            "give force without runtime.shard"
        )
    positive = {
        "extract.per_image": config.extract.per_image,
        "dictionary.vectors_per_concept": config.dictionary.vectors_per_concept,
        "describe.nearest": config.describe.nearest,
        "attribute.steps": config.attribute.steps,
        "attribute.baselines": config.attribute.baselines,
        "graph.important": config.graph.important,
        "runtime.batch_size": config.runtime.batch_size,
        "runtime.path_batch_size": config.runtime.path_batch_size,
        "evaluate.seeds": config.evaluate.seeds,
        "evaluate.training_images": config.evaluate.training_images,
    }
    optional = {
        "data.limit": config.data.limit,
        "dictionary.k_per_channel": config.dictionary.k_per_channel,
        "dictionary.k": k if isinstance(k := config.dictionary.k, int) else None,
        "graph.images_per_class": config.graph.images_per_class,
        "graph.limit": config.graph.limit,
        "evaluate.images": config.evaluate.images,
    }
    for key, value in {**positive, **optional}.items():
        if value is not None and value < 1:
            raise UserError(f"{key}={value} must be at least 1")
    for key, value in (
        ("describe.cards", config.describe.cards),
        ("graph.shared", config.graph.shared),
        ("attribute.check_images", config.attribute.check_images),
    ):
        if value is not None and value < 0:
            raise UserError(f"{key}={value} must not be negative")
    dictionary.check_count(config)
    if not 0 < config.describe.mass <= 1:
        raise UserError(f"describe.mass={config.describe.mass} must be above 0 and at most 1: it is a share")
    if config.describe.context is not None and config.describe.context < 0:
        raise UserError(f"describe.context={config.describe.context} must not be negative: it is a margin")
    if config.dictionary.penalty <= 0:
        raise UserError(
            f"dictionary.penalty={config.dictionary.penalty} must be positive: it is a fraction of the mean norm"
        )
    _check_attribute(config)
    if config.graph.prune is not None and not 0 < config.graph.prune <= 1:
        raise UserError(f"graph.prune={config.graph.prune} must be above 0 and at most 1: it is a share")
    if config.logger.artifacts and config.logger.kind is not LoggerKind.wandb:
        raise UserError(f"logger.artifacts=true is W&B's: give logger=wandb instead of logger={config.logger.kind}")
    check_scope(config.graph)
    check_config_sources(config)


def _check_attribute(config: Config) -> None:
    attribute = config.attribute
    if attribute.rule is not Rule.auto:
        quadrature(attribute.rule, attribute.steps)
    every = {each.name for each in fields(AttributeConfig)} & {each.name for each in fields(PathSettings)} - {"weight"}
    own = Own.of(attribute.weight, {}, "attribute.weight") if attribute.path is PathWeight.custom else UNUSED
    PathSettings(**{name: getattr(attribute, name) for name in every}, weight=own).integral(
        config.runtime.path_batch_size
    )
    load_path(attribute.curve)
    _check_method(attribute)
    if attribute.baseline is Baseline.image and attribute.baseline_image is None:
        raise UserError("attribute.baseline=image needs attribute.baseline_image=SAMPLE_ID, a path below data.root")
    if attribute.mode is Mode.forward and attribute.readout is ReadOut.code:
        raise UserError("attribute.readout=code has no forward derivative: give attribute.mode=reverse or auto")


def _check_method(attribute: AttributeConfig) -> None:
    method = f"attribute.path={attribute.path.value}"
    if attribute.path not in OPTIONS:
        if attribute.options:
            raise UserError(f"{method} has no options: leave attribute.options={attribute.options} out")
        return
    options = options_of(attribute.path, attribute.options)
    if isinstance(options, Manifold):
        load_decoder(options.decoder)
    if attribute.curve:
        raise UserError(f"{method} is a path of its own: leave attribute.curve empty")
