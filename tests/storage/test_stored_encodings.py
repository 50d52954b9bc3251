"""Encodings in every kind of storage: computed once, whole or not at all, proved when they are read."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from al_ray.errors import StorageError
from al_ray.model import stored as stored_module
from al_ray.model.encoding import Encoding, blocks_of
from al_ray.model.source import ResolvedModel
from al_ray.model.stored import (
    StoredEncoding,
    Texts,
    completed,
    completed_here,
    found_encodings,
)
from al_ray.storage.folder import Folder

MODEL = ResolvedModel(name="org/small", revision="1", path="", sha256="a" * 64, settings_sha256="b" * 64)
MEANS = Encoding(model=MODEL, precision="float32", batch_size=32, output="mean")
N = 2500  # two whole blocks of 1,024 texts and a part of one


def texts(n: int = N) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([f"text {row}" for row in range(n)])])


def sha256_of(column: pa.ChunkedArray) -> str:
    return Texts(column).sha256


def tokens(n: int = N) -> pa.Table:
    lists = pa.array([[row] * (row % 3 + 1) for row in range(n)], pa.list_(pa.int32()))
    return pa.table({"id": range(n), "label": [0] * n, "tokens": lists})


def encode(block: pa.Table) -> Any:
    """A row a text: its id, and how many texts stand in its block."""
    return np.stack([block["id"].to_numpy(), np.full(len(block), len(block))], axis=1).astype(np.float32)


def encode_tokens(block: pa.Table) -> Any:
    """A row a token, as the output of a layer is in bf16."""
    ids = block["tokens"].combine_chunks().flatten().to_numpy()
    return np.stack([ids, ids + 1, ids + 2], axis=1).astype(np.uint16)


def place(
    storage: str, encoding: Encoding = MEANS, *, n: int = N, user: str = "mine", **changes: Any
) -> StoredEncoding:
    return StoredEncoding.of(
        Folder.open(storage), encoding, Texts(texts(n)), changes.pop("max_tokens", 60), data="tickets", user=user
    )


def forbidden(*arguments: Any) -> Any:
    pytest.fail("what is stored is not computed again")


def computed(stored: StoredEncoding, encoder: Callable[[pa.Table], Any] = encode) -> Any:
    return completed_here({"pool": stored}, lambda split: tokens(stored.n_texts), lambda: encoder)["pool"]


def read(stored: StoredEncoding) -> Any:
    return completed_here({"pool": stored}, forbidden, forbidden)["pool"]


@pytest.mark.parametrize(
    ("encoding", "encoder"), [(MEANS, encode), (replace(MEANS, precision="bf16", output=4), encode_tokens)]
)
def test_what_is_read_is_what_was_computed_to_the_last_bit(
    storage: str, encoding: Encoding, encoder: Callable[[pa.Table], Any]
) -> None:
    expected = np.concatenate([encoder(block) for block in blocks_of(tokens())])
    rows = [computed(place(storage, encoding).begin("cpu"), encoder), read(place(storage, encoding).begin("cpu"))]
    for found in rows:
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert place(storage, encoding).missing() == []


def test_one_that_was_broken_off_goes_on_where_it_was(storage: str) -> None:
    stored = place(storage).begin("cpu")
    stored.write(1, encode(blocks_of(tokens())[1]))
    assert place(storage).missing() == [0, 2]
    asked: list[int] = []

    def count(block: pa.Table) -> Any:
        asked.append(block["id"][0].as_py())
        return encode(block)

    told: list[tuple[int, int]] = []
    completed_here({"pool": stored}, lambda split: tokens(), lambda: count, lambda n, of: told.append((n, of)))
    assert asked == [0, 2048]
    assert told == [(1024, N), (2048, N)]


def test_of_two_that_compute_at_once_both_end_with_the_same(storage: str) -> None:
    """Their last bits may differ, on machines of two kinds: the first writer of a part stays, for both."""
    together = threading.Barrier(2, timeout=600)
    found: dict[str, Any] = {}

    def one(user: str, shift: float) -> None:
        def compute(missing: Mapping[str, Sequence[int]]) -> None:
            together.wait()
            for number in missing["pool"]:
                stored.write(number, encode(blocks_of(tokens())[number]) + np.float32(shift))
            together.wait()

        stored = place(storage, user=user).begin("cpu")
        found[user] = np.array(completed({"pool": stored}, compute, StoredEncoding.rows)["pool"])

    threads = [threading.Thread(target=one, args=each) for each in (("a", 0.0), ("b", 0.5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found["a"], found["b"])
    np.testing.assert_array_equal(np.floor(found["a"][:, 0]), np.arange(N))
    assert list(found_encodings(Folder.open(storage))[0].uses) == ["a", "b"]


def spoil(stored: StoredEncoding, name: str, change: Callable[[bytes], bytes]) -> None:
    data = stored.folder.read(name)
    assert data is not None
    stored.folder.write(name, change(data), "damage")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "short": lambda data: data[:200],
    "empty": lambda data: b"",
    "another bit": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "no numbers": lambda data: b"x" * len(data),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_told_and_computed_again(storage: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    stored, blocks = place(storage).begin("cpu"), blocks_of(tokens())
    for number, block in enumerate(blocks):
        stored.write(number, encode(block))
    spoil(stored, "part-000001.npy", DAMAGES[damage])
    asked: list[int] = []

    def count(block: pa.Table) -> Any:
        asked.append(block["id"][0].as_py())
        return encode(block)

    rows = computed(stored, count)
    np.testing.assert_array_equal(rows[:, 0], np.arange(N))
    assert asked == [1024]
    assert re.search(r"part-000001.npy\S* is damaged: .* it is computed again", caplog.text)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_on_a_disk_is_told_and_computed_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored = place(str(tmp_path)).begin("cpu")
    computed(stored)
    assert stored.folder.names()[0] == ["about.json", "rows.npy", "use--mine.json"]
    spoil(stored, "rows.npy", DAMAGES[damage])
    np.testing.assert_array_equal(computed(stored)[:, 0], np.arange(N))
    assert "rows.npy is damaged: " in caplog.text
    read(stored)


def test_what_is_damaged_whenever_it_is_written_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_module, "_sha256", lambda rows: bytes(np.random.default_rng().bytes(32)))
    with pytest.raises(StorageError, match=r"part-000000.npy is damaged: its content is not that of its hash"):
        computed(place(str(tmp_path)).begin("cpu"))


def test_on_a_disk_all_readers_map_one_file(tmp_path: Path) -> None:
    stored = place(str(tmp_path)).begin("cpu")
    computed(stored)
    rows = read(stored)
    maps = Path("/proc/self/maps").read_text()
    assert str(Path(stored.folder.path) / "rows.npy") in maps
    assert not rows.flags.writeable
    assert type(rows) is np.ndarray  # one that Ray and torch take without a copy


def test_whatever_changes_the_numbers_changes_the_key_and_names_do_not(tmp_path: Path) -> None:
    one = place(str(tmp_path))
    others = [
        place(str(tmp_path), max_tokens=61),
        place(str(tmp_path), n=N - 1),
        *(place(str(tmp_path), replace(MEANS, **change)) for change in (
            {"precision": "bf16"}, {"batch_size": 8}, {"output": "first_token"}, {"output": 4},
            {"model": replace(MODEL, sha256="c" * 64)}, {"model": replace(MODEL, settings_sha256="c" * 64)},
            {"init": "random", "seed": 1}, {"init": "random", "seed": 2},
        )),
    ]  # fmt: skip
    assert len({one.key, *(other.key for other in others)}) == 11
    renamed = replace(MEANS, model=replace(MODEL, name="copied", revision="2", path="/elsewhere"))
    assert place(str(tmp_path), renamed, user="other").key == one.key


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_the_hash_of_texts_is_that_of_their_bytes_however_they_lie_in_memory(kind: pa.DataType) -> None:
    words = ["", "ä", "two", "", "three " * 9, "€"]
    whole = pa.chunked_array([pa.array(words, kind)])
    cut = pa.chunked_array([pa.array(["x", *words[:2]], kind)[1:], pa.array([], kind), pa.array(words[2:], kind)])
    assert sha256_of(whole) == sha256_of(cut)
    assert sha256_of(whole) != sha256_of(pa.chunked_array([pa.array(["ä", "", *words[2:]], kind)]))
    assert sha256_of(whole) == sha256_of(pa.chunked_array([pa.array(words, pa.string())]))


def test_what_lies_there_is_listed_and_deleted(storage: str) -> None:
    assert found_encodings(Folder.open(storage)) == []
    computed(place(storage).begin("cuda"))
    half = place(storage, replace(MEANS, output="first_token"), user="other").begin("cpu")
    half.write(0, encode(blocks_of(tokens())[0]))
    whole, part = sorted(found_encodings(Folder.open(storage)), key=lambda each: -each.n_stored)
    assert (whole.is_whole, whole.n_stored, list(whole.uses)) == (True, N, ["mine"])
    assert whole.n_bytes > N * 8
    told = ("data", "model", "output", "precision", "max_tokens", "device", "made_by")
    assert [whole.about[name] for name in told] == ["tickets", "org/small", "mean", "float32", 60, "cuda", "mine"]
    assert (part.is_whole, part.n_stored) == (False, 1024)
    whole.delete()
    (left,) = found_encodings(Folder.open(storage))
    assert left.key == part.key


def test_a_reader_of_one_that_was_deleted_is_told(tmp_path: Path) -> None:
    stored = place(str(tmp_path)).begin("cpu")
    (found,) = found_encodings(Folder.open(str(tmp_path)))
    found.delete()
    with pytest.raises(StorageError, match="is not what it was"):
        stored.missing()
    assert not Path(stored.folder.path).exists()


def test_a_full_disk_is_told_and_leaves_what_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = place(str(tmp_path)).begin("cpu")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stored_module, "_write_header", full)
        with pytest.raises(StorageError, match=r"rows.npy cannot be written: No space left.*Free space there"):
            computed(stored)
    assert stored.missing() == []
    assert len(read(stored)) == N
