"""Both commands against an endpoint that fails: the rows of a good day, and nothing paid twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, load_script


def run_script(name: str, *args: object) -> str:
    """What a script prints; its exit status must be 0."""
    command = [sys.executable, ROOT / "scripts" / f"{name}.py", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_faults_kills_and_another_engine_leave_the_rows_of_a_good_day(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    args = ["--samples", 300, "--kills", 2, "--kill-within", 2, "--switch", "--timeout", 5]
    said = run_script("try_synthesis", *args, "--json", figures)
    assert "the rows are the same" in said
    clean, faulty = json.loads(figures.read_text())
    assert clean["rows"] == faulty["rows"] > 200 and clean["faults"] == clean["twice"] == 0
    assert clean["came"] == clean["requests"] == faulty["requests"]
    assert faulty["faults"] > 30 and faulty["asked_again"] == 0


def test_an_engine_that_meets_faults_asks_for_nothing_twice(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    args = ["--requests", 300, "--latency", 0.02, "--faults", 0.2, "--timeout", 5]
    run_script("bench_engine", *args, "--clients", "store", "--json", figures)
    [result] = json.loads(figures.read_text())
    assert result["twice"] == 0 and result["came_per_answer"] > 1.1 and result["starts"] < 9


def test_an_endpoint_fails_in_the_same_ways_each_time() -> None:
    endpoint = load_script("chat_endpoint")
    first, second = (endpoint.Endpoint(endpoint.Script(faults=0.5)) for _ in range(2))
    faults = [first.fault(str(i)) for i in range(400)]
    assert faults == [second.fault(str(i)) for i in range(400)]
    assert set(faults) == {"", *endpoint.FAULTS} and 150 < faults.count("") < 250
    first.came.update({str(i): endpoint.MOST_FAULTS for i in range(400)})
    assert not any(first.fault(str(i)) for i in range(400))  # never for ever
