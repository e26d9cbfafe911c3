"""How often each rule reads the right option letter from free-form replies, side by side.

    python scripts/bench_reply_rules.py [--replies tests/replies.jsonl] [--set NAME …] [--kinds]
                                        [--wrong RULE] [--json FILE]

A reply file has one JSON object a line: `reply`, `options`, `right` (the letter that a careful
reader would say was answered, null where the reply does not commit), and `kind`, `set`. The rules:

    strict     the reward's: one answer tag that holds one letter, or the letter alone
    reader     videothinker.evaluation.reply_reading.read_reply
    NAME       the benchmark's own rule (videothinker.evaluation.official_rules)
    lmms-eval  its shared `mcq_extract`, and its Video-Holmes parser, whose random letter where it
               finds none is counted as a wrong one; thoughts in <think> are cut as it cuts them
    VLMEvalKit `can_infer` (exact matching before a judge) and its Video-Holmes rule

Columns: read right (the letter, or rightly none), a wrong letter (another option's, or any where
the reply commits to none), none where there is one. A letter that the row has no option for counts
as none. The last two rules are left out where their package is not installed: put a checkout or an
unpacked wheel on PYTHONPATH. `--kinds` prints a line for each kind of reply, `--wrong RULE` the
replies that this rule misreads.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from videothinker.evaluation.official_rules import OFFICIAL_RULES
from videothinker.evaluation.reply_reading import read_reply
from videothinker.schema import Sample, option_letters
from videothinker.trace import predicted_letter

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
Rule = Callable[[Row], str | None]
OUTCOMES = ("right", "wrong letter", "none")


def strict(row: Row) -> str | None:
    return predicted_letter(row["reply"], list(option_letters(row["options"])))


def reader(row: Row) -> str | None:
    return read_reply(row["reply"], row["options"]).letter


def official(name: str) -> Rule:
    """A benchmark's rule; its gold letter is the right one, as CG-Bench needs it, else any."""

    def rule(row: Row) -> str | None:
        gold = row["right"] or "A"
        sample = Sample("?", row["options"], f"<answer>{gold}</answer>")
        return OFFICIAL_RULES[name](row["reply"], sample).letter

    return rule


def load(package: str, module: str, names: list[str]) -> dict[str, Any]:
    """Functions of one module of a package; {} where it is not there or cannot be imported.

    The module is imported with its parents as bare folders, without their `__init__`: these pull in
    whole harnesses, and the rules need none of it.
    """
    root = folder_of(package)
    if root is None:
        return {}
    name, folder = package, root
    for part in ["", *module.split(".")[:-1]]:
        name, folder = (f"{name}.{part}", folder / part) if part else (name, folder)
        bare(name, folder)
    if package == "vlmeval":
        bare("vlmeval.smp", root / "smp").load = None
    try:
        found = importlib.import_module(f"{package}.{module}")
    except ImportError as error:
        print(f"{package}.{module} cannot be imported and is left out: {error}", file=sys.stderr)
        return {}
    return {name: getattr(found, name) for name in names}


@lru_cache
def folder_of(package: str) -> Path | None:
    """Where a package is installed; None if it is not."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def bare(name: str, folder: Path) -> Any:
    """A package that is no more than its folder."""
    module = sys.modules.setdefault(name, ModuleType(name))
    module.__path__ = [str(folder)]
    return module


def version(distribution: str) -> str:
    """The version of a package; "" for a checkout that is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def without_thoughts(text: str) -> str:
    return re.sub(r"<think(?:ing)?>.*?</think(?:ing)?>", "", text, flags=re.S).strip()


def lmms_eval_rules() -> dict[str, Rule]:
    """lmms-eval's shared extraction and its Video-Holmes parser."""
    shared = load("lmms_eval", "tasks._task_utils.mcq_extract", ["extract_mcq_answer"])
    holmes = load("lmms_eval", "tasks.video_holmes.utils", ["parse_multi_choice_response"])
    name = f"lmms-eval {version('lmms-eval')}".strip()
    rules: dict[str, Rule] = {}
    if extract := shared.get("extract_mcq_answer"):
        rules[f"{name}, mcq_extract"] = lambda row: (
            extract(without_thoughts(row["reply"]), list(option_letters(row["options"]))) or None
        )
    if parse := holmes.get("parse_multi_choice_response"):
        rules[f"{name}, video_holmes"] = lambda row: parse(
            without_thoughts(row["reply"]),
            list(option_letters(row["options"])),
            option_letters(row["options"]),
        )
    return rules


def vlmevalkit_rules() -> dict[str, Rule]:
    """VLMEvalKit's exact matching and its Video-Holmes rule."""
    names = ["can_infer", "can_infer_option", "can_infer_text"]
    matching = load("vlmeval", "utils.matching_util", names)
    holmes = load("vlmeval", "dataset.utils.videoholmes", ["extract_option"])
    name = f"VLMEvalKit {version('vlmeval')}".strip()
    rules: dict[str, Rule] = {}
    if infer := matching.get("can_infer"):
        rules[f"{name}, can_infer"] = lambda row: (
            infer(row["reply"], dict(option_letters(row["options"]))) or None
        )
    if extract := holmes.get("extract_option"):
        rules[f"{name}, video_holmes"] = lambda row: extract(row["reply"])
    return rules


def outcome(row: Row, letter: str | None) -> str:
    """Whether a reading is right; a letter without an option is no letter."""
    letter = letter if letter in option_letters(row["options"]) else None
    if letter == row["right"]:
        return "right"
    return "none" if letter is None else "wrong letter"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replies", type=Path, default=ROOT / "tests" / "replies.jsonl")
    parser.add_argument("--set", nargs="*", default=[], help="only replies of these sets")
    parser.add_argument("--kinds", action="store_true", help="a line for each kind of reply")
    parser.add_argument("--wrong", default="", help="print what this rule misreads")
    parser.add_argument("--json", type=Path, help="write the counts there as well")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.replies.read_text("utf-8").splitlines()]
    rows = [row for row in rows if not arguments.set or row.get("set") in arguments.set]
    random.seed(0)  # one of the rules draws a letter where it finds none
    rules: dict[str, Rule] = {"strict": strict, "reader": reader}
    rules |= {name: official(name) for name in OFFICIAL_RULES}
    for others, package in ((lmms_eval_rules(), "lmms_eval"), (vlmevalkit_rules(), "vlmeval")):
        rules |= others
        if not others:
            print(f"{package} is not installed and left out", file=sys.stderr)
    without = sum(row["right"] is None for row in rows)
    print(f"{len(rows)} replies, {without} of them without an answer\n")
    print(f"| {'rule':34} | right | wrong letter | none |\n|---|---|---|---|")
    table = {}
    for name, rule in rules.items():
        counts = Counter(outcome(row, rule(row)) for row in rows)
        table[name] = {key: counts[key] for key in OUTCOMES}
        share = {key: f"{100 * counts[key] / len(rows):.1f} %" for key in OUTCOMES}
        print(f"| {name:34} | {share['right']} | {share['wrong letter']} | {share['none']} |")
    if arguments.kinds:
        kinds: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            kinds[row["kind"]].append(row)
        for kind, some in kinds.items():
            right = {n: [outcome(row, rule(row)) for row in some] for n, rule in rules.items()}
            shares = ", ".join(f"{n} {found.count('right')}" for n, found in right.items())
            print(f"{kind} ({len(some)}): {shares}")
    if arguments.wrong:
        for row in rows:
            letter = rules[arguments.wrong](row)
            if (result := outcome(row, letter)) != "right":
                print(f"{result}: {letter} for {row['right']}: {row['reply'][:160]!r}")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
