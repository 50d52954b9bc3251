"""Study files: YAML in, a list of cell specs and the settings of their execution out."""

import difflib
import itertools
import math
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from al_ray.errors import ConfigError, unknown_name
from al_ray.registry import LARGEST, describe, shown_value, validate, validation_words
from al_ray.storage.address import is_uri, shown
from al_ray.study.names import CellNames, name_cells, slugs_of
from al_ray.study.spec import CellSpec, Precision, make_spec

MAX_VALUES = 100_000  # in a file, every alias written out
MAX_KEYS = 1000  # in one mapping, merged ones included


def read_yaml(where: str, text: str) -> Any:
    """Read YAML that a stranger may have written.

    Raises:
        ConfigError: it is no YAML, asks for Python objects, or is larger than it looks.
    """
    try:
        value = yaml.load(text, Loader=_StudyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if _n_values(value, {}) > MAX_VALUES:
        raise ConfigError(
            f"{where} has more than {MAX_VALUES:,} values once its aliases are written out, or an alias inside itself. "
            "Write a count as {range: [first, one past the last]}."
        )
    return value


def read_scalar(text: str) -> Any:
    """Read a number, ``true``, ``false`` or ``null`` that was typed on a command line; anything else is a text."""
    loader = _StudyLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    try:
        return loader.construct_object(yaml.ScalarNode(tag, text))  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError):  # "<<", or thousands of digits
        return text


def _n_values(value: Any, known: dict[int, float]) -> float:
    """Count the values of nested YAML without writing aliases out; a value inside itself has no end."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(part, known) for part in parts)
    return known[id(value)]


class _StudyLoader(yaml.SafeLoader):
    """Safe YAML: ``2e-5`` is a number, ``off`` and a date are texts, a repeated key is an error, no merge explodes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged keys into a mapping.

        Raises:
            ConstructorError: there are so many of them that a merge of merges is growing without end.
        """
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        n_merged = sum(len(value.value) for value in merged if isinstance(value, yaml.SequenceNode))
        if n_merged <= MAX_KEYS:
            super().flatten_mapping(node)
        _check_n_keys(node, max(n_merged, len(node.value)))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _check_n_keys(node, len(node.value))
        # A merge ("<<: *block") fills in what the mapping leaves out, so its keys may come twice.
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]  # type: ignore[no-untyped-call]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one mapping", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _check_n_keys(node: yaml.MappingNode, n_keys: int) -> None:
    if n_keys > MAX_KEYS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a mapping has more than {MAX_KEYS:,} keys", node.start_mark
        )


# YAML 1.1 reads off, on, no and yes as booleans, 2026-11-29 as a date, 010 as eight, 1:30 as ninety and 2e-5 as a text;
# people mean the text and the number.
_StudyLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"(?:true|false)\Z", "tf"),
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)\Z", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z", "-+.0123456789"),
    ("float", r"(?:[-+]?\.inf|\.nan)\Z", "-+."),
    ("merge", r"<<\Z", "<"),
):
    _StudyLoader.add_implicit_resolver(  # type: ignore[no-untyped-call]
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first)
    )


TrackedCells = typing.Literal["auto", "all", "none"]
MOST_TRACKED = 1000
LIST_FIELDS = ("filters", "stopping")
MAX_FILE_BYTES = 2**20
MAX_CELLS = 100_000
SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class Execution(BaseModel):
    """Where and how a study runs; changes nothing that is computed.

    Attributes:
        storage: folder or URI of the records, anything that pyarrow's file systems open.
        lanes: cells that run side by side; None: as many as fit.
        cpus_per_worker: cores, and torch threads, of one worker.
        gpus_per_worker: GPUs, or a fraction of one.
        accelerator_type: Ray's name of a GPU, such as ``A10G``; cells run only on nodes that have it.
        wait_for_nodes: accept more lanes than fit today, on a cluster that grows; needs ``lanes``.
        scoring: whether CPUs or GPUs beside a cell's lane score its pool with it: never (``lane``), wherever some are
            free (``cluster``), or where it pays (``auto``).
        storage_patience_s: how long a cell waits for storage that is away, or full, before it fails; 0: not at all.
        retries: how often a cell is taken up again after a worker died.
        cache: keep what encoders make of a pool in the storage, for all studies that read it, see ``al-ray cache``.
        address: Ray to join, ``auto`` or host:port; None starts one here, unless ``RAY_ADDRESS`` is set.
        tracking: MLflow address, ``off``, or None: ``MLFLOW_TRACKING_URI``, else a SQLite file in the storage folder.
        tracked_cells: whether MLflow gets a run for each cell, or those of methods alone: ``all``, ``none``, or
            ``auto``: all where the study has no more than 1,000.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", json_schema_extra=describe)

    storage: str = "results"
    lanes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    cpus_per_worker: Annotated[int, Field(ge=1, le=10_000)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0, le=1000)] = 0.0
    accelerator_type: str | None = None
    wait_for_nodes: bool = False
    scoring: Literal["lane", "cluster", "auto"] = "auto"
    # The other workers of a cell wait half an hour for its first one: longer than this, and than one slow try.
    storage_patience_s: Annotated[float, Field(ge=0, le=1200)] = 300.0
    retries: Annotated[int, Field(ge=0, le=1_000_000)] = 2
    cache: bool = True
    address: str | None = None
    tracking: str | None = None
    tracked_cells: TrackedCells = "auto"

    @property
    def device(self) -> str:
        """What its workers compute on, in torch's word: ``cuda`` where they have a GPU, else ``cpu``."""
        return "cuda" if self.gpus_per_worker > 0 else "cpu"


def tracks_cells(tracked: TrackedCells, n_cells: int) -> bool:
    """Tell whether MLflow gets a run for each cell of a study of so many, beside those of its methods."""
    return tracked == "all" or (tracked == "auto" and n_cells <= MOST_TRACKED)


DEVICES = ("cpu", "cuda")
_NOT_IN_A_STUDY = (
    "oracle {!r} answers in its own time, and a study waits for nobody. Use 'ground_truth', or make a project of it: "
    "al-ray new --project DATA."
)


class Study(BaseModel):
    """A study: what its file holds, with the grid laid out; ``Study(study="mine", grid=[...], defaults={...})``.

    Attributes:
        study: name of the study, of its folder and of its MLflow experiment.
        description: one paragraph for people.
        defaults: values of every cell.
        grid: blocks; a list in a block is an axis, ``{range: [42, 52]}`` counts.
        execution: where and how to run, unless the command line says otherwise. Where a precision is given by device,
            ``{cpu: float32, cuda: bf16}``, it also says which one a cell has: :meth:`laid_out_for` takes another.

    Raises:
        ConfigError: cells that cannot be, with all the problems found.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", json_schema_extra=describe)

    study: Annotated[str, Field(max_length=80, json_schema_extra={"pattern": f"^{SLUG.pattern[:-2]}$"})]
    description: str = ""
    defaults: dict[str, Any] = {}
    grid: Annotated[list[dict[str, Any]], Field(min_length=1)]
    execution: Execution = Execution()
    _cells: dict[str, CellSpec] = PrivateAttr()
    _names: dict[str, CellNames] = PrivateAttr()

    def __init__(self, where: str = "study", /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(validation_words(error, type(self), where)) from None
        if not SLUG.match(self.study):
            raise ConfigError(
                f"{where}: study is {self.study!r}; it names a folder, so use letters, digits, '.', '_' and '-', the "
                "first of them a letter or a digit."
            )
        specs = self._laid_out()
        names = name_cells([spec for _, spec in specs])
        slugs = slugs_of([spec for _, spec in specs], names)
        self._cells, blocks = {}, dict[str, str]()
        for slug, (block, spec) in zip(slugs, specs, strict=True):
            if slug in blocks:
                raise ConfigError(
                    f"{block}: the cell {slug} is in the grid already ({blocks[slug]}). Drop one of the two."
                )
            self._cells[slug], blocks[slug] = spec, block
        self._names = dict(zip(slugs, names, strict=True))

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study

    @property
    def cells(self) -> dict[str, CellSpec]:
        """Every cell's spec by its slug, in the order of the grid."""
        return self._cells

    @property
    def names(self) -> dict[str, CellNames]:
        """What people call every cell, by its slug."""
        return self._names

    def laid_out_for(self, execution: Execution) -> "Study":
        """Return the study as another execution runs it: with the precisions of the device that it computes on.

        Raises:
            ConfigError: a precision is given for the other device alone, or two cells become one.
        """
        by_device = list(self._precisions_by_device())
        for at, given in by_device:
            if execution.device not in given:
                raise ConfigError(_no_precision(at, given, execution))
        if not by_device or execution.device == self.execution.device:
            return self
        return Study(**{name: getattr(self, name) for name in Study.model_fields} | {"execution": execution})

    def _precisions_by_device(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield every precision that is given by device, with the words for its grid block."""
        for number, block in enumerate(self.grid, start=1):
            values = {**self.defaults, **block}.get("precision")
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, Mapping):
                    yield f"grid block {number}", value

    def _laid_out(self) -> list[tuple[str, CellSpec]]:
        """Return every cell's spec, with the words for its grid block; seeds share a check."""
        specs: list[tuple[str, CellSpec]] = []
        problems: list[str] = []
        known: dict[Any, CellSpec | None] = {}
        for at, kind, cell in self._combinations():
            seed = cell.get("seed")
            is_usual = type(seed) is int and 0 <= seed <= LARGEST
            if is_usual and (at, kind) in known:
                like = known[at, kind]
                specs += [] if like is None else [(at, like.changed(seed=seed))]
                continue
            try:
                spec = self._checked(at, cell, problems)
                specs.append((at, spec))
            except ConfigError as error:
                problems += str(error).split("\n")
                spec = None
            if is_usual:
                known[at, kind] = spec
        if problems:
            raise ConfigError("\n".join(dict.fromkeys(problems)))
        return specs

    def _checked(self, at: str, cell: dict[str, Any], problems: list[str]) -> CellSpec:
        """Return the spec of a cell, and add what does not fit together in it to the problems.

        The options of ``finetune`` in a block are laid over those in the defaults.
        """
        usual = self.defaults.get("finetune")
        if isinstance(usual, Mapping) and isinstance(cell["finetune"], Mapping):
            cell["finetune"] = {**usual, **cell["finetune"]}
        if isinstance(cell.get("precision"), Mapping):
            cell["precision"] = _precision_on(self.execution.device, cell["precision"], at)
        spec = make_spec(cell, at)
        problems += [f"{at}: {conflict}" for conflict in spec.conflicts()]
        if spec.oracle.is_outside:
            problems.append(f"{at}: {_NOT_IN_A_STUDY.format(spec.oracle.name)}")
        return spec

    def _combinations(self) -> Iterator[tuple[str, tuple[int, ...], dict[str, Any]]]:
        """Yield every cell: the words for its grid block, what it shares with those of other seeds there, its values.

        All cells are counted before the first.

        Raises:
            ConfigError: an axis without values, or too many cells.
        """
        n_cells, blocks = 0, []
        for number, block in enumerate(self.grid, start=1):
            at = f"grid block {number}"
            axes = {key: _axis(key, value, at) for key, value in {**self.defaults, **block}.items()}
            n_cells += math.prod(map(len, axes.values()))
            if n_cells > MAX_CELLS:
                raise ConfigError(
                    f"{at}: the grid has {n_cells:,} cells by here, a study has at most {MAX_CELLS:,}. "
                    "Shorten an axis, or make several studies of it."
                )
            blocks.append((at, axes))
        for at, axes in blocks:
            held = {key: tuple(axis) for key, axis in axes.items()}  # so that a value stays the same object
            others = [place for place, key in enumerate(axes) if key != "seed"]
            for values in itertools.product(*held.values()):
                yield at, tuple(id(values[place]) for place in others), dict(zip(axes, values, strict=True))


def load_study(study: "str | os.PathLike[str] | Mapping[str, Any] | Study") -> Study:
    """Return a study, checked and with its grid laid out.

    Args:
        study: path of a study file, or what such a file holds as a mapping; a study is given back as it is.

    Raises:
        ConfigError: no file, no YAML, or cells that cannot be; with all the problems found.
    """
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return Study(**{str(key): value for key, value in study.items()})
    file = Path(os.fspath(study))
    values = read_yaml_file(os.fspath(study), "study")
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise ConfigError(f"{file.name} {found}, a study is a mapping with 'study' and 'grid'.")
    return Study(file.name, **{str(key): value for key, value in values.items()})


def read_yaml_file(path: str, kind: str) -> Any:
    """Return what a study file, or a file like it, holds.

    Args:
        path: of the file.
        kind: of the file, for messages: ``study`` or ``project``.

    Raises:
        ConfigError: it is not there, is no file, too large, not UTF-8, or no YAML.
    """
    if not path.strip():
        raise ConfigError(f"{kind.upper()}.yaml is {path!r}. Name a {kind} file.")
    if is_uri(path):
        raise ConfigError(f"{shown(path)!r} is an address, and a {kind} file is read from a disk. Copy it here first.")
    file = Path(path)
    if os.path.isdir(file):
        inside = ", ".join(str(file / name) for name in _study_files(file)[:5])
        raise ConfigError(f"{path!r} is a folder. Name a {kind} file{f' in it: {inside}' if inside else ''}.")
    if not os.path.isfile(file):  # also of a name that is too long
        pipe = f"{path!r} is a pipe or a device. Save the {kind} in a file, and name that."
        raise ConfigError(pipe if os.path.exists(file) else _no_file(file, kind))
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{file.name} has {size:,} bytes, a {kind} file has at most {MAX_FILE_BYTES:,}.")
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path!r} cannot be read: {error.strerror}. Make it readable.") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file.name} is not UTF-8 at line {line}, byte {error.start:,} (0x{content[error.start]:02x}). "
            "Save it as UTF-8."
        ) from None
    return read_yaml(file.name, text)


def _no_file(file: Path, kind: str) -> str:
    """Word that a file is not there, with the nearest one that is."""
    folder = Path(os.path.abspath(file)).parent
    said = f"there is no {kind} file {file.name!r} in {folder}."
    if not folder.is_dir():
        return f"{said[:-1]}, nor that folder. Correct the path; it starts at {Path.cwd()} unless it is absolute."
    near = difflib.get_close_matches(file.name, _study_files(folder), n=1)
    return f"{said} Did you mean {str(file.with_name(near[0]))!r}?" if near else f"{said} Correct the path."


def _study_files(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir() if found.suffix in (".yaml", ".yml"))


def study_schema() -> dict[str, Any]:
    """Return the JSON schema of study files: every key, every plug-in, every option of it.

    In ``defaults`` and in a grid block every value may also be a list of values, and a whole number a range.
    """
    schema, cell = Study.model_json_schema(), CellSpec.model_json_schema()
    bounds = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
    range_ = {"type": "object", "properties": {"range": bounds}, "required": ["range"], "additionalProperties": False}
    schema["$defs"] |= cell["$defs"] | {"range": range_}
    keys = {}
    for key, value in cell["properties"].items():
        about = {name: value.pop(name) for name in ("title", "description", "default") if name in value}
        schema["$defs"][key] = value
        one = {"$ref": f"#/$defs/{key}"}
        forms = [one, {"type": "array", "items": one, "minItems": 1}]
        if key == "precision":
            by_device = {"type": "object", "properties": dict.fromkeys(DEVICES, value), "minProperties": 1}
            schema["$defs"][key] = {"anyOf": [value, {**by_device, "additionalProperties": False}]}
        keys[key] = {**about, "anyOf": [*forms, {"$ref": "#/$defs/range"}] if value.get("type") == "integer" else forms}
    block = {"type": "object", "properties": keys, "additionalProperties": False}
    schema["properties"]["defaults"] |= block
    schema["properties"]["grid"]["items"] = block
    return schema


def set_options(execution: Execution, assignments: Sequence[str]) -> Execution:
    """Apply ``key=value`` of the command line to the execution.

    What is typed for a text is that text, whatever YAML would make of it. Nothing after the ``=`` takes an option away
    that may be none, and so does ``null`` where a number is meant.

    Raises:
        ConfigError: a key that is no execution option (identity cannot be set from the command line), one that is given
            twice, or a bad value.
    """
    values, given = execution.model_dump(), dict[str, str]()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r} has no '='. Write KEY=VALUE, such as --set lanes=2.")
        if key in CellSpec.model_fields:
            raise ConfigError(
                f"--set {assignment!r} would change what is computed, and --set changes execution only "
                f"({', '.join(Execution.model_fields)}). Write {key!r} in the study file."
            )
        if given.setdefault(key, text) != text:
            raise ConfigError(f"{key} is given twice, as {given[key]!r} and as {text!r}. Give it once.")
        values[key] = _typed(key, text)
    return with_options(execution, values, "--set")


def with_options(execution: Execution, options: Mapping[str, Any], where: str = "execution") -> Execution:
    """Return an execution with some of its fields changed.

    Raises:
        ConfigError: no field of that name, or a bad value.
    """
    changed: Execution = validate(Execution, {**execution.model_dump(), **options}, where)
    return changed


def _typed(key: str, text: str) -> Any:
    """Read what was typed for an option as the option's type asks."""
    field = Execution.model_fields.get(key)
    kinds = (field.annotation, *typing.get_args(field.annotation)) if field else ()
    if str not in kinds:
        return read_scalar(text)
    return None if not text and type(None) in kinds else text


def _axis(key: str, value: Any, where: str) -> Sequence[Any]:
    if isinstance(value, Mapping) and set(value) == {"range"}:
        return _range(key, value["range"], where)
    if not isinstance(value, list):
        return [value]
    if key in LIST_FIELDS and not (value and all(isinstance(item, list) for item in value)):
        return [value]
    if not value:
        raise ConfigError(
            f"{where}: {key} is an empty list, so the block has no cells. Give it a value or drop the key."
        )
    return value


def _range(key: str, bounds: Any, where: str) -> Sequence[int]:
    whole = isinstance(bounds, list) and len(bounds) == 2 and all(type(bound) is int for bound in bounds)
    if not whole or bounds[0] >= bounds[1]:
        raise ConfigError(
            f"{where}: {key} is {{range: {bounds}}}. "
            "A range has two whole numbers, first and one past the last: [42, 52]."
        )
    if bounds[1] - bounds[0] > MAX_CELLS:
        raise ConfigError(
            f"{where}: the range of {key} counts more than {MAX_CELLS:,} values, which is the most cells that a study "
            "may have. Shorten it."
        )
    return range(*bounds)


def _precision_on(device: str, by_device: Mapping[Any, Any], where: str) -> Any:
    """Return the precision that ``{cpu: float32, cuda: bf16}`` gives on a device.

    Where it names the other device alone that one's is taken: a file is read before a command line says where it runs,
    and :meth:`Study.laid_out_for` refuses what is then still missing.

    Raises:
        ConfigError: no device, or an unknown one, or an unknown precision.
    """
    said, known = f"{where}: precision is {shown_value(dict(by_device))}", typing.get_args(Precision)
    if not by_device:
        raise ConfigError(f"{said}. {_BY_DEVICE}")
    for name, precision in by_device.items():
        if name not in DEVICES:
            raise ConfigError(f"{said}: {unknown_name('device', name, DEVICES)} {_BY_DEVICE}")
        if precision not in known:
            raise ConfigError(f"{said}: {unknown_name('precision', precision, known)} {_BY_DEVICE}")
    return by_device.get(device, next(iter(by_device.values())))


def _no_precision(where: str, by_device: Mapping[str, str], execution: Execution) -> str:
    """Word that cells are computed on a device for which no precision is given."""
    n_gpus, other = ("1", "a GPU") if execution.device == "cpu" else ("0", "the processor")
    return (
        f"{where}: precision is {dict(by_device)} and says nothing of {execution.device}, which the cells are computed "
        f"on where gpus_per_worker is {execution.gpus_per_worker:g}. {_BY_DEVICE} Or run them on {other}: "
        f"--set gpus_per_worker={n_gpus}."
    )


_BY_DEVICE = "Write one for each: {cpu: float32, cuda: bf16}."
