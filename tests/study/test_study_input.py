"""What people type and write: texts that stay texts, study files of any kind, and advice that can be followed."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from al_ray.errors import ConfigError, unknown_name
from al_ray.strategy import strategies
from al_ray.study.file import Execution, load_study, read_scalar, read_yaml, set_options
from al_ray.study.spec import make_spec
from tests.study.study_texts import study_of, write

TEXTS = [
    "2024",
    "2026-11-29",
    "runs #1",
    "a: b",
    "- a",
    "null",
    "~",
    "true",
    "1e5",
    "010",
    "'x'",
    "!x",
    "*x",
    "[a]",
    " ",
]
TEXT_KEYS = ["storage", "address", "tracking", "accelerator_type"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_typed_for_a_text_is_that_text(text: str) -> None:
    execution = set_options(Execution(), [f"{key}={text}" for key in TEXT_KEYS])
    assert [getattr(execution, key) for key in TEXT_KEYS] == [text] * len(TEXT_KEYS)


def test_every_option_that_takes_a_text_is_tried() -> None:
    texts = [key for key, field in Execution.model_fields.items() if "str" in str(field.annotation)]
    assert sorted(texts) == sorted(TEXT_KEYS)


def test_numbers_and_booleans_are_read_and_nothing_takes_an_option_away() -> None:
    before = Execution(lanes=3, address="auto", tracking="off", accelerator_type="T4")
    typed = ["wait_for_nodes=true", "gpus_per_worker=0.5", "storage_patience_s=5", "retries=3"]
    after = set_options(before, [*typed, "lanes=", "address=", "tracking=", "accelerator_type="])
    assert (after.wait_for_nodes, after.gpus_per_worker, after.storage_patience_s, after.retries) == (True, 0.5, 5, 3)
    assert (after.lanes, after.address, after.tracking, after.accelerator_type) == (None, None, None, None)
    assert set_options(before, ["lanes=null"]).lanes is None


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("lanes=010", r"lanes is '010': input should be a valid integer"),
        ("lanes=1:30", r"lanes is '1:30'"),
        ("lanes=2 # two", r"lanes is '2 # two'"),
        ("lanes=<<", r"lanes is '<<'"),
        ("lanes=" + "9" * 5000, r"lanes is '999"),
        ("lanes=99999999", r"lanes is 99999999: input should be less than or equal to"),
        ("lanes=0", r"lanes is 0: input should be greater than or equal to 1"),
        ("cpus_per_worker=0", r"cpus_per_worker is 0: input should be greater than or equal to 1"),
        ("retries=-1", r"retries is -1: input should be greater than or equal to 0"),
        ("gpus_per_worker=-0.5", r"gpus_per_worker is -0.5: input should be greater than or equal to 0"),
        ("gpus_per_worker=.inf", r"gpus_per_worker is inf"),
        ("gpus_per_worker=.nan", r"gpus_per_worker is nan"),
        ("wait_for_nodes=yes", r"wait_for_nodes is 'yes': .*Write true or false"),
        ("retries=null", r"retries is None: .*Give it a value, or leave it out"),
    ],
)
def test_a_number_that_is_none_is_refused_as_it_was_typed(typed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_options(Execution(), [typed])


def test_an_option_that_is_given_twice_is_refused_unless_it_says_the_same() -> None:
    with pytest.raises(ConfigError, match=r"storage is given twice, as 'a' and as 'b'. Give it once"):
        set_options(Execution(), ["storage=a", "storage=b"])
    assert set_options(Execution(), ["storage=a", "storage=a"]).storage == "a"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-11-29", "2026-11-29"), ("12:30", "12:30"), ("010", "010"), ("1_000", "1_000"), ("0x10", "0x10"),
        ("off", "off"), ("yes", "yes"), ("7", 7), ("-7", -7), ("0", 0), ("2e-5", 2e-5), ("1.5", 1.5), (".5", 0.5),
        ("true", True), ("null", None), ("~", None), ("", None), (".inf", float("inf")), ("e5", "e5"), ("=", "="),
    ],
)  # fmt: skip
def test_yaml_is_read_as_people_mean_it(text: str, value: object) -> None:
    assert read_yaml("here", f"[{text}]" if text else "- ") == [value]
    assert read_scalar(text) == value


@pytest.mark.parametrize(
    "change",
    [
        {"study": "2024"}, {"description": "1.5"}, {"execution": {"storage": "2024"}}, {"execution": {"tracking": "1"}},
        {"grid": [{"model": "2024"}]}, {"grid": [{"dataset": {"path": "2024"}}]},
        {"grid": [{"dataset": {"path": "x.csv", "text": "7"}}]},
        {"grid": [{"model": {"name": "m", "revision": "123"}}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_text_that_yaml_reads_as_a_number_is_asked_for_in_quotes(tmp_path: Path, change: dict[str, Any]) -> None:
    quoted = yaml.safe_dump(study_of(**change))
    bare = re.sub(r"'([0-9.]+)'", r"\1", quoted)
    assert bare != quoted
    with pytest.raises(ConfigError, match=r"To have it as a text, put it in quotes\."):
        load_study(write(tmp_path, bare))
    load_study(write(tmp_path, quoted))


def test_a_date_is_a_text(tmp_path: Path) -> None:
    text = yaml.safe_dump(study_of()) + "description: 2026-11-29\nexecution: {storage: 2026-11-29}\n"
    study = load_study(write(tmp_path, text.replace("study: s", "study: 2026-11-30")))
    assert (study.name, study.description, study.execution.storage) == ("2026-11-30", *["2026-11-29"] * 2)


# Each: a cell that is wrong, the advice of the message, and a cell for which that advice was followed.
ADVICE_ABOUT_CELLS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"strategy": "own_uncertainty"},
        "These have one: energy, ",
        {"strategy": "own_uncertainty", "confidence": "energy"},
    ),
    (
        {"strategy": "batch_bald", "confidence": "mc_dropout"},
        "differ from example .* Use 'ensemble'",
        {"strategy": "batch_bald", "confidence": "ensemble"},
    ),
    (
        {"strategy": "drop_query", "confidence": {"name": "mc_dropout", "n_passes": 2}},
        r"needs at least 3 draws .* gives 2\. With its default options it gives 10\.",
        {"strategy": "drop_query", "confidence": "mc_dropout"},
    ),
    (
        {"strategy": {"name": "label_dispersion", "n_watched": 9}},
        "Raise n_watched to 25, or",
        {"strategy": {"name": "label_dispersion", "n_watched": 25}},
    ),
    (
        {"strategy": {"name": "label_dispersion", "n_watched": 9}},
        r"or lower query_size to 9\.",
        {"strategy": {"name": "label_dispersion", "n_watched": 9}, "query_size": 9},
    ),
    (
        {"strategy": "passive", "filters": ["near_duplicates"]},
        r"a grid block of its own with 'filters: \[\]'",
        {"strategy": "passive", "filters": []},
    ),
    ({"strategy": "typiclust", "filters": ["first_peak"]}, "Drop the filter", {"strategy": "typiclust"}),
    (
        {"strategy": "random", "filters": ["unsure_subsample"]},
        "Use 'random_subsample'",
        {"strategy": "random", "filters": ["random_subsample"]},
    ),
    ({"filters": ["first_peak", "first_peak"]}, "Name it once", {"filters": ["first_peak"]}),
    ({"seed": [1, 1]}, "Drop one of the two", {"seed": [1]}),
    ({"strategy": []}, "Give it a value or", {"strategy": "margin"}),
    ({"strategy": []}, "or drop the key", {}),
    ({"seed": {"range": [42]}}, r"first and one past the last: \[42, 52\]", {"seed": {"range": [42, 52]}}),
    ({"seed": {"range": [0, 10**6]}}, "the most cells .* Shorten it", {"seed": {"range": [0, 9]}}),
    ({"finetune": 3}, r"options such as \{learning_rate: 2e-5\}", {"finetune": {"learning_rate": 2e-5}}),
    ({"strategy": 3}, r"Write for example \{name: badge\}", {"strategy": {"name": "badge"}}),
    ({"strategy": "margn"}, r"Did you mean 'margin'\?", {"strategy": "margin"}),
    ({"model": {"init": "random"}}, "Name it in the block", {"model": {"init": "random", "name": "minilm"}}),
]
ADVICE_ABOUT_FILES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"study": "-my study"},
        "use letters, digits, .* the first of them a letter or a digit",
        {"study": "my-study_1.0"},
    ),
    ({"execution": {"lnes": 2}}, r"Did you mean 'lanes'\?", {"execution": {"lanes": 2}}),
    ({"execution": None}, r"Give it a value, or leave it out\.", {}),
    ({"description": None}, r"Give it a value, or leave it out\.", {"description": ""}),
    ({"execution": {"wait_for_nodes": "on"}}, "Write true or false", {"execution": {"wait_for_nodes": True}}),
    ({"grid": None}, "Give it a value", {"grid": [{}]}),
    ({"grid": [None]}, "Give it a value", {"grid": [{}]}),
    (
        {"grid": [{"seed": {"range": [0, 400]}, "rounds": {"range": [0, 400]}}]},
        "Shorten an axis",
        {"grid": [{"seed": {"range": [0, 4]}, "rounds": {"range": [1, 3]}}]},
    ),
]
ADVICE = [
    *(({"grid": [wrong]}, advice, {"grid": [right]}) for wrong, advice, right in ADVICE_ABOUT_CELLS),
    *ADVICE_ABOUT_FILES,
]


@pytest.mark.parametrize(("wrong", "advice", "right"), ADVICE, ids=lambda value: str(value)[:50])
def test_advice_about_a_study_can_be_followed(wrong: dict[str, Any], advice: str, right: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=advice):
        load_study(study_of(**wrong))
    load_study(study_of(**right))


def test_a_key_that_is_missing_is_asked_for_where_it_belongs() -> None:
    whole = study_of()
    for key in ("study", "grid"):
        with pytest.raises(ConfigError, match=rf"the key '{key}' is missing. Add it at the top of the file"):
            load_study({name: value for name, value in whole.items() if name != key})
    load_study(whole)


@pytest.mark.parametrize("strategy", strategies.names())
def test_a_strategy_that_needs_draws_runs_with_what_it_is_told_to_use(strategy: str) -> None:
    cell = study_of()["defaults"] | {"strategy": strategy}
    found = " ".join(make_spec(cell, "here").conflicts())
    names = re.findall(r"(?<=Use )'(\w+)'|(?<=or )'(\w+)'", found)
    options: list[Any] = [first or second for first, second in names]
    options += [{"name": "mc_dropout", "where": "head"}] if "where: head" in found else []
    assert bool(options) == (strategies.build(strategy).min_draws > 1)
    for confidence in options:
        assert make_spec({**cell, "confidence": confidence}, "here").conflicts() == []


@pytest.mark.parametrize("typed", ["lanes", "seed=3", "lnes=2"])
def test_advice_about_an_option_can_be_followed(typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_options(Execution(), [typed])
    said = str(caught.value)
    if "such as --set" in said:
        set_options(Execution(), [said.rpartition("--set ")[2].rstrip(".")])
    elif "in the study file" in said:
        load_study(study_of({"seed": 3}))
    else:
        set_options(Execution(), [f"{said.partition('Did you mean ')[2].split(chr(39))[1]}=2"])


def test_a_long_list_of_names_is_cut() -> None:
    names = [f"cell-{n}" for n in range(4900)]
    assert unknown_name("cell", "cell-x", names).endswith("cell-1041, and 4,850 more.")


class TestAStudyOfAnyKind:
    """What is no study file, and what to do: each advice is followed."""

    def refused(self, path: str, message: str) -> str:
        with pytest.raises(ConfigError, match=message) as caught:
            load_study(path)
        return str(caught.value)

    def test_a_misspelt_name(self, tmp_path: Path) -> None:
        right = write(tmp_path, yaml.safe_dump(study_of()))
        said = self.refused(str(tmp_path / "stdy.yaml"), rf"there is no study file 'stdy.yaml' in {tmp_path}\.")
        assert said.endswith(f"Did you mean {str(right)!r}?")
        load_study(said.split("'")[-2])

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refused(str(tmp_path), r"is a folder. Name a study file\.$")
        right = write(tmp_path, yaml.safe_dump(study_of()))
        assert self.refused(str(tmp_path), "Name a study file in it: ").endswith(f"{right}.")

    def test_a_folder_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        said = self.refused("no/such.yaml", rf"in {tmp_path}/no, nor that folder. Correct the path")
        assert f"it starts at {tmp_path} unless it is absolute" in said

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        self.refused(str(tmp_path / "pipe"), r"is a pipe or a device. Save the study in a file")

    def test_an_address(self) -> None:
        self.refused("https://user:hidden@host/x.yaml", r"'https://host/x.yaml' is an address")
        self.refused("s3://bucket/x.yaml", r"'s3://bucket/x.yaml' is an address, .* Copy it here first")

    def test_nothing(self, tmp_path: Path) -> None:
        self.refused("", r"STUDY.yaml is ''. Name a study file")
        self.refused(str(write(tmp_path, "")), r"study.yaml is empty, a study is a mapping with 'study' and 'grid'")

    @pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
    def test_another_encoding(self, tmp_path: Path, encoding: str) -> None:
        text = f"# a comment\n{yaml.safe_dump(study_of())}description: für uns\n"
        path = write(tmp_path, text)
        path.write_bytes(text.encode(encoding))
        line, byte = (1, 0) if encoding == "utf-16" else (text[: text.index("ü")].count("\n") + 1, text.index("ü"))
        self.refused(str(path), rf"not UTF-8 at line {line}, byte {byte} \(0x[0-9a-f]+\)\. Save it as UTF-8\.")
        path.write_text(path.read_bytes().decode(encoding), encoding="utf-8")
        assert load_study(path).description == "für uns"

    @pytest.mark.parametrize("prefix", ["", "\ufeff"])
    def test_lines_of_windows_and_a_byte_order_mark_are_read(self, tmp_path: Path, prefix: str) -> None:
        path = write(tmp_path, "")
        path.write_bytes((prefix + yaml.safe_dump(study_of())).replace("\n", "\r\n").encode("utf-8"))
        assert load_study(path).name == "s"

    def test_one_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, yaml.safe_dump(study_of()))
        monkeypatch.setattr(Path, "read_bytes", _denied)
        self.refused(str(path), r"cannot be read: Permission denied. Make it readable")


def _denied(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))
