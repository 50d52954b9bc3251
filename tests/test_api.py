"""The front door in Python: what ``import al_ray`` offers, on small real studies."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import al_ray
from al_ray.errors import ConfigError, StorageError
from al_ray.report.build import TABLES
from tests.model import tiny


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a study of four tiny cells as a mapping, as a study file would hold it."""
    model = tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")
    return {
        "study": "door",
        "defaults": {
            "dataset": {"name": "tickets", "n_train": 160, "n_test": 60},
            "model": str(model),
            "initial_size": 8,
            "query_size": 8,
            "rounds": 2,
            "finetune": {"epochs": 1},
            "precision": "float32",
            "max_tokens": 32,
        },
        "grid": [{"strategy": ["margin", "random"], "seed": [1, 2]}],
        "execution": {"tracking": "off"},
    }


@pytest.fixture(scope="module")
def ran(words: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, al_ray.StudyResults]:
    storage = tmp_path_factory.mktemp("results")
    return storage / "door", al_ray.run(words, storage=storage, local=True, progress=False)


def test_import_al_ray_loads_no_library() -> None:
    code = (
        "import sys, al_ray; print([m for m in ('torch', 'ray', 'pandas', 'mlflow', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_of_the_front_door_is_there_and_documented() -> None:
    for name in al_ray.__all__:
        there = getattr(al_ray, name)
        assert name in dir(al_ray)
        assert name == "__version__" or there.__doc__, name


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'runn'; it has .*run"):
        al_ray.runn  # noqa: B018 - the access is what is tested


def test_a_study_is_loaded_from_a_file_a_mapping_and_keywords_alike(words: dict[str, Any], tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "door.yaml"
    path.write_text(yaml.safe_dump(words, sort_keys=False))
    studies = [al_ray.load_study(path), al_ray.load_study(str(path)), al_ray.load_study(words), al_ray.Study(**words)]
    assert [list(study.cells) for study in studies] == [list(studies[0].cells)] * 4
    assert len(studies[0].cells) == 4
    assert al_ray.load_study(studies[3]) is studies[3]


def test_a_wrong_study_is_refused_with_all_its_problems_however_it_is_given(words: dict[str, Any]) -> None:
    wrong = {**words, "grid": [{"strategy": ["margn"], "seed": [1], "querysize": 3}]}
    for make in (al_ray.load_study, lambda values: al_ray.Study(**values)):
        with pytest.raises(ConfigError, match=r"'margin'.*|'query_size'"):
            make(wrong)


def test_run_returns_the_results_of_the_study(ran: tuple[Path, al_ray.StudyResults]) -> None:
    _, results = ran
    assert results.study == "door"
    assert set(results.cells["status"]) == {"done"}
    assert len(results.cells) == 4
    assert results.ranking["aulc"].between(0, 1).all()
    finals = results.cells.groupby("method")["final_accuracy"].mean()
    ranking = results.ranking[results.ranking["setting"] == "all settings"].set_index("method")["final_accuracy"]
    np.testing.assert_allclose(ranking.sort_index(), finals.sort_index())


def test_results_of_a_folder_are_those_that_run_returned(ran: tuple[Path, al_ray.StudyResults]) -> None:
    folder, results = ran
    again = al_ray.results(folder)
    by_name = al_ray.results("door", storage=folder.parent)
    for name in TABLES:
        assert getattr(again, name).equals(getattr(results, name)), name
        assert getattr(by_name, name).equals(getattr(results, name)), name


def test_running_a_finished_study_does_nothing_again(
    words: dict[str, Any], ran: tuple[Path, al_ray.StudyResults], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = ran
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("round-*.json")}
    al_ray.run(words, storage=folder.parent, local=True)
    assert "all 4 cells are finished; nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("round-*.json")} == before


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no study of al_ray"):
        al_ray.results(tmp_path)


def test_an_execution_option_that_is_none_is_refused(words: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'lanse'.*lanes"):
        al_ray.run(words, storage=tmp_path, lanse=2)


def test_a_ray_on_another_machine_is_joined_only_where_the_caller_names_it(
    words: dict[str, Any], tmp_path: Path
) -> None:
    stranger = {**words, "execution": {"address": "ray.example:6379", "tracking": "off"}}
    with pytest.raises(ConfigError, match="names a Ray cluster on another machine"):
        al_ray.run(stranger, storage=tmp_path)


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_learning_curves_are_drawn_and_saved(
    ran: tuple[Path, al_ray.StudyResults], tmp_path: Path, ending: str
) -> None:
    _, results = ran
    figure = results.plot_curves()
    figure.savefig(tmp_path / f"curves.{ending}")
    assert (tmp_path / f"curves.{ending}").stat().st_size > 2000
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    for method, curve in results.curves.groupby("method"):
        np.testing.assert_allclose(drawn[method], curve[["n_labeled", "mean"]].to_numpy())
    assert axes.get_xlabel() == "labels"


def test_a_figure_shows_itself_in_a_notebook_and_leaves_pyplot_alone(ran: tuple[Path, al_ray.StudyResults]) -> None:
    _, results = ran
    assert results.plot_curves()._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_method_that_the_study_has_not_is_refused_by_the_figure(ran: tuple[Path, al_ray.StudyResults]) -> None:
    _, results = ran
    with pytest.raises(ConfigError, match=r"softmax \+ margn.*Did you mean 'softmax \+ margin'"):
        results.plot_curves(methods=["softmax + margn"])


def test_the_package_is_silent_unless_it_is_asked() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("al_ray").handlers)
