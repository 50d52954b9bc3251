"""Choosing from 200,000 and from 2,000,000 texts in one pass (``al-ray choose``): texts a second, and peak memory.

The texts are generated tickets in Parquet files of 100,000. The encoder has random weights and is tiny, since it is not
what is measured; its gradients (6 classes x 96) are wider than the 512 numbers that they are projected to. Wanted: the
memory of every process stays what it was at a tenth of the texts.

``python -m benchmarks.stream_size``; ``--texts 20000 200000`` for smaller pools.
"""

import argparse
import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.data import resolve_dataset
from benchmarks.inputs import minilm
from benchmarks.pool_size import GIB, Watched, watched_command
from benchmarks.report import Report, run_benchmark

SIZES = (200_000, 2_000_000)
N_CHOSEN, FILE_TEXTS, N_ACTORS = 1_000, 100_000, 1
# What one size may have more than the one before, and how much of it is noise of allocators.
GROWN, NOISE_GIB = 1.2, 0.05
PARTS = {
    "driver": "the command",
    "driver apart": "the selector, which drives Ray",
    "actors": "the largest actor with the model",
}
ENCODER = {"hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}


def write_pool(folder: Path, n_texts: int) -> int:
    """Write tickets, a file of 100,000 at a time; return how many characters they have."""
    folder.mkdir()
    n_characters = 0
    for start in range(0, n_texts, FILE_TEXTS):
        n = min(FILE_TEXTS, n_texts - start)
        texts = resolve_dataset({"name": "tickets", "n_train": n, "n_test": 6, "seed": start}).train.texts
        n_characters += sum(map(len, texts))
        table = pa.table({"id": range(start, start + n), "text": pa.array(texts)})
        pq.write_table(table, folder / f"part-{start // FILE_TEXTS:05d}.parquet")
    return n_characters


def write_classifier(folder: Path) -> None:
    """Write a tiny classifier of random weights, with MiniLM's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(minilm().path, num_labels=6, **ENCODER)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm().path).save_pretrained(folder)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Keep a folder for temporary files while inside."""
    folder = Path(tempfile.mkdtemp(prefix="al_ray_benchmark_"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def choose(folder: Path, n_texts: int) -> tuple[float, Watched, str]:
    """Choose from a pool of some size; return seconds, memory and what was said."""
    words = ["choose", str(folder / str(n_texts)), "--model", str(folder / "model"), "--n", str(N_CHOSEN)]
    to = folder / f"{n_texts}.parquet"
    measured = watched_command([*words, "--to", str(to), "--id", "id", "--actors", str(N_ACTORS)], folder)
    ids = pq.read_table(to)["id"].to_pylist()
    if len({*ids}) != N_CHOSEN or not all(0 <= id_ < n_texts for id_ in ids):
        raise SystemExit(f"{len({*ids})} texts of the pool were chosen instead of {N_CHOSEN}")
    return measured


def measure(report: Report, sizes: Sequence[int]) -> None:
    """Choose from pools of every size, the smallest first, and compare each with the one before."""
    before: dict[str, float] = {}
    smaller: tuple[int, float] | None = None
    with temporary_folder() as folder:
        write_classifier(folder / "model")
        for n_texts in sizes:
            n_characters = write_pool(folder / str(n_texts), n_texts)
            seconds, watched, printed = choose(folder, n_texts)
            shutil.rmtree(folder / str(n_texts))
            said = " ".join(printed.split())
            n_drawn = int(found[1].replace(",", "")) if (found := re.search(r"([\d,]+) of the others", said)) else 0
            name = f"{n_texts:,} texts"
            note = f"{n_texts / seconds:,.0f} texts/s, start of Ray and count of the pool included"
            report.add(f"{name}: command", seconds, "s", note=note)
            if smaller is not None:
                more, longer = n_texts - smaller[0], seconds - smaller[1]
                note = f"of the {more:,} texts more than in the smaller pool"
                report.add(f"{name}: speed", more / longer, "texts/s", note=note)
            report.add(f"{name}: accepted by the pass", N_CHOSEN - n_drawn, f"of {N_CHOSEN:,}")
            memory = {PARTS[role]: watched.own.get(role, 0.0) / GIB for role in PARTS}
            memory["the object store"] = watched.store / GIB
            for part, gib in memory.items():
                most = before[part] * GROWN + NOISE_GIB if part in before else None
                report.add(f"{name}: memory of {part}", gib, "GiB", at_most=most)
            report.details[str(n_texts)] = {"seconds": seconds, "gib": memory, "n_characters": n_characters}
            before, smaller = memory, (n_texts, seconds)
    report.remark(
        f"{N_CHOSEN:,} texts are chosen, with one actor on one core. Memory is what a process has for itself. "
        "The texts of the largest pool alone are "
        f"{report.details[str(sizes[-1])]['n_characters'] / GIB:.2f} GiB, and their gradients "
        f"{sizes[-1] * 512 * 4 / GIB:.1f} GiB."
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream_size", description=__doc__)
    parser.add_argument("--texts", type=int, nargs="+", default=SIZES, help="sizes of the pools, rising")
    asked = parser.parse_args()
    title = f"choosing {N_CHOSEN:,} texts of many in one pass"
    run_benchmark("stream_size", title, lambda report: measure(report, asked.texts))


if __name__ == "__main__":
    main()
