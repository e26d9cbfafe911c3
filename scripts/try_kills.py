"""Kill `videothinker demo` at random moments, start it again each time, and look for damage.

    python scripts/try_kills.py OUT [--kills 10] [--seconds 900] [--random 0] [options of demo]

After each kill every file under a final name must be whole (JSON that parses, safetensors with all
their bytes, clips that are not empty), and every process that the run had started must have ended.
At the end the run must have ended, and no step that was finished before a kill may have been
written again. `--seconds` is about what an undisturbed run takes; the kills are spread over it.
Options of demo are such as `--seed 2`. The last lines say what was found; exit 1 if anything was.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil


def damage(path: Path) -> str:
    """What is wrong with a file; "" if nothing is, or if its content is not known here."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".jsonl", ".journal"):
            return lines_damage(path)
        elif path.suffix == ".safetensors":
            return tensors_damage(path)
        elif not path.stat().st_size and path.suffix in (".mp4", ".html", ".npz"):
            return "is empty"
    except (ValueError, OSError, KeyError) as error:
        return f"cannot be read: {error}"
    return ""


def lines_damage(path: Path) -> str:
    """What is wrong with a `.jsonl`, which is a journal or written whole.

    A kill may cut the last line of a journal (readers drop it), no other, and no question may have
    been answered twice.
    """
    complete, _, torn = path.read_text(errors="replace").rpartition("\n")
    rows = [json.loads(line) for line in complete.split("\n") if line]
    if torn and not is_journal(path):
        return "ends in the middle of a line"
    # a reply, and the choice it was made to make when it held no answer
    ids = [
        (row["id"], row.get("index", 0), row.get("forced_letter")) for row in rows if row.get("id")
    ]
    return "holds an answer twice" if len(set(ids)) < len(ids) else ""


def tensors_damage(path: Path) -> str:
    """What is wrong with a `.safetensors`: its header says how long it must be."""
    with path.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(head))
    ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
    return "is cut off" if path.stat().st_size != 8 + head + max(ends) else ""


def temporary(path: Path, out: Path) -> bool:
    """Return True for an unfinished file: a temporary name, or a checkpoint without its mark."""
    parts = path.relative_to(out).parts
    folders = [
        out.joinpath(*parts[: i + 1]) for i, p in enumerate(parts) if p.startswith("checkpoint-")
    ]
    return any(not (f / "finished").exists() for f in folders) or any(
        p.startswith(".") or ".tmp" in p for p in parts
    )


def is_journal(path: Path) -> bool:
    """Return True if a `.jsonl` is appended to line by line."""
    return path.suffix == ".journal" or path.parents[2].name == "eval"


def steps_of(out: Path) -> dict[str, tuple[int, bytes]]:
    """Time of writing and content of each finished step."""
    return {
        p.name: (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted((out / "steps").glob("*.json"))
    }


def alive(process: psutil.Process) -> bool:
    """Return True for a process that has not ended; one that nobody waits for has."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main(argv: list[str] | None = None) -> int:
    """Run, kill, look, repeat; then let it end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--random", type=int, default=0, help="seed of the moments")
    args, options = parser.parse_known_args(argv)

    draw = random.Random(args.random)
    faults: list[str] = []
    seen: dict[str, tuple[int, bytes]] = {}
    command = [
        str(Path(sys.executable).parent / "videothinker"),
        "demo",
        "--out",
        str(args.out),
        *options,
    ]
    for kill in range(args.kills + 1):
        process = subprocess.Popen(command)
        try:
            process.wait(
                draw.uniform(8, 2 * args.seconds / args.kills) if kill < args.kills else None
            )
        except subprocess.TimeoutExpired:
            helpers = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
            process.wait()
            _, left = psutil.wait_procs(helpers, timeout=30)
            faults += [f"kill {kill}: process {p.pid} outlives the run" for p in left if alive(p)]
        done = steps_of(args.out)
        for name, was in seen.items():
            if done.get(name) != was:
                faults.append(f"kill {kill}: step {name} was finished and has been written again")
        files = [p for p in args.out.rglob("*") if p.is_file() and not temporary(p, args.out)]
        faults += [f"kill {kill}: {p} {what}" for p in files if (what := damage(p))]
        seen = done
        names = ", ".join(n.removesuffix(".json") for n in done) or "nothing"
        print(
            f"\n--- {time.strftime('%H:%M:%S')} start {kill + 1} ended with {process.returncode}; "
            f"finished: {names}; files looked at: {len(files)}",
            flush=True,
        )
        if process.returncode != -signal.SIGKILL:
            break
    if process.returncode:
        faults.append(f"the last start ended with {process.returncode}")
    print("\n".join(faults) or f"{kill} kills, no damage, nothing done twice")
    return bool(faults)


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main())
