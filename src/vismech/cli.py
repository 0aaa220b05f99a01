"""The command ``vismech``: from arguments to a configuration, and from its mistakes to sentences."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vismech.config import Config, register
from vismech.disk import writing
from vismech.documentation import documentation
from vismech.errors import UserError
from vismech.run_folders import launch
from vismech.shell import command, fail
from vismech.store import Store
from vismech.trust import refuse_rerun

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


@command("vismech", "; run the same command again to continue: what is finished is kept")
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
    logging.raiseExceptions = False  # a disk that is full for the log is told once, by whoever writes results
    refuse_rerun(arguments)
    import hydra

    register()
    launch.begin(None, sweep=False)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(_task)()
    except BrokenPipeError:
        raise
    except Exception as error:
        if launch.sweep and launch.jobs:
            fail("vismech", _sweep_failed())
        sentence = str(error) if isinstance(error, UserError) else _launch_error(error)
        if sentence is None:
            raise
        fail("vismech", sentence)
    finally:
        launch.tidy()


def _task(cfg: Any) -> float:
    """One job. A single run ends here on a user's error, because Hydra would print its own words before ours."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra, launch.tasks = HydraConfig.get(), launch.tasks + 1
    try:
        if hydra.mode is RunMode.MULTIRUN and not any(line.startswith("runtime.job=") for line in hydra.overrides.task):
            cfg.runtime.job = hydra.job.num  # jobs that run at once share the GPUs
        return _run(cfg, Path(hydra.runtime.output_dir), hydra.mode is RunMode.MULTIRUN)
    except UserError as error:
        log.debug("the run ended with an error", exc_info=True)  # hydra.verbose=true shows it
        if hydra.mode is RunMode.RUN:
            fail("vismech", str(error))
        log.error("%s", error)  # of several jobs that fail, Hydra names the first alone
        launch.failures[hydra.job.num] = str(error)
        raise
    except Exception as error:
        if hydra.mode is not RunMode.RUN and not isinstance(error, BrokenPipeError):
            log.exception("a mistake of ours")
            launch.failures[hydra.job.num] = f"{type(error).__name__}, a mistake of ours: its run.log says where"
        raise


def _sweep_failed() -> str:
    """Collect the tables of a sweep's jobs that are done, and name those that failed."""
    from vismech.sweep import collect, failed_jobs

    assert launch.folder is not None
    jobs, failed = launch.jobs, failed_jobs(launch.folder)
    written = collect(launch.folder, [job for job in jobs if job.name not in failed])
    named = []
    for name, overrides in failed.items():
        why = launch.failures.get(int(name))
        named.append(f"job {name} ({overrides})" + (f": {why}" if why else ""))
    kept = f"; the tables of the others are collected in {_relative(launch.folder)}" if written else ""
    return f"{len(failed)} of {len(jobs)} jobs failed, {'; '.join(named)}{kept}"


def _run(cfg: Any, folder: Path, sweep: bool) -> float:
    """Check the composed configuration, run it, say where the results are; a ``sweep`` draws no cards unasked."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    refuse_unknown(cfg)
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise UserError(composition_error(error)) from error
    assert isinstance(config, Config)
    from vismech.sources import check_config_sources

    check_config_sources(config)  # before torch is there, as the next
    if sweep and config.describe.cards is None:
        config.describe.cards = 0
    if not config.plan:
        Store(config.store.root).check()
    from vismech.run import run

    result = run(config, folder)
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


def _launch_error(error: Exception) -> str | None:
    """One sentence for what ends a command before its run begins, as only the user's words and folders can be wrong.

    None for errors of the run itself.
    """
    sentence = composition_error(error)
    if sentence is not None or launch.tasks:
        return sentence
    for each in (error, error.__cause__, error.__context__):
        if isinstance(each, (OSError, ValueError)) and launch.folder is not None:
            key = "hydra.sweep.dir" if launch.sweep else "hydra.run.dir"
            try:
                with writing(launch.folder, key, making=isinstance(each, OSError)):
                    raise each
            except UserError as told:
                return str(told)
            except Exception:
                continue
    said, reason = " ".join(sys.argv[1:]), _one_line(error) or type(error).__name__
    return f"cannot read {said!r} ({reason}): write key=value, and group=CHOICE for the choices of vismech --help"


def composition_error(error: BaseException) -> str | None:
    """One sentence for an error of Hydra or OmegaConf that a user made; None for anything else."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError
    from yaml import YAMLError

    if isinstance(error, ValueError) and str(error).startswith("Config group override must be a string"):
        return f"{_one_line(error)}: the choices of each group are listed by vismech --help"
    if isinstance(error, ValueError) and str(error).startswith("Config group override deletion value must be a string"):
        given = re.search(r"input_line=(.*), config_loader", str(error))
        return f"cannot read {given[1] if given else 'a deletion'}: write ~group or ~group=CHOICE to leave a group out"
    if isinstance(error, YAMLError):
        return f"a configuration file cannot be read: {_one_line(error)}"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    # Hydra wraps OmegaConf's error, which knows the key, in one that only says which argument it came from.
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    key = re.sub(r"\[\d+\]$", "", getattr(cause, "full_key", None) or "")
    doc = next((doc for doc in documentation() if doc.key == key), None)
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: write key=value, and quote a value with any of {{}}[](),:= or spaces"
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} has no value: give {key}=…" + (f" ({doc.text.rstrip('.')})" if doc else "")
    if isinstance(cause, ConfigKeyError):
        file = re.match(r"In '([^']+)'", str(error))
        return no_key(key) + (f" (in {file[1]}.yaml)" if file else "")
    if isinstance(cause, ValidationError) and doc:
        value, options = cause.value, doc.type.removeprefix("list of ").split(" | ")
        if len(options) > 1 and isinstance(value, str) and key != value:
            if doc.type.startswith("list of") and value in options:
                return f"{key}={value} must be a list: write {key}=[{value}]"
            return f"{key}={value} is not a choice; {_nearest(value, options)}"
        if doc.type.startswith("list of") and not isinstance(value, (list, tuple)) and cause.full_key == key:
            return f"{key}={value} must be a {doc.type}: write {key}=[{value}]"
        shown = "null" if value is None else value
        return f"{key}={shown} does not fit: it must be {doc.type} ({doc.text.rstrip('.')})"
    if isinstance(error, MissingConfigException):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={choice} is not a choice; {_nearest(choice, choices().get(group, []))}"
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    return no_key(unknown[1]) if unknown else _one_line(cause or error)


def varied(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of ``config`` with some keys changed, written as on the command line (without groups).

    Raises:
        UserError: an unknown key, or a value that does not fit.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = {doc.key for doc in documentation()}
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UserError(f"cannot read {override!r}: write key=value")
        if key not in known:
            keys = [each for each in known if each.startswith(f"{key}.")]
            raise UserError(
                f"{override} is a choice of files: write single keys such as {min(keys)}" if keys else no_key(key)
            )
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), OmegaConf.from_dotlist([*overrides])))
    except OmegaConfBaseException as error:
        raise UserError(composition_error(error)) from error
    assert isinstance(found, Config)
    return found


def no_key(key: str) -> str:
    """The sentence for a key or group that the configuration does not have."""
    if key.startswith("hydra."):
        return f"there is no key {key!r}: vismech --cfg hydra shows Hydra's own"
    types = {doc.key: doc.type for doc in documentation()}
    if types.get(key.rpartition(".")[0], "").startswith("dict"):
        return f"{key} is not there yet: add it with +{key}=…"
    return f"there is no key {key!r}; {_nearest(key, [*types, *choices()])}"


def _one_line(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(("reference_type=", "object_type=")))


def refuse_unknown(cfg: Any) -> None:
    """Refuse keys that were added with ``+`` but are none of the schema's, which Hydra accepts.

    Raises:
        UserError: the key and its nearest.
    """
    from omegaconf import DictConfig

    def keys(node: Any, prefix: str = "") -> Iterator[str]:
        for name in node:
            inner = node._get_node(name)
            if isinstance(inner, DictConfig) and prefix + str(name) not in known:
                yield from keys(inner, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    known = {doc.key for doc in documentation()}
    for key in keys(cfg):
        if key not in known:
            raise UserError(no_key(key))


def _nearest(name: str, names: Sequence[str]) -> str:
    last = name.split(".")[-1]
    near = [key for key in names if key.split(".")[-1] == last]
    near += [key for key in difflib.get_close_matches(name, names, n=3, cutoff=0.6) if key not in near]
    if near:
        return f"nearest: {', '.join(near[:3])}"
    return f"it can be {', '.join(names)}" if len(names) <= 20 else "vismech --help lists them all"


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
        key = f"{doc.key} ({doc.type}, {doc.default})"
        lines += textwrap.wrap(
            key, 120, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        lines += textwrap.wrap(doc.text, 94, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
