"""``vismech-concept``: one concept of a finished run as a card, and where it is in images.

Only the function that does the work loads torch, so that help and mistyped arguments answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vismech.commands.shell import command
from vismech.config.choices import Patches, Stage
from vismech.config.schema import Config
from vismech.config.trust import check_model
from vismech.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from vismech.sources.models import Preprocess
    from vismech.stages.context import Context, Plan
    from vismech.stages.gallery import Gallery

log = logging.getLogger(__name__)
NARROWEST = 20


@command("vismech-concept")
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures and print their paths; exit status 1 with a sentence on an error."""
    parser = argparse.ArgumentParser(prog="vismech-concept", description="One concept of a run, as pictures.")
    parser.add_argument("run", type=Path, help="the run's folder, outputs/runs/<name>/<time>")
    parser.add_argument("layer", help="a layer of the run")
    parser.add_argument("concept", help="the concept's number")
    parser.add_argument("--image", type=Path, nargs="+", default=[], help="images to find the concept in")
    parser.add_argument(
        "--patches",
        choices=[each.value for each in Patches],
        help="how vectors are traced to pixels; default: as in the run (describe.patches)",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="import code of this package, such as the run's own model; may be given again",
    )
    parser.add_argument("--out", type=Path, help="where to write; default: concepts/ in the run's folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        patches = Patches(options.patches) if options.patches else None
        for path in write_concept(
            options.run, options.layer, options.concept, options.image, options.out, patches, options.trust
        ):
            print(str(path).encode("utf-8", "backslashreplace").decode())  # a name need not be UTF-8
    except UserError as error:
        print(f"vismech-concept: {error}", file=sys.stderr)
        sys.exit(1)


def write_concept(
    run: Path,
    layer: str,
    concept: str,
    images: Sequence[Path] = (),
    out: Path | None = None,
    patches: Patches | None = None,
    trusted: Collection[str] = (),
) -> list[Path]:
    """The concept's card, and for each image the image, the localisation and plain upsampling side by side.

    Raises:
        UserError: no run there, code that is not in the ``trusted`` packages, an unknown layer or concept, an
            unreadable image, an artifact that is gone.
    """
    config = config_of(run, trusted)
    if patches is not None:
        config.describe.patches = patches
    from vismech.stages.pipeline import make_plan, open_context

    ctx = open_context(config)
    if layer not in ctx.layers:
        near = difflib.get_close_matches(layer, ctx.layers, n=3, cutoff=0.3) or ctx.layers
        raise UserError(f"the run has no layer {layer!r}; nearest: {', '.join(near)}")
    plan = make_plan(ctx)
    with ctx.store.uses.recorded():
        for spec in plan.specs():
            ctx.store.uses.note(spec.key)
        return _write(ctx, plan, layer, concept, images, out or run / "concepts")


def _write(ctx: Context, plan: Plan, layer: str, concept: str, images: Sequence[Path], folder: Path) -> list[Path]:
    from vismech.sources.data import load_image
    from vismech.stages.fields import fields_settings
    from vismech.stages.gallery import Gallery

    count = len(ctx.store.open(plan.descriptions[layer]).array("shares.npy"))
    number = int(concept) if concept.isdecimal() else -1
    if not 0 <= number < count:
        near = difflib.get_close_matches(concept, [str(each) for each in range(count)], n=3, cutoff=0.3)
        known = f"; nearest: {', '.join(near)}" if near else ""
        raise UserError(f"layer {layer!r} has no concept {concept!r}, they are 0 to {count - 1}{known}")
    loaded = [_fitting(path, load_image(path), ctx.model.preprocess) for path in images]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): give another folder with --out") from error
    gallery = Gallery(ctx, plan, [(layer, number)], fields_settings(ctx))
    written = [folder / f"{layer}_{number}.png"]
    gallery.picture(layer, number).save(written[0])
    for index, (path, panels) in enumerate(
        zip(images, _panels(ctx, plan, gallery, layer, number, loaded), strict=True)
    ):
        written.append(folder / f"{layer}_{number}_{index}_{path.stem}.png")
        panels.save(written[-1])
    return written


def _fitting(path: Path, image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The image, shrunk or enlarged where the network's preprocessing would cut a piece out of it or frame it."""
    short, long = sorted(image.size)
    if long > NARROWEST * short:
        raise UserError(
            f"{path} is {image.width}×{image.height} pixels, too narrow for a network: "
            f"give an image whose sides differ at most {NARROWEST} times"
        )
    if preprocess.resize is not None or short == preprocess.crop:
        return image
    scale = preprocess.crop / short
    log.warning("%s is %d×%d pixels and is brought to the network's %d", path, *image.size, preprocess.crop)
    return image.resize(
        (max(preprocess.crop, round(image.width * scale)), max(preprocess.crop, round(image.height * scale)))
    )


def _panels(
    ctx: Context, plan: Plan, gallery: Gallery, layer: str, concept: int, loaded: Sequence[Image.Image]
) -> list[Image.Image]:
    """For each image the image, and the image lit where the concept is: as its vectors are traced, and upsampled."""
    if not loaded:
        return []
    import torch

    from vismech.passes.memory import keep_freed_memory
    from vismech.passes.threads import one_thread
    from vismech.report.cards import localization_picture
    from vismech.report.crops import draw_light, map_light
    from vismech.report.text import TRACED
    from vismech.stages import dictionary as dictionary_stage
    from vismech.stages.fields import concept_maps

    keep_freed_memory()
    inputs = torch.stack([ctx.model.preprocess(image) for image in loaded])
    dictionary = dictionary_stage.read(ctx, plan.dictionaries[layer], dictionary_stage.coding_of(ctx.config))
    layout = ctx.layout(layer)
    with one_thread():
        with torch.no_grad():
            vectors = layout.vectors(ctx.network.activations(inputs, [layer])[layer])
            codes = dictionary.encode(vectors)[..., concept].reshape(len(loaded), *layout.grid)
        kinds = list(dict.fromkeys([gallery.kind, Patches.upsampling]))
        maps = {kind: concept_maps(ctx.network, inputs, layer, codes, kind) for kind in kinds}
    pictures = []
    for index, image in enumerate(loaded):
        seen = ctx.model.preprocess.geometry(image)
        panels = {"as the network sees it": seen}
        panels |= {TRACED[kind].short: draw_light(seen, map_light(maps[kind][index].numpy())) for kind in kinds}
        found = bool((codes[index] > 0).any())
        caption = "Lit where the concept is" if found else "The concept’s code is positive nowhere in this image"
        pictures.append(localization_picture(panels, f"{layer}  concept {concept}", caption))
    return pictures


def config_of(run: Path, trusted: Collection[str] = ()) -> Config:
    """The configuration of a run, from its folder; paths are those of the folder that it was started in.

    Of the code that it names only what :mod:`vismech.config.trust` allows is imported.

    Raises:
        UserError: no run there, files that are none of a run's, or code of packages that are not ``trusted``.
    """
    files = run / ".hydra/config.yaml", run / ".hydra/hydra.yaml"
    if not all(file.is_file() for file in files):
        raise UserError(f"{run} is not the folder of a run: name one such as outputs/runs/quickstart/<time>")
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from vismech.compare.sweep import read_yaml

    found, hydra = map(read_yaml, files)
    try:
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(found)))
        started = Path(hydra["hydra"]["runtime"]["cwd"])
    except (OmegaConfBaseException, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{run / '.hydra'} holds no configuration of this version of vismech ({reason})") from error
    check_model(config.model, run, trusted)
    config.attribute.curve = {}  # a path of somebody's own, which no card needs
    config.store.root = str(started / config.store.root)
    for part, name in ((config.data, "root"), (config.model, "checkpoint")):
        if (value := getattr(part, name)) is not None:
            setattr(part, name, str(started / Path(value).expanduser()))
    config.until, config.plan, config.force = Stage.describe, False, []
    return config
