"""Projects: what people answer, in whatever order and with whatever interruptions, becomes the rounds of the loop."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_ray.core.answers import Answer
from al_ray.core.types import labeled_after
from al_ray.errors import ConfigError, DataError, StorageError
from al_ray.model.encoding import Encoding
from al_ray.model.frozen import FrozenClassifier
from al_ray.project.file import load_project
from al_ray.project.project import Project
from al_ray.project.state import Told
from al_ray.records.cell import CellStore
from al_ray.storage.folder import Folder
from tests.project.simulated import Pool, answer_rounds, asked, ground_truth

MakeProject = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "badge", "initial": "typiclust"},
        {"strategy": "open_set_margin", "initial": "dual_diversity"},
        {"finetune": {"epochs": 1}, "query_size": 9, "stopping": []},
        {"filters": ["near_duplicates"], "evaluation": {"name": "random_sample", "n": 8, "share": 1.0}},
    ],
)
def test_people_get_the_queries_of_the_ground_truth(
    pool: Pool, project: MakeProject, tmp_path: Path, changes: dict[str, Any]
) -> None:
    n_rounds = 2 if "finetune" in changes else 5
    values = {"stopping": [], **project(**changes)}
    rounds = answer_rounds(values, pool, n_rounds)
    truth = ground_truth(pool, values, tmp_path / "results", n_rounds)
    assert [asked(record) for record in rounds[:n_rounds]] == [asked(record) for record in truth[:n_rounds]]
    assert "accuracy" in truth[1].metrics
    assert "accuracy" not in rounds[1].metrics
    assert rounds[1].metrics["estimated_accuracy"] == truth[1].metrics["estimated_accuracy"]


def test_the_query_is_on_disk_before_it_is_returned_and_stays_the_same(
    pool: Pool, project: MakeProject, tmp_path: Path
) -> None:
    with Project.open(project()) as opened:
        first = opened.batch()
        assert first is not None
        assert [task.role for task in first.tasks] == ["train"] * 8 + ["evaluation"] * 2
        assert list((tmp_path / "projects" / "tickets").glob("*/pending-000.json"))
    with Project.open(project()) as opened:
        assert opened.batch_if_ready() == first
        opened.tell(pool.answers(first.tasks[:3]))
        again = opened.batch()
        assert again is not None
        assert again.tasks == first.tasks
        assert again.answered == {task.id for task in first.tasks[:3]}
        opened.tell(pool.answers(first.tasks[3:]))
        assert opened.batch_if_ready() is None
        following = opened.batch()
        assert following is not None
        assert following.round_index == 1
        assert following.tasks[0].prediction in pool.class_names
        assert 0 < (following.tasks[0].confidence or 0) <= 1
        assert following.tasks[-1].prediction is None


def test_an_answer_given_twice_is_nothing_and_another_one_is_a_second_answer(pool: Pool, project: MakeProject) -> None:
    with Project.open(project()) as opened:
        task = opened.batch().tasks[0]  # type: ignore[union-attr]
        answer = Answer(id=task.id, label=1, annotator="ada", source="file")
        assert opened.tell([answer, answer]) == Told(n_new=1, n_same=1)
        assert opened.tell([answer]) == Told(n_same=1)
        assert opened.tell([Answer(id=task.id, label=2, annotator="ada", source="page")]) == Told(n_changed=1)
        assert opened.labels()[task.id] == 2
        assert opened.tell([Answer(id=task.id, label=2, annotator="ada", source="page", note="why")]) == Told(
            n_changed=1
        )
        assert [each.label for each in opened.answers()] == [1, 2, 2]


def test_of_several_annotators_the_majority_counts_and_a_class_beats_an_abstention(
    pool: Pool, project: MakeProject
) -> None:
    with Project.open(project()) as opened:
        id_ = opened.batch().tasks[0].id  # type: ignore[union-attr]
        for annotator, label in (("ada", None), ("bob", 3), ("eve", 1), ("joe", 1)):
            opened.tell([Answer(id=id_, label=label, annotator=annotator, source="file")])
        assert opened.labels()[id_] == 1
        opened.tell([Answer(id=id_, label=3, annotator="joe", source="file")])
        assert opened.labels()[id_] == 3


def test_a_mind_changed_after_its_round_is_learned_from_in_the_next(pool: Pool, project: MakeProject) -> None:
    with Project.open(project()) as opened:
        first = opened.batch()
        assert first is not None
        opened.tell(pool.answers(first.tasks))
        second = opened.batch()
        assert second is not None
        id_ = first.tasks[0].id
        other = (pool.labels[id_] + 1) % len(pool.class_names)
        opened.tell([Answer(id=id_, label=other, annotator="ada", source="file")])
        opened.tell(pool.answers(second.tasks))
        opened.batch()
        rounds = opened.rounds
    assert rounds[1].revised.ids.tolist() == [id_]
    labels = labeled_after(rounds)
    assert dict(zip(labels.ids.tolist(), labels.labels.tolist(), strict=True))[id_] == other
    with Project.open(project()) as opened:
        assert len(opened.rounds) == 2


@pytest.mark.parametrize("strategy", ["tailor", "open_set_margin"])
def test_what_strategies_remember_follows_minds_that_change_and_is_the_same_when_a_project_is_opened_anew(
    strategy: str, pool: Pool, project: MakeProject, tmp_path: Path
) -> None:
    def labelled(storage: str, sittings: int) -> list[dict[str, Any]]:
        values = project(strategy=strategy, stopping=[], storage=str(tmp_path / storage))
        skipped: list[int] = []
        for _ in range(sittings):
            with Project.open(values, threads=1) as opened:
                for _ in range(6 // sittings):
                    batch = opened.batch()
                    assert batch is not None
                    known = [task for task in batch.open if task.id % 3]
                    others = [task.id for task in batch.open if not task.id % 3]
                    revised = [skipped.pop(0)] if batch.round_index > 1 and skipped else []
                    skips = [Answer(id=id_, label=None, annotator="ada", source="file") for id_ in others]
                    given = [Answer(id=i, label=pool.labels[i], annotator="ada", source="file") for i in revised]
                    opened.tell([*pool.answers(known), *skips, *given])
                    skipped += others
                opened.batch()
                rounds = list(opened.rounds)
        assert sum(len(record.revised.ids) for record in rounds) > 0
        assert any(record.annotation.abstained.any() for record in rounds)
        return [asked(record) for record in rounds]

    assert labelled("once", 1) == labelled("anew", 6)


def test_what_was_not_asked_for_is_refused_and_nothing_is_recorded(pool: Pool, project: MakeProject) -> None:
    with Project.open(project()) as opened:
        batch = opened.batch()
        assert batch is not None
        stranger = next(id_ for id_ in range(160) if id_ not in opened._ahead_ids() | {t.id for t in batch.tasks})
        answers = [*pool.answers(batch.tasks[:2]), Answer(id=stranger, label=0, source="file")]
        with pytest.raises(DataError, match=rf"1 answers are to texts that were not asked for: {stranger}"):
            opened.tell(answers)
        with pytest.raises(DataError, match="is class 9, the classes are"):
            opened.tell([Answer(id=batch.tasks[0].id, label=9, source="file")])
        assert opened.answers() == []


def test_a_closed_round_says_what_stays_open_and_goes_on(pool: Pool, project: MakeProject) -> None:
    with Project.open(project()) as opened:
        batch = opened.batch()
        assert batch is not None
        opened.tell(pool.answers(batch.tasks[:5]))
        open_ids = opened.close_round()
        assert open_ids == sorted(task.id for task in batch.tasks[5:])
        following = opened.batch()
        assert following is not None
        assert following.round_index == 1
        assert not {task.id for task in following.tasks} & {task.id for task in batch.tasks}
        opened.tell(pool.answers(batch.tasks[5:6]))  # late, and still of use
        opened.tell(pool.answers(following.tasks))
        opened.batch()
        assert len(labeled_after(opened.rounds)) == 5 + 1 + 6


def test_labels_that_the_data_have_count_as_answers(pool: Pool, project: MakeProject, tmp_path: Path) -> None:
    rows = (pool.folder / "train.csv").read_text().splitlines()
    half = [rows[0], *(row if i < 40 else row.rpartition(",")[0] + "," for i, row in enumerate(rows[1:]))]
    (tmp_path / "half.csv").write_text("\n".join(half))
    with Project.open(project(data={"path": str(tmp_path / "half.csv"), "label": "label"})) as opened:
        batch = opened.batch()
        assert batch is not None
        assert batch.round_index == 0 or batch.round_index == 1
        open_ids = {task.id for task in batch.open}
        assert min(open_ids) >= 40
        status = opened.status()
        assert status.n_given == status.n_labeled > 20


def test_answers_move_on_when_the_method_changes(pool: Pool, project: MakeProject) -> None:
    answer_rounds(project(), pool, 3)
    with Project.open(project()) as opened:
        known = {id_ for id_, label in opened.labels().items() if label is not None}
        held = opened._ahead_ids()
    with Project.open(project(strategy="entropy", query_size=4)) as opened:
        batch = opened.batch()
        assert batch is not None
        assert set(opened.rounds[0].query.ids.tolist()) == known - held
        assert not {task.id for task in batch.open} & known


def test_an_id_that_has_become_another_text_is_noticed(pool: Pool, project: MakeProject, tmp_path: Path) -> None:
    lines = (pool.folder / "pool.csv").read_text().splitlines()
    (tmp_path / "moved.csv").write_text("\n".join(lines))
    values = project(data=str(tmp_path / "moved.csv"))
    with Project.open(values) as opened:
        batch = opened.batch()
        assert batch is not None
        opened.tell(pool.answers(batch.tasks))
    (tmp_path / "moved.csv").write_text("\n".join([*lines, "one more text"]))
    with Project.open(values) as opened:
        assert len(opened.answers()) == len(batch.tasks)
    (tmp_path / "moved.csv").write_text("\n".join([lines[0], "a text before all others", *lines[1:]]))
    with pytest.raises(DataError, match=r"answers are for other texts .*put the rows back as they were"):
        Project.open(values)


def test_a_pool_is_labelled_to_its_end(pool: Pool, project: MakeProject, tmp_path: Path) -> None:
    lines = (pool.folder / "pool.csv").read_text().splitlines()[:31]
    (tmp_path / "small.csv").write_text("\n".join(lines))
    values = project(data=str(tmp_path / "small.csv"), query_size=10, evaluation="none")
    with Project.open(values) as opened:
        sizes = []
        while batch := opened.batch():
            sizes.append(len(batch.tasks))
            opened.tell(pool.answers(batch.open))
        assert sizes == [8, 10, 10, 2]
        assert opened.end == "every text of the pool has been asked for"
        assert opened.status().n_labeled == 30
    with Project.open(values) as opened:
        assert opened.batch() is None


def test_a_first_query_at_random_needs_no_encoder_and_later_ones_are_prepared(
    pool: Pool, project: MakeProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encodings = tmp_path / "projects" / "_cache"
    with Project.open(project()) as opened:
        assert opened.batch() is not None
        assert not encodings.exists()
        opened.prepare()
        assert len(list(encodings.iterdir())) == 1
        assert opened.progress is None
    with Project.open(project()) as opened, monkeypatch.context() as patch:
        patch.setattr(Encoding, "encoder", lambda *_: pytest.fail("what is stored is not computed again"))
        opened.prepare()


def test_closing_a_project_does_not_wait_for_all_texts_to_be_read(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reading, may_read, read = threading.Event(), threading.Event(), Encoding.encoder

    def slow(self: Encoding, device: Any) -> Any:
        encode = read(self, device)
        is_reading.set()
        assert may_read.wait(600)
        return encode

    monkeypatch.setattr(Encoding, "encoder", slow)
    opened = Project.open(project())
    preparing = threading.Thread(target=opened.prepare)
    preparing.start()
    assert is_reading.wait(600)
    closing = threading.Thread(target=opened.close)
    closing.start()
    while not opened._is_closing:
        closing.join(0.01)
    may_read.set()
    for thread in (closing, preparing):
        thread.join(600)
        assert not thread.is_alive()
    assert "classifier" not in vars(opened)


def test_evaluation_texts_can_be_answered_ahead(pool: Pool, project: MakeProject) -> None:
    with Project.open(project()) as opened:
        batch = opened.batch()
        assert batch is not None
        ahead = opened.ahead(5)
        assert len(ahead) == 5
        assert all(task.role == "evaluation" for task in ahead)
        assert not {task.id for task in ahead} & {task.id for task in batch.tasks}
        opened.tell(pool.answers(ahead[:3]))
        assert opened.ahead(5)[:2] == ahead[3:]
        opened.tell(pool.answers(batch.tasks))
        following = opened.batch()
        assert following is not None
        evaluation = [task for task in following.tasks if task.role == "evaluation"]
        assert [task.id for task in evaluation] == [task.id for task in ahead[:2]]
        assert {task.id for task in evaluation} <= following.answered


def test_one_process_at_a_time_writes_and_others_may_look(project: MakeProject) -> None:
    with Project.open(project()) as opened:
        opened.batch()
        with pytest.raises(StorageError, match="project tickets is open in process"):
            Project.open(project())
        with Project.open(project(), write=False) as looking:
            assert looking.status().n_open == 10
            with pytest.raises(StorageError, match="was opened to be looked at"):
                looking.tell([])
    Project.open(project()).close()


def test_an_answer_that_cannot_be_written_is_not_confirmed(
    pool: Pool, project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Project.open(project()) as opened:
        batch = opened.batch()
        assert batch is not None
        with monkeypatch.context() as patch:

            def full(*_: Any) -> None:
                raise StorageError("the disk is full")

            patch.setattr(Folder, "write", full)
            with pytest.raises(StorageError, match="the disk is full"):
                opened.tell(pool.answers(batch.tasks[:1]))
        assert opened.answers() == []
        assert opened.tell(pool.answers(batch.tasks[:1])) == Told(n_new=1)


def test_stored_answers_that_were_edited_are_refused(pool: Pool, project: MakeProject, tmp_path: Path) -> None:
    with Project.open(project()) as opened:
        opened.tell(pool.answers(opened.batch().tasks))  # type: ignore[union-attr]
    file = tmp_path / "projects" / "tickets" / "answers-00000.json"
    content = json.loads(file.read_text())
    content["rows"][0]["label"] = content["rows"][1]["label"] + "x"
    file.write_text(json.dumps(content))
    with pytest.raises(StorageError, match=r"answers-00000\.json was changed after it was recorded"):
        Project.open(project())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": "stratified"}, "initial 'stratified' looks at labels that nobody has yet"),
        ({"strategy": "passive"}, "strategy 'passive' labels everything"),
        ({"strategy": "optimal"}, "is an upper bound that looks at labels that nobody has yet"),
        ({"filters": ["exclude_hardest"]}, "filter 'exclude_hardest' asks a model that learned from labels"),
        ({"strategy": "bald"}, "needs at least 2 draws"),
        ({"evaluation": "plain"}, "measures on a test split, and a pool to label has none"),
        ({"stopping": ["target_accuracy"]}, "stopping rule 'target_accuracy' needs"),
        ({"classes": ["a"]}, "it must name at least two classes"),
        ({"stratgy": "margin"}, r"unknown key 'stratgy'. Did you mean 'strategy'\?"),
        ({"data": {"pth": "x"}}, r"unknown option of data: 'pth'. Did you mean 'path'\?"),
        ({"initial_size": 500}, "initial_size is 500, but the pool has 130 texts to learn from"),
        ({"max_tokens": 5000}, "max_tokens is 5000"),
        ({"rounds": 3}, "unknown key 'rounds'"),
    ],
)
def test_a_project_that_cannot_be_is_refused_before_anything_is_written(
    project: MakeProject, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Project.open(project(**changes))
    assert not (tmp_path / "projects").exists()


def test_the_learner_may_stand_beside_the_models_name(project: MakeProject, encoder: Path) -> None:
    with Project.open(project(model={"name": str(encoder), "frozen_layers": 1, "epochs": 2})) as opened:
        assert (opened.spec.finetune.frozen_layers, opened.spec.finetune.epochs) == (1, 2)


def test_a_damaged_encoding_is_told_and_computed_again(
    pool: Pool, project: MakeProject, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Project.open(project()) as opened:
        opened.prepare()
    (file,) = (tmp_path / "projects" / "_cache").glob("*/rows.npy")
    content = file.read_bytes()
    file.write_bytes(content[:100])
    with Project.open(project()) as opened:
        opened.prepare()
    assert "rows.npy is damaged: " in caplog.text
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tickts.yaml", None, r"there is no project file 'tickts.yaml' in .* Did you mean '.*tickets.yaml'\?"),
        ("tickets.yaml", "project: a: b", "tickets.yaml is not YAML"),
        ("tickets.yaml", "- 1", "tickets.yaml holds no keys. A project file has 'project', 'data' and 'classes'"),
        ("tickets.yaml", "study: x\ngrid: []", "tickets.yaml is a study file. Run it with 'al-ray run"),
        ("tickets.yaml", "project: x\nclasses: [a, b]", "data"),
    ],
)
def test_a_file_that_is_no_project_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    (tmp_path / "tickets.yaml").write_text(content or "project: x", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_project(tmp_path / name)


def test_who_looks_while_a_round_is_recorded_sees_what_was_before_or_what_is_after(
    pool: Pool, project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Project.open(project()) as opened:
        opened.tell(pool.answers(opened.batch().tasks))  # type: ignore[union-attr]
        read, seen = CellStore.pending, list[int]()

        def looked_at(store: CellStore) -> Any:
            assert len(opened.ahead(3)) == 3
            seen.append(len(opened.status().curve))
            return read(store)

        monkeypatch.setattr(CellStore, "pending", looked_at)
        opened.batch()
        assert seen
        assert len(opened.status().curve) == 1


def test_a_query_that_is_answered_before_it_is_returned_is_not_the_end(
    pool: Pool, project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Project.open(project()) as opened:
        opened.tell(pool.answers(opened.batch().tasks))  # type: ignore[union-attr]
        read, is_answered = CellStore.pending, list[bool]()

        def answered_at_once(store: CellStore) -> Any:
            found = read(store)
            if found is not None and found[0].round_index == 1 and not is_answered:
                is_answered.append(True)
                ids = [*found[0].query.ids.tolist(), *found[0].evaluation.ids.tolist()]
                opened._answers.add([Answer(id=id_, label=pool.labels[id_], source="page") for id_ in ids])
            return found

        monkeypatch.setattr(CellStore, "pending", answered_at_once)
        batch = opened.batch()
        assert is_answered
        assert batch is not None
        assert batch.round_index == 2


def test_a_label_that_comes_after_the_method_changed_is_among_the_first(pool: Pool, project: MakeProject) -> None:
    with Project.open(project(evaluation="none")) as opened:
        task, *others = opened.batch().tasks  # type: ignore[union-attr]
        opened.tell([Answer(id=task.id, label=None, annotator="ada", source="file"), *pool.answers(others)])
    with Project.open(project(evaluation="none", strategy="entropy")) as opened:
        assert opened.status().n_abstained == 1
        opened.tell(pool.answers([task]))
        assert opened.tell(pool.answers(others)) == Told(n_same=len(others))
        opened.batch()
        assert sorted(opened.rounds[0].query.ids.tolist()) == sorted([task.id, *(each.id for each in others)])


def test_a_project_that_is_closed_or_taken_over_takes_no_answers(pool: Pool, project: MakeProject) -> None:
    with Project.open(project()) as opened:
        answers = pool.answers(opened.batch().tasks)  # type: ignore[union-attr]
        opened._lease._taken_by = "process 7 on attic"  # type: ignore[union-attr]
        with pytest.raises(StorageError, match=r"project tickets was taken over by process 7 on attic"):
            opened.tell(answers)
    with pytest.raises(StorageError, match=r"project tickets is closed. Open it again"):
        opened.tell(answers)
    assert opened.answers() == []


def test_the_exported_model_of_an_ended_project_is_the_one_that_was_measured(
    pool: Pool, project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, fit = list[tuple[int, int]](), FrozenClassifier.finetune

    def noted(self: FrozenClassifier, labeled: Any, *, round_index: int, **more: Any) -> Any:
        fits.append((len(labeled), round_index))
        return fit(self, labeled, round_index=round_index, **more)

    monkeypatch.setattr(FrozenClassifier, "finetune", noted)
    lines = (pool.folder / "pool.csv").read_text().splitlines()[:25]
    (tmp_path / "small.csv").write_text("\n".join(lines))
    values = project(data=str(tmp_path / "small.csv"), query_size=10, evaluation={"name": "random_sample", "n": 4})
    with Project.open(values) as opened:
        while batch := opened.batch():
            opened.tell(pool.answers(batch.open))
        last = opened.rounds[-1]
        assert "estimated_accuracy" in last.metrics
        opened.export(tmp_path / "model")
    assert fits[-1] == (last.n_labeled, last.round_index)
