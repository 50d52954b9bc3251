"""A study file from a stranger: it names things, and neither runs code nor takes the machine down."""

import re
from pathlib import Path

import pytest

from al_ray.errors import AlRayError, ConfigError
from al_ray.records.study import StudyStore
from al_ray.study import file as study_file
from al_ray.study.file import Execution, load_study, set_options
from al_ray.study.run import check_cluster
from tests.trust.conftest import refused, write_study

HEAD = "study: x\ndefaults: {dataset: tickets, strategy: margin, seed: 1}\n"
LAUGHS = "".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else '1'}]\n" for i in range(12))
MERGES = "  b0: &b0 {k: 1}\n" + "".join(
    f"  b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
)


def load(tmp_path: Path, text: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    load_study(file)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {canary}']",
        "!!python/object/new:os.system ['touch {canary}']",
        "!!python/object/apply:subprocess.check_output [['touch', '{canary}']]",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!python/object:os.system {{}}",
        "!ruby/object:Gem::Installer {{}}",
        "!include /etc/passwd",
    ],
)
def test_no_tag_makes_a_python_object(tmp_path: Path, canary: Path, tag: str) -> None:
    with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
        load(tmp_path, f"{HEAD}grid: [{{seed: {tag.format(canary=canary)}}}]")


def test_no_tag_works_in_an_option_of_the_command_line(canary: Path) -> None:
    with pytest.raises(ConfigError, match=r"lanes is .*!!python/object/apply.*should be a valid integer"):
        set_options(Execution(), [f"lanes=!!python/object/apply:os.system ['touch {canary}']"])


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "description:\n" + LAUGHS + "grid: [{}]",
        HEAD + "grid:\n -\n" + LAUGHS.replace("  a", "    a"),
        HEAD + "execution:\n" + MERGES + "grid: [{}]",
        HEAD + "grid: &g [*g]",
        HEAD + "grid: [&g {dataset: *g}]",
        HEAD + "grid: [{seed: {range: [0, 1000000000]}}]",
        HEAD + f"grid: [{{seed: {{range: [0, {'9' * 4000}]}}}}]",
        HEAD + "grid: [{seed: {range: [0, 99999]}, rounds: {range: [0, 99999]}, query_size: [1, 2]}]",
        HEAD + "grid: [{seed: {range: [0, 60000]}}, {seed: {range: [60000, 120000]}}]",
        HEAD + f"grid: [{{seed: {'9' * 5000}}}]",
        HEAD + "grid: " + "[" * 3000,
        HEAD + "grid: " + "{a: " * 3000 + "1" + "}" * 3000,
        HEAD + "grid: [{" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}]",
        HEAD + "grid: [{seed: 2001-99-99}]",
        "#" * (study_file.MAX_FILE_BYTES + 1),
    ],
    ids=[
        "laughs", "laughs in the grid", "merges of merges", "a list in itself", "a mapping in itself", "a long range",
        "an endless range", "a long product", "two long blocks", "thousands of digits", "deep lists", "deep mappings",
        "many keys", "no date", "a large file",
    ],
)  # fmt: skip
def test_a_file_that_is_larger_than_it_looks_is_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert 20 < len(str(caught.value)) < 600


def test_as_many_cells_as_a_study_may_have_are_counted_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study_file, "MAX_CELLS", 6)
    load(tmp_path, HEAD + "grid: [{seed: {range: [0, 2]}, rounds: [1, 2]}, {seed: [7, 8]}]")
    with pytest.raises(ConfigError, match="the grid has 7 cells by here, a study has at most 6"):
        load(tmp_path, HEAD + "grid: [{seed: {range: [0, 2]}, rounds: [1, 2]}, {seed: [7, 8, 9]}]")


@pytest.mark.parametrize("family", ["strategy", "confidence", "filters", "oracle", "stopping", "initial", "dataset"])
@pytest.mark.parametrize("name", ["os.system", "al_ray.strategy.margin", "..evil", "__import__", "margin:Margin"])
def test_a_plug_in_is_a_registered_name_and_no_module(tmp_path: Path, family: str, name: str) -> None:
    option = f"[{{name: '{name}'}}]" if family in ("filters", "stopping") else f"{{name: '{name}'}}"
    with pytest.raises(ConfigError, match=r"unknown .*Known: "):
        load(tmp_path, f"{HEAD}grid: [{{{family}: {option}}}]")


@pytest.mark.parametrize("option", ["{name: margin, __class__: x}", "{name: margin, name2: x}", "[[margin]]", "{}"])
def test_an_option_has_only_its_own_fields(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, f"{HEAD}grid: [{{strategy: {option}}}]")


NAMES = ["../x", "..", "a/b", "C:\\x", "\\\\host\\x", "x\ny", "x\n", "", ".x", "-rf", "~", "$HOME", "x\x00", "a b", "é"]


@pytest.mark.parametrize("name", [repr(name) for name in NAMES])
def test_a_study_name_is_one_folder(name: str, bert: Path, tmp_path: Path) -> None:
    file, plain = write_study(tmp_path / "tiny.yaml", bert), eval(name)
    with pytest.raises(ConfigError, match=r"it names a folder, so use letters|is not YAML"):
        load_study(write_study(file, bert, study=plain))
    with pytest.raises(AlRayError):
        StudyStore.open(str(tmp_path / "out"), plain)
    refused("run", file, "--local", "--storage", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize("name", ["../../x", "a/b", "x y", "<script>", "x\n"])
def test_a_data_set_name_is_fit_for_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="must be 1 to 40 lower-case letters"):
        load(tmp_path, f"{HEAD}grid: [{{dataset: {{path: /data, name: {name!r}}}}}]".replace("'x\\n'", '"x\\n"'))


@pytest.mark.parametrize("model", ["../../..", "/a/../..", "x/$(touch y)"])
def test_a_model_name_that_climbs_stays_one_folder(tmp_path: Path, model: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"{HEAD}grid: [{{model: '{model}'}}]", encoding="utf-8")
    (slug,) = load_study(file).cells
    assert "/" not in slug
    assert slug.startswith("tickets-")


@pytest.mark.parametrize("address", ["203.0.113.7:6379", "ray://203.0.113.7:10001", "x.example:6379", "127.0.0.1.x:1"])
def test_a_study_file_alone_cannot_join_a_strangers_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="lets that cluster run code here"):
        check_cluster(Execution(address=address))
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_cluster(Execution(address=address))


@pytest.mark.parametrize(
    "address", [None, "auto", "local", "127.0.0.1:6379", "ray://127.0.0.1:10001", "localhost:6379"]
)
def test_a_study_file_may_name_the_ray_of_this_machine(address: str | None) -> None:
    check_cluster(Execution(address=address))


def test_the_command_refuses_the_cluster_before_it_is_joined(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    file = write_study(tmp_path / "tiny.yaml", bert, execution={"address": "203.0.113.7:6379", "tracking": "off"})
    said = refused("run", file, "--storage", tmp_path / "out")
    assert "lets that cluster run code here" in said
    assert not (tmp_path / "out").exists()
    advice = re.search(r"name it yourself: (--set) (address=\S+), or (RAY_ADDRESS)=(\S+)\.$", said)
    assert advice is not None
    named = refused("run", file, "--storage", "relative", *advice.groups()[:2])
    assert "a relative folder, and the study joins Ray at '203.0.113.7:6379'" in named
    monkeypatch.setenv(*advice.groups()[2:])
    assert "a relative folder, and the study joins" in refused("run", file, "--storage", "relative")
