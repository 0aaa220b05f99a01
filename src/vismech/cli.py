"""The commands: ``vismech``, ``vismech-store`` and the hook that collects a sweep's tables."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from vismech.config import Config, documentation, register
from vismech.errors import UserError

log = logging.getLogger("vismech")


def conf_folder() -> Path:
    """The folder of configuration files: inside the installed package, or beside ``src`` in a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "conf"


def choices() -> dict[str, list[str]]:
    """Configuration group → its choices."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(conf_folder().iterdir())
        if folder.is_dir() and folder.name != "hydra"
    }


def main() -> None:
    """``vismech [experiment=…] [group=choice] [key=value]``; ``-m`` sweeps."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(help_text())
        return
    if "--version" in arguments:
        from importlib.metadata import version

        print(f"vismech {version('vismech')}")
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing; the sentences are ours
    import hydra

    register()
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(_task)()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)
    except Exception as error:
        sentence = composition_error(error)
        if sentence is None:
            raise
        _fail(sentence)


def _task(cfg: Any) -> float:
    """One job: compose, run, say where the results are."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    from vismech.run import run

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        result = run(config, folder)
    except UserError:
        log.debug("the run ended with an error", exc_info=True)
        raise
    if config.plan:
        for row in result.plan:
            print(f"{'hit ' if row['hit'] else 'miss'}  {row['stage']:<10}  {row['unit']:<28}  {row['key']}")
        hits = sum(row["hit"] for row in result.plan)
        print(f"{hits} hits, {len(result.plan) - hits} misses")
        return 0.0
    computed, cached = result.metrics["computed"], result.metrics["cached"]
    print(f"{computed} artifacts computed, {cached} from the store, {result.metrics['wall_seconds']:.1f} s")
    for path in [*result.written, folder / "tables"]:
        print(f"  {_relative(path)}")
    return float(result.metrics["wall_seconds"])


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _fail(sentence: str, status: int = 1) -> None:
    print(f"vismech: {sentence}", file=sys.stderr)
    sys.exit(status)


def composition_error(error: BaseException) -> str | None:
    """One sentence for an error of Hydra or OmegaConf that a user made; None for anything else."""
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    if isinstance(error, MissingMandatoryValue):
        key = error.full_key or ""
        text = next((doc.text for doc in documentation() if doc.key == key), "")
        return f"{key} has no value: give {key}=… ({text[:1].lower()}{text[1:].rstrip('.')})"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    message = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    keys = [doc.key for doc in documentation()]
    group = re.search(r"Could not find '([\w/]+)/([^/']+)'", message)
    if group:
        options = choices().get(group[1].split("/")[-1], [])
        return f"{group[1]}={group[2]} is not a choice; {_nearest(group[2], options)}"
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown and (
        "is not in struct" in message or "No match in the defaults list" in message or "not in '" in message
    ):
        return f"there is no key {unknown[1]!r}; {_nearest(unknown[1], [*keys, *choices()])}"
    unknown = re.search(r"Key '([^']+)' (?:is )?not in '(\w+)'.*?full_key: ([\w.]+)", message)
    if unknown:
        return f"there is no key {unknown[3]!r}; {_nearest(unknown[3], keys)}"
    wrong = re.search(r"((?:Value|Invalid value) .*?)(?: full_key: ([\w.\[\]]+))?(?: object_type=.*)?$", message)
    if wrong:
        key = wrong[2] or (re.search(r"override '([^'=]+)", message) or [None, ""])[1]
        return f"{key}: {wrong[1][0].lower()}{wrong[1][1:]}" if key else wrong[1]
    return message


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    last = name.split(".")[-1]
    near += [key for key in names if key.split(".")[-1] == last and key not in near]
    return f"nearest: {', '.join(near[:3])}" if near else f"it can be {', '.join(names[:12])}"


def help_text() -> str:
    """Usage, the choices of every group, and every key with its type, default and meaning."""
    import textwrap

    lines = [
        "vismech: how an image model computes, as a causal graph of concepts",
        "",
        "usage: vismech [experiment=NAME] [group=CHOICE …] [key=value …]     one run",
        "       vismech -m … key=a,b,c                                        a sweep",
        "       vismech plan=true …                                           what would be computed",
        "       vismech-store ls|show|verify|gc                               the artifacts",
        "",
        "groups and their choices",
    ]
    for group, options in choices().items():
        lines += textwrap.wrap(f"{group:<11} {' '.join(options)}", 100, initial_indent="  ", subsequent_indent=" " * 14)
    lines += ["", "keys (type, default)"]
    for doc in documentation():
        lines.append(f"  {doc.key} ({doc.type}, {doc.default})")
        lines += textwrap.wrap(doc.text, 94, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


class CollectTables:
    """Hydra callback: after a sweep, one CSV per table at the sweep's top, with each job's overrides as columns."""

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        """Collect ``<job>/tables/*.csv`` into ``<sweep>/<table>.csv``."""
        from vismech.sweep import collect

        collect(Path(config.hydra.sweep.dir))
