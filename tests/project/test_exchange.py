"""A query as a file and its answers back, through spreadsheets and their habits."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.core.answers import Answer
from al_ray.errors import DataError
from al_ray.project.exchange import (
    FORMATS,
    LONGEST_CELL,
    Asked,
    Reading,
    disarm,
    ids_meant,
    index_of_class,
    is_told,
    n_cut,
    read_answers,
    rearm,
    write_batch,
)
from al_ray.project.state import Batch, Task
from tests.project.spreadsheets import FORMULA, MOST_UNITS, resave, shown

CLASSES = ("billing", "bug", "other")
Tell = Callable[..., Reading]


def batch_of(*texts: str, classes: tuple[str, ...] = CLASSES, first_id: int = 0) -> Batch:
    tasks = [
        Task(id=first_id + place, text=text, prediction=classes[place % len(classes)], confidence=0.37123, reason="-ed")
        for place, text in enumerate(texts)
    ]
    return Batch(id="1a2b3c4d/3", round_index=3, tasks=tuple(tasks))


def asked_of(batch: Batch, classes: tuple[str, ...] = CLASSES) -> Asked:
    return Asked(
        project="tickets", prefixes=frozenset({"1a2b3c4d"}), class_names=classes, ids={task.id for task in batch.tasks}
    )


@pytest.fixture
def tell(tmp_path: Path) -> Tell:
    """Return a function that reads what a file would hold; ids are 0 to 19 where nobody says otherwise."""

    def read(content: str | bytes, name: str = "answers.csv", classes: tuple[str, ...] = CLASSES,
             ids: Any = range(20), **more: Any) -> Reading:  # fmt: skip
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        asked = Asked(project="tickets", prefixes=frozenset({"1a2b3c4d"}), class_names=classes, ids=ids)
        return read_answers(file, asked, **more)

    return read


def said(reading: Reading) -> dict[int, int | None]:
    return {answer.id: answer.label for answer in reading.answers}


# ---- out ------------------------------------------------------------------------------------------------------------


def test_a_query_is_written_as_rows_with_an_empty_label(tell: Tell) -> None:
    batch = batch_of("Invoice wrong", 'He said "no", twice\nand left')
    rows = list(
        csv.DictReader(io.StringIO(write_batch(batch, "csv", project="tickets").decode("utf-8-sig"), newline=""))
    )
    assert rows[1] == {
        "id": "1",
        "text": 'He said "no", twice\nand left',
        "prediction": "bug",
        "confidence": "0.3712",
        "reason": "'-ed",
        "label": "",
        "note": "",
        "batch": "1a2b3c4d/3",
    }
    lines = [json.loads(line) for line in write_batch(batch, "jsonl", project="tickets").splitlines()]
    assert lines[1]["text"] == 'He said "no", twice\nand left'
    assert lines[1]["reason"] == "-ed"
    assert lines[1]["label"] is None


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_query_gives_the_same_bytes_whatever_is_answered(format_: Any) -> None:
    batch = batch_of("a", "b")
    half = Batch(id=batch.id, round_index=3, tasks=batch.tasks, answered=frozenset({1}))
    assert write_batch(batch, format_, project="tickets") == write_batch(half, format_, project="tickets")


@pytest.mark.parametrize("format_", FORMATS)
def test_what_the_model_believes_can_be_hidden(format_: Any) -> None:
    shown_ = write_batch(batch_of("a"), format_, project="tickets")
    hidden = write_batch(batch_of("a"), format_, project="tickets", with_predictions=False)
    assert b"billing" in shown_
    assert b"billing" not in hidden
    assert b"0.37" not in hidden


def test_a_text_longer_than_a_cell_is_cut_in_csv_alone_and_its_id_stays() -> None:
    long = "=😀" * MOST_UNITS
    batch = batch_of("short", long)
    assert n_cut(batch) == 1
    rows = list(csv.DictReader(io.StringIO(write_batch(batch, "csv", project="p").decode("utf-8-sig"), newline="")))
    assert len(rows[1]["text"].encode("utf-16-le")) // 2 <= LONGEST_CELL == MOST_UNITS
    assert rows[1]["text"].startswith("'=😀=😀")
    assert rows[1]["text"].endswith("... [cut: 65,534 characters in all]")
    assert rows[1]["id"] == "1"
    assert json.loads(write_batch(batch, "jsonl", project="p").splitlines()[1])["text"] == long


cells = st.text(st.one_of(st.sampled_from("=+-@'\", ;|\t\r\n\0a1＝"), st.characters(exclude_categories=["Cs"])))


@given(cells)
def test_the_apostrophes_of_a_cell_are_taken_off_exactly(cell: str) -> None:
    assert rearm(disarm(cell)) == cell
    assert not FORMULA.match(disarm(cell))
    assert not disarm(cell).startswith(("\t", "\r"))


@given(st.lists(cells, min_size=1, max_size=4), st.sampled_from(",;\t|"), st.sampled_from(",;\t|"))
def test_no_cell_is_a_formula_even_where_the_line_is_split_at_another_separator(
    texts: list[str], written: str, read: str
) -> None:
    content = write_batch(batch_of(*texts), "csv", project="tickets", separator=written).decode("utf-8-sig")
    for row in csv.reader(io.StringIO(content, newline=""), delimiter=read):
        assert not any(FORMULA.match(cell) for cell in row), row


names = st.lists(cells.filter(lambda name: name.strip() != ""), min_size=2, max_size=5, unique_by=lambda s: s)


@given(st.lists(cells, min_size=1, max_size=6), names, st.sampled_from([*FORMATS[:2]]))
def test_any_texts_and_classes_come_back_as_they_went(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], classes: list[str], format_: Any
) -> None:
    batch = batch_of(*texts, classes=tuple(classes))
    content = write_batch(batch, format_, project="tickets")
    file = tmp_path_factory.getbasetemp() / f"any.{format_}"
    if format_ == "csv":  # a person copies the cell 'prediction' into the cell 'label'
        header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        assert [rearm(row[1]) for row in rows] == texts
        filled = io.StringIO(newline="")
        csv.writer(filled).writerows([header, *([*row[:5], row[2], *row[6:]] for row in rows)])
        file.write_text(filled.getvalue(), encoding="utf-8", newline="")
    else:
        lines = [json.loads(line) for line in content.decode().split("\n")[:-1]]
        assert [line["text"] for line in lines] == texts
        file.write_text("".join(f"{json.dumps({**line, 'label': line['prediction']})}\n" for line in lines))
    reading = read_answers(file, asked_of(batch, tuple(classes)))
    assert said(reading) == {place: place % len(classes) for place in range(len(texts))}


# ---- in: what spreadsheets do ---------------------------------------------------------------------------------------

HARD_CLASSES = ("1", "007", "2.50", "true", "NA", "=cmd()", "Größe", "a;b", "1e5", "N/A", "-", " x ", "null", "@home")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "utf-16"])
def test_a_round_trip_through_a_spreadsheet_keeps_every_answer(
    tell: Tell, separator: str, decimal: str, encoding: str
) -> None:
    texts = [f'text {place}, =1+1; "quoted"\nnext line' for place in range(28)]
    batch = batch_of(*texts, classes=HARD_CLASSES, first_id=99_990)
    saved = resave(
        write_batch(batch, "csv", project="tickets"),
        lambda row: row["prediction"],
        separator=separator,
        decimal=decimal,
        encoding=encoding,
    )
    reading = tell(saved, classes=HARD_CLASSES, ids={task.id for task in batch.tasks})
    assert said(reading) == {99_990 + place: place % len(HARD_CLASSES) for place in range(28)}


def test_ids_that_a_spreadsheet_rounds_to_one_number_are_refused(tell: Tell) -> None:
    batch = batch_of("a", "b", first_id=1_234_567_890_123)
    saved = resave(write_batch(batch, "csv", project="p"), lambda row: "bug")
    assert b"1,23457E+12" in saved
    with pytest.raises(DataError, match=r"row 2: id '1,23457E\+12' may be 1234567890123 or 1234567890124: a"):
        tell(saved, ids={1_234_567_890_123, 1_234_567_890_124})
    alone = resave(write_batch(batch_of("a", first_id=1_234_567_890_123), "csv", project="p"), lambda row: "bug")
    assert said(tell(alone, ids={1_234_567_890_123})) == {1_234_567_890_123: 1}


def test_what_was_not_filled_in_stays_open_though_the_spreadsheet_drops_empty_cells(tell: Tell) -> None:
    batch = batch_of(*(f"text {place}" for place in range(20)))
    saved = resave(write_batch(batch, "csv", project="p"), lambda row: "bug" if int(row["id"]) % 2 else "")
    reading = tell(saved.replace(b";1a2b3c4d/3", b";"))  # without the last column, as if somebody had emptied it
    assert said(reading) == dict.fromkeys(range(1, 20, 2), 1)
    assert reading.n_open == 10


def test_the_model_of_a_spreadsheet_spoils_what_is_not_protected() -> None:
    assert [shown(cell) for cell in ("007", "2.50", "true", "1-2", "=cmd()", "1234567890123", "1e5")] == [
        "7", "2.5", "TRUE", "01. Feb", "#NAME?", "1.23457E+12", "1.00E+05",
    ]  # fmt: skip


def test_lines_of_empty_cells_other_columns_and_another_order_do_no_harm(tell: Tell) -> None:
    reading = tell("Color;LABEL; Id ;\r\nred;bug;3;\r\n;;;\r\n;BILLING ;4;\r\n;;5\r\n")
    assert said(reading) == {3: 1, 4: 0}
    assert reading.n_open == 1


def test_an_annotator_seconds_and_a_note_are_read_where_they_are_there(tell: Tell) -> None:
    reading = tell("id;label;annotator;seconds;note\n3;bug;ada;12,5;looks odd\n3;other;;;\n", annotator="bob")
    assert reading.answers == (
        Answer(id=3, label=1, annotator="ada", source="file", seconds=12.5, note="looks odd"),
        Answer(id=3, label=2, annotator="bob", source="file"),
    )


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.parquet"])
def test_programs_may_answer_in_jsonl_and_parquet(tmp_path: Path, tell: Tell, name: str) -> None:
    rows = [{"id": 3, "label": "bug"}, {"id": 4, "label": None}, {"id": 5, "label": "?"}]
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if name.endswith("parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.table({"id": [3.0, 4.0, 5.0], "label": ["bug", None, "?"]}), sink)
        content = sink.getvalue()
    reading = tell(content, name)
    assert said(reading) == {3: 1, 5: None}
    assert reading.n_open == 1


def test_a_number_or_a_truth_value_of_json_names_the_class_that_is_written_so(tell: Tell) -> None:
    content = '{"id": 1, "label": 7}\n{"id": 2, "label": true}\n{"id": 3, "label": 2.5}\n'
    assert said(tell(content, "a.jsonl", classes=("007", "true", "2.50"))) == {1: 0, 2: 1, 3: 2}


def test_a_question_mark_is_not_sure_unless_a_class_is_called_so(tell: Tell) -> None:
    assert said(tell("id,label\n1,?\n")) == {1: None}
    assert said(tell("id,label\n1,?\n", classes=("?", "!"))) == {1: 0}


def test_a_question_mark_that_may_have_been_a_lost_letter_is_refused(tell: Tell) -> None:
    with pytest.raises(DataError, match=r"row 2: label is '\?', which may have been '好'. Save the file"):
        tell("id,label\n1,好\n".encode("ascii", "replace"), classes=("好", "坏"))
    assert said(tell("id,label,text\n1,?,好\n", classes=("好", "坏"))) == {1: None}


def test_a_file_in_an_encoding_of_8_bits_is_read_where_nothing_hangs_on_it(tell: Tell) -> None:
    reading = tell("id;text;label\r\n1;Größe;bug\r\n".encode("windows-1252"))
    assert said(reading) == {1: 1}
    message = "row 2: label has letters in an encoding that cannot be told .as Windows-1252 it would be 'Größe'.. Save"
    with pytest.raises(DataError, match=message):
        tell("id;label\r\n1;Größe\r\n".encode("windows-1252"), classes=("Größe", "Farbe"))


@pytest.mark.parametrize(
    ("written", "classes", "index"),
    [
        ("1,0", ("1", "2"), 0),
        ("1", ("1", "01"), 0),
        ("1.0", ("1", "01"), None),
        ("1,00E+05", ("1e5", "2e5"), 0),
        ("1.23457E+12", ("1234567890123", "1"), 0),
        ("1.23457E+12", ("1234567890123", "1234567890124"), None),
        ("BUG", ("bug", "Bug"), None),
        ("Bug", ("bug", "Bug"), 1),
        ("\u00a0bug ", ("bug", "other"), 0),
        ("bu", ("bug", "other"), None),
        ("Gro\u0308ße", ("Größe", "other"), 0),
    ],
)
def test_a_class_is_found_where_it_alone_can_be_meant(
    written: str, classes: tuple[str, ...], index: int | None
) -> None:
    assert index_of_class(written, classes) == index


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (17, [17]),
        ("17.0", [17]),
        (" 17,00 ", [17]),
        ("1.234", [1234]),
        ("1\u00a0234", [1234]),
        ("1,7E+05", [170_012]),
        ("17.000", [17, 17_000]),
        ("17.5", []),
        ("9" * 400, []),
        ("-3", [-3]),
        (True, []),
        ("", []),
        ("1,234.5", []),
    ],
)
def test_an_id_stands_for_the_asked_ids_that_a_spreadsheet_may_have_written_so(written: object, ids: list[int]) -> None:
    assert sorted(ids_meant(written, {-3, 1, 17, 1234, 17_000, 170_012})) == ids


# ---- in: what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\n1,bug\n99,bug\n", "row 3: id '99' was not asked for"),
        (
            "id,label,batch\n99,bug,1a2b3c4d/0\n",
            "was not asked for by the method that the project has now; tell answers b",
        ),
        ("id,label\n1,bgu\n", "row 2: unknown class 'bgu'. Did you mean 'bug'. Known: billing, bug, other"),
        ("id,label\n,bug\n", "row 2: has a label and no id"),
        ("id,label,seconds\n1,bug,-3\n", "row 2: seconds is '-3', not a number of 0 or more"),
        ("id,label,seconds\n1,bug,soon\n", "row 2: seconds is 'soon'"),
        (
            "id,label\n1,bug\n1,other\n",
            "row 3: says 'other' of id 1, but row 2 says 'bug'. Keep one, or name their ann",
        ),
        ("id,label\n1,?\n1,other\n", "row 3: says 'other' of id 1, but row 2 says '.'"),
        ("id,label,batch\n1,bug,99999999/3\n", "row 2: of batch '99999999/3', which is of another project"),
        ("id,label\n12345678901234567,bug\n", "was not asked for; a spreadsheet keeps 15 digits"),
        ("number,label\n1,bug\n", "unknown column 'id'.* Its header must name it"),
        ("id,lable\n1,bug\n", "unknown column 'label'. Did you mean 'lable'"),
        ("id,label,Label\n1,bug,bug\n", "has 2 columns called 'label'"),
        ("", "is empty"),
        ('id,label\n1,"bug\n', "line 2 is not CSV"),
        ("id,label\n1,bug,more\n", "line 2 has 3 values, but the header names 2 columns"),
    ],
)
def test_a_row_that_is_no_answer_is_named_and_nothing_is_read(tell: Tell, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tell(content)


@pytest.mark.parametrize(
    ("change", "may_go"),
    [
        ({}, True),
        ({"label": "bug"}, True),
        ({"label": "other"}, False),
        ({"label": "bug", "note": "odd"}, False),
        ({"note": "odd"}, False),
        ({"batch": "99999999/0"}, False),
        ({"batch": ""}, False),
        ({"mine": "a column of my own"}, False),
    ],
)
def test_a_query_may_be_written_over_where_nothing_in_it_would_be_lost(
    tmp_path: Path, change: dict[str, str], may_go: bool
) -> None:
    batch = batch_of("a", "b")
    written = write_batch(batch, "csv", project="tickets").decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    rows[0] |= change
    with (tmp_path / "query.csv").open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    told = [Answer(id=0, label=1, source="file")]
    assert is_told(tmp_path / "query.csv", asked_of(batch), told) is may_go


def test_a_table_of_somebody_is_no_query(tmp_path: Path) -> None:
    (tmp_path / "pool.csv").write_text("id,text,label\n1,a,\n")
    assert not is_told(tmp_path / "pool.csv", asked_of(batch_of("a", "b")), [])


def test_all_bad_rows_are_named_up_to_a_number(tell: Tell) -> None:
    content = "id,label\n" + "".join(f"{100 + row},bug\n" for row in range(25))
    with pytest.raises(DataError) as caught:
        tell(content)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("25 rows are no answers, and nothing of the file was recorded:")
    assert lines[1] == "  row 2: id '100' was not asked for."
    assert lines[-1] == "and 5 more"
    assert len(lines) == 22


def test_a_class_that_became_a_date_is_explained(tell: Tell) -> None:
    saved = resave(write_batch(batch_of("a"), "csv", project="p"), lambda row: "1-2")
    with pytest.raises(DataError, match="A spreadsheet makes dates of such classes: enter them with an apostrophe"):
        tell(saved, classes=("1-2", "3-4"))
    saved = resave(write_batch(batch_of("a"), "csv", project="p"), lambda row: "1-2", typed_as_text=True)
    assert said(tell(saved, classes=("1-2", "3-4"))) == {0: 0}


def test_a_workbook_is_to_be_saved_as_csv(tell: Tell) -> None:
    with pytest.raises(DataError, match=r"answers\.xlsx is a workbook. Save its sheet as 'CSV UTF-8'"):
        tell(b"PK\3\4", "answers.xlsx")


def test_the_same_row_twice_is_one_answer(tell: Tell) -> None:
    assert len(tell("id,label,note\n1,bug,\n1,bug,odd\n1,bug,\n").answers) == 1
    assert tell("id,label,note\n1,bug,\n1,bug,odd\n1,bug,\n").answers[0].note == "odd"


# ---- Label Studio's JSON --------------------------------------------------------------------------------------------


def exported(id_: int, *annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    known = {"text": "t", "al_id": id_, "al_project": "tickets", "al_batch": "1a2b3c4d/3"}
    return {"id": 1000 + id_, "data": known | data, "annotations": list(annotations), "predictions": []}


def annotation(label: str | None, by: int = 1, at: str = "2026-11-30T05:00:00.123456Z", **more: Any) -> dict[str, Any]:
    choice = {"type": "choices", "from_name": "label", "to_name": "text", "value": {"choices": [label]}}
    result = [] if label is None else [choice]
    return {"result": result, "was_cancelled": label is None, "completed_by": by, "updated_at": at,
            "lead_time": 2.5} | more  # fmt: skip


def test_an_export_of_label_studio_gives_an_answer_for_every_annotation(tell: Tell) -> None:
    tasks = [
        exported(4, annotation("bug"), annotation("other", by=2, lead_time=None)),
        exported(3, annotation(None)),
        exported(5),
        exported(6, annotation("bug"), al_project="another"),
        exported(6, annotation("bug"), al_batch="99999999/0"),
        exported(99, annotation("bug")),  # of a query before the method changed
        {"id": 1, "data": {"text": "of somebody else"}, "annotations": [annotation("bug")]},
    ]
    reading = tell(json.dumps(tasks), "export.json")
    assert [(each.id, each.label, each.annotator, each.seconds) for each in reading.answers] == [
        (4, 1, "user 1", 2.5),
        (4, 2, "user 2", None),
        (3, None, "user 1", 2.5),
    ]
    assert {each.source for each in reading.answers} == {"label_studio"}
    assert reading.answers[0].at is not None
    assert reading.answers[0].at.isoformat() == "2026-11-30T05:00:00.123000+00:00"
    assert (reading.n_open, reading.n_others) == (1, 4)


def test_of_several_annotations_by_one_person_the_last_counts_whatever_the_order(tell: Tell) -> None:
    early, late = annotation("bug"), annotation("other", at="2026-11-30T06:00:00Z")
    for order in ([early, late], [late, early]):
        assert said(tell(json.dumps([exported(4, *order)]), "export.json")) == {4: 2}


def test_a_submission_without_a_class_abstains(tell: Tell) -> None:
    empty = annotation(None, was_cancelled=False)
    assert said(tell(json.dumps([exported(4, empty)]), "export.json")) == {4: None}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([exported(4, annotation("bgu"))], "task 1004: unknown class 'bgu'. Did you mean 'bug'"),
        ({"tasks": []}, "it must hold a list of tasks"),
        (["text"], "task 1 has no 'data'. Export the project as JSON"),
        ([exported(4, annotation("bug", result=[{"from_name": "label", "value": {"choices": ["bug", "other"]}}]))],
         "names 2 classes"),
    ],
)  # fmt: skip
def test_an_export_that_is_none_is_refused(tell: Tell, tasks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tell(json.dumps(tasks), "export.json")


def test_an_export_that_is_cut_off_or_not_there_is_refused(tell: Tell, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"export\.json is not JSON"):
        tell('[{"data": ', "export.json")
    with pytest.raises(DataError, match=r"nowhere\.json is not there"):
        read_answers(tmp_path / "nowhere.json", asked_of(batch_of("a")))
