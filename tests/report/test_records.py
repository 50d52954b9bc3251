"""Reading the records of a study: what is there, and a clear sentence for what is not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from al_ray.errors import StorageError
from al_ray.records.cell import CellStore
from al_ray.records.study import open_study
from al_ray.report.read import read_study
from al_ray.study.names import Method
from tests.report.study_samples import CLIPPED, CLIPPING, SampleStudy


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    return SampleStudy(tmp_path)


def file_of(cell: CellStore, name: str) -> Path:
    return Path(cell.folder.address) / name


def test_every_recorded_cell_is_one_row_with_its_name_taken_apart(study: SampleStudy) -> None:
    study.cell(filters=CLIPPING, confidence="label_smoothing")
    cell = read_study(study.path).cells.iloc[0]
    assert cell["setting"] == "subj · minilm"
    assert cell["method"] == "label_smoothing + margin + uncertainty_clipping"
    assert cell["base_method"] == "label_smoothing + margin"
    assert (cell["status"], cell["role"], cell["seed"]) == ("done", "query", 42)
    assert (cell["n_rounds"], cell["n_rounds_planned"], cell["stop_reason"]) == (4, 4, "all rounds done")


def test_a_filter_that_does_not_clip_stays_in_the_base_method(study: SampleStudy) -> None:
    study.cell(filters=({"name": "random_subsample"}, *CLIPPING))
    cell = read_study(study.path).cells.iloc[0]
    assert cell["base_method"] == "softmax + margin + random_subsample"
    assert cell["clipping"] == "uncertainty_clipping"


def test_random_queries_with_a_filter_are_no_reference(study: SampleStudy) -> None:
    study.cell(strategy="random")
    study.cell(strategy="random", filters=({"name": "random_subsample"},))
    study.passive(0.9)
    assert sorted(read_study(study.path).cells["role"]) == ["passive", "query", "random"]


def test_rounds_hold_every_metric_and_the_seconds_by_phase(study: SampleStudy) -> None:
    study.cell((0.5, 0.75), metrics={"own.ece": 0.3}, seconds=2.5)
    rounds = read_study(study.path).rounds
    assert rounds["n_labeled"].tolist() == [2, 4]
    assert rounds["accuracy"].tolist() == [0.5, 0.75]
    assert rounds["own.ece"].tolist() == [0.3, 0.3]
    assert rounds["seconds.finetune"].tolist() == [2.5, 2.5]


def test_queries_hold_what_was_asked_and_believed_and_an_abstained_example_has_no_brier_score(
    study: SampleStudy,
) -> None:
    study.cell((0.5, 0.6, 0.7), ids=[7, 5, 3, 1, 2, 4], labels=[0, 1, 0, 1, -1, 1], probs=(0.75, 0.25))
    queried = read_study(study.path).queried
    assert queried.ids_of(0).tolist() == [3, 1, 2, 4]  # not those of the initial query
    assert queried.labels_of(0).tolist() == [0, 1, -1, 1]
    n, confidence, n_right = queried.sums[0]
    assert (n[7], confidence[7], n_right[7]) == (3, 3 * 0.75, 1)
    assert n.sum() == 3
    right, wrong = 2 * 0.25**2, 2 * 0.75**2
    np.testing.assert_allclose(queried.brier, [(right + 2 * wrong) / 3])


def test_passive_cells_have_no_queries_to_speak_of(study: SampleStudy) -> None:
    study.passive(0.9)
    records = read_study(study.path)
    assert not len(records.queried.ids)
    assert not records.queried.has(0)
    assert not records.queried.believed(0)
    assert records.cells["n_rounds_planned"].tolist() == [2]


def test_a_cell_that_runs_or_failed_is_shown_with_its_reason(study: SampleStudy) -> None:
    study.cell(end="running")
    study.cell(seed=43, end="failed")
    cells = read_study(study.path).cells.set_index("seed")
    assert cells["status"].to_dict() == {42: "running", 43: "failed"}
    assert cells["reason"].to_dict() == {42: "", 43: "input: RoundError: the pool is empty"}


def test_planned_cells_without_records_wait(study: SampleStudy) -> None:
    study.plan()
    study.plan(seed=43, filters=CLIPPING)
    study.write_plan()
    study.cell()
    records = read_study(study.path)
    assert records.plan_known
    assert records.cells["status"].tolist() == ["done", "waiting"]
    assert records.cells["base_method"].tolist() == ["softmax + margin", "softmax + margin"]
    assert records.datasets["subj"]["class_counts"] == [30, 10]


def test_a_plan_without_methods_knows_those_of_recorded_cells_and_the_names_of_the_others(study: SampleStudy) -> None:
    study.plan(seed=43, filters=CLIPPING)
    study.plan("max_tokens=30", seed=44, filters=CLIPPING, max_tokens=30)
    study.plan(strategy="entropy", filters=CLIPPING)
    study.plan(strategy="random")
    study.plan(strategy="passive")
    study.methods.clear()
    study.write_plan()
    study.cell(filters=CLIPPING)
    records = read_study(study.path)
    unknown = "softmax + entropy + uncertainty_clipping"
    assert records.cells["method"].tolist() == [
        CLIPPED, CLIPPED, CLIPPED, unknown, "softmax + random", "softmax + passive"
    ]  # fmt: skip
    assert list(records.methods) == list(dict.fromkeys(records.cells["method"]))
    assert records.methods[CLIPPED].unclipped == "softmax + margin"
    assert records.methods[unknown].unclipped == unknown
    assert [method.role for method in records.methods.values()] == ["query", "query", "random", "passive"]


def test_methods_are_values_by_the_name_that_cells_have(study: SampleStudy) -> None:
    study.plan(strategy="random")
    study.write_plan()
    specs = [study.spec(filters=CLIPPING), study.spec(strategy="random")]
    study.cell(filters=CLIPPING)
    assert read_study(study.path).methods == {method.name: method for method in map(Method.of, specs)}


def test_of_a_grid_that_is_given_no_other_cells_are_read(study: SampleStudy) -> None:
    study.plan()
    study.write_plan()
    grid = study.store.plan()
    study.plan(seed=43)
    study.write_plan()
    study.cell()
    study.cell(seed=43)
    assert read_study(study.path).cells["seed"].tolist() == [42, 43]
    assert read_study(study.path, grid=grid).cells["seed"].tolist() == [42]


def test_cells_stand_in_the_order_of_the_plan_and_unplanned_ones_are_kept(study: SampleStudy) -> None:
    study.plan(strategy="random")
    study.plan(strategy="entropy")
    study.write_plan()
    study.cell(strategy="entropy")
    study.cell(strategy="random")
    study.cell(strategy="margin")
    assert read_study(study.path).cells["strategy"].tolist() == ["random", "entropy", "margin"]


def test_without_a_plan_only_recorded_cells_are_known(study: SampleStudy) -> None:
    study.cell()
    records = read_study(study.path)
    assert not records.plan_known
    assert records.datasets == {"subj": {"class_names": ["no", "yes"]}}


def test_what_else_varies_tells_settings_apart_not_methods(study: SampleStudy) -> None:
    study.cell(max_tokens=30, variant="max_tokens=30")
    study.cell(max_tokens=60, variant="max_tokens=60")
    cells = read_study(study.path).cells
    assert cells["setting"].tolist() == ["subj · minilm · max_tokens=30", "subj · minilm · max_tokens=60"]
    assert cells["method"].unique().tolist() == ["softmax + margin"]


def test_a_waiting_variant_is_named_like_a_recorded_one(study: SampleStudy) -> None:
    study.plan("max_tokens=30", max_tokens=30)
    study.plan("max_tokens=60", max_tokens=60)
    study.write_plan()
    study.cell(max_tokens=30, variant="max_tokens=30")
    cells = read_study(study.path).cells
    assert cells["setting"].tolist() == ["subj · minilm · max_tokens=30", "subj · minilm · max_tokens=60"]
    assert cells["method"].unique().tolist() == ["softmax + margin"]


def test_a_copy_under_another_name_reads_the_same(study: SampleStudy, tmp_path: Path) -> None:
    study.cell()
    shutil.copytree(study.path, tmp_path / "elsewhere" / "copy-of-it")
    records = read_study(str(tmp_path / "elsewhere" / "copy-of-it"))
    assert records.store.study == "sample"
    assert len(records.rounds) == 3


def test_a_reason_that_is_no_valid_unicode_is_shown_with_a_mark_in_its_place(study: SampleStudy) -> None:
    study.cell()
    study.begin(seed=43).fail({"kind": "error", "error": "ApiError", "message": "half a character: \ud83d"})
    assert read_study(study.path).cells["reason"].tolist() == ["", "ApiError: half a character: \ufffd"]


def test_a_folder_of_another_kind_beside_the_cells_is_no_cell(study: SampleStudy) -> None:
    study.cell()
    (Path(study.path) / "report").mkdir()
    assert len(read_study(study.path).cells) == 1


def test_a_record_that_was_laid_out_anew_is_still_believed(study: SampleStudy) -> None:
    file = file_of(study.cell(), "round-001.json")
    file.write_text(json.dumps(json.loads(file.read_text()), indent=2))
    assert read_study(study.path).rounds["accuracy"].tolist() == [0.5, 0.6, 0.7]


def test_a_folder_that_is_no_study_is_refused_and_the_studies_inside_are_named(
    study: SampleStudy, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=r"is no study of al_ray: it has no study.json. It holds the study sample"):
        open_study(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=r"is no study .* Name the folder of a study, such as"):
        open_study(str(tmp_path / "empty"))


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no folder .*nowhere"):
        open_study(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file is a file. Name the folder of a study"):
        open_study(str(tmp_path / "file"))


def test_a_study_without_cells_is_refused(study: SampleStudy) -> None:
    with pytest.raises(StorageError, match="is a study without cells: nothing has run yet"):
        read_study(study.path)


def test_a_truncated_record_is_refused_by_name(study: SampleStudy) -> None:
    file = file_of(study.cell(), "round-002.json")
    file.write_bytes(file.read_bytes()[:-20])
    study.cell(seed=43)
    with pytest.raises(StorageError, match=r"1 of 2 cells .*\n .*s42.*round-002.json is truncated or damaged"):
        read_study(study.path)


def test_a_changed_record_is_refused_by_its_checksum(study: SampleStudy) -> None:
    file = file_of(study.cell(), "round-002.json")
    file.write_bytes(file.read_bytes().replace(b'"accuracy":0.6', b'"accuracy":0.9'))
    with pytest.raises(StorageError, match=r"round-002.json was changed after it was recorded"):
        read_study(study.path)


def test_a_record_of_another_round_is_refused(study: SampleStudy) -> None:
    cell = study.cell()
    shutil.copy(file_of(cell, "round-001.json"), file_of(cell, "round-002.json"))
    with pytest.raises(StorageError, match=r"is not the record of round 2"):
        read_study(study.path)


def test_a_missing_round_is_refused(study: SampleStudy) -> None:
    file_of(study.cell(), "round-001.json").unlink()
    with pytest.raises(StorageError, match=r"round-001.json is missing, but round 2 is recorded"):
        read_study(study.path)


def test_an_example_that_is_asked_for_twice_is_refused(study: SampleStudy) -> None:
    cell = study.cell()
    other = study.cell(seed=43, ids=[8, 9, 0, 1, 6, 7])
    shutil.copy(file_of(other, "round-001.json"), file_of(cell, "round-001.json"))
    with pytest.raises(StorageError, match=r"round 1 asks again for example 0"):
        read_study(study.path)


def test_records_of_two_versions_are_refused_with_both_numbers(study: SampleStudy) -> None:
    study.cell(seed=43)
    file = file_of(study.cell(), "spec.json")
    file.write_text(file.read_text().replace('"spec_version": 3', '"spec_version": 1'))
    with pytest.raises(StorageError, match=r"1 of 2 cells .*\n .*spec of version 1, this al_ray reads version 3"):
        read_study(study.path)


def test_damaged_cells_are_left_out_only_when_asked_and_never_silently(study: SampleStudy) -> None:
    study.plan()
    study.plan(seed=43)
    study.write_plan()
    study.cell(seed=43)
    file_of(study.cell(), "round-002.json").write_text("{")
    records = read_study(study.path, skip_damaged=True)
    assert records.cells.set_index("seed")["status"].to_dict() == {42: "failed", 43: "done"}
    assert "truncated" in records.cells.set_index("seed").at[42, "reason"]
    assert "s42" in records.notices[0]
    assert "was left out" in records.notices[0]


def test_a_study_of_damaged_cells_only_is_refused_also_then(study: SampleStudy) -> None:
    file_of(study.cell(), "round-002.json").write_text("{")
    with pytest.raises(StorageError, match="1 of 1 cells"):
        read_study(study.path, skip_damaged=True)
