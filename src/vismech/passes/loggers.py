"""A finished run in W&B, in CSV or in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vismech.config.choices import LoggerKind
from vismech.config.schema import Config
from vismech.errors import UserError


class Kept(NamedTuple):
    """An artifact of the store for W&B.

    Attributes:
        name: what it is called there; a version of it is told by its files.
        kind: dictionary or graph.
        files: name → path.
        facts: its manifest and provenance.
    """

    name: str
    kind: str
    files: Mapping[str, Path]
    facts: Mapping[str, Any]


def log_run(
    config: Config,
    values: Mapping[str, Any],
    metrics: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    written: Sequence[Path],
    folder: Path,
    kept: Sequence[Kept] = (),
) -> None:
    """Log configuration, metrics, tables, concept cards, figures and the page.

    Args:
        config: says which logger.
        values: the configuration as plain data.
        metrics: name → number.
        tables: name → frame; the rows of ``concepts`` name the card of each.
        written: figures and page.
        folder: the run's folder; its parent names the W&B group of a sweep.
        kept: artifacts of the store that W&B is to keep, too.

    Raises:
        UserError: wandb or tensorboard is chosen but not installed.
    """
    match config.logger.kind:
        case LoggerKind.wandb:
            _wandb(config, values, metrics, tables, written, folder, kept)
        case LoggerKind.csv:
            from lightning.pytorch.loggers import CSVLogger

            logger = CSVLogger(folder, name="csv", version="")
            logger.log_hyperparams(dict(values))
            logger.log_metrics({name: float(value) for name, value in metrics.items()})
            logger.save()
        case LoggerKind.tensorboard:
            _tensorboard(values, metrics, written, folder)


def _tensorboard(values: Mapping[str, Any], metrics: Mapping[str, Any], written: Sequence[Path], folder: Path) -> None:
    import numpy as np
    from lightning.pytorch.loggers import TensorBoardLogger
    from PIL import Image

    try:
        logger = TensorBoardLogger(str(folder), name="tensorboard", version="")
        writer = logger.experiment
    except ModuleNotFoundError as error:
        raise UserError(
            "logger=tensorboard needs the extra 'tensorboard': pip install 'vismech[tensorboard]', or choose logger=csv"
        ) from error
    logger.log_hyperparams(dict(values))
    logger.log_metrics({name: float(value) for name, value in metrics.items()}, step=0)
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                writer.add_image(f"figures/{path.stem}", np.asarray(image.convert("RGB")), dataformats="HWC")
    logger.finalize("success")


def _wandb(
    config: Config, values, metrics, tables, written: Sequence[Path], folder: Path, kept: Sequence[Kept]
) -> None:
    try:
        import wandb
    except ImportError as error:
        raise UserError("logger=wandb needs the package wandb: pip install wandb, or choose logger=csv") from error
    sweep = folder.parent if "sweeps" in folder.parts else None
    run = wandb.init(
        name=f"{config.name}/{folder.name}",
        project=config.logger.project,
        group=config.logger.group or (f"{sweep.parent.name}/{sweep.name}" if sweep else None),
        dir=str(folder),
        mode=config.logger.mode.value,
        config=dict(values),
        settings=wandb.Settings(silent=True),
    )
    try:
        run.log({name: float(value) for name, value in metrics.items()})
        for name, frame in tables.items():
            if len(frame):
                run.log({f"tables/{name}": wandb.Table(dataframe=frame.astype(object).where(frame.notna(), None))})
        for layer, rows in tables.get("concepts", pd.DataFrame(columns=["layer"])).groupby("layer", sort=False):
            shown = rows.astype(object).where(rows.notna(), None)
            pictures = [wandb.Image(str(folder / file)) for file in rows["file"]]
            columns = ["card", *shown.columns]
            data: list[Any] = [
                [picture, *values] for picture, values in zip(pictures, shown.to_numpy().tolist(), strict=True)
            ]
            run.log({f"cards/{layer}": wandb.Table(columns=columns, data=data)})
        for path in written:
            if path.suffix == ".png":
                run.log({f"figures/{path.stem}": wandb.Image(str(path))})
            elif path.suffix == ".html":
                run.log({"report": wandb.Html(str(path))})
        for each in kept:
            artifact = wandb.Artifact(each.name, each.kind, metadata=dict(each.facts))
            for name, path in each.files.items():
                # Artifacts of the store never change, so W&B needs no copies of its own.
                artifact.add_file(str(path), name=name, policy="immutable")
            run.log_artifact(artifact, aliases=[str(each.facts["key"])])
    finally:
        run.finish()
