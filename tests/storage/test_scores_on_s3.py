"""A pool on an object store is scored into an object store, and its keys stay where they are."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Outcome
from tests.storage.conftest import SECRET, Bucket


@pytest.mark.parametrize("name", ["pool.csv", "pool.jsonl", "pool.parquet"])
def test_a_pool_on_an_object_store_is_scored_there(
    al_ray: Callable[..., Outcome], classifier: Path, bucket: Bucket, name: str
) -> None:
    texts = ["the goal said", "it was a new, old match", "some film"]
    contents = {
        "pool.csv": ("body\n" + "".join(f'"{text}"\n' for text in texts)).encode(),
        "pool.jsonl": "".join(f'{{"body": "{text}"}}\n' for text in texts).encode(),
        "pool.parquet": parquet(texts),
    }
    bucket.ask("PUT", f"/{bucket.name}/texts/{name}", contents[name])
    command = ("score", bucket.uri("texts"), "--model", classifier, "--to", bucket.uri("scored"), "--local")
    said = [al_ray(*command), al_ray(*command)]
    assert [outcome.code for outcome in said] == [0, 0], said
    assert "3 rows scored in" in said[0].text
    assert "every shard was scored before" in said[1].text
    written = bucket.contents()
    assert {*written} == {f"texts/{name}", "scored/_al_ray_score.json", "scored/part-00000-00000.parquet"}
    table = pq.read_table(io.BytesIO(written["scored/part-00000-00000.parquet"]))
    assert table["body"].to_pylist() == texts
    assert set(table["prediction"].to_pylist()) <= {"LABEL_0", "LABEL_1", "LABEL_2"}
    for secret in (SECRET, "KEYxNOBODYxSEES"):
        assert not [outcome for outcome in said if secret in outcome.text]
        assert not [data for data in written.values() if secret.encode() in data]
    refused = al_ray("score", bucket.uri("nothing"), *command[2:])
    assert refused.code == 1
    assert "nothing" in refused.text
    assert "is not there" in refused.text
    assert SECRET not in refused.text


def parquet(texts: list[str]) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.table({"body": texts}), written)
    return written.getvalue()
