"""What a person sees who opens a study in MLflow: a real server, a real browser, and what the pages hold once drawn."""

import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import al_ray
from al_ray.cli.app import app
from al_ray.records.study import StudyStore
from al_ray.report.analysis.results import StudyResults
from tests.browser import Browser, browsing, chromium
from tests.tracking.mlflow_server import mlflow_server
from tests.tracking.tracked_study import N_METHODS, specs, write_study


@pytest.fixture(scope="module")
def program() -> str:
    return chromium()


@pytest.fixture(scope="module")
def store(program: str, tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    return write_study(tmp_path_factory.mktemp("mlflow-ui"), specs())


@pytest.fixture(scope="module")
def printed(store: StudyStore) -> str:
    """Fill MLflow and return what the command printed."""
    done = CliRunner().invoke(app, ["sync", store.root, "--tracking", f"sqlite:///{store.storage}/mlflow.db"])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def results(store: StudyStore) -> StudyResults:
    return al_ray.results(store.root)


@pytest.fixture(scope="module")
def server(store: StudyStore, printed: str) -> Iterator[str]:
    with mlflow_server(Path(store.storage)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def browser(program: str, tmp_path: Path) -> Iterator[Browser]:
    with browsing(program, tmp_path) as page:
        yield page


def address(printed: str, server: str, view: str) -> str:
    """Return the address that was printed for a view, on the server of this test."""
    (path,) = re.findall(rf"{view} in MLflow:\nhttp://127\.0\.0\.1:5000(\S+)", printed)
    return server + path


def column(browser: Browser, name: str, n_rows: int) -> list[str]:
    """Return a column of the runs table from top to bottom, once it has so many rows."""
    cells = f"[...document.querySelectorAll('[role=row][row-index] [col-id=\"{name}\"]')].filter(e => e.innerText)"
    browser.wait_for(f"{cells}.length === {n_rows}")
    found = browser.evaluate(
        f"{cells}.map(e => [Number(e.closest('[row-index]').getAttribute('row-index')), e.innerText.trim()])"
    )
    return [text for _, text in sorted(found)]


def number(text: str) -> float:
    return float(text.rstrip("…"))


def test_the_learning_curves_open_with_one_line_a_method(browser: Browser, printed: str, server: str) -> None:
    browser.open(address(printed, server, "learning curves"))
    lines = "[...document.querySelector('.js-plotly-plot').querySelectorAll('path.js-line')]"
    colours = f"[...new Set({lines}.map(e => e.style.stroke))]"
    browser.wait_for(f"{colours}.length === {N_METHODS}")
    browser.wait_for("document.body.innerText.includes('Learning curves')")
    ticks = "[...document.querySelector('.js-plotly-plot').querySelectorAll('.xtick text')].map(e => e.textContent)"
    labels = [float(text) for text in browser.wait_for(ticks)]
    assert labels
    assert all(3 <= n_labeled <= 9 for n_labeled in labels), "the step of a point is the number of labels"
    browser.picture("learning-curves")


def test_the_ranking_opens_sorted_and_says_what_the_results_say(
    browser: Browser, printed: str, server: str, results: StudyResults
) -> None:
    browser.open(address(printed, server, "ranking"))
    shown = [number(text) for text in column(browser, "metrics.`aulc`", N_METHODS)]
    rows = results.rankings[1].rows
    assert shown == pytest.approx([row.aulc.mean for row in rows], abs=1e-6)
    assert shown == sorted(shown, reverse=True)
    finals = [number(text) for text in column(browser, "metrics.`final_accuracy`", N_METHODS)]
    assert finals == pytest.approx([row.final_accuracy.mean for row in rows], abs=1e-6)
    browser.picture("ranking")


def test_what_matters_has_the_axes_confidence_strategy_and_filters_before_the_area(
    browser: Browser, printed: str, server: str
) -> None:
    browser.open(address(printed, server, "ranking").replace("=ranking-", "=matters-") + "&compareRunsMode=CHART")
    titles = "[...document.querySelectorAll('svg text.label')].map(e => e.textContent)"
    browser.wait_for(f"{titles}.length === 4")
    assert browser.evaluate(titles) == ["confidence", "strategy", "filters", "aulc"]
    browser.picture("what-matters")


def test_the_cells_open_as_a_table_with_their_metrics(
    browser: Browser, printed: str, server: str, results: StudyResults
) -> None:
    browser.open(address(printed, server, "ranking").replace("=ranking-", "=cells-"))
    browser.wait_for(f"document.body.innerText.includes('{len(results.cells)} matching runs')")
    first = '[role=row][row-index="0"] [col-id="metrics.`aulc`"]'
    best = browser.wait_for(f"document.querySelector('{first}')?.innerText")
    assert number(best) == pytest.approx(results.cells["aulc"].max(), abs=1e-6)
    browser.picture("cells")


def test_the_plain_page_of_the_study_lists_its_runs_and_links_to_the_views(
    browser: Browser, printed: str, server: str
) -> None:
    page = urllib.parse.urlsplit(address(printed, server, "ranking")).fragment.partition("/runs?")[0]
    browser.open(f"{server}/#{page}?workflowType=machine_learning")
    browser.wait_for("document.querySelectorAll('[role=row][row-index]').length >= 10")
    browser.picture("plain")
    # A click would open it in another tab.
    browser.open(browser.wait_for("[...document.querySelectorAll('a')].find(a => a.innerText === 'Ranking')?.href"))
    column(browser, "metrics.`aulc`", N_METHODS)
