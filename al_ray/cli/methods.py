"""The tables of methods in docs/methods.md, made from the registries: name, source, what it costs and what it needs."""

import typing
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from al_ray.confidence import ConfidenceMethod, confidences
from al_ray.data import datasets
from al_ray.data.files import named_folders
from al_ray.errors import DataError
from al_ray.evaluation import Evaluation, evaluations
from al_ray.filtering import CandidateFilter, filters
from al_ray.initial import InitialQuery, initial_queries
from al_ray.oracle import oracles
from al_ray.registry import Registry, fields_of, summary
from al_ray.stopping import StoppingRule, stopping_rules
from al_ray.strategy import QueryStrategy, strategies
from al_ray.study.forecast import n_fits_of, n_passes_of
from al_ray.study.names import option_label
from al_ray.terminal import make_console

EXAMPLES: dict[str, Any] = {"int": 100, "float": 0.9}


def markdown() -> str:
    """Return all tables as Markdown, one a family."""
    return "\n\n".join("\n".join(_family(*family)) for family in _FAMILIES)


def _family(title: str, registry: Registry[Any], columns: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield f"| name | source | {' | '.join(columns)} |"
    yield "|---|---|" + "---|" * len(columns)
    for name in registry.names():
        for choice in _choices(registry.get(name)):
            plugin = registry.build({"name": name, **_required(registry.get(name)), **choice})
            words = "".join(f", `{key}: {value}`" for key, value in choice.items())
            yield f"| `{name}`{words} | {plugin.source} | {' | '.join(rows(plugin))} |"


def _choices(cls: type) -> list[dict[str, Any]]:
    """Return the values of an option that takes one of a few words: each is a method of its own."""
    for key, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is typing.Literal:
            return [{key: value} for value in typing.get_args(hint)]
    return [{}]


def _required(cls: type) -> dict[str, Any]:
    """Return a value for every option without a default, so that the plug-in can be asked what it needs."""
    lacking = {key: words for key, (words, default) in fields_of(cls).items() if default is None}
    return {key: EXAMPLES[words] for key, words in lacking.items() if words in EXAMPLES}


def _confidence(method: ConfidenceMethod) -> tuple[str, ...]:
    needs = [
        *(["its own loss"] if method.new_loss() is not None else []),
        *(["features"] if method.needs_features else []),
        *(["features of round 1"] if method.needs_first_features else []),
        *(["outputs on the labelled"] if method.needs_labeled else []),
        *(["BERT or RoBERTa"] if method.sampling.adaptive_attention else []),
    ]
    own = "yes" if method.has_uncertainty else ""
    return str(n_passes_of(method)), str(n_fits_of(method)), str(method.n_draws), own, _listed(needs)


def _strategy(strategy: QueryStrategy) -> tuple[str, ...]:
    passes = "1" if strategy.needs_scores else "0"
    if strategy.n_watched:
        passes = f"1 an epoch, over {strategy.n_watched:,} examples"
    if strategy.needs_labeled_dynamics:
        passes += ", and 1 an epoch over the labelled"
    if strategy.needs_embeddings:
        passes += ", and 1 a study"
    needs = [
        *([f"{strategy.min_draws} draws"] if strategy.min_draws > 1 else []),
        *(["consistent draws"] if strategy.needs_consistent_draws else []),
        *(["logits"] if strategy.needs_logits else []),
        *(["features"] if strategy.needs_features else []),
        *(["embeddings"] if strategy.needs_embeddings else []),
        *(["outputs on the labelled"] if strategy.needs_labeled else []),
        *(["its epochs on the labelled"] if strategy.needs_labeled_dynamics else []),
        *(["what was of no class"] if strategy.needs_rejected else []),
        *(["prediction without dropout"] if strategy.needs_predicted else []),
        *(["a method with a measure of its own"] if strategy.needs_uncertainty else []),
        *(["its own earlier queries"] if strategy.needs_history else []),
        *(["all answers and the test split"] if strategy.needs_hindsight else []),
    ]
    whole = type(strategy).pick is not QueryStrategy.pick
    chooses = "among strategies" if strategy.arms else "a whole batch" if whole else "single examples"
    chooses = "everything" if strategy.labels_everything else "all batches" if strategy.needs_hindsight else chooses
    return passes, chooses, _listed(needs)


def _filter(candidate_filter: CandidateFilter) -> tuple[str, ...]:
    before = type(candidate_filter).select is not CandidateFilter.select
    needs = [
        *(["embeddings"] if candidate_filter.needs_embeddings else []),
        *(["scores of earlier rounds"] if candidate_filter.needs_last_scores else []),
        *(["probabilities"] if candidate_filter.needs_probs else []),
        *(["all answers"] if candidate_filter.needs_hardness else []),
        *(["a strategy that ranks"] if candidate_filter.clips else []),
    ]
    return "before scoring" if before else "after ranking", _listed(needs)


def _initial(initial: InitialQuery) -> tuple[str, ...]:
    needs = [
        *(["labels"] if initial.needs_truth else []),
        *(["embeddings"] if initial.needs_embeddings else []),
        *(["names of the classes"] if initial.needs_class_embeddings else []),
    ]
    return (_listed(needs),)


def _stopping(rule: StoppingRule) -> tuple[str, ...]:
    needs = [
        *(["predictions on a stop set of 2,000"] if rule.needs_stop_set else []),
        *(["labelled validation examples"] if rule.n_validation else []),
    ]
    return (_listed(needs),)


def _evaluation(evaluation: Evaluation) -> tuple[str, ...]:
    return ("probabilities of the test pool",) if evaluation.needs_probs else ("",)


def _listed(needs: list[str]) -> str:
    return ", ".join(needs)


_FAMILIES = (
    (
        "Confidence methods",
        confidences,
        ("passes a text", "fine-tunes a round", "draws", "own measure", "needs"),
        _confidence,
    ),
    ("Query strategies", strategies, ("passes over the pool a round", "chooses", "needs"), _strategy),
    ("Filters", filters, ("when", "needs"), _filter),
    ("Initial queries", initial_queries, ("needs",), _initial),
    ("Stopping rules", stopping_rules, ("needs",), _stopping),
    ("Evaluations without a test split", evaluations, ("needs",), _evaluation),
)


FAMILIES: tuple[Registry[object], ...] = (  # type: ignore[assignment]
    datasets, confidences, strategies, filters, oracles, stopping_rules, initial_queries, evaluations,
)  # fmt: skip


def list_methods(
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print sources, costs and needs, as in docs/methods.md.")
    ] = False,
) -> None:
    """Name every method that a study file can use, with its options and their defaults."""
    if as_markdown:
        typer.echo(markdown())
        return
    console = make_console()
    for family in FAMILIES:
        console.print(family_table(family))
    console.print(
        "A model is minilm, a Hub id with a revision, or a folder, of an encoder: BERT, RoBERTa, XLM-RoBERTa, "
        "DistilBERT, ELECTRA, ALBERT, MPNet, DeBERTa, ModernBERT. Decoders and encoder-decoders (GPT-2, Llama, XLNet, "
        "BART, T5) are refused.",
        highlight=False,
    )
    console.print(
        "A data set may also be a path: {path: FOLDER or FILE, text: COLUMN, label: COLUMN}, Parquet, CSV or JSONL.",
        highlight=False,
    )
    console.print(_folders(), highlight=False)


def _folders() -> str:
    """Say which folders of ``AL_RAY_DATA`` are data sets besides the registered ones."""
    try:
        others = [name for name in named_folders() if name not in datasets.names()]
    except DataError as error:
        return str(error)
    if not others:
        return "A folder in the one that AL_RAY_DATA names is a data set by its own name; none is there."
    return f"Folders in AL_RAY_DATA are data sets by their own name, with the options of a path: {', '.join(others)}."


def family_table(family: Registry[object]) -> Table:
    """Lay out one family: name, options with defaults, and what it is."""
    table = Table(title=family.family, title_justify="left", expand=False)
    table.add_column("name", no_wrap=True)
    table.add_column("options", overflow="fold")
    table.add_column("what it is", overflow="fold")
    for name in family.names():
        cls = family.get(name)
        options = ", ".join(_option(key, words, default) for key, (words, default) in fields_of(cls).items())
        table.add_row(name, options or "-", summary(cls))
    return table


def _option(key: str, words: str, default: object) -> str:
    return f"{key}: {words}" + (
        " (needed)" if default is None and "None" not in words else f" = {option_label(default)}"
    )
