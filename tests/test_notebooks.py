"""The notebooks: whole cells that run from top to bottom, in a process and in a real kernel."""

from __future__ import annotations

import ast
import json
import sys
import types
from pathlib import Path

import pytest

from tests.code_blocks import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# (as it stands, as it is run in a moment); each stands in some notebook
CUTS = (
    *(("count=240", "count=16"), ("count=160", "count=16"), ("count=120", "count=8"), ("count=80", "count=8")),
    *(
        ("num_train_epochs=4", "max_steps=2"),
        ("num_train_epochs=2", "max_steps=2"),
        ("warmup_steps=10", "use_cpu=True"),
    ),
    *(("num_generations=8", "num_generations=2"), ("logging_steps=2", "logging_steps=1, use_cpu=True")),
)


def code_cells(path: Path) -> list[str]:
    """The code of a notebook, without what installs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", ())
    ]


def test_there_are_two_and_pages_name_them():
    page = (ROOT / "docs" / "pages" / "notebooks.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 2 and all(f"examples/notebooks/{path.name}" in page for path in NOTEBOOKS)
    codes = "\n".join(cell for path in NOTEBOOKS for cell in code_cells(path))
    assert [stands for stands, _ in CUTS if stands not in codes] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_installs_in_one_cell(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert [cell["metadata"].get("tags") for cell in code].count(["install"]) == 1
    assert found["nbformat"] == 4 and len({cell["id"] for cell in found["cells"]}) == len(found["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    for cell in code_cells(path):
        for stands, run in CUTS:
            cell = cell.replace(stands, run)
        exec(compile(ast.parse(cell), path.name, "exec"), vars(module))
    (report,) = tmp_path.glob("*/report.html")
    assert "data-kind" in report.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_kernel_runs_the_notebook_as_it_stands(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install 'audiorl[dev]'")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", ())]
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    # the results show themselves as tables, the run as one output that grows
    assert len(shown) >= 2 and any("<progress" in html for html in shown)
    assert "95 % interval" in shown[-1] and "points" in shown[-1]
