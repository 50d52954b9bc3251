"""An exported project: a folder that opens, labels that read back, and a card that says what is known."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.optimize import minimize_scalar

from al_ray.core.answers import Answer, aggregate
from al_ray.core.types import LabeledSet, evaluated_after, labeled_after
from al_ray.data.shards import shard_pool
from al_ray.errors import DataError, StorageError
from al_ray.model.classifier import RoundClassifier
from al_ray.model.encoding import Encoding
from al_ray.model.finetune import FitSettings
from al_ray.model.frozen import FrozenClassifier
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.score import ModelNote
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import tokenize_table
from al_ray.model.worker import SingleProcess
from al_ray.project.exchange import rearm
from al_ray.project.export import ExportFacts, export_project, model_card
from al_ray.project.project import Project
from al_ray.project.state import CurvePoint, Status
from al_ray.runtime.score import ScoringJob, check_job, score_here
from al_ray.storage.folder import Folder
from tests.model import tiny
from tests.project.simulated import Pool, answer_rounds

CLASSES = ("sport", "=cmd()", "fi|lm <b>")
TABLE = tiny.toy_table(120, seed=3, first_id=10)
TABLE = TABLE.set_column(2, "text", [["+1 goal; 'match'", *TABLE["text"].to_pylist()[1:]]])
IDS = TABLE["id"].to_numpy()
TEXTS = dict(zip(IDS.tolist(), TABLE["text"].to_pylist(), strict=True))
TRUTH = dict(zip(IDS.tolist(), TABLE["label"].to_pylist(), strict=True))
EVALUATION = frozenset(IDS[60:100].tolist())
AT = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    return resolve_model(str(tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")), None)


@pytest.fixture(scope="module")
def classifier(model: ResolvedModel) -> FrozenClassifier:
    import torch

    recipe = FinetuneRecipe.of({"frozen_layers": "all", "solver": "lbfgs", "l2": 1e-3})
    encoding: Any = Encoding(model=model, precision="float32", batch_size=16, output="mean")
    features = encoding.encoder(torch.device("cpu"))(tokenize_table(TABLE, model, 40))
    made = FrozenClassifier(
        features={"pool": features, "test": features},
        ids={"pool": IDS, "test": IDS},
        settings=FitSettings(recipe=recipe, precision="float32", n_classes=3, scoring_batch_size=16, seed=1),
        worker=SingleProcess(),
    )
    labels = np.array([TRUTH[id_] for id_ in IDS[:20].tolist()])
    made.finetune(LabeledSet(ids=IDS[:20], labels=labels), round_index=1)
    return made


def facts(**changes: Any) -> ExportFacts:
    answers = [
        *(Answer(id=id_, label=TRUTH[id_], source="given") for id_ in IDS[:5].tolist()),
        *(Answer(id=id_, label=TRUTH[id_], source="page", annotator="ada", seconds=2.5, at=AT)
          for id_ in [*IDS[5:20].tolist(), *sorted(EVALUATION)]),
        Answer(id=11, label=TRUTH[11], source="page", annotator="bob", at=AT, note="@sure"),
        Answer(id=12, label=(TRUTH[12] + 1) % 3, source="page", annotator="bob", at=AT),
        Answer(id=12, label=TRUTH[12], source="page", annotator="eve", at=AT),
        Answer(id=110, label=None, source="file", annotator="bob", at=AT),
    ]  # fmt: skip
    status = Status(
        name="toys",
        round_index=3,
        n_pool=120,
        n_labeled=20,
        n_abstained=1,
        n_evaluation=40,
        n_given=5,
        class_counts=dict.fromkeys(CLASSES, 20 // 3),
        n_asked=0,
        n_open=0,
        curve=[CurvePoint(n_labeled=20, accuracy=0.8125, low=0.7, high=0.9, n_evaluated=40)],
        how_estimated="from texts drawn at random",
    )
    values: dict[str, Any] = {
        "name": "toys",
        "data": "/home/somebody/secret_folder/toys.csv",
        "content_sha256": "c0" * 32,
        "class_names": CLASSES,
        "texts": TEXTS,
        "answers": answers,
        "labels": aggregate(answers),
        "evaluation_ids": EVALUATION,
        "random_ids": EVALUATION,
        "method": "margin",
        "learner": "a linear head on the frozen encoder",
        "max_tokens": 40,
        "status": status,
        "fingerprint": "f1" * 32,
        "versions": {"al_ray": "0.1.0"},
    }
    return ExportFacts(**{**values, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, classifier: FrozenClassifier, model: ResolvedModel) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "toys"
    exported = export_project(folder, facts(), classifier, model=model)
    assert (exported.check.n, exported.check.n_same, exported.n_labels) == (64, 64, 60)
    return folder


def test_the_folder_itself_is_what_a_pipeline_opens(folder: Path, classifier: FrozenClassifier) -> None:
    from transformers import pipeline

    found = pipeline("text-classification", model=str(folder), device="cpu")(list(TEXTS.values())[1:], truncation=True)
    expected = classifier.predict("pool", IDS[1:], plain=True).logits[:, 0].argmax(axis=1)
    assert [each["label"] for each in found] == [CLASSES[label] for label in expected]


def test_probabilities_are_calibrated_by_the_evaluation_labels_alone(
    folder: Path, classifier: FrozenClassifier
) -> None:
    ids = np.array(sorted(EVALUATION))
    logits = classifier.predict("pool", ids, plain=True).logits[:, 0].astype(np.float64)
    labels = np.array([TRUTH[int(id_)] for id_ in ids])

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(ids)), labels]).mean())

    best = np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x)
    note = ModelNote.read(folder)
    assert note is not None
    assert note.temperature == pytest.approx(best, rel=1e-3)
    assert (note.n_calibrated, note.max_tokens, note.class_names) == (40, 40, CLASSES)
    assert note.made_from["fingerprint"] == "f1" * 32
    assert "calibrated by a temperature of" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"random_ids": frozenset()}, "not calibrated: the texts that measure the model were not drawn at random"),
        ({"random_ids": frozenset(IDS[60:70].tolist())}, "not calibrated: 10 texts .* have a label, 30 are needed"),
    ],
)
def test_without_enough_evaluation_labels_at_random_nothing_is_calibrated(
    tmp_path: Path, classifier: FrozenClassifier, model: ResolvedModel, changes: Any, words: str
) -> None:
    exported = export_project(tmp_path / "out", facts(**changes), classifier, model=model)
    assert exported.temperature is None
    assert re.match(words, exported.calibration)
    note = ModelNote.read(tmp_path / "out")
    assert note is not None
    assert note.temperature is None


def test_labels_and_answers_read_back_as_they_were(folder: Path) -> None:
    labels = pq.read_table(folder / "labels" / "labels.parquet").to_pylist()
    expected = {id_: label for id_, label in facts().labels.items() if label is not None}
    assert {row["id"]: row["label"] for row in labels} == {id_: CLASSES[label] for id_, label in expected.items()}
    assert {row["id"]: row["text"] for row in labels} == {id_: TEXTS[id_] for id_ in expected}
    assert {row["id"] for row in labels if row["role"] == "evaluation"} == EVALUATION
    assert next(row["n_answers"] for row in labels if row["id"] == 12) == 3
    answers = pq.read_table(folder / "labels" / "answers.parquet").to_pylist()
    assert len(answers) == len(facts().answers)
    assert answers[-1] == {
        "id": 110, "label": None, "annotator": "bob", "source": "file", "role": "train", "seconds": None, "at": AT,
        "note": "",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["labels", "answers"])
def test_nothing_in_a_csv_is_a_formula_and_all_of_it_reads_back(folder: Path, name: str) -> None:
    file = folder / "labels" / f"{name}.csv"
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    stored = pq.read_table(file.with_suffix(".parquet")).to_pylist()
    assert len(rows) == len(stored)
    assert any(row["label"] == "'=cmd()" for row in rows)
    for row, kept in zip(rows, stored, strict=True):
        for key, cell in row.items():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
            if isinstance(kept[key], str):
                assert rearm(cell) == kept[key]


def test_the_dataset_knows_its_classes(folder: Path) -> None:
    import datasets

    loaded = datasets.load_from_disk(str(folder / "labels" / "dataset"))
    assert set(loaded) == {"train", "test"}
    assert loaded["train"].features["label"].names == list(CLASSES)
    assert set(loaded["test"]["id"]) == EVALUATION
    assert {row["id"]: row["label"] for row in loaded["train"]} == {id_: TRUTH[id_] for id_ in IDS[:20].tolist()}


def test_the_card_says_what_is_known_and_shows_nothing_that_is_markup(folder: Path, model: ResolvedModel) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "active-learning", "al_ray"],
    }
    for words in (
        "**81.2%**, 95 % interval 70.0% to 90.0%. It rests on 40 answers, and was estimated from texts drawn at",
        "120 texts from toys.csv. 20 labels were learned from, 40 more measure the model, and 1 text got no class.",
        "58 from the labelling page, 5 that the data had, 1 from files; by 3 named annotators.",
        "Of 2 texts that several annotators answered, they agreed on 1.",
        "chosen by margin",
        "`=cmd()` (6)",
        model.sha256,
    ):
        assert words in body
    assert "<b>" not in re.sub(r"`[^`]*`", "", body)
    assert not re.search(r"secret_folder|somebody|\bada\b|\beve\b", text)


def test_the_example_of_the_card_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(example, {})
    assert re.search(r"'label': '(sport|=cmd\(\)|fi\|lm <b>)', 'score': [\d.]+", capsys.readouterr().out)


def test_a_card_without_an_estimate_says_so(tmp_path: Path, classifier: FrozenClassifier, model: ResolvedModel) -> None:
    status = replace(facts().status, curve=[], how_estimated="not estimated: the project file says 'evaluation: none'")
    export_project(tmp_path / "out", facts(status=status, evaluation_ids=frozenset()), classifier, model=model)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Not known: not estimated: the project file says 'evaluation: none'." in text
    assert "Nobody has measured it." in text


def test_a_card_says_that_an_ensemble_was_measured_and_one_model_of_it_exported(model: ResolvedModel) -> None:
    said = "An ensemble of 5 models was measured; this is the first of them"
    assert said in model_card(facts(n_members=5), model, "not calibrated")
    assert "ensemble" not in model_card(facts(), model, "not calibrated")


def test_nothing_to_export_and_a_full_folder_are_refused(
    tmp_path: Path, classifier: FrozenClassifier, model: ResolvedModel, folder: Path
) -> None:
    with pytest.raises(DataError, match="project toys has no label yet"):
        export_project(tmp_path / "out", facts(labels={10: None}), classifier, model=model)
    with pytest.raises(StorageError, match="Name a new or empty folder"):
        export_project(folder, facts(), classifier, model=model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "learner", [{"frozen_layers": "all"}, {"frozen_layers": 2, "epochs": 2}, {"epochs": 2}], ids=str
)
def test_a_labelled_project_leaves_as_a_model_that_scores_its_pool(
    pool: Pool, project: Callable[..., dict[str, Any]], tmp_path: Path, learner: dict[str, Any]
) -> None:
    values = project(finetune=learner, stopping=[])
    answer_rounds(values, pool, 2)
    with Project.open(values, threads=1) as opened:
        drawn = evaluated_after(opened.rounds)
        classifier = opened.classifier
        assert isinstance(classifier, RoundClassifier)
        classifier.finetune(labeled_after(opened.rounds), round_index=len(opened.rounds))
        ids = np.array(sorted(pool.labels))
        expected = classifier.predict("pool", ids, plain=True).logits[:, 0].argmax(axis=1)
        labels = opened.labels()
        of_project = facts(
            name=opened.name,
            class_names=opened.class_names,
            texts={id_: opened.text_of(id_) for id_ in labels},
            answers=opened.answers(),
            labels=labels,
            evaluation_ids=frozenset(drawn.ids.tolist()),
            max_tokens=opened.spec.max_tokens,
            status=opened.status(),
            spec=opened.spec.to_json(),
        )
        exported = export_project(tmp_path / "out", of_project, classifier, model=opened.model)
    assert exported.check.n == exported.check.n_same == min(len(labels), 64)
    job = ScoringJob(
        pool=shard_pool(str(pool.folder / "pool.csv")),
        text="text",
        model=resolve_model(str(tmp_path / "out"), None),
        note=ModelNote.read(tmp_path / "out"),
        out=Folder.open(str(tmp_path / "scored")),
    )
    score_here(job, check_job(job), 1, lambda shard: None)
    scored = pq.read_table(tmp_path / "scored" / "part-00000-00000.parquet")
    assert scored["prediction"].to_pylist() == [pool.class_names[label] for label in expected]
