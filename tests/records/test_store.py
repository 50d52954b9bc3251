"""Records: exact, whole, in order, of this study, and of nothing else."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as np_arrays
from pyarrow import fs

from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.errors import StorageError
from al_ray.records.arrays import decode_tables, encode_tables
from al_ray.records.json import canonical_json, cell_fingerprint, changed_fields, fingerprint
from al_ray.records.round import check_rounds, decode_round, encode_round
from al_ray.records.study import StudyStore
from al_ray.storage.folder import Folder
from tests.records.record_samples import SPEC, make_record, make_story, open_cell, run_cell, summary

finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@st.composite
def initial_rounds(draw: st.DrawFn) -> RoundRecord:
    ids = np.array(draw(st.lists(st.integers(0, 2**62), unique=True, max_size=5)), dtype=np.int64)
    n = len(ids)
    abstained = draw(np_arrays(np.bool_, n))
    return RoundRecord(
        round_index=0,
        n_labeled=0,
        query=Query(
            ids=ids,
            scores=draw(np_arrays(np.float64, n, elements=finite)),
            probs=draw(st.none() | np_arrays(np.float64, (n, 2), elements=finite)) if n else None,
        ),
        annotation=Annotation(ids=ids, labels=np.where(abstained, -1, 1), abstained=abstained),
        metrics=draw(st.dictionaries(st.text(), finite, max_size=3)),
        seconds=draw(st.dictionaries(st.text(), finite, max_size=3)),
        stop_reason=draw(st.none() | st.text()),
    )


# ---- canonical JSON


@settings(deadline=None)
@given(json_values)
def test_canonical_json_reads_back_equal_and_is_one_line_of_ascii(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert "\n" not in text


def test_the_fingerprint_does_not_depend_on_the_order_of_keys_or_on_tuples() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_the_fingerprint_is_the_sha256_of_the_canonical_text() -> None:
    # printf '{"a":[1,2.5,null,true]}' | sha256sum
    expected = "115eaa76896da406ea01a2042e1f82177d3eca0e7dcca32db640d9792743f92a"
    assert fingerprint({"a": [1, 2.5, None, True]}) == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64(1.5).astype(np.float32), {1: 2}, object()])
def test_what_json_cannot_hold_is_refused_with_its_place(bad: Any) -> None:
    with pytest.raises(StorageError, match=r"filters\[1\]\.fraction"):
        canonical_json({"filters": [0, {"fraction": bad}]})


def test_changed_fields_are_worded_old_to_new() -> None:
    old = {"finetune": {"learning_rate": 2e-05}, "filters": [], "seed": 1}
    new = {"finetune": {"learning_rate": 5e-05}, "filters": [{"name": "x"}], "seed": 1}
    assert changed_fields(old, new) == [
        "filters: [] -> (not there)",
        'filters[0].name: (not there) -> "x"',
        "finetune.learning_rate: 2e-05 -> 5e-05",
    ]


# ---- rounds


@settings(max_examples=40, deadline=None)
@given(record=initial_rounds())
def test_a_record_reads_back_exactly(record: RoundRecord, tmp_path_factory: pytest.TempPathFactory) -> None:
    cell = open_cell(tmp_path_factory.mktemp("storage"))
    recorded_at = cell.append(record)
    assert cell.rounds()[0].to_json() == record.to_json()
    assert cell.recorded_rounds()[0].recorded_at == recorded_at


def test_a_cell_goes_from_new_to_running_to_done(tmp_path: Path) -> None:
    store = StudyStore.open(str(tmp_path), "softmax")
    cell = store.cell("trec6-margin-s42", fingerprint(SPEC))
    assert cell.status() == "waiting"
    assert not list(tmp_path.iterdir())
    cell = open_cell(tmp_path)
    assert cell.status() == "running"
    run_cell(cell)
    assert (*cell.progress(), summary(cell)) == ("done", 4, {"n_rounds": 4})
    assert [record.to_json() for record in cell.rounds()] == [record.to_json() for record in make_story(3)]
    assert cell.spec() == SPEC


def test_a_failed_cell_is_taken_up_again_and_its_failure_is_kept(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.fail({"error": "out of memory"})
    assert (cell.status(), cell.failure()) == ("failed", {"error": "out of memory"})
    cell.begin(SPEC, {"al_ray": "0.1.1"})
    assert (cell.status(), cell.failure()) == ("running", None)
    first, second = cell.provenance()
    assert first["al_ray"] == "0.1.0"
    assert second["after_failure"]["reason"] == {"error": "out of memory"}


def test_a_cell_that_is_done_stays_as_it_was(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.finish({"accuracy": 0.9})
    cell.finish({"accuracy": 0.1})
    assert summary(cell) == {"accuracy": 0.9}


def test_recording_a_round_again_is_fine_only_when_it_says_the_same(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    first = cell.append(make_record(0))
    slower = RoundRecord(**{**vars(make_record(0)), "seconds": {"query": 99.0}})
    assert cell.append(slower) == first
    assert cell.rounds()[0].seconds == {"query": 0.5}
    with pytest.raises(
        StorageError, match=r"round 0 of cell .* already recorded with other content: .*query\.ids\[2\]"
    ):
        cell.append(make_record(0, size=2))


def test_rounds_are_recorded_in_order(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"round 2 of cell .* cannot be recorded: round 1 is not"):
        open_cell(tmp_path).append(make_record(2))


def test_a_metric_that_is_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    record = RoundRecord(**{**vars(make_record(0)), "metrics": {"ece": float("nan")}})
    with pytest.raises(StorageError, match=r"metrics\.ece is nan"):
        cell.append(record, {"pool": {"id": np.arange(3)}})
    assert cell.n_rounds() == 0
    assert not list((tmp_path / "softmax" / cell.key).glob("round-*"))


def test_a_gap_is_refused_with_the_name_of_the_missing_file(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    run_cell(cell)
    (tmp_path / "softmax" / cell.key / "round-001.json").unlink()
    for read in (cell.rounds, cell.n_rounds):
        with pytest.raises(StorageError, match=r"round-001\.json is missing, but round 2 is recorded"):
            read()


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_record_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    cell = open_cell(tmp_path)
    run_cell(cell)
    file = tmp_path / "softmax" / cell.key / "round-002.json"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(StorageError, match=r"round-002\.json is truncated or damaged"):
        cell.rounds()


def test_a_record_that_was_edited_is_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    run_cell(cell)
    file = tmp_path / "softmax" / cell.key / "round-002.json"
    file.write_text(file.read_text().replace('"accuracy":0.7', '"accuracy":0.8'))
    with pytest.raises(StorageError, match=r"round-002\.json was changed after it was recorded"):
        cell.rounds()


def test_a_record_under_another_rounds_name_is_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    run_cell(cell)
    folder = tmp_path / "softmax" / cell.key
    (folder / "round-002.json").write_bytes((folder / "round-001.json").read_bytes())
    with pytest.raises(StorageError, match=r"round-002\.json is not the record of round 2"):
        cell.rounds()


def test_a_record_of_another_format_is_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    run_cell(cell)
    file = tmp_path / "softmax" / cell.key / "round-002.json"
    file.write_text(file.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(StorageError, match=r"has format 2, this al_ray reads format 1"):
        cell.rounds()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (make_record(1, size=2), "round 1 was fine-tuned on 2 labels, but 3 were answered before it"),
        (RoundRecord(**{**vars(make_record(0)), "round_index": 1, "n_labeled": 3}), "asks again for example 0"),
    ],
)
def test_rounds_that_cannot_follow_from_each_other_are_refused(
    tmp_path: Path, second: RoundRecord, message: str
) -> None:
    cell = open_cell(tmp_path)
    cell.append(make_record(0))
    cell.append(second)
    with pytest.raises(StorageError, match=message):
        cell.rounds()


OLDER = (
    '{"format":1,"record":{"annotation":{"abstained":[true,false],"labels":[-1,1]},"checkpoint":null,"metrics":'
    '{"accuracy":0.6,"loss":1.0,"macro_f1":0.5},"n_labeled":2,"query":{"ids":[2,3],"probs":[[0.1,0.9],[0.1,0.9]],'
    '"scores":[0.2857142857142857,0.42857142857142855]},"round_index":1,"seconds":{"finetune":0.25,"query":0.125},'
    '"stop_reason":null},"recorded_at":"2026-01-02T03:04:05.678+00:00",'
    '"sha256":"92425cad400fa472c9ec5ec9a9eddd748433317eaa43a8aaef8dbc8d5592269e","tables":{"test":4}}'
)


def test_a_round_file_of_an_older_al_ray_is_read_and_still_written_to_the_byte() -> None:
    entry = decode_round("here", 1, OLDER.encode())
    assert entry.record.to_json() == make_record(1, size=2, abstain=True).to_json()
    assert (entry.recorded_at.isoformat(), entry.tables) == ("2026-01-02T03:04:05.678000+00:00", {"test": 4})
    assert encode_round(entry) == OLDER.encode()
    laid_out_anew = json.dumps(json.loads(OLDER), indent=2).encode()
    assert encode_round(decode_round("here", 1, laid_out_anew)) == OLDER.encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ids":[2,3]', '"ids":[2.0,3]'),
        ('"ids":[2,3]', '"ids":[2,true]'),
        ('"ids":[2,3]', '"ids":[2,2]'),
        ('"ids":[2,3]', '"ids":[2,36893488147419103232]'),
        ('"labels":[-1,1]', '"labels":[-1,1,1]'),
        ('"labels":[-1,1]', '"labels":"x"'),
        ('"abstained":[true,false]', '"abstained":[1,0]'),
        ('[[0.1,0.9],[0.1,0.9]]', '[[0.1,0.9],[1.0]]'),
        ('[[0.1,0.9],[0.1,0.9]]', '[0.1,0.9]'),
        ('[[0.1,0.9],[0.1,0.9]]', '[["a","b"],["a","b"]]'),
        ('"accuracy":0.6', '"accuracy":1e999'),
        ('"accuracy":0.6', '"accuracy":null'),
        ('"finetune":0.25', '"finetune":1'),
        ('"n_labeled":2', '"n_labeled":2.0'),
        ('"round_index":1', '"round_index":true'),
        ('"round_index":1', '"round_index":2'),
        ('"stop_reason":null', '"stop_reason":null,"more":1'),
        ('"stop_reason":null', '"stop_reason":5'),
        ('[[0.1,0.9],[0.1,0.9]]', '[[],[]]'),
        ('"checkpoint":null', '"checkpoint":"s3://weights"'),
        ('"checkpoint":null,', ''),
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_refused_though_its_checksum_is_right(old: str, new: str) -> None:
    head, record = OLDER.split('"record":')[0], OLDER.split('"record":')[1].split(',"recorded_at"')[0]
    changed = record.replace(old, new)
    assert changed != record
    digest = hashlib.sha256(changed.encode()).hexdigest()
    text = f'{head}"record":{changed},"recorded_at":"2026-01-02T03:04:05.678+00:00","sha256":"{digest}","tables":{{}}}}'
    with pytest.raises(StorageError, match=r"here is not (a round record|the record of round 1)"):
        decode_round("here", 1, text.encode())


def test_rounds_that_do_not_have_the_same_classes_are_refused() -> None:
    initial, first, second = (make_record(index) for index in range(3))
    check_rounds([initial, first, second], str)
    three = replace(second, query=replace(second.query, probs=np.full((3, 3), 1 / 3)))
    with pytest.raises(StorageError, match="round 2 has beliefs in 3 classes, but there were 2 before it"):
        check_rounds([initial, first, three], str)
    beyond = replace(first, annotation=replace(first.annotation, labels=np.full(3, 2)))
    with pytest.raises(StorageError, match="round 1 was answered with class 2, but there are 2"):
        check_rounds([initial, beyond], str)


def test_an_abstained_example_is_not_counted_as_labelled(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.append(make_record(0, abstain=True))
    cell.append(RoundRecord(**{**vars(make_record(1)), "n_labeled": 2}))
    assert [record.n_labeled for record in cell.rounds()] == [0, 2]


# ---- arrays


def test_two_tables_of_a_round_come_back_with_their_types_and_shapes(tmp_path: Path) -> None:
    tables = {
        "pool": {
            "id": np.arange(5),
            "score": np.array([0.1, np.nan, np.inf, 0.0, -0.0]),
            "probs": np.arange(10, dtype=np.float32).reshape(5, 2),
        },
        "test": {
            "id": np.array([7, 8], dtype=np.int32),
            "log_probs": np.zeros((2, 3), dtype=np.float16),
            "right": np.array([True, False]),
            "kind": np.array(["junk", "tïcket"]),
        },
        "nothing": {"id": np.empty(0, dtype=np.int64), "probs": np.empty((0, 2))},
    }
    cell = open_cell(tmp_path)
    cell.append(make_record(0), tables)
    cell.append(make_record(1))
    read = cell.arrays(0)
    assert read.keys() == tables.keys()
    for name, columns in tables.items():
        assert read[name].keys() == columns.keys()
        for column, values in columns.items():
            assert read[name][column].dtype == values.dtype
            np.testing.assert_array_equal(read[name][column], values)
    assert cell.arrays(1) == {}
    assert len(list((tmp_path / "softmax" / cell.key).glob("*.parquet"))) == 1


def test_equal_arrays_give_equal_bytes() -> None:
    table = {"pool": {"id": np.arange(100), "score": np.linspace(0, 1, 100)}}
    assert encode_tables(table) == encode_tables(table)


def test_every_shape_of_arrays_opens_in_pandas_and_comes_back_exactly_through_pyarrow(tmp_path: Path) -> None:
    tables = {
        "pool": {"id": np.arange(4), "score": np.array([0.5, np.nan, -0.0, np.inf])},
        "stop_set": {"id": np.arange(3), "predicted": np.array([0, 1, 0])},
        "test": {"id": np.arange(2), "log_probs": np.float32([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])},
        "nothing": {"probs": np.empty((0, 5))},
    }
    file = tmp_path / "round-001.parquet"
    file.write_bytes(encode_tables(tables))
    read = pd.read_parquet(file)
    assert read["table"].tolist() == ["pool"] * 4 + ["stop_set"] * 3 + ["test"] * 2
    np.testing.assert_array_equal(np.stack(read["test.log_probs"][7:].tolist()), tables["test"]["log_probs"])
    assert read["test.log_probs"][:7].isna().all()
    column = pq.read_table(file)["test.log_probs"].combine_chunks()
    assert column.drop_null().to_pylist() == tables["test"]["log_probs"].tolist()
    assert decode_tables(file.read_bytes(), "here")["nothing"]["probs"].shape == (0, 5)


def test_a_list_of_another_length_than_its_column_is_refused() -> None:
    field = pa.field("test.x", pa.list_(pa.float64()), metadata={"width": "2"})
    for rows in ([[1.0, 2.0], [3.0]], [[1.0, 2.0], None]):
        table = pa.table([["test", "test"], rows], schema=pa.schema([pa.field("table", pa.string()), field]))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        with pytest.raises(StorageError, match=r"x\.parquet is damaged: a row of test\.x has another length than 2"):
            decode_tables(sink.getvalue(), "x.parquet")


def test_arrays_that_no_record_can_hold_are_refused() -> None:
    with pytest.raises(
        StorageError, match=r"columns of table 'pool' must be equally long, found \{'id': 3, 'score': 2\}"
    ):
        encode_tables({"pool": {"id": np.arange(3), "score": np.zeros(2)}})
    with pytest.raises(StorageError, match=r"array 'pool.x' has shape \(2, 2, 2\)"):
        encode_tables({"pool": {"x": np.zeros((2, 2, 2))}})
    with pytest.raises(StorageError, match="type object"):
        encode_tables({"pool": {"x": np.array([object()])}})


def test_a_flipped_bit_in_the_arrays_is_found() -> None:
    data = bytearray(encode_tables({"pool": {"score": np.random.default_rng(0).normal(size=1000)}}))
    data[len(data) // 2] ^= 1
    with pytest.raises(StorageError, match=r"pool\.parquet is damaged"):
        decode_tables(bytes(data), "pool.parquet")


def test_arrays_that_are_missing_or_another_rounds_are_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.append(make_record(0), {"pool": {"id": np.arange(5)}})
    cell.append(make_record(1), {"pool": {"id": np.arange(4)}})
    folder = tmp_path / "softmax" / cell.key
    (folder / "round-000.parquet").write_bytes((folder / "round-001.parquet").read_bytes())
    with pytest.raises(StorageError, match=r"round-000\.parquet holds the rows \{'pool': 4\}, its record says"):
        cell.arrays(0)
    (folder / "round-000.parquet").unlink()
    with pytest.raises(StorageError, match=r"round-000\.parquet is missing"):
        cell.arrays(0)
    with pytest.raises(StorageError, match=r"round 7 of cell .* is not recorded"):
        cell.arrays(7)


# ---- studies


def test_a_study_lists_its_cells_and_ignores_other_folders(tmp_path: Path) -> None:
    cells = [open_cell(tmp_path, slug=f"trec6-s{seed}", seed=seed) for seed in (1, 2)]
    (tmp_path / "softmax" / "my notes").mkdir()
    (tmp_path / "softmax" / f"begun-not--{'0' * 8}").mkdir()
    found = StudyStore.open(str(tmp_path), "softmax").cells()
    assert [(cell.slug, cell.fingerprint) for cell in found] == [(cell.slug, cell.fingerprint) for cell in cells]


def test_a_study_survives_pickling_to_another_process(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    run_cell(cell)
    assert pickle.loads(pickle.dumps(cell)).n_rounds() == 4


def test_drift_is_refused_field_by_field_with_what_to_do(tmp_path: Path) -> None:
    open_cell(tmp_path)
    store = StudyStore.open(str(tmp_path), "softmax")
    now = {**SPEC, "finetune": {"learning_rate": 5e-05, "epochs": 5}, "seed": 43}
    store.check_drift([])
    with pytest.raises(
        StorageError, match=r"(?s)finetune\.learning_rate: 2e-05 -> 5e-05; seed: 42 -> 43.*Rename the study"
    ):
        store.check_drift((cell, now) for cell in store.cells())


def test_records_of_another_spec_version_are_refused_as_such_and_not_field_by_field(tmp_path: Path) -> None:
    cell = open_cell(tmp_path, spec_version=2)
    now = {**SPEC, "spec_version": 3, "seed": 43}
    with pytest.raises(
        StorageError, match=r"s42--\w+: a spec of version 2, this al_ray writes version 3\n.*Rename the"
    ):
        StudyStore.open(str(tmp_path), "softmax").check_drift([(cell, now)])


def test_where_data_and_model_lie_is_no_drift_and_no_other_cell(tmp_path: Path) -> None:
    content = {"sha256": "2" * 64, "settings_sha256": "3" * 64}
    specs = [
        {**SPEC, "dataset": {"path": path}, "dataset_sha256": "1" * 64, "model": {"name": f"{path}/model", **content}}
        for path in ("here", "there")
    ]
    store = StudyStore.open(str(tmp_path), "softmax")
    store.claim()
    cell = store.cell("trec6-margin-s42", cell_fingerprint(specs[0]))
    for spec in specs:
        cell.begin(spec, {})
        assert cell_fingerprint(spec) == cell.fingerprint
    with pytest.raises(StorageError, match=r"holds the records of another spec: dataset_sha256: \"1+\" -> \"9+\"\.$"):
        cell.begin({**specs[1], "dataset_sha256": "9" * 64}, {})


def test_drift_names_every_cell_up_to_ten(tmp_path: Path) -> None:
    cells = [open_cell(tmp_path, slug=f"s{seed}", seed=seed) for seed in range(12)]
    with pytest.raises(StorageError, match=r"(?s)s0--.*seed: 0 -> -1.*and 2 more cells"):
        StudyStore.open(str(tmp_path), "softmax").check_drift((cell, {**SPEC, "seed": -1}) for cell in cells)


def test_another_studys_folder_is_refused(tmp_path: Path) -> None:
    StudyStore.open(str(tmp_path), "softmax").claim()
    (tmp_path / "softmax").rename(tmp_path / "renamed")
    with pytest.raises(StorageError, match="belongs to the study 'softmax', not 'renamed'"):
        StudyStore.open(str(tmp_path), "renamed").claim()


def test_a_folder_that_is_no_study_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    with pytest.raises(StorageError, match=r"photos is not empty and no study of al_ray: it holds cat\.jpg"):
        StudyStore.open(str(tmp_path), "photos").claim()
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    path.rename(to)


RECORDS_ADVICE = {  # what was done to the folder, what is advised, and how that is followed
    "something else is there, rename": ("photos", "Rename the study, or", lambda at: "another"),
    "something else is there, move": (
        "photos", "or move the folder away", lambda at: _move(at / "softmax", at / "away" / "x")
    ),
    "renamed, give the name back": (
        "renamed", "Give the folder its name back", lambda at: _move(at / "softmax", at / "first") or "first"
    ),
    "renamed, rename": ("renamed", "or rename the study", lambda at: "another"),
    "a cell renamed": (
        "cell renamed", "Give the folder its name back",
        lambda at: _move(next((at / "softmax").glob("x--*")), at / "softmax" / open_cell(at / "copy").key),
    ),
    "no spec": (
        "no spec", "Move the folder away",
        lambda at: _move(next((at / "softmax").glob("trec6*")), at / "away" / "x"),
    ),
    "drift, rename": ("drift", "Rename the study, ", lambda at: "another"),
    "drift, move": (
        "drift", "or move the folders of these cells out of the study",
        lambda at: _move(next((at / "softmax").glob("trec6*")), at / "away" / "x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECORDS_ADVICE)
def test_advice_about_records_can_be_followed(case: str, tmp_path: Path) -> None:
    done, advice, follow = RECORDS_ADVICE[case]
    _spoil(tmp_path, done)
    with pytest.raises(StorageError, match=advice):
        _use(tmp_path, "softmax")
    _use(tmp_path, follow(tmp_path) or "softmax")


def _spoil(storage: Path, how: str) -> None:
    if how == "photos":
        (storage / "softmax" / "photos").mkdir(parents=True)
        return
    if how == "renamed":
        StudyStore.open(str(storage), "first").claim()
        (storage / "first").rename(storage / "softmax")
        return
    cell = open_cell(storage, seed=43 if how == "drift" else 42)
    run_cell(cell)
    if how == "cell renamed":
        Path(cell.folder.address).rename(storage / "softmax" / f"x--{'0' * 8}")
    elif how == "no spec":
        (Path(cell.folder.address) / "spec.json").unlink()


def _use(storage: Path, study: str) -> None:
    """Do what a run does with the records of a study before it starts."""
    store = StudyStore.open(str(storage), study)
    store.claim()
    store.check_drift((cell, SPEC) for cell in store.cells() if cell.fingerprint != fingerprint(SPEC))


def test_claiming_twice_changes_nothing(tmp_path: Path) -> None:
    store = StudyStore.open(str(tmp_path), "softmax")
    store.claim()
    before = (tmp_path / "softmax" / "study.json").read_bytes()
    store.claim()
    assert (tmp_path / "softmax" / "study.json").read_bytes() == before


def test_a_cell_of_another_spec_is_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    with pytest.raises(StorageError, match="holds the records of another spec: seed: 42 -> 43"):
        cell.begin({**SPEC, "seed": 43}, {})


def test_a_cells_folder_that_was_renamed_is_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    (tmp_path / "softmax" / cell.key).rename(tmp_path / "softmax" / f"other--{cell.fingerprint[:8]}")
    with pytest.raises(StorageError, match=f"belongs to the cell {cell.key}"):
        StudyStore.open(str(tmp_path), "softmax").cells()


@pytest.mark.parametrize(
    "name", ["..", "../up", "a/b", "/etc", "", ".hidden", "-x", "a\\b", "ä", "a\n", "x" * 201, "mlflow.db"]
)
def test_names_cannot_leave_the_storage_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match=r"cannot be a folder|MLflow's own"):
        StudyStore.open(str(tmp_path), name)
    if name != "mlflow.db":
        with pytest.raises(StorageError, match="cannot be a folder"):
            StudyStore.open(str(tmp_path), "softmax").cell(name, "0" * 64)


# ---- storage


def test_opening_writes_nothing_and_claiming_makes_the_folders(tmp_path: Path) -> None:
    store = StudyStore.open(str(tmp_path / "deep" / "er"), "softmax")
    assert store.cells() == []
    assert not (tmp_path / "deep").exists()
    store.claim()
    assert store.root == str(tmp_path / "deep" / "er" / "softmax")
    assert (tmp_path / "deep" / "er" / "softmax" / "study.json").is_file()


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StudyStore.open("results", "softmax").storage == str(tmp_path / "results")


def test_a_file_uri_is_the_same_folder(tmp_path: Path) -> None:
    run_cell(open_cell(tmp_path))
    store = StudyStore.open(f"file://{tmp_path}", "softmax")
    assert [cell.n_rounds() for cell in store.cells()] == [4]


@pytest.mark.parametrize("storage", ["s3x://bucket/x", "", "  "])
def test_storage_that_nothing_opens_is_refused(storage: str) -> None:
    with pytest.raises(StorageError, match=r"s3://bucket/folder"):
        StudyStore.open(storage, "softmax")


def test_a_file_is_no_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for storage in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="is a file"):
            StudyStore.open(str(storage), "softmax")


OPEN_AS_ANYBODY = """
import os, sys
from al_ray.errors import StorageError
from al_ray.records.study import StudyStore
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
try:
    StudyStore.open(sys.argv[1], "softmax")
except StorageError as error:
    print(error)
"""


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    # Not pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        command = [sys.executable, "-c", OPEN_AS_ANYBODY, f"{folder}/results"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        assert "cannot be written" in said.stdout
        assert not os.listdir(folder)


def test_free_space_is_that_of_the_disk_and_unknown_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", {tmp_path: disk}.__getitem__)
    assert Folder.open(str(tmp_path / "not" / "yet")).free_bytes() == disk.free
    assert Folder.open("mock://bucket").free_bytes() is None


def test_records_on_another_file_system_are_the_same() -> None:
    elsewhere = fs.FileSystem.from_uri("mock://bucket")[0]
    store = StudyStore(
        "mock://bucket", "softmax", Folder(elsewhere, "results/softmax", "mock://bucket/results/softmax")
    )
    assert store.cells() == []
    store.claim()
    cell = store.cell("trec6", fingerprint(SPEC))
    assert cell.status() == "waiting"
    cell.begin(SPEC, {})
    for record in make_story(3):
        cell.append(record, {"pool": {"id": np.arange(5)}})
    cell.finish({"accuracy": 0.5})
    (again,) = store.cells()
    assert [record.to_json() for record in again.rounds()] == [record.to_json() for record in make_story(3)]
    assert (again.status(), summary(again)) == ("done", {"accuracy": 0.5})
    np.testing.assert_array_equal(again.arrays(2)["pool"]["id"], np.arange(5))
    names = [info.base_name for info in elsewhere.get_file_info(fs.FileSelector("results", recursive=True))]
    assert not [name for name in names if name.endswith(".tmp")]
