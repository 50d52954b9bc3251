"""Runs of methods in MLflow say what the analysis says, live and rebuilt, and saved views stay a person's own."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import al_ray
from al_ray.records.study import StudyStore
from al_ray.report.analysis.results import StudyResults
from al_ray.report.method_runs import LiveMethods, method_colours, method_runs
from al_ray.strategy import strategies
from al_ray.study.file import tracks_cells
from al_ray.study.names import name_cells
from al_ray.study.plan import PlannedCell
from al_ray.study.spec import CellSpec
from al_ray.tracking.mlflow import MethodRun, Projection, sync
from al_ray.tracking.tracker import Tracker
from al_ray.tracking.views import saved_views
from tests.tracking import mlflow_view
from tests.tracking.mlflow_view import values, without_ids
from tests.tracking.tracked_study import N_METHODS, SEEDS, slug_of, specs, write_study
from tests.waiting import PATIENCE_S


@pytest.fixture
def storage(tmp_path: Path, migrated: Path) -> Path:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return tmp_path


def uri(storage: Path) -> str:
    return f"sqlite:///{storage}/mlflow.db"


def shown(storage: Path, kind: str = "method") -> dict[str, dict[str, Any]]:
    found = mlflow_view.shown(uri(storage), "methods")
    return {name: view for name, view in found.items() if view["tags"]["al_ray.kind"] == kind}


def plan_of(store: StudyStore, cells: Sequence[CellSpec], status: str = "waiting") -> Any:
    planned = [
        PlannedCell(slug=slug_of(spec), spec=spec, names=names, fingerprint=spec.fingerprint(), status=status)
        for spec, names in zip(cells, name_cells(cells), strict=True)
    ]
    return SimpleNamespace(store=store, cells=tuple(planned))


def experiment_tags(storage: Path) -> dict[str, str]:
    from mlflow import MlflowClient

    return dict(MlflowClient(tracking_uri=uri(storage)).get_experiment_by_name("methods").tags)


def set_experiment_tag(storage: Path, name: str, value: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri(storage))
    client.set_experiment_tag(client.get_experiment_by_name("methods").experiment_id, name, value)


def test_the_runs_of_methods_have_the_values_of_the_results(storage: Path) -> None:
    store = write_study(storage, specs())
    results: StudyResults = al_ray.results(store.root)
    sync(store, uri(storage), method_runs(results))
    runs = shown(storage)
    assert len(runs) == N_METHODS
    for row in results.rankings[1].rows:
        view = runs[row.method]
        figures = {name: value for name, step, value in values(view) if step == 0}
        assert figures["aulc"] == row.aulc.mean
        assert figures["final_accuracy"] == row.final_accuracy.mean
        assert figures["n_seeds"] == len(SEEDS)
        curve = results.curves[results.curves["method"] == row.method]
        points = {step: value for name, step, value in values(view) if name == "accuracy"}
        assert points == dict(zip(curve["n_labeled"], curve["mean"], strict=True))
        method = results.methods[row.method]
        wanted = {"confidence": method.confidence, "strategy": method.strategy, "learner": "full", "dataset": "trec6"}
        assert view["params"].items() >= (wanted | {"filters": " + ".join(method.filters) or "none"}).items()


def test_methods_that_a_live_study_shows_are_those_of_a_rebuild(storage: Path, migrated: Path) -> None:
    cells = specs()
    store = write_study(storage, cells)
    plan = plan_of(store, cells)
    tracker = Tracker(store, uri(storage), LiveMethods(plan), live_s=0.0)
    tracker.start()
    for cell in plan.cells:
        tracker.cell_started(cell.key, cell.spec.to_json())
        tracker.cell_finished(cell.key, "done")
    assert tracker.close(PATIENCE_S)
    live = without_ids(mlflow_view.shown(uri(storage), "methods"))
    shutil.copy(migrated, storage / "mlflow.db")
    sync(store, uri(storage), method_runs(al_ray.results(store.root)))
    assert without_ids(mlflow_view.shown(uri(storage), "methods")) == live


def test_a_study_of_too_many_cells_shows_its_methods_alone_and_how_it_ended(storage: Path, migrated: Path) -> None:
    cells = specs()
    store = write_study(storage, cells)
    sync(store, uri(storage), method_runs(al_ray.results(store.root)), tracks_cells=False)
    rebuilt = without_ids(mlflow_view.shown(uri(storage), "methods"))
    assert shown(storage, "cell") == {}
    assert len(shown(storage)) == N_METHODS
    (run,) = shown(storage, "study").values()
    assert run["status"] == "FINISHED"
    shutil.copy(migrated, storage / "mlflow.db")
    plan = plan_of(store, cells)
    tracker = Tracker(store, uri(storage), LiveMethods(plan), tracks_cells=False, live_s=0.0)
    tracker.start()
    for cell in plan.cells:
        tracker.cell_started(cell.key, cell.spec.to_json())
        tracker.round_recorded(cell.key)
        tracker.cell_finished(cell.key, "done")
    assert tracker.close(PATIENCE_S)
    assert without_ids(mlflow_view.shown(uri(storage), "methods")) == rebuilt


@pytest.mark.parametrize(("ends", "status"), [(("done", "failed"), "FAILED"), (("done",), "KILLED")])
def test_the_run_of_a_study_without_runs_of_cells_ends_as_its_cells_did(
    storage: Path, ends: tuple[str, ...], status: str
) -> None:
    store = write_study(storage, specs())
    keys = [cell.key for cell in store.cells()]
    tracker = Tracker(store, uri(storage), tracks_cells=False)
    tracker.start()
    for key, end in itertools.zip_longest(keys[:2], ends):
        tracker.cell_started(key, {})
        if end is not None:
            tracker.cell_finished(key, end)
    assert tracker.close(PATIENCE_S)
    (run,) = shown(storage, "study").values()
    assert run["status"] == status


def test_cells_are_tracked_up_to_a_thousand_unless_it_is_said_otherwise() -> None:
    assert [tracks_cells("auto", n) for n in (1, 1000, 1001)] == [True, True, False]
    assert (tracks_cells("all", 100_000), tracks_cells("none", 1)) == (True, False)


def test_a_study_that_goes_on_shows_the_cells_of_before_in_its_means(storage: Path) -> None:
    cells = specs()
    store = write_study(storage, cells)
    plan = plan_of(store, cells[:-1], "done")
    plan.cells += plan_of(store, cells[-1:]).cells
    methods = LiveMethods(plan, wait_s=0.0)
    last = plan.cells[-1]
    methods.cell_ended(last.key, store.cell(last.slug, last.fingerprint).recorded_rounds(), is_done=True)
    (run,) = methods.due()
    assert run in method_runs(al_ray.results(store.root))
    methods.shown(run)
    assert methods.due(is_last=True) == []


def test_a_method_is_shown_at_1_2_5_cells_and_when_none_is_left() -> None:
    cells = [spec.model_copy(update={"seed": seed}) for spec in specs()[:1] for seed in range(8)]
    store = SimpleNamespace(cell=lambda slug, fingerprint: SimpleNamespace(recorded_rounds=list))
    plan = plan_of(store, cells)  # type: ignore[arg-type]
    methods = LiveMethods(plan, wait_s=0.0)
    record = SimpleNamespace(record=SimpleNamespace(metrics={"accuracy": 0.5}, n_labeled=3))
    numbers = []
    for cell in plan.cells:
        methods.cell_ended(cell.key, [record], is_done=True)  # type: ignore[list-item]
        for run in methods.due():
            numbers.append(run.figures["n_seeds"])
            methods.shown(run)
    assert numbers == [1, 2, 5, 8]
    waiting = LiveMethods(plan, wait_s=PATIENCE_S)
    waiting.cell_ended(plan.cells[0].key, [record], is_done=True)  # type: ignore[list-item]
    assert waiting.due() == []
    assert len(waiting.due(is_last=True)) == 1


def test_ramp_up_and_plateau_are_shown_when_random_queries_are_finished_as_a_report_has_them(storage: Path) -> None:
    cells = specs()[: len(SEEDS)]
    cells = [*cells, *(spec.model_copy(update={"strategy": strategies.build("random")}) for spec in cells)]
    store = write_study(storage, cells)
    methods = LiveMethods(plan_of(store, cells), wait_s=0.0)
    by_seed = sorted(plan_of(store, cells).cells, key=lambda cell: cell.spec.seed)
    for cell in by_seed[:-1]:
        methods.cell_ended(cell.key, [], is_done=True)
    assert by_seed[-1].spec.strategy.name == "random"
    early = {run.name: run.figures for run in methods.due()}
    assert "ramp_up_aulc" not in early["softmax + margin"]
    methods.cell_ended(by_seed[-1].key, [], is_done=True)
    late = {run.name: run for run in methods.due()}
    rebuilt = {run.name: run for run in method_runs(al_ray.results(store.root))}
    assert late == rebuilt
    row = next(row for row in al_ray.results(store.root).rankings[0].rows if row.method == "softmax + margin")
    assert row.ramp_up_aulc is not None
    assert late["softmax + margin"].figures["ramp_up_aulc"] == row.ramp_up_aulc.mean


def test_a_study_that_ends_with_random_queries_left_shows_what_a_report_of_it_has(storage: Path) -> None:
    cells = specs()[: len(SEEDS)]
    cells = [*cells, *(spec.model_copy(update={"strategy": strategies.build("random")}) for spec in cells)]
    store = write_study(storage, cells[:-1])
    plan = plan_of(store, cells)
    methods = LiveMethods(plan, wait_s=0.0)
    for cell in plan.cells[:-1]:
        methods.cell_ended(cell.key, [], is_done=True)
        for run in methods.due():
            methods.shown(run)
    runs = {run.name: run for run in methods.due(is_last=True)}
    assert runs == {run.name: run for run in method_runs(al_ray.results(store.root))}
    assert {"ramp_up_aulc", "plateau_aulc"} <= runs["softmax + margin"].figures.keys()


def test_a_method_that_changed_is_one_run_and_a_sync_changes_nothing_more(storage: Path) -> None:
    cells = specs()
    store = write_study(storage, [spec for spec in cells if spec.seed != SEEDS[-1]])
    sync(store, uri(storage), method_runs(al_ray.results(store.root)))
    before = shown(storage)
    write_study(storage, [])
    missing = [spec for spec in cells[:3] if spec.seed == SEEDS[-1]]
    write_study(storage, missing)
    results = al_ray.results(store.root)
    sync(store, uri(storage), method_runs(results))
    after = shown(storage)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name]["id"] != before[name]["id"]}
    assert changed == {results.cells.loc[results.cells["seed"] == SEEDS[-1], "method"].item()}
    assert sync(store, uri(storage), method_runs(results)).n_runs == 0
    assert shown(storage) == after


def test_methods_that_the_study_no_longer_has_are_taken_away(storage: Path) -> None:
    store = write_study(storage, specs())
    runs = method_runs(al_ray.results(store.root))
    sync(store, uri(storage), runs)
    sync(store, uri(storage), runs[1:])
    assert shown(storage).keys() == {run.name for run in runs[1:]}


def test_a_run_that_was_made_and_not_filled_is_replaced(storage: Path) -> None:
    store = write_study(storage, specs())
    (first, *_) = method_runs(al_ray.results(store.root))
    projection = Projection(store, uri(storage))
    projection._create(first.name, "method", {"al_ray.method": first.key}, None)
    sync(store, uri(storage), [first])
    assert len(values(shown(storage)[first.name])) == len(first.points(projection_time()))


def projection_time() -> Any:
    from al_ray.records.round import now

    return now()


def test_each_setting_has_a_view_of_its_own_where_there_are_several(storage: Path) -> None:
    store = write_study(storage, [*specs(), *specs("ag_news")])
    sync(store, uri(storage), method_runs(al_ray.results(store.root)))
    found = [json.loads(text)["name"] for tag, text in experiment_tags(storage).items() if "sharedViewState" in tag]
    four = ["Cells", "Learning curves", "Ranking", "What matters"]
    assert sorted(found) == [*four[:3], "Setting ag_news · minilm", "Setting trec6 · minilm", four[3]]
    assert len(shown(storage)) == 2 * N_METHODS


def test_a_setting_whose_name_mlflow_cannot_search_for_has_no_view() -> None:
    settings = [{"dataset": name, "model": "minilm"} for name in ('it\'s "one"', "it's two", "three")]
    states = {view.name: view.state for view in saved_views("abcdef0123", settings)}
    assert [name for name in states if name.startswith("Setting")] == [
        "Setting it's two · minilm",
        "Setting three · minilm",
    ]
    assert 'params.`dataset` = "it\'s two"' in str(states["Setting it's two · minilm"]["searchFilter"])


def test_a_view_that_a_person_changed_or_removed_stays_so(storage: Path) -> None:
    from mlflow import MlflowClient

    store = write_study(storage, specs())
    sync(store, uri(storage))
    tags = experiment_tags(storage)
    own = store.id()[:6]
    ranking, cells = (f"mlflow.sharedViewState.{name}-{own}" for name in ("ranking", "cells"))
    edited = json.dumps(json.loads(tags[ranking]) | {"name": "Mine"})
    set_experiment_tag(storage, ranking, edited)
    set_experiment_tag(storage, "mlflow.note.content", "what I found")
    client = MlflowClient(tracking_uri=uri(storage))
    client._tracking_client.store.delete_experiment_tag(client.get_experiment_by_name("methods").experiment_id, cells)
    sync(store, uri(storage), method_runs(al_ray.results(store.root)))
    after = experiment_tags(storage)
    assert (after[ranking], after["mlflow.note.content"]) == (edited, "what I found")
    assert cells not in after


def test_a_view_of_an_older_al_ray_is_brought_up(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from al_ray.tracking import mlflow as tracking

    def older(study_id: str, settings: Any) -> list[Any]:
        return [dataclasses.replace(view, name=f"Old {view.name}") for view in saved_views(study_id, settings)]

    store = write_study(storage, specs())
    with monkeypatch.context() as before:
        before.setattr(tracking, "saved_views", older)
        sync(store, uri(storage))
    old = experiment_tags(storage)
    sync(store, uri(storage))
    new = experiment_tags(storage)
    assert {"Old" in old[tag] for tag in old if "sharedViewState" in tag} == {True}
    assert {"Old" in new[tag] for tag in new if "sharedViewState" in tag} == {False}
    sync(store, uri(storage))
    assert experiment_tags(storage) == new


def test_two_dozen_methods_have_two_dozen_colours_and_random_is_grey() -> None:
    cells = specs()
    methods = [dataclasses.replace(name_cells(cells)[0].method, name=f"{n:02d}") for n in range(24)]
    methods.append(dataclasses.replace(methods[0], name="random", strategy="random", filters=()))
    colours = method_colours(methods)
    assert len(set(colours.values())) == 25
    assert colours["random"] == "#7f7f7f"


def test_what_a_method_run_says_decides_whether_it_is_written_anew() -> None:
    run = MethodRun(key="k", name="n", colour="#000000", params={"a": "b"}, figures={"aulc": 0.5}, curves={"x": {3: 1}})
    assert dataclasses.replace(run, colour="#ffffff").content == run.content
    for change in ({"name": "m"}, {"params": {}}, {"figures": {"aulc": 0.6}}, {"curves": {"x": {3: 2}}}):
        assert dataclasses.replace(run, **change).content != run.content
