"""small-text's own active-learning loop on TREC-6; runs inside the environment of the peer and knows nothing of al_ray.

Started by ``benchmarks.peer``, which gives it everything as arguments; prints one line of JSON.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

CREATED = time.time()


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--model", required=True, help="folder of the pretrained model")
    parser.add_argument("--initial", required=True, help="JSON list of the rows that are labelled first")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n-pool", type=int, default=None, help="only the first so many rows, to try this out")
    parser.add_argument("--query-size", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    return parser.parse_args()


def main() -> None:
    """Run the loop and print what it took."""
    options = parse()
    import numpy as np
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    # small-text draws from numpy's global state.
    np.random.seed(options.seed)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    imported = time.time()
    train, test = tokenized(options, "train", options.n_pool), tokenized(options, "test", None)
    result = run(options, train, test)
    result["seconds"] |= {"imports": imported - CREATED, "tokenize": result["began"] - imported}
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")


def tokenized(options: argparse.Namespace, split: str, n_rows: int | None) -> Any:
    """Read a split and tokenise it as small-text's documentation does."""
    import numpy as np
    import pyarrow.parquet as pq
    from small_text import TransformersDataset  # type: ignore[import-not-found]
    from transformers import AutoTokenizer

    table = pq.read_table(Path(options.data) / f"{split}.parquet").slice(0, n_rows)
    labels = table["label"].to_numpy()
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    return TransformersDataset.from_arrays(
        table["text"].to_pylist(),
        labels,
        tokenizer,
        target_labels=np.arange(6),
        max_length=options.max_tokens,
    )


def run(options: argparse.Namespace, train: Any, test: Any) -> dict[str, Any]:
    """Run the loop; the seconds are those of its calls."""
    import numpy as np
    from small_text import (
        LeastConfidence,
        PoolBasedActiveLearner,
        TransformerBasedClassificationFactory,
        TransformerModelArguments,
    )

    factory = TransformerBasedClassificationFactory(
        TransformerModelArguments(options.model),
        6,
        kwargs={
            "device": "cpu",
            "num_epochs": options.epochs,
            "lr": options.learning_rate,
            "mini_batch_size": options.batch_size,
        },
    )
    learner = PoolBasedActiveLearner(factory, LeastConfidence(), train)
    labels, initial = train.y.copy(), np.array(json.loads(options.initial))
    accuracies: list[float] = []
    seconds = {"finetune": 0.0, "evaluate": 0.0, "query": 0.0}

    def timed(phase: str, began: float) -> float:
        now = time.time()
        seconds[phase] += now - began
        return now

    began = clock = time.time()
    learner.initialize_data(initial, labels[initial])
    clock = timed("finetune", clock)
    for _ in range(options.rounds):
        accuracies.append(accuracy(learner, test))
        clock = timed("evaluate", clock)
        queried = learner.query(num_samples=options.query_size)
        clock = timed("query", clock)
        learner.update(labels[queried])
        clock = timed("finetune", clock)
    accuracies.append(accuracy(learner, test))
    ended = timed("evaluate", clock)
    return {"began": began, "ended": ended, "seconds": seconds, "accuracies": accuracies}


def accuracy(learner: Any, test: Any) -> float:
    """Return the test accuracy of the model of this round."""
    return float((learner.classifier.predict(test) == test.y).mean())


if __name__ == "__main__":
    main()
