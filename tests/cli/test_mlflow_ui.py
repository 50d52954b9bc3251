"""The MLflow UI on a study that this program filled, seen by a real browser: which method is better, with no clean-up.

A real MLflow server on the loopback interface, a real headless Chromium, and what the pages hold once drawn. The
screenshots stay in the folder of the test run, and in ``AL_RAY_SCREENSHOTS`` where that names a folder.
"""

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from tests.needs import lacks
from tests.tracking.mlflow_server import mlflow_server

_PAGE_S, _TRIES = 300.0, 5
# No sandbox, since tests may run as root; WebGL in software, which the parallel coordinates are drawn with.
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--virtual-time-budget=20000",
]
METHODS = ("margin", "random")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell as its records and MLflow have it."""

    run_id: str
    name: str
    strategy: str
    curve: tuple[tuple[int, float], ...]

    @property
    def accuracy(self) -> float:
        return self.curve[-1][1]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running MLflow server over one study."""

    address: str
    experiment_id: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Element:
    """A start tag of a page, with the text right behind it."""

    tag: str
    attributes: dict[str, str]
    text: str


class Page(HTMLParser):
    """What a browser made of a page, flat and in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.cells: dict[str, dict[str, str]] = defaultdict(dict)  # of the runs table: row -> column -> text
        self._row = self._column = ""
        self.feed(html)
        self.close()

    @property
    def texts(self) -> list[str]:
        return [element.text for element in self.elements if element.text]

    def having(self, tag: str, name: str) -> list[Element]:
        return [e for e in self.elements if e.tag == tag and name in e.attributes.get("class", "").split()]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append(Element(tag, found, ""))
        if "row-id" in found:
            self._row, self._column = found["row-id"], ""
        elif "col-id" in found:
            self._column = found["col-id"]

    def handle_data(self, data: str) -> None:
        if not data.strip() or not self.elements or self.elements[-1].tag in ("style", "script"):
            return
        last = self.elements[-1]
        self.elements[-1] = Element(last.tag, last.attributes, f"{last.text} {data.strip()}".strip())
        if self._row and self._column:
            self.cells[self._row].setdefault(self._column, data.strip())


@dataclass(frozen=True)
class Browser:
    """Chromium without a window; keeps a picture of every page that it opens."""

    program: str
    profile: Path
    pictures: Path

    def open(self, url: str, name: str, until: Sequence[str], size: str = "1900,1000") -> Page:
        """Return the page once it shows all of ``until``; a slow machine gets more than one try."""
        picture = self.pictures / f"{name}.png"
        command = [self.program, *_FLAGS, f"--user-data-dir={self.profile}", f"--window-size={size}"]
        texts: list[str] = []
        for _ in range(_TRIES):
            done = subprocess.run(
                [*command, f"--screenshot={picture}", "--dump-dom", url],
                capture_output=True, text=True, timeout=_PAGE_S, check=False,
            )  # fmt: skip
            page = Page(done.stdout)
            texts = page.texts
            if all(wanted in texts for wanted in until):
                _keep(picture)
                return page
        raise AssertionError(f"{url} never showed {until}; it showed {texts[:80]}; {done.stderr[-500:]}")


def _keep(picture: Path) -> None:
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000  # an empty page of this size has about 5 kB
    if folder := os.environ.get("AL_RAY_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return found or lacks("browser", "neither chromium nor google-chrome is on the PATH")


@pytest.fixture(scope="module")
def storage(chromium: str, tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Path:
    """Run a study of two methods and return its storage folder."""
    folder = tmp_path_factory.mktemp("mlflow-ui")
    defaults = {
        "dataset": {"name": "tickets", "n_train": 160, "n_test": 60},
        "model": str(bert),
        "seed": 1,
        "initial_size": 20,
        "query_size": 10,
        "rounds": 2,
        "max_tokens": 32,
        "finetune": {"epochs": 8, "learning_rate": 3e-3},
    }
    study = {"study": "two-methods", "defaults": defaults, "grid": [{"strategy": list(METHODS)}]}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    where = ["--storage", str(folder), "--set", f"tracking=sqlite:///{folder}/mlflow.db"]
    result = CliRunner().invoke(app, ["run", str(path), "--local", *where])
    assert result.exit_code == 0, result.output
    (folder / "printed.txt").write_text(result.output, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def site(storage: Path) -> Iterator[Site]:
    """Serve the study with MLflow's own server and stop it in the end."""
    with mlflow_server(storage) as port:
        yield _site(f"http://127.0.0.1:{port}", storage)


def _post(address: str, call: str, content: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{call}", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def _site(address: str, storage: Path) -> Site:
    with urllib.request.urlopen(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=two-methods") as got:
        experiment_id = json.load(got)["experiment"]["experiment_id"]
    found = _post(address, "runs/search", {"experiment_ids": [experiment_id], "filter": "tags.`al_ray.kind` = 'cell'"})[
        "runs"
    ]
    cells = tuple(sorted((_cell(run, storage) for run in found), key=lambda cell: cell.strategy))
    assert tuple(cell.strategy for cell in cells) == METHODS
    return Site(address=address, experiment_id=experiment_id, cells=cells)


def _cell(run: dict[str, Any], storage: Path) -> Cell:
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    files = sorted((storage / "two-methods" / tags["al_ray.cell"]).glob("round-*.json"))
    records = [json.loads(path.read_text(encoding="utf-8"))["record"] for path in files]
    return Cell(
        run_id=run["info"]["run_id"],
        name=tags["mlflow.runName"],
        strategy=params["strategy"],
        curve=tuple((r["n_labeled"], r["metrics"]["accuracy"]) for r in records if r["metrics"]),
    )


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> Browser:
    return Browser(chromium, tmp_path / "profile", tmp_path)


def _query(**values: Any) -> str:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return urllib.parse.urlencode(texts, quote_via=urllib.parse.quote)


def test_the_list_of_experiments_names_the_study(site: Site, browser: Browser) -> None:
    browser.open(f"{site.address}/#/experiments", "experiments", ["Experiments", "two-methods"])


def test_the_printed_link_opens_the_table_of_cells_without_the_run_above_them(
    site: Site, storage: Path, browser: Browser
) -> None:
    (path,) = re.findall(r"table of cells: http://127\.0\.0\.1:5000(\S+)", (storage / "printed.txt").read_text())
    page = browser.open(f"{site.address}{path}", "printed-link", [*(cell.name for cell in site.cells), "Training runs"])
    links = [element.attributes.get("href", "") for element in page.elements if element.tag == "a"]
    opened = [found[1] for link in links if (found := re.search(r"/runs/([0-9a-f]{32})$", link))]
    accuracy = {cell.run_id: cell.accuracy for cell in site.cells}
    assert sorted(opened) == sorted(accuracy)
    assert [accuracy[run_id] for run_id in opened] == sorted(accuracy.values(), reverse=True)


def test_strategy_confidence_data_set_seed_and_accuracy_are_plain_columns(site: Site, browser: Browser) -> None:
    columns = ["dataset", "confidence", "strategy", "seed"]
    figures = ["accuracy", "final/accuracy", "aulc/accuracy"]
    # A view as MLflow's own "share" button keeps it: which columns somebody chose, and the order of the rows.
    view = {
        "searchFilter": "tags.`al_ray.kind` = 'cell'",
        "orderByKey": "metrics.`final/accuracy`",
        "orderByAsc": False,
        "selectedColumns": [*(f"params.`{name}`" for name in columns), *(f"metrics.`{name}`" for name in figures)],
    }
    tag = {"key": "mlflow.sharedViewState.columns", "value": json.dumps(view)}
    _post(site.address, "experiments/set-experiment-tag", {"experiment_id": site.experiment_id, **tag})
    url = f"{site.address}/#/experiments/{site.experiment_id}/runs?viewStateShareKey=columns"
    page = browser.open(url, "runs", [*columns, *figures, *(cell.name for cell in site.cells), "Training runs"])
    rows = {row["params.`strategy`"]: row for row in page.cells.values() if "params.`strategy`" in row}
    assert set(rows) == set(METHODS)
    for cell in site.cells:
        row = rows[cell.strategy]
        assert [row[f"params.`{name}`"] for name in columns] == ["tickets", "softmax", cell.strategy, "1"]
        assert float(row["metrics.`accuracy`"]) == pytest.approx(cell.accuracy)
        assert float(row["metrics.`final/accuracy`"]) == pytest.approx(cell.accuracy)
        assert float(row["metrics.`aulc/accuracy`"]) == pytest.approx(np.mean([value for _, value in cell.curve]))


def test_two_compared_runs_show_strategy_against_accuracy_in_parallel_coordinates(site: Site, browser: Browser) -> None:
    chosen = _query(runs=[cell.run_id for cell in site.cells], experiments=[site.experiment_id])
    names = [cell.name for cell in site.cells]
    wanted = ["Comparing 2 Runs from 1 Experiment", "Parallel Coordinates Plot", *names, *METHODS]
    page = browser.open(f"{site.address}/#/compare-runs?{chosen}", "compare", wanted)
    axes = {element.text for element in page.having("text", "axis-title")}
    assert axes == {"strategy", "accuracy"}  # of all parameters only the one that differs


def test_a_chart_shows_accuracy_against_the_number_of_labels_for_both_methods(site: Site, browser: Browser) -> None:
    chosen = _query(
        runs=[cell.run_id for cell in site.cells], metric=json.dumps("accuracy"), experiments=[site.experiment_id],
        plot_metric_keys=["accuracy"], x_axis="step",
    )  # fmt: skip
    legend = [f"{cell.name} (accuracy)" for cell in site.cells]
    page = browser.open(f"{site.address}/#/metric?{chosen}", "accuracy-against-labels", ["Step", *legend])
    drawn = _lines(page)
    assert len(drawn) == len(METHODS)
    steps = [20.0, 30.0, 40.0]
    for line in drawn:
        assert line[:, 0] == pytest.approx(steps, abs=0.2)
    heights = sorted(tuple(line[:, 1]) for line in drawn)
    recorded = sorted(tuple(accuracy for _, accuracy in cell.curve) for cell in site.cells)
    assert np.array(heights) == pytest.approx(np.array(recorded), abs=0.005)
    assert [[labels for labels, _ in cell.curve] for cell in site.cells] == [steps, steps]


def test_the_chart_view_of_the_study_draws_a_line_for_every_cell(site: Site, browser: Browser) -> None:
    view = _query(
        compareRunsMode="CHART", orderByKey="metrics.`final/accuracy`", orderByAsc="false",
        searchFilter="tags.`al_ray.kind` = 'cell'",
    )  # fmt: skip
    names = [cell.name for cell in site.cells]
    url = f"{site.address}/#/experiments/{site.experiment_id}/runs?{view}"
    page = browser.open(url, "charts", [*names, "Training runs", "accuracy", "Step"], size="1900,3000")
    lines = [element for element in page.having("path", "js-line") if element.attributes["d"].count("L") == 2]
    assert len(lines) >= len(METHODS)


def _lines(page: Page) -> list[np.ndarray]:
    """Return the lines of the only chart in units of its axes, ``[n_points, 2]`` each, read off the tick marks."""
    (origin,) = {_shift(e) for e in page.having("g", "xy") if "transform" in e.attributes}
    # A line and its unsmoothed shadow have the same colour and, without smoothing, the same points. A colour is made
    # from a run's random id, so that two runs may share one.
    paths = {(_colour(e), e.attributes["d"]) for e in page.having("path", "js-line")}
    along, up = _axis(page, "xtick", 0), _axis(page, "ytick", 1)
    lines = []
    for _, path in sorted(paths):
        points = np.array([[float(n) for n in pair.split(",")] for pair in re.split("[ML]", path) if pair])
        lines.append(np.column_stack([along(points[:, 0] + origin[0]), up(points[:, 1] + origin[1])]))
    return lines


def _axis(page: Page, name: str, which: int) -> np.poly1d:
    """Return what turns pixels into units of an axis: the line through its tick marks."""
    behind = zip(page.elements, page.elements[1:], strict=False)
    ticks = [label for mark, label in behind if name in mark.attributes.get("class", "").split()]
    assert len(ticks) >= 2
    pixels = [_shift(tick)[which] for tick in ticks]
    return np.poly1d(np.polyfit(pixels, [float(tick.attributes["data-unformatted"]) for tick in ticks], 1))


def _shift(element: Element) -> tuple[float, float]:
    found = re.fullmatch(r"translate\(([-\d.]+),\s*([-\d.]+)\)", element.attributes["transform"])
    assert found is not None, element
    return float(found[1]), float(found[2])


def _colour(element: Element) -> str:
    found = re.search(r"stroke: (rgb\([^)]*\))", element.attributes["style"])
    assert found is not None, element
    return found[1]
