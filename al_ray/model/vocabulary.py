"""Fine-tuning only the word embeddings that the labelled texts use.

AdamW changes a word vector that gets no gradient in one way only: weight decay shrinks it. So the vectors of unused
words need no gradient, no moments and no share in the exchange between workers; they are multiplied by the same factor
once at the end. Exact but for the rounding of that one product. It halves the optimiser's work for MiniLM on a few
hundred texts.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from al_ray.model.encoder import Network
from al_ray.model.tokens import TokenizedSplit


@dataclass
class UsedWords:
    """The labelled texts in the small vocabulary.

    Attributes:
        split: the texts, their tokens renumbered.
        decay: what weight decay has made of an unused word vector by the end of the fit, as a factor.
    """

    split: TokenizedSplit
    decay: float = 1.0


@contextlib.contextmanager
def used_words(network: Network, split: TokenizedSplit) -> Iterator[UsedWords]:
    """Let the network hold the word vectors of some texts only, and put all of them back afterwards.

    Frozen embeddings stay as they are, and so do tokens then.

    Args:
        network: changed in place while the block runs.
        split: the texts.
    """
    embeddings = network.word_embeddings
    full = embeddings.weight
    if not full.requires_grad:
        yield UsedWords(split)
        return
    # All numbers up to the padding id stay, because models recognise padding by its number.
    n_kept = max(network.pad_id, embeddings.padding_idx or 0) + 1
    words = np.union1d(split.tokens, np.arange(n_kept))
    rows = torch.from_numpy(words.astype(np.int64)).to(full.device)
    used = UsedWords(replace(split, tokens=np.searchsorted(words, split.tokens).astype(np.int32)))
    embeddings.weight = nn.Parameter(full.detach()[rows])
    try:
        yield used
    finally:
        with torch.no_grad():
            full.mul_(used.decay)
            full[rows] = embeddings.weight
        embeddings.weight = full
