"""One fit: its gradients on one worker and two, early stopping, unused words, what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from al_ray.core.types import LabeledSet
from al_ray.errors import RoundError
from al_ray.model.encoder import Network, build_network, load_weights
from al_ray.model.finetune import FitReport, FitSettings, cross_entropy, finetune, used_words
from al_ray.model.packed import pack
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import SingleProcess
from tests.model import tiny
from tests.model.group import ThreadGroup

CPU = torch.device("cpu")


def fresh(folder: Path) -> Network:
    model = resolve_model(str(folder), None)
    network = build_network(model, 3, CPU)
    load_weights(network, model, "pretrained", seed=5)
    return network


def settings_of(loss: Any = cross_entropy, precision: Any = "float32", **recipe: Any) -> FitSettings:
    plain: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-3, "validation_fraction": 0.0, "gradient_clip": 0.0}
    return FitSettings(
        recipe=FinetuneRecipe(**{**plain, **recipe}),
        precision=precision,
        n_classes=3,
        scoring_batch_size=16,
        seed=1,
        new_loss=lambda: loss,
    )


def fit(network: Network, pool: TokenizedSplit, settings: FitSettings, n: int = 24, worker: Any = None) -> FitReport:
    worker = worker or SingleProcess()
    return finetune(network, pool, tiny.labeled_of(pool, range(n)), settings, round_index=1, worker=worker)


def weights_of(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def scripted(losses: list[float]) -> Any:
    """Train as usual, but let validation see these losses, one an epoch."""
    remaining = iter(losses)

    def loss(logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        if logits.requires_grad:
            return cross_entropy(logits, targets, epoch)
        return torch.full(targets.shape, next(remaining))

    return loss


def gradients_of(network: Network, pool: TokenizedSplit, settings: FitSettings, worker: Any) -> dict[str, Tensor]:
    """Return the gradients of the first step, after the workers have averaged them."""
    kept: dict[str, Tensor] = {}
    wrap = worker.wrap

    def wrap_and_listen(module: torch.nn.Module) -> Any:
        wrapped = wrap(module)
        for name, value in module.named_parameters():
            value.register_post_accumulate_grad_hook(lambda v, n=name: kept.update({n: v.grad.clone()}))
        return wrapped

    worker.wrap = wrap_and_listen
    fit(network, pool, settings, n=7, worker=worker)
    return kept


@pytest.mark.parametrize("world", [2, 3])
def test_gradients_of_several_workers_average_to_those_of_one(
    world: int, calm_bert: Path, pool: TokenizedSplit
) -> None:
    settings = settings_of(batch_size=7, class_weights="balanced")
    alone = gradients_of(fresh(calm_bert), pool, settings, SingleProcess())
    networks = [fresh(calm_bert) for _ in range(world)]
    found = ThreadGroup(world).run(lambda worker: gradients_of(networks[worker.rank], pool, settings, worker))
    for gradients in found:
        assert gradients.keys() == alone.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, alone[name], rtol=1e-4, atol=1e-6, msg=name)


def test_early_stopping_restores_an_epoch_in_the_middle(calm_bert: Path, pool: TokenizedSplit) -> None:
    network, three_epochs = fresh(calm_bert), fresh(calm_bert)
    recipe: dict[str, Any] = {"validation_fraction": 0.25, "batch_size": 8}
    report = fit(network, pool, settings_of(scripted([5, 4, 1, 3, 3, 3, 3, 3]), epochs=8, patience=3, **recipe))
    assert (report.best_epoch, report.n_epochs_run, report.validation_loss) == (2, 6, 1.0)
    fit(three_epochs, pool, settings_of(scripted([5, 4, 1]), epochs=3, **recipe))
    expected = weights_of(three_epochs)
    for name, value in weights_of(network).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


class Tied:
    """Trains as usual, while every held-out example has one loss; notes how many are right after each epoch."""

    def __init__(self, judged_as_gonsior2022: bool, losses: list[float]) -> None:
        self.judged_as_gonsior2022, self.losses = judged_as_gonsior2022, losses
        self.n_right: list[int] = []

    def __call__(self, logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        if logits.requires_grad:
            return cross_entropy(logits, targets, epoch)
        return torch.full(targets.shape, self.losses[len(self.n_right)])

    def after_epoch(self, logits: Tensor, targets: Tensor) -> None:
        self.n_right.append(int((logits.argmax(dim=1) == targets).sum()))


def test_of_epochs_with_equal_loss_the_papers_code_keeps_the_most_accurate(
    calm_bert: Path, pool: TokenizedSplit
) -> None:
    recipe: dict[str, Any] = {"epochs": 12, "patience": 5, "validation_fraction": 0.25, "batch_size": 8}
    losses = [2.0, *[1.0] * 11]
    loss = Tied(True, losses)
    report = fit(fresh(calm_bert), pool, settings_of(loss, **recipe), n=60)
    # Equal losses are no progress: five of them after the first end the fit, and the last one may still be the best.
    assert report.n_epochs_run == 7
    assert report.best_epoch > 1
    assert loss.n_right[report.best_epoch] == max(loss.n_right[1:])
    assert loss.n_right[report.best_epoch] > loss.n_right[1]
    textbook = fit(fresh(calm_bert), pool, settings_of(Tied(False, losses), **recipe), n=60)
    assert (textbook.best_epoch, textbook.n_epochs_run) == (1, 7)


def test_held_out_examples_are_judged_by_their_epoch_in_the_papers_code_and_else_by_the_last(
    calm_bert: Path, pool: TokenizedSplit
) -> None:
    judged: list[tuple[int, int]] = []

    def loss(logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        if not logits.requires_grad:
            judged.append((epoch, len(targets)))
        return cross_entropy(logits, targets, epoch)

    settings = settings_of(loss, epochs=3, validation_fraction=0.25)
    fit(fresh(calm_bert), pool, settings)
    loss.judged_as_gonsior2022 = True  # type: ignore[attr-defined]
    fit(fresh(calm_bert), pool, settings)
    assert judged == [(2, 6), (2, 6), (2, 6), (0, 6), (1, 6), (2, 6)]


def test_no_patience_runs_every_epoch_and_still_keeps_the_best(calm_bert: Path, pool: TokenizedSplit) -> None:
    settings = settings_of(scripted([0, 1, 2, 3, 4, 5, 6]), epochs=7, patience=0, validation_fraction=0.2)
    report = fit(fresh(calm_bert), pool, settings)
    assert (report.n_epochs_run, report.best_epoch) == (7, 0)


def test_without_validation_the_last_epoch_counts(calm_bert: Path, pool: TokenizedSplit) -> None:
    report = fit(fresh(calm_bert), pool, settings_of(epochs=3, batch_size=10))
    assert (report.n_steps, report.n_epochs_run, report.best_epoch, report.validation_loss) == (9, 3, 2, None)


def test_unused_words_decay_as_far_as_the_best_epoch(calm_bert: Path, pool: TokenizedSplit) -> None:
    network = fresh(calm_bert)
    before = network.word_embeddings.weight.detach().clone()
    # One step an epoch and epoch 1 the best, so that two decays of 1 - 0.01 * 0.5 count.
    recipe: dict[str, Any] = {"epochs": 4, "weight_decay": 0.5, "learning_rate": 0.01, "validation_fraction": 0.25}
    fit(network, pool, settings_of(scripted([2, 1, 3, 4]), **recipe), n=12)
    unused = np.setdiff1d(np.arange(1, len(before)), pool.gather(np.arange(12)))
    assert len(unused) >= 2
    torch.testing.assert_close(network.word_embeddings.weight.detach()[unused], before[unused] * 0.995**2)


def test_the_small_vocabulary_gives_the_same_outputs_and_is_put_back(roberta: Path) -> None:
    network = fresh(roberta).eval()
    split = tiny.split_of(tiny.toy_table(9, seed=2), resolve_model(str(roberta), None))
    rows = np.arange(9)

    def logits(texts: TokenizedSplit) -> Tensor:
        with torch.no_grad():
            return network(pack(texts.gather(rows), texts.lengths[rows], CPU))[0]

    full, before = network.word_embeddings.weight, logits(split)
    with used_words(network, split, np.arange(len(split))) as words:
        assert len(network.word_embeddings.weight) < len(full)
        torch.testing.assert_close(logits(words.split), before, rtol=0, atol=0)
    assert network.word_embeddings.weight is full
    torch.testing.assert_close(logits(split), before, rtol=0, atol=0)


def test_no_word_takes_the_number_of_the_padding_where_the_embeddings_do_not_mark_it(distilbert: Path) -> None:
    network, split = fresh(distilbert), tiny.split_of(tiny.toy_table(9, seed=2), resolve_model(str(distilbert), None))
    network.word_embeddings.padding_idx = None
    with used_words(network, split, np.arange(len(split))) as words:
        assert (words.split.tokens != network.pad_id).all()


def test_the_training_loss_is_the_weighted_mean_before_the_step(calm_bert: Path, pool: TokenizedSplit) -> None:
    rows = np.arange(24)
    labels = torch.from_numpy(pool.labels[rows])
    with torch.no_grad():
        logits, _ = fresh(calm_bert).eval()(pack(pool.gather(rows), pool.lengths[rows], CPU))
    weights = 24 / (3 * torch.bincount(labels).float())
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=weights).item()
    report = fit(fresh(calm_bert), pool, settings_of(class_weights="balanced", batch_size=24))
    assert report.train_loss == pytest.approx(expected, abs=1e-5)


def test_the_loss_hook_learns_the_epoch_and_the_oracles_labels(calm_bert: Path, pool: TokenizedSplit) -> None:
    wrong = LabeledSet(ids=pool.ids[:24], labels=(pool.labels[:24] + 1) % 3)
    seen: list[tuple[int, list[int]]] = []

    def loss(logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        seen.append((epoch, sorted(targets.tolist())))
        return cross_entropy(logits, targets, epoch)

    settings = settings_of(loss, epochs=3, batch_size=24)
    finetune(fresh(calm_bert), pool, wrong, settings, round_index=1, worker=SingleProcess())
    assert seen == [(epoch, sorted(wrong.labels.tolist())) for epoch in range(3)]
    assert sorted(wrong.labels.tolist()) != sorted(pool.labels[:24].tolist())


def test_a_diverged_fit_names_the_epoch_and_what_to_do(calm_bert: Path, pool: TokenizedSplit) -> None:
    def loss(logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        return cross_entropy(logits, targets, epoch) * (float("nan") if epoch == 1 else 1.0)

    with pytest.raises(RoundError, match=r"diverged in epoch 1: training loss nan.* Lower learning_rate"):
        fit(fresh(calm_bert), pool, settings_of(loss, epochs=3))


def test_nothing_labelled_is_refused(bert: Path, pool: TokenizedSplit) -> None:
    empty = LabeledSet(ids=np.empty(0, np.int64), labels=np.empty(0, np.int64))
    with pytest.raises(RoundError, match="round 3 has no labelled example"):
        finetune(fresh(bert), pool, empty, settings_of(), round_index=3, worker=SingleProcess())


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_learn_in_bf16(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    split = tiny.split_of(tiny.toy_table(60, seed=4), resolve_model(str(folder), None))
    settings = settings_of(precision="bf16", epochs=25, batch_size=16, learning_rate=3e-3)
    assert fit(fresh(folder), split, settings, n=60).train_loss < 0.4
