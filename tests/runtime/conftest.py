"""A classifier for pools beyond memory."""

from pathlib import Path

import pytest

from tests.model import tiny

CLASSES = ["zero", "one", "two", "=three"]


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock classifier that nobody has trained."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from al_ray.model.encoder import quiet

    source = tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")
    folder = source.with_name("classifier")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(source, id2label=dict(enumerate(CLASSES)))
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder
