"""The documentation's claims that a machine can hold, and that the site is built without a warning or the network."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vismech.config.composition import choices
from vismech.config.documentation import documentation

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings_handlers") if importlib.util.find_spec(name) is None]
# What a run or a reader makes, and names in examples of files that are the reader's.
MADE = ("outputs/", "tables/", "report/", "figures/", "cards/", "concepts/", "mine/", "mypackage/", "metrics.json")


def commands(text: str) -> list[str]:
    """The page's vismech commands, each on one line."""
    found = re.findall(r"^    (vismech .*(?:\\\n.*)*)$", text, re.MULTILINE)
    return [re.sub(r"\\\n\s*", "", command).split(" #")[0] for command in found]


def test_every_key_and_choice_in_a_command_exists() -> None:
    keys, groups, seen = {doc.key for doc in documentation()}, choices(), 0
    for page, text in PAGES.items():
        for command in commands(text):
            seen += 1
            for key, value in re.findall(r"(?<![\w.])'?([a-z_.]+)=([^\s']+)", command):
                if key in groups:
                    mine = "--config-dir" in command
                    assert mine or set(value.split(",")) <= set(groups[key]), f"{page}: {key}={value}"
                else:
                    assert key in keys or key.startswith("hydra."), f"{page}: {key}"
    assert seen >= 20


def test_what_is_put_into_an_empty_dictionary_has_a_plus() -> None:
    """Hydra refuses ``data.class_map={…}`` of folders that it does not know, and takes ``+data.class_map={…}``."""
    keys = [doc.key for doc in documentation() if doc.type.startswith("dict")]
    texts = {**PAGES, "README.md": (REPOSITORY / "README.md").read_text(encoding="utf-8")}
    for page, text in texts.items():
        for command in commands(text):
            for key in keys:
                assert not re.search(rf"(?<!\+){re.escape(key)}[.=]", command), f"{page}: {command}"


def test_every_file_that_a_page_names_is_there() -> None:
    for page, text in PAGES.items():
        for name in re.findall(r"`((?:[\w-]+/)+[\w.-]*\w)`", text):
            known = name.startswith(MADE) or (REPOSITORY / name).exists()
            assert known or (REPOSITORY / "experiments" / name).exists(), f"{page}: {name}"


def test_every_page_is_in_the_navigation() -> None:
    def pages(entries: list) -> list[str]:
        values = (next(iter(entry.values())) for entry in entries)
        return [name for value in values for name in (pages(value) if isinstance(value, list) else [value])]

    assert sorted(pages(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])) == sorted(PAGES)


def test_python_on_pages_is_python_and_names_what_is_there() -> None:
    import vismech

    blocks = [block for text in PAGES.values() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) >= 3
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vismech":
                assert hasattr(vismech, node.attr)


def test_the_python_page_has_every_name_of_the_package() -> None:
    import vismech

    for name in vismech.__all__:
        assert re.search(rf"^::: vismech\.(?:\w+\.)*{name}$|`vismech\.{name}`", PAGES["api.md"], re.MULTILINE), name


def test_the_citation_is_of_this_version() -> None:
    import tomllib

    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == version
    assert f"version = {{{version}}}" in PAGES["citing.md"]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: make docs, or pip install '.[docs]'")
def test_the_site_is_built_strictly_and_loads_nothing_from_the_network(tmp_path) -> None:
    site, environment = tmp_path / "site", {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    # In a copy, so that nothing of it is taken from what an earlier build left.
    for name in ("docs", "src", "conf", "experiments"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "CONTRIBUTING.md"):
        shutil.copy(REPOSITORY / name, tmp_path)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {page.replace(".md", ".html") for page in PAGES} <= set(built)
    for page, html in built.items():
        assert not re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?https?:[^>]*>", html), page
        assert not re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preconnect|preload)[^>]+https?:[^>]*>", html), page
        assert "<!-- keys -->" not in html and ":func:" not in html, page
    assert all(f'id="{doc.key}"' in built["configuration.html"] for doc in documentation())
    assert "experiment=fig5_cifar_resnet20" in built["costs.html"]
