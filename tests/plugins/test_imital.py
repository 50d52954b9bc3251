"""ImitAL: the policy, what it sees, its weights, and that it learned something."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ttest_rel
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.core import distances
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream, tie_keys
from al_ray.core.types import LabeledSet, PoolView, Ranking
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.model import imital as training
from al_ray.registry import option_of
from al_ray.strategy import imital as module
from al_ray.strategy import strategies
from al_ray.strategy.imital import INPUTS, SHIPPED_SHA256, Encoding, ImitAL, Policy, decode_policy, read_policy
from al_ray.study.spec import CellSpec, make_spec, read_spec

ROOT = Path(__file__).parents[2]
COLUMN = {name: at for at, name in enumerate(INPUTS)}
TINY = training.TrainingSettings(n_pools=2, seed=3, n_rounds=2, n_lists=2, n_listed=6, n_hidden=8, n_epochs=3)


def pool_of(
    n: int = 60, n_labeled: int = 9, n_classes: int = 3, n_features: int = 5, n_draws: int = 1, seed: int = 0
) -> PoolView:
    rng = np.random.default_rng(seed)
    return PoolView(
        ids=10 + 3 * np.arange(n),
        log_probs=log_softmax(rng.normal(size=(n, n_draws, n_classes)) * 2),
        features=rng.normal(size=(n, n_features)),
        labeled=LabeledSet(ids=100_000 + np.arange(n_labeled), labels=rng.integers(n_classes, size=n_labeled)),
        labeled_log_probs=log_softmax(rng.normal(size=(n_labeled, n_draws, n_classes))),
        labeled_features=rng.normal(size=(n_labeled, n_features)),
    )


def query(pool: PoolView, n: int, strategy: ImitAL | None = None, seed: int = 0) -> list[int]:
    strategy = strategy or ImitAL()
    ranking = rank(pool.ids, strategy.score(pool, stream(seed, "score")), seed)
    return strategy.pick(pool, ranking, n, stream(seed, "pick")).tolist()


def plain_inputs(pool: PoolView, chosen: list[int]) -> np.ndarray:
    """Work out the inputs of all candidates one by one, with scipy's distances in float64."""
    reference = pool.features[np.argsort(tie_keys(pool.ids, 0))[:500]]
    is_reference = np.isin(pool.ids, pool.ids[np.argsort(tie_keys(pool.ids, 0))[:500]])
    pairs = pdist(reference)

    def share(distance: float) -> float:
        return np.log1p(500 * np.mean(pairs < distance * (1 - 1e-5))) / np.log1p(500)

    probs = np.exp(pool.log_probs).mean(axis=1)
    n_classes = probs.shape[1]
    predicted = probs.argmax(axis=1)
    tops = np.sort(probs, axis=1)
    margins = 1 - (tops[:, -1] - tops[:, -2])
    rows = []
    for row in range(len(pool)):
        to_labeled = cdist(pool.features[[row]], pool.labeled_features)[0]
        to_reference = cdist(pool.features[[row]], reference)[0]
        others = np.sort(to_reference)[1:] if is_reference[row] else np.sort(to_reference)
        to_asked = np.append(to_labeled, cdist(pool.features[[row]], pool.features[chosen])[0] if chosen else [])
        labeled_share = n_classes * np.mean(pool.labeled.labels == predicted[row])
        predicted_share = n_classes * np.mean(predicted == predicted[row])
        per_class = len(pool.labeled) / n_classes
        rows.append(
            {
                "least_confidence": (1 - tops[row, -1]) / (1 - 1 / n_classes),
                "margin": margins[row],
                "entropy": -(probs[row] * np.log(probs[row])).sum() / np.log(n_classes),
                "margin_rank": np.mean(margins < margins[row] - 1e-12),
                "mean_to_labeled": share(to_labeled.mean()),
                "nearest_labeled": share(to_labeled.min()),
                "mean_to_pool": share(to_reference.mean()),
                "sparsity": share(others[:10].mean()),
                "class_labeled": labeled_share / (1 + labeled_share),
                "class_predicted": predicted_share / (1 + predicted_share),
                "labels_per_class": per_class / (per_class + 10),
                "pool_margin": margins.mean(),
                "nearest_asked": share(to_asked.min()),
                "class_in_batch": np.mean(predicted[chosen] == predicted[row]) if chosen else 0.0,
            }
        )
    return np.array([[row[name] for name in INPUTS] for row in rows])


# --- what the policy sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "n_classes", "n_draws", "dtype"),
    [(60, 3, 1, np.float64), (60, 3, 4, np.float32), (620, 2, 1, np.float32), (8, 10, 2, np.float64)],
)
def test_the_inputs_are_those_of_a_plain_computation_while_the_batch_grows(n, n_classes, n_draws, dtype) -> None:
    pool = pool_of(n, n_classes=n_classes, n_draws=n_draws)
    pool = replace(pool, features=pool.features.astype(dtype), labeled_features=pool.labeled_features.astype(dtype))
    encoding = Encoding(pool, np.arange(n))
    for row in (None, 4, 0, 7):
        if row is not None:
            encoding.choose(row)
        # A mean distance in float32 may fall on the other side of one pair, which moves its share a little.
        np.testing.assert_allclose(encoding.inputs, plain_inputs(pool, encoding.chosen), atol=1e-4)


def test_distances_in_blocks_are_those_of_scipy_and_zero_between_equal_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK_VALUES", 40)
    rng = np.random.default_rng(7)
    points, others = rng.normal(size=(23, 6)), rng.normal(size=(9, 6))
    points[5] = others[3]
    blocks = list(distances.distance_blocks(points, others))
    assert [len(found) for _, found in blocks] == [4, 4, 4, 4, 4, 3]
    found = np.concatenate([block for _, block in blocks])
    np.testing.assert_allclose(found, cdist(points, others), atol=1e-5)
    assert found[5, 3] == 0


def test_some_candidates_are_seen_as_they_are_among_all() -> None:
    pool, rows = pool_of(700), np.array([650, 3, 77, 12])
    np.testing.assert_allclose(
        Encoding(pool, rows).inputs, Encoding(pool, np.arange(700)).inputs[rows], atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("n_classes", range(2, 11))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inputs_lie_between_zero_and_one_whatever_the_classes(n_classes: int, dtype) -> None:
    pool = pool_of(n_classes=n_classes)
    for scale in (1.0, 1e4):
        logits = np.random.default_rng(1).normal(size=(60, 1, n_classes)) * scale
        for log_probs in (log_softmax(logits), log_softmax(np.eye(n_classes)[np.zeros(60, int)][:, None] * scale)):
            view = replace(pool, log_probs=log_probs.astype(dtype), features=pool.features.astype(dtype))
            encoding = Encoding(view, np.arange(60))
            encoding.choose(3)
            assert encoding.inputs.min() >= 0
            assert encoding.inputs.max() <= 1 + 1e-6
            assert len(set(query(view, 20))) == 20


@pytest.mark.parametrize("points", ["one point", "zero", "one feature", "three points"])
def test_pools_without_shape_are_queried_too(points: str) -> None:
    pool = pool_of()
    rng = np.random.default_rng(2)
    features = {
        "one point": np.tile(rng.normal(size=(1, 5)), (60, 1)),
        "zero": np.zeros((60, 5)),
        "one feature": rng.normal(size=(60, 1)),
        "three points": rng.normal(size=(3, 5))[rng.integers(3, size=60)],
    }[points]
    view = replace(pool, features=features, labeled_features=pool.labeled_features[:, : features.shape[1]])
    assert np.isfinite(Encoding(view, np.arange(60)).inputs).all()
    assert len(set(query(view, 60))) == 60


def test_without_labels_all_is_far_and_a_pool_of_one_is_asked_whole() -> None:
    unlabeled = pool_of(n_labeled=0)
    inputs = Encoding(unlabeled, np.arange(60)).inputs
    far = [COLUMN[name] for name in ("mean_to_labeled", "nearest_labeled", "nearest_asked")]
    np.testing.assert_array_equal(inputs[:, far], 1.0)
    np.testing.assert_array_equal(inputs[:, COLUMN["class_labeled"]], 0.0)
    assert len(set(query(unlabeled, 25))) == 25
    assert query(pool_of(1), 1) == [10]
    assert query(pool_of(1, n_labeled=0), 1) == [10]


def test_neither_scale_nor_place_nor_direction_of_features_nor_the_names_of_classes_change_the_query() -> None:
    pool = pool_of(200, n_features=6)
    asked = query(pool, 12)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    other_classes = np.array([2, 0, 1])  # class c is called other_classes[c] now
    for view in (
        replace(pool, features=pool.features * 1024, labeled_features=pool.labeled_features * 1024),
        replace(pool, features=pool.features + 0.5, labeled_features=pool.labeled_features + 0.5),
        replace(pool, features=pool.features @ rotation, labeled_features=pool.labeled_features @ rotation),
        replace(
            pool,
            features=np.pad(pool.features, ((0, 0), (0, 9))),
            labeled_features=np.pad(pool.labeled_features, ((0, 0), (0, 9))),
        ),
        replace(
            pool,
            log_probs=pool.log_probs[:, :, np.argsort(other_classes)],
            labeled=LabeledSet(ids=pool.labeled.ids, labels=other_classes[pool.labeled.labels]),
        ),
    ):
        assert query(view, 12) == asked


# --- the policy ------------------------------------------------------------------------------------------------------


def test_the_forward_pass_is_that_of_torch() -> None:
    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Linear(14, 9), torch.nn.ReLU(), torch.nn.Linear(9, 7), torch.nn.ReLU(), torch.nn.Linear(7, 1)
    ).double()
    layers = tuple(
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in network
        if isinstance(layer, torch.nn.Linear)
    )
    inputs = np.random.default_rng(0).random((50, 14))
    expected = network(torch.from_numpy(inputs))[:, 0].detach().numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(Policy(layers).scores(inputs), expected, atol=6e-7)


def test_the_batch_is_what_a_plain_greedy_choice_gives() -> None:
    pool, policy, chosen = pool_of(80), read_policy("v1", SHIPPED_SHA256), []
    for _ in range(10):
        scores = policy.scores(plain_inputs(pool, chosen))
        scores[chosen] = -np.inf
        first, second = np.sort(scores)[:-3:-1]
        assert first - second > 1e-4, "two candidates are too much alike for a comparison; take another pool"
        chosen.append(int(scores.argmax()))
    assert query(pool, 10) == pool.ids[chosen].tolist()


def test_equal_candidates_are_settled_by_the_ranking() -> None:
    pool = pool_of(60)
    alike = replace(pool, features=np.ones((60, 5)), log_probs=np.repeat(pool.log_probs[:1], 60, axis=0))
    order = np.random.default_rng(4).permutation(alike.ids)
    asked = ImitAL().pick(alike, Ranking(ids=order, scores=np.zeros(60)), 9, stream(0, "pick"))
    assert asked.tolist() == order[:9].tolist()


def test_no_more_candidates_are_looked_at_than_the_option_says() -> None:
    pool, strategy = pool_of(300), ImitAL(max_candidates=12)
    ranking = rank(pool.ids, strategy.score(pool, stream(0, "score")), 0)
    draws = [set(strategy.pick(pool, ranking, 12, stream(seed, "pick")).tolist()) for seed in range(400)]
    assert all(len(each) == 12 for each in draws)
    # Each of 300 is drawn in 12 / 300 of 400 rounds: 16 times, with a standard deviation of 3.9.
    counts = np.array([sum(i in each for each in draws) for i in pool.ids.tolist()])
    assert counts.sum() == 400 * 12
    assert counts.min() > 2
    assert counts.max() < 36
    assert counts.var() == pytest.approx(400 * 0.04 * 0.96, rel=0.35)
    assert len(set(query(pool, 40, strategy))) == 40, "a query may be larger"


def test_no_more_than_what_the_filters_left_is_asked() -> None:
    pool, strategy = pool_of(60), ImitAL()
    ranking = rank(pool.ids, strategy.score(pool, stream(0, "score")), 0)
    left = Ranking(ids=ranking.ids[20:], scores=ranking.scores[20:])
    asked = strategy.pick(pool.take(left.ids), left, 40, stream(0, "pick"))
    assert sorted(asked.tolist()) == sorted(left.ids.tolist())


# --- weights ---------------------------------------------------------------------------------------------------------


def test_the_weights_that_come_with_al_ray_are_small_and_say_how_they_were_made() -> None:
    data = Path(module.__file__).with_name("imital_v1.safetensors").read_bytes()
    assert len(data) < 1_000_000
    assert hashlib.sha256(data).hexdigest() == SHIPPED_SHA256
    told = module.told_by(data)
    assert told["format"] == module.FORMAT
    assert told["license"] == "Apache-2.0"
    settings = training.TrainingSettings(**told["settings"])
    assert told["command"] == f"al-ray train-imital --pools {settings.n_pools} --seed {settings.seed}"
    assert settings == training.TrainingSettings(n_pools=settings.n_pools, seed=settings.seed), "not of the command"


def own(tmp_path: Path, data: bytes) -> ImitAL:
    path = tmp_path / "own.safetensors"
    path.write_bytes(data)
    return ImitAL(weights=str(path), sha256=hashlib.sha256(data).hexdigest())


def test_own_weights_are_used_and_are_another_study(tmp_path: Path) -> None:
    shipped = Path(module.__file__).with_name("imital_v1.safetensors").read_bytes()
    tensors = load(shipped)
    last = "layers.2.weight"
    strategy = own(tmp_path, save({**tensors, last: -tensors[last]}, {module.METADATA: '{"format": 1}'}))
    pool = pool_of()
    bias = float(tensors["layers.2.bias"][0])
    mirrored = 2 * bias - ImitAL().score(pool, stream(0, "score"))
    np.testing.assert_allclose(strategy.score(pool, stream(0, "score")), mirrored, atol=3e-6)
    assert strategies.build(option_of(strategy)) == strategy
    known = [spec_of(each) for each in ("imital", option_of(strategy), {**option_of(strategy), "sha256": "1" * 64})]
    assert len({spec.fingerprint() for spec in known}) == 3
    assert known[0].to_json()["strategy"]["sha256"] == SHIPPED_SHA256, "what the weights are belongs to what a cell is"
    assert read_spec(known[1].to_json()).strategy == strategy


def spec_of(strategy: Any) -> CellSpec:
    values = {"dataset": "tickets", "model": "minilm", "finetune": {"frozen_layers": "all"}, "seed": 1}
    sizes = {"initial_size": 25, "query_size": 25, "rounds": 2, "max_tokens": 60}
    return make_spec({**values, **sizes, "strategy": strategy}, "a test")


def test_other_bytes_than_were_named_are_refused(tmp_path: Path) -> None:
    pool, shipped = pool_of(), Path(module.__file__).with_name("imital_v1.safetensors").read_bytes()
    strategy = own(tmp_path, save(load(shipped), {module.METADATA: '{"format": 1}'}))
    Path(strategy.weights).write_bytes(shipped)
    with pytest.raises(ConfigError, match=rf"have the SHA-256 {SHIPPED_SHA256}, but {strategy.sha256} was named"):
        strategy.score(pool, stream(0, "score"))
    Path(strategy.weights).unlink()
    with pytest.raises(ConfigError, match=r"own.safetensors of imital cannot be read \(No such file or directory\)"):
        strategy.score(pool, stream(0, "score"))


def test_shipped_weights_that_were_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "imital.py"))
    (tmp_path / "imital_v1.safetensors").write_bytes(b"other")
    read_policy.cache_clear()
    with pytest.raises(ConfigError, match=r"imital_v1.safetensors of imital have the SHA-256 .* Install al_ray again"):
        ImitAL().score(pool_of(), stream(0, "score"))


def test_what_is_no_policy_is_refused(tmp_path: Path) -> None:
    for data, message in (
        (b"not a policy at all", "is not safetensors"),
        (
            save({"layers.0.weight": np.ones((1, 14), np.float32)}),
            "weights for imital of the format None, this al_ray reads 1",
        ),
        (save({"x": np.ones(1)}, {module.METADATA: '{"format": 0}'}), "weights for imital of the format 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            own(tmp_path, data).score(pool_of(), stream(0, "score"))


def test_a_path_needs_its_hash_and_has_to_be_absolute() -> None:
    for options, message in (
        ({"weights": "v2"}, r"weights is 'v2', it must be 'v1' or the absolute path of a file"),
        ({"weights": "own.safetensors", "sha256": "0" * 64}, "it must be 'v1' or the absolute path"),
        ({"weights": "/own.safetensors"}, r"must be the file's SHA-256 in 64 lower-case"),
        ({"weights": "/own.safetensors", "sha256": "F" * 64}, r"must be the file's SHA-256 in 64 lower-case"),
        ({"sha256": "0" * 64}, r"sha256 is '0+' with weights 'v1'. Leave it out"),
        ({"max_candidates": 1}, r"max_candidates is 1, it must be at least 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            strategies.build("imital", **options)


def test_a_wheel_holds_the_weights(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for folder in ("al_ray", "al_ray/strategy"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    weights = "al_ray/strategy/imital_v1.safetensors"
    (tmp_path / weights).write_bytes((ROOT / weights).read_bytes())
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert hashlib.sha256(wheel.read(weights)).hexdigest() == SHIPPED_SHA256


# --- training --------------------------------------------------------------------------------------------------------


def test_the_same_training_gives_the_same_bytes_and_another_seed_others() -> None:
    small = replace(TINY, n_pools=1)
    one, two, other = (training.train(settings) for settings in (small, small, replace(small, seed=4)))
    assert one == two
    assert load(one).keys() == load(other).keys()
    assert any((load(one)[name] != load(other)[name]).any() for name in load(one))
    assert len(decode_policy(one, "one").layers) == 3


def test_the_expert_measures_what_scikit_learn_measures_when_a_label_is_added() -> None:
    from sklearn.linear_model import LogisticRegression

    pool = training.make_pool(5)
    known = np.random.default_rng(0).permutation(len(pool.labels))[:40]
    assert len(np.unique(pool.labels[known])) == pool.n_classes > 2
    candidates = np.setdiff1d(np.arange(len(pool.labels)), known)[:12]
    # scikit-learn leaves the intercept unpenalised; as a feature of ones it is penalised as ours is.
    x, test = (np.pad(each, ((0, 0), (0, 1)), constant_values=1.0) for each in (pool.features, pool.test_features))

    def accuracy(rows: np.ndarray) -> float:
        model = LogisticRegression(C=1 / pool.l2, fit_intercept=False, tol=1e-8, max_iter=10_000)
        return float(model.fit(x[rows], pool.labels[rows]).score(test, pool.test_labels))

    expected = [accuracy(np.append(known, each)) - accuracy(known) for each in candidates]
    assert np.std(expected) > 2e-3
    # L-BFGS stops a little early: an example or two of 1,000 on a border may fall to the other side.
    np.testing.assert_allclose(training._gains(pool, known, candidates), expected, atol=2.1e-3)


def test_a_policy_learns_to_rank_by_what_the_gain_hangs_on() -> None:
    rng = np.random.default_rng(6)
    inputs = rng.random((400, 20, 14))
    gains = 2 * inputs[:, :, 1] - inputs[:, :, 6] ** 2
    gains[:5] = 0.0  # lists of which nothing can be learned
    settings = replace(TINY, n_hidden=16, n_epochs=30)
    weights = training.fit_policy(training.Demonstration(inputs=inputs[:300], gains=gains[:300]), settings)
    policy = decode_policy(training.encode_policy(weights, settings), "learned")
    found = policy.scores(inputs[300:].reshape(-1, 14)).reshape(100, 20)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, gains[300:], strict=True)]
    assert min(correlations) > 0.9


def test_a_made_pool_can_be_learned_and_hangs_on_its_seed_alone() -> None:
    pools = [training.make_pool(seed) for seed in range(12)]
    assert len({pool.n_classes for pool in pools}) > 4
    assert len({pool.features.shape[1] for pool in pools}) > 6
    for pool in pools:
        assert pool.test_features.shape == (1000, pool.features.shape[1])
        np.testing.assert_allclose(np.vstack([pool.features, pool.test_features]).mean(axis=0), 0.0, atol=1e-4)
        assert 0.6 <= training._accuracy(pool, training._fit(pool, np.arange(len(pool.labels)))) <= 0.99
    np.testing.assert_array_equal(pools[3].features, training.make_pool(3).features)


def test_the_command_writes_weights_and_says_how_to_use_them(tmp_path: Path) -> None:
    target = tmp_path / "own.safetensors"
    done = CliRunner().invoke(app, ["train-imital", "--out", str(target), "--pools", "1", "--seed", "5"])
    assert done.exit_code == 0, done.output
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    assert f"strategy: {{name: imital, weights: {target}, sha256: {sha256}}}" in done.output
    assert training.TrainingSettings(**module.told_by(target.read_bytes())["settings"]) == training.TrainingSettings(
        n_pools=1, seed=5
    )
    assert len(set(query(pool_of(), 9, ImitAL(weights=str(target), sha256=sha256)))) == 9
    missing = CliRunner().invoke(app, ["train-imital", "--out", str(tmp_path / "no" / "file"), "--pools", "1"])
    assert missing.exit_code == 1
    assert "there is no folder" in missing.output
    folder = CliRunner().invoke(app, ["train-imital", "--out", str(tmp_path), "--pools", "1"])
    assert folder.exit_code == 1
    assert "which is a folder. Name a file in it" in " ".join(folder.output.split())


def test_it_learned_to_beat_random_queries_on_pools_that_it_never_saw() -> None:
    named = {name: strategies.build(name) for name in ("imital", "random")}
    means = {name: [] for name in named}
    for number in range(12):
        pool = training.make_pool(training.pool_seed(20_261_130, number))
        for name, strategy in named.items():
            means[name].append(np.mean(training.learning_curve(pool, strategy, number)[1:]))
    test = ttest_rel(means["imital"], means["random"], alternative="greater")
    assert test.pvalue < 0.01, f"imital {np.mean(means['imital']):.3f}, random {np.mean(means['random']):.3f}"
