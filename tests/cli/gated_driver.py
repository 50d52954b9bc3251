"""``al-ray run`` whose cells stand still until files let them go on: ``python -m tests.cli.gated_driver WORDS``.

The files stand in the folder ``gates`` beside the storage; one named after a round's index lets all cells begin the
round after it. With ``--torn`` as the last word, cells stand between the arrays and the record of round 2 instead;
with ``--shared`` they also wait for help with their scorings (:func:`tests.cli.saboteur.share_at_gates`).
"""

import sys
import threading
from collections.abc import Mapping

import typer

from al_ray.cli.run import run
from al_ray.records.round import round_file
from al_ray.storage.folder import Folder
from al_ray.study import run as study
from tests.cli import saboteur

TORN, SHARED = "--torn", "--shared"


def stop_before_a_record(index: int) -> None:
    """Let this process stand for ever where it would write a record."""
    write_all = Folder.write_all

    def write_or_stop(self: Folder, files: Mapping[str, bytes], what: str, *, in_order: bool = True) -> None:
        for name, data in files.items():
            if name == round_file(index):
                threading.Event().wait()
            write_all(self, {name: data}, what, in_order=in_order)

    Folder.write_all = write_or_stop  # type: ignore[method-assign]


def main() -> None:
    if sys.argv[-1] == TORN:
        sys.argv.pop()
        stop_before_a_record(2)
    elif sys.argv[-1] == SHARED:
        sys.argv.pop()
        study.run_cell = saboteur.share_at_gates
    else:
        study.run_cell = saboteur.stop_at_gates
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(run)
    app()


if __name__ == "__main__":
    main()
