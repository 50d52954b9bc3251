"""Data sets by path: a folder of splits, or a single file, in Parquet, CSV or JSONL."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from al_ray.core.types import TextDataset, TextSplit
from al_ray.data.rows import FORMATS, Rows, missing_file, read_rows
from al_ray.data.splits import Columns, content_sha256, make_pool, make_splits, split_off_test
from al_ray.errors import ConfigError, DataError
from al_ray.registry import LATER, Within, build_dataclass, check_options

DATA_FOLDER_VARIABLE = "AL_RAY_DATA"
_NAME = re.compile(r"[a-z0-9_-]{1,40}")
_PART = re.compile(r"(?P<split>train|test)(-(?P<part>\d+)-of-(?P<of>\d+))?(?P<format>\.\w+)")


@dataclass(frozen=True)
class PathSource:
    """Rows under a path that the study names.

    A folder holds ``train.*`` and ``test.*`` (or parts such as ``train-00000-of-00002.parquet``). A single file needs
    ``test``, the path of another file, or ``test_fraction``, which draws a stratified test split, the same every time.

    Attributes:
        path: folder or file.
        text: column of the text.
        label: column of the class: its name, or its index; null where a pool to label has none.
        id: column of a unique integer; without it the row number is the id.
        group: column that names the data slice of each example.
        test: file of the test split.
        test_fraction: share of the rows that becomes the test split, in (0, 1).
        name: what results call the data set; lower-case letters, digits, ``_`` and ``-``. Default: from the path.
        classes: class names in label order, as the label column writes them, so that numbers name integer labels;
            without it the file's metadata or the sorted names.
        none_of_these: what the label column says of texts of no class, such as ``[other, spam]``: they stay in the
            pool, the oracle says that they are none of the classes, and no model learns or is measured by them.
    """

    path: str
    text: str = "text"
    label: str | None = "label"
    id: str | None = None
    group: str | None = None
    test: str | None = None
    test_fraction: Annotated[float, Within(gt=0, lt=1, right="it must lie in (0, 1)")] | None = None
    name: str = ""
    classes: tuple[str, ...] | None = None
    none_of_these: Annotated[tuple[str, ...] | None, LATER] = None

    def __post_init__(self) -> None:
        check_options(self)
        if not self.path.strip():
            raise ConfigError("path is empty. Name a folder or a file.")
        if self.name and not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name is {self.name!r}, it must be 1 to 40 lower-case letters, digits, '_' or '-'. "
                f"Write for example {_slug(self.name)!r}."
            )
        if self.test == self.path:
            raise ConfigError(
                f"test is {self.test!r}, the training file itself. Name another file, or use test_fraction."
            )
        if self.test is not None and self.test_fraction is not None:
            raise ConfigError("both test and test_fraction are given. Keep one of them.")
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ConfigError(f"classes is {list(self.classes)}, it must name at least two classes, each once.")
        if both := sorted({*(self.classes or ())} & {*(self.none_of_these or ())}):
            raise ConfigError(f"classes and none_of_these both name {both[0]!r}. Keep it in one of them.")
        columns = list(self._columns().wanted().values())
        if len(set(columns)) < len(columns):
            raise ConfigError(f"text, label, id and group name the columns {columns}; each needs a column of its own.")

    @classmethod
    def from_option(cls, option: Mapping[str, Any]) -> "PathSource":
        """Build it from a study file's mapping; the name is filled in from the path where it is not given.

        Raises:
            ConfigError: an unknown field, a wrong type, or a value out of range.
        """
        values = {**option}
        for key in ("classes", "none_of_these"):
            if isinstance(option.get(key), list | tuple):
                values[key] = _named_classes(key, option[key])
        source = build_dataclass(cls, values, "data set by path")
        return source if source.name else replace(source, name=_name_from(Path(source.path)))

    def load(self) -> TextDataset:
        """Read and check all rows.

        Raises:
            DataError: the rows are missing, unreadable, or break a rule of the family.
        """
        if self.label is None:
            raise ConfigError("label is null, and a study needs labels. Name the column that holds them.")
        return self.dataset_of(*self.read())

    def load_pool(self) -> TextDataset:
        """Read and check a pool to label, whose labels may be missing in part or altogether; it has no test split.

        Raises:
            DataError: the rows are missing, unreadable, or break a rule of the family.
            ConfigError: no classes are named, or the folder holds a test split as well.
        """
        if self.none_of_these:
            raise ConfigError(
                f"none_of_these is {list(self.none_of_these)}, which tells the oracle of a simulation what to answer; "
                "in a project people say that a text is none of the classes. Leave it out."
            )
        if self.classes is None:
            raise ConfigError("a pool to label needs the names of its classes. Write 'classes: [..., ...]'.")
        path = self._existing()
        files, test = split_files(path) if path.is_dir() else ([path], [])
        if test:
            raise ConfigError(f"{path} has a test split, and a pool to label is one file. Name it: {files[0]}.")
        columns = self._columns()
        rows = read_rows(files, columns.wanted())
        pool = make_pool(rows, columns, self.classes)
        nothing = np.empty(0, dtype=np.int64)
        test_split = TextSplit(ids=nothing, texts=[], labels=nothing, groups=None if pool.groups is None else [])
        return TextDataset(
            name=self.name or _name_from(Path(self.path)),
            class_names=self.classes,
            train=pool,
            test=test_split,
            source=rows.where,
            content_sha256=content_sha256(self.classes, pool, test_split),
        )

    def dataset_of(self, train: Rows, test: Rows | None = None) -> TextDataset:
        """Check rows that were read (:meth:`read`) and make the data set of them.

        Raises:
            DataError: they break a rule of the family.
        """
        columns = self._columns()
        parts = [train] if test is None else [train, test]
        names, splits = make_splits(parts, columns, self.classes, self.none_of_these or ())
        if test is None:
            assert self.test_fraction is not None
            splits = list(split_off_test(splits[0], self.test_fraction, names))
        return TextDataset(
            name=self.name or _name_from(Path(self.path)),
            class_names=names,
            train=splits[0],
            test=splits[1],
            source=train.where if test is None else f"{train.where}; {test.where}",
            content_sha256=content_sha256(names, splits[0], splits[1]),
        )

    def _columns(self) -> Columns:
        return Columns(text=self.text, label=self.label, id=self.id, group=self.group)

    def read(self) -> tuple[Rows, Rows | None]:
        """Read the rows of both splits, unchecked, or of the one file that is to be split.

        Raises:
            DataError: a file is missing, unreadable or lacks a column.
            ConfigError: both or neither of a test split and a fraction for one are there.
        """
        columns, path = self._columns(), self._existing()
        train, test = split_files(path) if path.is_dir() else ([path], [])
        rows = read_rows(train, columns.wanted())
        if test and (self.test is not None or self.test_fraction is not None):
            raise ConfigError(f"{path} has a test split of its own. Leave out test and test_fraction.")
        if not test and self.test is None and self.test_fraction is None:
            raise ConfigError(
                f"{path} has no test split. Name one with {{path: ..., test: FILE}}, or draw one with "
                "{path: ..., test_fraction: 0.2}."
            )
        test = test if self.test is None else [Path(self.test).expanduser()]
        return rows, read_rows(test, columns.wanted()) if test else None

    def _existing(self) -> Path:
        path = Path(self.path).expanduser()
        if not os.path.exists(path):  # of a name that is too long, too
            raise DataError(f"{missing_file(path)} Give a folder with train.* and test.*, or a file.")
        return path


def data_folder() -> Path | None:
    """Return the folder named by ``AL_RAY_DATA``, or None where it is not set.

    Raises:
        DataError: it is set to something that is not a folder.
    """
    value = os.environ.get(DATA_FOLDER_VARIABLE, "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        start = "" if folder.is_absolute() else f" in {Path.cwd()}"
        raise DataError(
            f"{DATA_FOLDER_VARIABLE} is {value!r}, which is not a folder{start}. Set it to one that holds "
            "NAME/train.parquet and NAME/test.parquet, or unset it to use the Hugging Face Hub."
        )
    return folder


def named_folder(name: str) -> Path | None:
    """Return the folder in ``AL_RAY_DATA`` of that name, whatever it holds; None where there is none.

    Raises:
        DataError: ``AL_RAY_DATA`` is not a folder.
    """
    root = data_folder()
    is_name = name not in ("", ".", "..") and os.sep not in name
    return root / name if root is not None and is_name and os.path.isdir(root / name) else None


def named_folders() -> list[str]:
    """Return the names of the folders in ``AL_RAY_DATA`` that hold a training split; a study may name its data so.

    Raises:
        DataError: ``AL_RAY_DATA`` is not a folder.
    """
    root = data_folder()
    paths = [] if root is None else sorted(root.iterdir())
    folders = [path for path in paths if path.is_dir() and os.access(path, os.R_OK)]
    return [folder.name for folder in folders if _files_of(folder, "train")]


def split_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Find the files of the training and the test split in a folder; the test split may be missing.

    Raises:
        DataError: no training split, a split in more than one format, or a part that is not there.
    """
    train, test = _files_of(folder, "train"), _files_of(folder, "test")
    if not train:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"{folder} has no training split: expected train{FORMATS[0]}, train{FORMATS[1]} or train{FORMATS[2]}, "
            f"found {there}. Rename or convert the file, or give its path."
        )
    return _whole(folder, train), _whole(folder, test)


def _files_of(folder: Path, split: str) -> list[re.Match[str]]:
    found = [_PART.fullmatch(path.name) for path in sorted(folder.iterdir()) if path.is_file()]
    return [match for match in found if match and match["split"] == split and match["format"] in FORMATS]


def _whole(folder: Path, matches: list[re.Match[str]]) -> list[Path]:
    """Return the files of one split in order, after checking that they are one file or all parts of one set."""
    names = [match.string for match in matches]
    parts = [match for match in matches if match["part"] is not None]
    if len(matches) > 1 and (len(parts) < len(matches) or len({(m["format"], m["of"]) for m in parts}) > 1):
        raise DataError(f"{folder} holds one split more than once: {', '.join(names)}. Keep one of them.")
    if parts and [int(match["part"]) for match in parts] != list(range(int(parts[0]["of"]))):
        raise DataError(
            f"{folder} has {len(parts)} of the {int(parts[0]['of'])} parts of its {parts[0]['split']} split "
            f"({', '.join(names)}). Copy the missing parts."
        )
    return [folder / name for name in names]


def _named_classes(key: str, classes: Any) -> tuple[Any, ...]:
    """Take numbers as the names of classes: in YAML ``[1, 2, 3]`` are the classes of the labels 1, 2 and 3.

    Raises:
        ConfigError: numbers and names are mixed, so that an integer label could be meant as either.
    """
    are_integers = [isinstance(name, int) and not isinstance(name, bool) for name in classes]
    if any(are_integers) and not all(are_integers):
        raise ConfigError(
            f"{key} is {list(classes)}, which mixes numbers and names. Write every class as the label column has it, "
            f"a number that is a name in quotes: {[str(name) for name in classes]}."
        )
    return tuple(str(name) if all(are_integers) else name for name in classes)


def _name_from(path: Path) -> str:
    stem = path.stem if path.suffix in FORMATS else path.name
    return _slug(path.parent.name if stem in ("train", "test") else stem)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_")[:40] or "data"
