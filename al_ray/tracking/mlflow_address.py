"""MLflow addresses: which one a study is shown in, and whether an MLflow can be behind it; nothing is asked of it.

What an address says is settled before a study starts. An MLflow that is down then, or goes away, stops no cell: see
:mod:`al_ray.tracking.tracker`.
"""

import difflib
import os
import re
from importlib.metadata import distributions, entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from al_ray.errors import ConfigError, without_secrets
from al_ray.records.study import MLFLOW_FILE
from al_ray.storage.folder import Folder

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_VARIABLE = "MLFLOW_TRACKING_URI"
_OFF = "or turn tracking off: --set tracking=off for a run, --tracking off for a report"
_SERVER_WITHOUT_SCHEME = re.compile(r"[A-Za-z0-9_.-]+:[0-9]+(?:/.*)?")
_SQLITE_BEGINS = b"SQLite format 3\0"


def tracking_address(tracking: str | None, storage: str) -> str | None:
    """Return the MLflow address that an execution asks for, or None where MLflow is not used.

    Args:
        tracking: an address, ``off``, or None for the default: ``MLFLOW_TRACKING_URI``, else a SQLite file in a local
            storage folder, and nothing for remote storage.
        storage: folder of the records.

    Raises:
        ConfigError: no MLflow can be behind it, or the storage folder's name does not fit into an address.
        StorageError: the storage cannot be opened.
    """
    address = (tracking or os.environ.get(_VARIABLE, "")).strip()
    if address == "off":
        return None
    if not address:
        folder = Folder.open(storage)
        if folder.is_local and set("?%") & set(folder.path):
            raise ConfigError(
                f"storage {folder.address} has '?' or '%' in its name, which the address of an MLflow file cannot "
                f"hold. Name the folder otherwise, name an MLflow server, {_OFF}."
            )
        return f"sqlite:///{folder.path}/{MLFLOW_FILE}" if folder.is_local else None
    if fault := _fault(address):
        # What stands before the last "@" of an address that may be malformed may be a password.
        shown = re.sub(r":.*@", "://", address, count=1, flags=re.DOTALL)
        raise ConfigError(without_secrets(f"{'tracking' if tracking else _VARIABLE} is {shown!r}: {fault}, {_OFF}."))
    return address


def scheme_of(address: str) -> str:
    """Return what stands before the colon, without a database's driver; empty for a path."""
    return address.partition(":")[0].partition("+")[0].lower() if ":" in address else ""


def _fault(address: str) -> str | None:
    """Say what is wrong with an address and what would be right, or None where MLflow can be asked.

    MLflow takes addresses of servers, of databases, of Databricks, and those that an installed plug-in registers.
    """
    scheme = scheme_of(address)
    if scheme in ("http", "https"):
        hint = f"that is no server's address. Write {scheme}://HOST or {scheme}://HOST:PORT"
        return None if _names_a_host(address) else hint
    if scheme in DATABASES:
        fault = _fault_of_sqlite(address) if scheme == "sqlite" else None
        return fault or (None if address.lower().startswith("sqlite:") else _fault_of_driver(address))
    if scheme == "databricks" or address == "databricks":
        return None if any(distributions(name="databricks-sdk")) else "it needs a package, 'pip install databricks-sdk'"
    if scheme in {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}:
        return None
    if _SERVER_WITHOUT_SCHEME.fullmatch(address):
        return f"a server's address begins with its scheme. Write http://{address}"
    if scheme not in ("", "file"):
        near = difflib.get_close_matches(scheme, ("http", "https", *DATABASES), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"MLflow knows no scheme {scheme!r}.{hint} Use http://HOST:PORT or sqlite:////FOLDER/{MLFLOW_FILE}"
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
        return None
    path = Path(os.path.abspath(unquote(re.sub(r"\A(?i:file):(?://(?=/))?", "", address))))
    return (
        "MLflow keeps no runs in a folder any more, and what is no address is taken for one. "
        f"Write sqlite:///{path / MLFLOW_FILE} for a file there, or http://HOST:PORT for a server"
    )


def _names_a_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and not re.search(r"\s", address) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _fault_of_sqlite(address: str) -> str | None:
    """Look at the file: SQLite is tried for minutes before a folder in its place is given up."""
    _, slashes, path = address.partition("?")[0].partition(":///")
    if not slashes or path in ("", ":memory:"):
        return f"it names no file. Write sqlite:////FOLDER/{MLFLOW_FILE}, or sqlite:///{MLFLOW_FILE} for one in here"
    file = Path(os.path.abspath(path))
    try:
        holder = next(place for place in file.parents if os.path.exists(place))
        if file.is_dir():
            return f"that is a folder. Name a file in it, sqlite:///{file / MLFLOW_FILE}"
        if not holder.is_dir():
            return f"{holder} is a file. Name another place"
        if not os.access(holder, os.W_OK | os.X_OK):
            return f"{holder} is a folder that cannot be written. Name another place"
        if file.is_file():
            with file.open("rb") as opened:
                if opened.read(len(_SQLITE_BEGINS)) not in (b"", _SQLITE_BEGINS):
                    return "that file is no SQLite database. Name another one, which is made if it is not there"
    except OSError as error:  # such as a name that is too long, or a folder that one may not enter
        return f"{file} cannot be looked at ({error.strerror}). Name another place"
    return None


def _fault_of_driver(address: str) -> str | None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(address).get_dialect().import_dbapi()
    except ArgumentError:  # an unknown driver, or no address of a database
        place = f"//FOLDER/{MLFLOW_FILE}" if scheme_of(address) == "sqlite" else "USER:PASSWORD@HOST/DATABASE"
        return f"that is no database's address. Write {scheme_of(address)}://{place}"
    except ImportError as error:
        return f"its database driver is not here ({error}). Install it, or name a server, http://HOST:PORT"
    return None
