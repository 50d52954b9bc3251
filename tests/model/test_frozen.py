"""The frozen learner: a linear head on fixed features."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from al_ray.confidence.evidential import evidential_loss
from al_ray.core.logistic import logistic_regression
from al_ray.core.types import LabeledSet, Sampling
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import RoundError
from al_ray.loop import learner
from al_ray.model.finetune import FitSettings
from al_ray.model.frozen import HEAD_DROPOUT, FrozenClassifier, principal_axes
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.worker import SingleProcess
from tests.fakes import RecordsInMemory, make_loop

N, N_FEATURES, N_CLASSES = 400, 12, 3
SINGLE = Sampling()
RNG = np.random.default_rng(5)
CENTRES = RNG.normal(size=(N_CLASSES, N_FEATURES))
LABELS = RNG.integers(N_CLASSES, size=N)
FEATURES = (CENTRES[LABELS] + RNG.normal(size=(N, N_FEATURES))).astype(np.float32)
IDS = np.arange(N) * 3 + 7
LABELED = LabeledSet(
    ids=IDS[[40, 3, 77, 12, 150, 8, 99, 61, 200, 31]], labels=LABELS[[40, 3, 77, 12, 150, 8, 99, 61, 200, 31]]
)


def classifier_of(
    sampling: Sampling = SINGLE,
    *,
    seed: int = 1,
    new_loss: Any = lambda: None,
    **options: Any,
) -> FrozenClassifier:
    features = FEATURES.copy()
    features.flags.writeable = False  # as it comes from an object store
    return FrozenClassifier(
        features={"pool": features, "test": features[:50]},
        ids={"pool": IDS, "test": IDS[:50]},
        settings=FitSettings(
            recipe=FinetuneRecipe.of({"frozen_layers": "all", **options}),
            precision="float32",
            n_classes=N_CLASSES,
            scoring_batch_size=8,
            seed=seed,
            new_loss=new_loss,
        ),
        worker=SingleProcess(),
        sampling=sampling,
    )


def probs_of(classifier: FrozenClassifier, **options: Any) -> Any:
    return np.exp(log_softmax(classifier.predict("pool", IDS, **options).logits))


@pytest.mark.parametrize("l2", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_regression_is_scikit_learn_s_with_the_intercept_as_a_feature(l2: float, weighted: bool) -> None:
    weights = np.linspace(0.2, 3, N) if weighted else None
    w, b, _, _ = logistic_regression(FEATURES, LABELS, N_CLASSES, l2=l2, weights=weights)
    with_one = np.concatenate([FEATURES, np.ones((N, 1))], axis=1).astype(np.float64)
    peer = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    peer.fit(with_one, LABELS, sample_weight=weights)
    probs = np.exp(log_softmax(FEATURES @ w.T + b))
    np.testing.assert_allclose(probs, peer.predict_proba(with_one), atol=1e-3)


def test_a_class_without_examples_stays_a_class_that_is_possible() -> None:
    rows = LABELS != 2
    w, b, _, _ = logistic_regression(FEATURES[rows], LABELS[rows], N_CLASSES, l2=0.1)
    probs = np.exp(log_softmax(FEATURES @ w.T + b))
    assert np.isfinite(w).all()
    assert 0 < probs[:, 2].min() < probs[:, 2].max() < 0.5


def test_lbfgs_hangs_on_the_answers_alone() -> None:
    found = []
    for seed, order in ((1, slice(None)), (2, slice(None, None, -1))):
        classifier = classifier_of(seed=seed, solver="lbfgs")
        classifier.finetune(LabeledSet(ids=LABELED.ids[order], labels=LABELED.labels[order]), round_index=seed)
        found.append(probs_of(classifier))
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize(("n_components", "dtype"), [(1, np.float32), (5, np.float32), (N_FEATURES, np.float64)])
def test_principal_axes_are_those_of_scikit_learn_up_to_sign(n_components: int, dtype: Any) -> None:
    features = FEATURES.astype(dtype) + 3
    mean, axes = principal_axes(features, n_components)
    peer = PCA(n_components, svd_solver="full").fit(features.astype(np.float64))
    np.testing.assert_allclose(mean, peer.mean_, atol=1e-9)
    np.testing.assert_allclose(np.abs((axes * peer.components_.T).sum(axis=0)), 1, atol=1e-9)
    assert (axes[np.abs(axes).argmax(axis=0), range(n_components)] > 0).all()


def test_the_head_and_the_strategies_see_the_components_of_the_pool_in_both_splits() -> None:
    classifier = classifier_of(solver="lbfgs", n_components=4)
    classifier.finetune(LABELED, round_index=1)
    mean, axes = principal_axes(FEATURES, 4)
    projected = (FEATURES - mean) @ axes
    w, b, _, _ = logistic_regression(projected[np.searchsorted(IDS, LABELED.ids)], LABELED.labels, N_CLASSES, l2=0.1)
    for split, n in (("pool", N), ("test", 50)):
        found = classifier.predict(split, IDS[:n], with_features=True)
        np.testing.assert_allclose(found.features, projected[:n], atol=1e-5)
        np.testing.assert_allclose(found.logits[:, 0], projected[:n] @ w.T + b, atol=1e-4)
    weights = {name: value.numpy() for name, value in classifier.plain_weights().items()}
    logits = classifier.predict("pool", IDS).logits[:, 0]
    np.testing.assert_allclose(classifier.pool_features @ weights["weight"].T + weights["bias"], logits, atol=1e-4)


def test_all_components_are_a_rotation_and_change_no_prediction_of_dropoutless_fits() -> None:
    found = []
    for options in ({}, {"n_components": N_FEATURES}):
        # Centred features move the intercept, which the penalty holds: a small one leaves them alike.
        classifier = classifier_of(solver="lbfgs", l2=1e-6, **options)
        classifier.finetune(LabeledSet(ids=IDS[:300], labels=LABELS[:300]), round_index=1)
        found.append(classifier.predict("pool", IDS).logits[:, 0].argmax(axis=1))
    assert (found[0] == found[1]).mean() > 0.99


def test_more_components_than_texts_or_features_are_refused() -> None:
    with pytest.raises(RoundError, match=r"n_components is 13, but 400 texts with 12 features have 12 principal"):
        classifier_of(n_components=N_FEATURES + 1)
    with pytest.raises(RoundError, match=r"n_components is 7, but 6 texts with 12 features have 6"):
        principal_axes(FEATURES[:6], 7)


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_both_solvers_learn(solver: str) -> None:
    classifier = classifier_of(solver=solver)
    rows = np.arange(200)
    classifier.finetune(LabeledSet(ids=IDS[rows], labels=LABELS[rows]), round_index=1)
    predicted = probs_of(classifier)[200:, 0].argmax(axis=1)
    assert (predicted == LABELS[200:]).mean() > 0.9


def test_the_same_fit_gives_the_same_bits_and_another_round_others() -> None:
    one, other = classifier_of(), classifier_of()
    one.finetune(LABELED, round_index=4)
    other.finetune(LABELED, round_index=2)
    assert np.abs(probs_of(one) - probs_of(other)).max() > 1e-4
    other.finetune(LABELED, round_index=4)
    np.testing.assert_array_equal(probs_of(one), probs_of(other))


def test_any_part_of_a_split_gets_the_scores_that_it_has_in_the_whole() -> None:
    classifier = classifier_of()
    classifier.finetune(LABELED, round_index=1)
    whole = classifier.predict("pool", IDS, with_features=True)
    for part in (IDS[5:9], IDS[::2], IDS[[300, 2]]):
        found = classifier.predict("pool", part, with_features=True)
        rows = np.searchsorted(IDS, np.sort(part))
        np.testing.assert_allclose(found.logits, whole.logits[rows], atol=1e-5)
        np.testing.assert_array_equal(found.features, FEATURES[rows])
    np.testing.assert_allclose(classifier.predict("test", IDS[:50]).logits, whole.logits[:50], atol=1e-6)


def test_a_pass_through_the_head_drops_the_same_features_of_all_texts() -> None:
    classifier = classifier_of(Sampling(n_passes=4, dropout="head", rate=0.5))
    classifier.finetune(LABELED, round_index=1)
    outputs = classifier.predict("pool", IDS, with_logits_without_dropout=True)
    assert outputs.logits.shape == (N, 4, N_CLASSES)
    with_one = np.concatenate([FEATURES, np.ones((N, 1))], axis=1)
    for number in range(4):
        thinned, *_ = np.linalg.lstsq(with_one, outputs.logits[:, number].astype(np.float64), rcond=None)
        # One linear map for all texts, whose columns are either dropped or doubled.
        np.testing.assert_allclose(with_one @ thinned, outputs.logits[:, number], atol=1e-4)
        whole, *_ = np.linalg.lstsq(with_one, outputs.logits_without_dropout.astype(np.float64), rcond=None)
        dropped = np.abs(thinned[:-1]).max(axis=1) < 1e-4
        assert 0 < dropped.sum() < N_FEATURES
        np.testing.assert_allclose(thinned[:-1][~dropped], 2 * whole[:-1][~dropped], atol=1e-3)
        np.testing.assert_allclose(thinned[-1], whole[-1], atol=1e-3)


def test_dropped_logits_are_single_ones() -> None:
    classifier = classifier_of(Sampling(n_passes=50, dropout="logits"))
    classifier.finetune(LABELED, round_index=1)
    outputs = classifier.predict("pool", IDS, with_logits_without_dropout=True)
    kept = outputs.logits != 0
    assert abs(1 - kept.mean() - 0.1) < 0.01
    expected = np.broadcast_to(outputs.logits_without_dropout[:, None] / 0.9, kept.shape)
    np.testing.assert_allclose(outputs.logits[kept], expected[kept], rtol=1e-5)


def test_the_first_member_of_an_ensemble_is_the_single_model_and_the_others_differ() -> None:
    ensemble, single = classifier_of(Sampling(n_members=3)), classifier_of()
    for classifier in (ensemble, single):
        classifier.finetune(LABELED, round_index=2)
    members, alone = (classifier.predict("pool", IDS).logits for classifier in (ensemble, single))
    assert members.shape == (N, 3, N_CLASSES)
    np.testing.assert_array_equal(members[:, :1], alone)
    assert np.abs(members[:, 0] - members[:, 1]).max() > 1e-3
    np.testing.assert_array_equal(ensemble.predict("pool", IDS, plain=True).logits, alone)


def test_the_watched_logits_of_the_last_epoch_are_the_model_s_and_watching_changes_nothing() -> None:
    watching, alone = classifier_of(), classifier_of()
    watched = IDS[100:130]
    fit = watching.finetune(LABELED, round_index=1, watched=watched)
    alone.finetune(LABELED, round_index=1)
    assert fit.dynamics is not None
    assert fit.dynamics.shape == (30, fit.n_epochs_run, N_CLASSES)
    np.testing.assert_allclose(fit.dynamics[:, -1], watching.predict("pool", watched).logits[:, 0], atol=1e-6)
    np.testing.assert_array_equal(probs_of(watching), probs_of(alone))


def test_examples_are_held_out_and_the_best_epoch_is_kept() -> None:
    classifier = classifier_of(validation_fraction=0.2, patience=3, epochs=200)
    labels = LABELS[:40].copy()
    labels[::4] = (labels[::4] + 1) % 3  # wrong answers, so that it overfits
    report = classifier.finetune(LabeledSet(ids=IDS[:40], labels=labels), round_index=1)
    assert report.validation_loss is not None
    assert report.best_epoch < report.n_epochs_run - 1 < 199


def test_a_loss_of_a_confidence_method_is_the_one_that_is_minimised() -> None:
    new_loss = partial(partial, evidential_loss, annealing_epochs=10)
    evidential, plain = classifier_of(new_loss=new_loss), classifier_of()
    for classifier in (evidential, plain):
        classifier.finetune(LABELED, round_index=1)
    logits = [torch.from_numpy(each.predict("pool", LABELED.ids).logits[:, 0]) for each in (evidential, plain)]
    targets = torch.from_numpy(LABELED.sorted().labels)
    losses = [evidential_loss(each, targets, 29, annealing_epochs=10).mean() for each in logits]
    assert losses[0] < losses[1]


def test_out_of_fold_logits_come_from_fits_that_did_not_see_the_example() -> None:
    rows = np.arange(60)
    labels = LABELS[rows].copy()
    labels[0] = (labels[0] + 1) % 3  # a fit that saw this answer would believe it a little
    labeled = LabeledSet(ids=IDS[rows], labels=labels)
    classifier = classifier_of(solver="lbfgs", l2=1e-3)
    outputs = classifier.cross_predict(labeled, n_folds=5, round_index=1)
    np.testing.assert_array_equal(outputs.ids, np.sort(labeled.ids))
    held_out = np.exp(log_softmax(outputs.logits[0, 0]))[labels[0]]
    classifier.finetune(labeled, round_index=1)
    seen = probs_of(classifier)[0, 0, labels[0]]
    assert seen > 10 * held_out


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_the_model_that_judges_what_is_hard_leaves_no_trace_in_the_models_of_the_rounds(solver: str) -> None:
    truth = LabeledSet(ids=IDS, labels=LABELS)
    world = {"truth": truth, "test": LabeledSet(ids=IDS[:50], labels=LABELS[:50]), "n_classes": N_CLASSES}
    found = []
    for filters in ([], [{"name": "exclude_hardest", "keep": 1.0}], [{"name": "exclude_hardest", "keep": 0.5}]):
        loop = make_loop(world, filters=filters)
        rounds = learner.run(loop, classifier_of(solver=solver), RecordsInMemory())
        found.append([(record.query.ids.tolist(), record.metrics.get("accuracy")) for record in rounds])
    assert found[0] == found[1]
    assert found[0] != found[2]
    everything = classifier_of(solver=solver)
    everything.finetune(truth, round_index=1)
    correct = everything.predict("pool", IDS).logits[:, 0].argmax(axis=1) == LABELS
    asked = [id_ for ids, _ in found[2][1:] for id_ in ids]
    assert 0.5 < correct.mean() < 1
    assert correct[np.searchsorted(IDS, asked)].all()


def test_the_share_of_dropped_features_is_the_one_that_is_said() -> None:
    from al_ray.model.frozen import _HeadOnFeatures

    ones = torch.ones(400, 500)
    trained = _HeadOnFeatures(torch.nn.Linear(500, 2), ones, np.random.default_rng(0))
    dropped = trained._dropped(ones)
    assert abs(float((dropped == 0).double().mean()) - HEAD_DROPOUT) < 0.005
    assert abs(float(dropped.mean()) - 1) < 0.005


def test_nothing_to_fit_and_features_that_are_not_finite_are_errors() -> None:
    nothing = LabeledSet(ids=np.empty(0, np.int64), labels=np.empty(0, np.int64))
    with pytest.raises(RoundError, match=r"round 3 has no labelled example to fit a head on. Raise initial_size"):
        classifier_of().finetune(nothing, round_index=3)
    with pytest.raises(RoundError, match=r"features that are not finite. Use precision float32"):
        logistic_regression(np.full((4, 2), np.nan), np.array([0, 1, 0, 1]), 2, l2=1.0)
