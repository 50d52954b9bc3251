"""Server of the page: what it answers, and how it is started and ended."""

import dataclasses
import json
import socket
from importlib.resources import files
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from al_ray.errors import AlRayError, ConfigError, DataError, one_line
from al_ray.project.desk import Desk, Hand
from al_ray.project.page.guard import Guard, Keys
from al_ray.project.state import Task

N_IN_HAND = 3  # the text that is read, and what the page shows next without asking
_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_ENDING_S = 2

Annotator = Annotated[str, Field(min_length=1, max_length=80)]
Id = Annotated[int, Field(ge=0, lt=2**63)]


class AsciiJson(Response):
    """JSON in ASCII: a text may hold half a surrogate pair, which no UTF-8 can."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write it; the keys keep their order."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class AnswerSent(BaseModel):
    """An answer as the page sends it.

    Attributes:
        annotator: who.
        id: of the text.
        label: name of the class; null: not sure.
        submission: made by the page, the same when it sends the answer again.
        seconds: that the text was looked at.
        note: for people.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    annotator: Annotator
    id: Id
    label: Annotated[str, Field(max_length=2000)] | None
    submission: Annotated[str, Field(min_length=8, max_length=80)]
    seconds: Annotated[float, Field(ge=0, le=7 * 86400, allow_inf_nan=False)] | None = None
    note: Annotated[str, Field(max_length=2000)] = ""


class SkipSent(BaseModel):
    """A text that is put back.

    Attributes:
        annotator: who skips it.
        id: of the text.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    annotator: Annotator
    id: Id


def make_app(desk: Desk) -> FastAPI:
    """Return the page of a desk, without its guard."""
    # No pages about itself: they would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _serve_files(app)
    _explain_errors(app)

    @app.get("/api/next")
    def next_texts(annotator: Annotated[str, Query(min_length=1, max_length=80)]) -> Response:
        return AsciiJson(_hand(desk, annotator))

    @app.get("/api/status")
    def status() -> Response:
        return AsciiJson(_status(desk))

    @app.get("/api/project")
    def project() -> Response:
        status = desk.project.status()
        names = {"name": status.name, "classes": list(desk.project.class_names)}
        return AsciiJson({**names, "annotators": [name for name in status.annotators if name != "unnamed"]})

    @app.get("/api/earlier")
    def earlier(
        annotator: Annotated[str, Query(min_length=1, max_length=80)], back: Annotated[int, Query(ge=1, le=10**9)]
    ) -> Response:
        found = desk.earlier(annotator, back)
        if found is None:
            return AsciiJson(None)
        label, names = found.answer.label, desk.project.class_names
        given = {"label": None if label is None else names[label], "note": found.answer.note}
        return AsciiJson({"id": found.answer.id, "text": found.text, **given, "n": found.n})

    @app.post("/api/answer")
    def answer(sent: AnswerSent) -> Response:
        desk.answer(
            sent.annotator, sent.id, sent.label, submission=sent.submission, seconds=sent.seconds, note=sent.note
        )
        return AsciiJson(_hand(desk, sent.annotator))

    @app.post("/api/skip")
    def skip(sent: SkipSent) -> Response:
        desk.skip(sent.annotator, sent.id)
        return AsciiJson(_hand(desk, sent.annotator))

    @app.post("/api/again")
    def again() -> Response:
        desk.try_again()
        return AsciiJson(_status(desk))

    return app


def _serve_files(app: FastAPI) -> None:
    folder = files("al_ray.project.page") / "static"
    for path, name in _FILES.items():
        content = (folder / name).read_bytes()
        kind = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"

        def serve(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, headers={"content-type": kind})

        app.add_api_route(path, serve, response_model=None)


def _explain_errors(app: FastAPI) -> None:
    """Answer with sentences: 400 where sending it again is of no use, 503 where it may be."""

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()[:3])
        return PlainTextResponse(f"The request cannot be read: {said}", 400)

    @app.exception_handler(AlRayError)
    def refused(request: Request, error: AlRayError) -> Response:
        return PlainTextResponse(one_line(error), 400 if isinstance(error, DataError) else 503)

    @app.exception_handler(HTTPException)
    def no_such_page(request: Request, error: HTTPException) -> Response:
        return PlainTextResponse("There is no such page.", error.status_code)


def _hand(desk: Desk, annotator: str) -> dict[str, Any]:
    hand = desk.hand_out(annotator, N_IN_HAND)
    return {
        "state": hand.state,
        "message": hand.message,
        "with_others": hand.with_others,
        "tasks": [_task(task, hand) for task in hand.tasks],
        "progress": _progress(desk),
    }


def _task(task: Task, hand: Hand) -> dict[str, Any]:
    return {**dataclasses.asdict(task), "again": task.id in hand.again}


def _progress(desk: Desk) -> dict[str, Any] | None:
    progress = desk.project.progress
    if progress is not None:
        return dataclasses.asdict(progress)
    return {"doing": "starting", "share": None} if desk.is_computing else None


def _status(desk: Desk) -> dict[str, Any]:
    status = desk.project.status()
    shown = {each.name: getattr(status, each.name) for each in dataclasses.fields(status)}
    return {
        **shown,
        "class_counts": list(status.class_counts.items()),
        "curve": [dataclasses.asdict(point) for point in status.curve],
        "outlook": None if status.outlook is None else dataclasses.asdict(status.outlook),
        "advice": list(status.advice.items()),
        "annotators": list(status.annotators.items()),
        "progress": _progress(desk),
    }


class PageServer:
    """The page at its address: nobody but this machine can reach it.

    Args:
        desk: that hands out texts and takes answers.
        port: to listen at; 0: any that is free.

    Raises:
        ConfigError: the port cannot be had.
    """

    def __init__(self, desk: Desk, port: int = 0) -> None:
        self.keys = Keys()
        self._socket = _listen(port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            Guard(make_app(desk), self.keys, self.port),
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=_ENDING_S,
        )
        self._server = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """Address with the token in it."""
        return self.at(self.keys.token)

    def at(self, token: str) -> str:
        """Return the address with another token."""
        return f"http://127.0.0.1:{self.port}/?token={token}"

    def run(self) -> None:
        """Answer until Ctrl-C or :meth:`stop`; what is being written is finished.

        Raises:
            KeyboardInterrupt: by Ctrl-C.
        """
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End :meth:`run`, from another thread."""
        self._server.should_exit = True


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"--port {port} cannot be used: {error.strerror}. Leave the option out, or name a free port."
        ) from None
    return listening
