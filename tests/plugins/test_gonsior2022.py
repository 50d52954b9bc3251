"""The slips of the reference code of Gonsior et al. 2022: which examples they choose, on pools made by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from scipy.stats import beta
from scipy.stats import entropy as scipy_entropy
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional

from al_ray.confidence import confidences, needs_plain_model
from al_ray.confidence.gonsior2022 import best_temperature
from al_ray.core.apportioning import gonsior2022_seats
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, ModelOutputs, PoolView, Sampling, StartPool
from al_ray.errors import ConfigError
from al_ray.initial import initial_queries
from al_ray.strategy import strategies

NAMES = ("least_confidence", "margin", "entropy", "vote_entropy", "consensus_kl", "trust_score")


def view(probs, labeled_probs=None, trust=None, labeled_trust=None) -> PoolView:
    """A pool with ids 0, 1, ... from probabilities ``[n, n_classes]`` or ``[n, n_draws, n_classes]``."""
    probs = np.asarray(probs, dtype=float)
    labeled_probs = np.empty((0, *probs.shape[1:])) if labeled_probs is None else np.asarray(labeled_probs, dtype=float)
    with np.errstate(divide="ignore"):
        logs = [np.log(p if p.ndim == 3 else p[:, None]) for p in (probs, labeled_probs)]
    return PoolView(
        ids=np.arange(len(probs)),
        log_probs=logs[0],
        uncertainty=None if trust is None else -np.asarray(trust, dtype=float),
        labeled=LabeledSet(ids=1000 + np.arange(len(logs[1])), labels=np.zeros(len(logs[1]), dtype=np.int64)),
        labeled_log_probs=logs[1],
        labeled_uncertainty=None if labeled_trust is None else -np.asarray(labeled_trust, dtype=float),
    )


def scores(name: str, pool: PoolView, clipping: float = 1.0) -> np.ndarray:
    strategy = strategies.build({"name": f"gonsior2022/{name}", "clipping": clipping})
    return strategy.score(pool, stream(0, "test"))


def order(name: str, pool: PoolView, clipping: float = 1.0) -> list[int]:
    return rank(pool.ids, scores(name, pool, clipping), 0).ids.tolist()


def binary(*p: float) -> list[list[float]]:
    return [[x, 1 - x] for x in p]


def outputs(logits, features=None) -> ModelOutputs:
    logits = np.asarray(logits, dtype=np.float32)
    logits = logits if logits.ndim == 3 else logits[:, None]
    return ModelOutputs(ids=np.arange(len(logits)), logits=logits, features=features)


# --- 1.4-A: the committee asks for the least disputed

DISPUTE = np.array(
    [
        [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]],  # all agree
        [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]],  # one against four
        [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]],  # two against three
    ]
)


def test_vote_entropy_asks_first_where_the_members_agree() -> None:
    raw = [0.0, scipy_entropy([4, 1]), scipy_entropy([3, 2])]
    np.testing.assert_allclose(scores("vote_entropy", view(DISPUTE)), -np.array(raw), atol=1e-12)
    assert order("vote_entropy", view(DISPUTE)) == [0, 1, 2]
    assert np.argsort(raw)[::-1].tolist() == [2, 1, 0], "the textbook asks the other way round"


def test_consensus_kl_asks_first_where_the_members_agree_and_is_not_divided_by_their_number() -> None:
    mean = DISPUTE.mean(axis=1, keepdims=True)
    summed = rel_entr(DISPUTE, mean).sum(axis=(1, 2))
    np.testing.assert_allclose(scores("consensus_kl", view(DISPUTE)), -summed, atol=1e-7)
    assert order("consensus_kl", view(DISPUTE)) == [0, 1, 2]
    assert np.argsort(summed / 5)[::-1].tolist() == [2, 1, 0], "the textbook asks the other way round"


@pytest.mark.parametrize("name", ["vote_entropy", "consensus_kl"])
def test_the_textbook_committee_turns_the_order_round(name: str) -> None:
    pool = view(np.random.default_rng(3).dirichlet([1, 1, 1], size=(40, 5)))
    textbook = strategies.build(name).score(pool, stream(0, "test"))
    reference = scores(name, pool)
    first, last = order(name, pool)[:5], rank(pool.ids, textbook, 0).ids[:5].tolist()
    assert textbook[first].max() < textbook[last].min()
    assert np.corrcoef(textbook, reference)[0, 1] < -0.999


def test_certain_members_that_contradict_each_other_have_a_finite_divergence() -> None:
    pool = view([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    np.testing.assert_allclose(scores("consensus_kl", pool), [-2 * math.log(2), 0.0], atol=1e-7)


# --- 1.4-B: clipping and entropy

ALMOST_SURE = 1 - np.geomspace(1e-6, 0.4, 20)


def test_with_two_classes_clipping_makes_entropy_ask_the_most_certain_examples_first() -> None:
    pool = view(binary(*ALMOST_SURE))  # id 0 is the most certain, id 19 the least
    assert order("entropy", pool)[:2] == [19, 18]
    assert set(order("entropy", pool, 0.90)[:2]) == {0, 1}
    np.testing.assert_array_equal(scores("entropy", pool, 0.90)[:2], [1.0, 1.0])
    assert order("entropy", pool, 0.90)[2:] == list(range(19, 1, -1))


@pytest.mark.parametrize("n_classes", [4, 6])
def test_with_more_classes_clipping_puts_the_most_certain_examples_into_the_upper_range(n_classes: int) -> None:
    weights = np.concatenate([np.geomspace(1e-4, 0.3, 15), np.linspace(0.8, 1.0, 5)])  # from one class to uniform
    pool = view([w / n_classes + (1 - w) * np.eye(n_classes)[0] for w in weights])
    plain = scipy_entropy(np.exp(pool.log_probs[:, 0]), axis=1)
    assert (plain[15:] > 1).all()
    assert (plain[:15] < 1).all()
    assert order("entropy", pool) == list(range(19, -1, -1))
    # Right behind the five that are above 1 nat, and ahead of fourteen that are less certain than it is.
    assert order("entropy", pool, 0.95) == [19, 18, 17, 16, 15, 0, *range(14, 0, -1)]


def test_the_intended_clipping_would_have_dropped_the_other_end() -> None:
    pool = view(binary(*ALMOST_SURE))
    kept = rank(pool.ids, strategies.build("entropy").score(pool, stream(0, "test")), 0).ids[2:]
    assert set(order("entropy", pool, 0.90)[:2]).isdisjoint(kept[:2])


# --- 1.4-C: clipping, vote entropy and the trust score


def test_clipping_does_nothing_to_vote_entropy_while_members_mostly_agree() -> None:
    probs = np.concatenate([np.repeat(DISPUTE[:1], 18, axis=0), DISPUTE[1:]])
    pool = view(probs, labeled_probs=DISPUTE[:1])
    np.testing.assert_array_equal(scores("vote_entropy", pool, 0.90), scores("vote_entropy", pool))


def test_a_clipped_trust_score_is_an_ordinary_one_and_may_even_come_first() -> None:
    trust = np.concatenate([[0.1], np.linspace(0.8, 3.0, 19)])
    pool = view(np.full((20, 2), 0.5), trust=trust, labeled_trust=[])
    assert order("trust_score", pool) == list(range(20))
    ranked = order("trust_score", pool, 0.95)
    assert ranked.index(0) == int((trust[1:] < 1).sum()) < 19, "not the last, as a clipped example should be"
    sure = view(np.full((20, 2), 0.5), trust=trust + 2, labeled_trust=[])
    assert order("trust_score", sure, 0.95)[0] == 0


def test_a_clipped_divergence_is_not_the_worst_one_either() -> None:
    probs = np.concatenate([DISPUTE[:1], np.repeat(DISPUTE[2:], 19, axis=0)])
    pool = view(probs)
    assert scores("consensus_kl", pool)[1] < -1
    assert order("consensus_kl", pool, 0.95)[0] == 0


# --- 1.3: clipping lives inside the score


@pytest.mark.parametrize("name", ["least_confidence", "margin"])
def test_clipping_hides_the_least_certain_without_removing_them(name: str) -> None:
    pool = view(binary(*np.linspace(0.51, 0.99, 20)))
    assert order(name, pool) == list(range(20))
    np.testing.assert_array_equal(scores(name, pool, 0.90)[:2], [-1.0, -1.0])
    assert order(name, pool, 0.90)[:18] == list(range(2, 20))
    assert set(order(name, pool, 0.90)[18:]) == {0, 1}


def test_the_threshold_is_numpys_linear_percentile_and_an_equal_score_is_kept() -> None:
    top = np.array([0.50, 0.60, 0.70, 0.80, 0.90])
    pool = view(binary(*top))
    # Five scores: the 25th percentile is the second, 0.60, and only 0.50 is strictly below it.
    np.testing.assert_allclose(-scores("least_confidence", pool, 0.75), [1.0, 0.60, 0.70, 0.80, 0.90])
    # The 10th lies between the first two.
    np.testing.assert_allclose(-scores("least_confidence", pool, 0.90), [1.0, 0.60, 0.70, 0.80, 0.90])
    equal = view(binary(*[0.6] * 5))
    np.testing.assert_array_equal(scores("least_confidence", equal, 0.90), scores("least_confidence", equal))


def test_a_threshold_over_all_data_chooses_other_examples_than_one_over_the_pool() -> None:
    pool_p = np.linspace(0.51, 0.99, 20)
    certain = view(binary(*pool_p), labeled_probs=binary(*[0.999] * 20))
    alone = view(binary(*pool_p))
    assert order("least_confidence", alone, 0.90)[:3] == [2, 3, 4]
    # 40 scores: the 10th percentile is at position 3.9, so that four of the pool go.
    assert order("least_confidence", certain, 0.90)[:3] == [4, 5, 6]
    unsure = view(binary(*pool_p), labeled_probs=binary(*[0.5] * 20))
    assert order("least_confidence", unsure, 0.90)[:3] == [0, 1, 2], "the labelled examples use the threshold up"
    trusted = view(binary(*pool_p), trust=pool_p, labeled_trust=[5.0] * 20, labeled_probs=binary(*[0.9] * 20))
    assert order("trust_score", trusted, 0.90)[:3] == [4, 5, 6]


@pytest.mark.parametrize("clipping", [0.0, -0.1, 1.01, math.nan])
def test_an_impossible_clipping_is_refused(clipping: float) -> None:
    with pytest.raises(ConfigError, match=r"clipping is .*, it must be above 0 and at most 1\. 1\.0 is off"):
        strategies.build({"name": "gonsior2022/entropy", "clipping": clipping})


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_reads_the_labelled_examples_and_only_the_committee_needs_members(name: str) -> None:
    strategy = strategies.get(f"gonsior2022/{name}")
    assert strategy.needs_labeled
    assert strategy.ranks
    assert strategy.min_draws == (2 if name in ("vote_entropy", "consensus_kl") else 1)
    assert strategy.needs_uncertainty == (name == "trust_score")


@given(st.lists(st.integers(-60, 60), min_size=2, max_size=30, unique_by=abs))
def test_two_classes_without_clipping_give_margin_entropy_and_least_confidence_one_order(tenths: list[int]) -> None:
    logits = np.array(tenths) / 10
    pool = view(softmax(np.stack([logits, np.zeros_like(logits)], axis=1), axis=1))
    assert order("margin", pool) == order("entropy", pool) == order("least_confidence", pool)
    for name in ("margin", "entropy", "least_confidence"):
        textbook = strategies.build(name).score(pool, stream(0, "test"))
        assert rank(pool.ids, textbook, 0).ids.tolist() == order(name, pool)


# --- the losses: two classes, and how epochs are judged

DEFAULT = ("softmax", "ensemble", "mc_dropout", "trust_score")
GONSIOR2022 = [name for name in confidences.names() if name.startswith("gonsior2022/")]


def loss_of(name: str, z: list[float], target: int) -> float:
    loss = confidences.build(name).new_loss()
    return loss(torch.tensor([z]), torch.tensor([target]), 0).item()


@pytest.mark.parametrize("name", DEFAULT)
def test_two_classes_are_two_yes_or_no_questions_wherever_the_default_criterion_is_kept(name: str) -> None:
    both = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    assert loss_of(f"gonsior2022/{name}", [2.0, 0.0], 0) == pytest.approx(both, rel=1e-6)
    three = -math.log(softmax([2.0, 0.0, 1.0])[1])
    assert loss_of(f"gonsior2022/{name}", [2.0, 0.0, 1.0], 1) == pytest.approx(three, rel=1e-6)


def test_the_tempered_loss_of_two_classes_is_0_464_where_cross_entropy_is_0_234() -> None:
    assert loss_of("gonsior2022/temperature_scaling", [2.0, 0.0], 0) == pytest.approx(0.464, abs=5e-4)
    tempered = functional.cross_entropy(torch.tensor([[2.0, 0.0]]) / 1.5, torch.tensor([0])).item()
    assert tempered == pytest.approx(0.234, abs=5e-4)


def test_label_smoothing_and_inhibition_keep_cross_entropy_on_two_classes() -> None:
    log_probs = np.log(softmax([2.0, 0.0]))
    assert loss_of("gonsior2022/label_smoothing", [2.0, 0.0], 0) == pytest.approx(-(log_probs @ [0.9, 0.1]), rel=1e-6)
    inhibited = math.log((math.exp(2) + 1 + 1.5) / math.exp(2))
    assert loss_of("gonsior2022/inhibited_softmax", [2.0, 0.0], 0) == pytest.approx(inhibited, rel=1e-6)


@pytest.mark.parametrize("name", confidences.names())
def test_epochs_are_judged_as_in_the_papers_code_by_its_own_losses_alone(name: str) -> None:
    assert getattr(confidences.build(name).new_loss(), "judged_as_gonsior2022", False) == (name in GONSIOR2022)


@pytest.mark.parametrize("name", confidences.names())
def test_a_second_model_is_measured_only_where_the_own_one_is_fitted_with_another_loss(name: str) -> None:
    confidence = confidences.build(name)
    assert not needs_plain_model("own", confidence)
    assert needs_plain_model("plain", confidence) == (confidence.new_loss() is not None)
    assert needs_plain_model("gonsior2022/plain", confidence) == (name.removeprefix("gonsior2022/") not in DEFAULT or
                                                                  name not in GONSIOR2022)  # fmt: skip


# --- the start


def test_a_start_takes_what_is_too_much_from_the_first_class_that_has_some() -> None:
    trec6 = np.array([86, 1250, 1162, 1223, 835, 896])
    labels = np.repeat(np.arange(6), trec6)
    truth = LabeledSet(ids=7 + 2 * np.arange(len(labels)), labels=labels)
    for seed in range(3):
        ids = initial_queries.build("gonsior2022/stratified").pick(StartPool(truth=truth), 25, stream(seed, "initial"))
        assert np.bincount(labels[(ids - 7) // 2]).tolist() == [1, 3, 6, 6, 4, 5]
    # One class pays down to its last seat, then the next one: whole parts 0, 0, 1, 1, 17 and one more each.
    assert seats(4, 4, 9, 9, 90, size=22) == [1, 1, 1, 1, 18]
    assert seats(4, 4, 9, 30, 90, size=8) == [1, 1, 1, 1, 4]


def seats(*counts: int, size: int, seed: int = 0) -> list[int]:
    found: list[int] = gonsior2022_seats(np.array(counts), size, stream(seed, "seats")).tolist()
    return found


def test_the_odd_seat_of_two_equal_classes_is_drawn_and_others_by_class_size() -> None:
    found = [tuple(seats(4000, 4000, size=25, seed=seed)) for seed in range(60)]
    assert set(found) == {(12, 13), (13, 12)}
    assert 15 < found.count((12, 13)) < 45
    # 3.75 and 1.25 of 5: the whole parts are 3 and 1, and the fifth goes to the larger class three times of four.
    large = sum(seats(750, 250, size=5, seed=seed) == [4, 1] for seed in range(200))
    assert 130 < large < 170


def test_without_more_seats_than_classes_a_class_may_go_without() -> None:
    found = {tuple(seats(10, 10, 11, size=3, seed=seed)) for seed in range(40)}
    assert (1, 1, 1) in found
    assert any(0 in one for one in found)
    assert seats(5, 0, 5, 0, size=10) == [5, 0, 5, 0]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 200), st.integers(0, 5))
def test_seats_sum_to_the_size_and_never_exceed_a_class(counts: list[int], wanted: int, seed: int) -> None:
    if not any(counts):
        return
    size = 1 + wanted % sum(counts)
    found = seats(*counts, size=size, seed=seed)
    assert sum(found) == size
    assert all(0 <= n <= count for n, count in zip(found, counts, strict=True))
    if min(counts) > 0 and size > len(counts):
        assert min(found) > 0


# --- Monte Carlo dropout


def test_mc_dropout_samples_logits_only_and_gives_the_mean_as_one_draw() -> None:
    method = confidences.build("gonsior2022/mc_dropout")
    assert method.sampling == Sampling(n_passes=50, dropout="logits", rate=0.1)
    assert (method.n_draws, method.has_consistent_draws) == (1, False)
    logits = np.random.default_rng(0).normal(size=(7, 50, 3)).astype(np.float32)
    expected = softmax(logits.astype(float), axis=2).mean(axis=1)
    np.testing.assert_allclose(np.exp(method.log_probs(outputs(logits)))[:, 0], expected, atol=1e-12)


def test_mc_dropout_on_logits_is_the_mean_over_all_masks_by_their_chance() -> None:
    # With two classes there are four masks; their mean, weighted by chance, is what 50 draws approach.
    z, keep = np.array([2.0, -1.0]), 0.9
    masks = [(a, b, (keep if a else 1 - keep) * (keep if b else 1 - keep)) for a in (0, 1) for b in (0, 1)]
    exact = sum(chance * softmax(z * [a, b] / keep) for a, b, chance in masks)
    drawn = (np.random.default_rng(1).random((400, 50, 2)) < keep) * z / keep
    probs = np.exp(confidences.build("gonsior2022/mc_dropout").log_probs(outputs(drawn)))[:, 0]
    np.testing.assert_allclose(probs.mean(axis=0), exact, atol=0.005)


# --- temperature scaling


def test_temperature_scaling_predicts_without_the_temperature() -> None:
    method = confidences.build("gonsior2022/temperature_scaling")
    logits = np.random.default_rng(0).normal(size=(9, 4)) * 5
    predicted = np.exp(method.log_probs(outputs(logits), state={"temperature": 3.0}))[:, 0]
    np.testing.assert_allclose(predicted, softmax(logits.astype(np.float32).astype(float), axis=1), atol=1e-12)


def test_the_training_loss_is_tempered_by_one_and_a_half_until_the_first_epoch_is_over() -> None:
    loss = confidences.build("gonsior2022/temperature_scaling").new_loss()
    logits, targets = torch.tensor([[3.0, 0.0, -3.0], [0.0, 1.5, 0.0]]), torch.tensor([0, 2])
    expected = -np.log(softmax(logits.numpy() / 1.5, axis=1)[[0, 1], [0, 2]])
    np.testing.assert_allclose(loss(logits, targets, 0).numpy(), expected, rtol=1e-6)


def noisy_logits(scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    z = rng.normal(size=(400, 3)) * 2
    targets = np.array([rng.choice(3, p=p) for p in softmax(z, axis=1)])
    return z * scale, targets


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5, 4.0])
def test_the_best_temperature_is_that_of_a_brute_force_search(scale: float) -> None:
    z, targets = noisy_logits(scale)
    grid = [round(0.01 * i, 2) for i in range(1, 1001)]
    losses = [torch.nn.functional.cross_entropy(torch.tensor(z / t), torch.tensor(targets)).item() for t in grid]
    assert best_temperature(z, targets) == pytest.approx(grid[int(np.argmin(losses))], abs=1e-9)
    assert best_temperature(z, targets) == pytest.approx(scale, rel=0.2), "it finds the scale that was put in"


@pytest.mark.parametrize("as_tensor", [True, False])
def test_after_an_epoch_the_temperature_is_that_of_the_held_out_examples(as_tensor: bool) -> None:
    z, targets = noisy_logits(2.5)
    z = z.astype(np.float32)
    loss = confidences.build("gonsior2022/temperature_scaling").new_loss()
    if as_tensor:
        loss.after_epoch(torch.tensor(z, requires_grad=True), torch.tensor(targets))
    else:
        loss.after_epoch(z, targets)
    assert loss.temperature == best_temperature(z, targets)
    assert loss.temperature > 1
    logits, target = torch.tensor([[3.0, 0.0, -3.0]]), torch.tensor([1])
    expected = -np.log(softmax(logits.numpy() / loss.temperature, axis=1)[0, 1])
    assert loss(logits, target, 1).item() == pytest.approx(expected, rel=1e-6)


def test_a_best_temperature_below_one_becomes_1_8495_however_far_below() -> None:
    loss = confidences.build("gonsior2022/temperature_scaling").new_loss()
    loss.after_epoch(*noisy_logits(0.5))
    assert loss.temperature == 1.8495
    # All held-out examples right, as with two or three of them: the lowest T is best.
    right = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert best_temperature(right, np.array([0, 1])) == 0.01
    loss.after_epoch(right, np.array([1, 0]))
    assert loss.temperature == 10.0, "all wrong: the other end of the grid"
    loss.after_epoch(right, np.array([0, 1]))
    assert loss.temperature == 1.8495


def test_every_fit_starts_with_a_temperature_of_its_own() -> None:
    method = confidences.build("gonsior2022/temperature_scaling")
    one, two = method.new_loss(), method.new_loss()
    one.after_epoch(*noisy_logits(4.0))
    assert two.temperature == 1.5


def test_the_tempered_loss_reads_bf16_logits_too() -> None:
    z, targets = noisy_logits(2.5)
    loss = confidences.build("gonsior2022/temperature_scaling").new_loss()
    loss.after_epoch(torch.tensor(z, dtype=torch.bfloat16), torch.tensor(targets))
    assert loss.temperature == pytest.approx(best_temperature(z, targets), abs=0.05)


# --- inhibited softmax


def test_inhibited_rows_do_not_sum_to_one_and_lose_most_where_logits_are_small() -> None:
    method = confidences.build("gonsior2022/inhibited_softmax")
    assert not getattr(method, "sums_to_one", True)
    z = np.array([[math.log(2), 0.0], [5.0, 5.0 - math.log(2)], [-1e4, -1e4], [1e4, -1e4]])
    probs = np.exp(method.log_probs(outputs(z)))[:, 0]
    np.testing.assert_allclose(probs[0], [2 / 4.5, 1 / 4.5], rtol=1e-6)
    big = math.exp(5.0)
    np.testing.assert_allclose(probs[1], [big / (1.5 * big + 1.5), big / 2 / (1.5 * big + 1.5)], rtol=1e-6)
    np.testing.assert_array_equal(probs[2:], [[0, 0], [1, 0]])
    assert np.isfinite(method.log_probs(outputs(z))).all()
    assert probs[0].sum() < probs[1].sum() < 1


def test_least_confidence_prefers_the_smaller_logits_among_equal_softmaxes() -> None:
    logits = np.array([[6.0, 4.0], [1.0, -1.0]])
    inhibited = confidences.build("gonsior2022/inhibited_softmax").log_probs(outputs(logits))
    plain = confidences.build("softmax").log_probs(outputs(logits))
    score = strategies.build("gonsior2022/least_confidence").score
    by_inhibited, by_plain = (score(view(np.exp(p)), stream(0, "test")) for p in (inhibited, plain))
    assert by_inhibited[1] > by_inhibited[0] + 0.1
    assert by_plain[1] == pytest.approx(by_plain[0], abs=1e-12)


def test_the_inhibited_loss_is_the_negative_log_likelihood_of_its_own_probabilities() -> None:
    method = confidences.build("gonsior2022/inhibited_softmax")
    z, targets = np.array([[math.log(2), 0.0], [3.0, -1.0], [-2.0, 0.5]]), np.array([0, 1, 1])
    expected = -method.log_probs(outputs(z))[np.arange(3), 0, targets]
    loss = method.new_loss()
    got = loss(torch.tensor(z, dtype=torch.float32), torch.tensor(targets), 0)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
    assert expected[0] == pytest.approx(math.log(4.5 / 2))


def test_the_inhibited_penalty_is_a_new_random_linear_map_of_the_first_example_only() -> None:
    loss = confidences.build("gonsior2022/inhibited_softmax").new_loss()
    assert loss.needs_features
    logits, targets = torch.zeros(3, 2), torch.tensor([0, 1, 0])
    features = (torch.randn(3, 16, generator=torch.Generator().manual_seed(1)) * 1e5).requires_grad_()
    without = loss(logits, targets, 0)
    torch.manual_seed(7)
    with_penalty = loss(logits, targets, 0, features)
    torch.manual_seed(7)
    layer = torch.nn.Linear(16, 6)
    expected = 1e-6 * layer(features[0]).sum()
    torch.testing.assert_close((with_penalty - without).mean(), expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().item() > 1e-3, "the penalty is large enough here to be seen"
    second = loss(logits, targets, 0, features)
    assert (second - with_penalty).abs().min() > 1e-4, "another map in every call"
    with_penalty.mean().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad[0], 1e-6 * layer.weight.detach().sum(dim=0))
    assert features.grad[1:].abs().max() == 0


def test_the_inhibited_loss_of_one_seed_is_always_the_same_and_takes_bf16_features() -> None:
    loss = confidences.build("gonsior2022/inhibited_softmax").new_loss()
    logits, targets, features = torch.zeros(2, 2), torch.tensor([0, 1]), torch.ones(2, 8, dtype=torch.bfloat16)
    torch.manual_seed(3)
    one = loss(logits, targets, 0, features)
    torch.manual_seed(3)
    assert torch.equal(one, loss(logits, targets, 0, features))


# --- evidential


def test_evidential_probabilities_are_the_softmax_and_nothing_of_the_evidence() -> None:
    method = confidences.build("gonsior2022/evidential")
    logits = np.random.default_rng(0).normal(size=(9, 4)) * 5
    expected = softmax(logits.astype(np.float32).astype(float), axis=1)
    np.testing.assert_allclose(np.exp(method.log_probs(outputs(logits)))[:, 0], expected, atol=1e-12)
    # No evidence at all for either: alpha / S is one half twice, the softmax tells them apart.
    negative = np.exp(method.log_probs(outputs([[-1.0, -9.0]])))[0, 0]
    assert negative[0] > 0.999
    assert not method.has_uncertainty


def sensoy(logits: np.ndarray, target: int, weight: float) -> float:
    """The loss of one example by numerical integration over two classes: E|y - p|^2 + weight KL(Beta || uniform)."""
    alpha = np.maximum(logits, 0) + 1
    one_hot = np.eye(2)[target]
    p = (np.arange(200_000) + 0.5) / 200_000
    density = beta.pdf(p, alpha[0], alpha[1])
    error = ((one_hot[0] - p) ** 2 + (one_hot[1] - 1 + p) ** 2) * density
    tilde = one_hot + (1 - one_hot) * alpha
    tilde_density = beta.pdf(p, tilde[0], tilde[1])
    return error.mean() + weight * (tilde_density * np.log(tilde_density)).mean()


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.0), (4, 0.4), (9, 0.9), (10, 1.0), (25, 1.0)])
def test_the_evidential_loss_is_that_of_sensoy_and_nine_tenths_annealed_in_the_last_of_ten_epochs(
    epoch: int, weight: float
) -> None:
    loss = confidences.build("gonsior2022/evidential").new_loss()
    z = np.array([[2.0, 0.7], [-1.0, 3.0], [1.5, 1.5]])
    targets = [0, 0, 1]
    expected = [sensoy(row, target, weight) for row, target in zip(z, targets, strict=True)]
    got = loss(torch.tensor(z, dtype=torch.float32), torch.tensor(targets), epoch)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


# --- trust score


def trust_case(n_labeled: int = 60, n: int = 40) -> tuple[ModelOutputs, ModelOutputs, np.ndarray]:
    rng = np.random.default_rng(11)
    labels = rng.integers(3, size=n_labeled)
    near = (rng.normal(size=(n_labeled, 5)) + 3 * np.eye(5)[labels]).astype(np.float32)
    far = rng.normal(size=(n, 5)).astype(np.float32) * 2
    return outputs(rng.normal(size=(n, 3)), far), outputs(rng.normal(size=(n_labeled, 3)), near), labels


def test_trust_scores_take_pool_features_from_round_one_and_labelled_ones_from_now() -> None:
    method = confidences.get("gonsior2022/trust_score")
    assert method.needs_first_features
    assert method.needs_features
    assert method.needs_labeled
    assert method.has_uncertainty


def test_uncertainty_is_minus_the_raw_trust_score_and_probabilities_are_plain_softmax() -> None:
    pool, labelled, labels = trust_case()
    method = confidences.build("gonsior2022/trust_score")
    state = method.calibrate(labelled, labels)
    kept = {}
    for label in range(3):
        of_class = labelled.features[labels == label]
        k = min(10, len(of_class))
        radii = NearestNeighbors(n_neighbors=k).fit(of_class).kneighbors(of_class)[0][:, -1]
        kept[label] = of_class[radii <= np.percentile(radii, 90)]
        assert 0 < len(of_class) - len(kept[label]) <= math.ceil(0.1 * len(of_class))
    predicted = pool.logits[:, 0].argmax(axis=1)
    nearest = np.stack(
        [NearestNeighbors(n_neighbors=1).fit(kept[c]).kneighbors(pool.features)[0][:, 0] for c in range(3)], axis=1
    )
    own = nearest[np.arange(len(pool)), predicted]
    other = np.where(np.arange(3) == predicted[:, None], np.inf, nearest).min(axis=1)
    np.testing.assert_allclose(method.uncertainty(pool, state), -other / (own + 1e-12), rtol=1e-5)
    expected = softmax(pool.logits.astype(float), axis=2)
    np.testing.assert_allclose(np.exp(method.log_probs(pool, state)), expected, atol=1e-12)


def test_an_example_outside_the_dense_part_of_its_class_is_no_neighbour() -> None:
    features = np.concatenate([np.zeros((14, 2)), [[100.0, 0.0]], np.full((15, 2), 50.0)])
    features = (features + np.linspace(0, 0.1, 30)[:, None]).astype(np.float32)
    labels = np.repeat([0, 1], 15)
    method = confidences.build("gonsior2022/trust_score")
    state = method.calibrate(outputs(np.zeros((30, 2)), features), labels)
    assert 100.0 not in np.round(state["features"])
    assert (state["labels"] == 0).sum() == 13, "the 90th percentile of 15 radii is at position 12.6"
    # The point lies on the dropped example of class 0; without the filter it would be trusted without end.
    at = outputs([[1.0, 0.0]], np.array([[100.0, 0.0]], dtype=np.float32))
    assert -method.uncertainty(at, state)[0] < 1


@given(st.integers(1, 10), st.integers(0, 100))
def test_a_class_of_ten_or_fewer_loses_no_example(n: int, seed: int) -> None:
    # The radius is then the distance to the farthest, and the two farthest from each other share the greatest one.
    features = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    state = confidences.build("gonsior2022/trust_score").calibrate(
        outputs(np.zeros((n, 2)), features), np.zeros(n, dtype=np.int64)
    )
    assert len(state["labels"]) == n


def test_a_trust_score_is_finite_on_a_labelled_example_and_without_a_rival_class() -> None:
    features = np.array([[0.0, 0.0], [1.0, 1.0], [4.0, 4.0]], dtype=np.float32)
    method = confidences.build("gonsior2022/trust_score")
    state = method.calibrate(outputs(np.zeros((3, 2)), features), np.array([0, 0, 1]))
    same = method.uncertainty(outputs([[5.0, 0.0]] * 3, features), state)
    assert np.isfinite(same).all()
    assert same[0] < -1e11
    alone = method.calibrate(outputs(np.zeros((3, 2)), features), np.zeros(3, dtype=np.int64))
    assert np.isfinite(method.uncertainty(outputs([[5.0, 0.0], [0.0, 5.0], [1.0, 0.0]], features), alone)).all()


def test_the_strategy_asks_first_where_the_trust_score_is_lowest() -> None:
    pool, labelled, labels = trust_case()
    method = confidences.build("gonsior2022/trust_score")
    trust = -method.uncertainty(pool, method.calibrate(labelled, labels))
    probs = np.exp(method.log_probs(pool))
    assert order("trust_score", view(probs, trust=trust)) == np.argsort(trust).tolist()
