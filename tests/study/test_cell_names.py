"""What cells are called: readable, short enough for a folder, and never two with one name."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.filtering import filters
from al_ray.identifiers import identifier
from al_ray.storage.folder import check_name
from al_ray.study.names import MAX_SLUG, Method, name_cells, setting_axes, slugs_of
from al_ray.study.spec import CellSpec, make_spec
from al_ray.tracking.mlflow import shown_name


def spec(**changes: Any) -> CellSpec:
    return make_spec({"dataset": "tickets", "strategy": "margin", "seed": 1, **changes}, "here")


def datasets_of(*paths: str | dict[str, Any]) -> list[str]:
    return [names.dataset for names in name_cells([spec(dataset=path) for path in paths])]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a/data.csv", "x/b/data.csv"], ["data (a)", "data (b)"]),
        (["data.csv", "b/data.csv"], ["data (.)", "data (b)"]),
        (["/r/2024/q1/data.csv", "/r/2024/q2/data.csv", "/r/2025/q1/data.csv"],
         ["data (2024/q1)", "data (2024/q2)", "data (2025/q1)"]),
        (["d/hub--one/snapshots/1f/data", "d/hub--two/snapshots/2e/data"], ["data (hub--one)", "data (hub--two)"]),
        (["C++.csv", "C#.csv"], ["c (C++.csv)", "c (C#.csv)"]),
        (["tickets", "mine/tickets.csv"], ["tickets", "tickets (mine/tickets.csv)"]),
        (["data.csv", "other.csv"], ["data", "other"]),
        (["data.csv", "./data.csv", "x/../data.csv"], ["data"] * 3),
    ],
    ids=str,
)  # fmt: skip
def test_data_sets_of_one_name_are_told_apart_by_as_little_of_their_paths_as_it_takes(
    paths: list[str], names: list[str]
) -> None:
    assert datasets_of(*paths) == names


def test_adapters_are_told_apart_by_their_rank_and_the_layers_below_them() -> None:
    options = ({}, {"frozen_layers": 4}, {"lora": {}}, {"lora": {"rank": 4}, "frozen_layers": 4})
    assert [names.model for names in name_cells([spec(finetune=each) for each in options])] == [
        "minilm (learner=full)", "minilm (learner=frozen_4)", "minilm (learner=lora_8)",
        "minilm (learner=frozen_4_lora_4)",
    ]  # fmt: skip


def test_cells_with_and_without_principal_components_are_told_apart_and_have_them_as_an_axis() -> None:
    recipes = [
        {"frozen_layers": "all", **more}
        for more in ({}, {"n_components": 8}, {"n_components": 32}, {"solver": "lbfgs", "n_components": 8})
    ]
    specs = [spec(finetune=recipe, initial_size=size) for recipe in recipes for size in (25, 50)]
    names = name_cells(specs)
    assert len({name.setting for name in names}) == len(specs)
    assert "n_components" not in " ".join(names[0].variant)
    axes = setting_axes(zip(specs, names, strict=True))
    assert [axes[name.setting]["n_components"] for name in names[::2]] == ["all", "8", "32", "8"]
    assert [axes[name.setting]["learner"] for name in names[::2]] == ["frozen_adamw"] * 3 + ["frozen_lbfgs"]
    assert {axes[name.setting]["initial_size"] for name in names} == {"25", "50"}
    assert all(not key.startswith(("finetune", "solver")) for values in axes.values() for key in values)
    of_plan = [replace(name, variant=(" + ".join(name.variant),)) for name in names]
    assert setting_axes(zip(specs, of_plan, strict=True)) == axes
    two = [spec(finetune={"frozen_layers": "all"}), spec(finetune={"frozen_layers": "all", "n_components": 8})]
    assert [name.variant for name in name_cells(two)] == [(), ("n_components=8",)]


def test_learners_that_differ_in_an_option_are_two_values_of_one_axis() -> None:
    specs = [spec(finetune={"frozen_layers": "all", "l2": l2, "solver": "lbfgs"}) for l2 in (0.1, 1.0)]
    specs += [spec(finetune={}), spec(finetune={"lora": {"rank": 4}})]
    names = name_cells(specs)
    axes = setting_axes(zip(specs, names, strict=True))
    assert [axes[name.setting]["learner"] for name in names] == [
        "frozen_lbfgs (l2=0.1)", "frozen_lbfgs (l2=1.0)", "full", "lora_4"
    ]  # fmt: skip
    assert {axes[name.setting]["model"] for name in names} == {"minilm"}


def test_a_name_that_another_one_was_given_to_be_told_apart_is_told_apart_too() -> None:
    models = [spec(model={"name": name, "revision": "r"}) for name in ("q/a/bert", "q/b/bert", "q/bert (a)")]
    names = [each.model for each in name_cells(models)]
    assert len(set(names)) == 3
    assert names[1] == "bert (b)"
    assert len(set(slugs_of(models, name_cells(models)))) == 3


def test_options_tell_data_sets_apart_where_paths_do_not() -> None:
    assert datasets_of({"name": "tickets", "seed": 1}, {"name": "tickets", "seed": 2}) == [
        "tickets (seed=1)", "tickets (seed=2)"
    ]  # fmt: skip
    assert datasets_of({"path": "d.csv", "text": "a"}, {"path": "d.csv", "text": "b"}) == ["d (text=a)", "d (text=b)"]


def test_rows_that_changed_under_one_name_are_told_apart_and_rows_that_moved_are_not() -> None:
    changed = name_cells([spec(dataset="d.csv", dataset_sha256=digit * 64) for digit in "12"])
    assert len({names.dataset for names in changed}) == 2
    assert all(re.fullmatch(r"d \([0-9a-f]{8}\)", names.dataset) for names in changed)
    moved = name_cells([spec(dataset=path, dataset_sha256="1" * 64) for path in ("d.csv", "elsewhere/d.csv")])
    assert {names.dataset for names in moved} == {"d"}


def test_models_of_one_name_are_told_apart_likewise() -> None:
    models = [
        "a/bert",
        "b/bert",
        {"name": "org/bert", "revision": "1" * 40},
        {"name": "org/bert", "revision": "2" * 40},
    ]
    assert [names.model for names in name_cells([spec(model=model) for model in models])] == [
        "bert (a)", "bert (b)", "bert (org, revision=111111111111)", "bert (org, revision=222222222222)",
    ]  # fmt: skip
    assert {names.variant for names in name_cells([spec(model=model) for model in models])} == {()}


def test_learners_of_one_model_are_told_apart_by_what_they_learn() -> None:
    recipes: list[dict[str, Any]] = [{}, {"frozen_layers": 4}, {"frozen_layers": "all"}]
    names = name_cells([spec(finetune=recipe) for recipe in recipes])
    assert [name.model for name in names] == [f"minilm (learner={what})" for what in ("full", "frozen_4", "frozen")]
    assert {name.method_and_variant for name in names} == {"softmax + margin"}
    assert [name.model for name in name_cells([spec(finetune=recipes[2])])] == ["minilm"]


def test_what_follows_from_the_solver_is_not_named_beside_it() -> None:
    recipes = [{"frozen_layers": "all", "solver": solver} for solver in ("adamw", "lbfgs")]
    names = name_cells([spec(finetune=recipe) for recipe in recipes])
    assert [name.variant for name in names] == [("solver=adamw",), ("solver=lbfgs",)]
    more = [*recipes, {"frozen_layers": "all", "solver": "lbfgs", "l2": 1.0}, {}]
    assert [name.variant for name in name_cells([spec(finetune=recipe) for recipe in more])] == [
        ("solver=adamw",), ("l2=0.1", "solver=lbfgs"), ("l2=1.0", "solver=lbfgs"), ()
    ]  # fmt: skip


def test_options_that_differ_are_told_apart_whichever_the_seeds() -> None:
    fast, slow = spec(finetune={"learning_rate": 1e-3}, seed=1), spec(finetune={"learning_rate": 1e-5}, seed=2)
    assert [names.variant for names in name_cells([fast, slow])] == [
        ("learning_rate=0.001",), ("learning_rate=1e-05",)
    ]  # fmt: skip


def test_a_method_is_made_of_what_a_spec_says() -> None:
    clipped = spec(
        confidence={"name": "mc_dropout", "n_passes": 3},
        filters=[{"name": "random_subsample", "size": 50}, {"name": "uncertainty_clipping", "fraction": 0.1}],
    )
    method = Method.of(clipped)
    assert method.name == "mc_dropout_3 + margin + random_subsample_50 + uncertainty_clipping_0.1"
    assert (method.confidence, method.strategy, method.role) == ("mc_dropout_3", "margin", "query")
    assert method.clipping == ("uncertainty_clipping_0.1",)
    assert method.unclipped == Method.of(clipped.model_copy(update={"filters": clipped.filters[:1]})).name
    assert Method.from_json(json.loads(json.dumps(asdict(method)))) == method
    assert name_cells([clipped])[0].method == method


@pytest.mark.parametrize("name", filters.names())
def test_a_filter_clips_in_a_method_as_its_plug_in_says(name: str) -> None:
    chosen = filters.build(name)
    method = Method.of(spec().model_copy(update={"filters": (chosen,)}))
    assert method.filters == (name,)
    assert method.clipping == ((name,) if chosen.clips else ())
    assert (method.unclipped == "softmax + margin") == chosen.clips


def test_unfiltered_random_queries_and_passive_cells_have_roles_of_their_own() -> None:
    subsample = {"name": "random_subsample"}
    roles = [
        Method.of(spec(**changes)).role
        for changes in ({"strategy": "random"}, {"strategy": "random", "filters": [subsample]}, {"strategy": "passive"})
    ]
    assert roles == ["random", "query", "passive"]


def test_a_plug_in_that_is_no_part_of_the_method_is_named_by_its_family() -> None:
    names = name_cells([spec(initial=initial) for initial in ("random", "typiclust")])
    assert [name.variant for name in names] == [("initial=random",), ("initial=typiclust",)]


def test_a_longer_run_of_another_seed_is_the_same_method() -> None:
    assert {names.variant for names in name_cells([spec(rounds=3, seed=1), spec(rounds=4, seed=2)])} == {()}
    assert len({names.variant for names in name_cells([spec(rounds=3), spec(rounds=4)])}) == 2


def test_options_of_one_name_are_named_in_full() -> None:
    budget = {"name": "label_budget", "n_labels": 50}
    cells = [spec(stopping=rules) for rules in ([budget, "pool_exhausted"], ["pool_exhausted", budget])]
    first, second = name_cells(cells)
    assert "stopping[0]=label_budget" in first.variant
    assert "stopping[1]=label_budget" in second.variant


paths = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=300).filter(
    lambda text: text.strip()
)


@settings(max_examples=60, deadline=None)
@given(st.lists(paths, min_size=1, max_size=4, unique=True), st.lists(paths, min_size=1, max_size=3, unique=True))
def test_slugs_fit_a_folder_and_no_two_cells_share_one(data: list[str], models: list[str]) -> None:
    options = [{"path": path} for path in data]
    specs = [spec(dataset=option, model=model, seed=2**63 - 1) for option in options for model in models]
    specs = list({str(each.to_json()): each for each in specs}.values())
    slugs = slugs_of(specs, name_cells(specs))
    assert len(set(slugs)) == len(specs)
    for slug in slugs:
        check_name("cell", slug)
        assert len(slug) <= MAX_SLUG


def test_a_slug_stays_plain_until_two_would_be_one() -> None:
    cells = [spec(dataset=path) for path in ("C++.csv", "C#.csv")]
    assert slugs_of(cells[:1], name_cells(cells[:1])) == ["c-minilm-softmax-margin-s1"]
    assert all(re.fullmatch(r"c_C_\S+\.[0-9a-f]{8}-s1", slug) for slug in slugs_of(cells, name_cells(cells)))


SHOWN: list[Callable[[str], str]] = [
    shown_name,
    lambda name: identifier(name, re.compile("[a-z_]+"), re.compile("[^a-z]+"), 20),
]


@pytest.mark.parametrize("shown", SHOWN)
@settings(deadline=None)
@given(st.lists(st.text(max_size=300) | st.text("<>_C c+#./", max_size=4), unique=True))
def test_two_names_never_become_one_nor_one_that_was_changed_already(
    shown: Callable[[str], str], names: list[str]
) -> None:
    whole = {f"accuracy.{name}" for name in names}
    once = {shown(name) for name in whole}
    assert len(once) == len(whole)
    assert len(whole | once) == len({shown(name) for name in whole | once})


@settings(deadline=None)
@given(st.text(max_size=400))
def test_mlflow_takes_every_name_that_it_is_shown(slice_name: str) -> None:
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

    name = shown_name(f"accuracy.{slice_name}")
    _validate_metric_name(name)
    _validate_length_limit("metric", 250, name)


@pytest.mark.parametrize(
    "name", ["accuracy", "seconds/finetune", "accuracy.rare-case_2", "accuracy.Urgent", "calibration.temperature"]
)
def test_usual_names_are_shown_as_they_are(name: str) -> None:
    assert shown_name(name) == name


@pytest.mark.parametrize(("name", "start"), [("<30", "_30"), ("C++", "C_"), ("技术 部", "技术_部")])
def test_other_names_can_be_read_and_end_in_a_hash(name: str, start: str) -> None:
    assert re.fullmatch(rf"accuracy\.{start}\.[0-9a-f]{{8}}", shown_name(f"accuracy.{name}"))
