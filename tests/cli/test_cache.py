"""The cache of encodings: a second study computes nothing, records are the same, it is listed and cleared."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import al_ray.study.encodings as encodings_module
import al_ray.study.run as run_module
from al_ray.cli.app import app
from al_ray.model.encoding import Encoding
from al_ray.records.lease import Lease
from al_ray.runtime import grid
from al_ray.storage.folder import Folder
from al_ray.study.cell import encodings_read
from al_ray.study.encodings import EncodingCost, EncodingPlan
from al_ray.study.spec import make_spec
from tests.cli.conftest import Outcome, computed
from tests.runtime.made import sentences

FROZEN = {"frozen_layers": "all"}
LAYER = {"frozen_layers": 1, "epochs": 1}
# One kind of cell for each of what may be encoded: features, embeddings beside a fine-tuned model, hidden states.
CELLS = [
    {"finetune": FROZEN, "strategy": ["margin", "typiclust"]},
    {"finetune": {"epochs": 1}, "filters": ["near_duplicates"]},
    {"finetune": LAYER},
    {"finetune": FROZEN, "max_tokens": 20},  # a pool of which nobody reads tokens
]
WriteStudy = Callable[..., Path]
Command = Callable[..., Outcome]


def run(al_ray: Command, path: Path, storage: Path, *options: object) -> Outcome:
    outcome = al_ray("run", path, "--set", "tracking=off", "--storage", storage, *options)
    assert outcome.code == 0, outcome.text
    return outcome


def forbid_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoding, "encoder", lambda *_: pytest.fail("what is stored is not computed again"))


def test_records_are_the_same_with_the_cache_and_without_and_a_second_study_computes_nothing(
    study: WriteStudy, al_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(al_ray, study(*CELLS), tmp_path / "without", "--local", "--set", "cache=false")
    assert not (tmp_path / "without" / "_cache").exists()
    run(al_ray, study(*CELLS), tmp_path / "with", "--local")
    forbid_encoding(monkeypatch)
    run(al_ray, study(*CELLS, name="second"), tmp_path / "with", "--local")
    expected = computed(tmp_path / "without")
    assert len(expected) > 12
    assert computed(tmp_path / "with") == expected
    assert computed(tmp_path / "with", "second") == expected


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
def test_lanes_give_the_same_records_from_the_object_store_and_from_disk(
    study: WriteStudy, al_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(al_ray, study(*CELLS), tmp_path / "without", "--set", "lanes=1", "--set", "cache=false")
    run(al_ray, study(*CELLS), tmp_path / "with", "--set", "lanes=1")
    monkeypatch.setattr(grid, "STORE_SHARE", 0.0)
    with sentences(level=20) as said:
        run(al_ray, study(*CELLS, name="second"), tmp_path / "with", "--set", "lanes=1")
    expected = computed(tmp_path / "without")
    assert len(expected) > 12
    assert computed(tmp_path / "with") == expected
    assert computed(tmp_path / "with", "second") == expected
    from_disk = [words for words in said if "texts found in the cache, of which" in words]
    assert len(from_disk) == 3  # features and embeddings are one encoding
    assert "GiB are read from disk, since the object store has" in from_disk[0]


def test_where_all_is_stored_and_nobody_reads_tokens_no_text_is_tokenised(
    study: WriteStudy, al_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(al_ray, study({"finetune": FROZEN}), tmp_path, "--local")
    monkeypatch.setattr(run_module, "tokenize_table", lambda *_, **__: pytest.fail("no text is tokenised"))
    forbid_encoding(monkeypatch)
    run(al_ray, study({"finetune": FROZEN, "seed": 2}, name="second"), tmp_path, "--local")
    assert len(computed(tmp_path, "second")) == 7


def test_a_plan_says_what_is_there_and_which_way_it_goes(
    study: WriteStudy, al_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, storage = study({"finetune": FROZEN}), tmp_path / "out"

    def plan(*options: object) -> str:
        return al_ray("run", path, "--plan", "--storage", storage, *options).text

    what = r"the embeddings of model '\S+' for data set 'tickets', [\d.]+ KiB: "
    kept = rf"computed first, kept in {storage}/_cache"
    assert re.search(rf"{what}{kept}, read from the object store forecast", plan())
    assert re.search(rf"{what}computed first, read from the object store forecast", plan("--set", "cache=false"))
    assert re.search(rf"{what}{kept}, read from disk forecast", plan("--local"))
    assert re.search(rf"{what}computed first, read from memory forecast", plan("--local", "--set", "cache=false"))
    on_cluster = "the object store, or from disk where that is too small"
    assert re.search(rf"{what}{kept}, read from {on_cluster}", plan("--set", "address=10.0.0.1:6379"))
    run(al_ray, path, storage, "--local")
    path = study({"finetune": FROZEN}, name="second")
    assert re.search(rf"{what}in {storage}/_cache already, read from the object store forecast", plan())
    monkeypatch.setattr(encodings_module, "private_store_bytes", lambda: 5000)
    since = "since the object store of a private Ray on this machine has 4.9 KiB"
    assert re.search(rf"{what}in {storage}/_cache already, read from disk, {since} forecast", plan())
    refused = al_ray("run", path, "--storage", storage, "--set", "cache=false")
    assert refused.code == 1
    assert "Use 'cache: true', which reads them from disk, a smaller part of the data" in refused.text
    assert not al_ray("run", study(), "--plan", "--storage", storage).text.count("_cache")


def test_what_is_stored_is_read_where_the_disk_has_no_room_for_the_rest() -> None:
    spec = make_spec(
        {"dataset": "tickets", "model": "minilm", "strategy": "margin", "seed": 1, "finetune": FROZEN, "rounds": 1},
        "one",
    )
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"sha256": "0", "settings_sha256": "1"})})
    (encoding,) = encodings_read([spec]).values()
    sizes: dict[str, Any] = {"encoding": encoding, "whose": "of it", "n_bytes": 1000, "n_texts": 10}
    costs = (EncodingCost(pool_key="a", n_stored=10, **sizes), EncodingCost(pool_key="b", n_stored=4, **sizes))
    plan = EncodingPlan(costs=costs, is_kept=False, may_be_kept=True)
    assert plan.keeps("a", encoding.key)
    assert not plan.keeps("b", encoding.key)
    assert not replace(plan, may_be_kept=False).keeps("a", encoding.key)
    assert replace(plan, is_kept=True).keeps("b", encoding.key)


def test_what_neither_the_disk_nor_the_object_store_holds_is_refused_and_where_one_does_it_is_used(
    study: WriteStudy, al_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, storage = study({"finetune": FROZEN}), tmp_path / "out"
    plain = Folder.free_bytes
    monkeypatch.setattr(Folder, "free_bytes", lambda folder: 1000 if folder.path == str(storage) else plain(folder))
    shown = al_ray("run", path, "--plan", "--storage", storage)
    assert "computed first, read from the object store what is computed is not kept: writing it takes" in shown.text
    run(al_ray, path, storage, "--local")
    assert not (storage / "_cache").exists()
    memory = SimpleNamespace(available=10)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    refused = al_ray("run", study({"finetune": FROZEN}, name="second"), "--local", "--storage", storage)
    assert refused.code == 1
    assert re.search(r"the embeddings of model .* and the disk of \S+/_cache has 1.0 KiB", refused.text)
    assert not (storage / "second").exists()


@pytest.fixture
def filled(study: WriteStudy, al_ray: Command, tmp_path: Path) -> Path:
    """A storage with the encodings of a pool and its test split, of two kinds, read by one study."""
    storage = tmp_path / "out"
    run(al_ray, study({"finetune": FROZEN}, {"finetune": LAYER}), storage, "--local")
    return storage


def keys(storage: Path) -> list[str]:
    return sorted(path.name for path in (storage / "_cache").iterdir())


def test_the_cache_is_listed(filled: Path, al_ray: Command, tmp_path: Path) -> None:
    text = al_ray("cache", "list", "--storage", filled).text
    for key in keys(filled):
        assert key[:8] in text
    assert re.search(r"tickets \(pool\): mean of bert, float32, cpu \w{8} 160 [\d.]+ KiB 20\d\d-\d\d-\d\d tiny", text)
    assert re.search(r"tickets \(test\): layer 1 of bert, float32, cpu \w{8} 60 ", text)
    assert f"{filled}/_cache: 4 encodings, " in text
    assert "in use" not in text
    assert al_ray("cache", "list", "--storage", tmp_path / "none").text.endswith("/_cache holds no encoding.")


def test_a_list_of_long_names_fits_a_narrow_terminal(filled: Path) -> None:
    for file in (filled / "_cache").glob("*/about.json"):
        about = json.loads(file.read_text())
        file.write_text(json.dumps({**about, "data": "a-data-set-of-a-long-name " * 3, "n_texts": 1_000_000}))
        (file.parent / f"use--{'a-study-' * 10}.json").write_text('{"at": "2999-01-01"}')
    listed = CliRunner().invoke(app, ["cache", "list", "--storage", str(filled)], env={"COLUMNS": "80"})
    table = listed.output.split(str(filled))[0]
    assert "a-study-" in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("about", ["{", "[]", '{"n_texts": "many", "data": 3, "model": null}', None])
def test_an_encoding_that_says_nothing_of_itself_is_listed_and_deleted(
    filled: Path, al_ray: Command, about: str | None
) -> None:
    file = filled / "_cache" / keys(filled)[0] / "about.json"
    file.unlink() if about is None else file.write_text(about)
    listed = al_ray("cache", "list", "--storage", filled)
    assert listed.code == 0
    assert keys(filled)[0][:8] in listed.text
    assert al_ray("cache", "clear", "--all", "--yes", "--storage", filled).code == 0
    assert keys(filled) == []


@pytest.mark.parametrize(
    ("which", "n_left"),
    [(["tickets"], 0), (["tickets (pool)"], 2), (["bert"], 0), (["tiny"], 0), (["--all"], 0), (["KEY"], 3)],
)
def test_what_is_named_is_deleted_and_every_record_is_kept(
    filled: Path, al_ray: Command, which: list[str], n_left: int
) -> None:
    records = computed(filled)
    named = [keys(filled)[0][:8] if word == "KEY" else word for word in which]
    outcome = al_ray("cache", "clear", *named, "--yes", "--storage", filled)
    assert outcome.code == 0, outcome.text
    assert len(keys(filled)) == n_left
    assert f"{4 - n_left} encoding" in outcome.text
    assert computed(filled) == records


def test_nothing_is_deleted_silently(filled: Path, al_ray: Command) -> None:
    for arguments, message in (
        ([], "name what to delete"),
        (["tickets", "--all"], "name what to delete"),
        (["tickts"], "no encoding is called 'tickts'. Known: "),
        (["--all"], "Say --yes, since there is no terminal to ask in"),
    ):
        outcome = al_ray("cache", "clear", *arguments, "--storage", filled)
        assert outcome.code == 1
        assert message in outcome.text
    assert len(keys(filled)) == 4


def test_what_a_running_study_reads_is_kept_unless_it_is_forced(filled: Path, al_ray: Command) -> None:
    with Lease(Folder.open(str(filled)).child("tiny"), "tiny").held():
        listed = al_ray("cache", "list", "--storage", filled).text
        assert f"in use, and not deleted unless with --force: tiny (process {os.getpid()} on " in listed
        outcome = al_ray("cache", "clear", "--all", "--yes", "--storage", filled)
        assert outcome.code == 1
        assert "in use, and kept: tiny (process" in outcome.text
        assert len(keys(filled)) == 4
        assert al_ray("cache", "clear", "--all", "--yes", "--force", "--storage", filled).code == 0
    assert keys(filled) == []


def test_a_project_reads_what_a_study_has_computed(
    filled: Path, study: WriteStudy, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    from al_ray.data import resolve_dataset
    from al_ray.project.project import Project

    dataset = resolve_dataset({"name": "tickets", "n_train": 160, "n_test": 60})
    pool = tmp_path / "pool.jsonl"
    rows = zip(dataset.train.ids.tolist(), dataset.train.texts, strict=True)
    pool.write_text("\n".join(json.dumps({"id": id_, "text": text}) for id_, text in rows))
    file = tmp_path / "project.yaml"
    values = {
        "project": "labels",
        "data": {"path": str(pool)},
        "classes": list(dataset.class_names),
        "model": str(bert),
        "storage": str(filled),
        "max_tokens": 32,
        "query_size": 10,
    }
    file.write_text(yaml.safe_dump(values))
    forbid_encoding(monkeypatch)
    with Project.open(str(file)) as opened:
        opened.prepare()
    assert len(keys(filled)) == 4
