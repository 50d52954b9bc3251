"""Encodings of pools that the storage keeps: written by the processes that compute them, read by all workers alike."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from al_ray.errors import ExecutionError
from al_ray.model.encoding import Encoding, encode_table
from al_ray.model.source import ResolvedModel
from al_ray.model.stored import StoredEncoding, Texts
from al_ray.runtime.cluster import scratch
from al_ray.runtime.pool import EncodedRefs, EncodingActors, PoolRefs, PoolSource, local_pool, prepare_encoding
from al_ray.storage.folder import Folder
from tests.runtime import lane_fakes as fakes
from tests.storage.conftest import Bucket, bucket, s3_server

__all__ = ["bucket", "s3_server"]

MODEL = ResolvedModel(name="org/small", revision="1", path="", sha256="a" * 64, settings_sha256="b" * 64)
MEANS = Encoding(model=MODEL, precision="float32", batch_size=32, output="mean")
LAYER = replace(MEANS, output=3)
ENCODERS: dict[str, tuple[Encoding, Callable[[Any], Any]]] = {
    "a row a text": (MEANS, fakes.encode_texts),
    "a row a token": (LAYER, fakes.encode),
}
SIZES = {"pool": 2500, "test": 5}
each_kind = pytest.mark.parametrize("kind", ENCODERS)


def token_table(n_rows: int) -> pa.Table:
    texts = fakes.tokenize(fakes.texts(n_rows)).rename_columns({"input_ids": "tokens"})
    return texts.drop_columns("text")


TABLES = {split: token_table(n) for split, n in SIZES.items()}


def places(storage: str, encoding: Encoding) -> dict[str, StoredEncoding]:
    texts = {split: Texts(fakes.texts(n)["text"]) for split, n in SIZES.items()}
    return {
        split: StoredEncoding.of(Folder.open(storage), encoding, column, 60, data=f"made ({split})", user="mine")
        for split, column in texts.items()
    }


def check(found: Any, encoder: Callable[[Any], Any]) -> None:
    for split, table in TABLES.items():
        np.testing.assert_array_equal(found[split], encode_table(table, encoder(None)))
        assert not found[split].flags.writeable


def forbidden(device: Any) -> Any:
    raise AssertionError("what is stored is not computed again")


@each_kind
def test_without_ray_a_pool_is_encoded_once(kind: str, tmp_path: Path) -> None:
    encoding, encoder = ENCODERS[kind]
    for make_encoder in (encoder, forbidden):
        source = PoolSource(
            tables=TABLES,
            tokenize=lambda table: table,
            encoders={"it": make_encoder},
            stored={"it": places(str(tmp_path), encoding)},
        )
        check(local_pool(source, torch.device("cpu")).encoded("it"), encoder)


def prepared(stored: dict[str, StoredEncoding] | None, encoder: Any, room_bytes: float) -> EncodedRefs:
    import ray

    refs = PoolRefs({split: [ray.put(table)] for split, table in TABLES.items()})
    return prepare_encoding(refs.tables, encoder, EncodingActors(n=2, cpus=0.4, gpus=0, threads=1), stored, room_bytes)


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
@each_kind
def test_on_ray_a_pool_is_encoded_once_and_read_from_the_object_store_or_from_disk(kind: str, tmp_path: Path) -> None:
    encoding, encoder = ENCODERS[kind]
    stored = places(str(tmp_path), encoding)
    computed = prepared(stored, encoder, 2.0**30)
    assert (computed.how, set(computed.arrays), set(computed.files)) == ("encoded", {"pool", "test"}, set())
    check(computed.load(), encoder)
    found = prepared(stored, forbidden, 2.0**30)
    n_bytes = sum(array.nbytes for array in found.load().values())
    assert found.how == "found in the cache"
    assert n_bytes < found.store_bytes < computed.store_bytes < n_bytes + 2000
    check(found.load(), encoder)
    on_disk = prepared(stored, forbidden, 1000.0)
    assert (set(on_disk.arrays), set(on_disk.files)) == ({"test"}, {"pool"})
    assert on_disk.how.startswith(
        "found in the cache, of which 0.00 GiB are read from disk, since the object store has"
    )
    loaded = on_disk.load()
    check(loaded, encoder)
    assert f"{stored['pool'].folder.path}/rows.npy" in Path("/proc/self/maps").read_text()
    check(prepared(None, encoder, 0.0).load(), encoder)


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
def test_what_was_broken_off_goes_on_and_what_is_damaged_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = places(str(tmp_path), MEANS)
    begun = stored["pool"].begin("cpu")
    for part in (0, 1):
        begun.write(part, fakes.encode_texts(None)(TABLES["pool"].slice(part * 1024, 1024)))
    part_0 = Path(begun.folder.path) / "part-000000.npy"
    part_0.write_bytes(part_0.read_bytes()[:-1])
    encoded = prepared(stored, fakes.encode_texts, 2.0**30)
    assert encoded.how == f"encoded ({2505 - 452 - 5 - 1024} of them were in the cache)"
    assert "part-000000.npy is damaged: " in caplog.text
    check(encoded.load(), fakes.encode_texts)


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
def test_in_a_bucket_it_lies_in_parts_and_a_machine_fetches_them_once(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch._shared_folder.cache_clear()
    stored = places(bucket.uri(), MEANS)
    check(prepared(stored, fakes.encode_texts, 2.0**30).load(), fakes.encode_texts)
    parts = [name for name in bucket.objects() if "part-" in name]
    assert len(parts) == 4
    on_disk = prepared(stored, forbidden, 0.0)
    check(on_disk.load(), fakes.encode_texts)
    for name in parts:
        bucket.ask("DELETE", f"/{bucket.name}/{name}")
    check(on_disk.load(), fakes.encode_texts)
    scratch._shared_folder.cache_clear()


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
def test_a_model_that_a_machine_lacks_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"the texts cannot be encoded: .*model 'x' has other weights on this"):
        prepared(places(str(tmp_path), MEANS), fakes.lack_the_model, 2.0**30)


SHARER = """
import sys
from pathlib import Path
from al_ray.runtime.cluster.scratch import shared_file
path = shared_file("it.npy", lambda path: path.write_text(sys.argv[1]))
print(path.read_text(), flush=True)
sys.stdin.read()
print(path.exists(), flush=True)
"""


def sharer(word: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SHARER, word],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def test_a_shared_file_lives_as_long_as_anybody_uses_it(tmp_path: Path) -> None:
    def said(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    first = sharer("first", tmp_path)
    assert said(first) == "first"
    second = sharer("second", tmp_path)
    assert said(second) == "first"
    assert first.communicate("")[0] == "True\n"
    assert second.communicate("")[0] == "True\n"
    assert list(tmp_path.rglob("it.npy")) == []
    killed = sharer("third", tmp_path)
    assert said(killed) == "third"
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.rglob("it.npy"))) == 1
    last = sharer("last", tmp_path)
    assert said(last) == "last"
    last.communicate("")


def test_a_shared_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch._shared_folder.cache_clear()
    (tmp_path / f"al_ray_{scratch._host()}_shared_{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(ExecutionError, match="is no folder of this user's"):
        scratch.shared_file("it", lambda path: pytest.fail("nothing is written there"))
