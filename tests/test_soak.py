"""The soak in small: each kind of fault a few times; ``tests/soak.py`` itself does it for hours."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

import soak

SOME = {"kills": 8, "fuzz": 300}
MORE = {"damage": 8, "disks": 6, "sweeps": 1}


@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(fault, marks=pytest.mark.thorough) for fault in SOME),
        *(pytest.param(fault, marks=pytest.mark.slow) for fault in MORE),
    ],
)
def test_faults_lose_nothing(fault, tmp_path) -> None:
    if fault == "sweeps":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install vismech[joblib]")
    log, count = soak.Log(tmp_path / "log.jsonl"), {**SOME, **MORE}[fault]
    (tmp_path / "base").mkdir()
    soak.FAULTS[fault](tmp_path / "base", count, random.Random(1), log)
    written = [json.loads(line)["fault"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert Counter(written) == log.counts
    told = {"kills": "kill", "damage": "damage", "sweeps": "kill of a sweep"}.get(fault)
    if told:
        assert log.counts[told] >= count


def test_what_is_lost_wrong_or_said_badly_ends_a_soak(tmp_path) -> None:
    store = soak.Store(tmp_path / "store")
    spec = soak.Spec("extract", 1, "layer1", {})
    with store.lock(spec), store.writer(spec) as folder:
        (folder / "data.bin").write_bytes(b"content")
    truth = soak.digest(store.root)
    assert soak.sound(store.root, truth) == truth
    with pytest.raises(soak.Failed, match="wrong"):
        soak.sound(store.root, {})
    (store.folder(spec) / "data.bin").write_bytes(b"c0ntent")
    with pytest.raises(soak.Failed, match="damaged"):
        soak.sound(store.root, truth)
    for said in ("", "one\ntwo", "Traceback"):
        (tmp_path / "error.txt").write_text(said)
        with pytest.raises(soak.Failed, match="no sentence"):
            soak.sentence_of(tmp_path)
