"""``al-ray label``: a page in the browser on which people label the texts of a project."""

import contextlib
import os
import shlex
import sys
import webbrowser
from typing import Annotated

import typer

from al_ray.cli.run import user_errors
from al_ray.errors import one_line
from al_ray.terminal import make_console


def label(
    project: Annotated[str, typer.Argument(help="Project file.", metavar="PROJECT")],
    port: Annotated[
        int, typer.Option("--port", help="Port to listen at; 0 for any that is free.", min=0, max=65535)
    ] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
    storage: Annotated[str | None, typer.Option("--storage", help="Folder or URI of the records.")] = None,
) -> None:
    """Label texts on a page of this machine, by keyboard; the model learns meanwhile. Ctrl-C ends it."""
    from al_ray.project.desk import Desk
    from al_ray.project.page.server import PageServer
    from al_ray.project.project import Project

    console = make_console()
    with user_errors(console), Project.open(project, storage=storage) as opened:
        desk = Desk(opened)
        server = PageServer(desk, port)
        console.print(f"{opened.name}: open this address to label texts; Ctrl-C ends it.")
        console.print(server.address, soft_wrap=True, highlight=False)
        sys.stdout.flush()
        if not no_browser and _has_display():
            webbrowser.open(server.at(server.keys.once()))
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.run()
        status = opened.status()
        n_answers = sum(status.annotators.values())
        console.print(
            f"{opened.name}: {status.n_labeled:,} labels to learn from and {status.n_evaluation:,} to measure by, "
            f"{n_answers:,} answers in all; {status.n_open:,} texts of this batch are open."
        )
        if status.end is None:
            again = ["al-ray", "label", project, *([] if storage is None else ["--storage", storage])]
            console.print(f"go on with: {shlex.join(again)}", soft_wrap=True, highlight=False)
        else:
            console.print(f"nothing more is asked: {one_line(status.end)}.")
        if desk.is_computing:
            console.print("The next texts are being chosen, which is waited for; Ctrl-C again leaves at once.")


def _has_display() -> bool:
    """Tell whether a browser can open a window: without one, some would take over the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
