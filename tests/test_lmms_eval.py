"""Exports for lmms-eval: hooks score as we do, clips hold our frames, and lmms-eval agrees."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from videothinker.evaluation.benchmarks import Benchmark, Protocol
from videothinker.evaluation.lmms_eval import (
    FAILURES,
    LmmsTask,
    export_lmms_eval,
    scorer_files,
)
from videothinker.evaluation.questions import FrameSource, make_questions, system_text, user_text
from videothinker.evaluation.records import Record
from videothinker.evaluation.video_engine import Reply
from videothinker.schema import Sample, read_rows
from videothinker.toy.world import WorldSize, make_world
from videothinker.video.frames import Sampling

TOY = Benchmark(
    name="toy",
    title="Toy world",
    short="Toy",
    source="toyworld",
    domain="toy",
    category="split",
    metric="category mean",
    licence="none",
    url="none",
    citation="",
    protocols={},
)
PROTOCOL = Protocol(
    name="official",
    system="Look.",
    prompt="{n_frames} frames of {duration} s at {times}. {question}\n{options}",
    sampling=Sampling(fps=2, max_frames=8, size=(56, 84)),
    max_new_tokens=77,
    rule="video-holmes",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sample], Path]:
    """Questions about four toy clips, one of them cut off and one missing."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=0, val=0, test=4, ood=0))
    rows = read_rows(folder / "eval_id.jsonl")
    first, second, *_ = sorted((folder / "videos" / "test").glob("*.mp4"))
    first.write_bytes(first.read_bytes()[:500])
    second.unlink()
    return rows, folder


@pytest.fixture(scope="module")
def task(world: tuple[list[Sample], Path], tmp_path_factory: pytest.TempPathFactory) -> LmmsTask:
    rows, folder = world
    return export_lmms_eval(
        TOY, PROTOCOL, rows, folder, tmp_path_factory.mktemp("export"), timeout=None
    )


@pytest.fixture(scope="module")
def docs(task: LmmsTask) -> list[dict[str, str]]:
    lines = (task.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def hooks(task: LmmsTask) -> Iterator[Any]:
    """The file `utils.py` of the export, loaded as lmms-eval loads it."""
    spec = importlib.util.spec_from_file_location("utils", task.folder / "utils.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.startswith(module.NAME)]:
        del sys.modules[name]


def test_rows_that_cannot_be_asked_stay(
    task: LmmsTask, docs: list[dict[str, str]], world: tuple[list[Sample], Path], hooks: Any
) -> None:
    rows, _ = world
    assert task.n == len(rows) == len(docs) == 8
    assert set(task.errors) == {row.id for row in rows[:4]}
    scored = [hooks.process_results(doc, [f"<answer>{doc['answer']}</answer>"]) for doc in docs]
    assert hooks.mean_score([scores["accuracy"] for scores in scored]) == 0.5
    assert hooks.mean_score([scores["coverage"] for scores in scored]) == 0.5
    for doc in docs[:4]:
        [message] = hooks.doc_to_messages(doc)
        assert [part["type"] for part in message["content"]] == ["text"]
        assert doc["text"] not in str(message)


def test_clips_hold_our_frames_and_rates(
    task: LmmsTask, docs: list[dict[str, str]], world: tuple[list[Sample], Path], hooks: Any
) -> None:
    import av

    rows, folder = world
    source = FrameSource(folder, timeout=None)
    for doc, question in list(zip(docs, make_questions(rows, PROTOCOL), strict=True))[4:]:
        frames = source.frames(question)
        assert frames is not None
        [path] = hooks.doc_to_visual(doc)
        with av.open(path) as file:
            stream = file.streams.video[0]
            seen = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(stream)])
            assert stream.average_rate is not None
            assert abs(float(stream.average_rate) / frames.fps - 1) < 1e-6
            assert stream.frames == len(frames.pixels)
        assert np.array_equal(seen, frames.pixels)
        assert doc["text"] == user_text(question, frames)
        assert doc["system"] == system_text(question) == "Look."
    assert len(list((task.folder / "clips").iterdir())) == 2  # two questions about each clip


def test_other_videos_other_frames_other_clips(
    world: tuple[list[Sample], Path], tmp_path: Path
) -> None:
    """An annotated stretch is a clip for each row; a copy of the question shares it."""
    rows, folder = world
    cut = replace(PROTOCOL, clip="annotated")
    [segment, *_] = rows[4].segments
    pair = [
        replace(rows[4], id="first", segments=[segment]),
        replace(rows[4], id="same", segments=[segment]),
        replace(rows[4], id="other", segments=rows[4].segments[-1:]),
    ]
    task = export_lmms_eval(TOY, cut, pair, folder, tmp_path, timeout=None)
    assert not task.errors
    lines = (tmp_path / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    videos = [json.loads(line)["video"] for line in lines]
    assert videos[0] == videos[1] != videos[2]


def test_hooks_score_as_our_records_do(docs: list[dict[str, str]], hooks: Any) -> None:
    """The copy in the export gives the verdicts of `Record`, on well-formed and odd replies."""
    rng = random.Random(0)
    pieces = ["<answer>", "</answer>", "A", "B.", "(C)", "the answer is D", " ", "a man", "\n"]
    sample = Sample.from_row(json.loads(docs[-1]["row"]))
    replies = ["".join(rng.choices(pieces, k=rng.randrange(6))) for _ in range(150)]
    replies += [f"<answer>{letter}</answer>" for letter in sample.letters]
    seen = set()
    for reading in ("strict", "reader", "official"):
        for rule in ("video-holmes", "cg-bench", "vrbench"):
            doc = docs[-1] | {"reading": reading, "rule": rule}
            protocol = replace(PROTOCOL, reading=reading, rule=rule)
            for reply in replies:
                record = Record.of(sample, "own", reply, protocol)
                scores = hooks.process_results(doc, [reply])
                assert scores["accuracy"]["score"] == record.correct, (reply, protocol)
                for name in ("strict", "reader"):
                    right = record.readings[name] == record.answer
                    assert scores[name]["score"] == right, (name, reply)
                assert scores["unread"]["score"] == (record.readings["reader"] is None)
                published = record.official_correct if record.official_counted else None
                assert scores["official"].get("score") == published
                seen.add((record.correct, record.official_counted))
    assert len(seen) >= 3


def test_hooks_score_unasked_and_open_rows_as_our_records_do(
    docs: list[dict[str, str]], hooks: Any
) -> None:
    open_row = Sample("How many?", [], "<answer>3</answer>", "a.mp4", "numerical", id="n")
    for doc, reply, error in (
        (docs[-1] | {"error": "cut off"}, "<answer>A</answer>", "cut off"),
        (docs[-1] | {"row": json.dumps(open_row.to_row())}, "<answer>3</answer>", ""),
        (docs[-1] | {"row": json.dumps(open_row.to_row())}, "<answer>4</answer>", ""),
    ):
        for rule in ("", "video-holmes", "vrbench"):
            sample = Sample.from_row(json.loads(doc["row"]))
            protocol = replace(PROTOCOL, rule=rule)
            record = Record.of(sample, "own", Reply("" if error else reply, error=error), protocol)
            scores = hooks.process_results(doc | {"rule": rule}, [reply])
            assert scores["accuracy"]["score"] == record.correct
            assert scores["coverage"]["score"] == (not error)
            if rule and error:
                assert ("score" in scores["official"]) == record.official_counted


def test_failed_requests_are_no_answers(docs: list[dict[str, str]], hooks: Any) -> None:
    doc = docs[-1]
    for failure in FAILURES:
        reply = f"{failure} after 5 retries] The answer is {doc['answer']}"
        scores = hooks.process_results(doc, [reply])
        assert scores["accuracy"]["score"] == scores["coverage"]["score"] == 0


def test_category_means(docs: list[dict[str, str]], hooks: Any) -> None:
    item = hooks.process_results(docs[-1], [docs[-1]["answer"]])["category_mean"]
    assert item["categories"] == ["test"] and item["score"] == 1
    other = {"score": 0.0, "categories": ["ood"]}
    assert hooks.category_mean([item, item, item, other]) == 0.5


def test_the_copy_needs_neither_torch_nor_this_package(
    task: LmmsTask, docs: list[dict[str, str]]
) -> None:
    """The hooks work where neither is to be had, in an interpreter of its own."""
    code = (
        "import builtins, importlib.util, json, sys\n"
        "real = builtins.__import__\n"
        "def refuse(name, *rest):\n"
        "    if name.split('.')[0] in ('torch', 'transformers', 'av', 'videothinker'):\n"
        "        raise ImportError(name)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = refuse\n"
        "spec = importlib.util.spec_from_file_location('utils', sys.argv[1])\n"
        "utils = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(utils)\n"
        "doc = json.loads(sys.stdin.read())\n"
        "print(utils.process_results(doc, [doc['answer']])['accuracy']['score'])\n"
    )
    command = [sys.executable, "-c", code, str(task.folder / "utils.py")]
    doc = json.dumps(docs[-1])
    done = subprocess.run(command, input=doc, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1.0", done.stderr
    assert len(scorer_files()) < 20


def test_words_behind_a_video_come_after_it() -> None:
    """The rule that an export puts into transformers 5: ours, with padding, in a batch."""
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, Qwen2_5_VLModel

    from videothinker.evaluation.lmms_eval import report_positions
    from videothinker.model.qwen2_5_vl import mrope_positions

    config = AutoConfig.from_pretrained(ROOT / "data" / "tiny-base")
    with torch.device("meta"):
        model = Qwen2_5_VLModel(config)
    video = config.video_token_id
    long = torch.tensor([1, 2, *[video] * 12, 3, 4])
    short = torch.tensor([0, 0, 0, 0, 5, *[video] * 8, 6, 7, 8])  # padded on the left
    ids = torch.stack([long, short])
    grids = torch.tensor([[3, 4, 4], [2, 4, 4]])
    seconds = torch.tensor([1.0, 4.625])
    mask = torch.tensor([[1] * 16, [0] * 4 + [1] * 12])
    kinds = (ids == video).int() * 2
    rule = report_positions(type(model).get_rope_index)
    positions, deltas = rule(model, ids, kinds, None, grids, seconds, mask)
    for row, start in ((0, 0), (1, 4)):
        there = positions[:, row, start:]
        expected = mrope_positions(ids[row, start:], video, grids[row : row + 1], [seconds[row]])
        assert torch.equal(there, expected)
        assert int(deltas[row]) == int(there.max()) + 1 - 16
        last = int((ids[row, start:] == video).nonzero()[-1])
        assert int(there[0, last + 1]) > int(there[0, last])  # what transformers 5.23 does not do
    words = torch.tensor([[1, 2, 3]])  # without a video transformers answers itself
    plain, _ = rule(model, words, torch.zeros_like(words), None, None, None, torch.ones_like(words))
    assert plain[0].tolist() == [[0, 1, 2]]


def test_task_file(task: LmmsTask) -> None:
    yaml = pytest.importorskip("yaml")

    class Loader(yaml.SafeLoader):
        """Reads `!function x.y` as text."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    config = yaml.load((task.folder / "task.yaml").read_text(encoding="utf-8"), Loader)  # noqa: S506
    assert config["task"] == task.name == "videothinker_toy_official"
    assert config["dataset_kwargs"] == {"data_files": {"test": "questions.jsonl"}}
    assert config["generation_kwargs"]["max_new_tokens"] == 77
    assert config["generation_kwargs"]["until"] == []
    assert config["reasoning_tags"] == "none"
    metrics = {entry["metric"]: entry["aggregation"] for entry in config["metric_list"]}
    assert metrics["category_mean"] == "utils.category_mean"
    assert metrics["accuracy"] == metrics["official"] == "utils.mean_score"
    text = (task.folder / "README.md").read_text(encoding="utf-8")
    assert "is_qwen3_vl=True" in text and "4 of which cannot be asked" in text
    assert f"--tasks {task.name} --include_path . " in text
    assert f"--include_path {task.folder} " in task.command("qwen2_5_vl", "MODEL")


def has_lmms_eval(python: str) -> bool:
    probe = [python, "-c", "import lmms_eval"]
    return not subprocess.run(probe, capture_output=True, check=False).returncode


def test_check_says_where_lmms_eval_is_missing() -> None:
    if has_lmms_eval(sys.executable):
        pytest.skip("lmms-eval is installed")
    command = [sys.executable, "scripts/check_lmms_eval.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "has no lmms-eval; name one" in done.stderr


def test_lmms_eval_gives_our_accuracy() -> None:
    """The installed lmms-eval runs an export and comes to our figures.

    The Python that has it may be another one, named by LMMS_EVAL_PYTHON.
    """
    python = os.environ.get("LMMS_EVAL_PYTHON", sys.executable)
    if not has_lmms_eval(python):
        pytest.skip("no lmms-eval; name a Python that has it by LMMS_EVAL_PYTHON")
    command = [sys.executable, "scripts/check_lmms_eval.py", "--python", python]
    command += ["--n", "4", "--max-new-tokens", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 4 replies differ" in done.stdout
