"""What a model is asked before anything starts: encoders are read as transformers reads them, others refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from al_ray.errors import ModelError
from al_ray.model.check import MINILM_FACTS, ModelFacts, ask_network, examine_model
from al_ray.model.encoder import build_network, load_weights
from al_ray.model.source import ResolvedModel, resolve_model
from tests.model import tiny
from tests.model.conftest import Save
from tests.trust.conftest import edit_json

OF_BERT = ("dense", "key", "query", "value")
LINEAR_LAYERS = {
    "distilbert": ("k_lin", "lin1", "lin2", "out_lin", "q_lin", "v_lin"),
    "electra": ("dense", "embeddings_project", "key", "query", "value"),
    "albert": ("dense", "embedding_hidden_mapping_in", "ffn", "ffn_output", "key", "query", "value"),
    "mpnet": ("dense", "k", "o", "q", "v"),
    "deberta": ("dense", "in_proj", "pos_proj", "pos_q_proj"),
    "deberta-v2": ("dense", "key_proj", "pos_key_proj", "pos_query_proj", "query_proj", "value_proj"),
    "modernbert": ("Wi", "Wo", "Wqkv"),
    "eurobert": ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
}


def facts(
    family: str, longest_text: int | None, n_layers: int, *, adapts: bool, dropout: tuple[Any, Any] = (0.1, 0.1)
) -> ModelFacts:
    network, head = dropout
    return ModelFacts(
        longest_text=longest_text,
        n_layers=n_layers,
        n_features=32,
        adapts_attention=adapts,
        network_dropout=network,
        head_dropout=head,
        family=family,
        linear_layers=LINEAR_LAYERS.get(family, OF_BERT),
    )


# Of 42 places RoBERTa, its kin and MPNet leave those up to the padding id 1 empty; those of the last four have no end.
ACCEPTED = {
    "bert": facts("bert", 42, 3, adapts=True),
    "roberta": facts("roberta", 40, 3, adapts=True),
    "xlm-roberta": facts("xlm-roberta", 40, 3, adapts=True),
    "camembert": facts("camembert", 40, 3, adapts=True),
    "distilbert": facts("distilbert", 42, 2, adapts=True, dropout=(0.2, 0.2)),
    "electra": facts("electra", 42, 3, adapts=True),
    "albert": facts("albert", 42, 0, adapts=False),
    "mpnet": facts("mpnet", 40, 3, adapts=False),
    "deberta": replace(facts("deberta", None, 3, adapts=False), runs_in_bf16=False),
    "deberta-v2": facts("deberta-v2", None, 3, adapts=False),
    "modernbert": facts("modernbert", None, 3, adapts=False, dropout=(0.0, 0.0)),
    "eurobert": facts("eurobert", None, 3, adapts=False, dropout=(0.0, None)),
}


def found(folder: Path) -> ResolvedModel:
    return resolve_model(str(folder), None)


@pytest.mark.parametrize("family", ACCEPTED)
def test_an_encoder_says_what_it_can_do(save: Save, family: str) -> None:
    assert examine_model(found(save(family))) == ACCEPTED[family]


@pytest.mark.parametrize("family", ACCEPTED)
def test_a_fitted_encoder_reads_texts_as_transformers_reads_them_padded(save: Save, family: str) -> None:
    from transformers import AutoTokenizer

    folder, table = save(family), tiny.toy_table(24, seed=3)
    pool = tiny.split_of(table, found(folder))
    classifier = tiny.classifier_of(folder, pool=pool)
    classifier.finetune(tiny.labeled_of(pool, range(10)), round_index=1)
    logits = classifier.predict("pool", pool.ids).logits[:, 0]
    batch = AutoTokenizer.from_pretrained(folder)(table["text"].to_pylist(), padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = classifier._network.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    np.testing.assert_allclose(logits, theirs.numpy(), atol=1e-5)
    assert logits.std() > 1e-3


@pytest.mark.parametrize("family", ACCEPTED)
def test_the_longest_text_is_the_longest_that_the_encoder_itself_reads(save: Save, family: str) -> None:
    model, limit = found(save(family)), ACCEPTED[family].longest_text
    network = build_network(model, 3, torch.device("cpu"))
    load_weights(network, model, "pretrained", 0)

    def read(n_tokens: int) -> torch.Tensor:
        with torch.no_grad():
            return network.model(input_ids=torch.full((1, n_tokens), 9)).logits

    assert torch.isfinite(read(limit or 200)).all()
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError)):
            read(limit + 1)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"pad_token_id": None}, "gpt2 is a decoder, made to write on from a text"),
        ("gpt2", {"pad_token_id": 0}, "gpt2 is a decoder, made to write on from a text"),
        ("llama", {}, "llama is a decoder, made to write on from a text"),
        ("xlnet", {}, "xlnet is a decoder, made to write on from a text; its class is read off the last token"),
        ("bart", {}, "bart is an encoder-decoder"),
        ("t5", {}, "t5 is an encoder-decoder"),
        ("vit", {}, "transformers has no classifier of texts for vit"),
        ("bert", {"is_decoder": True}, "bert is a decoder: its first token does not see those behind it"),
        ("convbert", {}, "convbert scores a text differently when a longer one is beside it"),
        ("mobilebert", {}, "mobilebert scores a text differently when a longer one is beside it"),
        ("fnet", {}, "fnet scores a text differently when a longer one is beside it"),
    ],
)  # fmt: skip
def test_what_is_no_encoder_is_refused_by_name(save: Save, family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=rf"model .* cannot be used: {message}.* Use an encoder such as BERT"):
        examine_model(found(save(family, **changes)))


def test_a_head_over_neither_the_first_token_nor_the_mean_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    folder = tiny.save_family(tmp_path / "model", "eurobert", classifier_pooling="late")
    with pytest.raises(ModelError, match=r"classifier_pooling in its config.json is 'late'.* Set it to 'mean'"):
        examine_model(found(folder))
    edit_json(folder / "config.json", {"classifier_pooling": "mean"})
    assert examine_model(found(folder)) == ACCEPTED["eurobert"]


def test_a_head_that_reads_another_token_than_it_says_is_found_by_letting_it_read(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_ray.model.encoder.POOLINGS", {None: "mean"})
    with pytest.raises(ModelError, match="bert reads the class of a text off neither its first token nor the mean"):
        examine_model(found(save("bert")))


def test_an_encoder_without_an_output_for_each_token_is_refused(save: Save) -> None:
    with pytest.raises(ModelError, match=r"funnel gives no output for each token.* Use an encoder such as BERT"):
        examine_model(found(save("funnel")))


def test_a_model_that_scores_texts_off_their_last_token_would_change_with_the_texts_beside(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why XLNet is refused: what its name stands for is also found by letting it read."""
    monkeypatch.setattr("al_ray.model.encoder.check_family", lambda model, config: None)
    with pytest.raises(ModelError, match="xlnet scores a text differently when a longer one is beside it"):
        examine_model(found(save("xlnet")))


def test_an_encoder_without_a_padding_token_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    model = found(tiny.save_family(tmp_path / "model", "roberta"))
    edit_json(tmp_path / "model" / "config.json", {"pad_token_id": None})
    with pytest.raises(ModelError, match=r"names no padding token.* Write its tokenizer's padding id as 'pad_tok"):
        examine_model(model)
    edit_json(tmp_path / "model" / "config.json", {"pad_token_id": 1})
    assert examine_model(model) == ACCEPTED["roberta"]


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_a_word_added_to_the_tokenizer_alone_is_refused_and_the_advice_works(tmp_path: Path, family: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = tiny.add_word(tiny.save_family(tmp_path / "model", family))
    n_words = 5 + len(tiny.WORDS)
    message = rf"has vectors for {n_words} words, but its tokenizer numbers 'newword' as {n_words}.* Call model.resize"
    with pytest.raises(ModelError, match=message):
        examine_model(found(folder))
    encoder = AutoModel.from_pretrained(folder)
    encoder.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)))
    encoder.save_pretrained(folder)
    assert examine_model(found(folder)) == ACCEPTED[family]
    pool = tiny.split_of(tiny.toy_table(12, seed=0).set_column(2, "text", [["a newword"] * 12]), found(folder))
    classifier = tiny.classifier_of(folder, pool=pool)
    classifier.finetune(tiny.labeled_of(pool, range(6)), round_index=1)
    assert np.isfinite(classifier.predict("pool", pool.ids).logits).all()


@pytest.mark.parametrize(
    ("family", "changes", "lacking"),
    [
        ("bert", {"hidden_size": 16}, r"embeddings.word_embeddings.weight \[\d+, 16\]"),
        ("bert", {"num_hidden_layers": 4}, r"encoder.layer.3.\S+ \["),
        ("bert", {"vocab_size": 50}, r"embeddings.word_embeddings.weight \[50, 32\]"),
        ("deberta-v2", {"intermediate_size": 64}, r"encoder.layer.0.intermediate.dense.weight \[64, 32\]"),
    ],
    ids=["narrower", "deeper", "more words", "wider inside"],
)  # fmt: skip
def test_weights_of_another_configuration_are_told_by_their_shapes(
    tmp_path: Path, family: str, changes: dict[str, Any], lacking: str
) -> None:
    folder = tiny.save_family(tmp_path / "model", family)
    edit_json(folder / "config.json", changes)
    facts = examine_model(found(folder))
    assert re.fullmatch(rf"{lacking}.*", facts.weights_lack or "")


def test_weights_under_the_names_of_a_task_model_or_without_a_pooler_lack_nothing(tmp_path: Path) -> None:
    folder = tiny.save_family(tmp_path / "model", "bert")
    stored = load_file(folder / "model.safetensors")
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in stored.items()}
    kept = {name: value for name, value in old.items() if "pooler" not in name}
    save_file({**kept, "cls.predictions.bias": torch.zeros(9)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert examine_model(found(folder)).weights_lack is None


def test_asking_changes_no_random_state_and_no_weights(save: Save) -> None:
    before = torch.random.get_rng_state()
    examine_model(found(save("electra")))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_larger_than_memory_is_asked_all_the_same(save: Save, tmp_path: Path) -> None:
    """An encoder of 2 TB: only its shapes, its lowest layers and a few words come to be."""
    folder = tiny.save_family(tmp_path / "model", "distilbert")
    edit_json(folder / "config.json", {"n_layers": 64, "vocab_size": 2**34})
    assert examine_model(found(folder)).n_layers == 64


def test_minilm_answers_what_is_written_down_for_it(minilm: ResolvedModel) -> None:
    assert examine_model(minilm) is MINILM_FACTS
    assert ask_network(minilm) == MINILM_FACTS
