"""The pass without padding, and with little of it, against transformers' own padded one: outputs and gradients."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from al_ray.model.encoder import Network, build_network, load_weights, longest_text
from al_ray.model.finetune import used_words
from al_ray.model.packed import PACKED_TYPES, TokenBatch, can_pack, length_groups, pack
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit
from tests.model import tiny
from tests.model.conftest import Save
from tests.model.tiny import ENCODERS

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


def padded(network: Network, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Let transformers run the classifier over one padded batch: logits, first token, mean of the tokens."""
    shape = (len(batch.lengths), batch.width)
    tokens, mask = torch.full(shape, network.pad_id), torch.zeros(shape, dtype=torch.int64)
    tokens.view(-1)[batch.token_slots] = batch.tokens
    mask.view(-1)[batch.token_slots] = 1
    hidden = network.model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    mean = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return network.model(input_ids=tokens, attention_mask=mask).logits, hidden[:, 0], mean


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("rows", [list(range(40)), [3], [7, 7, 7]])
def test_outputs_are_those_of_the_padded_model(save: Save, family: str, rows: list[int]) -> None:
    folder = save(family)
    network, batch = network_of(folder).eval(), batch_of(folder, rows)
    assert can_pack(network.model.config) == network.packs == (family in PACKED_TYPES)
    with torch.no_grad():
        found = network(batch)[0], network.encode(batch, "first_token"), network.encode(batch, "mean")
        for mine, theirs in zip(found, padded(network, batch), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert found[0].std() > 1e-3


@pytest.mark.parametrize("family", ENCODERS)
def test_the_head_alone_gives_what_it_gives_behind_the_encoder(
    save: Save, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, batch = network_of(save(family)).eval(), batch_of(save(family), list(range(12)))
    with torch.no_grad():
        logits, features = network(batch)
        with monkeypatch.context() as without:
            without.setattr(type(network.model.base_model), "forward", None)
            torch.testing.assert_close(network.head(features), logits, rtol=0, atol=0)
        torch.testing.assert_close(network(batch)[0], logits, rtol=0, atol=0)


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
    with used_words(network, split, np.arange(len(split))) as words:
        torch.testing.assert_close(logits(words.split), before, rtol=0, atol=0)


@pytest.mark.parametrize("family", ENCODERS)
def test_gradients_are_those_of_the_padded_model(save: Save, family: str) -> None:
    network, batch = network_of(save(family)).eval(), batch_of(save(family), list(range(40)))
    targets = torch.arange(40) % 3

    def gradients(logits: torch.Tensor) -> dict[str, torch.Tensor]:
        network.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}

    found, expected = gradients(network(batch)[0]), gradients(padded(network, batch)[0])
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_an_encoder_with_relative_positions_is_not_packed(bert: Path) -> None:
    config = network_of(bert).model.config
    config.position_embedding_type = "relative_key"
    assert not can_pack(config)


@pytest.mark.parametrize(("family", "limit"), [("bert", 40), ("roberta", 40), ("distilbert", 40)])
def test_the_longest_text_is_what_positions_allow(family: str, limit: int, request: pytest.FixtureRequest) -> None:
    # RoBERTa's 42 positions start at 2, behind the padding id 1.
    assert longest_text(network_of(request.getfixturevalue(family))) == limit


def test_a_batch_of_neighbouring_lengths_is_one_group_and_one_of_very_different_lengths_is_not() -> None:
    assert len(length_groups(np.array([20, 21, 20, 22]))) == 1
    lengths = np.array([8, 120, 9, 8, 110, 10, 8, 9])
    groups = [group.tolist() for group in length_groups(lengths)]
    assert groups == [[0, 3, 6, 2, 7, 5], [4, 1]]


@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=9))
def test_no_other_way_to_cut_a_batch_costs_less(lengths: list[int]) -> None:
    def cost(groups: list[list[int]]) -> float:
        widths = [max(group) for group in groups]
        return sum(30 + len(group) * w * (1 + w / 1500) for group, w in zip(groups, widths, strict=True))

    rising = sorted(lengths)
    cuts = itertools.product([False, True], repeat=len(lengths) - 1)
    every = [[list(part) for part in np.split(rising, np.flatnonzero(cut) + 1)] for cut in cuts]
    chosen = [np.array(lengths)[group].tolist() for group in length_groups(np.array(lengths))]
    assert [length for group in chosen for length in group] == rising
    assert cost(chosen) == pytest.approx(min(map(cost, every)))
