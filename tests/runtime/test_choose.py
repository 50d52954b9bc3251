"""Choosing from a stream: the same texts on one process and on many, and nothing kept of what was passed over."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.core.seeding import stream, tie_keys
from al_ray.data import shards
from al_ray.data.shards import shard_pool
from al_ray.errors import ConfigError, DataError, ExecutionError, ModelError
from al_ray.model.score import TextScorer
from al_ray.model.source import resolve_model
from al_ray.runtime.choose import (
    ChoosingJob,
    Chosen,
    ShardOffer,
    StreamChooser,
    check_choosing,
    choose_here,
    choose_on_ray,
    labeled_ids,
)
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.score import ScoringActors, ShardScored
from tests.model import tiny
from tests.runtime.dying_actor import DyingActor

N = 90
WITHOUT_TEXT = (3, 4, 29)
Make = Callable[..., ChoosingJob]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GRAIN_ROWS", 8)


def write_pool(folder: Path) -> None:
    """Write 90 rows in two files, three of them without a text, every tenth labelled."""
    table = tiny.toy_table(N, seed=1)
    texts: list[Any] = table["text"].to_pylist()
    texts[3], texts[4], texts[29] = None, " \n", ""
    labels = ["known" if i % 10 == 5 else None for i in range(N)]
    whole = pa.table({"key": [f"k{i}" for i in range(N)], "text": pa.array(texts), "label": labels})
    folder.mkdir()
    pq.write_table(whole.slice(0, 50), folder / "a.parquet")
    pq.write_table(whole.slice(50), folder / "b.parquet")


@pytest.fixture
def make(classifier: Path, tmp_path: Path) -> Make:
    """Return a function that makes a job over the pool."""
    write_pool(tmp_path / "pool")

    def job(**changes: Any) -> ChoosingJob:
        made = ChoosingJob(
            pool=shard_pool(str(tmp_path / "pool")),
            text="text",
            model=resolve_model(str(classifier), None),
            note=None,
            n=10,
            id="key",
        )
        return replace(made, **changes)

    return job


def run(job: ChoosingJob) -> Chosen:
    check_choosing(job)
    return choose_here(job, 1, lambda shard: None)


def keys(chosen: Chosen) -> list[str]:
    return list(chosen.table["key"].to_pylist())


def test_the_pass_is_that_of_the_written_rule_over_the_model_s_gradients(make: Make, classifier: Path) -> None:
    """Read all texts at once, lay the stream out by hand, and go through it with explicit inverses."""
    job = make(n_dimensions=10_000)
    chosen = run(job)
    table = pq.read_table(job.pool.root)
    texts = table["text"].to_pylist()
    # Six shards of eight rows and one of two in the first file, five in the second.
    sizes = [8] * 6 + [2] + [8] * 5
    starts = np.cumsum([0, *sizes])
    order = np.argsort(tie_keys(np.arange(12), 0))
    rows, left, n_past = [], [], 0
    for number in order:
        mine = starts[number] + np.argsort(tie_keys(np.arange(sizes[number]), 0))
        mine = [row for row in mine.tolist() if row not in WITHOUT_TEXT]
        n_past += sizes[number] - len(mine)
        left += [N - n_past - i for i in range(len(mine))]
        n_past += len(mine)
        rows += mine
    assert len(rows) == N - 3
    probs, features = TextScorer.open(classifier).probabilities_and_features([texts[row] for row in rows])
    errors = probs - np.eye(probs.shape[1])[probs.argmax(axis=1)]
    points = np.einsum("nc,nd->ncd", errors, features).reshape(len(rows), -1)
    draws = stream(0, "choose", "draws").random((len(rows), 2))
    accepted: list[int] = []
    a, sigma = np.eye(points.shape[1]) / 100, np.zeros((points.shape[1],) * 2)
    for t, g in enumerate(points, start=1):
        sigma += (np.outer(g, g) - sigma) / t
        inverse = np.linalg.inv(a)
        z = (10 - len(accepted)) / (left[t - 1] * np.trace(sigma @ inverse))
        if draws[t - 1, 0] < z * (g @ inverse @ g):
            accepted.append(t - 1)
            a += np.outer(g, g)
    passed_over = np.delete(np.arange(len(rows)), accepted)
    filled = passed_over[np.argsort(draws[passed_over, 1])][: 10 - len(accepted)]
    assert 5 < len(accepted) <= 10
    assert chosen.n_accepted == len(accepted)
    assert keys(chosen) == [f"k{rows[i]}" for i in [*accepted, *filled]]
    assert chosen.table["text"].to_pylist() == [texts[rows[i]] for i in [*accepted, *filled]]
    assert chosen.n_without_text == 3


@pytest.mark.ray
def test_actors_on_ray_choose_what_one_process_chooses(make: Make, private_ray: None, tmp_path: Path) -> None:
    job = make(label="label", labeled=frozenset({"k1", "k2"}))
    alone = run(job)
    for n_actors in (1, 3):
        told: list[ShardScored] = []
        actors = ScoringActors(n=n_actors, resources=LaneResources())
        together = choose_on_ray(job, actors, tmp_path, told.append)
        assert together == alone
        assert [each.shard for each in told] == list(job.stream_shards())[: len(told)]
    assert alone.n_labeled == 11
    assert not {*keys(alone)} & {"k1", "k2", *(f"k{i}" for i in range(5, N, 10))}


@pytest.mark.ray
def test_blocks_of_several_shards_come_in_the_order_of_the_stream(
    make: Make, private_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_ray.runtime.score._MOST_BLOCKS", 3)
    job = make()
    actors = ScoringActors(n=2, resources=LaneResources())
    assert choose_on_ray(job, actors, tmp_path, lambda shard: None) == run(job)


@pytest.mark.ray
def test_an_actor_that_dies_changes_nothing_of_what_is_chosen(
    make: Make, private_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_ray.runtime.choose.OfferActor", DyingActor)
    job = make()
    actors = ScoringActors(n=2, resources=LaneResources())
    assert choose_on_ray(job, actors, tmp_path, lambda shard: None) == run(job)
    assert (tmp_path / "died").exists()


@pytest.mark.ray
def test_a_shard_that_cannot_be_read_is_told_in_its_own_words(make: Make, private_ray: None, tmp_path: Path) -> None:
    job = make()
    (tmp_path / "pool" / "b.parquet").unlink()
    with pytest.raises(ExecutionError, match=r"pool cannot be read: .*b.parquet"):
        choose_on_ray(job, ScoringActors(n=1, resources=LaneResources()), tmp_path, lambda shard: None)


def test_another_seed_reads_and_chooses_otherwise(make: Make) -> None:
    assert keys(run(make())) == keys(run(make()))
    assert {*keys(run(make()))} != {*keys(run(make(seed=1)))}
    assert make().stream_shards() != make(seed=1).stream_shards()
    assert sorted(make().stream_shards(), key=lambda shard: shard.name) == list(make().pool.shards)


def test_rows_without_an_id_are_named_by_file_and_place(make: Make) -> None:
    job = make(id=None)
    chosen = run(job)
    assert chosen.table.column_names == ["file", "row", "text"]
    assert {*chosen.table["file"].to_pylist()} == {"a.parquet", "b.parquet"}
    for row in chosen.table.to_pylist():
        assert pq.read_table(f"{job.pool.root}/{row['file']}")["text"][row["row"]].as_py() == row["text"]
    assert {*chosen.table["text"].to_pylist()} == {*run(make()).table["text"].to_pylist()}


def test_a_row_without_an_id_is_left_out_as_one_without_a_text(make: Make, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "pool" / "a.parquet")
    some = pa.array([None, *table["key"].to_pylist()[1:]])
    pq.write_table(table.set_column(0, "key", some), tmp_path / "pool" / "a.parquet")
    chosen = run(make(n=N))
    assert chosen.n_without_text == 4
    assert chosen.table.num_rows == N - 4


def test_all_are_chosen_where_no_more_can_be_and_ids_are_compared_as_text(make: Make, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    for file in pool.iterdir():
        table = pq.read_table(file)
        numbers = pa.array([int(key[1:]) for key in table["key"].to_pylist()])
        pq.write_table(table.set_column(0, "key", numbers), file)
    (tmp_path / "known.csv").write_text("key,who\n7,x\n8,x\n")
    known = labeled_ids(str(tmp_path / "known.csv"), "key")
    assert known == {"7", "8"}
    chosen = run(make(n=N, labeled=known))
    assert sorted(keys(chosen)) == [i for i in range(N) if i not in (7, 8, *WITHOUT_TEXT)]
    assert chosen.n_labeled == 2
    assert chosen.n_read == N


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((pa.int32(), pa.int64()), pa.int64()),
        ((pa.string(), pa.int64()), pa.string()),
        ((pa.string(), pa.large_string()), pa.large_string()),
    ],
)
def test_files_that_write_ids_in_several_types_agree_on_one(
    make: Make, tmp_path: Path, types: tuple[pa.DataType, pa.DataType], expected: pa.DataType
) -> None:
    for name, type_ in zip("ab", types, strict=True):
        table = pq.read_table(tmp_path / "pool" / f"{name}.parquet")
        numbers = pa.array([int(key[1:]) for key in table["key"].to_pylist()]).cast(type_)
        pq.write_table(table.set_column(0, "key", numbers), tmp_path / "pool" / f"{name}.parquet")
    chosen = run(make(n=N))
    assert chosen.table.schema.field("key").type == expected
    assert sorted(map(int, keys(chosen))) == [i for i in range(N) if i not in WITHOUT_TEXT]


def test_the_only_column_of_a_list_of_ids_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("done\n7\n8\n")
    assert labeled_ids(str(tmp_path / "ids.csv"), "key") == {"7", "8"}
    (tmp_path / "two.csv").write_text("done,by\n7,x\n")
    with pytest.raises(DataError, match=r"two.csv has no column 'key' of ids \(--id\). Columns: done, by"):
        labeled_ids(str(tmp_path / "two.csv"), "key")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"n": N + 1}, ConfigError, r"has 90 rows, so 91 cannot be chosen. Lower --n"),
        ({"id": "kay"}, DataError, r"has no column 'kay' \(--id\). Columns: key, text, label"),
        ({"label": "lable"}, DataError, r"has no column 'lable' \(--label\)"),
        ({"label": "text"}, ConfigError, r"column 'text' is that of the texts"),
        ({"id": None, "text": "row"}, ConfigError, r"stand in column 'row', as would the place of a row"),
        ({"id": None, "labeled": frozenset({"k1"})}, ConfigError, r"is told by their ids: name the column"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(make: Make, changes: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        check_choosing(make(**changes))


def test_a_model_without_features_is_refused_before_anything_is_read(make: Make, tmp_path: Path) -> None:
    job = make()
    config = json.loads((Path(job.model.path) / "config.json").read_text())
    other = tmp_path / "decoder"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({**config, "model_type": "gpt2", "n_embd": 8, "n_head": 2}))
    with pytest.raises(ModelError, match="gpt2 is a decoder"):
        check_choosing(replace(job, model=replace(job.model, path=str(other))))


def test_a_pool_that_changes_while_it_is_read_is_told(make: Make, tmp_path: Path) -> None:
    job = make()
    table = pq.read_table(tmp_path / "pool" / "b.parquet")
    pq.write_table(table.slice(0, 37), tmp_path / "pool" / "b.parquet")
    with pytest.raises(ExecutionError, match=r"it was changed while it was read. Choose again"):
        choose_here(job, 1, lambda shard: None)


def test_no_more_texts_are_held_than_may_be_chosen(make: Make) -> None:
    """A stream of 40 shards of 200 rows, of which five are to be chosen."""
    rng, n_shards, n_rows = np.random.default_rng(0), 40, 200
    pool = replace(
        make().pool,
        shards=tuple(
            shards.Shard(file=0, number=number, start=number * n_rows, n_rows=n_rows) for number in range(n_shards)
        ),
    )
    chooser = StreamChooser(make(pool=pool, n=5))
    most = 0
    for shard in pool.shards:
        rows = np.arange(n_rows)
        named = pa.table({"key": shard.start + rows, "text": [str(shard.start + row) for row in rows]})
        offer = ShardOffer(
            rows=rows,
            embeddings=rng.normal(size=(n_rows, 6)).astype(np.float32),
            named=named,
            n_without_text=0,
            n_labeled=0,
        )
        chooser.take(shard, ShardOffer.from_row(offer.to_row(0)))
        most = max(most, len(chooser._held))
    assert most < 1100
    chosen = chooser.chosen()
    assert chosen.table.num_rows == 5
    assert [int(text) for text in chosen.table["text"].to_pylist()] == chosen.table["key"].to_pylist()


def test_once_all_are_accepted_the_rest_is_not_read(make: Make) -> None:
    n_read = [run(make(n=1, seed=seed)).n_read for seed in range(8)]
    assert min(n_read) < N
