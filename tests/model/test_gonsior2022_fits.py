"""Whole fits by the rules of Gonsior et al. 2022, against a loop written out here on transformers' own model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional

from al_ray.confidence import confidences, plain_loss
from al_ray.core.seeding import stream, stream_seed
from al_ray.core.types import LabeledSet, Sampling
from al_ray.model.classifier import TransformerClassifier
from al_ray.model.encoder import build_network, load_weights
from al_ray.model.recipe import FinetuneRecipe, batches_of_epoch, gonsior2022_validation_rows
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from tests.model import tiny

SEED = 5
NOISE = {2: 14, 3: 5}
# 15 of 60 are held out: one batch of 8 and one of 7, whose means count alike.
RECIPE = FinetuneRecipe(epochs=10, batch_size=8, learning_rate=1e-3, validation_fraction=0.25, patience=5)
Criterion = Callable[[Tensor, Tensor], Tensor]


def default_criterion(n_classes: int) -> Criterion:
    """BCEWithLogits against one-hot targets for two classes, cross entropy for more."""
    if n_classes == 2:
        return lambda z, y: torch.nn.BCEWithLogitsLoss()(z, torch.eye(2)[y])
    return torch.nn.CrossEntropyLoss()


def inhibited(z: Tensor, y: Tensor) -> Tensor:
    shares = z.exp() / (z.exp().sum(dim=1, keepdim=True) + 1.5)
    return functional.nll_loss(shares.log(), y)


def evidential(z: Tensor, y: Tensor, epoch: int) -> Tensor:
    """By torch's own Dirichlet: expected squared error, and the divergence of what misleads from no evidence."""
    answer = torch.eye(z.shape[1])[y]
    evidence = Dirichlet(z.relu() + 1)
    error = ((answer - evidence.mean) ** 2 + evidence.variance).sum(dim=1)
    misleading = Dirichlet(z.relu() * (1 - answer) + 1)
    penalty = kl_divergence(misleading, Dirichlet(torch.ones_like(z)))
    return (error + min(1.0, epoch / 10) * penalty).mean()


@dataclass
class Outcome:
    """What the written-out loop found."""

    best_epoch: int
    n_epochs: int
    validation_loss: float
    logits: np.ndarray
    features: np.ndarray


class Reference:
    """One classifier of the paper's code, as far as it trains; ``late``: by the rule that it does not follow."""

    def __init__(
        self, criterion: Criterion, *, tempered: bool = False, is_evidential: bool = False, late: bool = False
    ) -> None:
        self.criterion, self.tempered, self.is_evidential, self.late = criterion, tempered, is_evidential, late
        self.temperature = 1.5

    def loss(self, z: Tensor, y: Tensor, epoch: int) -> Tensor:
        if self.is_evidential:
            return evidential(z, y, epoch)
        return self.criterion(z / self.temperature if self.tempered else z, y)

    def adapt(self, z: Tensor, y: Tensor) -> None:
        """Search the temperature, after the epoch has been judged."""
        if not self.tempered:
            return
        grid = [round(step / 100 + 0.01, 2) for step in range(1000)]
        found = min(grid, key=lambda t: functional.cross_entropy(z.double() / t, y).item())
        self.temperature = 1.8495 if found < 1 else found

    def fit(self, model: Any, split: TokenizedSplit, labeled: LabeledSet, names: tuple[Any, ...]) -> Outcome:
        rows, labels = split.rows(labeled.ids), torch.from_numpy(labeled.labels)
        held = gonsior2022_validation_rows(
            labeled.labels, RECIPE.validation_fraction, stream(SEED, *names, "validation")
        ).tolist()
        train = [row for row in range(len(rows)) if row not in held]
        order = stream(SEED, *names, "order")
        optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE.learning_rate, eps=1e-8, weight_decay=0.01)
        epochs: list[tuple[tuple[float, ...], dict[str, Tensor]]] = []
        lowest, waited = math.inf, 0
        for epoch in range(RECIPE.epochs):
            train_loss = 0.0
            for batch in batches_of_epoch(len(train), RECIPE.batch_size, order):
                chosen = [train[at] for at in batch]
                optimizer.zero_grad()
                loss = self.loss(logits_of(model, split, rows[chosen])[0], labels[chosen], epoch)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                train_loss += loss.item() * len(chosen) / len(train)
            with torch.no_grad():
                z = logits_of(model, split, rows[held])[0]
            if self.late:
                self.adapt(z, labels[held])
            at = RECIPE.epochs - 1 if self.late else epoch
            batches = zip(z.split(RECIPE.batch_size), labels[held].split(RECIPE.batch_size), strict=True)
            judged = sum(self.loss(some, answers, at).item() for some, answers in batches)
            n_right = int((z.argmax(dim=1) == labels[held]).sum())
            if not self.late:
                self.adapt(z, labels[held])
            waited = 0 if judged < lowest else waited + 1
            lowest = min(lowest, judged)
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            epochs.append(((judged / len(held), -n_right / len(held), train_loss, epoch), weights))
            if waited >= RECIPE.patience:
                break
        key, weights = min(epochs, key=lambda one: one[0])
        model.load_state_dict(weights)
        with torch.no_grad():
            logits, hidden = logits_of(model, split, np.arange(len(split)))
        mean_of_batches = key[0] * len(held) / math.ceil(len(held) / RECIPE.batch_size)
        return Outcome(int(key[3]), len(epochs), mean_of_batches, logits.numpy(), hidden.numpy())


def logits_of(model: Any, split: TokenizedSplit, rows: Any) -> tuple[Tensor, Tensor]:
    """Return logits and the last layer's first token, texts padded to 40 tokens with their masks, by transformers."""
    texts = [split.tokens[split.offsets[row] : split.offsets[row + 1]] for row in rows]
    tokens = torch.tensor([[*text, *[0] * (40 - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (40 - len(text)) for text in texts])
    outputs = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
    return outputs.logits, outputs.hidden_states[-1][:, 0]


def start_of(folder: Path, n_classes: int, names: tuple[Any, ...]) -> Any:
    """Return transformers' model with the weights that a fit of these names starts from."""
    resolved = resolve_model(str(folder), None)
    network = build_network(resolved, n_classes, torch.device("cpu"))
    load_weights(network, resolved, "pretrained", stream_seed(SEED, *names, "finetune"))
    return network.model.eval()


def noisy_texts(folder: Path, n_classes: int) -> tuple[TokenizedSplit, LabeledSet]:
    """Return texts of which a fifth of the labelled have a wrong label, so that a middle epoch is the best."""
    split = tiny.split_of(tiny.toy_table(90, seed=6, n_classes=n_classes), resolve_model(str(folder), None))
    rng = np.random.default_rng(NOISE[n_classes])
    labels = np.where(rng.random(60) < 0.2, rng.integers(n_classes, size=60), split.labels[:60])
    return split, LabeledSet(ids=split.ids[:60], labels=labels)


def ours(folder: Path, split: TokenizedSplit, method: str, n_classes: int, **changes: Any) -> TransformerClassifier:
    confidence = confidences.build(method)
    values: dict[str, Any] = {"sampling": confidence.sampling, "new_loss": confidence.new_loss, **changes}
    return tiny.classifier_of(
        folder,
        pool=split,
        recipe=RECIPE,
        n_classes=n_classes,
        seed=SEED,
        new_plain_loss=lambda: plain_loss("gonsior2022/plain"),
        **values,
    )


ROUND = ("round", 1)
REFERENCES: dict[str, Callable[[int], Reference]] = {
    "default": lambda n: Reference(default_criterion(n)),
    "tempered": lambda n: Reference(default_criterion(n), tempered=True),
    "smoothed": lambda n: Reference(torch.nn.CrossEntropyLoss(label_smoothing=0.2)),
    "inhibited": lambda n: Reference(inhibited),
    "evidential": lambda n: Reference(default_criterion(n), is_evidential=True),
}
METHODS = {
    "gonsior2022/softmax": "default",
    "gonsior2022/mc_dropout": "default",
    "gonsior2022/trust_score": "default",
    "gonsior2022/temperature_scaling": "tempered",
    "gonsior2022/label_smoothing": "smoothed",
    "gonsior2022/inhibited_softmax": "inhibited",
    "gonsior2022/evidential": "evidential",
}


@pytest.fixture(scope="module")
def reference(calm_bert: Path) -> Callable[..., Outcome]:
    """Return what the written-out loop finds with one kind of loss; each fit is done once."""

    @cache
    def outcome(kind: str, n_classes: int, *part: str | int) -> Outcome:
        names = (*ROUND, *part)
        split, labeled = noisy_texts(calm_bert, n_classes)
        return REFERENCES[kind](n_classes).fit(start_of(calm_bert, n_classes, names), split, labeled, names)

    return outcome


def assert_same_probabilities(logits: np.ndarray, expected: np.ndarray) -> None:
    found, wanted = (softmax(values.astype(float), axis=1) for values in (logits, expected))
    np.testing.assert_allclose(found, wanted, atol=6e-4)
    assert np.ptp(wanted[:, 0]) > 0.05, "the model tells texts apart"


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_whole_fit_is_that_of_the_papers_code(
    method: str, n_classes: int, calm_bert: Path, reference: Callable[..., Outcome]
) -> None:
    expected = reference(METHODS[method], n_classes)
    split, labeled = noisy_texts(calm_bert, n_classes)
    classifier = ours(calm_bert, split, method, n_classes)
    report = classifier.finetune(labeled, round_index=1)
    assert (report.best_epoch, report.n_epochs_run) == (expected.best_epoch, expected.n_epochs)
    assert report.validation_loss == pytest.approx(expected.validation_loss, abs=1e-4)
    found = classifier.predict("pool", split.ids, with_features=True, with_logits_without_dropout=True)
    assert found.logits_without_dropout is not None
    assert found.features is not None
    assert_same_probabilities(found.logits_without_dropout, expected.logits)
    np.testing.assert_allclose(found.features, expected.features, atol=5e-3)
    if method == "gonsior2022/mc_dropout":
        kept = found.logits != 0
        assert 0.85 < kept.mean() < 0.95
        np.testing.assert_allclose(found.logits, kept * found.logits_without_dropout[:, None] / 0.9, rtol=1e-5)
    else:
        np.testing.assert_array_equal(found.logits[:, 0], found.logits_without_dropout)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_member_of_the_committee_is_a_default_model_with_a_seed_of_its_own(
    n_classes: int, calm_bert: Path, reference: Callable[..., Outcome]
) -> None:
    assert confidences.build("gonsior2022/ensemble").n_draws == 5
    split, labeled = noisy_texts(calm_bert, n_classes)
    classifier = ours(calm_bert, split, "gonsior2022/ensemble", n_classes, sampling=Sampling(n_members=2))
    classifier.finetune(labeled, round_index=1)
    found = classifier.predict("pool", split.ids).logits
    for member, part in enumerate([(), ("member", 1)]):
        assert_same_probabilities(found[:, member], reference("default", n_classes, *part).logits)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", ["label_smoothing", "gonsior2022/evidential", "ensemble"])
def test_the_plain_model_beside_any_method_is_the_default_one_of_the_papers_code(
    method: str, n_classes: int, calm_bert: Path, reference: Callable[..., Outcome]
) -> None:
    split, labeled = noisy_texts(calm_bert, n_classes)
    classifier = ours(calm_bert, split, method, n_classes)
    report = classifier.finetune(labeled, round_index=1, plain=True)
    expected = reference("default", n_classes)
    assert (report.best_epoch, report.n_epochs_run) == (expected.best_epoch, expected.n_epochs)
    assert_same_probabilities(classifier.predict("pool", split.ids, plain=True).logits[:, 0], expected.logits)


WRONG: dict[str, tuple[str, Callable[[int], Reference]]] = {
    "the last penalty": ("evidential", lambda n: Reference(inhibited, is_evidential=True, late=True)),
    "the new temperature": ("tempered", lambda n: Reference(default_criterion(n), tempered=True, late=True)),
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("rule", WRONG)
def test_these_texts_tell_the_rules_of_that_code_from_what_it_does_not_do(
    rule: str, n_classes: int, calm_bert: Path, reference: Callable[..., Outcome]
) -> None:
    right, wrong = WRONG[rule]
    split, labeled = noisy_texts(calm_bert, n_classes)
    other = wrong(n_classes).fit(start_of(calm_bert, n_classes, ROUND), split, labeled, ROUND)
    assert other.best_epoch != reference(right, n_classes).best_epoch


@pytest.mark.parametrize("kind", ["default", "tempered"])
def test_two_classes_by_cross_entropy_would_be_another_fit(
    kind: str, calm_bert: Path, reference: Callable[..., Outcome]
) -> None:
    split, labeled = noisy_texts(calm_bert, 2)
    other = Reference(torch.nn.CrossEntropyLoss(), tempered=kind == "tempered")
    found = other.fit(start_of(calm_bert, 2, ROUND), split, labeled, ROUND).logits
    assert np.abs(softmax(found, axis=1) - softmax(reference(kind, 2).logits, axis=1)).max() > 0.01
