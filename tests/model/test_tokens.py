"""Token arrays against the tokenizer's own call, and their way through Arrow."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from al_ray.errors import ModelError
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit, load_tokenizer, tokenize, tokenize_table
from tests.model import tiny


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_tokens_are_those_of_the_tokenizer_with_truncation(family: str, request: pytest.FixtureRequest) -> None:
    model = resolve_model(str(request.getfixturevalue(family)), None)
    texts = [*tiny.toy_table(30, seed=0)["text"].to_pylist(), "", "?", "Unseen goals today " * 9]
    expected = AutoTokenizer.from_pretrained(model.path)(texts, truncation=True, max_length=9)["input_ids"]
    assert tokenize(texts, load_tokenizer(model, 9)).to_pylist() == expected
    assert max(map(len, expected)) == 9
    assert min(map(len, expected)) == 2


@pytest.mark.parametrize(
    ("family", "spelt", "special"), [("bert", "[PAD] [SEP] goal [MASK]", 3), ("roberta", "<pad> </s> goal <mask>", 2)]
)
def test_a_special_token_spelt_out_in_a_text_is_that_token_as_in_transformers(
    family: str, spelt: str, special: int, request: pytest.FixtureRequest
) -> None:
    model = resolve_model(str(request.getfixturevalue(family)), None)
    expected = AutoTokenizer.from_pretrained(model.path)([spelt])["input_ids"]
    found = tokenize([spelt], load_tokenizer(model, 30)).to_pylist()
    assert found == expected
    assert found[0][2] == special, "the end of a text, in the middle of it"


def test_padding_and_truncation_of_the_tokenizer_file_are_not_used(minilm: ResolvedModel) -> None:
    # The file of all-MiniLM-L6-v2 asks for 128 tokens, padded.
    tokens = tokenize(["a cat", "a cat " * 200], load_tokenizer(minilm, 200)).to_pylist()
    assert [len(row) for row in tokens] == [4, 200]


def test_a_tokenizer_without_special_tokens_is_refused_for_an_empty_text(bert: Path) -> None:
    from tokenizers import Tokenizer, processors

    bare = Tokenizer.from_file(str(bert / "tokenizer.json"))
    bare.post_processor = processors.TemplateProcessing(single="$A")
    with pytest.raises(ModelError, match="no token for 1 of 2 texts"):
        tokenize(["goal", ""], bare)


def test_a_table_goes_through_a_pickled_function(model: ResolvedModel) -> None:
    table = tiny.toy_table(12, seed=1, first_id=7)
    task = pickle.loads(pickle.dumps(partial(tokenize_table, model=model, max_tokens=20)))
    done = task(table)
    assert done.column_names == ["id", "label", "tokens"]
    assert done["id"].to_pylist() == table["id"].to_pylist()
    assert done["label"].to_pylist() == table["label"].to_pylist()
    assert done.schema.field("tokens").type == pa.list_(pa.int32())


def test_the_tokenizer_is_read_once_per_process(model: ResolvedModel) -> None:
    assert load_tokenizer(model, 17) is load_tokenizer(model, 17)


def table_of(split: TokenizedSplit) -> pa.Table:
    """Return the Arrow form of a split: the tokens without a copy."""
    tokens = pa.ListArray.from_arrays(pa.array(split.offsets.astype(np.int32)), pa.array(split.tokens))
    return pa.table({"id": split.ids, "label": split.labels, "tokens": tokens})


def test_a_split_survives_arrow_in_one_chunk_and_in_five(pool: TokenizedSplit) -> None:
    table = table_of(pool)
    chunked = pa.concat_tables([table.slice(start, 18) for start in range(0, 90, 18)])
    assert chunked["tokens"].num_chunks == 5
    for read in (TokenizedSplit.from_table(table), TokenizedSplit.from_table(chunked)):
        for field in ("ids", "labels", "tokens", "offsets"):
            np.testing.assert_array_equal(getattr(read, field), getattr(pool, field))


def test_one_chunk_is_viewed_not_copied(pool: TokenizedSplit) -> None:
    read = TokenizedSplit.from_table(table_of(pool))
    assert np.shares_memory(read.tokens, pool.tokens)


def test_a_slice_of_a_table_keeps_its_own_tokens(pool: TokenizedSplit) -> None:
    table = table_of(pool).slice(10, 5)
    assert table_of(TokenizedSplit.from_table(table))["tokens"].to_pylist() == table["tokens"].to_pylist()


def test_an_empty_table_is_an_empty_split(pool: TokenizedSplit) -> None:
    assert len(TokenizedSplit.from_table(table_of(pool).slice(0, 0))) == 0


def test_rows_are_found_by_id_in_the_order_asked(pool: TokenizedSplit) -> None:
    shuffled = pool.take(np.random.default_rng(0).permutation(len(pool)), pool.labels)
    ids = np.array([150, 100, 189])
    np.testing.assert_array_equal(shuffled.ids[shuffled.rows(ids)], ids)
    with pytest.raises(AssertionError, match="not in this split"):
        shuffled.rows(np.array([99]))


def test_taken_texts_keep_their_tokens(pool: TokenizedSplit) -> None:
    rows = np.array([5, 0, 88])
    taken = pool.take(rows, np.array([2, 1, 0]))
    expected = [table_of(pool)["tokens"][int(row)].as_py() for row in rows]
    assert table_of(taken)["tokens"].to_pylist() == expected
    assert taken.labels.tolist() == [2, 1, 0]
