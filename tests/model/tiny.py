"""Tiny models and texts, made on the fly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from al_ray.core.types import LabeledSet
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.finetune import FitSettings
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit, tokenize_table
from al_ray.model.worker import SingleProcess

TOPICS = (("goal", "match", "team", "score"), ("stock", "market", "profit", "bank"), ("film", "actor", "scene", "plot"))
FILLERS = ("the", "a", "very", "new", "old", "some", "said", "today", "not", "was", "it", "they")
WORDS = [*FILLERS, *(word for topic in TOPICS for word in topic), "##s", "un", "##seen"]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


def save_bert(folder: Path, *, dropout: float = 0.1, seed: int = 0, **changes: Any) -> Path:
    """Write a random BERT encoder with a WordPiece tokenizer; weights are wide, so that texts differ."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=5 + len(WORDS),
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
        **{**SIZES, **changes},
    )
    _save(BertModel, config, folder, seed)
    return _save_tokenizer(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])


def save_roberta(folder: Path, *, dropout: float = 0.1, seed: int = 0) -> Path:
    """Write a random RoBERTa encoder, whose padding id is 1 and whose positions start behind it."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=5 + len(WORDS),
        max_position_embeddings=42,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
        **SIZES,
    )
    _save(RobertaModel, config, folder, seed)
    return _save_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])


def save_distilbert(folder: Path, *, seed: int = 0) -> Path:
    """Write a random DistilBERT encoder, whose layers are called otherwise than BERT's."""
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(
        vocab_size=5 + len(WORDS), max_position_embeddings=40, dim=32, n_layers=2, n_heads=4, hidden_dim=48
    )
    _save(DistilBertModel, config, folder, seed)
    return _save_tokenizer(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])


# What each family calls its sizes, where those are not BERT's names.
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "electra": {**SIZES, "embedding_size": 16},
    "albert": {**SIZES, "embedding_size": 16},
    "mpnet": SIZES,
    "deberta-v2": {**SIZES, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
    "deberta": {**SIZES, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
    # Attention sees two places to either side in one layer of three, and the head reads the mean, as published.
    "modernbert": {**SIZES, "local_attention": 4, "global_attn_every_n_layers": 2, "classifier_pooling": "mean",
                   "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "eurobert": {**SIZES, "classifier_pooling": "mean", "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "convbert": {**SIZES, "embedding_size": 32},
    "fnet": SIZES,
    "funnel": {"d_model": 32, "block_sizes": [1, 1], "n_head": 4, "d_head": 8, "d_inner": 48,
               "architectures": ["FunnelModel"]},
    "mobilebert": {**SIZES, "embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16},
    "llama": {**SIZES, "num_key_value_heads": 4},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "bos_token_id": 2, "eos_token_id": 3},
    "bart": {"d_model": 32, **{f"{part}_{size}": number for part in ("encoder", "decoder")
             for size, number in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()}},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "vit": SIZES,
}  # fmt: skip
# What gives some dropout to those that are published without.
DROPOUT: dict[str, dict[str, Any]] = {
    "modernbert": {"attention_dropout": 0.1, "mlp_dropout": 0.1, "classifier_dropout": 0.1},
    "eurobert": {"attention_dropout": 0.1},
}
# Those that every method has to run on.
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "mpnet", "deberta",
            "deberta-v2", "modernbert", "eurobert")  # fmt: skip
# What turns dropout off in those families that a test needs calm.
CALM: dict[str, dict[str, Any]] = {family: {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
                                   for family in ("bert", "mpnet", "electra")}  # fmt: skip
LIKE_ROBERTA = ("roberta", "xlm-roberta", "camembert", "mpnet", "bart")


def save_family(folder: Path, family: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write a random model of a family that transformers knows, with 42 places where it has a table of them."""
    from transformers import AutoConfig, AutoModel

    sizes = {"vocab_size": 5 + len(WORDS), "pad_token_id": int(family in LIKE_ROBERTA), **FAMILIES[family], **changes}
    if "n_positions" not in sizes and family not in ("xlnet", "t5", "vit", "funnel"):
        sizes = {"max_position_embeddings": 42, **sizes}
    _save(AutoModel.from_config, AutoConfig.for_model(family, initializer_range=0.2, **sizes), folder, seed)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return _save_tokenizer(folder, specials[0] if family in LIKE_ROBERTA else specials[1])


def add_word(folder: Path, word: str = "newword") -> Path:
    """Add a word to a model's tokenizer and leave its embeddings as they are."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([word])
    tokenizer.save_pretrained(folder)
    return folder


def _save(build: Any, config: Any, folder: Path, seed: int) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build(config).save_pretrained(folder)


def _save_tokenizer(folder: Path, specials: list[str]) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    roberta = specials[0] == "<s>"
    start, end, unknown = ("<s>", "</s>", "<unk>") if roberta else ("[CLS]", "[SEP]", "[UNK]")
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    tokenizer: Any = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>" if roberta else "[PAD]",
        unk_token=unknown,
        cls_token=start,
        sep_token=end,
    ).save_pretrained(folder)
    return folder


def toy_table(n: int, *, seed: int, first_id: int = 0, n_classes: int = 3, longest: int = 14) -> pa.Table:
    """Make texts of very different lengths that name their topic twice."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    texts = [_text(rng, int(label), longest) for label in labels]
    return pa.table({"id": np.arange(first_id, first_id + n), "label": labels, "text": texts})


def _text(rng: np.random.Generator, label: int, longest: int) -> str:
    words: list[str] = [*rng.choice(TOPICS[label], 2), *rng.choice(FILLERS, rng.integers(0, longest - 1))]
    return " ".join(rng.permutation(words))


def split_of(table: pa.Table, model: ResolvedModel, max_tokens: int = 40) -> TokenizedSplit:
    return TokenizedSplit.from_table(tokenize_table(table, model, max_tokens))


def labeled_of(split: TokenizedSplit, rows: Sequence[int] | range) -> LabeledSet:
    chosen = np.asarray(rows)
    return LabeledSet(ids=split.ids[chosen], labels=split.labels[chosen])


def classifier_of(folder: Path, *, pool: TokenizedSplit, **changes: Any) -> TransformerClassifier:
    """Build a classifier of a tiny model with quick defaults."""
    settings: dict[str, Any] = {
        "recipe": FinetuneRecipe(epochs=2, batch_size=8, learning_rate=1e-3),
        "precision": "float32",
        "scoring_batch_size": 16,
        "n_classes": 3,
        "seed": 1,
    }
    settings |= {key: changes.pop(key) for key in (*settings, "new_loss") if key in changes}
    arguments: dict[str, Any] = {
        "model": resolve_model(str(folder), None),
        "init": "pretrained",
        "test": pool,
        "worker": SingleProcess(),
    }
    return TransformerClassifier(pool=pool, settings=FitSettings(**settings), **{**arguments, **changes})
