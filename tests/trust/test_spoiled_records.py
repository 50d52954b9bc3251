"""Somebody else's results, spoiled on purpose: commands say a sentence, run nothing and stay inside the folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trust.conftest import Finished, al_ray, edit_json, snapshot


def arguments(command: str, study: Finished) -> tuple[object, ...]:
    """Return the command line of a command that opens a study; the cell that is done is not run again."""
    local = ("--local", "--set", "tracking=off")
    more = {
        "report": ("--tracking", "off"),
        "watch": ("--once",),
        "run": (*local, "--cell", "tickets-bert-softmax-margin-s1"),
        "run all": local,
    }
    return (command.split()[0], study.file, "--storage", study.storage, *more[command])


def rounds_of(study: Finished) -> dict[str, bytes]:
    return {path: data for path, data in snapshot(study.folder).items() if "round-" in path}


def done_cell(study: Finished) -> Path:
    (found,) = (path.parent for path in study.folder.rglob("done.json"))
    return found


def failed_cell(study: Finished) -> Path:
    (found,) = (path.parent for path in study.folder.rglob("failed.json"))
    return found


Spoil = Callable[[Finished], Any]


def in_plan(**values: Any) -> Spoil:
    """Return what changes the first planned cell."""

    def change(plan: Any) -> Any:
        plan["cells"][0] |= values
        return plan

    return lambda study: edit_json(study.folder / "plan.json", change)


def top(name: str, **values: Any) -> Spoil:
    return lambda study: edit_json(study.folder / name, values)


def of_done(name: str, change: Any) -> Spoil:
    return lambda study: edit_json(done_cell(study) / name, change)


def of_failed(name: str, change: Any) -> Spoil:
    return lambda study: edit_json(failed_cell(study) / name, change)


def text(name: str, content: str) -> Spoil:
    return lambda study: (study.folder / name).write_text(content, encoding="utf-8")


def record(**values: Any) -> Spoil:
    """Return what changes the last round's record and makes its checksum right again."""
    from al_ray.records.json import fingerprint

    def change(content: Any) -> Any:
        content["record"] |= values
        return {**content, "sha256": fingerprint(content["record"])}

    return of_done("round-001.json", change)


DEEP = "[" * 100_000
NESTED = '{"format":1,"study":"tiny","cells":' + "[" * 600 + "]" * 600 + ',"datasets":{}}'
SPOILED: dict[str, Spoil] = {
    "a planned slug that climbs": in_plan(slug="../../../escape"),
    "a planned slug that is absolute": in_plan(slug="/etc"),
    "a planned slug that is a number": in_plan(slug=7),
    "a planned fingerprint that climbs": in_plan(fingerprint="../" * 20),
    "a planned fingerprint that is a list": in_plan(fingerprint=[1]),
    "a planned fingerprint that is null": in_plan(fingerprint=None),
    "a planned method without its parts": in_plan(method="margin"),
    "planned methods that are a list": top("plan.json", methods=["x"]),
    "a planned method that is a number": top("plan.json", methods={"softmax + margin": 1}),
    "a planned method that is an object": in_plan(method={"a": 1}),
    "a planned data set that is a list": in_plan(dataset=["x"]),
    "a planned seed without end": in_plan(seed=10**400),
    "a planned cell that is a text": top("plan.json", cells=["x"]),
    "planned cells that are a number": top("plan.json", cells=5),
    "a planned cell without keys": top("plan.json", cells=[{}]),
    "planned data sets that are a list": top("plan.json", datasets=[1]),
    "a planned data set that is a number": top("plan.json", datasets={"tickets": 1}),
    "class counts that are texts": lambda study: edit_json(
        study.folder / "plan.json",
        lambda plan: {**plan, "datasets": {"tickets": {**plan["datasets"]["tickets"], "class_counts": "x"}}},
    ),
    "NaN in the plan": text("plan.json", '{"format":1,"study":"tiny","cells":NaN,"datasets":{}}'),
    "a plan that is too deep to parse": text("plan.json", DEEP),
    "a plan that is deep": text("plan.json", NESTED),
    "a number of thousands of digits": text("plan.json", '{"format":' + "9" * 5000 + "}"),
    "a study name that climbs": top("study.json", study="../tiny"),
    "a study name that is a list": top("study.json", study=["tiny"]),
    "a study id that is an object": top("study.json", id={"a": 1}),
    "a study id that is a condition": top("study.json", id="x' or tags.`a` = 'b"),
    "a spec that is a list": of_done("spec.json", {"spec": [1]}),
    "a spec of another type": of_failed("spec.json", {"spec": 3}),
    "a slug that climbs": of_done("spec.json", {"slug": "../../escape"}),
    "a slug that is a list": of_done("spec.json", {"slug": [1]}),
    "a fingerprint that is a number": of_done("spec.json", {"fingerprint": 5}),
    "a fingerprint that is too long": of_done("spec.json", lambda c: {**c, "fingerprint": c["fingerprint"] + "../x"}),
    "a spec with a seed that is a text": of_failed("spec.json", lambda c: {**c, "spec": {**c["spec"], "seed": "x"}}),
    "a spec without a seed": of_failed(
        "spec.json", lambda c: {**c, "spec": {k: v for k, v in c["spec"].items() if k != "seed"}}
    ),
    "a spec with a strategy by module": of_done(
        "spec.json", lambda c: {**c, "spec": {**c["spec"], "strategy": {"name": "os.system"}}}
    ),
    "a summary that is a list": of_done("done.json", {"summary": [1, 2, 3]}),
    "an end that is no time": of_done("done.json", {"finished_at": 7}),
    "a reason that is a number": of_failed("failed.json", {"reason": 5}),
    "a message that is an object": of_failed("failed.json", {"reason": {"error": [], "message": {"a": 1}}}),
    "a failure without a time": of_failed("failed.json", {"failed_at": "yesterday"}),
    "provenance that is an object": of_done("provenance.json", lambda _: {"a": 1}),
    "provenance of numbers": of_done("provenance.json", lambda _: [1]),
    "class names that are a number": of_done("provenance.json", lambda c: [{**c[-1], "class_names": 3}]),
    "a round without a record": of_done("round-001.json", {"record": None}),
    "rows that are a list": of_done("round-001.json", {"tables": [1]}),
    "rows that are a text": of_done("round-001.json", {"tables": {"pool": "x"}}),
    "a time that is a number": of_done("round-001.json", {"recorded_at": 5}),
    "metrics that are texts": record(metrics={"accuracy": "high"}),
    "metrics that are a list": record(metrics=[1]),
    "a query that is a text": record(query="x"),
    "a query of texts": record(query={"ids": ["a"], "scores": [1.0], "probs": None}),
    "beliefs that are ragged": record(query={"ids": [7, 8], "scores": [1.0, 0.0], "probs": [[1.0], [0.5, 0.5]]}),
    "an answer beyond all classes": record(
        query={"ids": [10**6], "scores": [1.0], "probs": [[1.0]]}, annotation={"labels": [1], "abstained": [False]}
    ),
    "seconds that are texts": record(seconds={"finetune": "long"}),
    "an accuracy without end": record(metrics={"accuracy": 10**400}),
}


OF_THE_FAILED_CELL = ("a spec of another type", "a spec with a seed that is a text", "a reason that is a number")


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_file_is_a_sentence(copied: Finished, tmp_path: Path, name: str) -> None:
    SPOILED[name](copied)
    before, outside = rounds_of(copied), set(os.listdir(tmp_path))
    for command in ("report", "watch", "run all" if name in OF_THE_FAILED_CELL else "run"):
        outcome = al_ray(*arguments(command, copied))
        assert outcome.code == 0 or "error: " in outcome.text or "failed: " in outcome.text, outcome.text
        assert "Traceback" not in outcome.text
    assert {path: data for path, data in rounds_of(copied).items() if path in before} == before
    assert set(os.listdir(tmp_path)) == outside
