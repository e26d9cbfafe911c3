"""Both commands against an endpoint that fails: the rows of a good day, and nothing paid twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, load_script


def run_script(name: str, *args: object) -> str:
    """What a script prints; its exit status must be 0."""
    command = [sys.executable, ROOT / "scripts" / f"{name}.py", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_faults_kills_and_another_engine_leave_the_rows_of_a_good_day(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    args = ["--samples", 300, "--kills", 2, "--kill-within", 2, "--switch", "batch", "--timeout", 5]
    said = run_script("try_synthesis", *args, "--json", figures)
    assert "the rows are the same" in said
    clean, faulty = json.loads(figures.read_text())
    assert clean["rows"] == faulty["rows"] > 200 and clean["faults"] == clean["twice"] == 0
    assert clean["came"] == clean["requests"] == faulty["requests"]
    assert faulty["faults"] > 30 and faulty["asked_again"] == faulty["without_kill"] == 0
    for run in (clean, faulty):
        rate = run["answers_per_second"]
        assert run["requests"] <= rate * run["seconds"] + 0.5 < run["came"] + 1
        assert run["share"] == pytest.approx(rate * 0.05 / 64) and 0 < run["share"] < 1


def test_what_is_paid_for_twice_is_found_at_any_moment(tmp_path: Path) -> None:
    """Also after the last kill, by a start that ends of itself."""
    script = load_script("try_synthesis")
    store = tmp_path / "rows.jsonl.answers"
    answered = {"a": [1.0, 5.0], "b": [1.0, 2.0], "c": [6.0], "d": [7.0, 8.0]}
    asked = {"answered": answered, "last": {key: moments[-1] for key, moments in answered.items()}}
    pipeline = script.Pipeline(tmp_path, SimpleNamespace(get=asked.get), None, killed=[3.0, 3.5])
    assert pipeline.asked_again() == 0
    assert pipeline.answered_again() == (2, 1)  # a kill explains that of a, and of no other
    store.write_text('{"key": "c", "text": "yes"}\n{"key": "d", "text": null}\n{"key": "b", "te')
    pipeline.note_stored()  # a start has ended
    asked["last"] |= {"c": time.time() + 9, "d": time.time() + 9}
    assert pipeline.asked_again() == 1
    figures = [300, 9.0, 2, 2, 900, 999, 99, 3]
    for found, right in (((0, 64, 0), True), ((0, 65, 0), False), ((1, 1, 0), False)):
        result = script.Result("with faults", *figures, *found, 100.0, 0.08)
        assert result.is_right(64) is right
    assert not script.Result("with faults", *figures, 0, 0, 1, 100.0, 0.08).is_right(64)


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
