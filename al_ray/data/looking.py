"""Look at files that nobody has described: which columns hold text and class, and what the rows are like."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from al_ray.core.seeding import stream
from al_ray.core.types import TextDataset
from al_ray.data.files import split_files
from al_ray.data.rows import Head, Rows, missing_file, read_head
from al_ray.data.splits import is_unicode
from al_ray.errors import DataError, unknown_name

N_LOOKED_AT = 1000
_MOST_CHARACTERS = 20_000  # of a text, where its tokens are counted: many times what any encoder reads
_USUAL_TEXTS = (
    "text", "body", "sentence", "content", "message", "review", "document", "comment", "description", "utterance",
    "question", "tweet", "abstract", "title", "query",
)  # fmt: skip
_USUAL_LABELS = (
    "label", "class", "category", "target", "labels", "y", "intent", "topic", "sentiment", "label_text", "class_name",
    "team", "queue", "type", "tag", "coarse_label",
)  # fmt: skip
_NO_LABEL = {
    "na",
    "n/a",
    "nan",
    "null",
    "none",
    "nil",
    "-",
    "?",
    "missing",
    "undefined",
    "unlabeled",
    "unlabelled",
    "-1",
}
_NUMBER = re.compile(r"[-+]?(\d[\d_,.]*|\.\d+)([eE][-+]?\d+)?")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """The columns of a file by what they may hold, the likeliest first.

    Attributes:
        texts: columns that may hold the text.
        labels: columns that may hold the class.
        others: every other column that could be named as one of the two -> what it looks like.
        unusable: every column that could not -> why.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    others: dict[str, str]
    unusable: dict[str, str]

    @property
    def names(self) -> list[str]:
        """All columns that can be named as text or as label."""
        return list(dict.fromkeys([*self.texts, *self.labels, *self.others]))


def first_rows(path: Path) -> Head:
    """Read the first rows of a file, or of the training split of a folder.

    Raises:
        DataError: nothing is there, or it cannot be read, or it has no rows.
    """
    if not path.exists():
        raise DataError(f"{missing_file(path)} Give a CSV, Parquet or JSONL file, or a folder with train.* and test.*.")
    file = split_files(path)[0][0] if path.is_dir() else path
    head = read_head(file, N_LOOKED_AT)
    if not any(head.columns.values()):
        raise DataError(f"{file} has no rows that can be used. It must hold a text and its class in every row.")
    return head


def guess_columns(head: Head) -> Guesses:
    """Guess which columns hold texts and which hold classes, by their names and their first values."""
    looks = {name: _Look(values) for name, values in head.columns.items()}
    texts = [name for name, look in looks.items() if look.may_be_text(_is_usual(name, _USUAL_TEXTS))]
    texts.sort(key=lambda name: -looks[name].n_words * (4 if _is_usual(name, _USUAL_TEXTS) else 1))
    labels = [name for name, look in looks.items() if look.may_be_label(_is_usual(name, _USUAL_LABELS))]
    labels.sort(key=lambda name: (_rank(name, _USUAL_LABELS), looks[name].n_distinct < 2, looks[name].n_distinct))
    others = {name: look.words() for name, look in looks.items() if name not in (*texts, *labels)}
    return Guesses(texts=tuple(texts), labels=tuple(labels), others=others, unusable=head.unusable)


def _rank(name: str, usual: Sequence[str]) -> int:
    plain = name.strip().casefold()
    return usual.index(plain) if plain in usual else len(usual)


def _is_usual(name: str, usual: Sequence[str]) -> bool:
    return _rank(name, usual) < len(usual)


class _Look:
    """What the first values of a column look like."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.given = [value for value in values if not is_missing(value)]
        self.texts = [value for value in self.given if isinstance(value, str)]
        self.n_distinct = len({str(value) for value in self.given})
        self.n_words = _mean(len(text.split()) for text in self.texts)
        self.n_characters = _mean(map(len, self.texts))
        self.n_letters = _mean(sum(map(str.isalpha, text)) / len(text) for text in self.texts)

    def may_be_text(self, is_usual: bool) -> bool:
        """Whether these are texts: words, and hardly one twice."""
        if not self.given or len(self.texts) < len(self.given):
            return False
        is_long = self.n_words >= 2.5 or (self.n_characters >= 12 and self.n_words > 1.2)
        no_spaces = self.n_characters >= 8 and any(ord(text[0]) > 0x2E80 for text in self.texts)  # Chinese, Japanese
        varies = self.n_distinct > max(2, 0.3 * len(self.given))
        return self.n_letters >= 0.4 and varies and (is_long or no_spaces or is_usual)

    def may_be_label(self, is_usual: bool) -> bool:
        """Whether these are classes: few names or whole numbers, which come again."""
        if any(isinstance(value, float) for value in self.given):
            return is_usual  # to be told what a class may be
        n = len(self.given)
        few = self.n_distinct <= max(20, n // 5) and (self.n_distinct < n or n <= 4)
        is_date = all(_DATE.fullmatch(text) for text in self.texts) if self.texts else False
        return bool(self.given) and few and self.n_words <= 4 and not is_date and (self.n_distinct > 1 or is_usual)

    def words(self) -> str:
        """Say what a column looks like that is taken for neither."""
        if not self.given:
            return "empty"
        if self.n_distinct == 1:
            return f"always {str(self.given[0])[:20]!r}"
        kind = "numbers" if all(_NUMBER.fullmatch(str(value)) for value in self.given) else "texts"
        return f"{kind}, {self.n_distinct} different in the first {len(self.given)}"


def is_missing(value: Any) -> bool:
    """Say whether a cell of a file is empty: nothing, white space, or no number."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def chosen_column(role: str, name: str | None, guesses: Guesses, where: Path) -> str:
    """Return the column that was named for a role, ``text`` or ``label``, or the likeliest one.

    Raises:
        DataError: it is not there or cannot be used, or none was named and none looks like it.
    """
    candidates = guesses.texts if role == "text" else guesses.labels
    if name is None:
        if not candidates:
            raise DataError(_none_found(role, guesses, where))
        return candidates[0]
    if name in guesses.unusable:
        raise DataError(f"{where}: column {name!r} {guesses.unusable[name]}. A row has one text and one class.")
    if name not in guesses.names:
        raise DataError(f"{where}: {unknown_name('column', name, guesses.names)}")
    return name


def _none_found(role: str, guesses: Guesses, where: Path) -> str:
    shown = [*(f"{name!r} (texts)" for name in guesses.texts), *(f"{name!r} (classes)" for name in guesses.labels)]
    shown += [f"{name!r} ({words})" for name, words in (guesses.others | guesses.unusable).items()]
    listed = ", ".join(list(dict.fromkeys(shown))[:12])
    if role == "text":
        return f"{where}: no column looks like texts. There are {listed}. If one is, name it: --text COLUMN."
    return (
        f"{where}: no column looks like classes: a few names or whole numbers that come again. There are {listed}. If "
        "one is, name it: --label COLUMN. A study needs the true class of every row, which answers its queries."
    )


def unusable_texts(rows: Rows, text: str) -> dict[str, list[int]]:
    """Return the rows that no pool to label may hold: what is wrong with them -> their numbers, counted from 0."""
    texts = rows.columns[text]
    checks = {
        f"no text in column {text!r}": [is_missing(value) for value in texts],
        f"no string in column {text!r}": [not isinstance(value, str) and not is_missing(value) for value in texts],
        "half a character, which is not valid Unicode": [
            isinstance(value, str) and not is_unicode(value) for value in texts
        ],
    }
    found = {words: [i for i, is_bad in enumerate(bad) if is_bad] for words, bad in checks.items()}
    return {words: at for words, at in found.items() if at}


def unusable_rows(rows: Rows, text: str, label: str) -> dict[str, list[int]]:
    """Return the rows that no data set may hold: what is wrong with them -> their numbers, counted from 0.

    Raises:
        DataError: it is the whole label column that cannot be used.
    """
    labels = rows.columns[label]
    given = [value for value in labels if not is_missing(value)]
    for kind, words, fix in (
        (bool, "true and false", 'Write names in their place, such as "yes" and "no", or 0 and 1'),
        (float, "numbers with a point", "A class is a name or a whole number: convert them, or put them into bins"),
    ):
        if given and all(isinstance(value, kind) for value in given):
            raise DataError(
                f"{rows.where}: column {label!r} holds {words} ({given[0]}). {fix}, or name another column: "
                "--label COLUMN."
            )
    found = unusable_texts(rows, text)
    no_class = [i for i, value in enumerate(labels) if is_missing(value)]
    broken = [i for i, value in enumerate(labels) if isinstance(value, str) and not is_unicode(value)]
    if broken:
        words = "half a character, which is not valid Unicode"
        found[words] = sorted({*found.get(words, ()), *broken})
    return {**found, **({f"no class in column {label!r}": no_class} if no_class else {})}


def without(rows: Rows, at: Iterable[int]) -> Rows:
    """Return rows without some of them."""
    gone = {*at}
    columns = {name: [v for i, v in enumerate(values) if i not in gone] for name, values in rows.columns.items()}
    return replace(rows, columns=columns)


def write_rows(file: Path, rows: Rows, free: Callable[[Path], Path]) -> Path:
    """Write rows as a file that is read as the same rows: CSV where they came from one, else JSONL.

    Args:
        file: without a suffix.
        rows: what to write.
        free: gives back a file that may be written, or refuses it.

    Returns:
        the file, with the suffix of its format.

    Raises:
        DataError: it cannot be written.
    """
    file = free(file.with_name(f"{file.name}{'.jsonl' if rows.is_typed else '.csv'}"))
    names = list(rows.columns)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as lines:
            if rows.is_typed:
                lines.writelines(
                    json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n"
                    for row in zip(*rows.columns.values(), strict=True)
                )
            else:
                csv.writer(lines, lineterminator="\n").writerows([names, *zip(*rows.columns.values(), strict=True)])
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror}. Choose another folder with --out.") from None
    return file


def missing_in_words(labels: Iterable[Any]) -> dict[str, int]:
    """Return the classes whose name mostly says that there is none, such as ``NA``, with how many rows have them."""
    counts = Counter(str(value).strip() for value in labels if not is_missing(value))
    return {name: n for name, n in counts.items() if name.casefold() in _NO_LABEL}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a data set is like, for somebody who is about to make a study of it.

    Attributes:
        n_doubled: rows whose text stands in an earlier row, of either split.
        n_contradicting: different texts that stand there with more than one class.
        n_in_both: rows of the test split whose text stands in the training split.
        n_tokens: tokens, special ones included, of a sample of all texts, in order of size.
        foreign: share of the letters in that sample that are not Latin ones.
    """

    n_doubled: int
    n_contradicting: int
    n_in_both: int
    n_tokens: tuple[int, ...]
    foreign: float

    def n_tokens_of(self, share: float) -> int:
        """Return the number of tokens that a share of the texts does not exceed."""
        return self.n_tokens[min(int(share * len(self.n_tokens)), len(self.n_tokens) - 1)]

    def cut_by(self, max_tokens: int) -> float:
        """Return the share of the texts that are longer than so many tokens."""
        return sum(n > max_tokens for n in self.n_tokens) / len(self.n_tokens)


def find_out(dataset: TextDataset, count_tokens: Callable[[Sequence[str]], Iterable[int]]) -> Findings:
    """Look at all texts for doubled ones, and at a sample for lengths and script.

    Args:
        dataset: the checked rows.
        count_tokens: gives the number of tokens of each text.
    """
    classes: dict[str, set[int]] = {}
    for split in (dataset.train, dataset.test):
        for text, label in zip(split.texts, split.labels.tolist(), strict=True):
            classes.setdefault(text, set()).add(label)
    trained_on = {*dataset.train.texts}
    sample = _sample(dataset)
    return Findings(
        n_doubled=len(dataset.train) + len(dataset.test) - len(classes),
        n_contradicting=sum(len(found) > 1 for found in classes.values()),
        n_in_both=sum(text in trained_on for text in dataset.test.texts),
        n_tokens=tuple(sorted(count_tokens(sample))),
        foreign=_foreign("".join(sample)),
    )


def _sample(dataset: TextDataset) -> list[str]:
    texts = dataset.train.texts
    if len(texts) > N_LOOKED_AT:
        at = stream(0, "looking").choice(len(texts), N_LOOKED_AT, replace=False)
        texts = [texts[i] for i in sorted(at.tolist())]
    return [text[:_MOST_CHARACTERS] for text in texts]


def _foreign(text: str) -> float:
    letters = [character for character in text[:200_000] if character.isalpha()]
    return sum(ord(letter) > 0x24F for letter in letters) / max(len(letters), 1)
