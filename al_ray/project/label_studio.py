"""Label Studio connector: a query goes there as tasks with predictions, annotations come back as answers.

It needs ``label-studio-sdk``, an optional extra of al_ray, and a key in ``LABEL_STUDIO_API_KEY``. One query is sent,
never the pool: Label Studio is made for about 100,000 tasks a project.
"""

import contextlib
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from al_ray.errors import ConfigError, ExecutionError, one_line, without_logins
from al_ray.project.exchange import Asked, Reading, label_studio_tasks, read_label_studio
from al_ray.project.state import Batch

KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
_TIMEOUT_S = 120.0
_N_AT_A_TIME = 200  # tasks of one import; it documents 30 s for one
_HOTKEYS = "123456789"
_SHORTEST_TITLE, _LONGEST_TITLE = 3, 50
# What XML 1.0 cannot hold, escaped or not.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STATUS_WORDS = {
    200: "does not answer as Label Studio does. Mend --url",
    401: f"does not take the key. Set {KEY_VARIABLE} to an access token of yours (Account & Settings)",
    403: "does not let this user do that. Use the token of a user who may manage the project",
    404: "has no such project. Look at the number in its address, /projects/NUMBER/",
}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of sending a query.

    Attributes:
        project_id: number of the Label Studio project.
        n_sent: tasks that were created.
        n_there: tasks of the query that were there already.
        address: where they are labelled.
    """

    project_id: int
    n_sent: int
    n_there: int
    address: str


class LabelStudio:
    """A Label Studio server that one user works on.

    Args:
        client: ``label_studio_sdk.LabelStudio``, or what answers like it.
        url: of the server, for messages.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client, self._url = client, without_logins(url.rstrip("/"))

    @classmethod
    def connect(cls, url: str) -> "LabelStudio":
        """Return the server at an address, with the key of the environment.

        Raises:
            ConfigError: no SDK, no key, or no address of a web server.
        """
        if not re.match(r"https?://[^\s/]", url):
            raise ConfigError(f"--url is {without_logins(url)!r}; it must be like http://127.0.0.1:8080.")
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            raise ConfigError(
                f"{KEY_VARIABLE} is not set. Put an access token of your Label Studio user into that variable of the "
                "environment (Account & Settings)."
            )
        try:
            from label_studio_sdk import LabelStudio as Client
        except ImportError:
            raise ConfigError(
                "label-studio-sdk is not installed. Install it with: pip install 'al-ray[label-studio]'"
            ) from None
        return cls(Client(base_url=url.rstrip("/"), api_key=key, timeout=_TIMEOUT_S), url)

    def send(
        self,
        batch: Batch,
        project_id: int | None,
        *,
        project: str,
        class_names: Sequence[str],
        with_predictions: bool = True,
    ) -> Sent:
        """Send the texts of a query that have no answer yet; those that are there already are not sent again.

        Args:
            batch: the query.
            project_id: number of the Label Studio project; None makes a new one.
            project: name of ours.
            class_names: of all classes.
            with_predictions: let annotators see what the model believes.

        Raises:
            ConfigError: the labels of the Label Studio project are not those of ours.
            ExecutionError: the server is not there, or refuses.
        """
        with self._errors():
            if project_id is None:
                title = project[:_LONGEST_TITLE].ljust(_SHORTEST_TITLE, "_")
                created = self._client.projects.create(title=title, label_config=labelling_config(class_names))
                project_id, there = int(created.id), set[int]()
            else:
                found = self._client.projects.get(project_id)
                check_config(str(found.label_config), class_names, f"{self._url}/projects/{project_id}")
                there = self._sent_before(project_id, batch, project)
            new = [task for task in batch.open if task.id not in there]
            for start in range(0, len(new), _N_AT_A_TIME):
                part = new[start : start + _N_AT_A_TIME]
                tasks = label_studio_tasks(part, batch.id, project, with_predictions=with_predictions)
                self._client.projects.import_tasks(project_id, request=tasks)
        address = f"{self._url}/projects/{project_id}/"
        return Sent(project_id=project_id, n_sent=len(new), n_there=len(there), address=address)

    def fetch(self, project_id: int, asked: Asked) -> Reading:
        """Fetch all answers that the server holds to what a project asked, in this round or an earlier one.

        Raises:
            DataError: an annotation names no class of the project.
            ExecutionError: the server is not there, or refuses.
        """
        with self._errors():
            tasks = [_plain(task) for task in self._client.tasks.list(project=project_id, fields="all")]
            names = {int(user.id): str(user.email) for user in self._client.users.list() if user.email}
        return read_label_studio(tasks, asked, names, f"{self._url}/projects/{project_id}")

    def _sent_before(self, project_id: int, batch: Batch, project: str) -> set[int]:
        """Return which texts of a query are tasks of a Label Studio project, whoever sent them."""
        wanted = {task.id for task in batch.tasks}
        data = [_plain(task)["data"] for task in self._client.tasks.list(project=project_id)]
        return {
            each["al_id"]
            for each in data
            if each.get("al_project") == project and each.get("al_batch") == batch.id and each.get("al_id") in wanted
        }

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in a sentence what the SDK raises, without what its messages hold beside: headers, addresses, keys."""
        try:
            yield
        except Exception as error:
            status, body = getattr(error, "status_code", None), getattr(error, "body", None)
            body = body.get("detail") or body if isinstance(body, dict) else body
            if type(error).__module__.partition(".")[0] == "httpx":
                words = f"cannot be reached: {one_line(error)}. Start it, or mend --url"
            elif any(kind.__name__ == "ApiError" for kind in type(error).__mro__):
                words = _STATUS_WORDS.get(status or 0, f"answers {status}: {one_line(body)}")
            else:
                raise
            raise ExecutionError(f"Label Studio at {self._url} {words}.") from None


def labelling_config(class_names: Sequence[str]) -> str:
    """Return the labelling configuration for a project: one class a text, the first nine on the keys 1 to 9.

    Raises:
        ConfigError: a name cannot be written in XML.
    """
    for name in class_names:
        if odd := _NOT_IN_XML.search(name):
            raise ConfigError(
                f"the class {name!r} has the character {odd[0]!r}, which Label Studio cannot hold. Use files, or name "
                "the class otherwise."
            )
    entities = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
    keys = [f' hotkey="{key}"' for key in _HOTKEYS] + [""] * len(class_names)
    choices = [
        f"    <Choice value={quoteattr(name, entities)}{key}/>" for name, key in zip(class_names, keys, strict=False)
    ]
    lines = [
        "<View>",
        '  <Text name="text" value="$text"/>',
        '  <Choices name="label" toName="text" choice="single" required="true">',
        *choices,
        "  </Choices>",
        "</View>",
    ]
    return "\n".join(lines)


def check_config(config: str, class_names: Collection[str], where: str) -> None:
    """Check that the labels of a Label Studio project are those of ours.

    Raises:
        ConfigError: what differs.
    """
    try:
        root = ET.fromstring(config)
    except ET.ParseError:
        raise ConfigError(f"{where} has no labelling configuration that is XML. Use --project new.") from None
    controls = [each for each in root.iter("Choices") if each.get("name") == "label" and each.get("toName") == "text"]
    texts = [each for each in root.iter("Text") if each.get("name") == "text" and each.get("value") == "$text"]
    if not controls or not texts:
        raise ConfigError(
            f'{where} has other labels than al_ray sends: it needs <Text name="text" value="$text"/> and '
            '<Choices name="label" toName="text">. Use --project new, or that configuration.'
        )
    there = {str(choice.get("alias") or choice.get("value")) for choice in controls[0].iter("Choice")}
    missing, odd = set(class_names) - there, there - set(class_names)
    if missing or odd:
        said = [f"lacks {sorted(missing)}"] if missing else []
        said += [f"has {sorted(odd)}, which the project has not"] if odd else []
        raise ConfigError(f"{where} {' and '.join(said)}. Give both the same classes, or use --project new.")


def _plain(value: Any) -> Any:
    """Return what the SDK gives as plain values, as they came over the wire."""
    return value if isinstance(value, dict) else value.model_dump()
