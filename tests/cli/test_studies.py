"""The studies that come along: each can be laid out, and asks what it says it asks."""

from collections import Counter
from pathlib import Path

import pytest

from al_ray.report.analysis.survey import held_groups, varied_axes
from al_ray.study.file import Execution, load_study
from al_ray.study.names import setting_axes

REPOSITORY = Path(__file__).parents[2]
STUDIES = sorted((REPOSITORY / "pipelines" / "studies").glob("*.yaml"))
NAMED = {
    "softmax_paper", "softmax_paper_as_run", "softmax_laptop", "adaptive_temperature", "label_dispersion",
    "pretrained_or_not", "stochastic_batch", "clipping", "outliers", "confidence_methods", "quickstart",
    "trec6_laptop", "few_labels", "few_labels_published", "optimal_gap", "strategy_choice", "survey", "survey_full",
    "budgets", "margin_is_all_you_need", "cold_starts", "open_sets", "imital",
}  # fmt: skip


def test_every_study_of_the_project_is_there() -> None:
    assert {path.stem for path in STUDIES} == NAMED


def test_the_surveys_change_each_axis_with_all_else_held_and_spend_alike_whatever_the_query_size() -> None:
    for name, n_cells in (("survey", 792), ("survey_full", 100_000)):
        study = load_study(REPOSITORY / "pipelines" / "studies" / f"{name}.yaml")
        assert len(study.cells) == n_cells
        firsts = {names.setting: (study.cells[slug], names) for slug, names in study.names.items()}
        assert {spec.query_size * spec.rounds for spec, _ in firsts.values()} <= {100, 140}
        axes = setting_axes(firsts.values())
        varied = varied_axes(axes)
        assert {"data set", "learner", "n_components", "initial_size", "query_size"} <= set(varied)
        for axis in set(varied) - {"rounds"}:
            assert max(map(len, held_groups(axes, axis, varied).values())) > 1, axis


def test_the_budgets_are_eight_doubled_up_to_512() -> None:
    cells = load_study(REPOSITORY / "pipelines" / "studies" / "budgets.yaml").cells.values()
    assert sorted({spec.initial_size for spec in cells}) == [2**at for at in range(3, 10)]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_can_be_laid_out_and_says_what_it_is_for(path: Path) -> None:
    study = load_study(path)
    assert study.name.replace("-", "_") == path.stem
    assert len(study.description) > 80
    assert any(spec.strategy.name == "random" for spec in study.cells.values()), "nothing to compare with"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_no_study_needs_bf16_instructions_of_a_processor(path: Path) -> None:
    study = load_study(path)
    assert {spec.precision for spec in study.laid_out_for(Execution()).cells.values()} == {"float32"}


@pytest.mark.parametrize("name", ["softmax_paper", "softmax_paper_as_run"])
def test_the_published_grid_has_4900_cells_in_its_published_parts(name: str) -> None:
    cells = load_study(REPOSITORY / "pipelines" / "studies" / f"{name}.yaml").cells.values()
    assert len(cells) == 4900
    strategies = Counter(spec.strategy.name.removeprefix("gonsior2022/") for spec in cells)
    of_one_method = 7 * 2 * 10 * 3
    assert strategies["random"] == strategies["passive"] == 140
    assert strategies["margin"] == strategies["entropy"] == of_one_method
    assert strategies["vote_entropy"] == strategies["consensus_kl"] == of_one_method
    trust = sum("trust_score" in (spec.confidence.name + spec.strategy.name) for spec in cells)
    assert trust == of_one_method
    confidences = Counter(spec.confidence.name.removeprefix("gonsior2022/") for spec in cells)
    for method in ("temperature_scaling", "label_smoothing", "mc_dropout", "inhibited_softmax", "evidential"):
        assert confidences[method] == of_one_method
    assert Counter(spec.model.name for spec in cells) == {"bert-base-uncased": 2450, "roberta-base": 2450}
    assert {spec.seed for spec in cells} == set(range(42, 52))
    as_run = name == "softmax_paper_as_run"
    assert {spec.evaluation for spec in cells} == {"gonsior2022/plain" if as_run else "plain"}
    assert {spec.initial.name for spec in cells} == {"gonsior2022/stratified" if as_run else "stratified"}
    assert all(spec.confidence.name.startswith("gonsior2022/") for spec in cells) == as_run
    assert all((spec.initial_size, spec.query_size, spec.rounds, spec.max_tokens) == (25, 25, 20, 60) for spec in cells)


def test_the_recipe_of_the_published_grid_is_the_published_one() -> None:
    cells = load_study(REPOSITORY / "pipelines" / "studies" / "softmax_paper.yaml").cells
    recipe = next(iter(cells.values())).finetune
    assert (recipe.learning_rate, recipe.epochs, recipe.batch_size, recipe.schedule) == (2e-5, 10, 32, "constant")
    assert (recipe.validation_fraction, recipe.patience, recipe.gradient_clip) == (0.1, 5, 1.0)
