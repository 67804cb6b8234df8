import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted(
    (pathlib.Path(__file__).resolve().parent.parent.parent / "notebooks").glob("*.ipynb")
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def test_the_notebook_runs(path, repository):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": repository}}
    )
    client.execute()
    accuracy = next(
        output["data"]["text/plain"]
        for cell in notebook.cells
        if "accuracy" in cell.source
        for output in cell.outputs
        if output.output_type == "execute_result"
    )
    assert float(accuracy.removeprefix("np.float64(").rstrip(")")) > 0.8
