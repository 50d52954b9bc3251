"""Lease of a study: one driver at a time runs it, and renews a file in its folder while it lives.

The file is small, ``driver.json`` for the whole study and ``driver--{cell}.json`` for one cell. On the holder's
own machine its process is looked up; from elsewhere it counts as dead when the file has not changed for a while, by the
clock of the one who waits, so that clocks need not agree. Records do not depend on it: two drivers would compute and
write the same rounds. It saves the second one's time, and tells its owner.
"""

import contextlib
import logging
import os
import platform
import secrets
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from al_ray.errors import StorageError
from al_ray.process import Life, host_id, life_of, start_of_this
from al_ray.records.json import FORMAT, json_file, read_json
from al_ray.records.round import now, now_text
from al_ray.storage.folder import Folder

_WHOLE = "driver.json"
_KEYS = {"id", "host", "host_id", "pid", "process_start", "since", "renewed_at"}

_log = logging.getLogger(__name__)


class InUseError(StorageError):
    """Another driver is at work.

    Attributes:
        holder: which, in words.
    """

    holder: str = ""


class LeaseLostError(InUseError):
    """Another driver took the study over."""


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """How often a lease is renewed, when it counts as dead, how long writers settle, how often others look."""

    renew_every_s: float = 10.0
    dead_after_s: float = 45.0
    settle_s: float = 2.0
    look_every_s: float = 1.0


@dataclass
class Lease:
    """The right to run a study, or one cell of it, as long as this process lives; outages and waits are logged.

    Attributes:
        folder: of the study.
        study: its name, for sentences.
        cell: folder name of the one cell that is to run, or None for the whole study.
    """

    folder: Folder
    study: str
    cell: str | None = None
    times: LeaseTimes = field(default_factory=LeaseTimes)

    def __post_init__(self) -> None:
        self._name = _WHOLE if self.cell is None else f"driver--{self.cell}.json"
        self._what = f"the driver of study {self.study}"
        self._id = secrets.token_hex(8)
        self._since = now().isoformat(timespec="seconds")
        self._stop = threading.Event()
        self._taken_by: str | None = None
        self._thread = threading.Thread(target=self._renew_for_ever, name="lease", daemon=True)

    @contextlib.contextmanager
    def held(self) -> Iterator["Lease"]:
        """Take the lease, keep it fresh, and give it back.

        Raises:
            StorageError: another driver is at work; or the storage cannot be used.
        """
        self._take()
        try:
            self._check_others()
            self._thread.start()
            yield self
        finally:
            self._stop.set()
            if self._thread.is_alive():
                self._thread.join()
            with contextlib.suppress(StorageError):
                if self._read(self._name, self._id) is not None:
                    self.folder.remove(self._name)

    def check(self) -> None:
        """Raise if another driver has taken over, as it may after this one was asleep or cut off.

        Raises:
            LeaseLostError: naming it.
        """
        if self._taken_by is not None:
            error = LeaseLostError(
                f"study {self.study} was taken over by {self._taken_by}, while this one gave no sign of life. "
                "Nothing was lost. Leave it to that one, or stop it and run again."
            )
            error.holder = self._taken_by
            raise error

    def _take(self) -> None:
        for name in self._others():
            self._wait_for_death(name)
            self.folder.remove(name)
        if self.folder.create(self._name, self._content(), self._what) and self.folder.is_local:
            return
        if self._read(self._name, self._id) is None:
            self._wait_for_death(self._name)
            self.folder.write(self._name, self._content(), self._what)
        # Nothing here is atomic on an object store, nor when a dead lease is replaced: the last writer has it.
        time.sleep(self.times.settle_s / 10 if self.folder.is_local else self.times.settle_s)
        holder = self._read(self._name)
        if holder is not None and holder["id"] != self._id:
            raise self._refusal(holder)

    def _check_others(self) -> None:
        """Look once more: a whole study and a cell of it that start at once have not seen each other before."""
        for name in self._others():
            holder = self._read(name)
            if holder is not None and _life_here(holder) != "dead":
                raise self._refusal(holder)

    def _others(self) -> list[str]:
        """Return the leases that exclude this one: a whole study excludes its cells, and each of them the whole."""
        if self.cell is not None:
            return [_WHOLE] if self.folder.exists(_WHOLE) else []
        return _leases(self.folder)[1:]

    def _wait_for_death(self, name: str) -> None:
        """Return once the lease of that name is nobody's.

        Raises:
            StorageError: its holder lives.
        """
        seen, deadline = self._read(name), time.monotonic() + self.times.dead_after_s
        life = "dead" if seen is None else _life_here(seen)
        if seen is None or life == "dead":
            return
        if life == "alive":
            raise self._refusal(seen)
        _log.warning(
            f"a driver on {seen['host']} (process {seen['pid']}) had this study at {seen['renewed_at']}; "
            f"waiting {self.times.dead_after_s:.0f} s for a sign of life."
        )
        while time.monotonic() < deadline:
            time.sleep(self.times.look_every_s)
            found = self._read(name)
            if found is None:
                return
            if found != seen:
                raise self._refusal(found)

    def _refusal(self, holder: dict[str, Any]) -> StorageError:
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        error = InUseError(
            f"study {self.study} is being run by {who}. Watch it (al-ray watch {shlex.quote(self.folder.address)}), or "
            "stop it and run again."
        )
        error.holder = who
        return error

    def _renew_for_ever(self) -> None:
        silent_since: float | None = None
        while not self._stop.wait(self.times.renew_every_s):
            try:
                holder = self._read(self._name)
                if holder is not None and holder["id"] != self._id:
                    self._taken_by = f"process {holder['pid']} on {holder['host']}"
                else:
                    self.folder.write(self._name, self._content(), self._what)
            except StorageError as error:
                if silent_since is None:
                    silent_since = time.monotonic()
                    _log.warning(f"the storage does not answer; cells wait for it. {error}")
                continue
            if silent_since is not None:
                _log.warning(f"the storage answers again, after {time.monotonic() - silent_since:.0f} s.")
                silent_since = None
            if self._taken_by is not None:
                return

    def _read(self, name: str, id_: str | None = None) -> dict[str, Any] | None:
        """Return a lease, or None where there is none, or none with this id."""
        content = read_json(self.folder, name, _KEYS)
        return content if content is None or id_ in (None, content["id"]) else None

    def _content(self) -> bytes:
        content = {
            "format": FORMAT,
            "id": self._id,
            "host": platform.node(),
            "host_id": host_id(),
            "pid": os.getpid(),
            "process_start": start_of_this(),
            "since": self._since,
            "renewed_at": now_text(),
        }
        return json_file(content)


def _life_here(holder: dict[str, Any]) -> Life:
    """Tell what this machine knows of a holder; of one elsewhere, nothing."""
    return life_of(holder["pid"], holder["process_start"]) if holder["host_id"] == host_id() else "unknown"


def living_drivers(folder: Folder) -> list[str]:
    """Return who runs a study or cells of it, in words with the time of the last sign of life; empty for nobody.

    Args:
        folder: of the study.
    """
    return [
        f"process {holder['pid']} on {holder['host']}, last seen {holder['renewed_at']}" for holder in _living(folder)
    ]


def driven_since(folder: Folder) -> datetime | None:
    """Return since when somebody has been running a study or a cell of it, or None for nobody.

    Args:
        folder: of the study.
    """
    return min((datetime.fromisoformat(holder["since"]) for holder in _living(folder)), default=None)


def _living(folder: Folder) -> list[dict[str, Any]]:
    holders = [read_json(folder, name, _KEYS) for name in _leases(folder)]
    return [holder for holder in holders if holder is not None and _life_here(holder) != "dead"]


def _leases(folder: Folder) -> list[str]:
    """Return the names of all leases of a study, that of the whole one first."""
    names = [name for name in folder.names()[0] if name.startswith("driver--") and name.endswith(".json")]
    return [_WHOLE, *names]
