"""The command as a user runs it: in processes of its own, on good and bad files, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ROOT, load_script

BASE = ROOT / "data" / "tiny-base"
ENVIRONMENT = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
CODECS = {"mp4": "libx264", "webm": "libvpx-vp9", "mkv": "libx264"}

SEVERAL = """
import sys
from videothinker.cli import main

for name in ("webm", "mkv"):
    main(["answer", "--video", f"{sys.argv[1]}/good.{name}", "--out", f"{name}.html", *sys.argv[2:]])
"""
LIGHT = """
import sys
from videothinker.cli import build_parser

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
    """Two seconds of a bright square that moves over a dark ground, 112×112 at 8 frames a second."""
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
    """Start a command and kill it (SIGKILL, so that it can clean up nothing) as soon as `ready` says so."""
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
    assert (
        "Which way does it move?" in page and "B. right" in page and page.count("data:image/") >= 2
    )
    assert "://" not in page.replace("http://www.w3.org/", "")  # nothing is fetched
    done = run(sys.executable, "-c", SEVERAL, clips, *ask, cwd=tmp_path)  # the other containers
    assert done.returncode == 0, done.stderr
    assert all(
        "Which way" in (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        for name in ("webm", "mkv")
    )


def test_help_is_quick_and_complete(command: str) -> None:
    begin = time.monotonic()
    done = run(command, "--help")
    names = ("demo", "toyworld", "synthesize", "curate", "sft", "grpo", "eval", "answer")
    assert done.returncode == 0 and all(f"\n    {name}" in done.stdout for name in names)
    assert (
        time.monotonic() - begin < 30
    )  # a second on an idle machine; torch alone takes longer on a busy one
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
        *truth,
    )
    assert (written.returncode, written.stdout) == (0, f"6 rows in {rows}\n"), written.stderr
    curated = run(command, "curate", "--data", rows, "--out", train)
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
    )
    assert done.returncode == 0, done.stderr
    out = {name: tmp_path / name / "train.jsonl" for name in ("killed", "whole")}
    for path in out.values():
        path.parent.mkdir()
    journal = Path(f"{out['killed']}.journal")
    for wanted in (20, 300):
        kill_when(
            [command, "curate", "--data", rows, "--out", out["killed"]],
            lambda n=wanted: lines_in(journal) >= n,
        )
        assert not out["killed"].exists()
    with journal.open("ab") as file:
        file.write(b'{"id": "torn li')  # and once in the middle of a line
    for path in out.values():
        done = run(command, "curate", "--data", rows, "--out", path)
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
    done = run(
        "bash",
        ROOT / "scripts" / f"run_{stage}_video.sh",
        "--data",
        "a b.jsonl",
        cwd=tmp_path,
        PATH=path,
        ACCELERATE="ddp",
    )
    scripts = ROOT / "scripts"
    assert done.stdout.splitlines() == [
        "launch",
        "--config_file",
        f"{scripts}/accelerate/ddp.yaml",
        "-m",
        "videothinker.commands.main",
        stage,
        "--recipe",
        f"{scripts}/recipes/qwen2.5-vl-7b/{stage}.yaml",
        "--data",
        "a b.jsonl",
    ]
    recipe = run(
        "bash",
        ROOT / "scripts" / f"run_{stage}_video.sh",
        cwd=tmp_path,
        PATH=path,
        RECIPE="mine.yaml",
    )
    lines = recipe.stdout.splitlines()
    assert (lines[2], lines[-1]) == (f"{scripts}/accelerate/single.yaml", "mine.yaml")


def test_the_module_runs_as_a_script() -> None:
    done = run(
        sys.executable,
        "-m",
        "videothinker.commands.main",
        "sft",
        "--recipe",
        "nothing.yaml",
        "--data",
        "x",
        "--videos",
        "x",
        "--out",
        "x",
    )
    assert (done.returncode, done.stderr) == (2, "videothinker sft: nothing.yaml: no such recipe\n")


@pytest.mark.parametrize("name", ["single", "ddp", "fsdp2", "zero3"])
def test_accelerate_knows_the_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(
        str(ROOT / "scripts" / "accelerate" / f"{name}.yaml")
    )  # refuses unknown keys
    kinds = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    assert str(config.distributed_type).rsplit(".", 1)[-1] == kinds[name]


def test_eval_batch_runs_every_pair_and_names_those_that_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, seen = load_script("run_eval_batch"), []

    def fake(argv: list[str]) -> None:
        seen.append(argv)
        if "bad" in argv:
            sys.exit(2)

    monkeypatch.setattr(script, "videothinker", fake)
    rest = ["--videos", "v", "--out", str(tmp_path), "--controls"]
    code = script.main(["--models", "good", "bad", "--data", "a/x.jsonl", "b/y.jsonl", *rest])
    assert code == 1 and [argv[2] for argv in seen] == ["good", "bad", "good", "bad"]
    expected = ["--data", "a/x.jsonl", "--videos", "v", "--out", str(tmp_path / "x"), "--controls"]
    assert seen[0] == ["eval", "--model", "good", *expected]
    assert capsys.readouterr().out.count("failed: bad on") == 2
    assert (
        script.main(
            ["--models", "good", "--data", "x.jsonl", "--videos", "v", "--out", str(tmp_path)]
        )
        == 0
    )
    with pytest.raises(SystemExit):
        script.main(
            ["--models", "m", "--data", "a/x.jsonl", "b/x.jsonl", "--videos", "v", "--out", "o"]
        )
