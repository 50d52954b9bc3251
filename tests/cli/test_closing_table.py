"""The closing tables of a run, from records small enough to compute by hand."""

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from al_ray.report.analysis import analyse
from al_ray.report.read import read_study
from al_ray.terminal import result_tables, slice_tables
from tests.report.study_samples import CLIPPING, SampleStudy


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    return SampleStudy(tmp_path)


def printed(study: SampleStudy, *, width: int = 120, **reading: Any) -> str:
    results = analyse(read_study(study.path, **reading), with_arrays=False)
    console = Console(width=width, record=True, file=io.StringIO())
    for table in (*result_tables(results), *slice_tables(results)):
        console.print(table)
    return console.export_text()


def row(text: str, method: str) -> list[str]:
    """Return the cells of a table's line."""
    (line,) = [line for line in text.splitlines() if line.split("  ")[0].strip() == method]
    return [part.strip() for part in line.split("  ") if part.strip()]


def test_labels_saved_are_read_where_the_curve_first_meets_random_s_final_accuracy(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.7, 0.8))
    text = printed(study)
    assert "subj, minilm: test accuracy, mean ± standard deviation over seeds" in text
    (heads,) = [line.split() for line in text.splitlines() if line.strip().startswith("method")]
    assert heads == ["method", "seeds", "labels", "accuracy", "aulc", "vs", "random"]
    assert row(text, "margin") == ["margin", "1", "6", "0.800", "0.667", "+2 of 6"]
    assert row(text, "random") == ["random", "1", "6", "0.700", "0.600", "+0 of 6"]
    assert text.index("margin  ") < text.index("random  ")


def test_labels_saved_are_those_of_the_report_on_curves_of_unequal_length(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.65, 0.75, 0.8))
    study.cell((0.5, 0.65, 0.75), seed=43)
    text = printed(study)
    assert row(text, "margin")[1:3] == ["2", "6 to 8"]
    assert row(text, "margin")[-1] == "+1 of 6"


def test_a_method_that_never_gets_there_says_so(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.55, 0.6))
    assert row(printed(study), "margin")[-1] == "never there"


def test_without_random_there_is_nothing_to_compare_with(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random", filters=CLIPPING)
    study.cell((0.5, 0.7, 0.8))
    study.cell((0.5, 0.7, 0.8), strategy="random", dataset="trec6")
    text = printed(study)
    assert row(text, "margin")[-1] == "-"
    assert row(text, "random + uncertainty_clipping")[-1] == "-"


def test_seeds_are_averaged_and_only_common_ones_compared(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.7, 0.8))
    study.cell((0.1, 0.1, 0.1), seed=43)
    assert row(printed(study), "margin") == ["margin", "2", "6", "0.450 ± 0.495", "0.383 ± 0.401", "+2 of 6"]


def test_what_else_varies_in_a_grid_is_another_line_with_a_random_of_its_own(study: SampleStudy) -> None:
    for variant, epochs, accuracy in (("epochs=9", 9, (0.1, 0.2, 0.3)), ("epochs=15", 15, (0.5, 0.6, 0.7))):
        changes: dict[str, Any] = {"strategy": "random", "finetune": {"epochs": epochs}}
        study.plan(variant, rounds=2, **changes)
        study.cell(accuracy, variant=variant, **changes)
    study.plan("epochs=15", rounds=2, finetune={"epochs": 15})
    study.cell((0.5, 0.7, 0.8), variant="epochs=15", finetune={"epochs": 15})
    study.write_plan()
    text = printed(study)
    assert text.count("subj, minilm: test accuracy") == 1
    assert row(text, "random + epochs=9")[3] == "0.300"
    assert row(text, "random + epochs=9")[1] == "1"
    assert row(text, "margin + epochs=15")[-1] == "+2 of 6"


def test_the_confidence_is_named_where_there_are_several_and_passive_models_have_a_line(study: SampleStudy) -> None:
    study.cell()
    study.cell(confidence="label_smoothing")
    study.passive(0.9)
    text = printed(study)
    assert row(text, "label_smoothing + margin")[1] == "1"
    assert row(text, "softmax + passive") == ["softmax + passive", "1", "40", "0.900", "0.900", "-"]


def test_the_shares_of_the_slices_are_averaged_over_seeds_below_those_of_the_pool(study: SampleStudy) -> None:
    study.plan()
    note = {"class_names": ["no", "yes"], "class_counts": [30, 10], "n_train": 40, "n_test": 4, "source": "made up"}
    study.write_plan({"subj": {**note, "group_counts": {"a b": 16, "junk": 24}}})
    study.cell(metrics={"acquired.a b": 0.9, "acquired.junk": 0.1})
    study.cell(seed=43, metrics={"acquired.a b": 0.7, "acquired.junk": 0.3})
    text = printed(study)
    slices = text[text.index("% of all queries") :]
    assert row(slices, "(the pool)") == ["(the pool)", "40.0", "60.0"]
    assert row(slices, "margin") == ["margin", "80.0", "20.0"]


def test_cells_outside_the_grid_that_ran_are_in_no_closing_table(study: SampleStudy) -> None:
    study.plan(rounds=2)
    study.cell((0.5, 0.7, 0.8))
    study.cell((0.5, 0.9, 0.9), seed=43)
    grid = {"cells": study.planned, "methods": study.methods, "datasets": {}}
    assert row(printed(study, grid=grid), "margin")[1] == "1"
    assert row(printed(study), "margin")[1] == "2"


def test_what_went_to_texts_of_no_class_is_a_column_without_any_slices(study: SampleStudy) -> None:
    study.cell(labels=[0, 1, -1, 0, -1, -1])
    study.cell(labels=[0, 1, 0, 1, 0, 1], strategy="random")
    text = printed(study)
    shares = text[text.index("% of all queries") :]
    assert "(of no class)" in shares
    assert row(shares, "margin") == ["margin", "75.0"]
    assert row(shares, "random") == ["random", "0.0"]


def test_a_narrow_terminal_cuts_no_figure_off(study: SampleStudy) -> None:
    for seed, (strategy, end) in itertools.product(range(5), (("random", 0.6), ("least_confidence", 0.7))):
        study.cell((0.4, 0.5, end + seed / 100), strategy=strategy, seed=seed)
    text = printed(study, width=80)
    assert max(map(len, text.splitlines())) <= 80
    first, second = (line.split() for line in text.splitlines() if "least_confidence" in line)
    assert first == ["least_confidence", "5", "6", "0.720", "±", "0.016", "0.540", "±", "0.005"]
    assert second == ["least_confidence", "+1", "of", "6"]
