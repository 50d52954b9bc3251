"""Predictions that are repeated or changed: dropout passes, members, attention, folds, epochs, embeddings."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from al_ray.core.seeding import stream_seed
from al_ray.core.types import LabeledSet, Sampling
from al_ray.errors import ModelError, RoundError
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.encoder import build_network, fork_random, load_weights
from al_ray.model.finetune import cross_entropy
from al_ray.model.packed import _layer, inverse_temperature, pack
from al_ray.model.recipe import FinetuneRecipe, folds
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from tests.model import tiny
from tests.model.conftest import Save
from tests.model.group import ThreadGroup

QUICK = FinetuneRecipe(epochs=3, batch_size=8, learning_rate=1e-3, validation_fraction=0.0)


def fitted(folder: Path, pool: TokenizedSplit, n: int = 24, **changes: Any) -> TransformerClassifier:
    classifier = tiny.classifier_of(folder, pool=pool, **{"recipe": QUICK, **changes})
    classifier.finetune(tiny.labeled_of(pool, range(n)), round_index=1)
    return classifier


def dropping(where: Any, n_passes: int = 4, rate: float | None = None) -> Sampling:
    return Sampling(n_passes=n_passes, dropout=where, rate=rate)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("where", ["network", "head"])
def test_dropout_passes_differ_repeat_and_leave_the_model_as_it_was(
    family: str, where: str, pool: TokenizedSplit, request: pytest.FixtureRequest
) -> None:
    classifier = fitted(request.getfixturevalue(family), pool, sampling=dropping(where, rate=0.3))
    before = classifier.predict("pool", pool.ids, plain=True).logits
    one, two = (
        classifier.predict("pool", pool.ids, with_logits_without_dropout=True, with_features=True) for _ in range(2)
    )
    assert one.logits.shape == (len(pool), 4, 3)
    np.testing.assert_array_equal(one.logits, two.logits)
    assert len(np.unique(one.logits[0], axis=0)) == 4
    np.testing.assert_array_equal(one.logits_without_dropout, before[:, 0])
    np.testing.assert_array_equal(classifier.predict("pool", pool.ids, plain=True).logits, before)


@pytest.mark.parametrize(("where", "consistent"), [("head", True), ("network", False)])
def test_a_pass_through_a_thinned_head_is_one_model_for_all_examples(
    where: str, consistent: bool, bert: Path, pool: TokenizedSplit
) -> None:
    twice = pool.take(np.concatenate([np.arange(10), np.arange(10)]), np.zeros(20, np.int64))
    twins = TokenizedSplit(ids=np.arange(20), labels=twice.labels, tokens=twice.tokens, offsets=twice.offsets)
    classifier = fitted(bert, pool, sampling=dropping(where), test=twins)
    logits = classifier.predict("test", twins.ids).logits
    assert np.allclose(logits[:10], logits[10:], atol=1e-5) == consistent


@pytest.mark.parametrize("where", ["network", "head"])
def test_almost_no_dropout_is_almost_no_change(where: str, bert: Path, pool: TokenizedSplit) -> None:
    classifier = fitted(bert, pool, sampling=dropping(where, n_passes=1, rate=1e-7))
    outputs = classifier.predict("pool", pool.ids, with_logits_without_dropout=True)
    np.testing.assert_allclose(outputs.logits[:, 0], outputs.logits_without_dropout, atol=1e-4)


def test_a_head_pass_is_the_head_with_its_features_thinned(bert: Path, pool: TokenizedSplit) -> None:
    classifier = fitted(bert, pool, sampling=dropping("head", n_passes=2, rate=0.5))
    outputs = classifier.predict("pool", pool.ids, with_features=True)
    model, seed = classifier._network.model, stream_seed(1, "round", 1, "draws")
    with torch.no_grad():
        pooled = model.base_model.pooler(torch.from_numpy(outputs.features)[:, None])
        for number in range(2):
            with fork_random(torch.device("cpu"), stream_seed(seed, "pass", number)):
                mask = torch.bernoulli(torch.full((32,), 0.5))
            expected = model.classifier(pooled * mask / 0.5)
            np.testing.assert_allclose(outputs.logits[:, number], expected.numpy(), atol=1e-5)


def test_dropped_logits_are_zero_or_scaled_each_example_for_itself(bert: Path, pool: TokenizedSplit) -> None:
    classifier = fitted(bert, pool, sampling=dropping("logits", n_passes=50, rate=0.1))
    outputs = classifier.predict("pool", pool.ids, with_logits_without_dropout=True)
    assert outputs.logits_without_dropout is not None
    kept = outputs.logits != 0
    expected = np.broadcast_to(outputs.logits_without_dropout[:, None] / 0.9, kept.shape)[kept]
    np.testing.assert_allclose(outputs.logits[kept], expected, rtol=1e-5)
    assert kept.mean() == pytest.approx(0.9, abs=0.01)
    assert len(np.unique(kept.reshape(len(pool), -1), axis=0)) == len(pool)


@pytest.mark.parametrize("world", [2, 3])
def test_an_ensemble_is_the_same_on_any_number_of_workers(world: int, bert: Path, pool: TokenizedSplit) -> None:
    committee = Sampling(n_members=4)
    alone = fitted(bert, pool, sampling=committee).predict("pool", pool.ids, with_features=True)
    one_at_a_time = threading.Lock()

    def rank(worker: Any) -> Any:
        classifier = tiny.classifier_of(bert, pool=pool, recipe=QUICK, sampling=committee, worker=worker)
        fit = classifier._fit

        def locked(*arguments: Any) -> Any:
            # The ranks of this group are threads and share torch's generator, which processes do not.
            with one_at_a_time:
                return fit(*arguments)

        classifier._fit = locked  # type: ignore[method-assign]
        classifier.finetune(tiny.labeled_of(pool, range(24)), round_index=1)
        return classifier.predict("pool", pool.ids, with_features=True)

    for outputs in ThreadGroup(world).run(rank):
        np.testing.assert_array_equal(outputs.logits, alone.logits)
        np.testing.assert_array_equal(outputs.features, alone.features)


def test_the_first_member_is_the_single_model_and_the_others_are_not(bert: Path, pool: TokenizedSplit) -> None:
    single = fitted(bert, pool).predict("pool", pool.ids).logits
    outputs = fitted(bert, pool, sampling=Sampling(n_members=3)).predict("pool", pool.ids)
    np.testing.assert_allclose(outputs.logits[:, :1], single, atol=1e-6)
    assert len(np.unique(outputs.logits[0], axis=0)) == 3


def test_members_with_dropout_passes_come_member_by_member(bert: Path, pool: TokenizedSplit) -> None:
    both = Sampling(n_members=2, n_passes=3, dropout="head")
    outputs = fitted(bert, pool, sampling=both).predict("pool", pool.ids, with_logits_without_dropout=True)
    assert outputs.logits.shape == (len(pool), 6, 3)
    single = fitted(bert, pool, sampling=Sampling(n_members=2)).predict("pool", pool.ids).logits
    apart = [np.abs(outputs.logits[:, d] - single[:, m]).mean() for m in range(2) for d in (3 * m, 3 * m + 1)]
    across = [np.abs(outputs.logits[:, d] - single[:, 1 - m]).mean() for m in range(2) for d in (3 * m, 3 * m + 1)]
    assert max(apart) < min(across)


def test_a_member_that_diverges_fails_on_every_worker(bert: Path, pool: TokenizedSplit) -> None:
    def broken(logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        return logits.sum(dim=1) * float("nan")

    messages = []

    def rank(worker: Any) -> None:
        losses = (lambda: broken) if worker.rank == 1 else (lambda: None)
        with pytest.raises(RoundError) as caught:
            fitted(bert, pool, sampling=Sampling(n_members=2), recipe=QUICK, worker=worker, new_loss=losses)
        messages.append(str(caught.value))

    ThreadGroup(2).run(rank)
    assert messages[0] == messages[1]
    assert "diverged in epoch 0" in messages[0]


def test_a_plain_fit_ignores_the_loss_and_the_members(bert: Path, pool: TokenizedSplit) -> None:
    def tenfold(logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        return 10 * cross_entropy(logits / 3, targets, epoch)

    own = tiny.classifier_of(bert, pool=pool, recipe=QUICK, new_loss=lambda: tenfold, sampling=Sampling(n_members=2))
    own.finetune(tiny.labeled_of(pool, range(24)), round_index=1, plain=True)
    expected = fitted(bert, pool).predict("pool", pool.ids).logits
    np.testing.assert_allclose(own.predict("pool", pool.ids, plain=True).logits, expected, atol=1e-6)


def test_a_loss_may_see_features_and_the_held_out_logits(bert: Path, pool: TokenizedSplit) -> None:
    class Curious:
        needs_features = True

        def __init__(self) -> None:
            self.seen: list[Any] = []
            self.held_out: list[int] = []

        def __call__(self, logits: Tensor, targets: Tensor, epoch: int, features: Tensor | None) -> Tensor:
            self.seen.append(None if features is None else (tuple(features.shape), features.requires_grad))
            return cross_entropy(logits, targets, epoch)

        def after_epoch(self, logits: Tensor, targets: Tensor) -> None:
            assert len(logits) == len(targets)
            self.held_out.append(len(logits))

    made: list[Curious] = []

    def new_loss() -> Curious:
        made.append(Curious())
        return made[-1]

    recipe = FinetuneRecipe(epochs=2, batch_size=8, learning_rate=1e-3, validation_fraction=0.25)
    classifier = fitted(bert, pool, recipe=recipe, new_loss=new_loss)
    classifier.finetune(tiny.labeled_of(pool, range(24)), round_index=2)
    assert len(made) == 2
    assert made[0].held_out == [6, 6]
    assert made[0].seen.count(None) == 2
    assert made[0].seen[0] == ((8, 32), True)


def test_out_of_fold_logits_come_from_fits_that_did_not_see_the_example(bert: Path, pool: TokenizedSplit) -> None:
    labeled = tiny.labeled_of(pool, range(20))
    classifier = tiny.classifier_of(bert, pool=pool, recipe=QUICK)
    seen: list[set[int]] = []
    fit = classifier._fit

    def watch(part_of: LabeledSet, *others: Any) -> Any:
        seen.append(set(part_of.ids.tolist()))
        return fit(part_of, *others)

    classifier._fit = watch  # type: ignore[method-assign]
    outputs = classifier.cross_predict(labeled, n_folds=3, round_index=1)
    np.testing.assert_array_equal(outputs.ids, np.sort(labeled.ids))
    assert outputs.logits.shape == (20, 1, 3)
    assert len(seen) == 3
    assert all(sum(i not in fold for fold in seen) == 1 for i in labeled.ids.tolist())
    again = tiny.classifier_of(bert, pool=pool, recipe=QUICK).cross_predict(labeled, n_folds=3, round_index=1)
    np.testing.assert_array_equal(again.logits, outputs.logits)


def test_folds_are_even_within_classes_and_leave_no_class_without_examples() -> None:
    labels = np.repeat([0, 1, 2, 3], [9, 4, 2, 1])
    fold = folds(labels, 3, np.random.default_rng(0))
    assert fold[-1] == -1
    assert all(np.ptp(np.bincount(fold[labels == c], minlength=3)) <= 1 for c in (0, 1, 2))
    assert np.ptp(np.bincount(fold[:-1])) <= 1


def test_nothing_can_be_held_out_of_classes_with_one_example_each(bert: Path, pool: TokenizedSplit) -> None:
    first = [int(np.flatnonzero(pool.labels == c)[0]) for c in range(3)]
    labeled = LabeledSet(ids=pool.ids[first], labels=pool.labels[first])
    outputs = tiny.classifier_of(bert, pool=pool, recipe=QUICK).cross_predict(labeled, n_folds=3, round_index=1)
    assert outputs.logits.shape == (0, 1, 3)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_watched_logits_of_the_last_epoch_are_the_model_s_and_watching_changes_nothing(
    family: str, pool: TokenizedSplit, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    classifier = tiny.classifier_of(folder, pool=pool, recipe=QUICK)
    watched = np.sort(pool.ids[20:50])
    fit = classifier.finetune(tiny.labeled_of(pool, range(24)), round_index=1, watched=watched)
    assert fit.dynamics is not None
    assert fit.dynamics.shape == (30, 3, 3)
    ended = classifier.predict("pool", watched).logits[:, 0]
    np.testing.assert_allclose(fit.dynamics[:, -1], ended, atol=1e-4)
    assert np.abs(fit.dynamics[:, 0] - ended).max() > 1e-3
    unwatched = fitted(folder, pool).predict("pool", watched).logits[:, 0]
    np.testing.assert_allclose(ended, unwatched, atol=1e-3)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_watching_what_a_model_learns_from_changes_no_bit_of_it(
    family: str, pool: TokenizedSplit, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    classifier = tiny.classifier_of(folder, pool=pool, recipe=QUICK)
    classifier.finetune(tiny.labeled_of(pool, range(24)), round_index=1, watched=np.sort(pool.ids[:24])[::2])
    watching = classifier.predict("pool", pool.ids).logits
    np.testing.assert_array_equal(watching, fitted(folder, pool).predict("pool", pool.ids).logits)


def test_the_inverse_temperature_is_the_published_polynomial_and_never_flattens() -> None:
    rows = torch.softmax(torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) * 3, dim=-1).double()
    entropy = -(rows * torch.log(rows + 1e-9)).sum(-1).numpy()
    expected = np.maximum(np.polyval([-0.037, 0.481, -2.3, 4.917, -1.791], entropy), 1)
    expected[entropy <= 0.5] = 1
    np.testing.assert_allclose(inverse_temperature(rows)[:, 0].numpy(), expected, rtol=1e-12)
    assert (expected > 1.2).sum() > 20
    certain = torch.tensor([[1.0, 0.0, 0.0]])
    assert inverse_temperature(certain).item() == 1.0


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_adaptive_attention_in_one_layer_is_what_it_says(family: str, request: pytest.FixtureRequest) -> None:
    """The library's own layer gives the attention logits; the rest is done by hand for the first token."""
    _, model = built(request.getfixturevalue(family))
    layer = model.base_model.encoder.layer[0]
    hidden = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(1)) * 3
    attention = layer.attention.self
    with torch.no_grad():
        q, k, v = (part(hidden).view(12, 4, 8).transpose(0, 1) for part in
                   (attention.query, attention.key, attention.value))  # fmt: skip
        logits = q @ k.transpose(1, 2) / np.sqrt(8)
        weights = torch.softmax(logits, dim=-1)
        sharp = torch.softmax(logits * inverse_temperature(weights), dim=-1)
        context = (sharp @ v).transpose(0, 1).reshape(12, 32)
        expected = layer.output(layer.intermediate(out := layer.attention.output(context, hidden[0])), out)
        batch = pack(np.zeros(12, np.int32), np.array([12]), torch.device("cpu"))
        found = _layer(layer, hidden[0], batch, first_only=False, adaptive=True)
        plain = _layer(layer, hidden[0], batch, first_only=False, adaptive=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - plain).abs().max() > 1e-3


def built(folder: Path) -> tuple[Any, Any]:
    source = resolve_model(str(folder), None)
    network = build_network(source, 3, torch.device("cpu")).eval()
    load_weights(network, source, "pretrained", seed=5)
    return network, network.model


def test_adaptive_attention_does_not_see_the_padding_of_longer_texts(bert: Path, pool: TokenizedSplit) -> None:
    network, _ = built(bert)
    network.adaptive_attention = True
    rows = np.argsort(pool.lengths)[[0, -1]]
    device = torch.device("cpu")
    both = pack(pool.gather(rows), pool.lengths[rows], device)
    alone = pack(pool.gather(rows[:1]), pool.lengths[rows[:1]], device)
    with torch.no_grad():
        one, two = (network(batch)[0] for batch in (alone, both))
    torch.testing.assert_close(one[0], two[0], atol=1e-5, rtol=1e-5)


def test_adaptive_attention_changes_predictions_and_plain_ones_stay(bert: Path, pool: TokenizedSplit) -> None:
    classifier = fitted(bert, pool, sampling=Sampling(adaptive_attention=True))
    changed = classifier.predict("pool", pool.ids).logits
    plain = classifier.predict("pool", pool.ids, plain=True).logits
    np.testing.assert_allclose(plain, fitted(bert, pool).predict("pool", pool.ids).logits, atol=1e-6)
    assert np.abs(changed - plain).max() > 1e-4


def test_adaptive_attention_of_an_encoder_that_cannot_be_changed_is_refused(save: Save, pool: TokenizedSplit) -> None:
    with pytest.raises(ModelError, match=r"cannot be changed at prediction.*Use 'where: logits'"):
        fitted(save("albert"), pool, sampling=Sampling(adaptive_attention=True))
