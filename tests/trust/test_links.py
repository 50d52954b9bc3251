"""Links inside a storage folder: never followed, neither to read nor to write. The storage folder may be one."""

import shutil
from pathlib import Path

import pytest

from tests.trust.conftest import Finished, al_ray, refused, snapshot

COMMANDS = {"run": ("--local", "--set", "tracking=off"), "report": ("--tracking", "off"), "watch": ("--once",)}
RECORDS = ("study.json", "plan.json", "spec.json", "provenance.json", "round-001.json", "round-002.json")


def failed_cell(study: Finished) -> Path:
    (found,) = (path.parent for path in study.folder.rglob("failed.json"))
    return found


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", ["study", "cell"])
def test_a_folder_that_is_a_link_is_refused(copied: Finished, tmp_path: Path, what: str, command: str) -> None:
    folder, victim = copied.folder if what == "study" else failed_cell(copied), tmp_path / "victim"
    shutil.move(folder, victim)
    folder.symlink_to(victim)
    before = snapshot(victim)
    said = refused(command, copied.file, "--storage", copied.storage, *COMMANDS[command])
    assert "is a link, and links inside a storage folder are not followed" in said
    assert snapshot(victim) == before


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_a_link_is_refused(copied: Finished, tmp_path: Path, name: str) -> None:
    victim = tmp_path / f"victim-{name}"
    done = next(copied.folder.rglob("done.json")).parent
    place = copied.folder / name if name in ("study.json", "plan.json") else done / name
    shutil.move(place, victim)
    place.symlink_to(victim)
    said = refused("report", copied.file, "--storage", copied.storage, "--tracking", "off")
    assert "is a link, and links inside a storage folder are not followed" in said


def test_the_report_is_not_written_through_a_link(copied: Finished, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    shutil.rmtree(copied.folder / "report", ignore_errors=True)
    (copied.folder / "report").symlink_to(victim)
    said = refused("report", copied.file, "--storage", copied.storage, "--tracking", "off")
    assert "report is a link" in said
    assert list(victim.iterdir()) == []


def test_the_storage_folder_itself_may_be_a_link(copied: Finished, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copied.storage)
    outcome = al_ray("watch", copied.file, "--storage", tmp_path / "link", "--once")
    assert outcome.code == 0, outcome.text
    assert "1 done" in outcome.text
