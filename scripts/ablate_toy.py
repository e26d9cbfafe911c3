"""Ablations of the toy's main job: what each part of the method is worth, over seeds.

    python scripts/ablate_toy.py run OUT [--arms NAME ...] [--seeds 0 1 2] [--threads 1]
    python scripts/ablate_toy.py table OUT
    python scripts/ablate_toy.py collect OUT data/results/ablations.json
    python scripts/ablate_toy.py try OUT NAME [KEY=VALUE ...] [--seed 0]

`run` does what is missing, the most important arm first, each in a process of its own, whose words
go to OUT/logs. Started twice on one OUT, the two share the work; killed, it goes on. What arms have
in common (clips, traces, an SFT model, an evaluation) is computed once, under a digest of what
decides it. That does not cover the code: a new version of the toy wants a new OUT. A finished run
of `videothinker demo --seed SEED` in OUT/demo-SEED, or a link to one, spares `run` the main job's
trainings.

`collect` writes all results to one file; runs that the file has and OUT lacks stay in it.

`try` runs an arm that is not in the list. A KEY is a field of `Setting`, `plan.FIELD` of the demo's
plan, or what `--set` takes behind `sft.` or `grpo.`: `grpo.train.learning_rate=1e-4`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import ablation_tables
from ablation_stages import QUICK, Size, locked, result_path, run_arm

from videothinker.files import InputError
from videothinker.json_files import read_json

_CORRECT = "grpo.rewards=[correct] grpo.train.reward_weights=[1.0]"
_GROUNDING = "grpo.rewards=[correct,format,grounding] grpo.train.reward_weights=[1.0,2.0,1.0]"
_WEAK = "sft.train.max_steps=260"
ARMS = {  # name → how it differs from the main job; in the order in which they are run
    "main": "",
    "no-sft": "start=base",
    "correct": _CORRECT,
    "no-curation": "curated=false",
    "checked": "curated=checked",
    "random-kept": "curated=random",
    "sft-longer": "instead=true",
    "lr-7e-6": "grpo.train.learning_rate=7e-6",
    "lr-2e-5": "grpo.train.learning_rate=2e-5",
    "lr-1e-4": "grpo.train.learning_rate=1e-4",
    "beta-0": "grpo.train.beta=0.0",
    "beta-0.01": "grpo.train.beta=0.01",
    "group-4": "grpo.train.num_generations=4",
    "group-16": "grpo.train.num_generations=16",
    "stop-0": "plan.stop_rate=0.0",
    "grounding": _GROUNDING,
    "long-none": "long=none",
    "long-sft": "long=sft",
    "long-grpo": "long=grpo",
    "long-order": "order=length",
    "long-grounding": f"long=none {_GROUNDING}",
    "frames-8": "frames=8",
    "frames-16": "frames=16",
    "frames-32": "frames=32",
    "weak-format": _WEAK,
    "weak-correct": f"{_WEAK} {_CORRECT}",
    "weak-strict": f"{_WEAK} grpo.rewards=[correct,strict_format]",
    "weak-paper": f"{_WEAK} grpo.rewards=[correct,paper_format]",
    "strict-format": "grpo.rewards=[correct,strict_format]",
    "paper-format": "grpo.rewards=[correct,paper_format]",
    "stop-0.2": "plan.stop_rate=0.2",
    "stop-0.5": "plan.stop_rate=0.5",
}
BUSY = 75  # exit status of an arm that another process is running


def run_once(out: Path, name: str, text: str, seed: int, size: Size) -> int:
    """`run_arm`, unless its result is there or another process is at it; an exit status."""
    path = result_path(out, name, seed)
    with ExitStack() as held:
        try:
            held.enter_context(locked(out / "locks" / f"{name}-{seed}.lock", wait=False))
        except TimeoutError:
            return BUSY
        if not path.exists():
            begin = time.time()
            run_arm(out, name, text, seed, size)
            print(f"{name}, seed {seed}: {time.time() - begin:.0f} s", flush=True)
        elif (done := read_json(path)["setting"]) != text:
            raise InputError(
                f"{path} is of {done or 'the main job'!r}; take another name, or folder"
            )
    return 0


def run_all(out: Path, arms: Sequence[str], seeds: Sequence[int], threads: int, quick: bool) -> int:
    """Run what is missing, each arm in a process of its own; 1 when one of them failed."""
    states: dict[int, list[str]] = {}
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for name, seed in [(name, seed) for name in arms for seed in seeds]:
        if result_path(out, name, seed).exists():
            continue
        print(f"{name}, seed {seed}: {ARMS[name] or 'the main job'}", flush=True)
        command = [sys.executable, __file__, "one", str(out), name, "--seed", str(seed)]
        command += ["--threads", str(threads)] + ["--quick"] * quick
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with (logs / f"{name}-{seed}.log").open("a") as log:
            done = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        states.setdefault(done.returncode, []).append(f"{name}-{seed}")
    if busy := states.pop(BUSY, []):
        print(f"another process has {', '.join(busy)}; run again when it has ended")
    failed = [name for status, names in states.items() if status for name in names]
    if failed:
        print(f"failed, see {logs}: {', '.join(failed)}")
    return int(bool(failed))


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "try", "one", "table", "collect"):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path, help="folder of all that is made")
        if name == "collect":
            command.add_argument("file", type=Path, help="JSON file to write")
        if name in ("table", "collect"):
            continue
        if name == "run":
            command.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
            command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
        else:
            command.add_argument("name")
            command.add_argument("--seed", type=int, default=0)
        if name == "try":
            command.add_argument("changes", nargs="*", metavar="KEY=VALUE", default=[])
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--quick", action="store_true", help="small clips, few steps")
    args = parser.parse_args(words)
    if args.command == "try" and args.name in ARMS:
        parser.error(f"{args.name} is an arm of the list; choose another name")
    return args


def main() -> int:
    args = parsed()
    if args.command == "run":
        return run_all(args.out, args.arms, args.seeds, args.threads, args.quick)
    if args.command in ("one", "try"):
        import torch

        torch.set_num_threads(args.threads)
        changes = " ".join(args.changes) if args.command == "try" else ARMS[args.name]
        return run_once(args.out, args.name, changes, args.seed, QUICK if args.quick else Size())
    if args.command == "table" and not args.out.is_dir():
        raise InputError(f"{args.out} is no folder; give the OUT of `ablate_toy.py run`")
    if args.command == "collect":
        if not any((args.out / "results").glob("*.json")):
            raise InputError(f"{args.out} holds no results; {args.file} is left as it is")
        earlier = read_json(args.file) if args.file.exists() else None
        found = ablation_tables.collected(args.out, ARMS, earlier)
        ablation_tables.write(args.file, found)
    else:
        print(ablation_tables.all_tables(ablation_tables.collected(args.out, ARMS)))
    return 0


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        try:
            sys.exit(main())
        except InputError as error:
            sys.exit(f"ablate_toy.py: {error}")
