"""Preparing data: toy sets in the repository, commands, hostile paths, and kills in the middle."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from videothinker.configs import config_names
from videothinker.data.dataset_card import MARK, data_card, manifests
from videothinker.data.mix import read_mix
from videothinker.data.prepare import PrepareSettings, prepare
from videothinker.data.rowfiles import load_rows, read_parquet
from videothinker.data.sources import SOURCES
from videothinker.schema import read_rows
from videothinker.toy.world import WorldSize, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """The toy world that the sets in data/ were made of."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=32, val=0, test=8, ood=8))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a data folder but what preparing remembers for itself."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and ".looks" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def run(
    command: str, *argv: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *map(str, argv)], capture_output=True, text=True, cwd=cwd, timeout=600
    )


# What is in the repository


def test_toy_sets_are_what_prepare_makes(world: Path, tmp_path: Path) -> None:
    manifest = prepare("toyworld", world, tmp_path, world, PrepareSettings(min_frames=0))
    kept = {f"{f['folder']}/{f['file']}" for f in manifest["files"]}
    for name in (*kept, "manifest/toyworld.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "data" / name).read_bytes(), name
    for name in kept:
        table = (ROOT / "data" / name).with_suffix(".parquet")
        assert [s.to_row() for s in read_parquet(table)] == [
            s.to_row() for s in read_rows(ROOT / "data" / name)
        ]


def test_card_in_the_repository_is_made_of_its_manifests() -> None:
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    tracked = subprocess.run(
        ["git", "ls-files", "data/manifest"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert MARK in text
    if tracked.stdout.split() == [
        f"data/manifest/{m['name']}.json" for m in manifests(ROOT / "data")
    ]:
        assert text == data_card(ROOT / "data")
    for source in SOURCES.values():
        assert source.obtain in text and source.licence in text


def test_data_folder_loads_as_a_data_set(tmp_path: Path) -> None:
    from datasets import load_dataset

    whole = load_dataset(str(ROOT / "data"), cache_dir=str(tmp_path))
    assert {split: rows.num_rows for split, rows in whole.items()} == {
        "train": 32,
        "test": 16,
        "ood": 16,
    }
    rows = load_dataset(str(ROOT / "data"), "toyworld", split="train", cache_dir=str(tmp_path))
    assert rows[0]["solution"] == read_rows(ROOT / "data/train/toyworld.jsonl")[0].solution


def test_mixes_name_known_sources() -> None:
    trained_on = {source.name for source in SOURCES.values() if source.role == "train"}
    names = config_names("mixes")
    assert {"video-thinker-10k", "video-thinker-no-lvbench"} <= set(names)
    for name in names:
        mix = read_mix(name)
        assert mix.name == name and set(mix.rows) <= trained_on
    assert sum(read_mix("video-thinker-10k").rows.values()) == 9920
    assert "LVBench" not in read_mix("video-thinker-no-lvbench").rows


# The commands


def test_prepare_and_validate(command: str, world: Path, tmp_path: Path) -> None:
    done = run(
        command,
        "prepare",
        "toyworld",
        "--annotations",
        world,
        "--videos",
        world,
        "--out",
        tmp_path / "data",
        "--min-frames",
        0,
    )
    assert (
        done.returncode == 0 and "train/toyworld.jsonl: 32 rows about 16 videos" in done.stdout
    ), done.stderr
    report = tmp_path / "report.json"
    sound = run(
        command,
        "validate",
        tmp_path / "data",
        "--videos",
        world,
        "--json",
        report,
        "--min-frames",
        8,
    )
    assert sound.returncode == 0 and json.loads(report.read_text())["exit_code"] == 0, sound.stdout
    rows = tmp_path / "data/train/toyworld.jsonl"
    rows.write_text(
        rows.read_text().replace("videos/train/train-0016.mp4", "videos/train/gone.mp4")
    )
    broken = run(command, "validate", tmp_path / "data", "--videos", world, "--json", report)
    assert (
        broken.returncode == 1 and "video-missing" in broken.stdout and "gone.mp4" in broken.stdout
    )
    assert json.loads(report.read_text())["checks"]["video-missing"]["error"] >= 1


def test_known_sources_are_listed(command: str) -> None:
    listed = run(command, "prepare", "--list")
    assert listed.returncode == 0 and all(f"{name}: " in listed.stdout for name in SOURCES)


def test_nothing_usable_is_an_error_that_says_where(command: str, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    said = {"v_a": {"duration": 10, "timestamps": [[0, 2]], "sentences": ["It rains."]}}
    (tmp_path / "train.json").write_text(json.dumps(said))
    done = run(
        command,
        "prepare",
        "ActivityNet",
        "--annotations",
        tmp_path / "train.json",
        "--videos",
        tmp_path / "videos",
        "--out",
        tmp_path / "data",
    )
    assert done.returncode == 2 and "problems" in done.stderr
    [problem] = map(
        json.loads, (tmp_path / "data/problems/ActivityNet.jsonl").read_text().splitlines()
    )
    assert "no such file" in problem["reason"] and problem["value"]["video_id"] == "a"


# Hostile rows


def test_paths_that_leave_the_root_are_refused(tmp_path: Path, world: Path) -> None:
    videos, outside = tmp_path / "videos", tmp_path / "outside.mp4"
    shutil.copy(next((world / "videos/train").glob("*.mp4")), outside)
    videos.mkdir()
    (videos / "link.mp4").symlink_to(outside)
    (videos / "fine.mp4").write_bytes(outside.read_bytes())
    paths = [
        str(outside),
        "../outside.mp4",
        "a/../../outside.mp4",
        "link.mp4",
        "fine.mp4\0",
        "https://example.com/a.mp4",
        "file:///etc/passwd",
        "C:\\outside.mp4",
        "\\\\host\\outside.mp4",
        "",
        ".",
        "fine.mp4",
    ]
    asked = {"problem": "Why?", "options": [], "solution": "so", "problem_type": "free-form"}
    rows = [asked | {"path": path, "id": str(i)} for i, path in enumerate(paths)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    settings = PrepareSettings(role="ood", min_frames=0)
    manifest = prepare("rows", tmp_path / "rows.json", tmp_path / "data", videos, settings)
    # a link is its owner's, who made the folder
    kept = [s.path for s in read_rows(tmp_path / "data/eval/ood/rows.jsonl")]
    assert kept == ["link.mp4", "fine.mp4"]
    assert manifest["left_out"] == len(paths) - 2
    left = [
        json.loads(line)
        for line in (tmp_path / "data/problems/rows.jsonl").read_text().splitlines()
    ]
    assert sorted(problem["value"]["path"] for problem in left) == sorted({*paths} - {*kept})


def test_a_video_that_cannot_be_read_is_one_problem_of_its_rows(
    tmp_path: Path, world: Path
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(next((world / "videos/train").glob("*.mp4")), videos / "fine.mp4")
    (videos / "circle.mp4").symlink_to("ring.mp4")
    (videos / "ring.mp4").symlink_to("circle.mp4")
    (videos / "folder.mp4").mkdir()
    question = {"problem": "Why?", "options": [], "solution": "so", "problem_type": "free-form"}
    names = ("circle", "folder", "fine")
    rows = [question | {"path": f"{name}.mp4", "id": name} for name in names]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    settings = PrepareSettings(role="ood", min_frames=0)
    manifest = prepare("rows", tmp_path / "rows.json", tmp_path / "data", videos, settings)
    assert manifest["problems"] == {"video": 2}
    assert [s.path for s in load_rows(tmp_path / "data/eval/ood")] == ["fine.mp4"]
    reasons = (tmp_path / "data/problems/rows.jsonl").read_text()
    assert "circle.mp4: cannot be read (" in reasons and str(tmp_path) not in reasons


@pytest.mark.parametrize("where", ["stat", "probe", "frames"])
def test_a_video_without_permission_costs_its_rows_alone(
    where: str, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is for anybody but root, for whom a file's mode says nothing."""
    from videothinker.data import prepare as module

    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("closed", "fine"):
        shutil.copy(next((world / "videos/train").glob("*.mp4")), videos / f"{name}.mp4")

    def closed(function):
        def call(path, *args, **options):
            if Path(path).name == "closed.mp4":
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *args, **options)

        return call

    if where == "stat":
        monkeypatch.setattr(Path, "stat", closed(Path.stat))
    else:
        name = {"probe": "probe", "frames": "read_frames"}[where]
        monkeypatch.setattr(module, name, closed(getattr(module, name)))
    question = {"problem": "Why?", "options": [], "solution": "so", "problem_type": "free-form"}
    rows = [question | {"path": f"{name}.mp4", "id": name} for name in ("closed", "fine")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    settings = PrepareSettings(role="ood", min_frames=0)
    manifest = prepare("rows", tmp_path / "rows.json", tmp_path / "data", videos, settings)
    assert manifest["problems"] == {"video": 1} and manifest["files"][0]["count"] == 1
    reasons = (tmp_path / "data/problems/rows.jsonl").read_text()
    assert "cannot be read (Permission denied); check its permissions" in reasons


# Kills


def digest(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_killed_twenty_times_it_ends_with_the_same_bytes(world: Path, tmp_path: Path) -> None:
    call = (
        "import sys; from videothinker.data.prepare import PrepareSettings, prepare; "
        "w, out = sys.argv[1:]; prepare('toyworld', w, out, w, PrepareSettings(min_frames=0))"
    )

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", call, str(world), str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    begun = time.monotonic()
    assert start(tmp_path / "whole").wait(timeout=600) == 0
    lasts, wanted = time.monotonic() - begun, digest(tree(tmp_path / "whole"))
    rng, out, kills = random.Random(0), tmp_path / "killed", 0
    while kills < 20:
        child = start(out)
        try:
            child.wait(timeout=lasts * rng.uniform(0.3, 0.9))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
        for name, content in digest(tree(out)).items():  # what is there is whole
            assert name.endswith(".tmp") or name == "README.md" or content == wanted[name], name
        if kills % 4 == 3:
            shutil.rmtree(out / ".looks", ignore_errors=True)
    assert start(out).wait(timeout=600) == 0
    assert {
        name: content for name, content in digest(tree(out)).items() if not name.endswith(".tmp")
    } == wanted


def test_a_mix_says_what_it_could_not_take(command: str, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"name": "small", "rows": {"toyworld": 40}}))
    done = run(
        command,
        "prepare",
        tmp_path / "mix.yaml",
        "--annotations",
        ROOT / "data/train",
        "--out",
        tmp_path,
    )
    assert done.returncode == 0 and "32 of 32 rows, about 16 videos; 40 were wanted" in done.stdout
    assert len(read_rows(tmp_path / "mixes/small.jsonl")) == 32
