"""Quick cells on an object store: one upload for many, no request a cell when the study starts again."""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from al_ray.records.study import StudyStore
from tests.cli.conftest import Outcome, computed
from tests.storage.conftest import Bucket


@pytest.fixture
def requests() -> Iterator[list[str]]:
    """Return a list that grows by the request line of everything that the server is asked for."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("werkzeug"), Listener()
    before = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield lines
    logger.removeHandler(listener)
    logger.setLevel(before[0])
    logger.propagate = before[1]


def test_quick_cells_on_an_object_store_are_one_object_and_equal_those_on_a_disk(
    study: Callable[..., Path],
    al_ray: Callable[..., Outcome],
    tmp_path: Path,
    bucket: Bucket,
    requests: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("al_ray.study.cell", "al_ray.runtime.tasks"):
        monkeypatch.setattr(f"{module}.HOLD_S", math.inf)
    path = study({"strategy": ["margin", "random"], "seed": [1, 2, 3]}, finetune={"frozen_layers": "all"})
    run = ("run", path, "--local", "--set", "tracking=off", "--storage")
    assert al_ray(*run, tmp_path / "disk").code == 0
    outcome = al_ray(*run, bucket.uri())
    assert outcome.code == 0, outcome.text
    study_folder = "records/tiny/"
    objects = [key.removeprefix(study_folder) for key in bucket.objects() if key.startswith(study_folder)]
    assert sorted({key.split("/")[0] for key in objects}) == ["packed", "plan.json", "study.json"]
    assert len([key for key in objects if key.startswith("packed/")]) == 1
    assert sum("PUT" in line and "/packed/" in line for line in requests) == 1
    store = StudyStore.open(bucket.uri(), "tiny")
    requests.clear()
    cells = store.cells()
    assert len(cells) == 6
    assert all(store.find(cell.key) is not None and store.progress(cell) == ("done", 4) for cell in cells)
    assert len(requests) <= 7  # of the study its id, of two folders the names, of one part three
    on_disk = computed(tmp_path / "disk")
    assert {f"{cell.key}/{name}" for cell in cells for name in cell.folder.names()[0] if "round-" in name} == {*on_disk}
    for cell in cells:
        twin = StudyStore.open(str(tmp_path / "disk"), "tiny").find(cell.key)
        assert twin is not None
        for mine, other in zip(cell.rounds(), twin.rounds(), strict=True):
            assert {**mine.to_json(), "seconds": {}} == {**other.to_json(), "seconds": {}}
    assert "all 6 cells are finished" in al_ray(*run, bucket.uri()).text
