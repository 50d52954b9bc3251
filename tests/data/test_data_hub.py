"""The Hub is stood in for by a small server on loopback that speaks as much of its protocol as a download needs."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.data import datasets
from tests.waiting import PATIENCE_S

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from al_ray.data import resolve_dataset
for name in sys.argv[1:]:
    try:
        d = resolve_dataset(name)
        answer = [d.source, d.class_names, len(d.train), len(d.test), d.train.texts[1], int(d.train.labels[1])]
    except ValueError as error:
        answer = f"{type(error).__name__}: {error}"
    print("ANSWER" + json.dumps(answer))
"""


def parquet(n_rows: int, text: str, label: str, names: list[str]) -> bytes:
    table = pa.table({text: [f"text {i}" for i in range(n_rows)], label: [i % len(names) for i in range(n_rows)]})
    features = {
        text: {"dtype": "string", "_type": "Value"},
        label: {"names": names, "_type": "ClassLabel"},
    }
    written = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), written
    )
    return written.getvalue()


def jsonl(n_rows: int, spelled: list[str]) -> bytes:
    rows = ({"text": f"text {i}", "label": i % 2, "label_text": spelled[i % 2]} for i in range(n_rows))
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def repositories() -> dict[str, bytes]:
    """Return path below the endpoint -> content: two good data sets, one too small, one with its labels swapped."""
    trec = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
    content = {
        "trec6": (parquet(5452, "text", "coarse_label", trec), parquet(500, "text", "coarse_label", trec)),
        "subj": (jsonl(8000, ["objective", "subjective"]), jsonl(2000, ["objective", "subjective"])),
        "cola": (parquet(7, "sentence", "label", ["unacceptable", "acceptable"]),) * 2,
        "sst2": (jsonl(6920, ["positive", "negative"]), jsonl(1821, ["positive", "negative"])),
    }
    files = {}
    for name, (train, test) in content.items():
        hub: Any = datasets.get(name)
        for file, body in ((hub.train, train), (hub.test, test)):
            files[f"/datasets/{hub.hub_id}/resolve/{hub.revision}/{file}"] = body
    return files


class FakeHub(http.server.BaseHTTPRequestHandler):
    """Answers a repository's description, and HEAD and GET of its files."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/datasets/"):
            _, _, _, owner, name, _, revision = path.split("/")
            self._answer(json.dumps({"_id": "0", "id": f"{owner}/{name}", "sha": revision, "siblings": []}).encode())
        else:
            self._answer(self.files.get(path))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
        if "/resolve/" in self.path:
            self.send_header("X-Repo-Commit", self.path.split("/resolve/")[1].split("/")[0])
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    handler = type("Handler", (FakeHub,), {"files": repositories()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resolve(endpoint: str, cache: Path, *names: str) -> list[Any]:
    """Resolve data sets in a process of its own: the Hub's client reads its address once, when it is imported."""
    unwanted = re.compile(r"AL_RAY_DATA|HF_.*|TRANSFORMERS_OFFLINE|(https?|all)_proxy", re.IGNORECASE)
    environment = {key: value for key, value in os.environ.items() if not unwanted.fullmatch(key)}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    answers = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert len(answers) == len(names), done.stderr
    return answers


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub_cache")


@pytest.fixture(scope="module")
def answers(endpoint: str, cache: Path) -> dict[str, Any]:
    names = ("trec6", "subj", "cola", "sst2", "imdb")
    return dict(zip(names, resolve(endpoint, cache, *names), strict=True))


def test_parquet_is_read_from_the_hub_under_its_own_column_names(answers: dict[str, Any]) -> None:
    source, names, n_train, n_test, text, label = answers["trec6"]
    assert source == "Hugging Face Hub CogComp/trec@65752bf53af25bc935a0dce92fb5b6c930728450"
    assert (names, n_train, n_test) == (["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"], 5452, 500)
    assert (text, label) == ("text 1", 1)


def test_json_lines_are_read_from_the_hub(answers: dict[str, Any]) -> None:
    source, names, *rest = answers["subj"]
    assert source.startswith("Hugging Face Hub SetFit/subj@f3c1162e")
    assert (names, rest) == (["objective", "subjective"], [8000, 2000, "text 1", 1])


def test_a_pinned_revision_with_other_sizes_is_refused(answers: dict[str, Any]) -> None:
    assert "7 of the declared 8,551 training rows and 7 of the declared 1,043 test rows" in answers["cola"]
    assert answers["cola"].startswith("DataError")


def test_labels_that_are_spelled_in_another_order_are_refused(answers: dict[str, Any]) -> None:
    assert "calls label 0 'positive'" in answers["sst2"]
    assert "declared as negative, positive" in answers["sst2"]


def test_a_spoiled_file_of_the_cache_that_is_deleted_as_advised_is_fetched_again(endpoint: str, tmp_path: Path) -> None:
    whole = resolve(endpoint, tmp_path, "subj")
    for blob in tmp_path.glob("hub/*/blobs/*"):
        blob.write_bytes(b'{"text": "half a li')
    for _ in ("train", "test"):
        [refused] = resolve(endpoint, tmp_path, "subj")
        advised = re.search(r"cannot be decoded.* Delete (\S+), and it is fetched again", refused)
        assert advised, refused
        Path(advised[1]).unlink()
    assert resolve(endpoint, tmp_path, "subj") == whole


def test_a_file_that_the_hub_does_not_hold_is_an_error_that_says_what_to_do(answers: dict[str, Any]) -> None:
    assert answers["imdb"].startswith("DataError: stanfordnlp/imdb at revision e6281661ce1c could not be fetched")
    assert "set AL_RAY_DATA to a folder" in answers["imdb"]


def test_what_was_fetched_once_needs_no_network(answers: dict[str, Any], cache: Path) -> None:
    assert resolve("http://127.0.0.1:9", cache, "trec6") == [answers["trec6"]]


def test_an_unreachable_hub_is_an_error_after_one_question_and_its_repetition(tmp_path: Path) -> None:
    """The client alone would ask for 23 s, again and again."""
    n_connections = 0

    def hang_up(listener: socket.socket) -> None:
        nonlocal n_connections
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()
                n_connections += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up, args=(listener,), daemon=True).start()
        [answer] = resolve(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path, "ag_news")
        listener.shutdown(socket.SHUT_RDWR)
    assert n_connections <= 2
    assert answer.startswith("DataError: fancyzhx/ag_news at revision eb185aade064 could not be fetched")
    assert "Check the network, or set AL_RAY_DATA" in answer
