"""`videothinker view` of what holds no record: one line that says what was looked for, exit 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from videothinker.commands.main import main
from videothinker.data.rowfiles import write_parquet
from videothinker.journal import Journal
from videothinker.json_files import write_json
from videothinker.viewer.books import open_book


def empty_folder(place: Path) -> Path:
    place.mkdir()
    return place


def empty_rows(place: Path) -> Path:
    (path := place.with_suffix(".jsonl")).touch()
    return path


def empty_list(place: Path) -> Path:
    (path := place.with_suffix(".json")).write_text("[]")
    return path


def empty_table(place: Path) -> Path:
    write_parquet(path := place.with_suffix(".parquet"), [])
    return path


def begun_journal(place: Path) -> Path:
    with Journal(path := place.with_suffix(".journal"), {"journal": "curation", "samples": 2}):
        return path


def begun_run(place: Path) -> Path:
    write_json(place / "run.json", {"stage": "grpo", "train": {"log_completions": True}})
    return place


def empty_log(place: Path) -> Path:
    (folder := place / "completions").mkdir(parents=True)
    (folder / "log.jsonl").touch()
    return folder


def evaluation_without_answers(place: Path) -> Path:
    write_json(place / "m" / "star" / "house-16" / "summary.json", {"own": {"n": 3}})
    return place


SAID = {
    empty_folder: "no log of completions",
    empty_rows: "the file holds no rows",
    empty_list: "the file holds no rows",
    empty_table: "the file holds no rows",
    begun_journal: "the journal holds no verdict",
    begun_run: "look again after the first step",
    empty_log: "look again after the first step",
    evaluation_without_answers: "no answers beside its summary.json",
}


@pytest.mark.parametrize("make", SAID, ids=lambda make: make.__name__)
def test_a_page_without_records_is_not_written(make, tmp_path, capsys):
    place, out = make(tmp_path / "nothing"), tmp_path / "page.html"
    with pytest.raises(SystemExit) as stopped:
        main(["view", str(place), "--out", str(out)])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and not out.exists()
    assert said.startswith(f"videothinker view: {place}: nothing to view: "), said
    assert SAID[make] in said and said.count("\n") == 0, said


def test_a_run_is_watched_from_before_its_first_step(tmp_path):
    book = open_book(begun_run(tmp_path / "run"), follow=True)
    assert book.is_live and not book.entries
