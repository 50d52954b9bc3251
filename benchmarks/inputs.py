"""What the benchmarks work on: TREC-6 and MiniLM, as they are found on this machine."""

import os
from functools import lru_cache
from pathlib import Path

from al_ray.core.types import TextDataset, TextSplit
from al_ray.data import resolve_dataset
from al_ray.errors import AlRayError
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit, tokenize_table
from al_ray.runtime.pool import text_table
from benchmarks.report import SkipBenchmark

MAX_TOKENS = 60
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@lru_cache(maxsize=1)
def trec6() -> TextDataset:
    """Read TREC-6: from ``AL_RAY_DATA``, else from ``../shared/data`` beside the repository, else from the Hub.

    Raises:
        SkipBenchmark: it is in none of them.
    """
    if "AL_RAY_DATA" not in os.environ and (SHARED_DATA / "trec6").is_dir():
        os.environ["AL_RAY_DATA"] = str(SHARED_DATA)
    try:
        return resolve_dataset("trec6")
    except AlRayError as error:
        raise SkipBenchmark(f"TREC-6 is not here: {error}") from None


@lru_cache(maxsize=1)
def minilm() -> ResolvedModel:
    """Find MiniLM.

    Raises:
        SkipBenchmark: it is not on this machine, or is another one.
    """
    try:
        return resolve_model("minilm", None)
    except AlRayError as error:
        raise SkipBenchmark(f"the model minilm is not here: {error}") from None


def tokenized(split: TextSplit) -> TokenizedSplit:
    """Tokenise a split here."""
    return TokenizedSplit.from_table(tokenize_table(text_table(split), minilm(), MAX_TOKENS))
