"""A Label Studio in memory, behind the calls of its SDK that al_ray makes, with tasks as its API has them."""

from dataclasses import dataclass, field
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any


class ApiError(Exception):
    """What the SDK raises for an answer that is no success; its text tells headers, and with them secrets."""

    def __init__(self, status_code: int, body: Any, headers: dict[str, str]) -> None:
        super().__init__(f"headers: {headers}, status_code: {status_code}, body: {body}")
        self.status_code, self.body = status_code, body


class UnauthorizedError(ApiError):
    """One of the kinds that the SDK has for some of them."""


@dataclass
class Server:
    """What the server holds, and which key it takes."""

    key: str
    configs: dict[int, str] = field(default_factory=dict)
    tasks: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    emails: dict[int, str] = field(default_factory=lambda: {1: "ada@example.org", 2: ""})
    numbers: Any = field(default_factory=lambda: count(1))

    def sdk(self) -> ModuleType:
        """Return a module that stands for ``label_studio_sdk``."""
        module = ModuleType("label_studio_sdk")
        module.LabelStudio = lambda **options: Client(self, options["api_key"])  # type: ignore[attr-defined]
        return module

    def annotate(self, task: dict[str, Any], label: str | None, *, by: int = 1, seconds: float | None = 3.5) -> None:
        """Answer a task as its page does; None skips it."""
        result = [] if label is None else [
            {"id": "x", "type": "choices", "from_name": "label", "to_name": "text", "value": {"choices": [label]}}
        ]  # fmt: skip
        number = next(self.numbers)
        task["annotations"].append(
            {"id": number, "completed_by": by, "result": result, "was_cancelled": label is None, "lead_time": seconds,
             "ground_truth": False, "created_at": f"2026-11-30T05:{number % 60:02d}:00.000000Z",
             "updated_at": f"2026-11-30T05:{number % 60:02d}:00.000000Z"}
        )  # fmt: skip


class Client:
    """The calls of the SDK's client."""

    def __init__(self, server: Server, key: str) -> None:
        self._server, self._key = server, key
        self.projects = SimpleNamespace(create=self._create, get=self._get, import_tasks=self._import)
        self.tasks = SimpleNamespace(list=self._tasks)
        self.users = SimpleNamespace(list=self._users)

    def _require(self, project: int | None = None) -> None:
        headers = {"authorization": f"Token {self._key}"}
        if self._key != self._server.key:
            raise UnauthorizedError(401, {"detail": "Invalid token."}, headers)
        if project is not None and project not in self._server.configs:
            raise ApiError(404, {"detail": "No Project matches the given query."}, headers)

    def _create(self, *, title: str, label_config: str) -> Any:
        self._require()
        if not 3 <= len(title) <= 50:
            raise ApiError(400, {"title": "Ensure this field has at least 3 characters."}, {})
        number = len(self._server.configs) + 1
        self._server.configs[number], self._server.tasks[number] = label_config, []
        return SimpleNamespace(id=number, label_config=label_config)

    def _get(self, project: int) -> Any:
        self._require(project)
        return SimpleNamespace(id=project, label_config=self._server.configs[project])

    def _import(self, project: int, *, request: list[dict[str, Any]]) -> None:
        self._require(project)
        self._server.tasks[project] += [
            {"id": next(self._server.numbers), "data": task["data"], "predictions": task["predictions"],
             "annotations": []} for task in request
        ]  # fmt: skip

    def _tasks(self, *, project: int, fields: str = "task_only") -> list[dict[str, Any]]:
        self._require(project)
        tasks = reversed(self._server.tasks[project])
        return [task if fields == "all" else {"id": task["id"], "data": task["data"]} for task in tasks]

    def _users(self) -> list[Any]:
        self._require()
        return [SimpleNamespace(id=number, email=email) for number, email in self._server.emails.items()]
