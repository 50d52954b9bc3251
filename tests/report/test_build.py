"""The whole report: its content, its files, and what it says where there is little to say."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from al_ray.errors import StorageError
from al_ray.report.analysis import analyse
from al_ray.report.analysis.results import StudyResults
from al_ray.report.build import FOLDER, TABLES, write_report
from al_ray.report.read import read_study
from al_ray.report.verdict import make_verdict
from al_ray.storage.folder import Folder
from tests.report.study_samples import CLIPPED, CLIPPING, MARGIN, RANDOM, TEST, SampleStudy

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    return SampleStudy(tmp_path)


def results_of(study: SampleStudy) -> StudyResults:
    return analyse(read_study(study.path))


def whole(study: SampleStudy) -> SampleStudy:
    """Record a study in which every section has something to show."""
    kinds = {"acquired.junk": 0.5, "acquired.typical": 0.5}
    for seed in range(6):
        study.cell((0.5, 0.6 + seed / 100, 0.7), strategy="random", seed=seed, test=TEST, metrics=kinds)
        study.cell((0.5, 0.7 + seed / 50, 0.8), seed=seed, test=TEST, metrics=kinds)
        study.cell((0.5, 0.75 + seed / 50, 0.85), seed=seed, filters=CLIPPING, test=TEST, metrics=kinds)
    study.passive(0.9, wrong=[2])
    return study


def test_a_whole_study_fills_every_section(study: SampleStudy) -> None:
    results = results_of(whole(study))
    assert [setting.name for setting in results.settings] == ["subj · minilm"]
    assert results.settings[0].passive is not None
    assert results.settings[0].passive.mean == 0.9
    assert {name: method.role for name, method in results.methods.items()} == {
        RANDOM: "random", MARGIN: "query", CLIPPED: "query", "softmax + passive": "passive"
    }  # fmt: skip
    assert results.methods[CLIPPED].unclipped == MARGIN
    assert results.rankings[0].rows[0].method == CLIPPED
    assert results.rankings[0].rows[0].levels[0].labels_saved is not None
    assert results.clipping
    assert {entry.on for entry in results.calibrations} == {"test", "queried"}
    assert results.queries[0].acquired[0].method == "pool"
    assert results.queries[0].overlap[0].jaccard == 1
    assert {cost.method for cost in results.method_costs} >= {RANDOM, MARGIN}
    assert results.versions == {"al_ray": "0.1.0"}
    assert not results.absences


def test_the_page_and_every_table_are_written_inside_the_study_and_hinder_no_later_reading(study: SampleStudy) -> None:
    results, folder = results_of(whole(study)), study.store.folder.child(FOLDER)
    files = [Path(name) for name in write_report(results, folder, made_at=NOW)]
    assert files[0] == Path(study.path) / "report" / "report.html"
    assert {file.name for file in files[1:]} == {f"{name}.{end}" for name in TABLES for end in ("csv", "parquet")}
    assert "2026-01-02 03:04 UTC" in files[0].read_text(encoding="utf-8")
    assert MARGIN in files[0].read_text(encoding="utf-8")
    assert len(read_study(study.path).cells) == 19


def test_both_forms_of_a_table_hold_the_numbers_of_the_page(study: SampleStudy, tmp_path: Path) -> None:
    results = results_of(whole(study))
    write_report(results, Folder.open(str(tmp_path / "out")), made_at=NOW)
    for end, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        ranking = read(tmp_path / "out" / f"ranking.{end}")
        overall = ranking[ranking["setting"] == "all settings"]
        assert overall["method"].tolist() == [row.method for row in results.rankings[0].rows]
        assert overall["aulc"].tolist() == pytest.approx([row.aulc.mean for row in results.rankings[0].rows])
        assert len(read(tmp_path / "out" / f"cells.{end}")) == 19


def test_a_report_that_is_made_again_says_the_same(study: SampleStudy, tmp_path: Path) -> None:
    whole(study)
    for name in ("one", "two"):
        write_report(results_of(study), Folder.open(str(tmp_path / name)), made_at=NOW)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_a_folder_that_is_a_file_is_refused(study: SampleStudy, tmp_path: Path) -> None:
    study.cell()
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"is a file. Name a folder"):
        write_report(results_of(study), Folder.open(str(tmp_path / "taken")), made_at=NOW)


def page(study: SampleStudy, tmp_path: Path) -> str:
    written = write_report(results_of(study), Folder.open(str(tmp_path / "out")), made_at=NOW)
    return Path(written[0]).read_text(encoding="utf-8")


def test_one_cell_makes_a_page_that_compares_nothing(study: SampleStudy, tmp_path: Path) -> None:
    study.cell(test=TEST)
    results = results_of(study)
    assert [row.method for row in results.rankings[0].rows] == [MARGIN]
    assert "compares at least 3" in results.rankings[0].refusal
    assert results.absences["clipping"] == (
        "No method of this study clips. Add a filter such as uncertainty_clipping to its grid to compare."
    )
    assert MARGIN in page(study, tmp_path)


def test_one_seed_has_no_p_value_and_says_why(study: SampleStudy, tmp_path: Path) -> None:
    study.cell((0.5,), strategy="random")
    study.cell((0.6,))
    study.cell((0.7,), strategy="entropy")
    versus = results_of(study).rankings[0].rows[0].versus_random
    assert versus is not None
    assert versus.p_value is None
    assert "1 of 1 pairs differ" in str(versus.refusal)
    assert "Run more seeds" in page(study, tmp_path)


def test_one_method_has_nobody_to_be_compared_with(study: SampleStudy, tmp_path: Path) -> None:
    for seed in range(6):
        study.cell(seed=seed)
    row = results_of(study).rankings[0].rows[0]
    assert row.versus_random is None
    assert row.versus_best is None
    assert row.n_cells == 6
    assert MARGIN in page(study, tmp_path)


def test_a_study_whose_cells_all_failed_says_so_with_the_first_reason(study: SampleStudy, tmp_path: Path) -> None:
    study.cell((0.5, 0.6), end="failed")
    study.cell((0.5, 0.6), end="failed", seed=43)
    results = results_of(study)
    assert results.absences["ranking"] == (
        "All 2 cells of this study failed, so there is nothing to report. "
        "The first says: input: RoundError: the pool is empty. "
        "Mend that and run the study again."
    )
    assert not results.rankings
    assert make_verdict(results).tone == "nothing"
    assert "the pool is empty" in page(study, tmp_path)


def test_a_study_that_has_not_finished_a_cell_yet_says_how_far_it_is(study: SampleStudy, tmp_path: Path) -> None:
    study.plan()
    study.plan(seed=43)
    study.write_plan()
    study.cell((0.5, 0.6, 0.7), end="running")
    results = results_of(study)
    assert results.absences["ranking"] == (
        "No cell is finished yet (1 running, 1 waiting). Report again when the first ones are."
    )
    assert results.learning_curves
    assert "curves" not in results.absences
    assert page(study, tmp_path)


def test_a_study_of_which_nothing_is_recorded_but_its_plan_waits(study: SampleStudy, tmp_path: Path) -> None:
    study.plan()
    study.write_plan()
    results = results_of(study)
    assert results.cells["status"].tolist() == ["waiting"]
    assert "1 waiting" in results.absences["curves"]
    assert page(study, tmp_path)


def test_unequal_budgets_are_said_aloud(study: SampleStudy) -> None:
    study.cell((0.5, 0.6))
    study.cell((0.5, 0.6, 0.7), seed=43)
    assert results_of(study).notices == (
        "Finished cells of subj · minilm end at 4 to 6 labels, so their final accuracies and areas are not made with "
        "equal budgets.",
    )


def test_only_passive_cells_make_a_page_without_a_ranking(study: SampleStudy, tmp_path: Path) -> None:
    study.passive(0.9)
    results = results_of(study)
    assert not results.rankings
    assert results.settings[0].passive is not None
    assert page(study, tmp_path)


def test_missing_cells_are_counted_against_the_plan(study: SampleStudy) -> None:
    for seed in range(3):
        study.plan(seed=seed)
    study.write_plan()
    study.cell(seed=0)
    row = results_of(study).rankings[0].rows[0]
    assert (row.n_cells, row.n_cells_planned) == (1, 3)
