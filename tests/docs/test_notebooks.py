"""A notebook a family: small, without outputs, and each runs from its first cell to its last."""

import base64
import json
from pathlib import Path

import pytest

from zoo.registry import MODELS

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_every_family_has_one_without_outputs():
    assert set(NAMES) == {model.module.split(".")[1] for model in MODELS.values()}
    for name in NAMES:
        content = json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))
        for cell in content["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Jupyter's own
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_it_says(name, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources=resources).execute()
    shown = [o for c in book.cells for o in c.get("outputs", []) if o.get("output_type") != "error"]
    data = [o["data"] for o in shown if "data" in o]
    pictures = [base64.b64decode(d["image/png"]) for d in data if "image/png" in d]
    tables = [h for d in data if "<table>" in (h := d.get("text/html", ""))]
    printed = "".join(o["text"] for o in shown if o.get("name") == "stdout")
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    expected = {"ddpm": (1, 1), "vae": (2, 1), "wgan": (1, 1), "flash": (0, 0), "simbert": (0, 2)}
    assert (len(pictures), len(tables)) == expected[name]
    assert all("<td>" in table for table in tables)
    assert name != "flash" or len(printed) > 300
    assert Path(tmp_path, f"runs/notebook-{name}/metrics.csv").is_file()
