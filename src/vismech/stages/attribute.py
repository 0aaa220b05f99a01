"""What the configuration's group ``attribute`` may not be, found before anything is computed."""

from __future__ import annotations

from dataclasses import fields

from vismech.attribution.autoencoder import Autoencoder
from vismech.attribution.methods import OPTIONS, Manifold, load_decoder, options_of
from vismech.attribution.paths import load_path
from vismech.attribution.quadrature import quadrature
from vismech.config.choices import Baseline, Mode, PathWeight, ReadOut, Rule
from vismech.config.schema import AttributeConfig, Config
from vismech.errors import UserError
from vismech.passes.settings import PathSettings
from vismech.sources.own import Own
from vismech.store.settings import UNUSED


def check_attribute(config: Config) -> None:
    """Refuse values of the group ``attribute`` that no trace could use.

    Raises:
        UserError: the key, its value and the remedy.
    """
    attribute = config.attribute
    if attribute.rule is not Rule.auto:
        quadrature(attribute.rule, attribute.steps)
    every = {each.name for each in fields(AttributeConfig)} & {each.name for each in fields(PathSettings)} - {"weight"}
    own = Own.of(attribute.weight, {}, "attribute.weight") if attribute.path is PathWeight.custom else UNUSED
    PathSettings.only(**{name: getattr(attribute, name) for name in every}, weight=own).integral(
        config.runtime.path_batch_size
    )
    load_path(attribute.curve)
    _check_method(attribute)
    if attribute.baseline is Baseline.image and attribute.baseline_image is None:
        raise UserError("attribute.baseline=image needs attribute.baseline_image=SAMPLE_ID, a path below data.root")
    if not 0 < attribute.blur <= 1:
        raise UserError(
            f"attribute.blur={attribute.blur} must be above 0 and at most 1: it is a share of the image's side"
        )
    if attribute.mode is Mode.forward and attribute.readout is ReadOut.code:
        raise UserError("attribute.readout=code has no forward derivative: give attribute.mode=reverse or auto")


def _check_method(attribute: AttributeConfig) -> None:
    method = f"attribute.path={attribute.path.value}"
    if attribute.path not in OPTIONS:
        if attribute.options:
            raise UserError(f"{method} has no options: leave attribute.options={attribute.options} out")
        return
    options = options_of(attribute.path, attribute.options)
    if isinstance(options, Manifold) and isinstance(load_decoder(options.decoder), Autoencoder):
        raise UserError(
            f"{method}: attribute.options.decoder={options.decoder} is an autoencoder of images, but a graph's paths "
            "lead through codes: give decoder._target_=package.module.Class, or measure it on pixels (evaluate.methods)"
        )
    if attribute.curve:
        raise UserError(f"{method} is a path of its own: leave attribute.curve empty")
