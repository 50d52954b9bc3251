"""``al-ray new --project``: from texts without labels to a project file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from al_ray.cli.asking import Asker, asked_column, free_file, names_in, rows_have, say_next, token_counter, write_draft
from al_ray.core.types import TextDataset
from al_ray.data.files import PathSource, split_files
from al_ray.data.looking import (
    Findings,
    find_out,
    first_rows,
    guess_columns,
    is_missing,
    unusable_texts,
    without,
    write_rows,
)
from al_ray.data.rows import FORMATS, Rows, read_rows
from al_ray.errors import ConfigError, DataError
from al_ray.project.draft import draft_project, usual_settings
from al_ray.project.file import load_project
from al_ray.study.draft import fitting_max_tokens
from al_ray.study.file import read_yaml

_FEWEST = 20  # texts for which asking one by one pays
_NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line says of a new project; None: it is to be asked or guessed.

    Attributes:
        data: path of a file, or of a folder of ``.txt`` files.
        text: column of the text.
        label: column of labels that are known already.
        id: column of unique integers.
        classes: names, with commas between.
        out: project file to write.
    """

    data: str
    text: str | None
    label: str | None
    id: str | None
    classes: str | None
    out: str | None


def new_project(console: Console, asker: Asker, wanted: Wanted, *, skip_unusable: bool, force: bool) -> None:
    """Look at the texts of a pool, ask for the classes, and write a project file.

    Raises:
        AlRayError: the data cannot be used, or the file is there already.
    """
    path = Path(wanted.data).expanduser()
    folder = path if path.is_dir() and not _has_tables(path) else None
    if folder is not None:
        path = _table_of(folder, wanted.out, force)
        console.print(f"written: {path}, one row for each text file", highlight=False, soft_wrap=True)
    elif path.is_dir():
        path = split_files(path)[0][0]
    guesses = guess_columns(first_rows(path))
    text = asked_column("text", wanted.text, guesses, path, asker)
    label = _known_label(wanted.label, tuple(name for name in guesses.labels if name != text), asker)
    columns = {"text": text, **({} if label is None else {"label": label})}
    columns |= {} if wanted.id is None else {"id": wanted.id}
    rows = read_rows([path], columns)
    name = PathSource.from_option({"path": str(folder or path)}).name.lstrip("-_") or "data"
    file = free_file(Path(wanted.out or f"{name}.yaml"), force)
    path, rows = _usable(path, rows, text, file.parent / name, skip_unusable, force)
    classes = _classes(wanted.classes, rows, label, asker)
    source = PathSource.from_option(
        {"path": str(path), "text": text, "label": label, "id": wanted.id, "classes": list(classes)}
    )
    dataset = source.load_pool()
    if len(dataset.train) < _FEWEST:
        raise DataError(f"{path} has {len(dataset.train)} texts. Label them by hand: a project pays from {_FEWEST} on.")
    findings = find_out(dataset, token_counter(console))
    max_tokens = fitting_max_tokens(findings)
    settings = usual_settings(len(dataset.train), len(classes), max_tokens)
    data = {"path": str(path), "text": text, "label": label, "id": wanted.id}
    n_known = int((dataset.train.labels >= 0).sum())
    about = f"{len(dataset.train):,} texts, {n_known:,} of them with a label. A path starts where al-ray is called."
    written = draft_project(name, data, classes, settings, str(file), about)
    load_project(read_yaml(file.name, written))
    write_draft(file, written)
    _say(console, path, dataset, findings, max_tokens)
    say_next(console, file, "label", str(file))


def _has_tables(folder: Path) -> bool:
    return any(each.suffix in FORMATS for each in folder.iterdir())


def _table_of(folder: Path, out: str | None, force: bool) -> Path:
    """Write the text files of a folder as one table, so that an id stays a text when files are added.

    Raises:
        DataError: there are none, or one is no UTF-8 text.
    """
    files = sorted(each for each in folder.rglob("*.txt") if each.is_file())
    if not files:
        raise DataError(f"{folder} holds neither .txt files nor a {', '.join(FORMATS)} file. Name a file of texts.")
    texts = []
    for each in files:
        try:
            texts.append(each.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise DataError(f"{each} is no UTF-8 text. Convert it, or take it out of the folder.") from None
        except OSError as error:
            raise DataError(f"{each} cannot be read: {error.strerror}.") from None
    names = [str(each.relative_to(folder)) for each in files]
    rows = Rows(where=str(folder), columns={"text": texts, "file": names})
    beside = Path(out).parent if out else Path()
    return write_rows(beside / f"{folder.resolve().name}_texts", rows, free=lambda file: free_file(file, force))


def _known_label(named: str | None, guesses: Sequence[str], asker: Asker) -> str | None:
    """Return the column of labels that are known already; nothing is taken for one that nobody named."""
    if named is not None:
        return named
    also = f" (it could be {', '.join(map(repr, guesses))})" if guesses else ""
    answer = asker.ask(f"Which column holds labels that are known already?{also}", _NONE)
    return None if answer == _NONE else answer


def _usable(path: Path, rows: Rows, text: str, copy: Path, skip_unusable: bool, force: bool) -> tuple[Path, Rows]:
    """Return the data as they are, or a copy without rows that cannot be used.

    Raises:
        DataError: there are such rows, and nobody asked for a copy without them.
    """
    found = unusable_texts(rows, text)
    if not found:
        return path, rows
    if not skip_unusable:
        said = [f"{path}: {rows_have(len(at))} {what} (row {at[0]}, counted from 0)." for what, at in found.items()]
        raise DataError("\n".join([*said, "Mend them, or write a copy without them: --skip-unusable."]))
    kept = without(rows, {i for at in found.values() for i in at})
    if not len(kept):
        raise DataError(f"{path}: no row has a text. Is {text!r} the right column? Name it with --text.")
    file = write_rows(Path(f"{copy}_usable"), kept, free=lambda file: free_file(file, force))
    return file, replace(kept, where=str(file))


def _classes(named: str | None, rows: Rows, label: str | None, asker: Asker) -> tuple[str, ...]:
    """Return the names of the classes: as named, or asked for, or those of the labels that are there.

    Raises:
        ConfigError: fewer than two are named.
    """
    found: tuple[str, ...] = ()
    if label is not None:
        found = rows.class_names.get(label) or tuple(
            sorted({str(value).strip() for value in rows.columns[label] if not is_missing(value)})
        )

    def check(answer: str) -> str | None:
        return None if len(set(names_in(answer))) >= 2 else "Two different names are needed at least."

    guess = ",".join(found)
    answer = (
        named if named is not None else asker.ask("What are the classes called? (with commas between)", guess, check)
    )
    names = tuple(dict.fromkeys(names_in(answer)))
    if len(names) < 2:
        raise ConfigError(
            f"classes are {list(names)}, and two are needed at least. Name them: --classes billing,bug,other"
        )
    return names


def _say(console: Console, path: Path, dataset: TextDataset, found: Findings, max_tokens: int) -> None:
    table = Table.grid(padding=(0, 2))
    for name, words in _facts(path, dataset, found, max_tokens):
        table.add_row(Text(name, style="bold"), Text(words))
    console.print(table)
    if found.foreign > 0.2:
        note = "many letters are not Latin, and minilm reads English: name another encoder as 'model'."
        console.print(f"- {note}", style="yellow", highlight=False)


def _facts(path: Path, dataset: TextDataset, found: Findings, max_tokens: int) -> Iterator[tuple[str, str]]:
    labels = dataset.train.labels
    counts = Counter(labels[labels >= 0].tolist())
    yield "data", f"{path}: {len(dataset.train):,} texts"
    yield "classes", ", ".join(f"{name} ({counts[index]:,} known)" for index, name in enumerate(dataset.class_names))
    yield "doubled", f"{found.n_doubled:,} texts repeat another one; near repetitions are asked for once"
    cut = f"max_tokens {max_tokens} cuts {100 * found.cut_by(max_tokens):.1f} % of the texts"
    yield (
        "tokens",
        f"half of the texts have up to {found.n_tokens_of(0.5):,}, the longest {found.n_tokens[-1]:,}; {cut}",
    )
