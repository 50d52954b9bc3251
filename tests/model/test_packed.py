"""The packed pass against transformers' own padded one: outputs and gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from al_ray.model.encoder import Network, build_network, load_weights, longest_text
from al_ray.model.finetune import used_words
from al_ray.model.packed import can_pack, pack, padded_forward
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from tests.model import tiny

CPU = torch.device("cpu")


def network_of(folder: Path) -> Network:
    model = resolve_model(str(folder), None)
    network = build_network(model, 3, CPU)
    load_weights(network, model, "pretrained", seed=5)
    return network


def batch_of(folder: Path, rows: list[int]) -> Any:
    split = tiny.split_of(tiny.toy_table(40, seed=9), resolve_model(str(folder), None))
    chosen = np.asarray(rows)
    return pack(split.gather(chosen), split.lengths[chosen], CPU)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("rows", [list(range(12)), [3], [7, 7, 7]])
def test_packed_outputs_are_those_of_the_padded_model(
    family: str, rows: list[int], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    network, batch = network_of(folder).eval(), batch_of(folder, rows)
    assert can_pack(network.model.config)
    with torch.no_grad():
        logits, first = network(batch)
        expected_logits, expected_first, _ = padded_forward(network.model, batch, network.model.config.pad_token_id)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first, expected_first, rtol=1e-4, atol=1e-5)
    assert logits.std() > 1e-3


@pytest.mark.parametrize(("family", "padding"), [("bert", "[PAD]"), ("roberta", "<pad>"), ("distilbert", "[PAD]")])
@pytest.mark.parametrize("together", [True, False])
def test_a_text_that_spells_out_the_padding_token_gives_what_transformers_gives(
    family: str, padding: str, together: bool, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    texts = [f"goal {padding} team score", "goal team score", f"{padding} {padding} a very old film {padding}"]
    table = pa.table({"id": [0, 1, 2], "label": [0, 1, 2], "text": texts})
    split = tiny.split_of(table, resolve_model(str(folder), None))
    network = network_of(folder).eval()
    pad_id = network.model.config.pad_token_id
    assert np.count_nonzero(split.tokens == pad_id) == 4
    for rows in [[0, 1, 2]] if together else [[0], [1], [2]]:
        batch = pack(split.gather(np.array(rows)), split.lengths[rows], CPU)
        with torch.no_grad():
            logits = network(batch)[0]
        for row, found in zip(rows, logits, strict=True):
            tokens = torch.from_numpy(split.tokens[split.offsets[row] : split.offsets[row + 1]].astype(np.int64))
            with torch.no_grad():
                expected = network.model(input_ids=tokens[None], attention_mask=torch.ones_like(tokens)[None]).logits
            torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


def test_a_spelt_out_padding_token_keeps_its_place_while_a_fit_renumbers_the_words(roberta: Path) -> None:
    texts = [f"goal <pad> team {word}" for word in tiny.TOPICS[1]]
    table = pa.table({"id": np.arange(4), "label": [0, 1, 2, 0], "text": texts})
    split, network = tiny.split_of(table, resolve_model(str(roberta), None)), network_of(roberta).eval()
    rows = np.arange(4)

    def logits(of: TokenizedSplit) -> torch.Tensor:
        with torch.no_grad():
            return network(pack(of.gather(rows), of.lengths[rows], CPU))[0]

    before = logits(split)
    with used_words(network, split) as words:
        torch.testing.assert_close(logits(words.split), before, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_packed_gradients_are_those_of_the_padded_model(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    network, batch = network_of(folder).eval(), batch_of(folder, list(range(10)))
    targets = torch.arange(10) % 3

    def gradients(logits: torch.Tensor) -> dict[str, torch.Tensor]:
        network.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}

    packed = gradients(network(batch)[0])
    padded = gradients(padded_forward(network.model, batch, network.model.config.pad_token_id)[0])
    assert packed.keys() == padded.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, padded[name], rtol=1e-3, atol=1e-6, msg=name)


def test_the_attention_for_gpus_gives_what_the_one_for_cpus_gives(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from al_ray.model import packed

    network, batch = network_of(bert).eval(), batch_of(bert, list(range(12)))
    with torch.no_grad():
        written_out = network(batch)[0]
        monkeypatch.setattr(packed, "_attention_cpu", packed._attention)
        torch.testing.assert_close(network(batch)[0], written_out, rtol=1e-4, atol=1e-5)


def test_other_architectures_go_the_padded_way(distilbert: Path) -> None:
    network = network_of(distilbert).eval()
    assert not can_pack(network.model.config)
    together = network(batch_of(distilbert, [0, 1, 2]))[0]
    alone = torch.cat([network(batch_of(distilbert, [row]))[0] for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_an_encoder_with_relative_positions_is_not_packed(bert: Path) -> None:
    config = network_of(bert).model.config
    config.position_embedding_type = "relative_key"
    assert not can_pack(config)


@pytest.mark.parametrize(("family", "limit"), [("bert", 40), ("roberta", 40), ("distilbert", 40)])
def test_the_longest_text_is_what_positions_allow(family: str, limit: int, request: pytest.FixtureRequest) -> None:
    # RoBERTa's 42 positions start at 2, behind the padding id 1.
    assert longest_text(network_of(request.getfixturevalue(family))) == limit
