"""Every command that the documentation shows: run here on little data, or read by its own parser.

A command that is in no list below fails the tests.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, notebooks

from videothinker.commands.main import build_parser, main

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)
SHELLS = ("bash", "sh", "shell", "console")
REST = {"grpo": "--data d --videos v --out o"}  # what "…" stands for where a line ends with it


@dataclass(frozen=True)
class Shown:
    """A command in a block of commands: where it stands, and its words."""

    file: str
    line: str
    words: tuple[str, ...]  # without variables before it and comments after it

    @property
    def kind(self) -> str:
        """What decides how it is tested: `videothinker sft`, `bash scripts/test.sh`, `vllm`."""
        first, second = (*self.words, "")[:2]
        return f"{first} {second}".strip() if first in ("videothinker", "bash", "python") else first


def markdown(path: Path) -> str:
    """The Markdown of a notebook or a text file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def commands_in(text: str, file: str) -> Iterator[Shown]:
    """The commands of the blocks of a text: those marked as a shell's, and what looks like one."""
    for _, language, block in FENCE.findall(text):
        block = block.replace("\\\n", " ")
        if language not in SHELLS and (
            language or not re.match(r"(videothinker|python|bash) ", block)
        ):
            continue
        for line in block.splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield Shown(file, line, tuple(words))


def shown_commands() -> list[Shown]:
    """All of them, in the notebooks and the texts at the top."""
    texts = [*notebooks(), *ROOT.glob("*.md"), *(ROOT / "data").glob("*.md")]
    return [
        command
        for path in texts
        for command in commands_in(markdown(path), path.relative_to(ROOT).as_posix())
    ]


SHOWN = shown_commands()

# Which tests run a command on little data, where the line as shown needs a GPU, videos or a model
# that a test has not. The line itself is read by the command's own parser.
PARSED = {
    "answer": "tests/test_commands.py",
    "card": "tests/test_curation.py",
    "compare": "nbs/9_commands/03_evaluation.ipynb",
    "curate": "tests/test_commands.py",
    "demo": ".ci/run",
    "eval": "nbs/9_commands/03_evaluation.ipynb",
    "export-lmms-eval": "tests/test_lmms_eval.py",
    "grpo": "tests/test_resume.py",
    "prepare": "tests/test_prepare.py",
    "push": "tests/test_commands.py",
    "sft": "tests/test_resume.py",
    "synthesize": "tests/test_commands.py",
    "toyworld": "tests/test_commands.py",
    "validate": "tests/test_validate.py",
    "view": "tests/test_rollouts.py",
}

# Run below as they are shown.
RUN = re.compile(r"videothinker (--help|plan .*|prepare --list|\w+ --help)|python .* --help")

# Not run by these tests; why, and what runs them instead.
ELSEWHERE = {
    "bash scripts/setup.sh": "installs everything: .ci/run begins with it",
    "bash scripts/quickstart.sh": "trains for minutes: .ci/run has its demo, shortened",
    "bash scripts/test.sh": "is what runs this test",
    "bash scripts/run_sft_video.sh": "needs GPUs: tests/test_commands.py runs it without them",
    "bash scripts/run_grpo_video.sh": "needs GPUs: tests/test_commands.py runs it without them",
    "bash scripts/install_hooks.sh": "changes the clone: tests/test_scripts.py runs it in another",
    "python scripts/run_eval_batch.py": "needs models: tests/test_commands.py runs it",
    "python scripts/ablate_toy.py": "trains for hours: tests/test_ablations.py runs it small",
    "python scripts/build_docs.py": "tests/conftest.py runs it",
    "python scripts/check_gpu.py": "needs a GPU: tests/test_check_gpu.py runs its --tiny",
    "python scripts/language_model.py": "downloads: tests/test_language_model.py uses its model",
    "python scripts/hindsight_toy.py": "needs a model: tests/test_curation.py runs it without",
    "source": "is the shell's own",
    "cat": "is the system's own",
    "cd": "is the shell's own",
    "git": "needs the network",
    "jupyter": "opens a browser: tests/test_hosts.py starts it",
    "vllm": "needs a GPU: tests/test_vllm.py says what of it is tested",
    "pip": "needs the network",
    "transformers": "serves a model of 7B: tests/test_video_engines.py serves a small one",
    "ray": "starts a cluster: tests/test_video_engines.py starts a local one",
    "accelerate": "needs GPUs",
    "ruff": "is a step of .ci/run",
    "mypy": "is a step of .ci/run",
}


def described(command: Shown) -> str:
    """A command and its place, as the name of a test."""
    return f"{Path(command.file).name}: {' '.join(command.words)[:60]}"


def test_blocks_are_read_as_a_shell_reads_them() -> None:
    text = "```sh\nA=1 b c \\\n  'd e'  # f\n\n# g\n```\n\n```python\nh\n```\n"
    text += "\n```\npython i.py j\nk\n```"
    assert [c.words for c in commands_in(text, "x")] == [
        ("b", "c", "d e"),
        ("python", "i.py", "j"),
        ("k",),
    ]
    assert len(SHOWN) > 40


def test_every_command_is_in_a_list() -> None:
    unknown = [
        f"{c.file}: {c.line}"
        for c in SHOWN
        if not RUN.fullmatch(" ".join(c.words))
        and not (c.words[0] == "videothinker" and c.words[1] in PARSED)
        and c.kind not in ELSEWHERE
    ]
    assert unknown == []


def test_what_the_lists_name_is_there() -> None:
    for place in [*PARSED.values(), *re.findall(r"tests/\w+\.py", " ".join(ELSEWHERE.values()))]:
        assert (ROOT / place).exists(), place
    for kind, reason in ELSEWHERE.items():
        for place in re.findall(r"tests/\w+\.py", reason):  # it speaks of what it is said to run
            name, text = Path(kind.split()[-1]).stem, (ROOT / place).read_text()
            assert name in text or re.sub("sft|grpo", "{stage}", name) in text, kind
    for command in SHOWN:
        for word in command.words:
            if word.startswith("scripts/"):
                assert (ROOT / word).exists(), command.line


def test_every_command_line_is_one_that_videothinker_reads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = build_parser()
    wrong = []
    for command in SHOWN:
        words = list(command.words[1:])
        if command.words[0] != "videothinker" or "--help" in words:
            continue
        if words[-1] == "…" and not words[-2].startswith("--"):
            words[-1:] = REST.get(words[0], "").split()
        try:
            parser.parse_args(words)
        except SystemExit:
            reason = capsys.readouterr().err.splitlines()[-1]
            wrong.append(f"{command.file}: {' '.join(words)}: {reason}")
    assert wrong == []


def test_scripts_that_are_shown_are_whole() -> None:
    for name in sorted({w for c in SHOWN for w in c.words if re.fullmatch(r"scripts/.*\.sh", w)}):
        subprocess.run(["bash", "-n", name], cwd=ROOT, check=True)


QUICK = {" ".join(c.words): c for c in SHOWN if RUN.fullmatch(" ".join(c.words))}


@pytest.mark.parametrize("line", QUICK)
def test_quick_commands_run_as_they_are_shown(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = QUICK[line].words
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    monkeypatch.chdir(tmp_path)
    try:
        main(list(words[1:]))
    except SystemExit as leaving:
        assert not leaving.code
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.iterdir()) == []


# The toy part of the training guide, line by line, with less of everything

LITTLE = {
    "toyworld": "--train 6 --val 2 --test 2 --ood 2",
    "sft": "--set train.max_steps=1",
    "grpo": "--set train.max_steps=1"
    " --set train.per_device_train_batch_size=16 --set train.gradient_accumulation_steps=1",
}


def toy_guide() -> list[Shown]:
    """The commands of the guide's first block: from no data to a model that was measured."""
    lines = [c for c in SHOWN if c.file.endswith("tutorials/training.ipynb")]
    start = next(k for k, c in enumerate(lines) if c.words[1] == "toyworld")
    end = next(k for k, c in enumerate(lines) if k > start and c.words[1] == "eval")
    return lines[start : end + 1]


def test_the_guide_leads_from_nothing_to_a_measured_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for command in toy_guide():
        name = command.words[1]
        names.append(name)
        main([*command.words[1:], *LITTLE.get(name, "").split()])
    assert names == ["toyworld", "synthesize", "curate", "sft", "grpo", "eval"]
    assert list(tmp_path.rglob("model/config.json"))
    assert list(tmp_path.rglob("eval/**/summary.json"))
