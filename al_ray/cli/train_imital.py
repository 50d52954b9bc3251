"""``al-ray train-imital``: train the policy of the query strategy ``imital`` on synthetic pools."""

import hashlib
import time
from pathlib import Path
from typing import Annotated

import typer

from al_ray.cli.run import user_errors
from al_ray.errors import ConfigError
from al_ray.terminal import duration, make_console


def train_imital(
    out: Annotated[Path, typer.Option("--out", help="File for the weights (safetensors).", metavar="FILE")],
    pools: Annotated[int, typer.Option("--pools", help="Synthetic pools to learn from.", metavar="N", min=1)] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Of pools, expert and network.", metavar="S", min=0)] = 0,
) -> None:
    """Train a policy for the strategy imital on synthetic pools; the same seed gives the same file."""
    from al_ray.model.imital import TrainingSettings, train

    console = make_console()
    with user_errors(console):
        if not out.parent.is_dir():
            raise ConfigError(f"--out is {out}, and there is no folder {out.parent}. Make it, or name another file.")
        if out.is_dir():
            raise ConfigError(
                f"--out is {out}, which is a folder. Name a file in it, such as {out / 'imital.safetensors'}."
            )
        began = time.monotonic()
        with console.status("playing active learning") as status:
            data = train(
                TrainingSettings(n_pools=pools, seed=seed),
                lambda n_done: status.update(f"playing active learning: {n_done} of {pools} pools"),
            )
        out.write_bytes(data)
        console.print(
            f"{out}: {len(data):,} bytes, learned from {pools} pools in {duration(time.monotonic() - began)}. "
            "In a study file:",
            soft_wrap=True,
            highlight=False,
        )
        sha256 = hashlib.sha256(data).hexdigest()
        line = f"strategy: {{name: imital, weights: {out.absolute()}, sha256: {sha256}}}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
