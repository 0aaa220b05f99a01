"""How edges are attributed along a path, as a key has it: only what matters for the choices made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vismech.attribution import automatic
from vismech.attribution.autoencoder import Autoencoder
from vismech.attribution.integral import Settings as Integral
from vismech.attribution.methods import OPTIONS, Manifold, Options, load_decoder, options_of
from vismech.attribution.paths import load_path
from vismech.attribution.weights import SIDES
from vismech.config.choices import Baseline, PathWeight, Rule
from vismech.sources.own import Own, code_hash
from vismech.sources.weights import fingerprint
from vismech.stages.settings import PathOptions
from vismech.store.settings import UNUSED, used

PHI = 0.9
"""The share that α* is about, where no weight uses it."""


def decoder_code(options: Options) -> str:
    """Hash of manifold_ig's decoder: of our autoencoder its weights, of another its code and what it holds.

    Raises:
        UserError: a decoder that cannot be made.
    """
    if not isinstance(options, Manifold):
        return UNUSED
    decoder = load_decoder(options.decoder)
    return fingerprint(decoder) if isinstance(decoder, Autoencoder) else code_hash(decoder)


@dataclass(frozen=True)
class PathSettings(PathOptions):
    """The fields of the configuration's group ``attribute``, and the seed of drawn baselines.

    ``automatic`` is the version of what rule=auto does, ``method_version`` that of a path's method, ``curve_code`` and
    ``decoder_code`` are hashes of a curve of one's own and of a decoder, its weights with it. The mode is in no key,
    for the reason that batch sizes are not.
    """

    curve_code: str = UNUSED
    seed: int = UNUSED
    automatic: int = UNUSED
    method_version: int = UNUSED
    weight: Own = UNUSED
    decoder_code: str = UNUSED

    @classmethod
    def of(cls, config: Any, names: set[str], seed: int | None = None) -> PathSettings:
        """The fields ``names`` of the configuration's group, and with each what it brings along.

        Args:
            config: the group ``attribute``.
            names: fields that matter for what is attributed; ``phi``, ``curve`` and the like are found by themselves.
            seed: of drawn baselines, where baselines are drawn.
        """
        names = names | {"rule", "steps"}
        if "path" in names and config.path in SIDES:
            names.add("phi")
        own, options, code, decoder, version = UNUSED, UNUSED, UNUSED, UNUSED, UNUSED
        if "path" in names and config.path in OPTIONS:
            told = options_of(config.path, config.options)
            options = asdict(told)
            decoder = decoder_code(told)
            version = told.version if told.version > 1 else UNUSED
        if "path" in names and config.path is PathWeight.custom:
            own = Own.of(config.weight, {}, "attribute.weight")
        if "baseline" in names:
            own_names = {Baseline.image: "baseline_image", Baseline.images: "baselines", Baseline.blur: "blur"}
            names |= {own_names[config.baseline]} if config.baseline in own_names else set()
            if config.curve:
                names.add("curve")
                code = code_hash(load_path(config.curve))
        chosen = {name: getattr(config, name) for name in names}
        if "tolerance" in names and config.tolerance is None:
            del chosen["tolerance"]
        elif "tolerance" in names:
            chosen["max_steps"] = config.max_steps
        if seed is not None and config.baseline is Baseline.images:
            chosen["seed"] = seed
        if config.rule is Rule.auto and options is UNUSED:
            chosen["automatic"] = automatic.VERSION
        chosen |= {"curve_code": code, "decoder_code": decoder, "method_version": version}
        return cls.only(**chosen, weight=own, options=options, mode=config.mode)

    @property
    def under(self) -> PathWeight:
        """The weight under the integral."""
        return used(self.path, PathWeight.ig)

    def integral(self, rows: int) -> Integral:
        """How the integral is taken, with at most ``rows`` points of the path at a time.

        Raises:
            UserError: settings that exclude one another.
        """
        return Integral(
            rule=self.rule,
            steps=self.steps,
            weights=(self.under,),
            phi=used(self.phi, PHI),
            mode=self.mode,
            rows=rows,
            tolerance=used(self.tolerance, None),
            max_steps=used(self.max_steps, self.steps),
            own=self.weight.load() if self.weight else None,
            options=options_of(self.under, used(self.options, {})) if self.under in OPTIONS else None,
        )
