"""Disks: what was written is there after a power cut, and one that is small, or has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from videothinker import journal
from videothinker.cache import DiskCache
from videothinker.claims import claim_output
from videothinker.files import InputError, atomic_write
from videothinker.journal import Journal


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is asked of the disk: ("sync", name of a file or folder) and ("rename", new name)."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append(("rename", Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return done


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")


@needs_proc
def test_a_rename_and_new_folders_are_on_disk(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    atomic_write(tmp_path / "a" / "b" / "x.json", "{}")
    names = [name for what, name in steps if what == "sync"]
    assert steps[1] == ("rename", "x.json") and names[0].startswith(".x.json.")
    assert names[1:] == ["b", "a", tmp_path.name]  # the file's name, and those of its folders
    steps.clear()
    atomic_write(tmp_path / "a" / "b" / "x.json", "[]")
    assert [step for step in steps if step[0] == "sync"][1:] == [("sync", "b")]
    steps.clear()
    atomic_write(tmp_path / "a" / "b" / "y.json", "[]", durable=False)
    assert steps == [("rename", "y.json")]


@needs_proc
def test_a_new_journal_has_its_name_on_disk(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    with Journal(tmp_path / "new" / "journal.jsonl", {"kind": "test"}):
        assert ("sync", "new") in steps and ("sync", tmp_path.name) in steps


def test_a_cache_on_a_small_disk_leaves_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is that of a large disk: 50 GB. The disk has 300 kB."""

    def taken() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*.x"))

    def disk(folder: Path) -> Any:
        return SimpleNamespace(total=300_000, used=taken(), free=300_000 - taken())

    monkeypatch.delenv("VIDEOTHINKER_CACHE_GB", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", disk)
    cache = DiskCache(tmp_path, ".x")
    for i in range(40):
        cache.put(f"{i:02}", bytes(10_000))
        assert taken() <= 170_000
    assert taken() >= 100_000
    other = DiskCache(tmp_path, ".x")  # of a process that writes one entry only
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    other.put("last", bytes(10_000))
    assert taken() <= 85_000


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_on_a_disk_without_locks_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(journal, "_TOLD", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(2):  # the second run finds no lock of the first
            with claim_output(tmp_path / "rows.jsonl", is_file=True):
                with Journal(tmp_path / "rows.answers") as answers:
                    answers.append(k)
                atomic_write(tmp_path / "rows.jsonl", "{}")
        with claim_output(tmp_path / "made" / "for" / "nothing"):
            pass
    [first, second] = [str(warning.message) for warning in caught]
    assert f"{tmp_path}: no locks there" in first and "nothing" in second
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "rows.answers"}


def test_other_faults_of_a_lock_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"), claim_output(tmp_path):
        pass


def test_a_claim_names_its_lock_and_leaves_none_beside_a_file(tmp_path: Path) -> None:
    import filelock

    out = tmp_path / "rows.jsonl"
    with claim_output(out, is_file=True):
        atomic_write(out, "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    lock = tmp_path / ".rows.jsonl.lock"
    with filelock.FileLock(lock), pytest.raises(InputError, match=f"if none is: remove {lock}"):
        with claim_output(out, is_file=True):
            pass
    with claim_output(out, is_file=True):  # what the other one left is no obstacle
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
