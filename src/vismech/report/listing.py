"""Every concept of a layer, column by column, as the page's script takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Columns(NamedTuple):
    """A layer's concepts in the order of their numbers; None where there is nothing to say.

    Attributes:
        share: members among all vectors.
        tightness: mean cosine of the members.
        entropy: bits over the members' classes.
        commonest: the class that most members are of, and
        part: the share of the members that are of it.
        importance: group's key → mean edge to its class, in logits.
    """

    share: Sequence[float | None]
    tightness: Sequence[float | None]
    entropy: Sequence[float | None]
    commonest: Sequence[str | None]
    part: Sequence[float | None]
    importance: Mapping[str, Sequence[float | None]]


def listed(concepts: Mapping[str, Columns], groups: Mapping[str, str]) -> dict[str, Any]:
    """What the script shows: the classes' names once each, the columns with their headings, and the layers' values.

    Args:
        concepts: layer → its columns.
        groups: key → name.
    """
    classes = list(dict.fromkeys(name for one in concepts.values() for name in one.commonest if name is not None))
    place = {name: index for index, name in enumerate(classes)}
    layers = {
        layer: {
            **{f"of {key}": values for key, values in one.importance.items()},
            "share": one.share,
            "tightness": one.tightness,
            "entropy": one.entropy,
            "class": [None if name is None else place[name] for name in one.commonest],
            "part": one.part,
        }
        for layer, one in concepts.items()
    }
    keys = dict.fromkeys(key for one in concepts.values() for key in one.importance)
    headings = {f"of {key}": f"Importance for {groups[key]}" for key in keys}
    headings |= {"share": "Holds, %", "tightness": "Tightness", "entropy": "Entropy, bits"}
    return {
        "classes": classes,
        "headings": headings | {"class": "Commonest class", "part": "of its members"},
        "layers": layers,
    }
