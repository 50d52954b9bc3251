"""Encodings: what the pretrained encoder makes of texts, the same in whatever blocks it is computed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from al_ray.errors import ModelError
from al_ray.model import encoding as encoding_module
from al_ray.model.encoding import Encoding, encode_table
from al_ray.model.source import resolve_model
from al_ray.model.tokens import TokenizedSplit, tokenize_table
from tests.model import tiny

CPU = torch.device("cpu")


def encoding_of(folder: Path, **changes: Any) -> Encoding:
    usual: dict[str, Any] = {"precision": "float32", "batch_size": 16, "output": "mean"}
    return Encoding(model=resolve_model(str(folder), None), **{**usual, **changes})


def tokens_of(folder: Path, n: int = 40) -> pa.Table:
    return tokenize_table(tiny.toy_table(n, seed=3), resolve_model(str(folder), None), 40)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_encodings_are_mean_and_first_token_of_the_pretrained_encoder_s_output(
    family: str, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModel

    folder = request.getfixturevalue(family)
    table = tokens_of(folder)
    means = encode_table(table, encoding_of(folder).encoder(CPU))
    firsts = encode_table(table, encoding_of(folder, output="first_token").encoder(CPU))
    encoder, texts = AutoModel.from_pretrained(folder).eval(), TokenizedSplit.from_table(table)
    for row in range(0, len(texts), 7):
        tokens = torch.from_numpy(texts.gather(np.array([row])).astype(np.int64))[None]
        with torch.no_grad():
            output = encoder(input_ids=tokens).last_hidden_state[0]
        unit = torch.nn.functional.normalize(output.mean(dim=0), dim=0)
        np.testing.assert_allclose(means[row], unit.numpy(), atol=1e-5)
        np.testing.assert_allclose(firsts[row], output[0].numpy(), atol=1e-4)


def test_a_block_is_encoded_the_same_whatever_stands_in_the_others(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_module, "ENCODED_ROWS", 16)
    table, encode = tokens_of(bert), encoding_of(bert).encoder(CPU)
    whole = encode_table(table, encode)
    np.testing.assert_array_equal(whole[16:32], encode(table.slice(16, 16)))
    np.testing.assert_array_equal(whole[:32], encode_table(table.slice(0, 32), encode))
    assert encode_table(table.slice(0, 0), encode).shape == (0, whole.shape[1])


def test_random_weights_hang_on_the_seed_and_pretrained_ones_do_not(bert: Path) -> None:
    table = tokens_of(bert)

    def encoded(**changes: Any) -> Any:
        return encode_table(table, encoding_of(bert, **changes).encoder(CPU))

    np.testing.assert_array_equal(encoded(seed=1), encoded(seed=2))
    assert encoding_of(bert, seed=1).key == encoding_of(bert, seed=2).key
    assert np.abs(encoded(init="random", seed=1) - encoded(init="random", seed=2)).max() > 1e-2
    assert encoding_of(bert, init="random", seed=1).key != encoding_of(bert, init="random", seed=2).key


def test_whatever_changes_the_numbers_changes_the_key(bert: Path, roberta: Path) -> None:
    one = encoding_of(bert)
    others = [
        encoding_of(roberta),
        *(replace(one, **change) for change in ({"precision": "bf16"}, {"batch_size": 8}, {"output": "first_token"})),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5


def test_bf16_is_near_float32(bert: Path) -> None:
    table = tokens_of(bert)
    exact, rounded = (
        encode_table(table, encoding_of(bert, precision=precision).encoder(CPU)) for precision in ("float32", "bf16")
    )
    assert 0 < np.abs(exact - rounded).max() < 0.05


def test_another_model_under_the_same_name_is_refused(bert: Path) -> None:
    found = resolve_model(str(bert), None)
    planned = Encoding(model=replace(found, sha256="0" * 64), precision="float32", batch_size=8, output="mean")
    with pytest.raises(ModelError, match=r"has weights with SHA-256 .* on this machine.*Put the same files on every"):
        planned.encoder(CPU)
