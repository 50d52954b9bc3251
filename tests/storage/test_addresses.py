"""Addresses: what is typed opens the records everywhere, and the key in it is seen nowhere."""

import pickle
from pathlib import Path

import pytest
from pyarrow import fs

from al_ray.api import find_study
from al_ray.errors import ConfigError, StorageError
from al_ray.records.study import StudyStore, open_study
from al_ray.storage.address import above, below, check_address, hidden, shown, without_query
from al_ray.storage.folder import Folder
from tests.records.record_samples import open_cell, run_cell
from tests.storage.conftest import SECRET, Bucket

URI = f"s3://KEY:{SECRET}@bucket/a/b?endpoint_override=127.0.0.1:5000&scheme=http&region=us-east-1"
QUERY = "?endpoint_override=127.0.0.1:5000&scheme=http&region=us-east-1"


def test_what_is_inside_a_uri_stands_before_its_query() -> None:
    assert below(URI, "c") == f"s3://KEY:{SECRET}@bucket/a/b/c{QUERY}"
    assert above(URI) == (f"s3://KEY:{SECRET}@bucket/a{QUERY}", "b")
    assert above("s3://bucket/b/") == ("s3://bucket", "b")
    assert above(f"s3://KEY:{SECRET}@bucket{QUERY}")[1] == ""
    assert (shown(URI), without_query(URI)) == (f"s3://bucket/a/b{QUERY}", "s3://bucket/a/b")


def test_a_path_may_have_a_question_mark_in_it(tmp_path: Path) -> None:
    assert below("/a/what?", "c") == "/a/what?/c"
    assert above("/a/what?/c") == ("/a/what?", "c")
    assert above("/a") == ("/", "a")
    odd = tmp_path / "what?key=1"
    run_cell(open_cell(odd))
    assert open_study(str(odd / "softmax")).storage == str(odd)
    assert StudyStore.open(str(odd), "softmax").root == str(odd / "softmax")


@pytest.mark.parametrize(
    ("storage", "secret"),
    [
        (f"s3://KEYKEY:{SECRET}@bucket/x?foo=bar", SECRET),
        ("s3://KEYKEY:SEC/RET@bucket/x?region=us-east-1", "RET@"),
        ("s3://KEYKEY:SEC%2FRETS@bucket/x?foo=bar", "SEC/RETS"),
        (f"s3://bucket/x?secret_key={SECRET}", SECRET),
        (f"gs://bucket/x?access_token={SECRET}&foo=bar", SECRET),
        (f"nothing://KEYKEY:{SECRET}@bucket/x", SECRET),
    ],
)
def test_an_address_that_cannot_be_opened_is_told_without_its_key(storage: str, secret: str) -> None:
    with pytest.raises(StorageError, match="cannot be opened") as caught:
        Folder.open(storage)
    assert secret not in str(caught.value)
    assert "KEYKEY" not in str(caught.value)


def test_a_link_that_leads_nowhere_is_refused_until_there_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "away")
    with pytest.raises(StorageError, match=rf"is a link to {tmp_path}/away, which is not there. Make that folder"):
        Folder.open(str(tmp_path / "link"))
    (tmp_path / "away").mkdir()
    Folder.open(str(tmp_path / "link")).write("file", b"x", "a file")
    assert (tmp_path / "away" / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("address", "message", "right"),
    [
        ("", "is ''. Name a folder", None),
        ("x\udcff", "is not UTF-8. Name the folder otherwise", "x"),
        ("s3:/bucket/x", "has two slashes behind its scheme", "s3://bucket/x"),
        (f"s3:/KEYKEY:{SECRET}@bucket/x", "has two slashes behind its scheme", "s3://bucket/x"),
        ("file:{here}/x", "has two slashes behind its scheme", "file://{here}/x"),
        ("https:/host/x", "Use a folder, file:///folder, s3://bucket/folder", None),
        ("s3://", "names no bucket", "s3://bucket/folder"),
        ("s3:///x", "names no bucket", "s3://bucket/folder"),
        ("gs://?a=b", "names no bucket", "gs://bucket/folder"),
        ("file://{here}/runs#1", "has '#' in it, which no URI can hold. Write %23 instead", "file://{here}/runs%231"),
        ("file://{here}/runs?1", "has '?' in it, which no URI can hold. Write %3F instead", "file://{here}/runs%3F1"),
        ("file://{here}/my runs", "has ' ' in it, which no URI can hold. Write %20 instead", "file://{here}/my%20runs"),
        ("file://{here}/50%", "has '%' in it, which no URI can hold. Write %25 instead", "file://{here}/50%25"),
        ("file://{here}/é", "has 'é' in it, which no URI can hold. Write %C3%A9 instead", "file://{here}/%C3%A9"),
        (f"s3://KEYKEY:{SECRET}@bucket/runs#1", "has '#' in it", "s3://bucket/runs%231"),
    ],
)
def test_an_address_that_opens_another_folder_than_it_names_is_refused_with_the_right_one(
    address: str, message: str, right: str | None, tmp_path: Path
) -> None:
    with pytest.raises(StorageError) as caught:
        Folder.open(address.format(here=tmp_path))
    said = str(caught.value)
    assert message in said
    assert SECRET not in said
    if right is not None:
        check_address("storage", right.format(here=tmp_path))
    if right is not None and right.startswith("file"):
        assert Folder.open(right.format(here=tmp_path)).path == str(tmp_path / address.rpartition("/")[2])


def test_the_key_is_cut_out_of_the_texts_of_others_however_it_is_written() -> None:
    text = hidden("no login SEC/RET for s3://KEYKEY:SEC%2FRET@bucket", "s3://KEYKEY:SEC%2FRET@bucket/x")
    assert text == "no login  for s3://bucket"


def test_an_object_store_opens_again_elsewhere_and_shows_no_key(bucket: Bucket) -> None:
    cell = open_cell(bucket.uri())
    run_cell(cell)
    store = StudyStore.open(bucket.uri(), "softmax")
    assert store.root == shown(bucket.uri("records/softmax"))
    for text in (repr(store), repr(cell), store.root, cell.folder.address, cell.folder.where("spec.json")):
        assert SECRET not in text
    assert StudyStore.open(store.storage, "softmax").id() == store.id()
    assert open_study(bucket.uri("records/softmax")).storage == bucket.uri()
    assert pickle.loads(pickle.dumps(cell)).progress() == ("done", 4)


def test_a_recorded_study_is_found_by_its_uri(bucket: Bucket) -> None:
    found = find_study(bucket.uri("records/softmax"), None)
    assert (found.storage, found.name, found.address) == (bucket.uri(), "softmax", bucket.uri("records/softmax"))
    assert find_study("softmax", bucket.uri()).address == bucket.uri("records/softmax")
    assert SECRET not in repr(found)
    with pytest.raises(ConfigError, match=r"has no folder\. Name the study's own"):
        find_study(URI.replace("/a/b", ""), None)
    with pytest.raises(ConfigError, match="is a folder already") as caught:
        find_study(URI, "elsewhere")
    assert SECRET not in str(caught.value)


def test_a_bucket_that_is_not_there_is_refused(bucket: Bucket) -> None:
    with pytest.raises(StorageError, match=r"there is no bucket 'no-such-bucket'\. Make it, or correct the address"):
        StudyStore.open(bucket.uri().replace(bucket.name, "no-such-bucket"), "softmax")


def test_an_object_in_the_place_of_the_folder_is_refused(bucket: Bucket) -> None:
    bucket.ask("PUT", f"/{bucket.name}/records", b"an object")
    with pytest.raises(StorageError, match=r"s3://.*records.* is a file\. Name a folder"):
        StudyStore.open(bucket.uri(), "softmax")


def test_a_key_that_may_not_use_the_bucket_is_refused_and_not_waited_for(bucket: Bucket) -> None:
    folder = Folder.open(bucket.uri(), patience_s=60.0)
    bucket.ask("POST", "/moto-api/reset-auth", b"0")  # from here on only known keys, of which there is none
    try:
        with pytest.raises(StorageError, match=r"cannot be used: .*ACCESS_DENIED.*must be allowed to list the bucket"):
            Folder.open(bucket.uri(), patience_s=60.0)
        with pytest.raises(StorageError, match=r"round 1 was not recorded: .*must be allowed .* put and delete"):
            folder.write("round-001.json", b"{}", "round 1")
    finally:
        bucket.ask("POST", "/moto-api/reset-auth", b"inf")
    folder.write("round-001.json", b"{}", "round 1")


def test_a_store_that_cannot_be_reached_is_told_with_the_way_out() -> None:
    with pytest.raises(StorageError, match=r"cannot be used: .*Check the network, and endpoint_override") as caught:
        StudyStore.open(URI.replace(":5000", ":9"), "softmax")
    assert SECRET not in str(caught.value)


def test_googles_store_is_waited_for_less_than_its_quarter_of_an_hour() -> None:
    folder = Folder.at("gs://anonymous@bucket/results")
    assert isinstance(folder.filesystem, fs.GcsFileSystem)
    assert folder.filesystem.__reduce__()[1][0]["retry_time_limit"].total_seconds() == 45
