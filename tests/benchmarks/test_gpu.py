"""``benchmarks.gpu`` runs every check on a processor, in tiny sizes; so it is known to work before it meets a GPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import Run
from benchmarks.gpu_checks import CHECKS, Shape, cells_a_second

OF_STUDIES = ("lanes", "out_of_memory")
OF_A_GPU = ("memory",)
# For a machine ten times slower than a laptop.
PATIENT = ("--minutes", "60", "--patience", "20")


def run(*words: str, file: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--json", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80 or str(file) in done.stdout
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["outcome"] for check in found["checks"]}


def figures(found: dict[str, Any], name: str) -> dict[str, float]:
    (check,) = (check for check in found["checks"] if check["check"] == name)
    return {figure["what"]: figure["value"] for figure in check["figures"]}


def test_every_check_without_a_study_runs_on_a_processor_or_says_why_not(tmp_path: Path) -> None:
    names = [name for name in CHECKS if name not in OF_STUDIES]
    found = run("--only", *names, *PATIENT, file=tmp_path / "gpu.json")
    assert outcomes(found) == {name: "skipped" if name in OF_A_GPU else "done" for name in names}
    assert [check["reason"] for check in found["checks"] if check["outcome"] == "skipped"] == [
        "on a processor there is no memory of a GPU to bound"
    ]
    assert all(figures(found, name) for name in names if name not in OF_A_GPU)
    assert max(value for what, value in figures(found, "logits").items() if "float32" in what) == 0.0
    assert figures(found, "process_group")["a fit through DistributedDataParallel"] == 0.0


@pytest.mark.ray
def test_the_checks_that_run_studies_do_so_on_a_private_ray(tmp_path: Path) -> None:
    found = run("--only", *OF_STUDIES, *PATIENT, file=tmp_path / "gpu.json")
    assert outcomes(found) == {"models": "done", **dict.fromkeys(OF_STUDIES[::-1], "done")}
    absurd = figures(found, "out_of_memory")
    assert absurd == {"the cell that asks for too much fails alone": 1, "neighbours with equal records": 3}
    lanes = figures(found, "lanes")
    assert set(lanes) == {"1 lane", "2 lanes", "cells with equal records"}
    assert lanes["cells with equal records"] == 4


def test_a_check_that_fails_or_hangs_costs_no_other(tmp_path: Path) -> None:
    one = Run("cpu", tiny=True, file=tmp_path / "gpu.json", seconds=3600)
    assert one.check("scoring", 600, tmp_path).outcome == "failed"
    assert "does not exist" in one.outcomes[-1].reason
    assert one.check("models", 0.01, tmp_path).outcome == "timed out"
    assert one.check("memory", 600, tmp_path).outcome == "skipped"
    assert outcomes(json.loads(one.file.read_text(encoding="utf-8"))) == {
        "scoring": "failed",
        "models": "timed out",
        "memory": "skipped",
    }
    assert not one.is_good


def test_checks_for_which_no_time_is_left_are_skipped_and_said_to_be(tmp_path: Path) -> None:
    found = run("--minutes", "0.01", file=tmp_path / "gpu.json")
    assert outcomes(found) == dict.fromkeys(CHECKS, "skipped")
    assert {check["reason"] for check in found["checks"]} == {"the 0.01 minutes are used up"}


def test_operations_are_counted_as_the_formula_says() -> None:
    """One layer of width 2, inner width 3, for texts of 1 and 2 tokens: the one layer is the last."""
    flops = Shape(layers=1, width=2, heads=1, inner=3).forward_flops(np.array([1, 2]))
    keys_and_values, rest, attention = 3 * 4 * 4, 2 * (4 * 4 + 4 * 2 * 3), 4 * 2 * (1 + 2)
    assert flops == keys_and_values + rest + attention + 2 * (2 * 4 + 2 * 2 * 6)
    two = Shape(layers=2, width=2, heads=1, inner=3).forward_flops(np.array([1, 2]))
    assert two - flops == 3 * (8 * 4 + 4 * 2 * 3) + 4 * 2 * (1 + 4)


def test_the_speed_of_lanes_leaves_out_their_start_and_their_end() -> None:
    # From 4, when the late lane ended its first cell, to 8, when the other one had no more: 4 cells and 2.
    assert cells_a_second([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [4.0, 6.0, 8.0, 10.0]]) == pytest.approx(6 / 4)
    assert cells_a_second([[1.0, 2.0, 3.0], [9.0]]) == pytest.approx(2 / 8)
