"""``al-ray ask``, ``tell`` and ``status``, as somebody at a terminal has them."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.cli.project import curve_lines, print_status
from al_ray.project.state import CurvePoint, Outlook, Status
from al_ray.terminal import PlainConsole
from tests.project.simulated import Pool
from tests.project.spreadsheets import resave

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def file(tmp_path: Path, project: Callable[..., dict[str, Any]]) -> str:
    """Write the project file."""
    path = tmp_path / "tickets.yaml"
    path.write_text(yaml.safe_dump(project()), encoding="utf-8")
    return str(path)


@pytest.fixture
def al_ray() -> Run:
    """Return a function that runs ``al-ray`` and gives exit code and output."""

    def invoke(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "80"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return invoke


def filled(file: Path, pool: Pool, keep: Callable[[int], bool] = lambda id_: True) -> bytes:
    """Fill in a query in a spreadsheet, by the hidden labels."""

    def label(row: Mapping[str, str]) -> str:
        return pool.class_names[pool.labels[int(row["id"])]] if keep(int(row["id"])) else ""

    return resave(file.read_bytes(), label)


def test_a_query_goes_out_and_its_answers_come_back(file: str, pool: Pool, tmp_path: Path, al_ray: Run) -> None:
    query, answers = tmp_path / "query.csv", tmp_path / "answers.csv"
    code, said = al_ray("ask", file, "--to", query)
    assert code == 0
    assert said.startswith("round 0: 8 texts to learn from and 2 to measure the model by\n")
    assert f"written: {query}\n" in said
    assert f"next:    al-ray tell {file} {query}\n" in said
    first = query.read_bytes()

    answers.write_bytes(filled(query, pool, lambda id_: id_ % 2 == 0))
    n_even = sum(int(row["id"]) % 2 == 0 for row in csv.DictReader(io.StringIO(first.decode("utf-8-sig"))))
    code, said = al_ray("tell", file, answers, "--annotator", "ada")
    assert f"recorded: {n_even} new answers, {10 - n_even} without a label\n" in said
    assert f"round 0: {10 - n_even} of 10 texts to go\n" in said
    assert al_ray("ask", file, "--to", query)[1].count("there already: ") == 1
    assert query.read_bytes() == first

    answers.write_bytes(filled(query, pool))
    said = al_ray("tell", file, answers, "--annotator", "ada")[1]
    assert f"recorded: {10 - n_even} new answers, {n_even} known already\n" in said
    assert "the round is answered; the next one is computed when it is asked for" in said
    assert "recorded: 0 new answers, 10 known already" in al_ray("tell", file, answers, "--annotator", "ada")[1]
    assert "10 changed or by another annotator" in al_ray("tell", file, answers, "--annotator", "bob")[1]

    code, said = al_ray("ask", file, "--to", answers)  # its answers are recorded, so that nothing is lost
    assert code == 0
    assert said.startswith("round 1: 6 texts to learn from")
    assert {row["prediction"] for row in csv.DictReader(io.StringIO(answers.read_text("utf-8-sig")))} & {
        *pool.class_names
    }


def test_a_file_that_may_hold_answers_is_written_over_by_force_alone(
    file: str, pool: Pool, tmp_path: Path, al_ray: Run
) -> None:
    query = tmp_path / "query.csv"
    al_ray("ask", file, "--to", query)
    query.write_bytes(filled(query, pool))
    before = query.read_bytes()
    code, said = al_ray("ask", file, "--to", query)
    assert code == 1
    assert "is there and holds something else, maybe answers that were not told yet" in said
    assert query.read_bytes() == before
    assert al_ray("ask", file, "--to", query, "--force")[0] == 0
    assert query.read_bytes() != before


def test_closing_a_round_names_what_stays_open_and_later_answers_still_count(
    file: str, pool: Pool, tmp_path: Path, al_ray: Run
) -> None:
    query = tmp_path / "query.jsonl"
    al_ray("ask", file, "--to", query)
    rows = [json.loads(line) for line in query.read_text().splitlines()]
    late = {"id": rows[0]["id"], "label": pool.class_names[0]}
    query.write_text("".join(f"{json.dumps({**row, 'label': pool.class_names[0]})}\n" for row in rows[2:]))
    said = al_ray("tell", file, query, "--close")[1]
    open_ids = ", ".join(map(str, sorted(row["id"] for row in rows[:2])))
    assert f"closed: 2 texts stay without an answer, until somebody tells one: {open_ids}\n" in said
    assert "nothing had to be closed" in al_ray("tell", file, "--close")[1]
    (tmp_path / "late.jsonl").write_text(json.dumps(late))
    assert "recorded: 1 new answer\n" in al_ray("tell", file, tmp_path / "late.jsonl")[1]


def test_a_bad_row_leaves_nothing_recorded(file: str, pool: Pool, tmp_path: Path, al_ray: Run) -> None:
    query = tmp_path / "query.csv"
    al_ray("ask", file, "--to", query)
    query.write_bytes(filled(query, pool) + b"100000;;;;;bug;;\r\n")
    code, said = al_ray("tell", file, query)
    assert code == 1
    assert "row 12: id '100000' was not asked for" in said
    assert "project tickets: 0 of 160 texts labelled" in al_ray("status", file)[1]


def test_answers_of_a_query_of_the_method_before_are_taken(
    file: str, pool: Pool, project: Callable[..., dict[str, Any]], tmp_path: Path, al_ray: Run
) -> None:
    query = tmp_path / "query.csv"
    al_ray("ask", file, "--to", query)
    query.write_bytes(filled(query, pool))
    al_ray("tell", file, query)
    Path(file).write_text(yaml.safe_dump(project(strategy="entropy")), encoding="utf-8")
    assert al_ray("ask", file, "--to", tmp_path / "other.csv")[0] == 0
    assert "recorded: 0 new answers, 10 known already" in al_ray("tell", file, query)[1]


def test_another_projects_file_is_refused_though_its_ids_exist(
    file: str, pool: Pool, project: Callable[..., dict[str, Any]], tmp_path: Path, al_ray: Run
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(project(project="other", seed=1)), encoding="utf-8")
    al_ray("ask", file, "--to", tmp_path / "query.csv")
    al_ray("ask", other, "--to", tmp_path / "others.csv")
    (tmp_path / "others.csv").write_bytes(filled(tmp_path / "others.csv", pool))
    code, said = al_ray("tell", file, tmp_path / "others.csv")
    assert code == 1
    assert "which is of another project: batches of this one begin with" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "--to", "query.xlsx"], "--to is 'query.xlsx'; give a file that ends in .csv, .jsonl or .json, or --f"),
        (["ask", "--to", "query.csv", "--format", "cvs"], "unknown value of --format 'cvs'. Did you mean 'csv'?"),
        (["ask", "--to", "query.csv", "--separator", "x"], "unknown value of --separator 'x'"),
        (["ask", "--to", "/nowhere/query.csv"], "/nowhere/query.csv cannot be written: No such file or directory."),
        (
            ["ask", "--to", "label-studio"],
            "Label Studio needs --url http://HOST:PORT and --project NUMBER or --project",
        ),
        (["ask", "--to", "label-studio", "--url", "http://127.0.0.1:1", "--project", "x"], "--project is 'x'; give"),
        (["tell"], "give one file with answers, or '--from label-studio', or '--close'"),
        (["tell", "a.csv", "--from", "label-studio"], "give one file with answers"),
        (["tell", "--from", "page"], "--from is 'page'; it can be 'label-studio'"),
        (["tell", "nowhere.csv"], "nowhere.csv is not there in"),
        (["tell", "--from", "label-studio", "--url", "http://127.0.0.1:1", "--project", "new"], "--project is 'new'"),
    ],
)
def test_what_cannot_be_is_said(file: str, al_ray: Run, arguments: list[str], message: str) -> None:
    code, said = al_ray(arguments[0], file, *arguments[1:])
    assert code == 1
    assert message in said


def test_the_status_is_json_for_programs(file: str, tmp_path: Path, al_ray: Run) -> None:
    al_ray("ask", file, "--to", tmp_path / "query.csv")
    found = json.loads(al_ray("status", file, "--json")[1])
    assert (found["name"], found["n_open"], found["n_asked"]) == ("tickets", 10, 10)


# ---- what a terminal shows ------------------------------------------------------------------------------------------


def status_of(**changes: Any) -> Status:
    values: dict[str, Any] = {
        "name": "tickets",
        "round_index": 7,
        "n_pool": 12_000,
        "n_labeled": 160,
        "n_abstained": 3,
        "n_evaluation": 70,
        "n_given": 20,
        "class_counts": {"billing": 100, "bug": 50, "[red]other": 10},
        "n_asked": 30,
        "n_open": 12,
        "how_estimated": "from texts drawn at random",
        "curve": [
            CurvePoint(n_labeled=20 * place, accuracy=0.5 + place / 50, low=0.4 + place / 50, high=0.6 + place / 50,
                       n_evaluated=10 * place) for place in range(1, 8)
        ],
        "outlook": Outlook(n_more=100, gain=0.021, low=-0.004, high=0.05),
        "advice": {"kappa_agreement": None, "overall_uncertainty": "the mean uncertainty is 0.03, below 0.05"},
        "annotators": {"ada": 200, "bob": 33},
        "seconds_per_answer": 6.44,
    }  # fmt: skip
    return Status(**values | changes)


def printed(status: Status) -> str:
    console = PlainConsole(width=80)
    with console.capture() as captured:
        print_status(console, status, "my tickets.yaml")
    return captured.get()


def test_the_status_says_how_far_how_good_and_whether_to_go_on() -> None:
    said = printed(status_of())
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert (
        "project tickets: 160 of 12,000 texts labelled (20 of them from the data), 70 to measure by, 3 not sure"
        in lines
    )
    assert "answers: ada 200, bob 33; 6.4 s an answer" in lines
    assert "quality: from texts drawn at random" in lines
    assert any(line.startswith("140 64.0 % 54.0 to 74.0 %") for line in lines), lines
    assert "billing 100 62 %" in lines
    assert "[red]other 10 6 %" in lines
    assert any(
        "100 more labels are likely to bring +2.1 points of accuracy (−0.4 to +5.0 nine" in line for line in lines
    )
    assert "stopping rule kappa_agreement: go on" in lines
    assert "stopping rule overall_uncertainty: enough, the mean uncertainty is 0.03, below 0.05" in lines
    assert "round 7: 12 of 30 texts without an answer" in lines
    assert "next: al-ray ask 'my tickets.yaml' --to query.csv" in lines


def test_the_status_fits_80_columns_where_it_draws() -> None:
    counts = {f"class with a long name number {place}": place for place in range(77)}
    said = printed(status_of(class_counts=counts))
    drawn = [line for line in said.splitlines() if "─" in line or "%" in line]
    assert len(drawn) > 15
    assert all(len(line) <= 80 for line in drawn)
    assert "(65 more)" in said


def test_the_curve_shows_first_and_last_point_and_each_interval_around_its_point() -> None:
    points = [
        CurvePoint(n_labeled=10 * place, accuracy=0.3 + place / 100, low=0.2 + place / 100, high=0.35 + place / 100,
                   n_evaluated=place) for place in range(1, 41)
    ]  # fmt: skip
    lines = curve_lines(points, ascii_only=True)
    rows = lines[1:-1]
    assert len(rows) == 8
    assert rows[0].split()[0] == "10"
    assert rows[-1].split()[:2] == ["400", "70.0"]
    for row in rows:
        plot = row[37:]
        assert plot.strip("o- ") == ""
        assert plot.strip().count("o") == 1
    assert lines[-1].strip() == "the last from 40 answers"


def test_a_status_before_the_first_model_and_after_the_end_says_so() -> None:
    early = printed(status_of(curve=[], outlook=None, class_counts={"a": 0, "b": 0}, annotators={}, n_labeled=0))
    assert "no estimate yet" in early
    assert "share" not in early
    late = printed(status_of(end="every text of the pool has been asked for"))
    assert "ended: every text of the pool has been asked for" in late
    assert "next:" not in late
