"""LoRA: adapters that start without effect, are all that is trained beside the head, and begin anew every round."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from al_ray.core.seeding import stream_seed
from al_ray.core.types import Sampling
from al_ray.errors import ConfigError
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.encoder import load_weights
from al_ray.model.lora import QUERY_AND_VALUE, lora_targets
from al_ray.model.recipe import LORA_DEFAULTS, FinetuneRecipe, Lora
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from tests.model import tiny
from tests.model.conftest import Save
from tests.model.group import ThreadGroup, ThreadWorker

RANK_4 = Lora(rank=4, alpha=8.0)


def recipe_of(lora: Lora | None = RANK_4, **changes: Any) -> FinetuneRecipe:
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "validation_fraction": 0.0, **changes}
    return FinetuneRecipe(lora=lora, **options)


def texts_of(folder: Path, n: int = 40) -> TokenizedSplit:
    return tiny.split_of(tiny.toy_table(n, seed=3), resolve_model(str(folder), None))


def outputs_of(classifier: TransformerClassifier, pool: TokenizedSplit, round_index: int = 1) -> np.ndarray:
    classifier.finetune(tiny.labeled_of(pool, range(25)), round_index=round_index)
    return classifier.predict("pool", pool.ids).logits


def weights_of(classifier: TransformerClassifier) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in classifier._network.model.named_parameters()}


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_adapters_start_without_effect_and_then_learn(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    still, plain = (
        outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe_of(lora, learning_rate=1e-30, epochs=1)), pool)
        for lora in (RANK_4, None)
    )
    np.testing.assert_allclose(still, plain, rtol=0, atol=1e-5)
    learned = tiny.classifier_of(folder, pool=pool, recipe=recipe_of())
    assert np.abs(outputs_of(learned, pool) - still).max() > 0.01
    assert any(value.abs().max() > 0 for name, value in weights_of(learned).items() if ".lora_B." in name)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "albert"])
def test_adapters_and_the_head_alone_are_trained(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    classifier = tiny.classifier_of(folder, pool=pool, recipe=recipe_of())
    load_weights(classifier._network, resolve_model(str(folder), None), "pretrained", 0)
    before = weights_of(classifier)
    outputs_of(classifier, pool)
    encoder = f"{classifier._network.model.base_model_prefix}."
    moved = {name for name, value in weights_of(classifier).items() if not torch.equal(value, before[name])}
    within = {name.removeprefix(encoder) for name in moved if name.startswith(encoder)}
    assert within
    assert all(".lora_" in name or name.startswith("pooler.") for name in within)
    assert moved - {encoder + name for name in within}


@pytest.mark.parametrize("family", ["roberta", "deberta-v2"])
def test_every_round_starts_with_fresh_adapters(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    classifier = tiny.classifier_of(folder, pool=pool, recipe=recipe_of())
    outputs_of(classifier, pool, round_index=1)
    later = outputs_of(classifier, pool, round_index=2)
    alone = tiny.classifier_of(folder, pool=pool, recipe=recipe_of())
    np.testing.assert_array_equal(outputs_of(alone, pool, round_index=2), later)
    load_weights(classifier._network, resolve_model(str(folder), None), "pretrained", 7)
    drawn = {name: value for name, value in weights_of(classifier).items() if ".lora_" in name}
    for name, value in drawn.items():
        if ".lora_B." in name:
            assert (value == 0).all()
        else:
            # As peft draws it: uniform within 1 / sqrt(width) on both sides.
            assert 0.5 / 32**0.5 < value.abs().max() <= 1 / 32**0.5
    load_weights(classifier._network, resolve_model(str(folder), None), "pretrained", 8)
    assert all(
        not torch.equal(value, drawn[name]) for name, value in weights_of(classifier).items() if "lora_A" in name
    )


def test_the_global_random_state_is_left_alone(bert: Path, pool: TokenizedSplit) -> None:
    before = torch.random.get_rng_state()
    outputs_of(tiny.classifier_of(bert, pool=pool, recipe=recipe_of()), pool)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_adapter_adds_its_share_of_the_product(bert: Path, pool: TokenizedSplit) -> None:
    classifier = tiny.classifier_of(bert, pool=pool, recipe=recipe_of(Lora(rank=2, alpha=6.0, targets=("key",))))
    outputs_of(classifier, pool)
    layer = classifier._network.model.base_model.encoder.layer[1].attention.self.key
    a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = rows @ layer.base_layer.weight.T + layer.base_layer.bias + 6 / 2 * rows @ a.T @ b.T
        torch.testing.assert_close(layer(rows), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_ensembles_dropout_and_bf16_work_on_adapters(save: Save, family: str, precision: Any) -> None:
    folder = save(family)
    pool = texts_of(folder)
    for sampling in (
        Sampling(n_members=2),
        Sampling(dropout="network", n_passes=2),
        Sampling(dropout="head", n_passes=2),
    ):
        classifier = tiny.classifier_of(
            folder, pool=pool, recipe=recipe_of(Lora(rank=4, dropout=0.2)), sampling=sampling, precision=precision
        )
        draws = outputs_of(classifier, pool)
        assert draws.shape == (40, 2, 3)
        assert np.abs(draws[:, 0] - draws[:, 1]).max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_with_frozen_layers_the_upper_ones_get_adapters(save: Save, family: str) -> None:
    folder = save(family)
    pool = texts_of(folder)
    classifier = tiny.classifier_of(folder, pool=pool, recipe=recipe_of(frozen_layers=2))
    outputs_of(classifier, pool)
    adapters = {name for name in weights_of(classifier) if ".lora_" in name}
    assert adapters
    assert all("layer.2." in name for name in adapters)
    with pytest.raises(ConfigError, match=r"no layer .* 'frozen_layers: 3'.*Freeze fewer"):
        tiny.classifier_of(folder, pool=pool, recipe=recipe_of(frozen_layers=3))


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_two_workers_take_the_steps_of_one(save: Save, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(family, **tiny.CALM[family])
    pool = texts_of(folder)
    alone = outputs_of(tiny.classifier_of(folder, pool=pool, recipe=recipe_of()), pool)
    ranks = [tiny.classifier_of(folder, pool=pool, recipe=recipe_of()) for _ in range(2)]
    # Ranks that are threads share torch's generator, so their first weights are drawn before the threads start.
    for rank in ranks:
        load_weights(
            rank._network, resolve_model(str(folder), None), "pretrained", stream_seed(1, "round", 1, "finetune")
        )
    monkeypatch.setattr("al_ray.model.classifier.load_weights", lambda *arguments: None)

    def on_rank(worker: ThreadWorker) -> np.ndarray:
        ranks[worker.rank]._worker = worker
        return outputs_of(ranks[worker.rank], pool)

    one, two = ThreadGroup(2).run(on_rank)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, alone, atol=2e-4)


def test_families_that_peft_knows_too_have_its_targets() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OF_PEFT

    both = QUERY_AND_VALUE.keys() & OF_PEFT.keys()
    assert len(both) > 3
    assert {family: list(QUERY_AND_VALUE[family]) for family in both} == {family: OF_PEFT[family] for family in both}


def test_a_family_that_nobody_knows_needs_its_targets_named() -> None:
    layers = ("dense", "mix")
    with pytest.raises(ConfigError, match=r"project queries and values; it knows those of albert, bert.*: dense, mix"):
        lora_targets(Lora(), "unheard-of", layers)
    assert lora_targets(Lora(targets=("mix",)), "unheard-of", layers) == ("mix",)
    with pytest.raises(ConfigError, match=r"has the target 'qury', and no linear layer ends so.*are: dense, mix"):
        lora_targets(Lora(targets=("qury",)), "bert", layers)


def test_without_peft_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs peft, which is not installed here. Run pip install 'al-ray\[lora\]'"):
        lora_targets(Lora(), "bert", ("query", "value"))


def test_the_recipe_reads_its_option_and_leaves_it_out_where_there_is_none() -> None:
    recipe = FinetuneRecipe.of({"lora": {"rank": 4, "targets": ["key", "value"]}})
    assert recipe.lora == Lora(rank=4, targets=("key", "value"))
    assert recipe.learning_rate == LORA_DEFAULTS["learning_rate"]
    assert FinetuneRecipe.of(recipe.to_json()) == recipe
    assert recipe.to_json()["lora"] == {"rank": 4, "alpha": 16.0, "dropout": 0.0, "targets": ("key", "value")}
    for none in ({}, {"lora": None}):
        assert "lora" not in FinetuneRecipe.of(none).to_json()
        assert FinetuneRecipe.of(none) == FinetuneRecipe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": 8}, r"finetune.lora is 8, it must be a mapping of options such as {rank: 8}"),
        ({"lora": {"rank": 0}}, r"'rank' of finetune.lora is 0. It must be between 1 and 1024; 8 is usual"),
        ({"lora": {"rnk": 8}}, r"unknown option of finetune.lora: 'rnk'. Did you mean 'rank'"),
        ({"lora": {"targets": []}}, r"Name each kind of linear layer once"),
        ({"lora": {"targets": ["query", "query"]}}, r"Name each kind of linear layer once"),
        ({"lora": {}, "frozen_layers": "all"}, r"'frozen_layers: all' leaves none to run. Drop one"),
    ],
)
def test_a_bad_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneRecipe.of(options)
