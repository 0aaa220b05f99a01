"""Some concepts of a run, ready to be drawn: what is known of each, its crops, its light, and what is said of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from vismech.dictionaries.description import TreePlace
from vismech.report.cards import CROP_SIDE, TOP_SIDE, CardView, CropView, card_picture
from vismech.report.crops import draw_crop, draw_light
from vismech.report.patches import THUMBNAIL, Card, Patch, encode_png
from vismech.report.text import TRACED, number
from vismech.stages import trace as trace_stage
from vismech.stages.context import Plan
from vismech.stages.describe import Description, Descriptions, Place
from vismech.stages.fields import FieldsOf, FieldsSettings, Pictures, fields_of, patches_for
from vismech.stages.work import Work

LISTED = 5
NO_NAMES: Mapping[str, str] = {}
NOTHING = "No vector lies near this concept."


class Gallery:
    """Some concepts of a run, ready to be drawn.

    Attributes:
        shown: (layer, concept) → what is known of it.
        kind: how vectors are traced to pixels, the same for all.
    """

    def __init__(
        self,
        work: Work,
        plan: Plan,
        concepts: Iterable[tuple[str, int]],
        found: FieldsOf | FieldsSettings,
        given: Mapping[str, str] = NO_NAMES,
    ) -> None:
        """Of ``concepts``; ``found`` are their fields where the plan has them, or else how they are traced here, and
        ``given`` are names, by "<layer>/<concept>"."""
        self.given = given
        self.work, self.pictures = work, Pictures(work)
        wanted: dict[str, set[int]] = {}
        for layer, concept in concepts:
            wanted.setdefault(layer, set()).add(concept)
        self.shown: dict[tuple[str, int], Description] = {}
        for layer, numbers in wanted.items():
            described = Descriptions(work, layer, plan.descriptions[layer])
            self.shown |= {(layer, concept): described.concept(concept) for concept in sorted(numbers)}
        self.importance, self._groups = trace_stage.importances(work, plan), _groups(work, plan)
        if isinstance(found, FieldsSettings):
            kind = patches_for(work, found.patches, wanted)
            found = FieldsOf(fields_of(work, found, plan, self.shown.values(), kind, self.pictures), kind)
        self._fields, self.kind = found

    def card(self, layer: str, concept: int) -> Card:
        """A concept as the page shows it."""
        described = self.shown[layer, concept]
        patches = [
            Patch(encode_png(self._crop(place, THUMBNAIL)), self._where(place), cosine, place.sample)
            for place, cosine in zip(described.places, described.cosines, strict=True)
        ]
        top = None
        if patches:
            picture = encode_png(self._top(described, 2 * THUMBNAIL))
            caption = f"{patches[0].caption}: the whole image, lit where the concept is"
            top = Patch(picture, caption, patches[0].cosine, patches[0].image)
        return Card(
            patches, described.share, "" if patches else NOTHING, top, facts(described), self._classes(described)
        )

    def picture(self, layer: str, concept: int) -> Image.Image:
        """A concept as a picture of its own."""
        described, name = self.shown[layer, concept], self.given.get(f"{layer}/{concept}")
        crops = [
            CropView(self._crop(place, CROP_SIDE), f"{cosine:.2f}".replace("-", "−"), self._class_of(place.sample))
            for place, cosine in zip(described.places, described.cosines, strict=True)
        ]
        top = self._top(described, TOP_SIDE) if crops else None
        caption = "", ""
        if crops:
            lit = self._fields.lights[layer, concept].max() > 0
            where = "lit where the concept is" if lit else "the concept’s code is positive nowhere in it"
            caption = self._class_of(described.places[0].sample), f"The image of its nearest vector, {where}"
        known = {"Holds": f"{number(100 * described.share, 3)} % of the vectors ({described.members:,})"}
        if layer in self.importance:
            values = zip(self._groups, self.importance[layer][:, concept].tolist(), strict=True)
            first = sorted(values, key=lambda each: -abs(each[1]))[:2]
            known["Logits"] = ", ".join(f"{number(value, 2)} for {name}" for name, value in first)
        return card_picture(
            CardView(
                f"{name} (concept {concept})" if name else f"Concept {concept}",
                layer,
                f"Its nearest feature vectors with their cosines, {TRACED[self.kind].card}",
                top,
                caption,
                crops,
                {**known, **facts(described)},
                self._classes(described),
                NOTHING,
            )
        )

    def row(self, layer: str, concept: int) -> dict:
        """A concept as a row of ``tables/concepts.csv``."""
        described, tree = self.shown[layer, concept], self.shown[layer, concept].tree
        values = self.importance[layer][:, concept].tolist() if layer in self.importance else []
        classes = "; ".join(f"{name} {count}" for name, count in self._classes(described)[:LISTED])
        return {
            "layer": layer,
            "concept": concept,
            **({"name": self.given.get(f"{layer}/{concept}", "")} if self.given else {}),
            **{f"importance {name}": value for name, value in zip(self._groups, values, strict=False)},
            "share": described.share,
            "members": described.members,
            "tightness": described.tightness,
            "entropy_bits": described.entropy,
            "classes": classes,
            "tree_depth": tree and tree.depth,
            "tree_path": tree and tree.path,
            "tree_sibling": tree and _span(tree),
            "samples": json.dumps([place.sample for place in described.places]),
            "positions": json.dumps([place.position for place in described.places]),
            "cosines": json.dumps([round(cosine, 6) for cosine in described.cosines]),
            "traced": self.kind.value,
        }

    def _crop(self, place: Place, size: int) -> Image.Image:
        return draw_crop(self.pictures.open(place.sample), self._fields.crops[place], size)

    def _top(self, described: Description, side: int) -> Image.Image:
        light = self._fields.lights[described.layer, described.concept]
        return draw_light(self.pictures.open(described.places[0].sample), light, (side, side))

    def _where(self, place: Place) -> str:
        row, column = divmod(place.position, self.work.layout(place.layer).grid[1])
        path = Path(place.sample)
        name = path.stem if path.parent == Path() else f"{path.parent.name}/{path.stem}"
        return f"{self._class_of(place.sample)} ({name}), row {row}, column {column}"

    def _class_of(self, sample: str) -> str:
        label = self.pictures.label(sample)
        return self.work.label_name(label)

    def _classes(self, described: Description) -> list[tuple[str, int]]:
        return [(self.work.label_name(label), count) for label, count in described.classes]


def facts(described: Description) -> dict[str, str]:
    """Tightness, classes and place in the tree in words; what a concept without members lacks is left out."""
    found = {}
    if described.tightness is not None:
        found["Tightness"] = f"{number(described.tightness, 3)} mean cosine of its members"
    if described.entropy is not None:
        count = len(described.classes)
        found["Entropy"] = f"{number(described.entropy, 3)} bits over {count:,} class{'' if count == 1 else 'es'}"
    tree = described.tree
    if tree is not None and tree.sibling is not None:
        found["Tree"] = f"{tree.depth} split{'' if tree.depth == 1 else 's'} deep, beside {_span(tree)}"
    return found


def _span(tree: TreePlace) -> str:
    if tree.sibling is None:
        return ""
    first, last = tree.sibling
    return str(first) if first == last else f"{first}–{last}"


def _groups(work: Work, plan: Plan) -> list[str]:
    """Names of the explained groups, with the class index where two classes share a name."""
    who = trace_stage.who_is_explained(work, plan)
    groups = [] if who is None else who.groups
    names = ["all images" if group.index is None else work.class_name(group.index) for group in groups]
    shared = Counter(names)
    return [f"{name} ({group.key})" if shared[name] > 1 else name for name, group in zip(names, groups, strict=True)]
