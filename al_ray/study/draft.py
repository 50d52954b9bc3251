"""Draft a study file for data that was looked at: sizes that fit it, and the comments that say why."""

import math
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields

from al_ray.core.types import TextDataset
from al_ray.data.files import PathSource
from al_ray.data.looking import Findings
from al_ray.data.splits import yaml_text
from al_ray.errors import DataError

# The learner of a first study: one embedding a text, a head fitted in milliseconds.
FINETUNE = "{frozen_layers: all}"
_FIRST_SEED, _N_SEEDS = 42, 10
_MAX_TOKENS = (32, 48, 64, 96, 128, 192, 256)
_WHOLE = 0.95  # share of the texts that are read whole, where 256 tokens are enough for it
_INITIAL, _QUERY, _ROUNDS = 25, 25, 20
_FEWEST_ROUNDS, _SMALLEST_QUERY = 4, 2
_MOST_FOR_CLUSTERING = 20_000
_MOST_CLASSES = 500


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many examples a study asks for, and how much of a text it reads."""

    initial_size: int
    query_size: int
    rounds: int
    max_tokens: int

    @property
    def n_labels(self) -> int:
        """Labels at the end of a cell."""
        return self.initial_size + self.rounds * self.query_size


def fitting_sizes(n_train: int, n_classes: int, findings: Findings) -> Sizes:
    """Choose sizes: the paper's 25 + 20 x 25 labels where they are no more than half of the rows, else fewer.

    Raises:
        DataError: too few rows, or so many classes that no study could learn them.
    """
    least = n_classes + _FEWEST_ROUNDS * _SMALLEST_QUERY
    if n_classes > _MOST_CLASSES or n_train < 2 * least:
        lack = (
            f"{n_classes:,} classes are too many to compare methods on, {_MOST_CLASSES} at most"
            if n_classes > _MOST_CLASSES
            else f"{n_train:,} training rows are too few to compare methods on {n_classes:,} classes: a study starts "
            f"with one label of each and asks for half of the rows at most, so that it needs {2 * least:,}"
        )
        raise DataError(
            f"{lack}. Take more rows or join rare classes; or name another column that holds the class: --label COLUMN."
        )
    budget = n_train // 2
    initial = max(min(_INITIAL, budget // 5), n_classes)
    query = max(min(_QUERY, (budget - initial) // _ROUNDS), _SMALLEST_QUERY)
    rounds = min(_ROUNDS, (budget - initial) // query)
    max_tokens = fitting_max_tokens(findings)
    return Sizes(initial_size=initial, query_size=query, rounds=rounds, max_tokens=max_tokens)


def fitting_max_tokens(findings: Findings) -> int:
    """Choose to how many tokens texts are cut: as few as leave most of them whole."""
    whole = findings.n_tokens_of(_WHOLE)
    return next((n for n in _MAX_TOKENS if n >= whole), _MAX_TOKENS[-1])


def usual_test_fraction(n_rows: int) -> float:
    """Return the share of the rows to test on: a fifth, and of large data about 5,000 rows."""
    return max(0.001, min(0.2, round(5_000 / n_rows, 3)))


def draft_study(
    name: str, source: PathSource, dataset: TextDataset, findings: Findings, sizes: Sizes, file: str
) -> str:
    """Write the study file.

    Args:
        name: of the study.
        source: where its data are.
        dataset: the data, for what is said about them.
        findings: likewise.
        sizes: how much is asked for.
        file: where it will stand, for the commands in it.

    Returns:
        YAML that :func:`al_ray.study.file.load_study` takes as it is.
    """
    n_train, n_test, where = len(dataset.train), len(dataset.test), shlex.quote(file)
    what = (
        f"Which method learns {dataset.n_classes} classes from the fewest labels, on {n_train:,} texts, with a frozen "
        "encoder under a linear head? Random queries are what the others are compared with; each method runs with "
        f"{_N_SEEDS} seeds, and those that go by uncertainty also without the most uncertain 5 %."
    )
    whole = 1 - findings.cut_by(sizes.max_tokens)
    lines = [
        "# Written by 'al-ray new'; yours to change. What every key means: docs/studies.md, and 'al-ray list'.",
        f"#   al-ray run {where} --plan     what will run and what it will take; starts nothing",
        f"#   al-ray run {where}            runs it; the same line again goes on where it stopped",
        f"#   al-ray report {where}         the verdict, at any time",
        f"study: {yaml_text(name)}",
        "description: >",
        *textwrap.wrap(what, 110, initial_indent="  ", subsequent_indent="  "),
        "defaults:",
        f"  # {n_train:,} texts to learn from and {n_test:,} to test on. A path starts where al-ray is called.",
        f"  dataset: {_option(source)}",
        "  model: minilm # small and English; any encoder of the Hub, or a folder, can stand here",
        f"  max_tokens: {sizes.max_tokens} # {math.floor(100 * whole)} % of the texts are read whole",
        "  precision: float32 # with a fine-tuned encoder and GPUs: {cpu: float32, cuda: bf16}",
        "  # The encoder stays as it is and a head is fitted: a second a cell. Without this line the whole encoder is",
        "  # fine-tuned, which learns more from many labels and takes minutes a cell.",
        f"  finetune: {FINETUNE}",
        f"  initial_size: {sizes.initial_size} # labels before the first model, of every class",
        f"  query_size: {sizes.query_size} # labels that each round asks for",
        f"  rounds: {sizes.rounds} # so {sizes.n_labels:,} labels at the end, of {n_train:,}",
        f"  seed: {{range: [{_FIRST_SEED}, {_FIRST_SEED + _N_SEEDS}]}} # with fewer repetitions no difference is sure",
        "grid:",
        *_grid(n_train, dataset.n_classes),
    ]
    return "\n".join(lines) + "\n"


def _option(source: PathSource) -> str:
    """Write the option of a data set by path: what is not the default, and the two columns in any case."""
    values = {each.name: getattr(source, each.name) for each in fields(source)}
    usual_name = PathSource.from_option({"path": source.path}).name
    defaults = {each.name: each.default for each in fields(source)} | {"text": None, "label": None, "name": usual_name}
    written = ", ".join(f"{key}: {_value(value)}" for key, value in values.items() if value != defaults[key])
    return f"{{{written}}}"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return yaml_text(value) if isinstance(value, str) else str(value)


def _grid(n_train: int, n_classes: int) -> Iterator[str]:
    yield "  - strategy: random"
    if n_classes > 2:
        yield "  # Where the model is unsure, by three measures."
        yield "  - strategy: [least_confidence, margin, entropy]"
    else:
        yield "  # Where the model is unsure; with two classes least confidence, margin and entropy are one."
        yield "  - strategy: margin"
    yield "    # as it is, and without the most uncertain, which are often junk or wrong labels"
    rules = ["[{name: uncertainty_clipping, fraction: 0.05}]", *(["[first_peak]"] if n_classes == 2 else [])]
    yield f"    filters: [[], {', '.join(rules)}]"
    if n_train <= _MOST_FOR_CLUSTERING:
        yield "  # Typical texts of every kind, and unsure ones that are unlike each other."
        yield "  - strategy: [typiclust, badge]"
        yield f"  # All {n_train:,} labels: how far this learner comes."
        yield "  - strategy: passive"
        yield f"    seed: {_FIRST_SEED}"
    else:
        yield "  # Typical texts of every kind, and unsure ones that are unlike each other. These compare candidates"
        yield "  # with each other, so they choose among 10,000 in each round."
        yield "  - strategy: [typiclust, badge]"
        yield "    filters: [{name: random_subsample, size: 10000}]"
