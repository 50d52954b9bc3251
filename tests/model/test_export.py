"""An exported folder is stock: transformers opens it and gives the logits of the classifier that it was made of."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from al_ray.core.types import Sampling
from al_ray.errors import ModelError, StorageError
from al_ray.model.classifier import RoundClassifier
from al_ray.model.encoding import Encoding
from al_ray.model.export import check_exportable, export_classifier
from al_ray.model.finetune import FitSettings
from al_ray.model.frozen import FrozenClassifier
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.score import NOTE, ModelNote, TextScorer
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import tokenize_table
from al_ray.model.worker import SingleProcess
from tests.model import tiny
from tests.model.conftest import Save
from tests.model.tiny import ENCODERS

CLASSES = ("sport", "money, =1+1", "film")
NOTE_OF_ALL = ModelNote(class_names=CLASSES, max_tokens=40)
TABLE = tiny.toy_table(60, seed=3, first_id=100)
TEXTS: Mapping[int, str] = dict(zip(TABLE["id"].to_pylist(), TABLE["text"].to_pylist(), strict=True))
Pipe = Callable[[Path], Any]


@pytest.fixture
def pipe() -> Pipe:
    """Return a function that lets the library's own pipeline score all texts ``[n, n_classes]``."""

    def score(folder: Path) -> Any:
        from transformers import pipeline

        from al_ray.model.encoder import quiet

        with quiet():
            classify = pipeline("text-classification", model=str(folder), device="cpu")
        found = classify(list(TEXTS.values()), truncation=True, top_k=None)
        return np.array([[{each["label"]: each["score"] for each in of}[name] for name in CLASSES] for of in found])

    return score


def frozen(model: ResolvedModel, table: pa.Table = TABLE, max_tokens: int = 40, **options: Any) -> FrozenClassifier:
    """Fit the frozen learner to 40 texts."""
    recipe = FinetuneRecipe.of({"frozen_layers": "all", "solver": "lbfgs", **options})
    settings = FitSettings(recipe=recipe, precision="float32", n_classes=3, scoring_batch_size=16, seed=1)
    encoding: Any = Encoding(model=model, precision="float32", batch_size=16, output=recipe.features)
    features = encoding.encoder(torch.device("cpu"))(tokenize_table(table, model, max_tokens))
    ids = table["id"].to_numpy()
    classifier = FrozenClassifier(
        features={"pool": features, "test": features},
        ids={"pool": ids, "test": ids},
        settings=settings,
        worker=SingleProcess(),
    )
    classifier.finetune(tiny.labeled_of(tiny.split_of(table, model), range(min(40, len(table)))), round_index=1)
    return classifier


def fitted(model: ResolvedModel, **changes: Any) -> RoundClassifier:
    """Fine-tune a tiny model on 40 texts."""
    split = tiny.split_of(TABLE, model)
    classifier = tiny.classifier_of(Path(model.path), pool=split, **changes)
    classifier.finetune(tiny.labeled_of(split, range(40)), round_index=1)
    return classifier


def expected(classifier: RoundClassifier) -> Any:
    return classifier.predict("pool", TABLE["id"].to_numpy(), plain=True).logits[:, 0].astype(np.float64)


def softmax(logits: Any) -> Any:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def export(folder: Path, classifier: RoundClassifier, model: ResolvedModel, note: ModelNote = NOTE_OF_ALL) -> Any:
    return export_classifier(folder, classifier, model=model, note=note, examples=TEXTS)


MEAN = ("bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
FIRST_TOKEN = tuple(family for family in ENCODERS if family != "modernbert")


@pytest.mark.parametrize(
    ("family", "features"),
    [*((family, "mean") for family in MEAN), *((family, "first_token") for family in FIRST_TOKEN)],
)
def test_a_frozen_learner_leaves_as_a_stock_classifier(
    save: Save, tmp_path: Path, pipe: Pipe, family: str, features: str
) -> None:
    model = resolve_model(str(save(family)), None)
    classifier = frozen(model, features=features)
    check = export(tmp_path / "out", classifier, model)
    logits = expected(classifier)
    assert check.n == check.n_same == 60
    assert check.largest_difference < 1e-3
    np.testing.assert_allclose(pipe(tmp_path / "out"), softmax(logits), atol=1e-3)
    np.testing.assert_allclose(TextScorer.open(tmp_path / "out").logits([*TEXTS.values()]), logits, atol=1e-3)


def test_a_mean_is_right_too_for_texts_that_a_small_pool_does_not_resemble(bert: Path, tmp_path: Path) -> None:
    model = resolve_model(str(bert), None)
    small, whole = frozen(model, TABLE.slice(0, 12), features="mean"), frozen(model, features="mean")
    export_classifier(
        tmp_path / "out", small, model=model, note=NOTE_OF_ALL, examples={100: TEXTS[100]}
    )  # 12 texts in 32 dimensions
    weight = small.plain_weights()
    logits = whole.pool_features @ weight["weight"].numpy().T + weight["bias"].numpy()
    np.testing.assert_allclose(TextScorer.open(tmp_path / "out").logits([*TEXTS.values()]), logits, atol=1e-3)


@pytest.mark.parametrize("features", ["mean", "first_token"])
def test_a_head_on_principal_components_leaves_as_one_on_all_features(
    bert: Path, tmp_path: Path, features: str
) -> None:
    model = resolve_model(str(bert), None)
    classifier = frozen(model, features=features, n_components=6)
    check = export(tmp_path / "out", classifier, model)
    assert check.n == check.n_same == 60
    np.testing.assert_allclose(
        TextScorer.open(tmp_path / "out").logits([*TEXTS.values()]), expected(classifier), atol=1e-3
    )


@pytest.mark.parametrize("recipe", [{}, {"frozen_layers": 1}, {"frozen_layers": 2}, {"lora": {"rank": 2}}], ids=str)
@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet", "deberta-v2", "modernbert"])
def test_a_fine_tuned_model_leaves_with_the_layers_that_were_gone_and_without_adapters(
    save: Save, tmp_path: Path, pipe: Pipe, family: str, recipe: Any
) -> None:
    if "lora" in recipe:
        pytest.importorskip("peft")
    if family == "distilbert" and recipe.get("frozen_layers") == 2:
        pytest.skip("it has two layers")
    model = resolve_model(str(save(family, **tiny.DROPOUT.get(family, {}))), None)
    full = FinetuneRecipe.of({"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **recipe})
    classifier = fitted(model, recipe=full)
    export(tmp_path / "out", classifier, model)
    np.testing.assert_allclose(pipe(tmp_path / "out"), softmax(expected(classifier)), atol=1e-5)


def test_of_an_ensemble_its_first_member_leaves(bert: Path, tmp_path: Path, pipe: Pipe) -> None:
    model = resolve_model(str(bert), None)
    classifier = fitted(model, sampling=Sampling(n_members=2))
    export(tmp_path / "out", classifier, model)
    np.testing.assert_allclose(pipe(tmp_path / "out"), softmax(expected(classifier)), atol=1e-5)


def test_drawn_layers_that_are_frozen_leave_as_they_were_drawn(bert: Path, tmp_path: Path) -> None:
    model = resolve_model(str(bert), None)
    recipe = FinetuneRecipe.of({"epochs": 2, "learning_rate": 1e-3, "frozen_layers": 1})
    classifier = fitted(model, recipe=recipe, init="random")
    export_classifier(tmp_path / "out", classifier, model=model, init="random", note=NOTE_OF_ALL, examples=TEXTS)
    found = TextScorer.open(tmp_path / "out").logits([*TEXTS.values()])
    np.testing.assert_allclose(found, expected(classifier), atol=1e-4)


def test_a_fit_in_bf16_leaves_in_float32(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = resolve_model(str(bert), None)
    classifier = fitted(model, precision="bf16")
    check = export(tmp_path / "out", classifier, model)
    assert {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}
    assert 0 < check.largest_difference < 0.2


def test_the_folder_says_what_it_is_and_asks_for_no_code(bert: Path, tmp_path: Path) -> None:
    model = resolve_model(str(bert), None)
    note = ModelNote(
        class_names=CLASSES, max_tokens=12, temperature=2.0, n_calibrated=40, made_from={"project": "toys"}
    )
    export(tmp_path / "out", frozen(model, max_tokens=12), model, note)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", NOTE
    }  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {str(number): name for number, name in enumerate(CLASSES)}
    assert config["label2id"] == {name: number for number, name in enumerate(CLASSES)}
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert str(bert) not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.json"))
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 12
    assert ModelNote.read(tmp_path / "out") == note
    scorer = TextScorer.open(tmp_path / "out")
    texts = ["goal " * 30, "stock"]
    np.testing.assert_allclose(scorer.logits(texts[:1]), scorer.logits(["goal " * 10]), atol=1e-6)
    np.testing.assert_allclose(scorer.probabilities(texts), softmax(scorer.logits(texts) / 2), atol=1e-9)
    assert scorer.logits([]).shape == (0, 3)


def test_nothing_is_left_of_an_export_that_fails_and_nothing_is_written_over(bert: Path, tmp_path: Path) -> None:
    model = resolve_model(str(bert), None)
    classifier = frozen(model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds 1 files or folders already \(thesis.txt\). Name a new or empty"):
        export(tmp_path / "full", classifier, model)
    with pytest.raises(StorageError, match=r"thesis\.txt is a file"):
        export(tmp_path / "full" / "thesis.txt", classifier, model)
    other = resolve_model(str(tiny.save_bert(tmp_path / "other", seed=9)), None)
    with pytest.raises(ModelError, match=r"scores 60 texts of the pool otherwise .* logits differ by up to"):
        export(tmp_path / "new", classifier, other)
    assert {path.name for path in tmp_path.iterdir()} == {"full", "other"}
    (tmp_path / "empty").mkdir()
    export(tmp_path / "empty", classifier, model)
    assert (tmp_path / "empty" / "config.json").is_file()


@pytest.mark.parametrize(
    ("options", "family", "n_classes", "message"),
    [
        (
            {"features": "mean"},
            "mpnet",
            3,
            r"'features: mean' on mpnet cannot be exported.*use 'features: first_token'",
        ),
        ({"features": "first_token"}, "modernbert", 3, r"on modernbert use 'features: mean' or fine-tuning"),
        ({"features": "mean"}, "xlm", 3, r"on xlm use fine-tuning \(a number of 'frozen_layers', or 'lora'\)"),
        ({"features": "mean"}, "bert", 32, "32 classes are more than the 31 that"),
        ({"features": "first_token"}, "electra", 17, "17 classes are more than the 16 that"),
    ],
)
def test_what_cannot_be_exported_is_told_before_anybody_labels(
    options: Any, family: str, n_classes: int, message: str
) -> None:
    recipe = FinetuneRecipe.of({"frozen_layers": "all", **options})
    with pytest.raises(ModelError, match=message):
        check_exportable(recipe, family, n_classes=n_classes, n_features=32)
    check_exportable(FinetuneRecipe(), family, n_classes=n_classes, n_features=32)
    check_exportable(FinetuneRecipe.of({"frozen_layers": 2}), family, n_classes=n_classes, n_features=32)


def test_a_folder_without_a_head_or_with_another_note_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lack \d+ tensors, such as .*an encoder without a fitted head"):
        TextScorer.open(bert)
    model = resolve_model(str(bert), None)
    export(tmp_path / "out", frozen(model), model)
    ModelNote(class_names=("a", "b", "c"), max_tokens=3).write(tmp_path / "out")
    with pytest.raises(ModelError, match="They belong to two models"):
        TextScorer.open(tmp_path / "out")
    for text, message in (
        ("{", "is not what al_ray writes"),
        ('{"format": 2}', "has format 2, this al_ray reads 1"),
        ('{"format": 1, "class_names": ["a"], "max_tokens": 0}', "max_tokens is 0"),
        ('{"format": 1, "class_names": ["a"], "max_tokens": 3, "temperature": -1}', "temperature is -1"),
        ('{"format": 1, "class_names": ["a"], "max_tokens": 3, "odd": 1}', "odd"),
    ):
        (tmp_path / "out" / NOTE).write_text(text)
        with pytest.raises(ModelError, match=message):
            ModelNote.read(tmp_path / "out")


def test_any_classifier_of_transformers_scores_and_what_names_no_single_class_does_not(
    save: Save, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from al_ray.model.encoder import quiet

    def stock(family: str, **changes: Any) -> Path:
        folder, source = tmp_path / f"{family}{len(changes)}", save(family)
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=4, **changes)
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        return folder

    texts = [*TEXTS.values()]
    for family in ("bert", "gpt2", "modernbert"):
        scorer = TextScorer.open(stock(family))
        assert scorer.class_names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
        alone = np.concatenate([scorer.logits([text]) for text in texts[:8]])
        np.testing.assert_allclose(scorer.logits(texts)[:8], alone, atol=1e-4)
    with pytest.raises(ModelError, match=r"does not put each text into one class \(multi_label_classification, 4"):
        TextScorer.open(stock("bert", problem_type="multi_label_classification"))
