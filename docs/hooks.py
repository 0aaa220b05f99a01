"""What pages take from the repository when the site is built: configuration keys, running times, pictures.

A page asks for it by a line of its own: ``<!-- keys -->``, ``<!-- choices -->``, ``<!-- running times -->``.
"""

from __future__ import annotations

import re
import textwrap
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

from vismech.config.composition import choices, conf_folder
from vismech.config.documentation import FieldDoc, documentation

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURES = {"quickstart.png": "experiments/quickstart/graph.png"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures that are part of experiments."""
    for name, source in PICTURES.items():
        files.append(File.generated(config, f"pictures/{name}", abs_src_path=str(REPOSITORY / source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page asks for."""
    for asked, tell in (("keys", keys), ("choices", groups), ("running times", running_times)):
        if (line := f"<!-- {asked} -->") in markdown:
            markdown = markdown.replace(line, tell())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings write ``:func:`name```; what reads them here knows names without roles."""
    return re.sub(r":(?:func|class|attr|mod|meth):(<code>)~?", r"\1", html)


def keys() -> str:
    """Every key of the configuration by group: type, default, meaning."""
    parts = []
    for group, docs in groupby(documentation(), key=_group):
        parts += [f"### {group or 'The run'}", "", "<dl>", *(_key(doc) for doc in docs), "</dl>", ""]
    return "\n".join(parts)


def _group(doc: FieldDoc) -> str:
    return doc.key.partition(".")[0] if "." in doc.key else ""


def _key(doc: FieldDoc) -> str:
    kind, default, text = (escape(part, quote=False) for part in (doc.type, doc.default or "''", doc.text))
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return f'<dt id="{doc.key}"><code>{doc.key}</code> ({kind}, <code>{default}</code>)</dt><dd>{text}</dd>'


def groups() -> str:
    """Every choice of every group, and what its file says in its first comment."""
    parts = []
    for group, names in choices().items():
        parts += [f"### {group}=", "", "| choice | what it sets |", "|---|---|"]
        parts += [f"| `{name}` | {_told(group, name)} |" for name in names]
        parts.append("")
    return "\n".join(parts)


def _told(group: str, name: str) -> str:
    """A choice's first comment; without one, the values of its file."""
    text = (conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    if comment := _comment(text):
        return _escaped(comment)
    values = yaml.safe_load(text)
    return _escaped(", ".join(f"{key}: {value}" for key, value in values.items() if key != "defaults"))


def _comment(text: str) -> str:
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    return " ".join(line for line in lines if not line.startswith("@package"))


def running_times() -> str:
    """Of every experiment that tells its running time: the paragraph, and the commands it is of."""
    parts = []
    for readme in sorted((REPOSITORY / "experiments").glob("*/README.md")):
        text = readme.read_text(encoding="utf-8")
        runtime, command = _paragraph(text, "Runtime"), _commands(text)
        if runtime and command:
            parts += [f"### {readme.parent.name}", "", runtime, "", command, ""]
    return "\n".join(parts)


def _paragraph(text: str, head: str) -> str:
    found = re.search(rf"^\*\*{head}\.\*\* (.*?)(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _commands(text: str) -> str:
    """What stands below "Command": the indented block, or the sentence itself."""
    found = re.search(r"^\*\*Commands?\.\*\*.*?(?=\n\*\*|\n## )", text, re.MULTILINE | re.DOTALL)
    if not found:
        return ""
    code = re.search(r"(?:^    .*\n?)+", found[0], re.MULTILINE)
    return f"```\n{textwrap.dedent(code[0]).rstrip()}\n```" if code else _paragraph(text, "Command")


def _escaped(text: str) -> str:
    """Text of the configuration, in which no character marks up anything."""
    return re.sub(r"([|*_\[\]])", r"\\\1", escape(text, quote=False))
