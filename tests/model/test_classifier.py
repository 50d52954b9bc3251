"""Fine-tuning and scoring against a plain PyTorch loop, and the laws that hold on any number of workers."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from al_ray.core.seeding import stream, stream_seed
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.encoder import load_weights
from al_ray.model.recipe import FinetuneRecipe, batches_of_epoch
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit
from tests.model import tiny
from tests.model.group import ThreadGroup, ThreadWorker

UNMOVED = FinetuneRecipe(epochs=1, learning_rate=1e-30, validation_fraction=0.0)


def fitted(
    folder: Path, pool: TokenizedSplit, n: int = 40, round_index: int = 1, **changes: Any
) -> TransformerClassifier:
    classifier = tiny.classifier_of(folder, pool=pool, **changes)
    classifier.finetune(tiny.labeled_of(pool, range(n)), round_index=round_index)
    return classifier


def logits(classifier: TransformerClassifier, pool: TokenizedSplit) -> np.ndarray:
    return classifier.predict("pool", pool.ids).logits[:, 0]


def test_it_learns(bert: Path, pool: TokenizedSplit) -> None:
    recipe = FinetuneRecipe(epochs=20, batch_size=8, learning_rate=3e-3, validation_fraction=0.0)
    outputs = logits(fitted(bert, pool, n=60, recipe=recipe), pool)
    assert (outputs.argmax(axis=1) == pool.labels)[60:].mean() > 0.8


def test_the_same_fit_gives_bit_equal_logits_whatever_came_before(bert: Path, pool: TokenizedSplit) -> None:
    alone = logits(fitted(bert, pool, round_index=2), pool)
    classifier = tiny.classifier_of(bert, pool=pool)
    for round_index, n in ((1, 20), (2, 40)):
        fitted(bert, pool, seed=9)
        torch.rand(3)
        classifier.finetune(tiny.labeled_of(pool, range(n)), round_index=round_index)
    np.testing.assert_array_equal(logits(classifier, pool), alone)


def test_the_global_random_state_is_left_alone(bert: Path, pool: TokenizedSplit) -> None:
    before = torch.random.get_rng_state()
    logits(fitted(bert, pool), pool)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"round_index": 2}, {"seed": 2}, {"init": "random"}])
def test_another_round_seed_or_start_gives_another_model(bert: Path, pool: TokenizedSplit, change: dict) -> None:
    assert not np.array_equal(logits(fitted(bert, pool), pool), logits(fitted(bert, pool, **change), pool))


def test_outputs_are_sorted_by_id_and_do_not_hang_on_the_order_of_asking(bert: Path, pool: TokenizedSplit) -> None:
    classifier = fitted(bert, pool)
    one = classifier.predict("pool", pool.ids, with_features=True)
    two = classifier.predict("pool", pool.ids[::-1].copy(), with_features=True)
    np.testing.assert_array_equal(one.ids, np.sort(pool.ids))
    np.testing.assert_array_equal(one.logits, two.logits)
    assert one.features is not None
    np.testing.assert_array_equal(one.features, two.features)
    assert one.features.shape == (len(pool), 32)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("world", [2, 3])
def test_equal_weights_score_bit_equal_on_any_number_of_workers(
    request: pytest.FixtureRequest, architecture: str, world: int
) -> None:
    folder = request.getfixturevalue(architecture)
    split = tiny.split_of(tiny.toy_table(70, seed=5), resolve_model(str(folder), None))
    alone = logits(fitted(folder, split, recipe=UNMOVED), split)
    ranks = [fitted(folder, split, recipe=UNMOVED) for _ in range(world)]

    def on_rank(worker: ThreadWorker) -> np.ndarray:
        ranks[worker.rank]._worker = worker
        return logits(ranks[worker.rank], split)

    for outputs in ThreadGroup(world).run(on_rank):
        np.testing.assert_array_equal(outputs, alone)


def test_a_worker_that_is_dealt_no_batch_still_gathers(bert: Path, pool: TokenizedSplit) -> None:
    alone = fitted(bert, pool, recipe=UNMOVED).predict("pool", pool.ids[:1]).logits
    ranks = [fitted(bert, pool, recipe=UNMOVED) for _ in range(2)]

    def on_rank(worker: ThreadWorker) -> np.ndarray:
        ranks[worker.rank]._worker = worker
        return ranks[worker.rank].predict("pool", pool.ids[:1]).logits

    for outputs in ThreadGroup(2).run(on_rank):
        np.testing.assert_array_equal(outputs, alone)


@pytest.mark.parametrize("balance", ["none", "balanced"])
def test_two_workers_take_the_steps_of_one(
    calm_bert: Path, pool: TokenizedSplit, balance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 41 examples in batches of 8: the last batch has one, so that a rank is left without rows.
    recipe = FinetuneRecipe(epochs=3, batch_size=8, learning_rate=1e-3, class_weights=balance, validation_fraction=0.0)
    alone = logits(fitted(calm_bert, pool, n=41, recipe=recipe), pool)

    # Ranks that are threads share torch's generator, so their first weights are drawn before the threads start.
    ranks = [tiny.classifier_of(calm_bert, pool=pool, recipe=recipe) for _ in range(2)]
    for rank in ranks:
        load_weights(rank._network, resolve_model(str(calm_bert), None), "pretrained", _seed_of(1))
    monkeypatch.setattr("al_ray.model.classifier.load_weights", lambda *arguments: None)

    def on_rank(worker: ThreadWorker) -> np.ndarray:
        ranks[worker.rank]._worker = worker
        ranks[worker.rank].finetune(tiny.labeled_of(pool, range(41)), round_index=1)
        return logits(ranks[worker.rank], pool)

    one, two = ThreadGroup(2).run(on_rank)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, alone, atol=2e-4)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_it_takes_the_steps_of_a_plain_pytorch_loop(calm_bert: Path, pool: TokenizedSplit, schedule: Any) -> None:
    recipe = FinetuneRecipe(
        epochs=4, batch_size=8, learning_rate=2e-3, weight_decay=0.1, schedule=schedule, warmup_fraction=0.2,
        gradient_clip=0.5, validation_fraction=0.0, class_weights="balanced",
    )  # fmt: skip
    ours = logits(fitted(calm_bert, pool, n=45, recipe=recipe), pool)
    np.testing.assert_allclose(ours, plain_loop(calm_bert, pool, range(45), recipe), atol=3e-4)


def plain_loop(folder: Path, pool: TokenizedSplit, rows: range, recipe: FinetuneRecipe) -> np.ndarray:
    """Fine-tune with the library's model, its scheduler, padding and mask; nothing of al_ray but the first weights."""
    from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

    start = tiny.classifier_of(folder, pool=pool)
    start.finetune(tiny.labeled_of(pool, rows), round_index=1)
    model = resolve_model(str(folder), None)
    load_weights(start._network, model, "pretrained", _seed_of(1))
    network = start._network.model.train()
    labels = torch.tensor(pool.labels[rows])
    weights = torch.tensor(
        compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy()), dtype=torch.float32
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    n_steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    n_warmup = int(np.ceil(recipe.warmup_fraction * n_steps))
    schedule = (
        get_constant_schedule_with_warmup(optimizer, n_warmup)
        if recipe.schedule == "constant"
        else get_linear_schedule_with_warmup(optimizer, n_warmup, n_steps)
    )
    order = stream(1, "round", 1, "order")
    for _ in range(recipe.epochs):
        for batch in batches_of_epoch(len(rows), recipe.batch_size, order):
            ids, mask = padded(pool, batch)
            output = network(input_ids=ids, attention_mask=mask).logits
            torch.nn.functional.cross_entropy(output, labels[batch], weight=weights).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    network.eval()
    with torch.inference_mode():
        ids, mask = padded(pool, np.argsort(pool.ids))
        return network(input_ids=ids, attention_mask=mask).logits.numpy()


def _seed_of(round_index: int) -> int:
    return stream_seed(1, "round", round_index, "finetune")


def padded(pool: TokenizedSplit, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    texts = [torch.tensor(pool.tokens[pool.offsets[row] : pool.offsets[row + 1]]).long() for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([len(t) for t in texts])[:, None]).long()


def test_the_epoch_of_lowest_validation_loss_is_kept_and_patience_ends_the_fit(
    bert: Path, pool: TokenizedSplit
) -> None:
    validations = itertools.count()

    def worse_every_epoch(outputs: torch.Tensor, targets: torch.Tensor, epoch: int) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
        return losses if outputs.requires_grad else losses + 100.0 * next(validations)

    recipe = FinetuneRecipe(epochs=9, batch_size=8, learning_rate=1e-3, patience=2)
    classifier = tiny.classifier_of(bert, pool=pool, recipe=recipe, new_loss=lambda: worse_every_epoch)
    report = classifier.finetune(tiny.labeled_of(pool, range(40)), round_index=1)
    assert (report.best_epoch, report.n_epochs_run) == (0, 3)
    one_epoch = FinetuneRecipe(epochs=1, batch_size=8, learning_rate=1e-3)
    expected = logits(fitted(bert, pool, recipe=one_epoch), pool)
    np.testing.assert_array_equal(logits(classifier, pool), expected)


def test_frozen_layers_keep_their_weights_and_the_others_do_not(bert: Path, pool: TokenizedSplit) -> None:
    recipe = FinetuneRecipe(epochs=2, batch_size=8, learning_rate=1e-2, frozen_layers=2)
    classifier = fitted(bert, pool, recipe=recipe)
    encoder = classifier._network.model.base_model
    from safetensors.torch import load_file

    before = {name.removeprefix("bert."): value for name, value in load_file(bert / "model.safetensors").items()}
    moved = {name for name, value in encoder.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("encoder.layer.2.", "pooler.")) for name in moved)


def test_bf16_agrees_with_float32(minilm: ResolvedModel) -> None:
    table = tiny.toy_table(80, seed=2)
    split = tiny.split_of(table, minilm)
    recipe = FinetuneRecipe(epochs=3, batch_size=16, learning_rate=1e-4, validation_fraction=0.0)
    both = [
        logits(fitted(Path(minilm.path), split, n=40, recipe=recipe, precision=precision), split)
        for precision in ("float32", "bf16")
    ]
    assert (both[0].argmax(axis=1) == both[1].argmax(axis=1)).mean() > 0.95
    np.testing.assert_allclose(both[0], both[1], atol=0.1)
