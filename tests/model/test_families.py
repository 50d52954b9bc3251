"""Every family of encoders runs every method that needs no attention's inside, and says which it cannot run."""

from typing import Any

import numpy as np
import pytest
import torch

from al_ray.confidence import confidences
from al_ray.core.types import Sampling
from al_ray.loop import learner
from al_ray.model.check import ask_network
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.encoder import Network, build_network, load_weights
from al_ray.model.finetune import used_words
from al_ray.model.packed import pack
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.strategy import strategies
from tests.fakes import RecordsInMemory, make_loop
from tests.model import tiny
from tests.model.conftest import Save
from tests.model.tiny import ENCODERS

CPU = torch.device("cpu")
# The others are built like one of these, by the same code.
OF_THEIR_OWN = [family for family in ENCODERS if family not in ("camembert", "deberta", "eurobert")]
QUICK = FinetuneRecipe(epochs=1, batch_size=16, learning_rate=1e-3)


@pytest.fixture(params=ENCODERS, scope="module")
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(save: Save, family: str) -> ResolvedModel:
    """A tiny model of the family; where it was published without dropout, with some."""
    return resolve_model(str(save(family, **tiny.DROPOUT.get(family, {}))), None)


@pytest.fixture
def texts(encoder: ResolvedModel) -> TokenizedSplit:
    return tiny.split_of(tiny.toy_table(30, seed=3, first_id=100), encoder)


def network_of(model: ResolvedModel, seed: int = 5) -> Network:
    network = build_network(model, 3, CPU)
    load_weights(network, model, "pretrained", seed=seed)
    return network.eval()


def classifier_of(model: ResolvedModel, pool: TokenizedSplit, **changes: Any) -> TransformerClassifier:
    return tiny.classifier_of(model.path, pool=pool, **{"recipe": QUICK, **changes})  # type: ignore[arg-type]


def logits_of(network: Network, texts: TokenizedSplit) -> torch.Tensor:
    with torch.no_grad():
        return network(pack(texts.tokens, texts.lengths, CPU))[0]


def embeddings_of(model: ResolvedModel, texts: TokenizedSplit) -> Any:
    rows = np.argsort(texts.ids)
    with torch.no_grad():
        found = network_of(model).embed(pack(texts.gather(rows), texts.lengths[rows], CPU)).numpy()
    return {"pool": found, "test": found}


def run_cell(model: ResolvedModel, pool: TokenizedSplit, **method: Any) -> float:
    """Run one round with a method and return the accuracy at its end."""
    everyone = tiny.labeled_of(pool, np.argsort(pool.ids))
    loop = make_loop({"n_classes": 3, "truth": everyone, "test": everyone}, rounds=1, **method)
    classifier = classifier_of(
        model,
        pool,
        sampling=loop.confidence.sampling,
        new_loss=loop.confidence.new_loss,
        embeddings=lambda: embeddings_of(model, pool),
    )
    return learner.run(loop, classifier, RecordsInMemory())[-1].metrics["accuracy"]


@pytest.mark.parametrize("family", OF_THEIR_OWN, indirect=True)
def test_every_confidence_method_runs(encoder: ResolvedModel, texts: TokenizedSplit) -> None:
    for name in confidences.names():
        if name == "adaptive_temperature":
            continue
        strategy = "own_uncertainty" if confidences.get(name).has_uncertainty else "margin"
        assert 0 <= run_cell(encoder, texts, confidence=name, strategy=strategy) <= 1, name


@pytest.mark.parametrize("family", OF_THEIR_OWN, indirect=True)
def test_every_query_strategy_runs(encoder: ResolvedModel, texts: TokenizedSplit) -> None:
    for name in strategies.names():
        if strategies.get(name).needs_hindsight:
            continue  # the plan refuses it with an encoder that learns
        needs_draws = strategies.build(name).min_draws > 1
        committee = {"confidence": {"name": "ensemble", "n_members": 3}} if needs_draws else {}
        assert 0 <= run_cell(encoder, texts, strategy=name, **committee) <= 1, name


@pytest.mark.parametrize("where", ["network", "head"])
def test_dropout_passes_differ_and_are_drawn_by_the_seed(
    encoder: ResolvedModel, family: str, texts: TokenizedSplit, where: Any
) -> None:
    if family == "eurobert" and where == "head":
        pytest.skip("its head has no dropout, which the plan says")

    def passes() -> Any:
        classifier = classifier_of(encoder, texts, sampling=Sampling(n_passes=3, dropout=where))
        classifier.finetune(tiny.labeled_of(texts, range(12)), round_index=1)
        return classifier.predict("pool", texts.ids, with_logits_without_dropout=True)

    found = passes()
    assert all(len(np.unique(row, axis=0)) == 3 for row in found.logits)
    assert np.abs(found.logits[:, 0] - found.logits_without_dropout).max() > 1e-3
    np.testing.assert_array_equal(passes().logits, found.logits)


def test_a_rate_of_its_own_is_dropped_everywhere_and_taken_back(encoder: ResolvedModel, texts: TokenizedSplit) -> None:
    network = network_of(encoder)
    before = logits_of(network, texts)
    trained = [getattr(*place) for place in network.dropout_places()]
    with network.dropping("network", 0.5):
        assert {getattr(*place) for place in network.dropout_places()} == {0.5}
        assert (logits_of(network, texts) - before).abs().max() > 0.1
    assert [getattr(*place) for place in network.dropout_places()] == trained
    torch.testing.assert_close(logits_of(network, texts), before, rtol=0, atol=0)


def test_an_ensemble_and_random_weights_and_bf16_run(
    encoder: ResolvedModel, family: str, texts: TokenizedSplit
) -> None:
    # The plan refuses bf16 of the first DeBERTa, whose code masks with a number that bf16 does not have.
    precision = "bf16" if ask_network(encoder).runs_in_bf16 else "float32"
    assert (precision == "float32") == (family == "deberta")
    classifier = classifier_of(encoder, texts, sampling=Sampling(n_members=2), init="random", precision=precision)
    fit = classifier.finetune(tiny.labeled_of(texts, range(12)), round_index=1, watched=texts.ids[:4])
    outputs = classifier.predict("pool", texts.ids, with_features=True)
    assert outputs.logits.shape == (30, 2, 3)
    assert fit.dynamics is not None
    assert fit.dynamics.shape == (4, 1, 3)
    assert np.abs(outputs.logits[:, 0] - outputs.logits[:, 1]).max() > 0
    np.testing.assert_allclose(np.linalg.norm(embeddings_of(encoder, texts)["pool"], axis=1), 1, rtol=1e-5)


def test_bf16_scores_are_those_of_float32_but_for_rounding(encoder: ResolvedModel, texts: TokenizedSplit) -> None:
    network = network_of(encoder)
    exact = logits_of(network, texts)
    rounded = logits_of(network.to(torch.bfloat16), texts).float()
    assert (rounded - exact).abs().mean() < 0.1 * exact.std()


def test_the_small_vocabulary_holds_no_more_than_needed_and_is_put_back(
    encoder: ResolvedModel, texts: TokenizedSplit
) -> None:
    network = network_of(encoder)
    few = texts.take(np.arange(3), texts.labels[:3])
    before, full, pad = logits_of(network, few), network.word_embeddings.weight, network.pad_id
    with used_words(network, few, np.arange(3)) as words:
        assert len(network.word_embeddings.weight) <= len(np.unique(few.tokens)) + 2
        torch.testing.assert_close(logits_of(network, words.split), before, rtol=0, atol=1e-6)
    assert network.word_embeddings.weight is full
    assert network.pad_id == network.word_embeddings.padding_idx == pad
    torch.testing.assert_close(logits_of(network, few), before, rtol=0, atol=0)


def test_the_attention_for_gpus_gives_what_the_one_for_cpus_gives(
    encoder: ResolvedModel, texts: TokenizedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU computes with fused attention, packed or the library's choice; here both are tried on the CPU."""
    expected = logits_of(network_of(encoder), texts)
    monkeypatch.setattr("al_ray.model.encoder.WRITTEN_OUT", ())
    monkeypatch.setattr("al_ray.model.packed.WRITTEN_OUT", ())
    network = network_of(encoder)
    torch.testing.assert_close(logits_of(network, texts), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives(encoder: ResolvedModel, texts: TokenizedSplit) -> None:
    device = torch.device("cuda")
    network = build_network(encoder, 3, device)
    load_weights(network, encoder, "pretrained", seed=5)
    with torch.no_grad():
        found = network.eval()(pack(texts.tokens, texts.lengths, device))[0].cpu()
    torch.testing.assert_close(found, logits_of(network_of(encoder), texts), rtol=1e-3, atol=1e-4)
