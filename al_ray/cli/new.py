"""``al-ray new``: from a file of labelled texts to a study of it."""

import os
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Never

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from al_ray.cli.asking import Asker, asked_column, free_file, names_in, rows_have, say_next, token_counter, write_draft
from al_ray.cli.new_project import Wanted, new_project
from al_ray.cli.run import user_errors
from al_ray.core.types import TextDataset
from al_ray.data import datasets, near_equal_notes
from al_ray.data.files import PathSource, split_files
from al_ray.data.looking import (
    Findings,
    find_out,
    first_rows,
    guess_columns,
    missing_in_words,
    unusable_rows,
    without,
    write_rows,
)
from al_ray.data.rows import Rows
from al_ray.data.splits import are_whole_numbers
from al_ray.errors import ConfigError, DataError
from al_ray.study.draft import Sizes, draft_study, fitting_sizes, usual_test_fraction
from al_ray.study.file import load_study, read_yaml
from al_ray.terminal import dataset_lines, make_console

_SHARE = "a share of the rows"
_SURE_OF = 100  # test examples with which an accuracy is known to about ten points
_FEW = 5  # training examples of a class that is hardly learned
_LARGE = 100_000  # texts that take an encoder on cores a while


def new(
    data: Annotated[str, typer.Argument(help="CSV, Parquet or JSONL file, or a folder of train.* and test.*.")],
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.", metavar="COLUMN")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the class.", metavar="COLUMN")] = None,
    test: Annotated[
        str | None, typer.Option("--test", help="File of the test split; else a share of the rows.", metavar="FILE")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Study file to write.", metavar="STUDY.yaml")] = None,
    skip_unusable: Annotated[
        bool, typer.Option("--skip-unusable", help="Write a copy of the data without the rows that cannot be used.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, take the guesses.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    project: Annotated[
        bool, typer.Option("--project", help="Write a project file: the texts are to be labelled by people.")
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="With --project: names of the classes, with commas between.", metavar="A,B,..."),
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="With --project: column of unique integers.", metavar="COLUMN")
    ] = None,
) -> None:
    """Look at texts, say what they are like, and write a study file, or a project file, for them."""
    console = make_console()
    with user_errors(console):
        asker = Asker(console, not yes and sys.stdin.isatty() and sys.stdout.isatty())
        if project:
            if test is not None:
                raise ConfigError("--test names a test split, and a project has none. Leave it out.")
            wanted = Wanted(data=data, text=text, label=label, id=id_, classes=classes, out=out)
            new_project(console, asker, wanted, skip_unusable=skip_unusable, force=force)
            return
        if classes is not None or id_ is not None:
            raise ConfigError("--classes and --id belong to --project. Leave them out, or add --project.")
        looked = _look(data, text, label, test, asker)
        file = free_file(Path(out or f"{looked.name}.yaml"), force)
        if any(looked.unusable):
            looked = _without_unusable(looked, file.parent, force) if skip_unusable else _refuse(looked)
        looked = _with_classes(looked, asker)
        dataset = looked.source.dataset_of(*looked.splits)
        findings = find_out(dataset, token_counter(console))
        sizes = fitting_sizes(len(dataset.train), dataset.n_classes, findings)
        written = draft_study(looked.name, looked.source, dataset, findings, sizes, str(file))
        load_study(read_yaml(file.name, written))
        write_draft(file, written)
        _say(console, looked, dataset, findings, sizes)
        say_next(console, file, "run", str(file), "--plan")


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """Data that were read, and how they are to be understood.

    Attributes:
        source: the option of the data set.
        splits: the rows of the file or of the training split, and of the test split where there is one.
        unusable: of each split, what is wrong with rows that no data set may hold -> their numbers, counted from 0.
        others: the columns that could be meant as well, by what they could be.
        notes: what a reader should know before trusting the guesses.
    """

    source: PathSource
    splits: tuple[Rows, ...]
    unusable: tuple[dict[str, list[int]], ...]
    others: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.source.name.lstrip("-_") or "data"


def _look(data: str, text: str | None, label: str | None, test: str | None, asker: Asker) -> _Looked:
    """Read the data once, after its first rows; ask what cannot be seen."""
    path = Path(data).expanduser()
    if not path.exists() and data in datasets.names():
        raise DataError(f"{data!r} is a data set that al_ray knows: write 'dataset: {data}' into a study file.")
    guesses = guess_columns(first_rows(path))
    text = asked_column("text", text, guesses, path, asker)
    label = asked_column("label", label, guesses, path, asker)
    source = _with_test(PathSource.from_option({"path": data, "text": text, "label": label}), path, test, asker)
    splits = tuple(rows for rows in source.read() if rows is not None)
    if source.test_fraction is not None:
        source = replace(source, test_fraction=usual_test_fraction(len(splits[0])))
    unusable = tuple(unusable_rows(rows, text, label) for rows in splits)
    named, notes = _named_missing(splits, label, asker)
    for rows, found in zip(splits, unusable, strict=True):
        values = rows.columns[label]
        for name in named:
            found[f"the class {name!r}"] = [i for i, value in enumerate(values) if str(value).strip() == name]
        if len(splits) == 1 and (alone := _alone(values, {i for at in found.values() for i in at})):
            found["a class that no other row has, so that it cannot be in both splits"] = alone
    others = {"text": guesses.texts, "label": guesses.labels}
    return _Looked(source=source, splits=splits, unusable=unusable, others=others, notes=tuple(notes))


def _with_test(source: PathSource, path: Path, test: str | None, asker: Asker) -> PathSource:
    """Say where the test split comes from: its own file, the one that is named, or a share of the rows."""
    if test is not None:
        return replace(source, test=test)
    if path.is_dir() and split_files(path)[1]:
        return source

    def check(answer: str) -> str | None:
        return None if answer == _SHARE or os.path.isfile(answer) else f"There is no file {answer!r}."

    answer = asker.ask("Which file is the test split?", _SHARE, check)
    return replace(source, test_fraction=0.2) if answer == _SHARE else replace(source, test=answer)


def _named_missing(splits: Sequence[Rows], label: str, asker: Asker) -> tuple[list[str], list[str]]:
    """Return the classes that are none, by what was answered, and notes on those that look so and stay."""
    gone, notes = [], []
    for name, n in missing_in_words(value for rows in splits for value in rows.columns[label]).items():
        answer = asker.ask(f"{rows_have(n)} the class {name!r}. Is it one?", "yes", _yes_or_no)
        if answer.casefold().startswith("n"):
            gone.append(name)
        else:
            notes.append(f"{rows_have(n)} the class {name!r}, which often says that there is none; then take them out.")
    return gone, notes


def _yes_or_no(answer: str) -> str | None:
    return None if answer.casefold() in ("y", "yes", "n", "no") else "Answer yes or no."


def _alone(labels: Sequence[Any], unusable: Container[int]) -> list[int]:
    """Return the rows that are the only one of their class among those that can be used."""
    names = {i: str(value).strip() for i, value in enumerate(labels) if i not in unusable}
    counts = Counter(names.values())
    return [i for i, name in names.items() if counts[name] == 1]


def _refuse(looked: _Looked) -> Never:
    """Say what is wrong with which rows.

    Raises:
        DataError: always.
    """
    said = [
        f"{rows.where}: {rows_have(len(at))} {what} ({_listed(at)}, counted from 0)."
        for rows, found in zip(looked.splits, looked.unusable, strict=True)
        for what, at in found.items()
    ]
    advice = (
        "al_ray drops no row by itself. Mend them, or write a copy without them and a study of that: --skip-unusable."
    )
    raise DataError("\n".join([*said, advice]))


def _listed(at: Sequence[int], n: int = 5) -> str:
    more = f" and {len(at) - n:,} more" if len(at) > n else ""
    return f"row{'s' if len(at) > 1 else ''} {', '.join(map(str, at[:n]))}{more}"


def _without_unusable(looked: _Looked, folder: Path, force: bool) -> _Looked:
    """Write a copy of the data without the rows that cannot be used, and look at that."""
    kept, files = [], []
    for rows, found, split in zip(looked.splits, looked.unusable, ("", "_test"), strict=False):
        gone = {i for at in found.values() for i in at}
        if len(gone) == len(rows):
            raise DataError(
                f"{rows.where}: no row is left without those that cannot be used. Are these the right columns?"
            )
        kept.append(without(rows, gone))
        files.append(
            write_rows(folder / f"{looked.name}_usable{split}", kept[-1], free=lambda file: free_file(file, force))
        )
    n = sum(len(rows) for rows in looked.splits) - sum(map(len, kept))
    note = f"{n:,} row{'s' if n > 1 else ''} left out; the others are in {' and '.join(map(str, files))}."
    test = str(files[1]) if len(files) > 1 else None
    named = [names for rows in kept for names in rows.class_names.values()]
    source = replace(looked.source, path=str(files[0]), test=test, classes=named[0] if named else None)
    return replace(looked, source=source, splits=tuple(kept), unusable=({},), notes=(*looked.notes, note))


def _with_classes(looked: _Looked, asker: Asker) -> _Looked:
    """Name the classes where the rows alone do not say what they are."""
    label, splits = looked.source.label, looked.splits
    assert label is not None, "a study's data have labels"
    if any(rows.class_names.get(label) for rows in splits):
        return looked
    seen = [{*rows.columns[label]} for rows in splits]
    everything = set().union(*seen)
    if not are_whole_numbers(splits, label):
        names = tuple(sorted(map(str, everything))) if everything != seen[0] else None
        return replace(looked, source=replace(looked.source, classes=names))
    numbers = sorted(map(int, everything))
    if numbers != list(range(len(numbers))):
        return replace(looked, source=replace(looked.source, classes=tuple(map(str, numbers))))
    plain = ", ".join(map(str, numbers))

    def check(answer: str) -> str | None:
        n = len(set(names_in(answer)))
        return (
            None
            if n == len(numbers)
            else f"{len(numbers)} different names are needed, with commas between; here are {n}."
        )

    answer = asker.ask("What are the classes called, in this order?", plain, check)
    return looked if answer == plain else replace(looked, source=replace(looked.source, classes=names_in(answer)))


def _say(console: Console, looked: _Looked, dataset: TextDataset, found: Findings, sizes: Sizes) -> None:
    """Print what was found, then what of it may be a trouble."""
    table = Table.grid(padding=(0, 2))
    for name, words in _facts(looked, dataset, found, sizes):
        table.add_row(Text(name, style="bold"), Text(words))
    console.print(table)
    for note in (*looked.notes, *_notes(dataset, found, sizes)):
        console.print(f"- {note}", style="yellow", highlight=False)


def _facts(looked: _Looked, dataset: TextDataset, found: Findings, sizes: Sizes) -> Iterator[tuple[str, str]]:
    source = looked.source
    n_train, n_test = len(dataset.train), len(dataset.test)
    yield "data", ", ".join(f"{rows.where}: {len(rows):,} rows" for rows in looked.splits)
    for role, name in (("text", source.text), ("label", source.label)):
        others = [repr(other) for other in looked.others[role] if other != name]
        yield role, f"column {name!r}" + (f"; it could be {', '.join(others)} as well" if others else "")
    drawn = f", {100 * source.test_fraction:g} % of the rows of each class" if source.test_fraction else ""
    yield "splits", f"{n_train:,} texts to learn from, {n_test:,} to test on{drawn}"
    yield "classes", f"{dataset_lines(source.name, dataset)[1].partition(': ')[2]} (training/test)"
    yield "doubled", f"{found.n_doubled:,} rows repeat a text, {found.n_in_both:,} of the test split one to learn from"
    half, most, longest = found.n_tokens_of(0.5), found.n_tokens_of(0.95), found.n_tokens[-1]
    cut = f"max_tokens {sizes.max_tokens} cuts {100 * found.cut_by(sizes.max_tokens):.1f} % of the texts"
    yield "tokens", f"half of the texts have up to {half:,}, 95 % up to {most:,}, the longest {longest:,}; {cut}"
    rounds = f"{sizes.initial_size}, then {sizes.rounds} rounds of {sizes.query_size}"
    yield "labels", f"{rounds}: {sizes.n_labels:,} of {n_train:,} at the end"


def _notes(dataset: TextDataset, found: Findings, sizes: Sizes) -> Iterator[str]:
    """Say what of the data will make a study say less than it could."""
    n_test = len(dataset.test)
    if n_test < _SURE_OF:
        yield f"{n_test} test texts give an accuracy to ±{100 / n_test**0.5:.0f} points. Take more of them if you can."
    counts = Counter(dataset.train.labels.tolist())
    rare = [dataset.class_names[c] for c in range(dataset.n_classes) if counts[c] < _FEW]
    if rare:
        names = ", ".join(map(repr, rare[:5])) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
        yield f"fewer than {_FEW} training texts, hardly to be learned: {names}. More rows of them, or a joint class?"
    if sizes.rounds * sizes.query_size < 200:
        yield f"few rows: rounds ask for {sizes.query_size} labels, and differences between methods will be small."
    if found.n_in_both:
        yield f"{found.n_in_both:,} test texts are learned from as well: they make every method look better than it is."
    if found.n_contradicting:
        yield f"{found.n_contradicting:,} texts have more than one class: not all of their rows can be right."
    if found.foreign > 0.2:
        yield "many letters are not Latin, and minilm reads English: name another encoder as 'model' in the study file."
    if len(dataset.train) > _LARGE:
        yield "so many texts take an encoder a while on cores: see the forecast, or start with a part of them."
    yield from near_equal_notes(dataset)
