"""Let `synthesize` and `curate` make samples with an endpoint that fails, and compare the rows.

    python scripts/try_synthesis.py [--samples 10000] [--faults 0.1] [--kills 0]
        [--switch batch ray] [--latency 0.05] [--slots 64] [--timeout 10] [--random 0]
        [--folder FOLDER] [--json FILE]

Toy clips get a question, a trace and a reading each, from an endpoint that writes them by rule
(`chat_endpoint.py`); one trace in ten is of no use and has to be written again. The whole is done
twice: with an endpoint without faults, and with one where something goes wrong with that fraction
of the requests. There the commands are started again until nothing is missing, and before that
they are killed (SIGKILL) at random moments, as often as `--kills` says. With `--switch` other
engines then answer up to a third of what there is to ask, each, and after that the chat API goes
on: a batch API, or workers on a Ray cluster of this machine, which ask the endpoint in place of a
model of their own.

The rows must be the same in the end, byte for byte. No request whose answer was in a store when a
command ended, killed or not, may come again; and none may be answered twice unless a kill lies
between, which at most as many as the endpoint has slots may be lost to. Exit 1 if that is not so.

"of all" is the answers per second, the time that commands take to start and to write included,
over what the endpoint could give (slots / latency).
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from chat_endpoint import Running, Script, started

COMMAND = "import sys; from videothinker.commands.main import main; main(sys.argv[1:])"
# a worker's model is the endpoint, whose address stands where the model's folder would
ON_RAY = """
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from videothinker.commands.main import main
from videothinker.synthesis import ray_engine


class Endpoint:
    def __init__(self, model, url):
        from videothinker.synthesis.openai_engine import OpenAIEngine

        self.model, self.engine = model, OpenAIEngine(url, model, None, timeout=10.0)

    def answer(self, requests):
        with ThreadPoolExecutor(32) as threads:
            promises = {threads.submit(self.engine.ask, r): i for i, r in enumerate(requests)}
            for promise in as_completed(promises):
                yield promises[promise], promise.exception() or promise.result()

    def close(self):
        self.engine.close()


class Recipe:
    fields = None

    def __init__(self, kind, model, path):
        self.model, self.url = model, path

    def __call__(self):
        return Endpoint(self.model, self.url)


ray_engine.BackendRecipe = Recipe
main(sys.argv[1:])
"""
MOST_STARTS = 30  # of one command, kills not counted


@dataclass
class Pipeline:
    """Both commands on one folder, started again until nothing is missing.

    Parameters
    ----------
    folder : where the rows are written; `clips.jsonl` is there already.
    endpoint : that answers.
    args : of this script.
    kills : of both commands.
    switch : engines that one start of each command has, in this order.
    starts : of commands.
    killed : moments of kills, with nothing under way any more.
    known : keys whose answer was in a store when a command ended, with the first moment of that.
    """

    folder: Path
    endpoint: Running
    args: argparse.Namespace
    kills: int = 0
    switch: Sequence[str] = ()
    starts: int = 0
    killed: list[float] = field(default_factory=list)
    known: dict[str, float] = field(default_factory=dict)

    def run(self) -> list[str]:
        """Make the rows; the lines of the curated file."""
        rows, kept = self.folder / "rows.jsonl", self.folder / "kept.jsonl"
        half = self.kills // 2
        self.finish(["synthesize", "--captions", self.folder / "clips.jsonl", "--out", rows], half)
        reader = ["--reader-url", self.endpoint.url, "--reader-model", "reader"]
        self.finish(["curate", "--data", rows, "--out", kept, *reader], self.kills - half)
        return kept.read_text().splitlines()

    def finish(self, command: list[Any], kills: int) -> None:
        """Start a command until it has nothing left to do; the first starts are killed."""
        command += ["--teacher-url", self.endpoint.url, "--teacher-model", "teacher"]
        command += ["--api-key-env", "", "--concurrency", self.args.slots]
        command += ["--timeout", self.args.timeout]
        for start in range(MOST_STARTS + kills):
            again = ["--ask-again"] if start else []
            switched = dict(enumerate(self.switch, kills)).get(start, "")
            if switched:
                room = len(self.stored()) + self.args.samples // 3
                again += [*self.engine_flags(switched), "--budget-requests", room]
            wait = self.rng.uniform(0, self.args.kill_within) if start < kills else None
            program = ON_RAY if switched == "ray" else COMMAND
            code, said = self.start([*command, *again], wait, program)
            if code == 0 and start >= kills and not switched:
                return
            # a batch whose budget went into questions has made no row yet
            if code not in (0, 3, -signal.SIGKILL) and not (switched and code == 2):
                break
        sys.exit(f"{command[0]} ended with {code}:\n{said}")

    def engine_flags(self, engine: str) -> list[Any]:
        """Flags of a command for another engine."""
        if engine == "batch":
            return ["--engine", "batch", "--poll", 0.1]
        paths = ["--teacher-path", self.endpoint.url, "--reader-path", self.endpoint.url]
        return ["--engine", "ray", "--ray-address", "local", "--ray-workers", 2, *paths]

    def start(
        self, command: list[Any], wait: float | None, program: str = COMMAND
    ) -> tuple[int, str]:
        """Run a command once, or kill it so many seconds after it began to ask."""
        self.starts += 1
        before = self.endpoint.counts()["came"]
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(
                [sys.executable, "-c", program, *map(str, command)], stdout=said, stderr=said
            ) as process,
        ):
            if wait is not None:
                while process.poll() is None and self.endpoint.counts()["came"] == before:
                    time.sleep(0.05)
                try:
                    process.wait(wait)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    while self.endpoint.counts()["under_way"]:
                        time.sleep(0.01)
                    self.killed.append(time.time())
            code = process.wait()
            self.note_stored()
            said.seek(0)
            return code, said.read()[-4000:]

    def stored(self) -> set[str]:
        """The keys of all requests whose answer is in a store."""
        keys: set[str] = set()
        for path in self.folder.glob("*.answers"):
            for line in path.read_text().splitlines(keepends=True):
                entry = json.loads(line) if line.endswith("\n") else {}
                if entry.get("text") is not None:
                    keys.add(entry["key"])
        return keys

    def note_stored(self) -> None:
        """Note what must not come again from now on."""
        now = time.time()
        for key in self.stored():
            self.known.setdefault(key, now)

    def asked_again(self) -> int:
        """Requests that came after their answer had been in a store at the end of a command."""
        last: dict[str, float] = self.endpoint.get("last")
        if unknown := [key for key in self.known if key not in last]:
            sys.exit(f"the endpoint reckons other keys than the store: {unknown[0]} never came")
        return sum(last[key] > moment for key, moment in self.known.items())

    def answered_again(self) -> tuple[int, int]:
        """Answers to what had been answered: without a kill between, and the most that lost one."""
        without, lost = 0, Counter[float]()
        for moments in self.endpoint.get("answered").values():
            for earlier, later in pairwise(moments):
                kill = next((k for k in self.killed if earlier <= k < later), None)
                if kill is None:
                    without += 1
                else:
                    lost[kill] += 1
        return without, max(lost.values(), default=0)

    @property
    def rng(self) -> random.Random:
        """Of the moments of kills; another one for each start."""
        return random.Random(f"{self.args.random} {self.starts}")


@dataclass
class Result:
    """How one run of the whole went.

    Attributes
    ----------
    requests, came, faults : different requests; how often one came, and without an answer.
    twice : answers to what had been answered before.
    without_kill : of these, the ones with no kill between; there must be none.
    most_lost : the most of them with one and the same kill between.
    asked_again : requests whose answer was in a store when a command ended, and that came again.
    answers_per_second : of the whole run.
    share : of what the endpoint could give.
    """

    run: str
    rows: int
    seconds: float
    starts: int
    kills: int
    requests: int
    came: int
    faults: int
    twice: int
    without_kill: int
    most_lost: int
    asked_again: int
    answers_per_second: float
    share: float

    def is_right(self, slots: int) -> bool:
        """Return True if nothing was paid for twice but what kills explain."""
        return not self.asked_again and not self.without_kill and self.most_lost <= slots

    def row(self) -> str:
        """Of the table."""
        cells = [self.run, self.rows, f"{self.seconds:.0f}", self.starts, self.kills]
        cells += [self.requests, self.came, self.faults, self.twice, self.without_kill]
        cells += [self.most_lost, self.asked_again, f"{self.answers_per_second:.1f}"]
        return f"| {' | '.join(map(str, cells))} | {100 * self.share:.1f} % |"


HEADS = (
    "run rows seconds starts killed requests came failed twice unkilled lost again answers/s of_all"
).split()


def measure(name: str, args: argparse.Namespace, folder: Path) -> tuple[Result, list[str]]:
    """Run both commands with a new endpoint; what was counted, and the rows."""
    clean = name == "without faults"
    folder.mkdir()
    write_clips(folder / "clips.jsonl", args.samples)
    script = Script(args.slots, args.latency, faults=0.0 if clean else args.faults)
    with started(script) as endpoint:
        pipeline = Pipeline(folder, endpoint, args)
        if not clean:
            pipeline.kills, pipeline.switch = args.kills, args.switch
        began = time.perf_counter()
        rows = pipeline.run()
        seconds = time.perf_counter() - began
        counts = endpoint.counts()
        without_kill, most_lost = pipeline.answered_again()
        rate = counts["answered"] / seconds
        result = Result(
            name,
            len(rows),
            seconds,
            pipeline.starts,
            len(pipeline.killed),
            counts["requests"],
            counts["came"],
            counts["came"] - counts["answered"],
            counts["twice"],
            without_kill,
            most_lost,
            pipeline.asked_again(),
            rate,
            rate * args.latency / args.slots,
        )
    return result, rows


def write_clips(path: Path, n: int) -> None:
    """Captioned clips of the toy world; no video is needed."""
    from videothinker.json_files import dumps
    from videothinker.schema import Clip
    from videothinker.toy.world import draw_scene

    with path.open("w") as file:
        for i in range(n):
            scene = draw_scene(f"train-{i:05d}", 0)
            duration = float(scene.duration)
            clip = Clip(scene.id, f"{scene.id}.mp4", duration, "train", scene.segments)
            file.write(dumps(clip.to_row()) + "\n")


def main() -> None:
    """Run it without faults and with them, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--samples", type=int, default=10_000, help="clips, with one question each")
    add("--faults", type=float, default=0.1, help="fraction of the requests that fail")
    add("--kills", type=int, default=0, help="of the commands, half of them of each")
    engines = {"nargs": "+", "choices": ("batch", "ray"), "default": ()}
    add("--switch", **engines, help="engines that go on in the middle, before the first does again")
    add("--kill-within", type=float, default=5.0, help="seconds after the first request")
    add("--latency", type=float, default=0.05, help="seconds of one request")
    add("--slots", type=int, default=64, help="requests that the endpoint works on at once")
    add("--timeout", type=float, default=10.0, help="of the commands, in seconds")
    add("--random", type=int, default=0, help="seed of the moments of kills")
    add("--folder", type=Path, help="kept; must not exist (default: temporary)")
    add("--json", help="file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "run"
        folder.mkdir(parents=True)
        print(f"| {' | '.join(HEADS).replace('_', ' ')} |")
        print(f"|{'---|' * len(HEADS)}", flush=True)
        results, rows = [], []
        for name in ("without faults", "with faults"):
            result, lines = measure(name, args, folder / name.split()[0])
            results.append(result)
            rows.append(lines)
            print(result.row(), flush=True)
    same = rows[0] == rows[1]
    print("the rows are the same" if same else "the rows are NOT the same")
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(result) for result in results], indent=1))
    if not same or not all(result.is_right(args.slots) for result in results):
        sys.exit(1)


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
