"""The seven data sets of Gonsior et al. 2022 (arXiv 2210.03005), pinned.

A name is read from the folder ``AL_RAY_DATA`` where that holds it, else from the Hugging Face Hub at a pinned commit.

Deviation: the paper's loaders ``trec``, ``ag_news``, ``rotten_tomatoes``, ``imdb``, ``gpt3mix/sst2`` and
``linxinyuan/cola`` are replaced by repositories that serve the same rows as plain files. CoLA's test labels are not
public: its validation split (1,043 rows) is the test split here, where the paper's loader seems to have kept the 527
in-domain rows of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from al_ray.core.types import TextDataset
from al_ray.data import DatasetSource, datasets
from al_ray.data.files import data_folder, split_files
from al_ray.data.rows import Rows, read_rows
from al_ray.data.splits import Columns, content_sha256, keep_some, make_splits
from al_ray.errors import ConfigError, DataError, unknown_name

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class PinnedDataset(DatasetSource):
    """A data set that is the same for everybody: classes, sizes and commit are declared.

    Attributes:
        class_names: in label order.
        n_train: rows of the whole training split.
        n_test: rows of the whole test split.
        hub_id: ``owner/name`` of the repository on the Hugging Face Hub.
        revision: full commit of that repository, so that the rows can never change.
        train: its file of the training split.
        test: its file of the test split.
        text: column of the text there.
        label: column of the label there.
        label_text: column that spells out the label there, or None.
        keep_train: use only so many training examples, the same ones everywhere; None = all.
        keep_test: use only so many test examples; None = all.
    """

    class_names: ClassVar[tuple[str, ...]]
    n_train: ClassVar[int]
    n_test: ClassVar[int]
    hub_id: ClassVar[str]
    revision: ClassVar[str]
    train: ClassVar[str]
    test: ClassVar[str]
    text: ClassVar[str] = "text"
    label: ClassVar[str] = "label"
    label_text: ClassVar[str | None] = None
    keep_train: int | None = None
    keep_test: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("keep_train", "keep_test"):
            value = getattr(self, name)
            if value is not None and value < len(self.class_names):
                raise ConfigError(
                    f"{name} is {value}, it must be at least the number of classes, {len(self.class_names)}. "
                    "Leave it out to use all examples."
                )

    def load(self) -> TextDataset:
        """Read and check all rows, from ``AL_RAY_DATA`` or from the Hub.

        Raises:
            DataError: ``AL_RAY_DATA`` is not a folder, the Hub cannot be reached or does not hold the files as pinned,
                or the rows break a rule.
        """
        folder = data_folder()
        if folder is not None and (folder / self.name).is_dir():
            return self._check(_read_folder(folder / self.name), str(folder / self.name))
        parts = self._read(self.train), self._read(self.test)
        _check_spelled_labels(parts, self.class_names)
        source = f"Hugging Face Hub {self.hub_id}@{self.revision}"
        dataset = self._check(parts, source)
        note = self.size_note(len(parts[0]), len(parts[1]))
        if note:
            raise DataError(f"{source} holds {note}. It is not what was pinned; delete it from the cache.")
        return dataset

    @classmethod
    def size_note(cls, n_train: int, n_test: int) -> str | None:
        """Say in words that other numbers of rows were found than declared, or return None."""
        pairs = (("training", n_train, cls.n_train), ("test", n_test, cls.n_test))
        notes = [
            f"{n:,} {'of' if n < whole else 'instead of'} the declared {whole:,} {split} rows"
            for split, n, whole in pairs
            if n != whole
        ]
        return " and ".join(notes) or None

    def _check(self, parts: tuple[Rows, Rows], source: str) -> TextDataset:
        names, (train, test) = make_splits(parts, Columns(), self.class_names)
        notes = [self.size_note(len(train), len(test))]
        if (self.keep_train or len(train)) < len(train) or (self.keep_test or len(test)) < len(test):
            train, test = keep_some(train, self.keep_train), keep_some(test, self.keep_test)
            notes.append(f"of these {len(train):,} training and {len(test):,} test rows are used")
        note = ", ".join(filter(None, notes))
        return TextDataset(
            name=self.name,
            class_names=names,
            train=train,
            test=test,
            source=f"{source} ({note})" if note else source,
            content_sha256=content_sha256(names, train, test),
        )

    def _fetch(self, name: str) -> Path:
        """Return the file from the local cache, or download it after one quick look whether the Hub answers."""
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        where = {"repo_type": "dataset", "revision": self.revision, "etag_timeout": _TIMEOUT_S}
        try:
            return Path(hf_hub_download(self.hub_id, name, local_files_only=True, **where))
        except LocalEntryNotFoundError:
            pass
        try:
            HfApi().dataset_info(self.hub_id, revision=self.revision, timeout=_TIMEOUT_S)
            return Path(hf_hub_download(self.hub_id, name, **where))
        except Exception as error:
            raise DataError(
                f"{self.hub_id} at revision {self.revision[:12]} could not be fetched from the Hugging Face Hub "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}). Check the network, or set "
                "AL_RAY_DATA to a folder with NAME/train.parquet and NAME/test.parquet, or name a path in the study."
            ) from error

    def _read(self, name: str) -> Rows:
        """Return a file's rows under the columns ``text`` and ``label`` (and ``label_text`` where it is declared)."""
        import datasets

        file, where = self._fetch(name), f"{self.hub_id}@{self.revision}/{name}"
        kind = {".parquet": "parquet", ".jsonl": "json"}[file.suffix]
        try:
            split = datasets.load_dataset(kind, data_files={"rows": [str(file)]}, split="rows")
        except datasets.exceptions.DatasetGenerationError as error:
            raise DataError(
                f"{where} cannot be decoded: {error}. Delete {file.resolve()}, and it is fetched again."
            ) from error
        wanted = {"text": self.text, "label": self.label}
        if self.label_text is not None:
            wanted["label_text"] = self.label_text
        columns = {ours: _column(split, theirs, where) for ours, theirs in wanted.items()}
        names = getattr(split.features[self.label], "names", None)
        return Rows(where=where, columns=columns, class_names={"label": tuple(names)} if names else {})


def _read_folder(folder: Path) -> tuple[Rows, Rows]:
    train, test = split_files(folder)
    if not test:
        raise DataError(f"{folder} has no test split. Copy test.parquet there, or take the folder away to use the Hub.")
    return read_rows(train, Columns().wanted()), read_rows(test, Columns().wanted())


def _check_spelled_labels(parts: tuple[Rows, Rows], class_names: tuple[str, ...]) -> None:
    """Refuse files that spell a label otherwise than we do: its index would mean something else."""
    for rows in parts:
        pairs = set(zip(rows.columns["label"], rows.columns.get("label_text", []), strict=False))
        wrong = sorted(pair for pair in pairs if pair not in set(enumerate(class_names)))
        if wrong:
            raise DataError(
                f"{rows.where} calls label {wrong[0][0]} {wrong[0][1]!r}, but the classes in label order are declared "
                f"as {', '.join(class_names)}. The pinned files are not as declared."
            )


def _column(split: Any, name: str, where: str) -> list[Any]:
    if name not in split.column_names:
        message = unknown_name("column", name, split.column_names)
        raise DataError(f"{where}: {message} The pinned files are not as declared.")
    return list(split.with_format("arrow")[:].column(name).to_pylist())


@datasets.register("trec6")
@dataclass(frozen=True)
class Trec6(PinnedDataset):
    """Questions by the coarse type of their answer (Li and Roth 2002, COLING)."""

    class_names = ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")
    n_train = 5452
    n_test = 500
    hub_id = "CogComp/trec"
    revision = "65752bf53af25bc935a0dce92fb5b6c930728450"
    train = "default/train/0000.parquet"
    test = "default/test/0000.parquet"
    label = "coarse_label"


@datasets.register("ag_news")
@dataclass(frozen=True)
class AgNews(PinnedDataset):
    """News by topic (Zhang, Zhao and LeCun 2015, arXiv 1509.01626)."""

    class_names = ("World", "Sports", "Business", "Sci/Tech")
    n_train = 120_000
    n_test = 7600
    hub_id = "fancyzhx/ag_news"
    revision = "eb185aade064a813bc0b7f42de02595523103ca4"
    train = "data/train-00000-of-00001.parquet"
    test = "data/test-00000-of-00001.parquet"


@datasets.register("subj")
@dataclass(frozen=True)
class Subj(PinnedDataset):
    """Sentences about films, plot or opinion (Pang and Lee 2004, ACL, arXiv cs/0409058)."""

    class_names = ("objective", "subjective")
    n_train = 8000
    n_test = 2000
    hub_id = "SetFit/subj"
    revision = "f3c1162e678417f664d76b21864fdb87b0615fcf"
    train = "train.jsonl"
    test = "test.jsonl"
    label_text = "label_text"


@datasets.register("rotten_tomatoes")
@dataclass(frozen=True)
class RottenTomatoes(PinnedDataset):
    """Sentences of film reviews by sentiment (Pang and Lee 2005, ACL, arXiv cs/0506075)."""

    class_names = ("neg", "pos")
    n_train = 8530
    n_test = 1066
    hub_id = "cornell-movie-review-data/rotten_tomatoes"
    revision = "aa13bc287fa6fcab6daf52f0dfb9994269ffea28"
    train = "train.parquet"
    test = "test.parquet"


@datasets.register("imdb")
@dataclass(frozen=True)
class Imdb(PinnedDataset):
    """Whole film reviews by sentiment (Maas et al. 2011, ACL)."""

    class_names = ("neg", "pos")
    n_train = 25_000
    n_test = 25_000
    hub_id = "stanfordnlp/imdb"
    revision = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
    train = "plain_text/train-00000-of-00001.parquet"
    test = "plain_text/test-00000-of-00001.parquet"


@datasets.register("cola")
@dataclass(frozen=True)
class Cola(PinnedDataset):
    """Sentences by grammatical acceptability (Warstadt, Singh and Bowman 2019, arXiv 1805.12471)."""

    class_names = ("unacceptable", "acceptable")
    n_train = 8551
    n_test = 1043
    hub_id = "nyu-mll/glue"
    revision = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    train = "cola/train-00000-of-00001.parquet"
    test = "cola/validation-00000-of-00001.parquet"
    text = "sentence"


@datasets.register("sst2")
@dataclass(frozen=True)
class Sst2(PinnedDataset):
    """Whole sentences of film reviews by sentiment, neutral ones left out (Socher et al. 2013, EMNLP)."""

    class_names = ("negative", "positive")
    n_train = 6920
    n_test = 1821
    hub_id = "SetFit/sst2"
    revision = "00ea8ccb7a54b4e3780a3e51aa3f80361ff849c0"
    train = "train.jsonl"
    test = "test.jsonl"
    label_text = "label_text"
