"""Faults without end: kills, damage, full disks, locked folders and fuzzed files, on a run of a few seconds.

``python tests/soak.py kills|sweeps|damage|disks|fuzz --count N --seed S --log FILE`` ends with 0 when nothing was lost,
wrong or hung, and every refusal was one sentence; the log has a line of JSON for each fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))

from integration.conftest import (
    FileLimit,
    _child,
    _preloaded,
    digest,
    draw_pictures,
    run_apart,
    tiny_arguments,
    tiny_config,
)
from vismech.config.choices import Evaluation
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.store.artifact import Artifact
from vismech.store.artifacts import Spec, Store
from vismech.store.manifest import MANIFEST
from vismech.store.rows import PROGRESS, Column, Rows

KINDS = ("reconstruction", "insertion", "transfer", "interlayer", "saturation", "circuit")
LIMIT = 600.0  # seconds after which a run hangs


class Failed(Exception):
    """Something was lost, wrong, hung or said badly."""


def require(truth: bool, *what: object) -> None:
    if not truth:
        raise Failed(*what)


class Log:
    """A line of JSON for each fault, and how many of each kind there were."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.counts = path, Counter[str]()

    def __call__(self, kind: str, **facts: Any) -> None:
        self.counts[kind] += 1
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"fault": kind, **facts}) + "\n")


def everything(pictures: Path, store: Path) -> Config:
    """The tiny run with a graph that is measured, and most measures."""
    config = tiny_config(pictures, store)
    config.graph.measured = True
    config.extract.layers, config.evaluate.sensitivity_images = ["layer2", "layer3"], 2
    config.evaluate.kinds = [Evaluation[kind] for kind in KINDS]
    return config


def at(config: Config, store: Path) -> Config:
    """``config`` with another store."""
    import dataclasses

    return dataclasses.replace(config, store=dataclasses.replace(config.store, root=str(store)))


def sentence_of(folder: Path) -> str:
    """The one sentence that a refused run leaves."""
    said = (folder / "error.txt").read_text() if (folder / "error.txt").exists() else ""
    require(bool(said) and "\n" not in said and "Traceback" not in said, "no sentence", folder, said)
    return said


def sound(store: Path, truth: dict[str, str]) -> dict[str, str]:
    """What a store holds: all of it whole, and nothing that is not in ``truth``."""
    for folder in Store(store).artifacts():
        require(not Artifact(folder).problems(), "damaged", folder)
    found = digest(store)
    require(found.items() <= truth.items(), "wrong", found.items() - truth.items())
    return found


class Reference:
    """A run that nothing happens to: its store, what is in it, and how long each artifact took."""

    def __init__(self, base: Path) -> None:
        self.base = base
        os.chmod(base, 0o755)
        self.pictures = draw_pictures(base / "pictures")
        self.config = everything(self.pictures, base / "whole")
        require(run_apart(self.config, base / "run", limit=int(LIMIT)) == 0, "the reference failed", base)
        self.truth = digest(base / "whole")
        events = [json.loads(line) for line in (base / "run/events.jsonl").read_text().splitlines()]
        self.seconds = {event["key"]: event["seconds"] for event in events if event["event"] == "computed"}
        self.stage = {event["key"]: event["stage"] for event in events if event["event"] == "computed"}


# Kills


def started(events: Path, key: str) -> bool:
    """Whether a run has begun to compute an artifact."""
    with suppress(OSError):
        return any('"start"' in line and key in line for line in events.read_text().splitlines())
    return False


KILLS_OF_A_STORE = 12


def kills(base: Path, count: int, rng: random.Random, log: Log) -> None:
    """SIGKILL at a random moment of the stage that was killed least; a store is filled after twelve of them."""
    reference, number, tries = Reference(base), 0, 0
    killed = Counter[str]()
    while killed.total() < count:
        number += 1
        store = base / f"store{number}"
        found: dict[str, str] = {}
        most = min(count, killed.total() + KILLS_OF_A_STORE)
        while found != reference.truth:
            tries += 1
            folder = base / f"try{tries}"
            folder.mkdir()
            left = [key for key in reference.seconds if f"{reference.stage[key]}/{key}" not in found]
            stages = sorted({reference.stage[key] for key in left}, key=lambda stage: (killed[stage], rng.random()))
            key = rng.choice([key for key in left if reference.stage[key] == stages[0]])
            key = key if killed.total() < most else ""
            process = _preloaded().Process(target=_child, args=(at(reference.config, store), folder, None))
            process.start()
            since = time.monotonic()
            while key and process.exitcode is None and not started(folder / "events.jsonl", key):
                process.join(0.002)
                require(time.monotonic() - since < LIMIT, "hangs", folder)
            process.join(rng.uniform(0, reference.seconds[key] + 0.02) if key else LIMIT)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
            require(process.exitcode in (0, -signal.SIGKILL), "exit code", process.exitcode, folder)
            found = sound(store, reference.truth)
            if process.exitcode == -signal.SIGKILL:
                killed[reference.stage[key]] += 1
                log("kill", stage=reference.stage[key], artifacts=len(found), of=len(reference.truth))
            else:
                require(found == reference.truth, "lost", reference.truth.keys() - found.keys())
                log("completed", tries=tries)
            shutil.rmtree(folder)
        shutil.rmtree(store)


# Sweeps

SWEEP = ("dictionary.k=6,8,10,12", "graph.important=2,3", "attribute.steps=4,6,8")


def swept(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that a sweep collected, without what was measured of time and memory."""
    found = {path.name: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    found.pop("timings.csv", None)
    return found


def sweep(arguments: list[str], folder: Path, cwd: Path, killed_after: float | None = None) -> int | None:
    """A sweep of 24 jobs under two workers, a process group of its own; None where it was killed."""
    command = [sys.executable, "-m", "vismech", "-m", *arguments, *SWEEP, f"hydra.sweep.dir={folder}"]
    command += ["until=graph", "launcher=joblib", "hydra.launcher.n_jobs=2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, cwd=cwd, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            _, said = process.communicate(timeout=killed_after if killed_after is not None else LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            require(killed_after is not None, "the sweep hangs", folder)
            return None
        require(b"Traceback" not in said, said.decode(errors="replace"))
        return process.returncode


def computed(folder: Path) -> Counter[str]:
    """How often each artifact was computed by the jobs of a sweep."""
    lines = [line for path in folder.glob("*/events.jsonl") for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return Counter(f"{event['stage']}/{event['key']}" for event in events if event["event"] == "computed")


def sweeps(base: Path, count: int, rng: random.Random, log: Log) -> None:
    """24 jobs that share parents, killed three times and continued, to the tables of one that nothing happened to."""
    os.chmod(base, 0o755)
    pictures = draw_pictures(base / "pictures")
    begun = time.monotonic()
    require(sweep(tiny_arguments(pictures, base / "whole"), base / "sweep0", base) == 0, "the reference failed")
    seconds, truth, expected = time.monotonic() - begun, digest(base / "whole"), swept(base / "sweep0")
    times = computed(base / "sweep0")
    require(set(times) == set(truth) and set(times.values()) == {1}, "computed more than once", times.most_common(3))
    log("undisturbed", jobs=24, artifacts=len(truth), seconds=round(seconds))
    for number in range(1, count + 1):
        store, folder = base / f"store{number}", base / f"sweep{number}"
        arguments = tiny_arguments(pictures, store)
        for _ in range(3):
            if sweep(arguments, folder, base, rng.uniform(0.2, 0.6) * seconds) is None:
                found = sound(store, truth) if store.is_dir() else {}
                status = _compares(folder, base)
                log("kill of a sweep", artifacts=len(found), of=len(truth), compared=status)
        require(sweep(arguments, folder, base) == 0, "not continued", folder)
        require(sound(store, truth) == truth, "lost", folder)
        tables = swept(folder)
        require(tables.keys() == expected.keys(), tables.keys() ^ expected.keys())
        for name, frame in tables.items():
            require(frame.equals(expected[name]), "another table", folder / name)
        log("continued", jobs=24, computed_twice=sum(times > 1 for times in computed(folder).values()))


def _compares(folder: Path, cwd: Path) -> int:
    """``vismech-compare`` of a sweep that is under way: an answer or one sentence."""
    code = "from vismech.commands.compare import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    require("Traceback" not in done.stderr and done.returncode in (0, 1), done.stderr)
    require(done.returncode == 0 or len(done.stderr.splitlines()) == 1, done.stderr)
    return done.returncode


# Damage


def flip(rng: random.Random, path: Path) -> None:
    raw = bytearray(path.read_bytes())
    if not raw:
        return path.write_bytes(b"x") and None
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def cut(rng: random.Random, path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: rng.randrange(len(raw))] if raw else b"x")


def zeros(rng: random.Random, path: Path) -> None:
    raw = path.read_bytes()
    first = rng.randrange(max(len(raw), 1))
    path.write_bytes(raw[:first] + bytes(max(len(raw) - first, 1)) if any(raw[first:]) else b"x" + raw)


def garbage(rng: random.Random, path: Path) -> None:
    path.write_bytes(rng.randbytes(rng.randrange(1, 2000)))


def gone(rng: random.Random, path: Path) -> None:
    path.unlink()


def linked(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def foldered(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def more(rng: random.Random, path: Path) -> None:
    path.with_name("more.bin").write_bytes(b"more")


DAMAGES: tuple[Callable[[random.Random, Path], None], ...] = (flip, cut, zeros, garbage, gone, linked, foldered, more)


def damage(base: Path, count: int, rng: random.Random, log: Log) -> None:
    """One file damaged: the next run refuses in a sentence or makes it anew, and after a repair all is as it was."""
    from vismech.commands.store import main as store_command

    reference = Reference(base)
    for number in range(count):
        store = base / f"store{number}"
        shutil.copytree(base / "whole", store, symlinks=True)
        partial = number % 4 == 3 and _half(reference, store, rng, base / f"half{number}")
        place = rng.choice([*store.glob("*/*.partial")]) if partial else rng.choice([*Store(store).artifacts()])
        victims = [path for path in place.rglob("*") if path.is_file()]
        # What an earlier try left is kept, so that one file more there is a part of the artifact.
        how, victim = rng.choice([each for each in DAMAGES if not (partial and each is more)]), rng.choice(victims)
        how(rng, victim)
        config, folder = at(reference.config, store), base / f"try{number}"
        status = run_apart(config, folder, limit=int(LIMIT))
        require(status in (0, 1), "exit code", status, how, victim)
        said = sentence_of(folder) if status else ""
        damaged = not partial and place.rename(base / "aside")
        require(digest(store).items() <= reference.truth.items(), "wrong", how, victim)
        if damaged:
            damaged.rename(place)
        sys.argv = ["vismech-store", "--root", str(store), "verify", "--repair"]
        with _silence(), suppress(SystemExit):
            store_command()
        require(run_apart(config, base / f"again{number}", limit=int(LIMIT)) == 0, "not repaired", how, victim)
        require(sound(store, reference.truth) == reference.truth, "lost", how, victim)
        name = victim.relative_to(store).as_posix()
        log("damage", how=how.__name__, file=f"{name.split('/')[0]}/{victim.name}", unfinished=bool(partial), said=said)
        for path in (store, folder, base / f"again{number}"):
            shutil.rmtree(path, ignore_errors=True)


def _half(reference: Reference, store: Path, rng: random.Random, folder: Path) -> bool:
    """Leave a pass of ``store`` unfinished; whether there is one."""
    passes = [key for key, stage in reference.stage.items() if stage in ("extract", "trace", "effects", "evaluate")]
    for path in [path for key in passes for path in store.glob(f"*/{key}")]:
        shutil.rmtree(path)
    folder.mkdir()
    process = _preloaded().Process(target=_child, args=(at(reference.config, store), folder, None))
    process.start()
    for _ in range(int(LIMIT / 0.002)):
        process.join(0.002)
        if process.exitcode is not None or any(store.glob(f"*/*.partial/{PROGRESS}*")):
            break
    process.join(rng.uniform(0, 0.2))
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    shutil.rmtree(folder)
    return any(path.is_file() for path in store.glob("*/*.partial/*"))


@contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere:
        out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, nowhere, nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, err


# Disks


def disks(base: Path, count: int, rng: random.Random, log: Log) -> None:
    """Disks that fill at a random byte, and stores that may only be read: one sentence, and nothing lost."""
    reference = Reference(base)
    size = sum(path.stat().st_size for path in (base / "whole").rglob("*") if path.is_file())
    largest = max(path.stat().st_size for path in (base / "whole").rglob("*") if path.is_file())
    for number in range(count):
        place, folder = base / f"disk{number}", base / f"try{number}"
        place.mkdir()
        kind = ("full", "largest file", "read-only")[number % 3]
        bytes_left = rng.randrange(4096, 2 * size if kind == "full" else largest)
        with _disk(place, {"full": bytes_left, "read-only": 100 << 20}.get(kind)) as really:
            store = place / "store"
            config = at(reference.config, store)
            if kind == "read-only":
                shutil.copytree(base / "whole", store)
                for path in rng.sample([*Store(store).artifacts()], 3):
                    shutil.rmtree(path)
                if really:
                    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
                else:  # of no use against root
                    require(os.geteuid() != 0, "root needs to be allowed to mount")
                    _allow(store, writing=False)
                prepare: Callable[[], None] | None = None
            else:
                prepare = FileLimit(bytes_left) if kind == "largest file" or not really else None
            status = run_apart(config, folder, prepare, limit=int(LIMIT))
            require(status in (0, 1), "exit code", status, kind, bytes_left)
            said = sentence_of(folder) if status else ""
            require(status == 0 or "full: free some space" in said or "cannot be written" in said, said)
            sound(store, reference.truth)
            log(kind, bytes=bytes_left, on="a disk" if really else "a limit", said=said.split(":")[0], ended=status)
            if kind == "read-only" and not really:
                _allow(store, writing=True)
            shutil.copytree(store, base / f"moved{number}")
        moved = base / f"moved{number}"
        require(run_apart(at(config, moved), base / f"again{number}", limit=int(LIMIT)) == 0, "not continued", kind)
        require(sound(moved, reference.truth) == reference.truth, "lost", kind)
        for path in (moved, place, folder, base / f"again{number}"):
            shutil.rmtree(path, ignore_errors=True)


def _allow(store: Path, writing: bool) -> None:
    for folder in [store, *(path for path in store.rglob("*") if path.is_dir())]:
        folder.chmod(0o755 if writing else 0o555)


@contextmanager
def _disk(place: Path, size: int | None) -> Iterator[bool]:
    """A disk of ``size`` bytes at ``place``, where this user may mount one; whether it is one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(place)]
    really = size is not None and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield really
    finally:
        if really:
            subprocess.run(["umount", str(place)], check=True)


# Fuzz


def mutate(rng: random.Random, raw: bytes) -> bytes:
    """``raw`` with one to three of its bytes or stretches changed, cut out, doubled or put elsewhere."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        first = rng.randrange(len(out) + 1)
        last = min(first + rng.choice((1, 1, 1, 3, 20)), len(out))
        kind = rng.randrange(6)
        if kind == 0:
            out[first:last] = rng.randbytes(last - first)
        elif kind == 1:
            del out[first:last]
        elif kind == 2:
            out[first:first] = out[first:last]
        elif kind == 3:
            out = out[:first]
        elif kind == 4:
            out[first:last] = rng.choice(
                (b"null", b"-1", b"[]", b"{}", b'"x"', b"1e999", b"NaN", b"\xff\xfe", b"9" * 30)
            )
        else:
            piece = bytes(out[first:last])
            del out[first:last]
            where = rng.randrange(len(out) + 1)
            out[where:where] = piece
    return bytes(out)


COLUMNS = {"x": Column((3, 2)), "n": Column((), "int64")}
ENTRIES = {
    "x": (np.arange(10)[:, None, None] + np.arange(6).reshape(3, 2) / 7).astype(np.float32),
    "n": np.arange(10) * 1000,
}


def _rows(folder: Path, indices: list[int]) -> Rows:
    rows = Rows(folder, COLUMNS, 10)
    if indices:
        rows.write(indices, [True] * len(indices), {name: array[indices] for name, array in ENTRIES.items()})
    return rows


def fuzz(base: Path, count: int, rng: random.Random, log: Log) -> None:
    """Manifests (40 %), arrays' headers and journals (25 % each), overrides (10 %)."""
    shares = {fuzz_manifests: 0.4, fuzz_headers: 0.25, fuzz_journals: 0.25, fuzz_overrides: 0.1}
    for each, share in shares.items():
        begun, known = time.monotonic(), each(base / each.__name__, round(count * share), rng)
        name = each.__name__.removeprefix("fuzz_")
        log(name, count=round(count * share), taken_as_they_are=known, seconds=round(time.monotonic() - begun))


def fuzz_manifests(base: Path, count: int, rng: random.Random) -> int:
    """A manifest is believed only where it is the one that was written."""
    from vismech.commands.store import main as store_command

    store, spec, known = Store(base), Spec("extract", 1, "layer1", {"x": [1, 0.5, None]}), 0
    with store.lock(spec), store.writer(spec) as folder:
        (folder / "data.bin").write_bytes(b"content")
    place = store.folder(spec) / MANIFEST
    whole = place.read_bytes()
    for number in range(count):
        raw = mutate(rng, whole)
        place.write_bytes(raw)
        try:
            same = json.loads(raw) == json.loads(whole)
        except (ValueError, RecursionError):
            same = False
        with _silence():
            found = store.find(spec)
        require((found is not None and not found.problems()) == same, "believed", raw)
        known += same
        if number % 20 == 0:
            for words in (["verify"], ["ls"], ["gc", "--corrupted"]):
                sys.argv = ["vismech-store", "--root", str(base), *words]
                with _silence():
                    try:
                        store_command()
                    except SystemExit as left:
                        require(left.code in (0, 1, None), words, raw)
    return known


def _continued(folder: Path, rows: Rows) -> int:
    """What an earlier try is believed of; the rest is made anew, and all of it is right."""
    known = rows.done()
    require(set(known) <= set(range(10)), known)
    left = [index for index in range(10) if not known.get(index)]
    if left:
        rows.write(left, [True] * len(left), {name: array[left] for name, array in ENTRIES.items()})
    require(rows.finish() == [*range(10)], "lost")
    for name, array in ENTRIES.items():
        require(np.array_equal(np.load(folder / f"{name}.npy"), array), "wrong", name)
    return len(known)


def fuzz_headers(base: Path, count: int, rng: random.Random) -> int:
    """An array whose header is not the one it was made with is made anew; in entries there is nothing to see."""
    known = 0
    for number in range(count):
        folder = base / str(number)
        folder.mkdir(parents=True)
        _rows(folder, [0, 1, 4]).close()
        path = folder / f"{rng.choice(['x', 'n'])}.npy"
        raw = path.read_bytes()
        path.write_bytes(mutate(rng, raw[:128]) + raw[128:])
        same = path.read_bytes() == raw
        with _silence():
            rows = _rows(folder, [])
        require(same or not rows.done(), "believed", path.read_bytes()[:160])
        known += bool(_continued(folder, rows))
        shutil.rmtree(folder)
    return known


def fuzz_journals(base: Path, count: int, rng: random.Random) -> int:
    """A journal names nothing that it did not name when it was written."""
    known = 0
    for number in range(count):
        folder = base / str(number)
        folder.mkdir(parents=True)
        _rows(folder, [0, 1]).close()
        _rows(folder, [4, 7]).close()
        (path,) = folder.glob(f"{PROGRESS}*")
        path.write_bytes(mutate(rng, path.read_bytes()))
        with _silence():
            rows = _rows(folder, [])
        require({*rows.done()} <= {0, 1, 4, 7}, "believed", path.read_bytes())
        known += bool(_continued(folder, rows))
        shutil.rmtree(folder)
    return known


def fuzz_overrides(base: Path, count: int, rng: random.Random) -> int:
    """What is typed composes, or ends in one sentence."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vismech.commands.main import _launch_error
    from vismech.config.composition import composition_error, conf_folder, refuse_unknown
    from vismech.config.documentation import documentation
    from vismech.config.schema import register

    register()
    base.mkdir(parents=True)
    typed = [f"{doc.key}={doc.default}".encode() for doc in documentation()]
    typed += [b"experiment=quickstart", b"dictionary=sae_topk", b"evaluate=[insertion,transfer]", b"+a.b=1", b"~graph"]
    known = 0
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for _ in range(count):
            raw = mutate(rng, rng.choice(typed)).decode(errors="surrogateescape")
            sys.argv = ["vismech", raw]
            try:
                config = compose("config", overrides=[raw])
                refuse_unknown(config)
                OmegaConf.to_object(config)
                known += 1
            except Exception as error:
                said = str(error) if isinstance(error, UserError) else composition_error(error) or _launch_error(error)
                require(bool(said) and "\n" not in (said or "") and "Traceback" not in (said or ""), raw, said, error)
    return known


FAULTS = {each.__name__: each for each in (kills, sweeps, damage, disks, fuzz)}


def main() -> None:
    """One kind of fault, a number of times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    log, begun = Log(options.log), time.monotonic()
    seed = zlib.crc32(f"{options.fault} {options.seed}".encode())
    with tempfile.TemporaryDirectory() as base:
        FAULTS[options.fault](Path(base), options.count, random.Random(seed), log)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"{dict(log.counts)}: nothing lost, wrong or hung; {time.monotonic() - begun:.0f} s, {peak} MB at most")


if __name__ == "__main__":
    main()
