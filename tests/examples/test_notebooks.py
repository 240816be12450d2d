"""The notebooks run from top to bottom, in their quick mode."""

from __future__ import annotations

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from process import environment  # noqa: E402
from setting import ROOT  # noqa: E402

NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# Of the notebook machinery itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment(path.parents[1])["PYTHONPATH"])
    monkeypatch.setenv("JAX_MPS_QUICK", "1")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
    if path.stem == "graph":
        shown = [o.get("data", {}) for cell in notebook.cells for o in cell.get("outputs", [])]
        assert any("image/svg+xml" in data for data in shown)
        assert (tmp_path / "step.svg").exists()
