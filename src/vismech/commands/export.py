"""A dictionary of the store as a folder to share: its safetensors, and a model card that says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vismech.dictionaries.saved import FILES, content_of
from vismech.errors import UserError
from vismech.store.artifacts import Artifact
from vismech.store.disk import writing
from vismech.store.lineage import Lineage
from vismech.store.manifest import read_provenance

CARD = "README.md"


def export(artifact: Artifact, lineage: Lineage, folder: Path) -> list[Path]:
    """Write a dictionary to ``folder``; the paths written.

    Raises:
        UserError: no dictionary, a damaged one, or a folder that holds something else.
    """
    manifest = artifact.manifest
    if manifest["stage"] != "dictionary":
        raise UserError(f"{artifact.key} is of the stage {manifest['stage']}: only dictionaries are exported")
    kept = [name for name in FILES if name in manifest["files"]]
    sources = {name: artifact.path(name) for name in kept}
    others = (
        sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, CARD)) if folder.is_dir() else []
    )
    if others or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} holds {others[0] if others else 'a file'}: give a folder of its own")
    with writing(folder, "the folder", making=True):
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in sources.items():
            shutil.copyfile(path, folder / name)
        (folder / CARD).write_text(card(artifact, lineage, content_of(folder)), encoding="utf-8")
    return [folder / name for name in (*kept, CARD)]


def card(artifact: Artifact, lineage: Lineage, content: str) -> str:
    """The model card: front matter as the Hugging Face Hub reads it, what the concepts are of, and how to load them."""
    manifest, provenance = artifact.manifest, read_provenance(artifact.folder)
    record, layer = artifact.json("dictionary.json"), manifest["unit"]
    model = lineage.model or "a network"
    facts: dict[str, Any] = {
        "concepts": record["info"].get("k"),
        "mean concept": "the last atom" if record["mean_index"] is not None else None,
        "layer": layer,
        "network": lineage.model,
        "weights": (lineage.inputs.get("model") or {}).get("weights"),
        "preprocessing": (lineage.inputs.get("model") or {}).get("preprocess"),
        "images (fingerprint)": lineage.inputs.get("data"),
        "positions": lineage.inputs.get("positions"),
        "vectors": record["info"].get("vectors"),
        "method": lineage.method,
        "settings": manifest["inputs"],
        "run": lineage.run,
        "made": provenance.get("time"),
        "versions": provenance.get("versions"),
        "commit": provenance.get("git"),
        "key in the store": artifact.key,
        "content (SHA-256)": content,
    }
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value not in (None, "", {})]
    return f"""---
library_name: vismech
tags:
- mechanistic-interpretability
- concepts
- computer-vision
---

# Concepts of `{layer}` of {_plain(model)}

Directions in the activations of one layer. A pointwise feature vector `x`, the channels at one position of the layer's
map of an image that was preprocessed as below, is written as `u · atoms`.

| | |
|---|---|
{chr(10).join(rows)}

## Load

```python
from safetensors.numpy import load_file

atoms = load_file("atoms.safetensors")["atoms"]  # [concepts, channels]
```

With [vismech](https://pypi.org/project/vismech/) on the same network, where FOLDER is this folder:

    vismech dictionary=saved dictionary.path=FOLDER 'extract.layers=[{layer}]' …

or in Python `vismech.dictionaries.Dictionary.load(Path(FOLDER)).encode(vectors)`.
"""


def _cell(value: Any) -> str:
    """A value for a table: text as it is, all else as JSON, without what would end the cell."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return f"`{_plain(text).replace('|', '¦')}`"


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable() and letter not in "`\n")
