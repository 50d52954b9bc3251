"""Asking for what a file does not say: columns, names, and where to write."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from al_ray.data.looking import Guesses, chosen_column
from al_ray.errors import ConfigError, ModelError
from al_ray.model.source import resolve_model
from al_ray.model.tokens import load_tokenizer, tokenize

_TOKENS_PER_WORD = 1.35  # of English, where there is no tokenizer to count with
_LONGEST = 100_000  # tokens: no text is cut while they are counted


@dataclass(frozen=True)
class Asker:
    """Asks at a terminal, or takes what was guessed.

    Attributes:
        console: where it is asked.
        asks: false where there is nobody to ask.
    """

    console: Console
    asks: bool

    def ask(self, question: str, guess: str, check: Callable[[str], str | None] = lambda answer: None) -> str:
        """Return the answer, asked for again while ``check`` says what is wrong with it."""
        while self.asks:
            answer = str(typer.prompt(question, default=guess)).strip()
            problem = check(answer)
            if problem is None:
                return answer
            self.console.print(problem, style="yellow", highlight=False)
        return guess


def asked_column(role: str, named: str | None, guesses: Guesses, path: Path, asker: Asker) -> str:
    """Return the column that was named, or else asked for or guessed."""
    guess = chosen_column(role, named, guesses, path)
    if named is not None:
        return guess
    others = [repr(name) for name in (guesses.texts if role == "text" else guesses.labels) if name != guess]
    also = f" (it could be {', '.join(others)} as well)" if others else ""

    def check(answer: str) -> str | None:
        return None if answer in guesses.names else f"There is no column {answer!r}: {', '.join(guesses.names)}."

    return asker.ask(f"Which column holds the {'text' if role == 'text' else 'class'}?{also}", guess, check)


def names_in(names: str) -> tuple[str, ...]:
    """Return the names in a line that has commas between them."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def free_file(file: Path, force: bool) -> Path:
    """Return a file that may be written.

    Raises:
        ConfigError: it is there already.
    """
    if file.exists() and not (force and file.is_file()):
        advice = "it is no file" if not file.is_file() else "write over it with --force"
        raise ConfigError(f"{file} is there already. Name another file with --out, or {advice}.")
    return file


def token_counter(console: Console) -> Callable[[Sequence[str]], Iterable[int]]:
    """Return what counts the tokens of texts: MiniLM's tokenizer, or a guess by the words where it is not installed."""
    try:
        model = resolve_model("minilm", None)
    except ModelError as error:
        console.print(f"cannot be used here: {error}", style="yellow", soft_wrap=True, highlight=False)
        return lambda texts: [round(_TOKENS_PER_WORD * len(text.split())) + 2 for text in texts]
    tokenizer = load_tokenizer(model, _LONGEST)
    return lambda texts: tokenize(texts, tokenizer).value_lengths().to_pylist()


def rows_have(n: int) -> str:
    """Begin a sentence about so many rows."""
    return "1 row has" if n == 1 else f"{n:,} rows have"


def write_draft(file: Path, text: str) -> None:
    """Write a drafted file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}. Name another file with --out.") from None


def say_next(console: Console, file: Path, *command: str) -> None:
    """Print what was written, and what comes next."""
    console.print(f"\nwritten: {file}", highlight=False, soft_wrap=True)
    console.print(f"next:    al-ray {shlex.join(command)}", highlight=False, soft_wrap=True)
