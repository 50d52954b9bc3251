"""Export of a project: a model folder for transformers, with a card made from the records, and the labels beside it.

    config.json, model.safetensors, tokenizer ...   the model; the folder itself is what ``pipeline(model=...)`` opens
    al_ray.json                                     classes, length of texts, temperature; what ``al-ray score`` reads
    README.md                                       the model card
    labels/labels.parquet, labels/labels.csv        one row a labelled text
    labels/answers.parquet, labels/answers.csv      one row an answer, abstentions too
    labels/dataset                                  the labelled texts for Hugging Face ``datasets``

In CSV an apostrophe stands before what a spreadsheet would take for a formula; Parquet has everything as it is.
"""

import csv
import html
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from al_ray.confidence.temperature_scaling import TEMPERATURES, fit_temperature
from al_ray.core.answers import Answer
from al_ray.data.labelled import save_dataset
from al_ray.errors import DataError, without_secrets
from al_ray.model.export import ExportCheck, export_classifier
from al_ray.model.score import ModelNote
from al_ray.model.source import ALIASES, ResolvedModel
from al_ray.project.exchange import disarm
from al_ray.project.state import Status
from al_ray.storage.local_files import whole_folder

if TYPE_CHECKING:
    from al_ray.model.classifier import RoundClassifier

LEAST_TO_CALIBRATE = 30
N_COMPARED = 64
_ROLES = {False: "train", True: "evaluation"}


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What the card and the labels of an exported project are made from.

    Attributes:
        name: of the project.
        description: one paragraph for people, or nothing.
        data: where the texts came from.
        content_sha256: of the texts.
        class_names: in label order.
        texts: id -> text, of every id that has an answer at least.
        answers: all of them in the order in which they were given, labels that the data had included.
        labels: id -> class index of every answered text; None where nobody named a class.
        evaluation_ids: texts that measure the model and that it never learned from.
        random_ids: those of them that were drawn at random, so that a temperature may be fitted to them.
        method: how texts were chosen, in words.
        learner: how the model is fitted, in words.
        max_tokens: texts are cut to this many tokens.
        n_members: models that were asked and measured together, of which the first is exported.
        status: how far the project is.
        fingerprint: of the cell that the project is.
        spec: of that cell, as JSON.
        versions: package -> version.
    """

    name: str
    description: str = ""
    data: str
    content_sha256: str
    class_names: tuple[str, ...]
    texts: Mapping[int, str]
    answers: Sequence[Answer]
    labels: Mapping[int, int | None]
    evaluation_ids: Collection[int] = frozenset()
    random_ids: Collection[int] = frozenset()
    method: str
    learner: str
    max_tokens: int
    n_members: int = 1
    status: Status
    fingerprint: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: of the model, its card and the labels.
        check: how the folder compares with the classifier.
        temperature: that probabilities are calibrated by, or None.
        calibration: in one sentence, how, or why not.
        n_learned: labels that the model was fitted on.
        n_labels: labelled texts beside the model.
    """

    folder: Path
    check: ExportCheck
    temperature: float | None
    calibration: str
    n_learned: int
    n_labels: int


def export_project(
    folder: Path,
    facts: ExportFacts,
    classifier: "RoundClassifier",
    *,
    model: ResolvedModel,
    init: Literal["pretrained", "random"] = "pretrained",
) -> Exported:
    """Write a project's model, its card and its labels into a folder, which appears whole or not at all.

    Args:
        folder: new or empty.
        facts: of the project.
        classifier: fitted on the labels that ``status`` counts.
        model: the encoder that it was made of, on this machine.
        init: as of the classifier.

    Raises:
        DataError: nothing is labelled.
        ModelError: the model cannot be exported, see :func:`al_ray.model.export.check_exportable`.
        StorageError: the folder holds something, or cannot be written.
    """
    labelled = {id_: label for id_, label in sorted(facts.labels.items()) if label is not None}
    if not labelled:
        raise DataError(
            f"project {facts.name} has no label yet, so there is no model to export. Label some texts first."
        )
    temperature, n_calibrated, calibration = _calibrate(facts, classifier, labelled)
    note = ModelNote(
        class_names=facts.class_names,
        max_tokens=facts.max_tokens,
        temperature=temperature,
        n_calibrated=n_calibrated,
        made_from={
            "project": facts.name,
            "fingerprint": facts.fingerprint,
            "content_sha256": facts.content_sha256,
            "spec": dict(facts.spec),
            "versions": dict(facts.versions),
        },
    )
    compared = {id_: facts.texts[id_] for id_ in sorted(facts.texts)[:N_COMPARED]}
    with whole_folder(folder) as unfinished:
        check = export_classifier(unfinished, classifier, model=model, init=init, note=note, examples=compared)
        _write_labels(unfinished / "labels", facts, labelled)
        card = model_card(facts, model, calibration)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    return Exported(
        folder=folder,
        check=check,
        temperature=temperature,
        calibration=calibration,
        n_learned=facts.status.n_labeled,
        n_labels=len(labelled),
    )


def _calibrate(
    facts: ExportFacts, classifier: "RoundClassifier", labelled: Mapping[int, int]
) -> tuple[float | None, int, str]:
    """Fit a temperature to the texts that measure the model; return it, how many they are, and what is to be said."""
    ids = np.array([id_ for id_ in labelled if id_ in facts.random_ids], dtype=np.int64)
    if not len(ids) and not labelled.keys().isdisjoint(facts.evaluation_ids):
        return None, 0, "not calibrated: the texts that measure the model were not drawn at random"
    if len(ids) < LEAST_TO_CALIBRATE:
        why = f"{len(ids)} texts that measure the model have a label, {LEAST_TO_CALIBRATE} are needed"
        return None, 0, f"not calibrated: {why}"
    logits = classifier.predict("pool", ids, plain=True).logits
    temperature = fit_temperature(logits, np.array([labelled[int(id_)] for id_ in ids], dtype=np.int64))
    said = f"calibrated by a temperature of {temperature:.3g} (Guo et al. 2017), fitted to {len(ids)} evaluation labels"
    at_end = "; it is at the end of what is allowed" if temperature in TEMPERATURES else ""
    return temperature, len(ids), f"{said}{at_end}"


# ---- labels ----------------------------------------------------------------------------------------------------------


def _write_labels(folder: Path, facts: ExportFacts, labelled: Mapping[int, int]) -> None:
    folder.mkdir()
    roles = {id_: _ROLES[id_ in facts.evaluation_ids] for id_ in facts.texts}
    n_answers = Counter(answer.id for answer in facts.answers)
    labels = pa.table(
        {
            "id": pa.array(list(labelled), pa.int64()),
            "text": pa.array([facts.texts[id_] for id_ in labelled], pa.string()),
            "label": pa.array([facts.class_names[label] for label in labelled.values()], pa.string()),
            "role": pa.array([roles[id_] for id_ in labelled], pa.string()),
            "n_answers": pa.array([n_answers[id_] for id_ in labelled], pa.int64()),
        }
    )
    said = facts.answers
    names = [None if each.label is None else facts.class_names[each.label] for each in said]
    answers = pa.table(
        {
            "id": pa.array([each.id for each in said], pa.int64()),
            "label": pa.array(names, pa.string()),
            "annotator": pa.array([each.annotator for each in said], pa.string()),
            "source": pa.array([each.source for each in said], pa.string()),
            "role": pa.array([roles[each.id] for each in said], pa.string()),
            "seconds": pa.array([each.seconds for each in said], pa.float64()),
            "at": pa.array([each.at for each in said], pa.timestamp("ms", tz="UTC")),
            "note": pa.array([each.note for each in said], pa.string()),
        }
    )
    for name, table in (("labels", labels), ("answers", answers)):
        pq.write_table(table, folder / f"{name}.parquet")
        _write_csv(folder / f"{name}.csv", table)
    is_training = pa.array([role == "train" for role in labels["role"].to_pylist()], pa.bool_())
    splits = {"train": labels.filter(is_training), "test": labels.filter(pa.compute.invert(is_training))}
    save_dataset(folder / "dataset", {name: split.drop_columns("role") for name, split in splits.items()},
                 facts.class_names)  # fmt: skip


def _write_csv(file: Path, table: pa.Table) -> None:
    """Write a table as spreadsheets open it: with a mark that says UTF-8, and with nothing that they would run."""
    with file.open("w", encoding="utf-8-sig", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow(_cell(value) for value in row.values())


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return disarm(value)
    return value.isoformat() if hasattr(value, "isoformat") else value


# ---- card ------------------------------------------------------------------------------------------------------------


def model_card(facts: ExportFacts, model: ResolvedModel, calibration: str) -> str:
    """Return the card of an exported model: Markdown, with front matter that model hubs read.

    Args:
        facts: of the project.
        model: that it was made of.
        calibration: what is to be said of its probabilities.
    """
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "active-learning", "al_ray"],
    }
    if model.revision is not None:
        front["base_model"] = ALIASES.get(model.name, model.name)
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{head}---\n\n# {_plain(facts.name)}",
        *([_plain(facts.description)] if facts.description else []),
        _what_it_is(facts, model),
        _use(facts, calibration),
        _quality(facts),
        _labels(facts),
        _limits(facts),
        _origin(facts, model),
    ]
    return "\n\n".join(sections) + "\n"


def _what_it_is(facts: ExportFacts, model: ResolvedModel) -> str:
    classes = ", ".join(f"`{_code(name)}`" for name in facts.class_names)
    return (
        f"Puts a text into one of {len(facts.class_names)} classes: {classes}. Made of `{_code(_base(model))}` by "
        f"{_plain(facts.learner)}, from {_n(facts.status.n_labeled, 'label')}."
    )


def _use(facts: ExportFacts, calibration: str) -> str:
    return f"""## Use

In this folder:

```python
from transformers import pipeline

classify = pipeline("text-classification", model=".", truncation=True)
print(classify("a text"))
```

Texts are cut to {facts.max_tokens} tokens. For many texts, `al-ray score POOL --model FOLDER --to OUT` adds class,
probabilities and uncertainty to the rows of a file. Its probabilities are {_plain(calibration)}."""


def _quality(facts: ExportFacts) -> str:
    status = facts.status
    if not status.curve:
        return f"## Quality\n\nNot known: {_plain(status.how_estimated)}."
    last = status.curve[-1]
    of = "" if last.n_labeled == status.n_labeled else f", of a model of {_n(last.n_labeled, 'label')}"
    return (
        f"## Quality\n\nEstimated accuracy on texts like those of the pool: **{last.accuracy:.1%}**, 95 % interval "
        f"{last.low:.1%} to {last.high:.1%}{of}. It rests on {_n(last.n_evaluated, 'answer')}, and was estimated "
        f"{_plain(status.how_estimated)}.{_of_ensemble(facts)}"
    )


def _of_ensemble(facts: ExportFacts) -> str:
    if facts.n_members == 1:
        return ""
    return (
        f" An ensemble of {facts.n_members} models was measured; this is the first of them, and may be less accurate."
    )


def _labels(facts: ExportFacts) -> str:
    status = facts.status
    sources = Counter(answer.source for answer in facts.answers)
    by_source = ", ".join(f"{n:,} {_SOURCES.get(source, _plain(source))}" for source, n in sources.most_common())
    people = {answer.annotator for answer in facts.answers if answer.annotator}
    lines = [
        f"| {_plain(name)} | {n:,} |" for name, n in status.class_counts.items()
    ]  # names of people stay in the files beside: a card is published
    said = [
        f"{status.n_pool:,} texts from {_plain(_where(facts.data))}. {_n(status.n_labeled, 'label')} were learned "
        f"from, {status.n_evaluation:,} more measure the model, and {_n(status.n_abstained, 'text')} got no class.",
        f"Answers: {by_source or 'none'}; by {_n(len(people), 'named annotator')}. {_agreement(facts)}".strip(),
        f"Texts were chosen by {_plain(facts.method)}, round after round.",
    ]
    return "\n\n".join(["## Data and labels", *said, "| class | labels |\n|---|---|\n" + "\n".join(lines)])


_SOURCES = {
    "given": "that the data had",
    "page": "from the labelling page",
    "file": "from files",
    "label_studio": "from Label Studio",
}


def _agreement(facts: ExportFacts) -> str:
    """Say how often annotators of the same text named the same class."""
    last: dict[int, dict[str, int]] = {}
    for answer in facts.answers:
        if answer.label is not None:
            last.setdefault(answer.id, {})[answer.annotator] = answer.label
    several = [said for said in last.values() if len(said) > 1]
    if not several:
        return ""
    n_agreed = sum(len({*said.values()}) == 1 for said in several)
    return f"Of {_n(len(several), 'text')} that several annotators answered, they agreed on {n_agreed:,}."


def _limits(facts: ExportFacts) -> str:
    status = facts.status
    rare = [f"`{_code(name)}` ({n})" for name, n in status.class_counts.items() if n < 10]
    limits = [
        "It knows these classes alone, and names one of them for any text, also for one that belongs to none.",
        "It is as good as said above on texts like those of the pool, and nothing is known of others: another time, "
        "another language, another source.",
        "The labels that it learned from were chosen because they teach much. They are no sample of the pool: count "
        "classes, and compare models, on the evaluation labels alone.",
        *([f"Few labels, so hardly learned: {', '.join(rare)}."] if rare else []),
        *(["Nobody has measured it."] if not status.curve else []),
        "It repeats what annotators believed. Decide nothing about people by it alone.",
    ]
    return "## What it is not good for\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _origin(facts: ExportFacts, model: ResolvedModel) -> str:
    rows = {
        "project": facts.name,
        "fingerprint": facts.fingerprint,
        "texts (SHA-256)": facts.content_sha256,
        "encoder": _base(model),
        "encoder (SHA-256)": model.sha256,
        **facts.versions,
    }
    lines = [f"| {_plain(key)} | `{_code(str(value))}` |" for key, value in rows.items()]
    files = (
        "`labels/` holds the labels (`labels.parquet`, `labels.csv`, and `dataset/` for `datasets.load_from_disk`) and "
        "all answers (`answers.parquet`, `answers.csv`). In CSV an apostrophe stands before what a spreadsheet would "
        "take for a formula; Parquet has every text as it is."
    )
    return "\n".join(["## Where it comes from", "", "| | |", "|---|---|", *lines, "", files])


def _where(data: str) -> str:
    """Return where texts came from without the folders of a machine and without keys."""
    shown = without_secrets(data)
    return shown if "://" in shown else shown.rpartition("/")[2]


def _base(model: ResolvedModel) -> str:
    """Return what an encoder is called, without the path of a folder."""
    if model.revision is None:
        return Path(model.name).name
    return f"{ALIASES.get(model.name, model.name)}@{model.revision[:12]}"


def _plain(text: str) -> str:
    """Return a text as Markdown that shows it: nothing in it is markup."""
    shown = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{each}" if each in r"\`*_[]|#~$" else each for each in shown)


def _code(text: str) -> str:
    """Return a text as it may stand in a span of code within a table."""
    return " ".join(text.split()).replace("`", "'").replace("|", "\\|")


def _n(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
