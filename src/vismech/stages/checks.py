"""What a configuration is refused for before anything is opened: values that no stage could use."""

from __future__ import annotations

from vismech.config.choices import LoggerKind
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.passes.devices import accelerator_of
from vismech.passes.shards import shard_of
from vismech.sources.checks import check_config_sources
from vismech.stages import dictionary
from vismech.stages.attribute import check_attribute
from vismech.stages.explained import check_scope


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
    check_attribute(config)
    if config.graph.prune is not None and not 0 < config.graph.prune <= 1:
        raise UserError(f"graph.prune={config.graph.prune} must be above 0 and at most 1: it is a share")
    if config.logger.artifacts and config.logger.kind is not LoggerKind.wandb:
        raise UserError(f"logger.artifacts=true is W&B's: give logger=wandb instead of logger={config.logger.kind}")
    check_scope(config.graph)
    check_config_sources(config)
