"""The forecast of a study's time: measured on the path of its cells; and what a cell costs beside the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.runtime.pool import text_table
from al_ray.study import measure
from al_ray.study.file import Execution, Study
from al_ray.study.forecast import SIDE_BY_SIDE, START_UP_S, cell_cost, measured_seconds, round_costs
from al_ray.study.plan import Plan, PlannedCell, dataset_key, plan_study
from al_ray.study.run import run_study
from tests.model import tiny

RECIPE = {"epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_bert(tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture
def planned(bert: str, tmp_path: Path) -> Any:
    def plan(**values: Any) -> Plan:
        block = {
            "dataset": {"name": "tickets", "n_train": 120, "n_test": 40},
            "model": bert,
            "max_tokens": 30,
            "strategy": "margin",
            "initial_size": 20,
            "query_size": 10,
            "rounds": 3,
            "seed": [1, 2],
            "finetune": RECIPE,
        }
        return plan_study(Study(study="timed", grid=[{**block, **values}]), str(tmp_path / "none"))

    return plan


def seconds_of(plan: Plan, lanes: int = 1, **execution: Any) -> float | None:
    return measured_seconds(plan, Execution(**execution), lanes, is_local=True)


@pytest.mark.parametrize("finetune", [RECIPE, {"frozen_layers": "all"}, {"frozen_layers": "all", "solver": "lbfgs"}])
def test_every_learner_is_measured_on_its_own_path(planned: Any, finetune: dict[str, Any]) -> None:
    seconds = seconds_of(planned(finetune=finetune, strategy=["margin", "typiclust", "passive"]))
    assert seconds is not None
    assert 0 < seconds < 600


def test_cells_of_one_kind_are_measured_once(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    for name in ("_measure", "_measure_rounds", "_encode"):
        whole = getattr(measure.Pace, name)

        def counted(self: Any, *args: Any, name: str = name, whole: Any = whole) -> Any:
            measured.append(name)
            return whole(self, *args)

        monkeypatch.setattr(measure.Pace, name, counted)
    seconds_of(planned(seed={"range": [0, 30]}))
    assert measured == ["_measure"]
    seconds_of(planned(seed={"range": [0, 30]}, finetune={"frozen_layers": "all"}, strategy=["margin", "entropy"]))
    assert measured.count("_measure_rounds") == 2


def test_time_is_what_was_measured_times_what_is_counted(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = measure.Speed(fit_s=100.0, step_s=1.0, score_s=0.01)
    monkeypatch.setattr(measure.Pace, "speed", lambda *args: speed)
    # A tenth is held out, and scored after every epoch: 20, 30, 40 and 50 labels, two epochs each.
    steps, held_out = 0.9 * 140 * 2, 0.1 * 140 * 2
    scored = 4 * 40 + (100 + 90 + 80) + held_out
    of_cell = 4 * 100 + steps + 0.01 * scored
    assert seconds_of(planned()) == pytest.approx(2 * of_cell)
    on_ray = measured_seconds(planned(), Execution(), 1, is_local=False)
    assert on_ray == pytest.approx(2 * of_cell + START_UP_S)
    on_two_lanes = measured_seconds(planned(), Execution(), 2, is_local=False)
    assert on_two_lanes == pytest.approx(SIDE_BY_SIDE * of_cell + START_UP_S)


def test_rounds_between_two_sizes_take_what_lies_between(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.Pace, "_measure_rounds", lambda *args: [(20, 1.0), (50, 4.0)])
    monkeypatch.setattr(measure.Pace, "_encode", lambda *args: (0.5, 32))
    plan = planned(finetune={"frozen_layers": "all"}, seed=1)
    assert seconds_of(plan) == pytest.approx(1 + 2 + 3 + 4 + 160 * 0.5)


@pytest.mark.parametrize(
    "once",
    [
        {"strategy": {"name": "optimal", "n_annealed": 7, "n_greedy": 0}},
        {"filters": [{"name": "exclude_hardest", "keep": 0.9}]},
    ],
    ids=["a search", "a model of everything"],
)
def test_what_a_cell_does_once_is_counted_in_its_first_round_alone(
    planned: Any, monkeypatch: pytest.MonkeyPatch, once: dict[str, Any]
) -> None:
    def run_round(self: Any, loop: Any, classifier: Any, n_labeled: int) -> float:
        is_whole = loop.strategy.needs_hindsight or any(each.needs_hardness for each in loop.filters)
        assert loop.rounds == (3 if is_whole else 1)
        return 100.0 if is_whole else n_labeled / 10

    monkeypatch.setattr(measure.Pace, "_run_round", run_round)
    monkeypatch.setattr(measure.Pace, "_encode", lambda *args: (0.0, 32))
    plan = planned(finetune={"frozen_layers": "all", "solver": "lbfgs"}, seed=1, **once)
    assert seconds_of(plan) == pytest.approx(100 + 3 + 4 + 5)


def test_kinds_that_are_not_measured_follow_from_the_options_of_those_that_are(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost_of = {"margin": 1.0, "entropy": 2.0, "badge": 8.0, "random": 0.5, "core_set": 4.0}
    measured: list[tuple[str, int]] = []

    def made(self: Any, spec: Any, dataset: Any, model: Any) -> list[tuple[int, float]]:
        measured.append((spec.strategy.name, spec.query_size))
        return [(20, found := cost_of[spec.strategy.name] * spec.query_size), (50, found)]

    monkeypatch.setattr(measure, "N_METHODS", 10)
    monkeypatch.setattr(measure, "PRIOR", 1e-6)
    monkeypatch.setattr(measure.Pace, "_measure_rounds", made)
    monkeypatch.setattr(measure.Pace, "_encode", lambda *args: (0.0, 32))
    plan = planned(finetune={"frozen_layers": "all"}, strategy=[*cost_of], query_size=[1, 3, 10], rounds=[2, 5], seed=1)
    # A cell has a round more than it has queries.
    wanted = sum(cost * size * (rounds + 1) for cost in cost_of.values() for size in (1, 3, 10) for rounds in (2, 5))
    assert seconds_of(plan) == pytest.approx(wanted, rel=1e-3)
    assert len(measured) == 10
    assert {name for name, _ in measured} == set(cost_of)
    assert {size for _, size in measured} == {1, 3, 10}


@given(st.integers(1, 60), st.lists(st.integers(1, 4), max_size=4), st.integers(5, 12))
def test_what_is_measured_has_every_value_of_every_option(n: int, sizes: list[int], most: int) -> None:
    rows = [[(at // (step + 1)) % size for step, size in enumerate(sizes)] for at in range(n)]
    levels = np.array(rows, dtype=np.int64).reshape(n, len(sizes))
    chosen = measure._spread(levels, most)
    assert len(set(chosen)) == len(chosen) == min(n, most)
    if sum(sizes) <= most:
        for column in range(len(sizes)):
            assert set(levels[chosen, column]) == set(levels[:, column])


@pytest.mark.parametrize(
    "sizes",
    [
        {"rounds": 0, "initial_size": 115},
        {"rounds": 100, "stopping": ["pool_exhausted"]},
        {"rounds": 100, "stopping": ["pool_exhausted"], "filters": [{"name": "uncertainty_clipping", "fraction": 0.3}]},
    ],
    ids=["no query", "all of the pool", "what clipping leaves of the pool"],
)
def test_rounds_are_measured_where_they_have_candidates(planned: Any, sizes: dict[str, Any]) -> None:
    seconds = seconds_of(planned(finetune={"frozen_layers": "all"}, seed=1, **sizes))
    assert seconds is not None
    assert 0 < seconds < 600


def test_texts_are_encoded_with_the_tokens_of_their_own_model(
    planned: Any, bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roberta = str(tiny.save_roberta(tmp_path / "roberta"))
    read: list[tuple[set[str], str]] = []

    def encoding_s(self: Any, specs: Any, dataset: Any, model: Any) -> float:
        read.append(({spec.model.name for spec in specs}, model.name))
        return 0.0

    monkeypatch.setattr(measure.Pace, "encoding_s", encoding_s)
    seconds_of(planned(model=[bert, roberta], finetune={"frozen_layers": "all"}))
    assert read == [({bert}, bert), ({roberta}, roberta)]


def test_what_the_storage_has_already_takes_no_time(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.Pace, "encoding_s", lambda *args: 1000.0)
    monkeypatch.setattr(measure.Pace, "rounds_s", lambda self, kinds: [1.0] * len(kinds))
    plan = planned(finetune={"frozen_layers": "all"})
    found = [
        measured_seconds(plan, Execution(), 1, is_local=True, unencoded=lambda key, share=share: share)  # type: ignore[misc]
        for share in (1.0, 0.25, 0.0)
    ]
    assert found == [1002.0, 252.0, 2.0]


def test_what_cannot_be_measured_here_is_not_guessed(planned: Any) -> None:
    assert seconds_of(planned(), gpus_per_worker=1.0) is None
    plan = planned()
    assert seconds_of(replace(plan, missing=("the model is not here",))) is None
    done = tuple(replace(cell, status="done") for cell in plan.cells)
    assert seconds_of(replace(plan, cells=done)) == 0


def test_a_table_of_texts_is_sorted_by_id(planned: Any) -> None:
    [dataset] = planned().datasets.values()
    ids = text_table(dataset.train)["id"].to_pylist()
    assert ids == sorted(ids)


def cost_of(plan: Plan, cell: PlannedCell) -> float:
    model = plan.models[cell.spec.model.name, cell.spec.model.revision]
    return cell_cost(cell, plan.datasets[dataset_key(cell.spec.dataset)], plan.facts[model])


def test_a_cell_costs_what_is_left_of_it_by_the_models_and_texts_in_it(planned: Any) -> None:
    larger = {"name": "tickets", "n_train": 240, "n_test": 40}
    plans = planned(), planned(dataset=larger), planned(confidence="ensemble")
    plain, more_texts, members = (plan.cells[0] for plan in plans)
    cost = cost_of(plans[0], plain)
    assert cost_of(plans[1], more_texts) > cost
    assert cost_of(plans[2], members) > 3 * cost
    less, least = (cost_of(plans[0], replace(plain, n_recorded=n)) for n in (3, 99))
    assert 0 < least < less < cost


def test_watching_the_labelled_costs_them_once_an_epoch_in_every_round_that_asks(planned: Any) -> None:
    specs = [planned(strategy=name).cells[0].spec for name in ("entropy", "tidal")]
    plain, watching = (round_costs(spec, 120, 40) for spec in specs)
    n_labeled = [specs[0].initial_size + n * specs[0].query_size for n in range(specs[0].rounds)]
    more = [specs[0].finetune.epochs * n for n in n_labeled]
    assert np.subtract(watching, plain).tolist() == pytest.approx([*more, 0])


def test_lanes_are_given_the_longest_cells_first_and_those_of_equal_cost_in_the_order_of_the_study(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(dataset=[{"name": "tickets", "n_train": n, "n_test": 40} for n in (120, 240)],
                   confidence=["softmax", "ensemble"])  # fmt: skip
    given: list[Any] = []
    monkeypatch.setattr("al_ray.study.run.run_grid", lambda **options: given.append(options))
    run_study(plan, Execution(storage=str(plan.store.root), tracking="off"), local=False, listener=lambda event: None)
    cells = given[0]["cells"]
    assert [cell.cost for cell in cells] == sorted((cell.cost for cell in cells), reverse=True)
    assert len({cell.cost for cell in cells}) == 4
    kinds = [(cell.spec["confidence"]["name"], cell.spec["dataset"]["n_train"], cell.spec["seed"]) for cell in cells]
    assert kinds == [(name, n, seed) for name in ("ensemble", "softmax") for n in (240, 120) for seed in (1, 2)]
    assert list(given[0]["pools"]) == list(dict.fromkeys(cell.pool_key for cell in cells))
