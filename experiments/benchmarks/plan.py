"""What a plan says beside what the run then takes: seconds of every stage, and their ratio.

    python experiments/benchmarks/plan.py --data-root CIFAR10_TEST --checkpoint CIFAR_RESNET20_WEIGHTS

Measures the machine (`vismech-bench`), plans CIFAR ResNet-20 with four layers, two classes of at most 32 images,
measured effects, and reconstruction, insertion, transfer and interlayer on a few images, and runs it into a fresh
store. It is planned again when the predictions are known; stages that take less than a second are not judged.

Observed on two quiet cores, planned / took of the stages above a second: extract 0.66, trace 1.23, effects 0.81, fields
1.38, where 1.71, reconstruction 0.50 (codes of few channels are slower than the rate says), insertion 0.92, transfer
0.53, interlayer 1.00, report 0.77: within a factor of 2.0. Where the load changes between measuring and running, the
factor changes with it. The costs of cards, of the page and of loading libraries were set after such runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vismech.config.composition import conf_folder
from vismech.config.schema import Config, register
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.planned import prices
from vismech.stages.run import run


def planned(config: Config) -> pd.Series:
    """Seconds of each stage and measure."""
    ctx = open_context(config)
    plan = make_plan(ctx)
    rows = prices(ctx, plan, [spec.key for spec in plan.specs()]).rows
    table = pd.DataFrame({"stage": [name(row.stage, row.unit) for row in rows], "s": [row.seconds for row in rows]})
    return table.groupby("stage", sort=False).s.sum(min_count=1)


def name(stage: str, unit: str) -> str:
    return f"{stage} {unit.split()[0]}" if stage == "evaluate" else f"{stage} {unit}" if stage == "cards" else stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", type=int, default=40, help="images that are measured")
    parser.add_argument("more", nargs="*", help="further overrides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        subprocess.run(
            [sys.executable, "-c", "from vismech.commands.bench import main; main()", "--root", str(root)], check=True
        )
        overrides = [
            *("experiment=cifar_resnet20", "graph.images_per_class=32", "graph.measured=true", "data.limit=1000"),
            *("extract.layers=[layer1.2,layer2.2,layer3.1,layer3.2]", "dictionary.k_per_channel=4"),
            *("describe.cards=3", "evaluate.kinds=[reconstruction,insertion,transfer,interlayer]"),
            *(f"evaluate.images={options.images}", "logger=none", "runtime.accelerator=cpu"),
            *(f"data.root={options.data_root}", f"model.checkpoint={options.checkpoint}", f"store.root={root}"),
            *options.more,
        ]
        register()
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = OmegaConf.to_object(compose("config", overrides))
        assert isinstance(config, Config)
        before = planned(config)
        run(config, Path(folder) / "run")
        spent = pd.read_csv(Path(folder) / "run/tables/timings.csv")
        after = planned(config)
        ctx = open_context(config)
        of = {spec.key: spec for spec in make_plan(ctx).specs()}
        events = pd.read_json(Path(folder) / "run/events.jsonl", lines=True)
        done = events[events.event == "computed"]
        stages = []
        for stage, unit, key in zip(done.stage, done.unit, done.key, strict=True):
            stages.append(name(stage, f"{of[key].settings.measure.value} {unit}" if stage == "evaluate" else unit))
        measured = done.assign(stage=stages).groupby("stage").seconds.sum()
    print(f"{'stage':<26}{'planned':>9}{'again':>9}{'took':>9}{'ratio':>7}")
    worst = 1.0
    for stage, seconds in measured.reindex(before.index).items():
        ratio = after[stage] / seconds
        print(f"{stage:<26}{before[stage]:>8.1f}s{after[stage]:>8.1f}s{seconds:>8.1f}s{ratio:>7.2f}")
        if seconds > 1 and ratio == ratio:
            worst = max(worst, ratio, 1 / ratio)
    print(f"within a factor of {worst:.1f} for stages above a second; {spent.seconds.sum():.0f} s in all")


if __name__ == "__main__":
    main()
