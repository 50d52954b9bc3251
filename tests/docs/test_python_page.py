"""What docs/python.md and docs/reports.md say of the front door and of its frames."""

import subprocess
import sys

import al_ray
from al_ray.report.build import TABLES
from tests.docs.pages import ROOT, code_spans, fences, rows, text_of


def test_the_examples_of_the_page_of_python_that_need_no_study_of_ones_own_run() -> None:
    blocks = [block for block in fences(text_of("docs/python.md"), "python") if "study.yaml" not in block]
    assert len(blocks) == 3
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True)


def test_the_page_of_python_names_all_of_the_front_door() -> None:
    named = {span.removeprefix("al_ray.") for span in code_spans(text_of("docs/python.md"))}
    assert set(al_ray.__all__) - {"__version__"} <= named


def test_the_page_of_python_names_every_frame() -> None:
    text = text_of("docs/python.md")
    assert TABLES.keys() <= set(code_spans(text))
    assert TABLES.keys() <= {*al_ray.StudyResults.__annotations__, *dir(al_ray.StudyResults)}


def test_the_page_of_reports_names_every_table() -> None:
    assert TABLES.items() <= rows("docs/reports.md").items()
