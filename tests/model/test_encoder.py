"""The weights at the start of a round: from the file, drawn where it has none, and checked against the texts."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from al_ray.errors import ModelError
from al_ray.model.encoder import Network, build_network, load_weights, read_encoder, readable
from al_ray.model.source import ResolvedModel, resolve_model
from tests.model import tiny


def built(folder: Path) -> tuple[Network, ResolvedModel]:
    model = resolve_model(str(folder), None)
    return build_network(model, 3, torch.device("cpu")), model


@pytest.mark.parametrize(("family", "head"), [("bert", 1), ("roberta", 2), ("distilbert", 2)])
def test_the_head_is_drawn_anew_each_round_and_the_encoder_is_the_file(
    family: str, head: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    network, model = built(folder)
    drawn = []
    for seed in (1, 2, 1):
        load_weights(network, model, "pretrained", seed)
        drawn.append({name: value.detach().clone() for name, value in network.named_parameters()})
    changed = {name for name, value in drawn[0].items() if not torch.equal(value, drawn[1][name])}
    assert len(changed) == head
    assert all("classifier" in name and name.endswith("weight") for name in changed)
    assert all(torch.equal(value, drawn[2][name]) for name, value in drawn[0].items())
    assert all((value == 0).all() for name, value in drawn[0].items() if "classifier" in name and "bias" in name)
    stored = load_file(folder / "model.safetensors")
    found = {name: value for name, value in network.model.base_model.named_parameters() if name in stored}
    assert len(found) > 20
    assert all(torch.equal(value, stored[name]) for name, value in found.items())


def test_random_weights_are_drawn_as_the_architecture_draws_them(bert: Path) -> None:
    network, model = built(bert)
    load_weights(network, model, "random", 7)
    for name, value in network.named_parameters():
        if "LayerNorm.weight" in name:
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        elif value.numel() > 300:
            # The tiny models have an initializer_range of 0.2.
            assert float(value.detach().std()) == pytest.approx(0.2, rel=0.2), name
    assert (network.word_embeddings.weight[0] == 0).all()


def test_a_checkpoint_without_a_pooler_gets_one_drawn(tmp_path: Path) -> None:
    folder = tiny.save_bert(tmp_path / "bare")
    kept = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    network, model = built(folder)
    load_weights(network, model, "pretrained", 1)
    assert float(network.model.bert.pooler.dense.weight.detach().std()) == pytest.approx(0.2, rel=0.2)


def test_a_checkpoint_without_a_layer_is_refused(tmp_path: Path) -> None:
    folder = tiny.save_bert(tmp_path / "gap")
    kept = {name: value for name, value in load_file(folder / "model.safetensors").items() if "layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model = resolve_model(str(folder), None)
    with pytest.raises(ModelError, match=r"lack 16 of the encoder's \d+ tensors \(such as 'encoder.layer.1."):
        read_encoder(model.path, model.sha256)


def test_texts_beyond_the_models_positions_are_refused(bert: Path) -> None:
    split = tiny.split_of(tiny.toy_table(8, seed=0, longest=60), resolve_model(str(bert), None), max_tokens=64)
    with pytest.raises(ModelError, match=r"has \d+ tokens, but model .* reads 40 at most. Set max_tokens to 40"):
        tiny.classifier_of(bert, pool=split)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save_bert(tmp_path / "quiet", seed=8)
    capfd.readouterr()
    split = tiny.split_of(tiny.toy_table(20, seed=0), resolve_model(str(folder), None))
    classifier = tiny.classifier_of(folder, pool=split)
    classifier.finetune(tiny.labeled_of(split, range(20)), round_index=1)
    classifier.predict("pool", split.ids)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_full_memory_is_not_the_fault_of_the_model_that_is_being_read(error: Exception, bert: Path) -> None:
    """A lane must learn of it as memory: else it would go on in a process that has none left."""
    with pytest.raises(type(error)) as raised, readable(resolve_model(str(bert), None)):
        raise error
    assert raised.value is error
