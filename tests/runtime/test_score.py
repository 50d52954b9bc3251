"""Scoring a pool: every row once with what the model says of it, wherever it was stopped and started again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from al_ray.data import shards
from al_ray.data.shards import shard_pool
from al_ray.errors import ConfigError, DataError, ExecutionError, StorageError
from al_ray.model.score import ModelNote
from al_ray.model.source import resolve_model
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.score import MANIFEST, ScoringActors, ScoringJob, ShardScored, check_job, score_here, score_on_ray
from al_ray.storage.folder import Folder
from tests.model import tiny
from tests.runtime.conftest import CLASSES

N = 30
Make = Callable[..., ScoringJob]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GRAIN_ROWS", 4)


@pytest.fixture
def make(classifier: Path, tmp_path: Path) -> Make:
    """Return a function that makes a job over a pool of 30 rows, three of them without a text."""
    table = tiny.toy_table(N, seed=1)
    texts: list[Any] = table["text"].to_pylist()
    texts[3], texts[4], texts[29] = None, " \n", ""
    pool = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"id": table["id"], "text": pa.array(texts), "kept": [[i] for i in range(N)]}), pool)

    def job(**changes: Any) -> ScoringJob:
        made = ScoringJob(
            pool=shard_pool(str(pool)),
            text="text",
            model=resolve_model(str(classifier), None),
            note=None,
            out=Folder.open(str(tmp_path / "scored")),
        )
        return replace(made, **changes)

    return job


def scored(job: ScoringJob) -> pa.Table:
    return ds.dataset(job.out.path, format="parquet").to_table()


def run(job: ScoringJob) -> list[ShardScored]:
    told: list[ShardScored] = []
    score_here(job, check_job(job), 1, told.append)
    return told


def pipeline_probabilities(classifier: Path, texts: Sequence[str]) -> Any:
    from transformers import pipeline

    from al_ray.model.encoder import quiet

    with quiet():
        classify = pipeline("text-classification", model=str(classifier), device="cpu")
    return [{each["label"]: each["score"] for each in of} for of in classify(list(texts), top_k=None)]


def test_every_row_comes_out_with_what_the_library_s_own_pipeline_says(make: Make, classifier: Path) -> None:
    job = make()
    told = run(job)
    table = scored(job)
    assert table.column_names == ["id", "text", "kept", "prediction", "probabilities", "uncertainty"]
    assert table["kept"].to_pylist() == [[i] for i in range(N)]
    assert sum(each.n_without_text for each in told) == 3
    rows = table.to_pylist()
    assert [i for i, row in enumerate(rows) if row["prediction"] is None] == [3, 4, 29]
    for i in (3, 4, 29):
        assert rows[i]["probabilities"] is rows[i]["uncertainty"] is None
    there = [row for row in rows if row["prediction"] is not None]
    for row, expected in zip(there, pipeline_probabilities(classifier, [row["text"] for row in there]), strict=True):
        np.testing.assert_allclose(row["probabilities"], [expected[name] for name in CLASSES], atol=1e-5)
        assert row["prediction"] == max(expected, key=lambda name: expected[name])
        assert row["uncertainty"] == pytest.approx(1 - max(row["probabilities"]), abs=1e-7)


def test_a_temperature_makes_the_model_less_sure_and_changes_no_prediction(make: Make, tmp_path: Path) -> None:
    plain, calibrated = (
        make(),
        make(
            note=ModelNote(class_names=tuple(CLASSES), max_tokens=40, temperature=4.0),
            out=Folder.open(str(tmp_path / "calibrated")),
        ),
    )
    for job in (plain, calibrated):
        run(job)
    before, after = scored(plain), scored(calibrated)
    assert before["prediction"] == after["prediction"]
    logits = np.log([each for each in before["probabilities"].to_pylist() if each]) / 4
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose([each for each in after["probabilities"].to_pylist() if each], expected, atol=1e-5)


def test_shards_that_are_there_are_not_scored_again_and_the_others_come_out_the_same(make: Make) -> None:
    job = make()
    assert len(run(job)) == 8
    whole = scored(job)
    for name in ("part-00000-00002.parquet", "part-00000-00007.parquet"):
        job.out.remove(name)
    (Path(job.out.path) / ".part-00000-00002.parquet.1a2b.tmp").write_bytes(b"half")
    assert [each.shard.number for each in run(make())] == [2, 7]
    assert scored(job).equals(whole)
    assert run(make()) == []


@pytest.mark.ray
def test_actors_on_ray_write_what_one_process_writes(make: Make, private_ray: None, tmp_path: Path) -> None:
    alone, together = make(), make(out=Folder.open(str(tmp_path / "on_ray")))
    run(alone)
    told: list[ShardScored] = []
    left = check_job(together)
    score_on_ray(together, left[1:], ScoringActors(n=2, resources=LaneResources()), tmp_path, told.append)
    assert sorted(each.shard.number for each in told) == [1, 2, 3, 4, 5, 6, 7]
    assert [shard.number for shard in check_job(together)] == [0]
    score_on_ray(together, left[:1], ScoringActors(n=None, resources=LaneResources()), tmp_path, told.append)
    assert scored(alone).equals(scored(together))
    assert sum(each.n_without_text for each in told) == 3


@pytest.mark.ray
def test_a_shard_that_cannot_be_scored_is_told_in_its_own_words(make: Make, private_ray: None, tmp_path: Path) -> None:
    job = make()
    left = check_job(job)
    (tmp_path / "pool.parquet").unlink()
    with pytest.raises(ExecutionError, match=r"pool.parquet cannot be scored: .*pool.parquet"):
        score_on_ray(job, left, ScoringActors(n=1, resources=LaneResources()), tmp_path, lambda shard: None)


def test_scores_of_another_model_pool_or_column_do_not_mix(make: Make, tmp_path: Path) -> None:
    job = make()
    run(job)
    note = ModelNote(class_names=tuple(CLASSES), max_tokens=7)
    with pytest.raises(ConfigError, match=r"holds scores of something else: note was .* Name a new or empty folder"):
        check_job(make(note=note))
    with pytest.raises(ConfigError, match=r"columns was .*'uncertainty'.*, is .*'x_uncertainty'"):
        check_job(make(prefix="x_"))
    other = replace(job.model, sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"model sha256 was '.*', is '0000"):
        check_job(make(model=other))
    pq.write_table(pq.read_table(tmp_path / "pool.parquet").slice(1), tmp_path / "pool.parquet")
    with pytest.raises(ConfigError, match=r"pool files changed \(.*pool.parquet among them\); pool n_rows was '30'"):
        check_job(make())
    job.out.write(MANIFEST, b"[", "nothing")
    with pytest.raises(StorageError, match=r"is not readable. Delete the folder and score again"):
        check_job(make())


def test_a_folder_of_something_else_is_left_alone(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"files or folders already, and none of them says what was scored there"):
        check_job(make(out=Folder.open(str(tmp_path))))
    assert not (tmp_path / MANIFEST).exists()


def test_a_column_of_the_pool_is_not_written_over(make: Make, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "pool.parquet")
    pq.write_table(table.append_column("uncertainty", table["id"]), tmp_path / "pool.parquet")
    with pytest.raises(ConfigError, match=r"a column 'uncertainty' already.*--prefix scored_ makes it 'scored_unc"):
        check_job(make())
    job = make(prefix="scored_")
    run(job)
    assert {"uncertainty", "scored_uncertainty", "scored_prediction"} <= {*scored(job).column_names}


def test_scores_do_not_go_into_the_pool_itself(make: Make, tmp_path: Path) -> None:
    for name in (".", "scored"):
        out = Folder.open(str(tmp_path / "texts" / name))
        (tmp_path / "texts").mkdir(exist_ok=True)
        pq.write_table(pq.read_table(tmp_path / "pool.parquet"), tmp_path / "texts" / "pool.parquet")
        with pytest.raises(ConfigError, match=r"lies inside the pool, which would then hold its own scores"):
            check_job(make(pool=shard_pool(str(tmp_path / "texts")), out=out))


def test_a_text_that_is_not_utf8_costs_its_own_row_alone(make: Make, tmp_path: Path) -> None:
    texts = pa.array([b"the goal", b"n\xe4h", b"the match"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "pool.parquet")
    (told,) = run(make())
    assert told.n_without_text == 1
    assert [each is None for each in scored(make())["prediction"].to_pylist()] == [False, True, False]


def test_texts_that_are_none_are_refused_before_anything_is_written(make: Make) -> None:
    with pytest.raises(DataError, match=r"column 'id' holds int64 and no texts"):
        check_job(make(text="id"))


def test_the_manifest_says_what_was_scored(make: Make) -> None:
    job = make()
    check_job(job)
    manifest = json.loads((Path(job.out.path) / MANIFEST).read_text())
    assert manifest["pool"]["n_rows"] == N
    assert [Path(each["path"]).name for each in manifest["pool"]["files"]] == ["pool.parquet"]
    assert manifest["model"]["sha256"] == job.model.sha256
