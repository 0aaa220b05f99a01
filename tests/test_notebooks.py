"""The notebooks run from top to bottom, and what they keep is small."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MISSING = [name for name in ("nbclient", "nbformat", "ipykernel", "foolbox") if importlib.util.find_spec(name) is None]
LARGEST = 500_000


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_keeps_is_small_and_of_no_machine(notebook) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    for cell in json.loads(text)["cells"]:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error" and output.get("name") != "stderr"
    assert not [place for place in ("/home/", "/root/", "/work/", "/tmp/") if place in text]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install '.[notebook,samples]'")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path) -> None:
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "notebooks").mkdir()
    copy = shutil.copy(notebook, tmp_path / "notebooks")
    content = nbformat.read(copy, as_version=4)
    NotebookClient(content, timeout=600, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    shown = [output.data for cell in content.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("text/html" in data for data in shown) >= 6
