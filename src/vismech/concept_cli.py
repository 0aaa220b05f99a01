"""``vismech-concept``: one concept of a finished run as a card, and where it is in images."""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vismech.config import Config, Patches, Stage
from vismech.data import load_image
from vismech.errors import UserError
from vismech.localization import localization_maps, upsampled_maps
from vismech.pipeline import make_plan, open_context
from vismech.receptive_field import sharing_ratios
from vismech.report.cards import card_picture, localization_picture
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.cards import Pictures, nearest_vectors, patches_of
from vismech.stages.context import Context, read_images
from vismech.threads import one_thread

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures and print their paths; exit status 1 with a sentence on an error."""
    parser = argparse.ArgumentParser(prog="vismech-concept", description="One concept of a run, as pictures.")
    parser.add_argument("run", type=Path, help="the run's folder, outputs/runs/<name>/<time>")
    parser.add_argument("layer", help="a layer of the run")
    parser.add_argument("concept", help="the concept's number")
    parser.add_argument("--image", type=Path, nargs="+", default=[], help="images to find the concept in")
    parser.add_argument("--out", type=Path, help="where to write; default: concepts/ in the run's folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        for path in write_concept(options.run, options.layer, options.concept, options.image, options.out):
            print(path)
    except UserError as error:
        print(f"vismech-concept: {error}", file=sys.stderr)
        sys.exit(1)


def write_concept(
    run: Path, layer: str, concept: str, images: Sequence[Path] = (), out: Path | None = None
) -> list[Path]:
    """The concept's card, and for each image the image, the localisation and plain upsampling side by side.

    Raises:
        UserError: no run there, an unknown layer or concept, an unreadable image, an artifact that is gone.
    """
    ctx = open_context(config_of(run))
    if layer not in ctx.layers:
        near = difflib.get_close_matches(layer, ctx.layers, n=3, cutoff=0.3) or ctx.layers
        raise UserError(f"the run has no layer {layer!r}; nearest: {', '.join(near)}")
    plan = make_plan(ctx)
    described = ctx.store.open(plan.descriptions[layer])
    count = len(described.array("shares.npy"))
    number = int(concept) if concept.isdecimal() else -1
    if not 0 <= number < count:
        near = difflib.get_close_matches(concept, [str(each) for each in range(count)], n=3, cutoff=0.3)
        known = f"; nearest: {', '.join(near)}" if near else ""
        raise UserError(f"layer {layer!r} has no concept {concept!r}, they are 0 to {count - 1}{known}")
    loaded = [load_image(path) for path in images]
    nearest = nearest_vectors(layer, number, described, read_images(ctx.store.open(plan.vectors[layer])).ids)
    if not nearest.places:
        raise UserError(f"no vector lies near concept {number} of {layer!r}: there is nothing to show")
    folder = out or run / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    patches = patches_of(ctx, nearest.places, Pictures(ctx))
    title = f"{layer} #{number}   {nearest.share:.2%} of the vectors"
    written = [folder / f"{layer}_{number}.png"]
    shown = [patches.png[place] for place in nearest.places]
    card_picture(shown, [f"{cosine:.2f}" for cosine in nearest.cosines], title).save(written[0])
    if not loaded:
        return written
    inputs = torch.stack([ctx.model.preprocess(image) for image in loaded])
    dictionary = dictionary_stage.read(ctx, ctx.store.open(plan.dictionaries[layer]))
    with torch.no_grad(), one_thread():
        vectors = ctx.layout(layer).vectors(ctx.network.activations(inputs, [layer])[layer])
        codes = dictionary.encode(vectors.flatten(0, 1))[:, number].view(len(loaded), *ctx.layout(layer).grid)
        maps = _maps(ctx, inputs, layer, codes)
    for index, (path, image) in enumerate(zip(images, loaded, strict=True)):
        kinds = {name: each[index].numpy() for name, each in maps.items()}
        place = folder / f"{layer}_{number}_{index}_{path.stem}.png"
        localization_picture(ctx.model.preprocess.geometry(image), kinds, title).save(place)
        written.append(place)
    return written


def _maps(ctx: Context, inputs: Tensor, layer: str, codes: Tensor) -> dict[str, Tensor]:
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    maps = {}
    if ctx.config.describe.patches is Patches.receptive_field:
        try:
            maps["receptive fields"] = localization_maps(
                sharing_ratios(ctx.network, inputs, layers=[layer]), layer, codes
            )
        except UserError as error:
            log.warning("the concept is shown by upsampling alone: %s", error)
    return {**maps, "upsampling": upsampled_maps(codes, size)}


def config_of(run: Path) -> Config:
    """The configuration of a run, from its folder; paths are those of the folder that it was started in.

    Raises:
        UserError: no run there.
    """
    from omegaconf import OmegaConf

    files = run / ".hydra/config.yaml", run / ".hydra/hydra.yaml"
    if not all(file.is_file() for file in files):
        raise UserError(f"{run} is not the folder of a run: name one such as outputs/runs/quickstart/<time>")
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(files[0])))
    started = Path(OmegaConf.to_container(OmegaConf.load(files[1]))["hydra"]["runtime"]["cwd"])  # type: ignore[index]
    config.store.root = str(started / config.store.root)
    if config.data.root is not None:
        config.data.root = str(started / Path(config.data.root).expanduser())
    config.until, config.plan, config.force = Stage.describe, False, []
    return config
