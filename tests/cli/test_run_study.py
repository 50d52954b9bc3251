"""``al-ray run`` from end to end, in this process: what is printed, what is written, what is done again."""

import json
import re
import shutil
from pathlib import Path

import pytest

from al_ray.study import cell as cell_module
from tests.cli.conftest import computed


def test_a_study_runs_and_ends_with_its_table_and_addresses(study, al_ray, tmp_path: Path) -> None:
    path = study({"strategy": ["random", "margin"], "filters": [[], ["uncertainty_clipping"]]})
    outcome = al_ray("run", path, "--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    assert outcome.code == 0, outcome.text
    assert "4 of 4 cells to run" in outcome.text
    assert "test accuracy, mean" in outcome.text
    assert "labels saved" in outcome.text
    assert f"records: {tmp_path / 'out' / 'tiny'}" in outcome.text
    done = sorted((tmp_path / "out" / "tiny").glob("*/done.json"))
    assert len(done) == 4
    assert sorted(p.name for p in done[0].parent.glob("round-*.json")) == [f"round-00{i}.json" for i in range(4)]


@pytest.mark.parametrize("flag", [(), ("-v",), ("--verbose",)])
def test_decisions_are_printed_where_they_are_asked_for(study, al_ray, tmp_path: Path, flag: tuple[str, ...]) -> None:
    options = ("--local", "--storage", tmp_path, "--set", "tracking=off")
    outcome = al_ray("run", study({"seed": [1, 2]}, rounds=1), *options, *flag)
    assert outcome.code == 0, outcome.text
    words = "study tiny: 2 of 2 cells wait: tickets-bert-softmax-margin-s1--"
    assert (words in outcome.text) == bool(flag)


def test_a_finished_study_does_nothing(study, al_ray, tmp_path: Path) -> None:
    command = ("run", study(), "--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    al_ray(*command)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    outcome = al_ray(*command)
    assert outcome.code == 0
    assert "all 1 cells are finished; nothing to do" in outcome.text
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_a_half_finished_study_goes_on_and_equals_one_never_stopped(study, al_ray, tmp_path: Path, keep: int) -> None:
    path = study({"strategy": ["margin", "random"]})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    al_ray("run", path, "--local", "--storage", whole, "--set", "tracking=off")
    shutil.copytree(whole, broken)
    cell = next((broken / "tiny").glob("*margin*"))
    for round_index in range(keep, 4):
        (cell / f"round-00{round_index}.json").unlink()
    (cell / "done.json").unlink()
    outcome = al_ray("run", path, "--local", "--storage", broken, "--set", "tracking=off")
    assert outcome.code == 0
    assert "1 of 2 cells to run" in outcome.text
    assert ("go on after their last recorded round" in outcome.text) == (keep > 0)
    assert computed(broken) == computed(whole)


def test_a_plan_prints_cells_and_cost_and_writes_nothing(study, al_ray, tmp_path: Path) -> None:
    outcome = al_ray("run", study({"seed": [1, 2]}), "--plan", "--storage", tmp_path / "out")
    assert outcome.code == 0
    assert "study tiny: 2 cells" in outcome.text
    assert "tickets-bert-softmax-margin-s1--" in outcome.text
    # 20 + 30 + 40 labels, a tenth of them held out, 2 epochs, 2 cells
    assert "forecast: 324 examples to fine-tune on" in outcome.text
    assert "nothing was started" in outcome.text
    assert not (tmp_path / "out").exists()


def test_classes_that_look_alike_are_told_by_the_plan_and_by_the_run(study, al_ray, tmp_path: Path) -> None:
    rows = "".join(f"text number {i},{('billing', 'post', 'billing ')[i % 3]}\n" for i in range(120))
    (tmp_path / "d.csv").write_text(f"text,label\n{rows}", "utf-8")
    option = {"path": str(tmp_path / "d.csv"), "test_fraction": 0.25}
    command = ("run", study(dataset=option, rounds=1), "--local", "--storage", tmp_path / "out")
    told = "'billing' (30 training, 10 test) and 'billing ' (30 training, 10 test) have names that look alike"
    plan = al_ray(*command, "--plan").text
    assert "classes, training/test examples: billing 30/10, 'billing ' 30/10, post 30/10" in plan
    assert told in plan
    assert told in al_ray(*command, "--set", "tracking=off").text
    (tmp_path / "d.csv").write_text(f"text,label\n{rows}".replace("billing ", "billing"), "utf-8")
    assert "look alike" not in al_ray(*command[:-1], tmp_path / "new", "--plan").text


def test_one_cell_can_be_run_alone(study, al_ray, tmp_path: Path) -> None:
    path = study({"seed": [1, 2]})
    al_ray(
        "run",
        path,
        "--local",
        "--cell",
        "tickets-bert-softmax-margin-s2",
        "--storage",
        tmp_path,
        "--set",
        "tracking=off",
    )
    (cell,) = (tmp_path / "tiny").glob("*/done.json")
    assert cell.parent.name.startswith("tickets-bert-softmax-margin-s2--")
    outcome = al_ray("run", path, "--local", "--cell", "tickets-bert-softmax-margin-s3", "--storage", tmp_path)
    assert outcome.code == 1
    assert "unknown cell 'tickets-bert-softmax-margin-s3'. Did you mean" in outcome.text


def test_a_cell_keeps_its_records_when_the_grid_grows_and_its_slug_changes(study, al_ray, tmp_path: Path) -> None:
    run = ("--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    al_ray("run", study(), *run)
    outcome = al_ray("run", study({}, {"rounds": 1}), *run)
    assert outcome.code == 0
    assert "1 of 2 cells to run" in outcome.text


def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(
    study, al_ray, tmp_path: Path, monkeypatch
) -> None:
    path = study({"seed": [1, 2]})
    run = ("run", path, "--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    make_loop = cell_module.make_loop

    def fails_for_seed_1(spec, *rest):
        if spec.seed == 1:
            raise RuntimeError("the disk caught fire")
        return make_loop(spec, *rest)

    monkeypatch.setattr(cell_module, "make_loop", fails_for_seed_1)
    outcome = al_ray(*run)
    assert outcome.code == 2
    assert "RuntimeError: the disk caught fire" in outcome.text
    assert "1 cell failed" in outcome.text
    (failed,) = (tmp_path / "out" / "tiny").glob("*/failed.json")
    assert "the disk caught fire" in failed.read_text(encoding="utf-8")
    assert len(list((tmp_path / "out" / "tiny").glob("*/done.json"))) == 1
    monkeypatch.undo()
    outcome = al_ray(*run)
    assert outcome.code == 0
    assert "1 of 2 cells to run" in outcome.text
    assert not list((tmp_path / "out" / "tiny").glob("*/failed.json"))


def test_a_changed_study_is_refused_field_by_field(study, al_ray, tmp_path: Path) -> None:
    run = ("--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    al_ray("run", study(), *run)
    before = computed(tmp_path / "out")
    outcome = al_ray("run", study(finetune={"epochs": 3, "learning_rate": 1e-3}), *run)
    assert outcome.code == 1
    assert "holds records that the study no longer explains" in outcome.text
    assert "finetune.epochs: 2 -> 3" in outcome.text
    assert computed(tmp_path / "out") == before


def test_passive_is_the_model_trained_on_everything(study, al_ray, tmp_path: Path) -> None:
    path = study(strategy="passive")
    assert al_ray("run", path, "--local", "--storage", tmp_path, "--set", "tracking=off").code == 0
    (done,) = (tmp_path / "tiny").glob("*/done.json")
    summary = json.loads(done.read_text(encoding="utf-8"))["summary"]
    assert (summary["n_rounds"], summary["n_labeled"]) == (2, 160)


def test_the_quickstart_and_the_console_script_share_one_definition_of_arguments(al_ray) -> None:
    for option in ("--plan", "--cell", "--local", "--set", "--storage"):
        assert option in al_ray("run", "--help").text


def test_list_names_every_family_with_options(al_ray) -> None:
    text = al_ray("list").text
    for name in ("trec6", "tickets", "softmax", "least_confidence", "passive", "uncertainty_clipping", "ground_truth",
                 "label_budget", "pool_exhausted", "stratified", "fraction: float = 0.05"):  # fmt: skip
        assert name in text


def test_list_and_doctor_name_the_folders_that_are_data_sets(al_ray, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("AL_RAY_DATA", str(tmp_path))
    (tmp_path / "notes").mkdir()
    assert "no data set in it (NAME/train.parquet)" in al_ray("doctor").text
    for name in ("twenty_newsgroups", "trec6"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text("text,label\n")
    assert f"{tmp_path}: trec6, twenty_newsgroups" in al_ray("doctor").text
    assert "by their own name, with the options of a path: twenty_newsgroups." in al_ray("list").text
    monkeypatch.setenv("AL_RAY_DATA", str(tmp_path / "gone"))
    assert "which is not a folder" in al_ray("list").text
    monkeypatch.delenv("AL_RAY_DATA")
    assert "A folder in the one that AL_RAY_DATA names is a data set" in al_ray("list").text


def test_doctor_says_what_this_machine_can_run(al_ray, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("AL_RAY_DATA", "/nowhere/at/all")
    outcome = al_ray("doctor")
    for part in (
        "packages",
        "cores",
        "Ray",
        "GPU",
        "bf16",
        "Hugging Face Hub",
        "data folder",
        "model minilm",
        "MLflow",
    ):
        assert part in outcome.text
    assert "AL_RAY_DATA is '/nowhere/at/all', which is not a folder" in outcome.text
    assert outcome.code == 1


@pytest.mark.parametrize(
    ("name", "value", "options", "said"),
    [
        ("MLFLOW_TRACKING_URI", "file:///x", (), "MLFLOW_TRACKING_URI is 'file:///x': MLflow keeps no runs"),
        ("HF_HUB_OFFLINE", "1", ("--storage", "/dev/null"), "storage /dev/null cannot be made"),
        ("HF_HUB_OFFLINE", "1", ("--storage", "mock://bucket"), "an object store"),
        ("HF_ENDPOINT", "https://host:port", (), "Port could not be cast"),
    ],
)
def test_doctor_leaves_with_1_where_something_is_missing_and_only_there(
    al_ray, monkeypatch, tmp_path: Path, name: str, value: str, options: tuple[str, ...], said: str
) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "AL_RAY_DATA", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    outcome = al_ray("doctor", *options)
    assert said in outcome.text
    assert outcome.code == (1 if " missing " in outcome.text else 0)
    assert (" missing " in outcome.text) == (said.startswith(("MLFLOW", "storage")))


def test_a_study_takes_about_the_disk_that_its_plan_said_and_tells_what_a_cell_left(
    study, al_ray, tmp_path: Path
) -> None:
    path = study({"seed": [1, 2, 3]}, rounds=6)
    planned = al_ray("run", path, "--plan", "--storage", tmp_path / "out").text
    (forecast,) = re.findall(r"([0-9.]+) MiB of disk", planned)
    text = al_ray("run", path, "--local", "--storage", tmp_path / "out").text
    taken = sum(file.stat().st_blocks * 512 for file in (tmp_path / "out").rglob("*"))
    assert 0.6 < taken / 2**20 / float(forecast) < 1.6
    sizes = [file.stat().st_size for file in (tmp_path / "out" / "tiny").glob("*--*/*")]
    assert f"({sum(sizes) / 2**20:.1f} MiB, {sum(sizes) / 3 / 2**10:.0f} KiB a cell)" in text
