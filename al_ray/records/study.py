"""Study folder: its id, its plan, its cells.

A run names storage and study (:meth:`StudyStore.open`) and may write there; a reader names the study's own folder
(:func:`open_study`), which may be a copy under another name, or on a disk that cannot be written.
"""

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pyarrow import fs

from al_ray.errors import StorageError
from al_ray.records.cell import SPEC, SPEC_KEYS, CellStatus, CellStore, cell_key
from al_ray.records.json import FORMAT, changed_fields, identity_of, json_file, read_json
from al_ray.records.packed import PACKED, PackedCell, PackedCells
from al_ray.records.round import now_text
from al_ray.storage.address import above, is_uri
from al_ray.storage.folder import Folder, check_name

MLFLOW_FILE, MLFLOW_FOLDER = "mlflow.db", "mlartifacts"
_STUDY, _PLAN = "study.json", "plan.json"
_STUDY_KEYS = {"study", "id", "created_at"}
_CELL_FOLDER = re.compile(r"(.+)--([0-9a-f]{8})")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_EXAMPLE = "Name the folder of a study, such as results/my-study."
_N_SHOWN, _N_LOOKED_INTO = 10, 100
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class StudyStore:
    """Study folder.

    Attributes:
        storage: the folder or URI above it; opens the same records on another machine. It may hold a key: it goes to
            workers, and is never shown or recorded.
        study: its name.
        folder: where it is.
    """

    storage: str = field(repr=False)
    study: str
    folder: Folder

    @classmethod
    def open(cls, storage: str, study: str, *, claimed: bool = False, patience_s: float = 0.0) -> "StudyStore":
        """Open the place of a study's records for a run; nothing is written yet.

        Args:
            storage: a folder, or a URI such as ``s3://bucket/folder``.
            study: name of the study.
            claimed: take it that the study is there, as a worker may: see :meth:`claimed`. Nothing is looked at.
            patience_s: how long storage that does not answer is waited for, in every operation; 0: not at all.

        Raises:
            StorageError: the storage cannot be reached or written, is no folder, or the name cannot be a folder.
        """
        check_name("study", study)
        if study in (MLFLOW_FILE, MLFLOW_FOLDER):
            raise StorageError(f"study {study!r} has the name of MLflow's own folder. Name it otherwise.")
        parent = (Folder.at if claimed else Folder.open)(storage, patience_s=patience_s)
        store = cls(parent.location, study, parent.child(study))
        return store.claimed(patience_s) if claimed else store

    @property
    def root(self) -> str:
        """Return the address of the study's folder, for people."""
        return self.folder.address

    def claim(self) -> None:
        """Make the folder this study's, or check that it is. Of two that start at once, both end with one id.

        On an object store the later one's id may replace the other's within the first seconds.

        Raises:
            StorageError: it belongs to another study or another version of al_ray, holds something else, or cannot be
                written.
        """
        if self.folder.read(_STUDY) is None:
            self.check_free()
            content = {"format": FORMAT, "study": self.study, "id": secrets.token_hex(8), "created_at": now_text()}
            self.folder.create(_STUDY, json_file(content), f"study {self.study}")
        self.id()
        for folder in (self.folder, self.packed.folder):
            folder.remove_leftovers(_ABANDONED_S)

    def claimed(self, patience_s: float = 0.0) -> "StudyStore":
        """Return the same records, for work after :meth:`claim`: where ``study.json`` is gone, the storage is away.

        A network disk that is not mounted shows an empty folder. Nothing is then taken for new or absent, and nothing
        is written beneath the mount point.

        Args:
            patience_s: how long each operation waits for the storage; 0: it fails at once.
        """
        return replace(self, folder=self.folder.claimed(_STUDY, patience_s))

    def check_free(self) -> None:
        """Refuse a folder that holds something, and no study.

        Raises:
            StorageError: naming what it holds.
        """
        files, folders = self.folder.names()
        if _STUDY not in files and (files or folders):
            raise StorageError(
                f"{self.root} is not empty and no study of al_ray: it holds {', '.join([*files, *folders][:5])}. "
                f"Rename the study, or move the folder away."
            )

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Keep the grid as it is run now, in the place of an older one.

        Raises:
            StorageError: it cannot be written.
        """
        self.folder.write(_PLAN, json_file(plan, indent=None), f"study {self.study}")

    def plan(self) -> dict[str, Any] | None:
        """Return the grid that was last run, or None for records that were made without one.

        Raises:
            StorageError: it is damaged, or of another version.
        """
        return read_json(self.folder, _PLAN, {"study", "cells", "datasets"}, optional={"methods"})

    def id(self) -> str:
        """Return what tells these records from those of a study of the same name elsewhere; it moves with the folder.

        Raises:
            StorageError: the folder was never claimed, or is another study's.
        """
        found = self._found_id()
        if found is None:
            raise StorageError(f"{self.root} holds no study. Run the study first, or name the storage folder it is in.")
        return found

    @cached_property
    def packed(self) -> PackedCells:
        """The finished quick cells that are recorded together, as they were when somebody first asked."""
        return PackedCells(self.folder)

    def cell_folder(self, slug: str, fingerprint: str) -> CellStore:
        """Return the folder of one cell, which need not exist yet: what a run writes to. Nothing is looked at.

        Args:
            slug: what people call the cell.
            fingerprint: SHA-256 of its spec's identity.

        Raises:
            StorageError: the slug cannot be a folder.
        """
        check_name("cell", slug)
        assert _FINGERPRINT.fullmatch(fingerprint), fingerprint
        return CellStore(self.folder.child(cell_key(slug, fingerprint)), slug, fingerprint)

    def cell(self, slug: str, fingerprint: str) -> CellStore:
        """Return the records of one cell, wherever they are, to read; there need not be any yet.

        Raises:
            StorageError: the slug cannot be a folder, or the parts that may hold the cell cannot be looked at.
        """
        packed = self.packed.readable().get(cell_key(slug, fingerprint))
        return self.cell_folder(slug, fingerprint) if packed is None else self.packed_cell(packed)

    def packed_cell(self, packed: PackedCell) -> CellStore:
        """Return the records of a cell that is recorded together with others."""
        return CellStore(self.packed.files(packed), packed.slug, packed.fingerprint)

    def progress(self, cell: CellStore) -> tuple[CellStatus, int]:
        """Return the status of a recorded cell and how many rounds are recorded; of a packed one nothing is read."""
        packed = self.packed.readable().get(cell.key)
        return cell.progress() if packed is None else ("done", packed.n_rounds)

    def recorded_keys(self) -> list[str]:
        """Return the names of the recorded cells: those that are packed, then those of folders, not looked into.

        A folder whose cell is packed as well was left behind when the cell was computed again, and does not count.

        Raises:
            StorageError: the study cannot be read.
        """
        packed = self.packed.readable()
        folders = self.folder.names()[1]
        return [*packed, *(name for name in folders if name not in packed and _CELL_FOLDER.fullmatch(name))]

    def part_by_part(self, keys: Iterable[str]) -> list[str]:
        """Return names of cells in the order in which they are read fastest: each part's together, folders first."""
        packed = self.packed.readable()
        return sorted(keys, key=lambda key: packed[key].part if key in packed else "")

    def cells(self) -> list[CellStore]:
        """Return every recorded cell, in the order of their names; other folders are not cells.

        Raises:
            StorageError: the study cannot be read, or a part or a cell's ``spec.json`` is damaged or missing.
        """
        self._found_id()
        packed = self.packed.look().whole()
        folders = [key for key in self.recorded_keys() if key not in packed]
        found = self.folder.each(self._find_folder, folders)
        cells = [*map(self.packed_cell, packed.values()), *(cell for cell in found if cell is not None)]
        return sorted(cells, key=lambda cell: cell.key)

    def sizes(self) -> dict[str, int]:
        """Return how many bytes every cell has left here, by its name; packed cells share their part's evenly."""
        sizes: dict[str, int] = {}
        parts = self.packed.parts()
        for path, size in self.folder.sizes().items():
            key, _, name = path.partition("/")
            if key == PACKED:
                for cell in parts.get(name, ()):
                    sizes[cell.key] = sizes.get(cell.key, 0) + size // len(parts[name])
            elif name and _CELL_FOLDER.fullmatch(key):
                sizes[key] = sizes.get(key, 0) + size
        return sizes

    def find(self, key: str) -> CellStore | None:
        """Return the recorded cell of this name, or None where there is none or it was never begun.

        Raises:
            StorageError: its ``spec.json`` is damaged or missing beside recorded rounds.
        """
        packed = self.packed.readable().get(key)
        return self._find_folder(key) if packed is None else self.packed_cell(packed)

    def _find_folder(self, key: str) -> CellStore | None:
        match = _CELL_FOLDER.fullmatch(key)
        if match is None:
            return None
        folder = self.folder.child(key)
        stored, where = read_json(folder, SPEC, SPEC_KEYS), folder.where(SPEC)
        if stored is None:
            if any(name.startswith("round-") for name in folder.names()[0]):
                raise StorageError(f"{where} is missing, but rounds are recorded. Move the folder away.")
            return None
        if stored["slug"] != match[1] or not stored["fingerprint"].startswith(match[2]):
            raise StorageError(
                f"{where} belongs to the cell {cell_key(stored['slug'], stored['fingerprint'])}. "
                f"Give the folder its name back."
            )
        return CellStore(folder, stored["slug"], stored["fingerprint"])

    def check_drift(self, drifted: Iterable[tuple[CellStore, Mapping[str, Any]]]) -> None:
        """Refuse recorded cells that a changed study no longer explains.

        Args:
            drifted: the recorded cells whose slug now has another fingerprint, with the spec that it has now, in its
                JSON form.

        Raises:
            StorageError: there are such cells; lists every changed field.
        """
        cells = list(drifted)
        lines = [_drift(cell, spec) for cell, spec in cells]
        if lines:
            packed = self.packed.readable()
            parts = sorted({packed[cell.key].part for cell, _ in cells if cell.key in packed})
            ways = ["undo the change"]
            if any(cell.key not in packed for cell, _ in cells):
                ways.append("move the folders of these cells out of the study")
            if parts:
                shown = ", ".join(map(self.packed.where, parts[:_N_SHOWN]))
                others = f" and {len(parts) - _N_SHOWN} more" if len(parts) > _N_SHOWN else ""
                ways.append(f"move these parts away: {shown}{others}; the other cells in them are then run anew")
            more = [f"... and {len(lines) - _N_SHOWN} more cells"] if len(lines) > _N_SHOWN else []
            raise StorageError(
                "\n".join(
                    [
                        f"{self.root} holds records that the study no longer explains (recorded -> now):",
                        *lines[:_N_SHOWN],
                        *more,
                        f"Rename the study, {', '.join(ways[:-1])}, or {ways[-1]}.",
                    ]
                )
            )

    def _found_id(self) -> str | None:
        """Return the id in ``study.json``, or None where the folder was never claimed.

        Raises:
            StorageError: it is another study's.
        """
        content = read_json(self.folder, _STUDY, _STUDY_KEYS)
        if content is not None and content["study"] != self.study:
            raise StorageError(
                f"{self.folder.where(_STUDY)} says that the folder belongs to the study {content['study']!r}, not "
                f"{self.study!r}. Give the folder its name back, or rename the study."
            )
        return None if content is None else str(content["id"])


def _drift(cell: CellStore, spec: Mapping[str, Any]) -> str:
    stored = cell.spec()
    versions = [each.get("spec_version") for each in (stored, spec)]
    if versions[0] != versions[1]:
        return f"  {cell.key}: a spec of version {versions[0]!r}, this al_ray writes version {versions[1]!r}"
    changes = changed_fields(identity_of(stored), identity_of(spec)) or [
        "no field differs: the fingerprint was made in another way"
    ]
    return f"  {cell.key}: {'; '.join(changes)}"


def open_study(address: str) -> StudyStore:
    """Open the study that a folder or URI holds, for reading; it need not have the study's name.

    Raises:
        StorageError: there is no such folder, or it is no study.
    """
    folder = _open_folder(address)
    content = read_json(folder, _STUDY, _STUDY_KEYS)
    if content is None:
        raise StorageError(_no_study(folder))
    return StudyStore(above(folder.location)[0], content["study"], folder)


def _open_folder(address: str) -> Folder:
    """Open a folder; unlike the storage of a run it may be on a disk that cannot be written."""
    if is_uri(address) or not address.strip():
        return Folder.open(address)
    local = os.path.abspath(os.path.expanduser(address))
    if os.path.isfile(local):
        raise StorageError(f"{local} is a file. {_EXAMPLE}")
    if not os.path.isdir(local):
        raise StorageError(f"there is no folder {local}. {_EXAMPLE}")
    return Folder(fs.LocalFileSystem(), local, local)


def _no_study(folder: Folder) -> str:
    said = f"{folder.address} is no study of al_ray: it has no {_STUDY}."
    inside = [name for name in folder.names()[1][:_N_LOOKED_INTO] if _is_study(folder, name)]
    if not inside:
        return f"{said} {_EXAMPLE}"
    studies = "the study" if len(inside) == 1 else "the studies"
    return f"{said} It holds {studies} {', '.join(inside[:5])}: name one of them."


def _is_study(folder: Folder, name: str) -> bool:
    try:
        return folder.child(check_name("study", name)).exists(_STUDY)
    except StorageError:
        return False
