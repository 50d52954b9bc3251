"""What a classifier's folder says of texts beyond its classes: probabilities, and what its head reads."""

from pathlib import Path

import numpy as np
import pytest

from al_ray.errors import ModelError
from al_ray.model.score import ModelNote, TextScorer, check_features
from al_ray.model.source import resolve_model
from tests.model import tiny

TEXTS = ["the goal", "a very new match of the old team said profit", "film", "the actor was not seen today", "bank"]


def save_classifier(folder: Path, family: str) -> Path:
    """Write a classifier of three classes that nobody has trained."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from al_ray.model.encoder import quiet

    source = tiny.save_family(folder / "encoder", family)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        AutoModelForSequenceClassification.from_pretrained(source, num_labels=3).save_pretrained(folder / "classifier")
        AutoTokenizer.from_pretrained(source).save_pretrained(folder / "classifier")
    return folder / "classifier"


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "deberta-v2", "modernbert"])
def test_features_are_the_encoder_s_output_that_the_head_reads(family: str, tmp_path: Path) -> None:
    """One text at a time without padding, by the library's own encoder."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = save_classifier(tmp_path, family)
    check_features(resolve_model(str(folder), None))
    scorer = TextScorer.open(folder)
    probs, features = scorer.probabilities_and_features(TEXTS)
    np.testing.assert_allclose(probs, scorer.probabilities(TEXTS), atol=1e-5)
    assert features.shape == (5, scorer.n_features)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, found in zip(TEXTS, features, strict=True):
        with torch.inference_mode():
            encoded = tokenizer(text, return_tensors="pt")
            output = model.base_model(**encoded).last_hidden_state[0]
        expected = output.mean(dim=0) if family == "modernbert" else output[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_no_text_has_no_features_but_their_width_and_a_temperature_acts(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, "bert")
    scorer = TextScorer.open(folder)
    probs, features = scorer.probabilities_and_features([])
    assert probs.shape == (0, 3)
    assert features.shape == (0, 32)
    ModelNote(class_names=scorer.class_names, max_tokens=40, temperature=3.0).write(folder)
    flatter = TextScorer.open(folder)
    np.testing.assert_allclose(flatter.probabilities_and_features(TEXTS)[0], flatter.probabilities(TEXTS), atol=1e-6)
    assert flatter.probabilities(TEXTS).max() < scorer.probabilities(TEXTS).max()


def test_a_head_that_reads_something_else_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, "gpt2")
    with pytest.raises(ModelError, match=r"gpt2 is a decoder"):
        check_features(resolve_model(str(folder), None))
    with pytest.raises(ModelError, match=r"gpt2 is a decoder"):
        TextScorer.open(folder).probabilities_and_features(TEXTS)
