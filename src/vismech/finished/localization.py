"""Where a concept is in any image: the image as the network takes it, and its panels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from vismech.config.choices import Patches
from vismech.errors import UserError
from vismech.finished.opened import Opened
from vismech.passes.memory import keep_freed_memory
from vismech.passes.threads import one_thread
from vismech.report.cards import localization_picture
from vismech.report.crops import draw_light, map_light
from vismech.report.text import TRACED
from vismech.sources.pictures import Preprocess, as_rgb, load_image
from vismech.stages.fields import concept_maps, mean_token_of

log = logging.getLogger(__name__)
NARROWEST = 20


def read(image: str | Path | Image.Image, name: str, preprocess: Preprocess) -> Image.Image:
    """An image, given as file or picture, as :func:`fitted` takes it to the network; errors call a picture ``name``.

    Raises:
        UserError: it cannot be read, or is too narrow.
    """
    if isinstance(image, Image.Image):
        return fitted(name, as_rgb(image, name), preprocess)
    return fitted(str(image), load_image(Path(image)), preprocess)


def fitted(name: str, image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The image, shrunk or enlarged where the network's preprocessing would cut a piece out of it or frame it.

    Raises:
        UserError: its sides differ too much.
    """
    short, long = sorted(image.size)
    if long > NARROWEST * short:
        raise UserError(
            f"{name} is {image.width}×{image.height} pixels, too narrow for a network: "
            f"give an image whose sides differ at most {NARROWEST} times"
        )
    if preprocess.resize is not None or short == preprocess.crop:
        return image
    scale = preprocess.crop / short
    log.warning("%s is %d×%d pixels and is brought to the network's %d", name, *image.size, preprocess.crop)
    return image.resize(
        (max(preprocess.crop, round(image.width * scale)), max(preprocess.crop, round(image.height * scale)))
    )


def panels_of(
    opened: Opened, layer: str, concept: int, kind: Patches, loaded: Sequence[Image.Image]
) -> list[Image.Image]:
    """For each image the image, and the image lit where the concept is: as its vectors are traced, and upsampled."""
    ctx = opened.ctx
    keep_freed_memory()
    inputs = torch.stack([ctx.model.preprocess(image) for image in loaded])
    dictionary, layout = opened.read_dictionary(layer), ctx.layout(layer)
    place = dictionary.reads or layer
    with one_thread():
        with torch.no_grad():
            vectors = ctx.layout(place).vectors(ctx.network.activations(inputs, [place])[place])
            codes = dictionary.encode(vectors)[..., concept].reshape(len(loaded), *layout.grid)
        kinds = list(dict.fromkeys([kind, Patches.upsampling]))
        maps = {each: concept_maps(ctx.network, inputs, layer, codes, each, mean_token_of(ctx, each)) for each in kinds}
    pictures = []
    for index, image in enumerate(loaded):
        seen = ctx.model.preprocess.geometry(image)
        panels = {"as the network sees it": seen}
        panels |= {TRACED[each].short: draw_light(seen, map_light(maps[each][index].numpy())) for each in kinds}
        found = bool((codes[index] > 0).any())
        caption = "Lit where the concept is" if found else "The concept’s code is positive nowhere in this image"
        pictures.append(localization_picture(panels, f"{layer}  concept {concept}", caption))
    return pictures
