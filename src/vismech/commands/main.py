"""The command ``vismech``: from arguments to a configuration, and from its mistakes to sentences."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from vismech.commands.run_folders import count_jobs, launch
from vismech.commands.shell import command, fail
from vismech.config.composition import choices, composition_error, conf_folder, one_line, refuse_unknown
from vismech.config.documentation import documentation
from vismech.config.schema import Config, register
from vismech.config.trust import refuse_rerun
from vismech.errors import UserError
from vismech.store.artifacts import Store
from vismech.store.disk import writing

log = logging.getLogger("vismech")


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
        if hydra.mode is RunMode.MULTIRUN:
            _say_which(hydra)
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


def _say_which(hydra: Any) -> None:
    """Tell which job of a sweep begins."""
    count = count_jobs(Path(hydra.sweep.dir))
    log.info("job %d%s: %s", hydra.job.num + 1, f" of {count}" if count else "", ", ".join(hydra.overrides.task))


def _sweep_failed() -> str:
    """Collect the tables of a sweep's jobs that are done, and name those that failed."""
    from vismech.compare.sweep import collect, failed_jobs

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
    from vismech.sources.checks import check_config_sources

    check_config_sources(config)  # before torch is there, as the next
    if sweep and config.describe.cards is None:
        config.describe.cards = 0
    if not config.plan:
        Store(config.store.root).check()
    from vismech.stages.run import run

    result = run(config, folder)
    if config.plan:
        for row in result.plan:
            print(f"{'hit ' if row['hit'] else 'miss'}  {row['stage']:<10}  {row['unit']:<28}  {row['key']}")
        from vismech.commands.plan_table import lines

        assert result.prices is not None
        for line in lines(result.prices, config.plan_device and config.plan_device.value):
            print(line)
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
    said, reason = " ".join(sys.argv[1:]), one_line(error) or type(error).__name__
    return f"cannot read {said!r} ({reason}): write key=value, and group=CHOICE for the choices of vismech --help"


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
