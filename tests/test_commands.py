"""The command as a user runs it: on good and bad files, killed and started again."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from unittest.mock import Mock, patch

import av
import numpy as np
import pytest
from conftest import ROOT, load_script

from videothinker.commands.main import main
from videothinker.files import InputError

BASE = ROOT / "data" / "tiny-base"
ENVIRONMENT = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
CODECS = {"mp4": "libx264", "webm": "libvpx-vp9", "mkv": "libx264"}

SEVERAL = """
import sys
from videothinker.commands.main import main

for name in ("webm", "mkv"):
    video = f"{sys.argv[1]}/good.{name}"
    main(["answer", "--video", video, "--out", f"{name}.html", *sys.argv[2:]])
"""
LIGHT = """
import sys
from videothinker.commands.main import build_parser

build_parser()
print([name for name in ("torch", "transformers", "numpy", "av") if name in sys.modules])
"""


def run(
    *argv: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [str(a) for a in argv],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        text=True,
        capture_output=True,
        timeout=1200,
        check=False,
    )


def make_video(path: Path) -> Path:
    """Two seconds of a bright square that moves over a dark ground, 112×112, 8 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=8)
        stream.width = stream.height = 112
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 8)
        for t in range(16):
            pixels = np.full((112, 112, 3), 30, np.uint8)
            pixels[40:70, 5 * t : 5 * t + 30] = 220
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts = t
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def kill_when(argv: list[object], ready: Callable[[], bool]) -> None:
    """Start a command and kill it (SIGKILL: it can clean up nothing) as soon as `ready` says so."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([str(a) for a in argv], env=ENVIRONMENT, **quiet) as process:
        deadline = time.monotonic() + 600
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, (
        "it finished before it could be killed: give it more to do"
    )


def lines_in(path: Path) -> int:
    """Whole lines of a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Answering


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad video files."""
    folder = tmp_path_factory.mktemp("clips")
    for suffix in CODECS:
        make_video(folder / f"good.{suffix}")
    (folder / "empty.mp4").touch()
    whole = (folder / "good.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    return folder


@pytest.mark.parametrize(
    "name, says",
    [
        ("missing.mp4", "no such file"),
        ("empty.mp4", "empty"),
        ("torn.mp4", "cut off"),
        ("text.mp4", "video"),
    ],
)
def test_a_bad_video_is_one_line_that_says_what_to_do(
    command: str, clips: Path, tmp_path: Path, name: str, says: str
) -> None:
    done = run(
        command, "answer", "--video", clips / name, "--question", "What moves?", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("videothinker answer: ") and name in line and says in line
    assert list(tmp_path.iterdir()) == []


def test_an_answer_to_a_video_of_ones_own(command: str, clips: Path, tmp_path: Path) -> None:
    ask = [
        "--question",
        "Which way does it move?",
        "--options",
        "left",
        "right",
        "--model",
        str(BASE),
    ]
    ask += ["--max-new-tokens", "8"]
    done = run(command, "answer", "--video", clips / "good.mp4", *ask, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("page: answer.html") and "Traceback" not in done.stderr
    page = (tmp_path / "answer.html").read_text(encoding="utf-8")
    assert "Which way does it move?" in page and "B. right" in page
    assert "data:image/jpeg;base64," in page and "data:video/mp4;base64," in page
    assert "://" not in page.replace("http://www.w3.org/", "")  # nothing is fetched
    done = run(sys.executable, "-c", SEVERAL, clips, *ask, cwd=tmp_path)  # the other containers
    assert done.returncode == 0, done.stderr
    assert all(
        "Which way" in (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        for name in ("webm", "mkv")
    )


def test_help_is_complete_and_loads_nothing_heavy(command: str) -> None:
    done = run(command, "--help")
    names = (
        "demo toyworld prepare validate synthesize curate sft grpo plan parity eval answer push"
    ).split()
    assert done.returncode == 0 and all(f"\n    {name}" in done.stdout for name in names)
    assert run(sys.executable, "-c", LIGHT).stdout.strip() == "[]"


# Data


def test_data_from_clips_to_curated_rows(command: str, tmp_path: Path) -> None:
    world, rows, train = tmp_path / "world", tmp_path / "rows.jsonl", tmp_path / "train.jsonl"
    truth = ["--truth", world / "truth.jsonl"]
    made = run(
        command, "toyworld", "--out", world, "--train", 4, "--val", 0, "--test", 0, "--ood", 0
    )
    assert (made.returncode, made.stdout) == (0, f"4 clips in {world}\n"), made.stderr
    written = run(
        command,
        "synthesize",
        "--captions",
        world / "captions.jsonl",
        "--qa",
        world / "qa.jsonl",
        "--out",
        rows,
        "--toy",
        *truth,
    )
    assert (written.returncode, written.stdout) == (0, f"6 rows in {rows}\n"), written.stderr
    curated = run(command, "curate", "--toy", "--data", rows, "--out", train)
    assert curated.returncode == 0, curated.stderr
    report = json.loads((tmp_path / "train.jsonl.report.json").read_text())
    kept = [json.loads(line) for line in train.read_text().splitlines()]
    assert report["n"] == 6 and len(kept) == report["kept"] > 0
    assert all(
        "<time>" in row["process"] and row["solution"].startswith("<answer>") for row in kept
    )
    assert all((world / row["path"]).stat().st_size > 0 for row in kept)


def test_a_killed_toyworld_goes_on(command: str, tmp_path: Path) -> None:
    size = ["--train", 10, "--val", 2, "--test", 2, "--ood", 0]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for wanted in (2, 6):  # twice, each time a bit further
        kill_when(
            [command, "toyworld", "--out", killed, *size],
            lambda n=wanted: len(list(killed.rglob("*.mp4"))) >= n,
        )
        assert not (killed / "manifest.json").exists()
    for folder in (killed, whole):
        done = run(command, "toyworld", "--out", folder, *size)
        assert done.returncode == 0, done.stderr
    assert files(killed) == files(whole)
    before = files(killed)
    assert (
        run(command, "toyworld", "--out", killed, *size).returncode == 0
    )  # and once more: nothing changes
    assert files(killed) == before


def test_a_killed_curation_goes_on(command: str, tmp_path: Path) -> None:
    from videothinker.toy.world import draw_scene, write_lines

    scenes = [
        draw_scene(f"train-{i:04d}", 0) for i in range(200)
    ]  # captions are enough: no clip is looked at
    write_lines(
        tmp_path / "captions.jsonl",
        [
            {
                "video_id": s.id,
                "path": f"{s.id}.mp4",
                "duration": float(s.duration),
                "timestamps": [[e.start, e.end] for e in s.events],
                "sentences": [e.caption for e in s.events],
            }
            for s in scenes
        ],
    )
    rows = tmp_path / "rows.jsonl"
    done = run(
        command,
        "synthesize",
        "--captions",
        tmp_path / "captions.jsonl",
        "--questions",
        5,
        "--out",
        rows,
        "--toy",
    )
    assert done.returncode == 0, done.stderr
    out = {name: tmp_path / name / "train.jsonl" for name in ("killed", "whole")}
    for path in out.values():
        path.parent.mkdir()
    journal = Path(f"{out['killed']}.journal")
    for wanted in (20, 300):
        kill_when(
            [command, "curate", "--toy", "--data", rows, "--out", out["killed"]],
            lambda n=wanted: lines_in(journal) >= n,
        )
        assert not out["killed"].exists()
    with journal.open("ab") as file:
        file.write(b'{"id": "torn li')  # and once in the middle of a line
    for path in out.values():
        done = run(command, "curate", "--toy", "--data", rows, "--out", path)
        assert done.returncode == 0, done.stderr
    assert files(out["killed"].parent) == files(out["whole"].parent)
    report = json.loads(Path(f"{out['whole']}.report.json").read_text())
    assert report["n"] > 900 and 0.9 * report["n"] < report["kept"] <= report["n"]


# Launchers


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_launchers_hand_their_flags_on(stage: str, tmp_path: Path) -> None:
    fake = tmp_path / "accelerate"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = ROOT / "scripts" / f"run_{stage}_video.sh"
    done = run("bash", script, "--data", "a b.jsonl", cwd=tmp_path, PATH=path, ACCELERATE="ddp")
    accelerate = ROOT / "videothinker" / "presets" / "accelerate"
    assert done.stdout.splitlines() == [
        "launch",
        "--config_file",
        f"{accelerate}/ddp.yaml",
        "-m",
        "videothinker",
        stage,
        "--recipe",
        f"qwen2.5-vl-7b/{stage}",
        "--data",
        "a b.jsonl",
    ]
    recipe = run("bash", script, cwd=tmp_path, PATH=path, RECIPE="mine.yaml")
    lines = recipe.stdout.splitlines()
    assert (lines[2], lines[-1]) == (f"{accelerate}/single.yaml", "mine.yaml")
    (tmp_path / "own.yaml").write_text("use_cpu: true\n")
    own = run("bash", script, cwd=tmp_path, PATH=path, ACCELERATE="own.yaml")
    assert own.stdout.splitlines()[2] == "own.yaml"
    wrong = run("bash", script, cwd=tmp_path, PATH=path, ACCELERATE="fsdp3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "ACCELERATE=fsdp3: no such file" in wrong.stderr and "fsdp2.yaml" in wrong.stderr


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    flags = "--recipe nothing.yaml --data x --videos x --out x".split()
    done = run(sys.executable, "-m", "videothinker", "sft", *flags, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("videothinker sft: nothing.yaml: no such recipe")
    assert "qwen2.5-vl-7b/sft" in line  # the packaged ones are named
    for debug in ({"VIDEOTHINKER_DEBUG": "1"}, {}):
        extra = [] if debug else ["--debug"]
        shown = run(
            sys.executable, "-m", "videothinker", "sft", *flags, *extra, cwd=tmp_path, **debug
        )
        assert shown.returncode == 1 and "Traceback" in shown.stderr


@pytest.mark.parametrize("name", ["single", "ddp", "fsdp2", "zero2", "zero3"])
def test_accelerate_knows_the_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    from videothinker.configs import config_file

    config = load_config_from_file(str(config_file("accelerate", name)))  # refuses unknown keys
    kinds = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}
    assert str(config.distributed_type).rsplit(".", 1)[-1] == kinds.get(name, "DEEPSPEED")


def test_eval_batch_loads_each_model_once_and_names_the_pairs_that_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("run_eval_batch")
    loaded: list[str] = []
    asked: list[tuple[str, str, str, list[str] | None]] = []

    def load(path: str, **options: object) -> tuple[str, str]:
        loaded.append(path)
        return path, "processor"

    def evaluate(args: argparse.Namespace, load: Callable[..., tuple[str, str]]) -> None:
        assert load(args.model, device=args.device, revision=args.revision)[0] == args.model
        asked.append((args.model, args.data, args.out, args.controls))
        if args.model == "bad":
            raise InputError("no such\nmodel")

    monkeypatch.setattr(script, "load_model", load)
    monkeypatch.setattr(script, "run_eval", evaluate)
    rest = ["--videos", "v", "--out", str(tmp_path), "--controls"]
    code = script.main(["--models", "good", "bad", "--data", "a/x.jsonl", "b/y.jsonl", *rest])
    assert code == 1 and loaded == ["good", "bad"]
    assert [model for model, *_ in asked] == ["good", "good", "bad", "bad"]
    assert asked[0] == ("good", "a/x.jsonl", str(tmp_path), [])
    written = capsys.readouterr()
    assert written.out.count("failed: bad on") == 2
    assert written.err.count("eval: no such model\n") == 2
    few = ["--data", "x.jsonl", "--videos", "v", "--out", str(tmp_path)]
    assert script.main(["--models", "good", *few]) == 0

    same_name = ["--data", "a/x.jsonl", "b/x.jsonl", "--videos", "v", "--out", "o"]
    for wrong in (["m", *same_name], ["m", *few, "--batch-size", "none"]):
        with pytest.raises(SystemExit):
            script.main(["--models", *wrong])
    assert len(asked) == 5, "wrong flags end the whole run before it begins"

    def broken(args: argparse.Namespace, load: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(script, "run_eval", broken)
    with pytest.raises(ZeroDivisionError):  # a bug is not hidden
        script.main(["--models", "good", *few])

    monkeypatch.setattr(script, "run_eval", Mock(side_effect=KeyboardInterrupt))
    assert script.main(["--models", "good", *few]) == 130
    said = capsys.readouterr().err
    assert said.endswith("stopped; the same command goes on where it was\n")


def test_a_revision_is_a_text_whatever_it_looks_like() -> None:
    """`--revision 1.0` names a tag; YAML would make a number of it."""
    from videothinker.training.recipes import apply_overrides, read_recipe

    recipe = read_recipe("tiny/sft")
    with patch("videothinker.training.recipes.make_job", side_effect=InputError("seen")) as job:
        argv = "sft --recipe tiny/sft --data data/train/toyworld.jsonl --videos . --out o"
        with pytest.raises(SystemExit):
            main([*argv.split(), "--revision", "1.0"])
    overrides = job.call_args.args[5]
    assert apply_overrides(recipe, overrides).revision == "1.0"


# Who writes where, and how a command ends


HOLD = """
import sys
from videothinker.claims import claim_output

with claim_output(sys.argv[1], is_file=sys.argv[2] == "file"):
    print("claimed", flush=True)
    sys.stdin.read()
"""
WRITING: dict[str, tuple[str, list[str]]] = {
    "demo": ("folder", []),
    "toyworld": ("folder", []),
    "prepare": ("folder", ["rows", "--annotations", "x.jsonl"]),
    "sft": ("folder", [*"--recipe tiny/sft --data x --videos x".split()]),
    "grpo": ("folder", [*"--recipe tiny/grpo --data x --videos x --model tiny-base".split()]),
    "eval": ("folder", [*"--model x --data x --videos x".split()]),
    "export-lmms-eval": ("folder", [*"--data x --videos x".split()]),
    "synthesize": ("file", ["--qa", "x.jsonl", "--toy"]),
    "curate": ("file", ["--data", "x.jsonl", "--toy"]),
    "card": ("folder", ["x.jsonl"]),
}


def test_the_second_command_is_refused_whatever_the_two_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = {kind: tmp_path / kind for kind in ("folder", "file")}
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(out), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind, out in outs.items()
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None and holder.stdout.readline() == "claimed\n"
        for name, (kind, flags) in WRITING.items():
            with pytest.raises(SystemExit) as ended:
                main([name, *flags, "--out", str(outs[kind])])
            [line] = capsys.readouterr().err.splitlines()
            assert ended.value.code == 2 and "another command is writing there" in line, name
        with pytest.raises(SystemExit):  # a folder that is being written is not uploaded
            main(["push", str(outs["folder"]), "--to", "me/mine"])
        assert "another command is writing there" in capsys.readouterr().err
    finally:
        for holder in holders:
            holder.kill()  # it can clean up nothing
            holder.wait()
    for name, (kind, flags) in WRITING.items():
        if name in ("sft", "eval", "synthesize"):  # the claim of a killed command is none
            with pytest.raises(SystemExit):
                main([name, *flags, "--out", str(outs[kind])])
            assert "another command" not in capsys.readouterr().err, name


def test_every_command_with_an_output_claims_it() -> None:
    from videothinker.commands.main import WRITERS, build_parser

    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    with_out = {
        name
        for name, parser in commands.items()
        if any("--out" in action.option_strings for action in parser._actions)
    }
    # whose page is written at once, and whole
    assert with_out == set(WRITERS) | {"answer", "view"}
    assert set(WRITERS) == set(WRITING)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VIDEOTHINKER_MAX_SECONDS", "abc"),
        ("VIDEOTHINKER_MAX_BYTES", "-1"),
        ("VIDEOTHINKER_CACHE_GB", "much"),
        ("VIDEOTHINKER_TIMEOUT", "soon"),
        ("VIDEOTHINKER_BACKEND", "vlc"),
    ],
)
def test_a_wrong_variable_is_one_line_before_any_video(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    commands = {**WRITING, "validate": ("", ["--train", "x"])}
    commands["answer"] = ("", ["--video", "x", "--question", "?"])
    for name, (_, flags) in commands.items():
        out = [] if name == "validate" else ["--out", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as ended:
            main([name, *flags, *out])
        [line] = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and variable in line and value in line, name
    assert not list(tmp_path.iterdir())


def test_the_variable_of_the_timeout_counts_where_no_flag_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr("videothinker.commands.data.run_validate", lambda args: seen.append(args))
    monkeypatch.setattr("videothinker.commands.evaluation.run_eval", lambda args: seen.append(args))
    monkeypatch.setattr("videothinker.commands.main.claims", lambda args: [])
    monkeypatch.setenv("VIDEOTHINKER_TIMEOUT", "7")
    for argv in ("validate --train x", "eval --model x --data x --videos x --out x"):
        main(argv.split())
        main([*argv.split(), "--timeout", "9"])
    batch = load_script("run_eval_batch")
    monkeypatch.setattr(batch, "run_eval", lambda args, load: seen.append(args))
    batch.main(f"--models x --data x --videos x --out {tmp_path / 'out'}".split())
    assert [args.timeout for args in seen] == [7.0, 9.0, 7.0, 9.0, 7.0]


def test_of_one_launch_only_the_first_process_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videothinker.claims import claim_output

    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "folder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "claimed\n"
        monkeypatch.setenv("RANK", "1")
        with claim_output(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(InputError, match="another command"), claim_output(tmp_path):
            pass
        holder.kill()


def test_ctrl_c_is_one_line_and_goes_on(command: str, tmp_path: Path) -> None:
    flags = [command, "toyworld", "--out", tmp_path / "w", *"--train 40 --val 0 --test 0".split()]
    flags += ["--ood", "0"]
    with subprocess.Popen(
        [str(flag) for flag in flags], env=ENVIRONMENT, text=True, stderr=subprocess.PIPE
    ) as process:
        while not list((tmp_path / "w").rglob("*.mp4")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    last = said.replace("\r", "\n").splitlines()[-1]
    assert last == "stopped; the same command goes on where it was" and "Traceback" not in said
    done = run(*flags)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error(command: str, tmp_path: Path) -> None:
    """`videothinker prepare --list | head -1`"""
    with subprocess.Popen(
        [command, "prepare", "--list"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # before the first line comes
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")


def test_which_errors_are_a_users(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for what a user can mend, a traceback for a bug, and with `--debug` for both."""
    argv = ["toyworld", "--out", "x"]
    where = "videothinker.commands.data.run_toyworld"
    lines = {
        InputError("two\nlines"): "two lines",
        PermissionError(13, "Permission denied", "rows.jsonl"): "rows.jsonl",
        OSError(28, "No space left on device"): "no room on the disk",
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"): "no room",
        ModuleNotFoundError("No module named 'torch'", name="torch"): "videothinker[train]",
        ImportError("Using x requires y: pip install y"): "pip install y",
    }
    for error, says in lines.items():
        with patch(where, side_effect=error), pytest.raises(SystemExit) as ended:
            main(argv)
        [line] = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and says in line
        with patch(where, side_effect=error), pytest.raises(type(error)):
            main([*argv, "--debug"])
    for bug in (KeyError("grpo"), RuntimeError("size mismatch"), ImportError("x", name="torch")):
        with patch(where, side_effect=bug), pytest.raises(type(bug)):
            main(argv)
    assert not Path("x").exists()


# Flags


SECONDS = {
    "plan": "plan tiny/sft --duration",
    "sft": "sft --recipe tiny/sft --data d --videos . --out o --timeout",
    "grpo": "grpo --recipe tiny/grpo --data d --videos . --out o --timeout",
    "eval": "eval --model m --data d --videos . --out o --timeout",
    "answer": "answer --video v.mp4 --question ? --timeout",
}


@pytest.mark.parametrize("value", ["-5", "nan", "0", "inf"])
@pytest.mark.parametrize("name", SECONDS)
def test_a_time_is_a_time(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*SECONDS[name].split(), value])
    assert ended.value.code == 2
    assert f"must be seconds, above 0 and less than a day, not {value}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sft", "grpo", "eval"])
def test_help_says_each_default_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from videothinker.commands.data import VIDEOS_HELP

    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: default)" not in text and "default: frames/ below" in text
    assert VIDEOS_HELP in text and "(default: $VIDEOTHINKER_TIMEOUT, or 60)" in text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--question", " "], "--question is empty"),
        (["--question", "?", "--options", "a", ""], "--options holds an empty one"),
        (["--question", "?", "--options", *map(str, range(27))], "at most 26 options"),
        (["--question", "?", "--out", ""], "--out is empty; name a file"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["answer", "--video", "v.mp4", *flags])
    assert ended.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        "toyworld",
        "prepare STAR --annotations a",
        "curate --data d --toy",
        "eval --model m --data d --videos .",
        "sft --recipe tiny/sft --data d --videos .",
    ],
)
def test_an_empty_name_is_not_the_working_folder(
    argv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*argv.split(), "--out", ""])
    assert ended.value.code == 2 and "--out is empty; name a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        ("answer --video v --question ?", "models.run_answer"),
        ("plan tiny/sft", "models.run_plan"),
        ("validate d", "data.run_validate"),
    ],
)
def test_ctrl_c_promises_only_what_is_kept(
    argv: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = patch(f"videothinker.commands.{where}", side_effect=KeyboardInterrupt)
    with stopped, pytest.raises(SystemExit) as ended:
        main(argv.split())
    assert (ended.value.code, capsys.readouterr().err) == (130, "stopped\n")


# Upload


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What `push` takes for a saved model, in the folder of a run."""
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("# by hand\n")
    summary = {"n": 3, "videos": 2, "accuracy": 1.0, "ci_low": 0.4, "ci_high": 1.0}
    (tmp_path / "figures.json").write_text(json.dumps({"own": summary}))
    return folder


class Hub:
    """A model hub with one repository, which is public."""

    commits = 0

    def repo_exists(self, repo: str, repo_type: str) -> bool:
        return True

    def repo_info(self, repo: str, repo_type: str) -> argparse.Namespace:
        return argparse.Namespace(private=False)

    def create_commit(self, repo: str, additions: object, **_: object) -> argparse.Namespace:
        self.commits += 1
        return argparse.Namespace(repo_url="https://hub")


def push(folder: Path, *flags: object) -> tuple[int, Hub]:
    """Run `videothinker push`: its exit code, and the hub."""
    hub = Hub()
    with patch("huggingface_hub.HfApi", lambda: hub):
        try:
            main(["push", str(folder), *map(str, flags)])
        except SystemExit as ended:
            return int(ended.code or 0), hub
    return 0, hub


@pytest.mark.parametrize(
    "content",
    ["{}", "[1]", "5", '{"own": 5}', '{"own": {"n": 3}}', '{"correct_answers": 3, "accuracy": 1}'],
)
def test_push_names_figures_that_are_none(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    other = tmp_path / "Stats-x.json"
    other.write_text(content)
    code, hub = push(model, "--to", "me/x", "--public", "--figures", other)
    assert (code, hub.commits) == (2, 0)
    assert f"--figures {other}: is no summary.json" in capsys.readouterr().err


def test_push_changes_the_card_when_nothing_else_is_in_the_way(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = ["--figures", tmp_path / "figures.json"]
    for flags, says in (
        (["--to", "not a repo"], "'not a repo' is no name of a repository, ORG/NAME"),
        (["--to", "me/open"], "is public on the hub"),
    ):
        code, hub = push(model, *flags, *figures)
        assert (code, hub.commits) == (2, 0) and says in capsys.readouterr().err
        assert (model / "README.md").read_text() == "# by hand\n"
    (model / "config.json").rename(model / "away.json")
    assert push(model, "--to", "me/open", "--public", *figures)[0] == 2
    assert (model / "README.md").read_text() == "# by hand\n"
    (model / "away.json").rename(model / "config.json")
    code, hub = push(model, "--to", "me/open", "--public", *figures)
    assert (code, hub.commits) == (0, 1) and "## Figures" in (model / "README.md").read_text()
    locks = [str(path) for path in tmp_path.rglob("*.lock")]
    assert locks == [], "what is only read is left as it was"
