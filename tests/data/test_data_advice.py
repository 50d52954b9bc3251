"""What an error about data advises is done here as it is written, and then the data set loads."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.data import datasets, resolve_dataset
from al_ray.errors import AlRayError
from al_ray.study.file import read_yaml

Files = Mapping[str, Any]

ROWS = {"text": ["late parcel", "wrong sum", "no parcel", "paid twice"], "label": ["post", "money"] * 2}
CSV = "text,label\nlate parcel,post\nwrong sum,money\nno parcel,post\npaid twice,money\n"
CUT = {"path": "d.csv", "test_fraction": 0.5}
KEYED = {"text": ["a", "b", "c", "d"], "label": ["x", "y"] * 2, "key": [1, 2, 3, 4], "kind": ["k"] * 4}


def put(folder: Path, files: Files) -> None:
    """Write files: columns, text or bytes by their ending; a file of None is taken away."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        elif isinstance(content, pa.Table) or (isinstance(content, dict) and path.suffix == ".parquet"):
            pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), path)
        elif isinstance(content, dict):
            rows = zip(*content.values(), strict=True)
            path.write_text("".join(json.dumps(dict(zip(content, row, strict=True))) + "\n" for row in rows), "utf-8")
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def named(names: list[str], rows: Mapping[str, Any]) -> pa.Table:
    """Return a table whose metadata names its classes."""
    return pa.table(dict(rows)).replace_schema_metadata({"class_names": json.dumps(names)})


def refusal(option: Any) -> str:
    with pytest.raises(AlRayError) as refused:
        resolve_dataset(option)
    return str(refused.value)


def instead(content: Mapping[str, Any], **columns: Any) -> dict[str, Any]:
    return {**content, **columns}


MENDED_ROWS: list[tuple[Files, str, Files]] = [
    ({"d.csv": ""}, "first line must name the columns", {"d.csv": CSV}),
    ({"d.csv": "text,label\n"}, "A split needs at least one example", {"d.csv": CSV}),
    ({"d.csv": CSV + '"a,x\n'}, "Close every quoted value", {"d.csv": CSV + '"a",post\n'}),
    ({"d.csv": CSV + '"a "b" c",post\n'}, "double the quotes inside it", {"d.csv": CSV + '"a ""b"" c",post\n'}),
    ({"d.csv": CSV + "a, b,post\n"}, "Quote values that hold a comma", {"d.csv": CSV + '"a, b",post\n'}),
    ({"d.csv": CSV + "\n"}, "take out blank lines", {"d.csv": CSV}),
    ({"d.csv": CSV.split("\n", 1)[1]}, "The first line must name the columns", {"d.csv": CSV}),
    ({"d.csv": "text,label,text\na,x,1\nb,y,2\nc,x,3\nd,y,4\n"}, "Rename all but one",
     {"d.csv": "text,label,more\na,x,1\nb,y,2\nc,x,3\nd,y,4\n"}),
    ({"d.csv": CSV + "a,\n"}, "Label every example, or take these rows out", {"d.csv": CSV}),
    ({"d.csv": CSV + " ,post\n"}, "Give every example a text", {"d.csv": CSV + "a,post\n"}),
    ({"d.csv": "text,label\na,x\nb,x\n"}, "at least two classes", {"d.csv": CSV}),
    ({"d.csv": CSV + "z,rare\n"}, "Add examples, or name", {"d.csv": CSV + "z,rare\ny,rare\n"}),
    ({"d.csv": "text,label\na,0\nb,1\nc,0\nd,1\ne,-1\n"}, "leave such rows out",
     {"d.csv": "text,label\na,0\nb,1\nc,0\nd,1\n"}),
    ({"d.csv": b"text,label\n\xc3\xbc,a\nf\xfcr,a\nc,b\nd,b\n"}, "mend the characters that are not",
     {"d.csv": "text,label\nü,a\nfür,a\nc,b\nd,b\n"}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "advice", "after"), MENDED_ROWS, ids=lambda value: str(value)[:40])
def test_a_csv_file_that_is_mended_as_advised_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Files, advice: str, after: Files
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, before)
    assert re.search(advice, refusal(CUT))
    put(tmp_path, after)
    resolve_dataset(CUT)


MENDED_VALUES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"text": ["a", None, "c", "d"]}, "Give every example a text", {}),
    ({"text": ["a", "", "c", "d"]}, "Give every example a text", {}),
    ({"text": [1, 2, 3, 4]}, "Write texts as strings", {"text": ["1", "2", "3", "4"]}),
    ({"text": ["a", "b", "c", "\ud800"]}, "Mend the lone surrogates", {}),
    ({"label": ["x", None, "x", "y"]}, "Label every example", {}),
    ({"label": [0.0, 1.0, 0.0, 1.0]}, "Write class names or indices", {"label": [0, 1, 0, 1]}),
    ({"label": [False, True] * 2}, "Write class names or indices", {"label": ["False", "True"] * 2}),
    ({"label": ["x", "y", 1, "y"]}, "Write one or the other", {"label": ["x", "y", "1", "1"] * 1}),
    ({"key": [1, 1, 2, 3]}, "Give every example an id of its own", {}),
    ({"key": ["a", "b", "c", "d"]}, "number the rows", {"key": [0, 1, 2, 3]}),
    ({"key": [1, 2, 3, 2**63]}, "Ids are 64-bit integers; number the rows", {"key": [0, 1, 2, 3]}),
    ({"kind": ["k", "", "k", "k"]}, "Name the group of every example", {}),
]


@pytest.mark.parametrize(("before", "advice", "after"), MENDED_VALUES, ids=lambda value: ascii(value)[:40])
def test_values_that_are_mended_as_advised_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any], advice: str, after: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    option = {"path": "d.jsonl", "test": "t.jsonl", "id": "key", "group": "kind"}
    test = instead(KEYED, label=after.get("label", KEYED["label"]), key=[7, 8, 9, 10])
    put(tmp_path, {"d.jsonl": instead(KEYED, **before), "t.jsonl": test})
    assert advice in refusal(option)
    put(tmp_path, {"d.jsonl": instead(KEYED, **after)})
    resolve_dataset(option)


def test_ids_that_are_left_out_as_advised_are_row_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, {"d.jsonl": instead(KEYED, key=["a", "b", "c", "d"])})
    option = {"path": "d.jsonl", "test_fraction": 0.5}
    assert "leave the id option out and the row number is the id" in refusal({**option, "id": "key"})
    resolve_dataset(option)


FOLDERS: list[tuple[Files, str, Files]] = [
    ({"d/train.tsv": CSV.replace(",", "\t"), "d/test.csv": CSV}, "Rename or convert the file",
     {"d/train.tsv": None, "d/train.csv": CSV.replace(",", "\t")}),
    ({"d/train.csv": CSV, "d/train.jsonl": ROWS, "d/test.csv": CSV}, "Keep one of them", {"d/train.jsonl": None}),
    ({"d/train-00000-of-00002.csv": CSV, "d/test.csv": CSV}, "Copy the missing parts",
     {"d/train-00001-of-00002.csv": CSV}),
    ({"d/train.parquet": b"PAR1", "d/test.csv": CSV}, "copy it again", {"d/train.parquet": ROWS}),
    ({"d/train-00000-of-00002.parquet": named(["post", "money"], ROWS),
      "d/train-00001-of-00002.parquet": named(["money", "post"], ROWS), "d/test.csv": CSV},
     "Write them all the same way", {"d/train-00001-of-00002.parquet": named(["post", "money"], ROWS)}),
    ({"d/train.parquet": named(["post", "money"], ROWS), "d/test.parquet": named(["money", "post"], ROWS)},
     "Write the files of both splits with the same names", {"d/test.parquet": named(["post", "money"], ROWS)}),
    ({"d/train.parquet": pa.table(ROWS).replace_schema_metadata({"class_names": "x"}), "d/test.csv": CSV},
     "Write the file again", {"d/train.parquet": ROWS}),
    ({"d/train.parquet": pa.table(ROWS).replace_schema_metadata({"class_names": "[1]"}), "d/test.csv": CSV},
     "must be a list of texts", {"d/train.parquet": named(["post", "money"], ROWS)}),
    ({"d/train.parquet": pa.table({"text": pa.array([b"f\xfcr"] * 4).view(pa.string()), "label": ROWS["label"]}),
      "d/test.csv": CSV}, "Write the file again, with texts that are UTF-8", {"d/train.parquet": ROWS}),
    ({"d/train.parquet": named(["post", "money"], ROWS), "d/test.parquet": instead(ROWS, label=["post", "mail"] * 2)},
     "Mend the labels", {"d/test.parquet": ROWS}),
    ({"d/train.jsonl": '{"text": "a",\n"label": "x"}\n', "d/test.csv": CSV}, "Write one object per line",
     {"d/train.jsonl": ROWS}),
    ({"d/train.jsonl": '["a", "x"]\n', "d/test.csv": CSV}, r"Write one {...} per line", {"d/train.jsonl": ROWS}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "advice", "after"), FOLDERS, ids=lambda value: str(value)[:40])
def test_a_folder_that_is_mended_as_advised_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Files, advice: str, after: Files
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, before)
    assert advice in refusal({"path": "d"})
    put(tmp_path, after)
    resolve_dataset({"path": "d"})


def numbered(*labels: Any) -> str:
    return "text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels))


OPTIONS: list[tuple[Files, dict[str, Any], str, dict[str, Any]]] = [
    ({"d.csv": CSV.replace("text", "body", 1)}, CUT, r"\{path: ..., text: ...\}", {"text": "body"}),
    ({"d.csv": CSV.replace("label", "team", 1)}, CUT, r"\{path: ..., label: ...\}", {"label": "team"}),
    ({"d.csv": CSV.replace(",", ";").capitalize()}, CUT, "Did you mean 'Text'", {"text": "Text"}),
    ({"d.csv": CSV}, {"path": "d.csv"}, r"\{path: ..., test_fraction: 0.2\}", {"test_fraction": 0.2}),
    ({"d.csv": CSV, "t.csv": CSV}, {"path": "d.csv"}, r"\{path: ..., test: FILE\}", {"test": "t.csv"}),
    ({"d.csv": CSV}, CUT | {"test": "d.csv"}, "use test_fraction", {"test": None}),
    ({"d.csv": CSV, "t.csv": CSV}, CUT | {"test": "t.csv"}, "Keep one of them", {"test": None}),
    ({"d.csv": CSV, "t.csv": CSV}, CUT | {"test": "t.csv"}, "Keep one of them", {"test_fraction": None}),
    ({"d.csv": CSV}, {"path": "d.csv", "test_fraction": 20.0}, r"must lie in \(0, 1\)", {"test_fraction": 0.2}),
    ({"d/train.csv": CSV, "d/test.csv": CSV}, {"path": "d", "test_fraction": 0.1}, "Leave out test and test_fraction",
     {"test_fraction": None}),
    ({"d.csv": CSV}, CUT | {"path": "  "}, "Name a folder or a file", {"path": "d.csv"}),
    ({"d.csv": CSV}, CUT | {"path": "e.csv"}, r"Did you mean 'd\.csv'\?", {"path": "d.csv"}),
    ({"d.csv": CSV}, CUT | {"name": "My Data"}, "Write for example 'my_data'", {"name": "my_data"}),
    ({"d.csv": CSV}, CUT | {"id": "text"}, "each needs a column of its own", {"id": None}),
    ({"d.csv": CSV}, CUT | {"txt": "text"}, "Did you mean 'text'", {"txt": None}),
    ({"d.csv": CSV}, CUT | {"classes": ["post"]}, "at least two classes", {"classes": ["post", "money"]}),
    ({"d.csv": numbered(1, 2, 1, 2)}, CUT | {"classes": [1, "2"]}, "mixes numbers", {"classes": ["1", "2"]}),
    ({"d.tsv": CSV.replace(",", "\t"), "d.csv": CSV.replace(",", "\t")}, CUT | {"path": "d.tsv"}, "Rename it to .csv",
     {"path": "d.csv"}),
    ({"d.csv": CSV, "h.csv": numbered(-1), "t.csv": CSV}, {"path": "d.csv", "test": "h.csv"},
     r"\{path: TRAINING FILE, test: FILE\}", {"test": "t.csv"}),
    ({"d.csv": CSV + "z,rare\n", "t.csv": CSV}, CUT, r"\{path: \.\.\., test: FILE\}",
     {"test": "t.csv", "test_fraction": None}),
]  # fmt: skip


@pytest.mark.parametrize(("files", "option", "advice", "change"), OPTIONS, ids=lambda value: str(value)[:40])
def test_an_option_that_is_changed_as_advised_loads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Files,
    option: dict[str, Any],
    advice: str,
    change: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, files)
    assert re.search(advice, refusal(option))
    resolve_dataset({key: value for key, value in (option | change).items() if value is not None})


CLASSES: list[tuple[Files, dict[str, Any]]] = [
    ({"d.csv": numbered(1, 2, 3, 1, 2, 3)}, CUT),
    ({"d.csv": numbered(1, 2, 3, 1, 2, 3)}, CUT | {"classes": ["one", "two", "three"]}),
    ({"d.csv": numbered(1, 2, 3, 1, 2, 3)}, CUT | {"classes": [1, 2]}),
    ({"d.csv": numbered(-1, 1, -1, 1)}, CUT),
    ({"d.csv": numbered("01", "02", "01", "02")}, CUT | {"classes": [1, 2]}),
    ({"d.csv": numbered(1, 2), "t.csv": numbered(3)}, {"path": "d.csv", "test": "t.csv"}),
    ({"d.csv": numbered(0, 1), "t.csv": numbered(2, 1)}, {"path": "d.csv", "test": "t.csv"}),
    ({"d.csv": numbered("no", "yes"), "t.csv": numbered("maybe")}, {"path": "d.csv", "test": "t.csv"}),
    ({"d.csv": numbered("no", "yes"), "t.csv": numbered('"C, C++: #1"')}, {"path": "d.csv", "test": "t.csv"}),
    ({"d.csv": numbered("null", "true"), "t.csv": numbered("ham ", '"""q"""')}, {"path": "d.csv", "test": "t.csv"}),
    ({"d.csv": numbered("a", "b", "c")}, {"path": "d.csv", "test": "d.csv2.csv", "classes": ["a", "b"]}),
]


@pytest.mark.parametrize(("files", "option"), CLASSES, ids=lambda value: str(value)[:60])
def test_classes_that_are_named_word_for_word_as_advised_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Files, option: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, {**files, "d.csv2.csv": files["d.csv"]})
    written = re.findall(r"\{path: \.\.\., (classes: \[.*\])\}", refusal(option))
    assert len(written) == 1
    dataset = resolve_dataset(option | read_yaml("the advice", f"{{{written[0]}}}"))
    assert len(set(dataset.train.labels) | set(dataset.test.labels)) == dataset.n_classes


def test_more_classes_than_fit_a_message_are_counted(tmp_path: Path) -> None:
    put(tmp_path, {"d.csv": numbered(*range(1, 81), *range(1, 81))})
    option = {"path": str(tmp_path / "d.csv"), "test_fraction": 0.5}
    assert "{path: ..., classes: [...]}, all 80 of them" in refusal(option)
    assert resolve_dataset(option | {"classes": list(range(1, 81))}).n_classes == 80


def test_the_classes_of_the_file_are_taken_where_none_are_given_as_advised(tmp_path: Path) -> None:
    put(tmp_path, {"d/train.parquet": named(["post", "money"], ROWS), "d/test.csv": CSV})
    option = {"path": str(tmp_path / "d"), "classes": ["money", "post"]}
    assert "The file's own names are taken where none are given: {path: ...}." in refusal(option)
    assert resolve_dataset({"path": option["path"]}).class_names == ("post", "money")


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_command_that_is_advised_makes_a_file_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, ending: str
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"für {i} Öl, “€”" for i in range(4)]
    lines = [f'"{text}",{"xy"[i % 2]}' for i, text in enumerate(texts)]
    if ending == "jsonl":
        rows = ({"text": text, "label": "xy"[i % 2]} for i, text in enumerate(texts))
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    header = ["text,label"] if ending == "csv" else []
    put(tmp_path, {f"my data.{ending}": "\r\n".join([*header, *lines, ""]).encode(encoding)})
    command = refusal({"path": f"my data.{ending}", "test_fraction": 0.5}).partition("in that case by: ")[2]
    subprocess.run(command, shell=True, check=True)
    dataset = resolve_dataset({"path": f"my data_utf8.{ending}", "test_fraction": 0.5})
    assert sorted([*dataset.train.texts, *dataset.test.texts]) == texts


@pytest.mark.parametrize("separator", ["^", "~", ":"])
def test_a_separator_that_is_named_above_the_header_as_advised_is_used(tmp_path: Path, separator: str) -> None:
    option = {"path": str(tmp_path / "d.csv"), "test_fraction": 0.5}
    put(tmp_path, {"d.csv": CSV.replace(",", separator)})
    line = refusal(option).partition("write above them: ")[2]
    assert line == f"sep={separator}"
    put(tmp_path, {"d.csv": f"{line}\n{CSV.replace(',', separator)}"})
    assert resolve_dataset(option).n_classes == 2


def test_a_header_of_two_readings_is_read_as_named_above_it(tmp_path: Path) -> None:
    rows = "text,label,a;text;label\n" + "".join(f"t{i},{'xy'[i % 2]},1;u;v\n" for i in range(4))
    option = {"path": str(tmp_path / "d.csv"), "test_fraction": 0.5}
    put(tmp_path, {"d.csv": rows})
    line = refusal(option).rpartition("above it: ")[2]
    put(tmp_path, {"d.csv": f"{line}\n{rows}"})
    assert resolve_dataset(option).class_names == ("x", "y")


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a ``subj`` in ``AL_RAY_DATA`` that is not as it is declared."""
    monkeypatch.setenv("AL_RAY_DATA", str(tmp_path))
    return tmp_path / "subj"


PINNED: list[tuple[Files, str, dict[str, Any]]] = [
    ({"train.jsonl": {"body": ["a", "b"], "label": [0, 1]}, "test.jsonl": {"body": ["c"], "label": [0]}},
     r"\{path: \.\.\., text: \.\.\.\}", {"text": "body"}),
    ({"train.csv": numbered(0, 1, 2), "test.csv": numbered(0)}, r"\{path: \.\.\., classes: \[0, 1, 2\]\}",
     {"classes": [0, 1, 2]}),
    ({"train.parquet": named(["b", "a"], {"text": ["t", "u"], "label": [0, 1]}), "test.csv": numbered(0)},
     r"are taken where none are given: \{path: \.\.\.\}", {}),
]  # fmt: skip


@pytest.mark.parametrize(("files", "advice", "change"), PINNED, ids=["column", "classes", "order"])
def test_a_folder_of_a_registered_name_loads_by_its_path_as_advised(
    pinned: Path, files: Files, advice: str, change: dict[str, Any]
) -> None:
    put(pinned, files)
    assert re.search(advice, refusal("subj"))
    resolve_dataset({"path": str(pinned), **change})


def test_a_registered_folder_that_is_completed_as_advised_loads(pinned: Path) -> None:
    put(pinned, {"train.csv": numbered(0, 1)})
    assert "Copy test.parquet there" in refusal("subj")
    put(pinned, {"test.parquet": {"text": ["t"], "label": [0]}})
    resolve_dataset("subj")
    assert "Leave it out to use all examples" in refusal({"name": "subj", "keep_test": 1})


def test_a_variable_that_is_set_as_advised_names_data_sets(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pinned.parent, {"mine/train.csv": CSV, "mine/test.csv": CSV})
    monkeypatch.setenv("AL_RAY_DATA", str(pinned.parent / "gone"))
    assert "Set it to one that holds NAME/train.parquet and NAME/test.parquet" in refusal("mine")
    monkeypatch.delenv("AL_RAY_DATA")
    advice = refusal("mine")
    assert "Name files of your own by their path, {path: ..., text: ..., label: ...}" in advice
    resolve_dataset({"path": str(pinned.parent / "mine"), "text": "text", "label": "label"})
    assert "or put a folder of that name where AL_RAY_DATA points" in advice
    monkeypatch.setenv("AL_RAY_DATA", str(pinned.parent))
    resolve_dataset("mine")


def test_the_example_of_an_option_without_a_name_is_one() -> None:
    written = re.search(r"Write for example (\{name: \w+\})", refusal({"seed": 3}))
    assert written
    assert datasets.build(read_yaml("the advice", written[1]))


@pytest.mark.parametrize("option", ["n_train", "n_test"])
def test_a_size_of_tickets_within_the_bounds_that_are_named_is_one(option: str) -> None:
    least, most = re.findall(r"\[(\d+), (\d+)\]", refusal({"name": "tickets", option: 1}))[0]
    for size in (least, most):
        assert datasets.build({"name": "tickets", option: int(size)})
