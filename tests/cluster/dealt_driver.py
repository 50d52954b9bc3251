"""A grid of made cells on a cluster that grows: ``python -m tests.cluster.dealt_driver GCS FOLDER``.

Two cells run on whatever lane there is. The next two wait for each other, so that they need two lanes. Of those behind
them, one lane does a cell while the others do five: it waits for them. Prints a line of JSON for every event.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.driver import run_grid
from al_ray.runtime.pool import PoolSource
from al_ray.runtime.tasks import CellEvent, CellStarted, CellTask, ReportRound, RoundEnded
from tests.runtime import lane_fakes as fakes
from tests.runtime.made import kind_of_event, made_cell
from tests.waiting import wait_until

N_SHARED, FASTER = 30, 5


def act(task: CellTask, pool: Any, worker: Any, report: ReportRound) -> None:
    if task.spec["act"] == "share":
        share(Path(task.spec["folder"]), task.key)
        report(RoundEnded(task.key, 0, 0, {}))
    else:
        fakes.act(task, pool, worker, report)


def share(folder: Path, key: str) -> None:
    """Leave a file; the process that is the slow one waits before for those of the others."""
    slow = folder / "slow"
    with contextlib.suppress(FileExistsError), slow.open("x", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    if slow.read_text(encoding="utf-8") == str(os.getpid()):
        before = n_ended(folder)
        wait_until(
            lambda: n_ended(folder) >= min(before + FASTER, N_SHARED - 1), f"the others do {FASTER} cells beside {key}"
        )
    (folder / f"ended-{key}").touch()


def n_ended(folder: Path) -> int:
    return len(list(folder.glob("ended-*")))


def tell(event: CellEvent) -> None:
    node = event.where["node"] if isinstance(event, CellStarted) else ""
    print(json.dumps({"kind": kind_of_event(event), "key": event.key, "node": node}), flush=True)


def main(gcs: str, folder: str) -> None:
    doors = Path(folder) / "doors"
    doors.mkdir()
    cells = [
        *(made_cell(f"alone-{number}", "letters", act="look") for number in range(2)),
        *(made_cell(f"door-{number}", "letters", act="sign_in", folder=str(doors), n_files=2) for number in range(2)),
        *(made_cell(f"shared-{number}", "letters", act="share", folder=folder) for number in range(N_SHARED)),
    ]
    run_grid(
        cells=cells,
        pools={
            "letters": PoolSource(tables={"pool": fakes.texts(50), "test": fakes.texts(5)}, tokenize=fakes.tokenize)
        },
        run_cell=act,
        resources=LaneResources(lanes=2, address=gcs, wait_for_nodes=True),
        on_event=tell,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
