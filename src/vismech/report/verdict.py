"""How far a graph can be believed: what its drawn concepts carry, what rebuilding loses, what ends untraced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vismech.attribution.account import TRUSTED, Answered, misleads, shares
from vismech.report.text import number, percent

WARNING = "Do not read this graph as the reason for the class."
MORE = (
    "More photographs with more concepts (dictionary.k), another code (dictionary.code) or other layers may carry more"
)
DRAW = "Much is carried by concepts that are not drawn: graph.important draws more of them."
ALONG = "attribute=activation shows what the concepts miss as error nodes."
CONTRADICTED = 0.1
"""Contradicted links with more than this share of the weight are a warning."""


class Fact(NamedTuple):
    """One statement, and whether it warns: its good share is below :data:`TRUSTED`."""

    text: str
    warns: bool


def subject(graph: Mapping[str, Any], probability: bool = False) -> str:
    """What a graph of errors explains and what is read of it, in a sentence; of other graphs nothing."""
    if graph["scope"] != "error":
        return ""
    (group,) = graph["groups"]
    unit = "probability" if probability else "logit"
    return (
        f"Why “{group['labelled']}” was answered “{group['answered']}”: the number read is the {group['name']} {unit}, "
        f"how far the answer is ahead of the true class."
    )


class Verdict(NamedTuple):
    """What the page and the figure say before anything else.

    Attributes:
        facts: what the drawn concepts carry; what rebuilding a layer loses or error nodes hold; what ends untraced.
        misleads: whether the drawn concepts carry too little, the rebuilt network is too far from the real one, or the
            network is mostly wrong.
        remedy: what to change; nothing where nothing is wrong.
    """

    facts: list[Fact]
    misleads: bool
    remedy: str = ""


def verdict(graph: Mapping[str, Any], probability: bool = False, answered: Answered | None = None) -> Verdict:
    """The statements for a graph with names; none for a graph without layers.

    Args:
        graph: as :func:`~vismech.attribution.graph.named` gives it.
        probability: whether the class's value is its probability rather than its logit.
        answered: what the network answers of the run's images; told where it is right on fewer than half of them.
    """
    if not graph.get("account"):
        return Verdict([], False)
    carried, rebuilt = _carried(graph, probability), _rebuilt(graph)
    further = (rebuilt, _untraced(graph), _tested(graph), _answered(answered))
    facts = [carried, *(fact for fact in further if fact is not None)]
    wrong = carried.warns or (rebuilt is not None and rebuilt.warns)
    lost = wrong or _answered(answered) is not None
    return Verdict(facts, lost, _remedy(graph) if wrong else "")


def _remedy(graph: Mapping[str, Any]) -> str:
    """What to change where the drawn concepts are no explanation."""
    last = [parts for parts, _ in _accounts(graph, graph["layers"][-1])]
    told = [WARNING]
    if any(misleads(shares(parts).drawn) and parts["other"] * parts["value"] > 0 for parts in last) and all(
        not misleads(shares({**parts, "drawn": parts["drawn"] + parts["other"]}).drawn) for parts in last
    ):
        return " ".join([*told, DRAW])
    errors = any(node["kind"] == "error" for node in graph["nodes"])
    return " ".join([*told, f"{MORE}." if errors else f"{MORE}; {ALONG}"])


def _carried(graph: Mapping[str, Any], probability: bool) -> Fact:
    last = graph["layers"][-1]
    unit = "probability" if probability else "logits"
    told, warns = [], False
    for parts, name in _accounts(graph, last):
        share = shares(parts).drawn
        warns |= misleads(share)
        carried = f"{amount(parts['drawn'])} of {amount(parts['value'])} {unit}"
        told.append(f"{carried} ({_share(share)}){name}")
    return Fact(f"The drawn concepts of {last} carry {' and '.join(told)}.", warns)


def _rebuilt(graph: Mapping[str, Any]) -> Fact | None:
    """The layer whose dictionary keeps least of a class; where error nodes hold what is missed, what these hold."""
    if any(node["kind"] == "error" for node in graph["nodes"]):
        score = list(graph["scores"].values())[-1]["replacement_score"]
        if score is None:
            return None
        return Fact(
            f"{percent(1 - score)} of what is traced to the earliest layer or to an error node ends in error nodes: "
            "it is what the concepts miss.",
            score < TRUSTED,
        )
    worst = None
    for layer in graph["layers"]:
        for parts, name in _accounts(graph, layer):
            share = shares(parts).rebuilt
            if share is not None and (worst is None or abs(1 - share) > abs(1 - worst.share)):
                worst = _Rebuilt(share, layer, parts["value"], parts["value"] - parts["lost"], name)
    if worst is None:
        return None
    return Fact(
        f"With {worst.layer} replaced by what its concepts rebuild, the network keeps {amount(worst.kept)} of "
        f"{amount(worst.value)} ({_share(worst.share)}){worst.name}.",
        misleads(worst.share),
    )


class _Rebuilt(NamedTuple):
    """What a layer's concepts rebuild of a class's value."""

    share: float
    layer: str
    value: float
    kept: float
    name: str


def _untraced(graph: Mapping[str, Any]) -> Fact | None:
    share = list(graph["scores"].values())[-1]["untraced_share"]
    if len(graph["layers"]) < 2:
        return None
    text = f"{percent(share)} of the influence on the class ends untraced, at concepts that are not drawn."
    return Fact(text, share > 1 - TRUSTED)


def _tested(graph: Mapping[str, Any]) -> Fact | None:
    """How many of the links that were tested by an edit move their target the other way."""
    tested = [link for link in graph["links"] if link.get("effects")]
    if not tested:
        return None
    wrong = [link for link in tested if link["contradicted"]]
    share = _weight_share(wrong, tested)
    images = sum(group["images"] for group in graph["groups"])
    behind = "one photograph" if images == 1 else f"{images:,} photographs"
    said = "moves its target" if len(wrong) == 1 else "move their targets"
    text = (
        f"Tested by editing the lower concept in {behind}: {len(wrong)} of {len(tested)} links, with {percent(share)} "
        f"of the weight, {said} the other way."
    )
    return Fact(text, share > CONTRADICTED)


def _answered(answered: Answered | None) -> Fact | None:
    """A network that is mostly wrong: its concepts may be traced well, and still be those of a mistake."""
    if answered is None or answered.share is None or answered.share >= TRUSTED:
        return None
    known = "one photograph" if answered.known == 1 else f"{answered.known:,} photographs"
    return Fact(
        f"The network answers {percent(answered.share)} of {known} rightly: look first whether its weights, its "
        "preprocessing (model.mean, model.std, model.resize) and the classes of the data are those of its training.",
        True,
    )


def _weight_share(some: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]]) -> float:
    """Of the size of all weights into a layer that of ``some`` links; the mean over layers, each with its own unit."""
    whole: dict[str, float] = {}
    part: dict[str, float] = {}
    for links, into in ((every, whole), (some, part)):
        for link in links:
            into[link["upper"]] = into.get(link["upper"], 0.0) + abs(link["weight"])
    shares = [part.get(upper, 0.0) / size for upper, size in whole.items() if size > 0]
    return sum(shares) / len(shares) if shares else 0.0


def _accounts(graph: Mapping[str, Any], layer: str) -> Iterator[tuple[Mapping[str, float], str]]:
    """Each group's account, and of whom it is, where there are several or where it is a difference."""
    names = {group["key"]: group["name"] for group in graph["groups"]}
    told = len(names) > 1 or graph["scope"] == "error"
    for key, parts in graph["account"][layer].items():
        yield parts, f" for “{names[key]}”" if told else ""


def amount(value: float) -> str:
    """Logits to a tenth, and what is less to two digits."""
    return (
        f"{value:.1f}".replace("-", "−")
        if abs(value) >= 1 or value == 0
        else number(value, 1 if abs(value) >= 0.1 else 2)
    )


def _share(share: float | None) -> str:
    return "nothing to share" if share is None else f"{share:.0%}".replace("%", " %").replace("-", "−")
