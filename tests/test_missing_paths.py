"""A path that is not there: one line that names the flag, exit code 2, and no folder left."""

from __future__ import annotations

from pathlib import Path

import pytest

from videothinker.commands.main import main
from videothinker.schema import Sample, write_rows

MODEL = "data/tiny-base"
COMMANDS = {
    "eval --data": "eval --model {model} --data {no} --videos . --out {out}",
    "eval --videos": "eval --model {model} --data {rows} --videos {no} --out {out}",
    "eval --model": "eval --model {no} --data {rows} --videos . --out {out}",
    "eval --training": "eval --model {model} --data {rows} --videos . --out {out} --training {no}",
    "export-lmms-eval --data": "export-lmms-eval --data {no} --videos . --out {out}",
    "sft --recipe": "sft --recipe {no} --data {rows} --videos . --out {out}",
    "sft --data": "sft --recipe tiny/sft --model {model} --data {no} --videos . --out {out}",
    "grpo --data": "grpo --recipe tiny/grpo --model {model} --data {no} --videos . --out {out}",
    "curate --data": "curate --data {no} --out {out}.jsonl --check-only --toy",
    "synthesize --captions": "synthesize --captions {no} --out {out}.jsonl --toy",
    "synthesize --qa": "synthesize --qa {no} --out {out}.jsonl --toy",
    "prepare --annotations": "prepare star --annotations {no} --out {out}",
    "sft --videos": "sft --recipe tiny/sft --model {model} --data {rows} --videos {no} --out {out}",
    "synthesize --videos": "synthesize --qa {rows} --videos {no} --out {out}.jsonl "
    "--teacher-url http://127.0.0.1:9/v1 --teacher-model m",
    "validate": "validate {no}",
    "validate --videos": "validate --eval {rows} --videos {no}",
    "answer --video": "answer --model {model} --video {no} --question Which?",
    "plan": "plan {no}",
    "compare": "compare {no} {no}",
    "push": "push {no} --to me/it",
    "view": "view {no}",
    "view --videos": "view {rows} --videos {no}",
}
SAID_BY_THE_SYSTEM = [
    "eval --data",
    "eval --training",
    "export-lmms-eval --data",
    "curate --data",
    "synthesize --captions",
    "synthesize --qa",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_is_not_there_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, missing, out = tmp_path / "rows.jsonl", tmp_path / "nothing", tmp_path / "out"
    write_rows(rows, [Sample("Which?", ["A. a", "B. b"], "<answer>A</answer>", "a.mp4", id="a")])
    words = COMMANDS[name].format(model=MODEL, no=missing, rows=rows, out=out).split()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert "Errno" not in said and said.count("\n") == 0, said
    assert str(missing) in said, said
    command, _, flag = name.partition(" ")
    assert said.startswith(f"videothinker {command}: "), said
    assert flag != "--videos" or flag in said, said
    if name in SAID_BY_THE_SYSTEM:
        where = f"videothinker {command}: {flag} {missing}: there is no such file or folder"
        assert said == where
    assert not out.exists() and not out.with_suffix(".jsonl").exists()
