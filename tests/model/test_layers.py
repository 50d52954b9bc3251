"""Frozen layers: a fit on what they put out is the fit that runs them every time, for every kind of encoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from al_ray.core.seeding import stream_seed
from al_ray.core.types import Sampling, Split
from al_ray.errors import ConfigError
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.encoder import build_network, load_weights
from al_ray.model.encoding import Encoding, encode_table
from al_ray.model.layers import encoder_layers
from al_ray.model.predict import hidden_states
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import resolve_model
from al_ray.model.tokens import HiddenStates, TokenizedSplit, tokenize_table
from tests.model import tiny
from tests.model.conftest import Save
from tests.model.group import ThreadGroup, ThreadWorker

CPU = torch.device("cpu")
FROZEN = [family for family in tiny.ENCODERS if family != "albert"]
# Weights outside of the layers that the lowest one reads.
READ_BELOW = ("embeddings.", "embeddings_project.", "encoder.rel_embeddings", "encoder.LayerNorm",
              "encoder.relative_attention_bias", "embed_tokens.")  # fmt: skip


def recipe_of(frozen: int, **changes: Any) -> FinetuneRecipe:
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "validation_fraction": 0.2, **changes}
    return FinetuneRecipe(frozen_layers=frozen, **options)


def texts_of(folder: Path, n: int = 60, seed: int = 3) -> TokenizedSplit:
    return tiny.split_of(tiny.toy_table(n, seed=seed), resolve_model(str(folder), None))


def states_of(folder: Path, split: TokenizedSplit, n_layers: int, *, bf16: bool = False) -> HiddenStates:
    model = resolve_model(str(folder), None)
    network = build_network(model, 3, CPU)
    load_weights(network, model, "pretrained", seed=0)
    network.eval()
    if bf16:
        network.to(torch.bfloat16)
    return hidden_states(network, split, n_layers=n_layers, batch_size=16, device=CPU)


def running_every_layer(folder: Path, pool: TokenizedSplit, frozen: int, **changes: Any) -> TransformerClassifier:
    """Build the classifier that runs its frozen layers in every pass: without gradients and without dropout."""
    recipe = replace(changes.pop("recipe"), frozen_layers=0)
    classifier = tiny.classifier_of(folder, pool=pool, recipe=recipe, **changes)
    encoder = classifier._network.model.base_model
    layers = encoder_layers(encoder)
    for name, value in encoder.named_parameters():
        if name.startswith(READ_BELOW):
            value.requires_grad_(False)
    for layer in layers[:frozen]:
        layer.requires_grad_(False)
    higher = {id(part) for part in layers[frozen:].modules()}
    for part in (part for part in encoder.modules() if isinstance(part, torch.nn.Dropout) and id(part) not in higher):
        part.p = 0.0
    for layer in layers[:frozen]:
        for part in layer.modules():
            for name in ("dropout_prob", "attention_dropout", "activation_dropout"):
                if isinstance(getattr(part, name, None), float):
                    setattr(part, name, 0.0)
    return classifier


def outputs_of(classifier: TransformerClassifier, pool: TokenizedSplit, n: int = 40) -> np.ndarray:
    classifier.finetune(tiny.labeled_of(pool, range(n)), round_index=1)
    return classifier.predict("pool", pool.ids).logits


def hidden_of(folder: Path, pool: TokenizedSplit, frozen: int, **changes: Any) -> dict[Split, HiddenStates]:
    return dict.fromkeys(("pool", "test"), states_of(folder, pool, frozen, **changes))


@pytest.mark.parametrize("frozen", [1, 2, "every"])
@pytest.mark.parametrize("family", FROZEN)
def test_a_fit_on_hidden_states_is_the_fit_that_runs_every_layer(save: Save, family: str, frozen: int | str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    n_layers = 2 if family == "distilbert" else 3
    frozen = n_layers if isinstance(frozen, str) else frozen
    recipe = recipe_of(frozen)
    hidden = hidden_of(folder, pool, frozen)
    ours = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe, hidden=hidden), pool)
    live = outputs_of(running_every_layer(folder, pool, frozen, recipe=recipe), pool)
    np.testing.assert_allclose(ours, live, rtol=0, atol=1e-5)
    unfrozen = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=replace(recipe, frozen_layers=0)), pool)
    assert np.abs(ours - unfrozen).max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_states_that_nobody_brings_are_computed(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    brought, computed = (
        tiny.classifier_of(folder, pool=pool, recipe=recipe_of(2), hidden=hidden)
        for hidden in (hidden_of(folder, pool, 2), None)
    )
    np.testing.assert_array_equal(outputs_of(brought, pool), outputs_of(computed, pool))


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_states_in_bf16_are_bits_that_numpy_holds(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    whole, half = states_of(folder, pool, 2), states_of(folder, pool, 2, bf16=True)
    assert half.dtype == np.uint16
    floats = torch.from_numpy(half.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_allclose(floats, whole, atol=0.15)
    changes: dict[str, Any] = {"recipe": recipe_of(2), "precision": "bf16"}
    brought = outputs_of(tiny.classifier_of(folder, pool=pool, hidden={"pool": half, "test": half}, **changes), pool)
    np.testing.assert_array_equal(outputs_of(tiny.classifier_of(folder, pool=pool, **changes), pool), brought)
    exact = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe_of(2)), pool)
    np.testing.assert_allclose(brought, exact, atol=0.3)


@pytest.mark.parametrize("family", ["roberta", "deberta-v2"])
def test_states_may_lie_in_memory_that_cannot_be_written(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    hidden = hidden_of(folder, pool, 1)
    hidden["pool"].flags.writeable = False
    outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe_of(1), hidden=hidden), pool)


def test_states_are_in_the_order_of_the_tokens_as_transformers_computes_them(save: Save) -> None:
    from transformers import AutoModel

    folder = save("mpnet")
    pool = texts_of(folder, 9)
    encoder = AutoModel.from_pretrained(folder).eval()
    tokens = [pool.tokens[start:end] for start, end in zip(pool.offsets[:-1], pool.offsets[1:], strict=True)]
    with torch.no_grad():
        alone = [
            encoder(torch.tensor(text[None], dtype=torch.int64), output_hidden_states=True).hidden_states[2][0]
            for text in tokens
        ]
    np.testing.assert_allclose(states_of(folder, pool, 2), torch.cat(alone).numpy(), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_the_network_holds_neither_frozen_layers_nor_the_vocabulary(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    classifier = tiny.classifier_of(folder, pool=pool, recipe=recipe_of(2))
    names = [name for name, _ in classifier._network.named_parameters()]
    assert not any("layer.0." in name or "layer.1." in name or "word_embeddings" in name for name in names)
    before = {name: value.detach().clone() for name, value in classifier._network.named_parameters()}
    outputs_of(classifier, pool)
    trained = {name for name, value in classifier._network.named_parameters() if value.requires_grad}
    assert all("layer.2." in name or "pooler" in name or "classifier" in name for name in trained)
    assert any("layer.2." in name for name in trained)
    assert before.keys() >= trained


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_dropout_acts_above_the_frozen_layers_alone(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    passes = Sampling(dropout="network", n_passes=3, rate=0.4)
    ours = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe_of(1), sampling=passes), pool)
    assert ours.shape == (60, 3, 3)
    assert np.abs(ours[:, 0] - ours[:, 1]).max() > 0.01
    calm = tiny.classifier_of(folder, pool=pool, recipe=recipe_of(3), sampling=passes)
    calm.finetune(tiny.labeled_of(pool, range(40)), round_index=1)
    found = calm.predict("pool", pool.ids, with_features=True, with_logits_without_dropout=True)
    # With every layer frozen the features are what they were; the head alone drops.
    before = states_of(folder, pool, 3)[pool.offsets[:-1]]
    assert found.features is not None
    np.testing.assert_allclose(found.features, before[np.argsort(pool.ids)], atol=1e-6)
    assert np.abs(found.logits[:, 0] - found.logits[:, 1]).max() > 0.01


def test_members_of_an_ensemble_differ_above_the_frozen_layers(save: Save) -> None:
    folder = save("mpnet")
    pool = texts_of(folder)
    draws = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe_of(2), sampling=Sampling(n_members=2)), pool)
    alone = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe_of(2)), pool)
    np.testing.assert_array_equal(draws[:, 0], alone[:, 0])
    assert np.abs(draws[:, 0] - draws[:, 1]).max() > 0.01


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_encoding_of_a_number_of_layers_is_what_they_put_out(save: Save, precision: Any) -> None:
    folder = save("electra")
    model = resolve_model(str(folder), None)
    table = tokenize_table(tiny.toy_table(30, seed=3), model, 40)
    encoding = Encoding(model=model, precision=precision, batch_size=16, output=2)
    encoded = encode_table(table, encoding.encoder(CPU))
    expected = states_of(folder, TokenizedSplit.from_table(table), 2, bf16=precision == "bf16")
    assert encoded.dtype == expected.dtype
    np.testing.assert_array_equal(encoded, expected)
    assert encoding.key != replace(encoding, output=1).key


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_two_workers_with_frozen_layers_take_the_steps_of_one(
    save: Save, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(family, **tiny.CALM[family])
    pool = texts_of(folder)
    recipe = recipe_of(2, validation_fraction=0.0)
    alone = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe), pool, 41)
    ranks = [tiny.classifier_of(folder, pool=pool, recipe=recipe) for _ in range(2)]
    # Ranks that are threads share torch's generator, so their first weights are drawn before the threads start.
    seed = stream_seed(1, "round", 1, "finetune")
    for rank in ranks:
        load_weights(rank._network, resolve_model(str(folder), None), "pretrained", seed)
    monkeypatch.setattr("al_ray.model.classifier.load_weights", lambda *arguments: None)

    def on_rank(worker: ThreadWorker) -> np.ndarray:
        ranks[worker.rank]._worker = worker
        return outputs_of(ranks[worker.rank], pool, 41)

    one, two = ThreadGroup(2).run(on_rank)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, alone, atol=2e-4)


@pytest.mark.parametrize(("family", "n_layers"), [("distilbert", 2), ("albert", 0)])
def test_more_frozen_layers_than_the_encoder_has_are_refused(save: Save, family: str, n_layers: int) -> None:
    folder = save(family)
    with pytest.raises(
        ConfigError, match=f"'frozen_layers' is 3, but the encoder has {n_layers} layers .*Use at most {n_layers}"
    ):
        tiny.classifier_of(folder, pool=texts_of(folder, 9), recipe=recipe_of(3))
