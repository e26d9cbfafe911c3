"""Replies read by a careful person and by `read_reply`; official rules against the scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from conftest import ROOT

from videothinker.evaluation.official_rules import OFFICIAL_RULES, counts_missing
from videothinker.evaluation.reply_reading import Reading, is_refusal, read_reply
from videothinker.schema import Sample, option_letters
from videothinker.trace import predicted_letter

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (ROOT / "tests" / "replies.jsonl").read_text(encoding="utf-8").splitlines()
]
COLOURS = ["A. Red", "B. Blue", "C. Green", "D. Yellow"]


def reading(row: dict[str, Any]) -> str | None:
    return read_reply(row["reply"], row["options"]).letter


def test_the_replies_are_many_and_sound() -> None:
    assert len(ROWS) >= 400
    assert len({(row["reply"], *row["options"]) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row["right"] is None or row["right"] in option_letters(row["options"]), row
    assert sum(row["right"] is None for row in ROWS) > len(ROWS) // 5  # silence is tested as well


def test_reader_reads_98_percent_and_no_wrong_letter() -> None:
    outcomes: Counter[str] = Counter()
    for row in ROWS:
        letter = reading(row)
        outcomes["right" if letter == row["right"] else "none" if letter is None else "wrong"] += 1
    assert outcomes["wrong"] == 0, [
        row["reply"] for row in ROWS if reading(row) not in (None, row["right"])
    ]
    assert outcomes["right"] >= 0.98 * len(ROWS), outcomes


def test_strict_letters_are_read() -> None:
    """What the reward reads, the reader reads, or sees taken back or shown as an example."""
    for row in ROWS:
        if row["kind"] == "example":  # 'in the format "<answer>A</answer>"'
            assert row["right"] is None and reading(row) is None, row
            continue
        strict = predicted_letter(row["reply"], list(option_letters(row["options"])))
        assert strict in (None, reading(row)), row


def test_the_form_of_the_options_does_not_matter() -> None:
    """With prefixes `A.`, `(A)`, `A:` and without any, a reply is read the same way."""
    for row in ROWS[::3]:
        texts = option_letters(row["options"])
        expected = read_reply(row["reply"], row["options"])
        for form in ("{}. {}", "({}) {}", "{}: {}"):
            options = [form.format(letter, text) for letter, text in texts.items()]
            assert read_reply(row["reply"], options) == expected, (row, form)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<answer>C</answer>", ("C", "tag")),
        ("$\\boxed{C}$", ("C", "box")),
        ('```json\n{"result": "C"}\n```', ("C", "json")),
        ("The answer is C", ("C", "statement")),
        ("(c)", ("C", "letter")),
        ("the green one", ("C", "text")),
        ("<answer>A</answer><answer>C</answer>", (None, "competing")),
        ("The answer is A. The answer is C.", (None, "competing")),
        ("A or C", (None, "competing")),
        ("A car drives by.", (None, "")),
        ("", (None, "")),
    ],
)
def test_rules_have_names(reply: str, expected: tuple[str | None, str]) -> None:
    assert read_reply(reply, COLOURS) == Reading(*expected)


def test_letters_in_a_thought_do_not_count() -> None:
    for thought in ("A", "The answer is A", "<answer>A</answer>", "\\boxed{A}"):
        assert read_reply(f"<think>{thought}</think>", COLOURS).letter is None
        assert read_reply(f"<think>{thought}</think>\nC", COLOURS).letter == "C"
        assert read_reply(f"{thought}</think>\nThe answer is C", COLOURS).letter == "C"
    assert read_reply("<think>The answer is A", COLOURS).letter is None  # cut off


def test_options_of_other_rows_are_no_answers() -> None:
    for reply in ("E", "<answer>E</answer>", "The answer is E.", "\\boxed{F}", '{"answer": "E"}'):
        assert read_reply(reply, COLOURS).letter is None
    assert read_reply("C", []) == (None, "")
    assert read_reply("red", ["A. red", "B. red"]).letter is None  # two options with one text


def test_naming_every_letter_never_pays() -> None:
    """Attacks on scorers: no letter may come out, whichever is the right one."""
    for named in (
        "{}",
        "The answer is {}.",
        "<answer>{}</answer>",
        "\\boxed{{{}}}",
        "({})",
        "Option {}",
    ):
        for between in (" ", "\n", ", ", ". ", " or "):
            reply = between.join(named.format(letter) for letter in "ABCD")
            assert read_reply(reply, COLOURS).letter is None, reply


def test_refusals_are_told_from_answers() -> None:
    for row in ROWS:
        if row["kind"] == "refusal" and row["right"] is None and "none of A" not in row["reply"]:
            assert is_refusal(row["reply"]), row["reply"]
    for reply in (
        "C",
        "The answer is C.",
        "<think>I cannot tell</think> C",
        "He is sorry for her.",
        "The man cannot see the ball.",
        "The man is unable to see it.",
    ):
        assert not is_refusal(reply), reply


@pytest.mark.parametrize(
    "reply",
    [
        "No idea.",
        "N/A",
        "I give up.",
        "There is no way to know.",
        "Please upload the video.",
        "The frames do not show this.",
        "Insufficient evidence.",
        "没有足够的信息",
        "Ich weiß es nicht.",
        "No se puede determinar.",
        "Cannot tell.",
        "Unable to answer.",
    ],
)
def test_ways_to_decline(reply: str) -> None:
    assert is_refusal(reply)
    assert read_reply(reply, COLOURS).letter is None
    assert read_reply(reply, ["A. Yes", "B. No"]).letter is None


def test_many_long_places_share_one_budget() -> None:
    """Beyond it there is no reading; only so many characters of tags are ever looked at."""
    part = "the answer is C or A because option B fits "
    reply = "".join(f"<answer>{i} {part * 240}</answer>" for i in range(40))
    assert read_reply(reply, COLOURS) == (None, "competing")
    assert read_reply(f"<answer>{'so ' * 3000} the answer is C</answer>", COLOURS).letter == "C"


def test_any_text_is_read_without_an_error() -> None:
    pieces = (
        "<answer>",
        "</answer>",
        "<think>",
        "\\boxed{",
        "A",
        " or ",
        "(",
        "答案是",
        "\u0300",
        "~~",
    )
    for first in pieces:
        for second in pieces:
            for reply in (first + second, (first + second) * 300, f"{first}\n{second}. A man"):
                assert read_reply(reply, COLOURS).letter in (None, *"ABCD")
                assert is_refusal(reply) in (True, False)


# reply, right letter, and what the public scripts make of them: Video-Holmes' letter, CG-Bench's
# result (1, 0, None: not saved), VRBench's letter, LVBench's character, Video-Thinker's letter
SCRIPTS = (
    ("", "C", None, None, None, None, None),
    ("C", "C", "C", 1, "C", "C", "C"),
    ("<answer>C</answer>", "C", "C", 1, "C", "<", "C"),
    ("<answer>D. A letter</answer>", "C", "A", 0, "D", "<", "D"),
    ("He left the scene.", "C", None, None, "E", "H", None),
    ("A man walks in. So it is C.", "C", "A", 1, "C", "A", "A"),
    ("It is one of A, B, C and D.", "C", "C", 1, "D", "I", "C"),
    ('```json\n{"result": "C"}\n```', "C", "C", 1, "C", "`", None),
    ('```json\n{"result": C}\n```', "C", "C", 1, "C", "`", None),
    ('```json\n{"result": "C. Green"}\n```', "C", "C", 0, "C", "`", None),
    ("\\boxed{c}", "C", None, None, "C", "\\", None),
    ("Final answer: C", "C", "C", 1, "C", "F", "C"),
    ("final answer: the (C) one", "C", "C", 1, "C", "C", None),
    ("(C", "C", "C", 1, "C", "C", None),
    ("I think C", "C", "C", 1, "C", "I", "I"),
    ("Answer: D. Therefore C", "C", "A", 1, "C", "A", None),
    ("C.\n\nD. no", "C", "C", 1, "C", "C", "C"),
    ("to-do-a-b", "C", None, None, "B", "t", None),
    ("<answer>A</answer><answer>C", "C", "A", 1, "A", "<", "A"),
    ("<Answer>b</Answer>", "C", "A", None, "B", "<", "B"),
    ("answer is [C", "C", "C", 1, "C", "a", "C"),
    ("Wrong", "C", None, None, None, "W", None),
    ("a c e", "C", None, None, "A", "a", "A"),
    ("The answer is C, not D.", "C", "C", 1, "C", "T", None),
    ("E?B)[\nB) the scene.answer is </ANSWER>}F[D", "C", "D", 0, "E", "E", "E"),
    (".<answer>", "D", None, None, None, ".", None),
    ("the correct answer is (b).", "A", None, None, "B", "b", None),
    ("Er isst einen Apfel", "B", "A", None, None, "E", None),
    ("Assistant: B", "C", "A", 0, "B", "A", None),
    ("<answer>[DFinal answer:", "D", "D", None, None, "<", None),
    ("therefore Ctrue", "A", "C", None, None, "t", None),
    ("-DAtrueeBe!<think>/", "B", "A", None, None, "-", None),
    ("최종 답: **B**", "C", "B", 0, "B", "최", None),
    ("<answea>E</an</answer>;enull>", "D", "E", 0, "E", "<", None),
    ("A la izquierda se ve una puerta.", "A", "A", 1, "A", "A", "A"),
    ("<answ\n\nr>A A man opensſthe door</answeranswer is ", "B", "A", 0, "A", "<", "A"),
    ("</think>}-\\}</ANSWER>\\\nIAnswer: ,A.c", "C", "A", 0, "A", "<", None),
    (' B){"result": "K(Afraid.```b}B)finalc', "D", "A", 0, "D", "B", "B"),
    (" B(C) option \\boxed{C}true\n", "A", "B", 0, "C", "C", "B"),
    ("option K", "B", None, None, None, "o", None),
    ("Respuesta: D;", "C", "D", 0, "A", "R", None),
    ("<Answer>A\t]A.therefore /!KD\\boxed{", "D", "A", 0, "A", "<", None),
    ("B. Correeti:nA.[DC.", "A", "D", 0, "B", "B", "B"),
    ("/\\boxed{C}E(C)conclusion</think>]I;", "B", "C", 0, "C", "C", None),
    ("3.5A] [B] [dC] [D] [EG</think>", "C", "B", 0, "D", "3", "B"),
    ("T\\boxed{C}here areA. 3 men and 2 women.", "D", "A", 0, "C", "T", "T"),
    ("C</answer>", "A", "C", 0, "C", "C", "C"),
    ("G;,Answer: F <answer>", "B", "F", 0, None, "G", "G"),
)


@pytest.mark.parametrize("reply, right, holmes, cg_bench, vrbench, lvbench, thinker", SCRIPTS)
def test_official_rules_agree_with_the_scripts(
    reply: str,
    right: str,
    holmes: str | None,
    cg_bench: int | None,
    vrbench: str | None,
    lvbench: str | None,
    thinker: str | None,
) -> None:
    row = Sample("?", COLOURS, f"<answer>{right}</answer>")
    found = {name: rule(reply, row) for name, rule in OFFICIAL_RULES.items()}
    letters = {
        "video-holmes": holmes,
        "vrbench": vrbench,
        "lvbench": lvbench,
        "video-thinker": thinker,
    }
    for name, letter in letters.items():
        assert found[name] == (letter, letter == right, True), name
    result = found["cg-bench"]
    assert (int(result.correct) if result.counted else None) == cg_bench


@pytest.mark.parametrize(
    "reply, result",
    [  # what `post_process` of CG-Bench@f826608 returned for the right letter C
        ('```json\n{"result":null}\n```\nIt may be C', 0),
        ('```json\n{"result":null}\n```', 0),
        ('```json\n{"result": null}\n```\nIt may be C', 0),
        ('```json\n{"result":C}\n```', 1),
        ('```json\n{"letter":null}\n```\nIt may be C', 1),
        ('```json\n["result"]\n```', None),
    ],
)
def test_null_is_a_result_of_cg_bench(reply: str, result: int | None) -> None:
    row = Sample("?", COLOURS, "<answer>C</answer>")
    read = OFFICIAL_RULES["cg-bench"](reply, row)
    assert (int(read.correct) if read.counted else None) == result


def test_on_well_formed_replies_all_rules_agree() -> None:
    """Each benchmark's own form of reply is read alike by its rule, the reader and strict."""
    forms = {
        "video-holmes": "<think>It is D? No.</think>\n<answer>{}</answer>",
        "cg-bench": '```json\n{{"result": "{}"}}\n```',
        "vrbench": "<Step 1> He looks at it.\n<Answer> {}",
        "lvbench": "({})",
        "scalelong": "{}",
        "star": "{}",
        "video-thinker": "<think>It is D? No.</think> <answer>{}</answer>",
    }
    assert set(forms) == set(OFFICIAL_RULES)
    for name, form in forms.items():
        for letter in "ABCD":
            row = Sample("?", COLOURS, f"<answer>{letter}</answer>")
            assert OFFICIAL_RULES[name](form.format(letter), row) == (letter, True, True), name
            assert read_reply(form.format(letter), COLOURS).letter == letter, name
            assert isinstance(counts_missing(name), bool)


def test_readings_need_no_torch() -> None:
    code = (
        "import sys; from videothinker.evaluation import reply_reading, official_rules; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'scipy', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_bench_prints_a_row_for_each_rule(tmp_path: Any) -> None:
    """Other packages' rules are left out with a word where they are not installed."""
    replies = tmp_path / "replies.jsonl"
    some = [row for row in ROWS if row["kind"] in ("bare", "hedge")]
    replies.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    command = [sys.executable, "scripts/bench_reply_rules.py", "--replies", str(replies), "--kinds"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    for name in ("strict", "reader", *OFFICIAL_RULES):
        assert f"| {name} " in run.stdout
    assert "| reader " in run.stdout and f"{len(some)} replies" in run.stdout
