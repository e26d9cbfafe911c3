"""Controls for notebooks: inputs turned from Python, drawings, errors in words, saved pictures."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, notebooks

from videothinker.files import InputError, UserError
from videothinker.schema import Sample, Segment
from videothinker.synthesis.hindsight_curation import Verdict
from videothinker.trace import parse_trace
from videothinker.video.frames import Frames, Sampling
from videothinker.video.reader import read_frames
from videothinker.viewer import controls

ipywidgets = pytest.importorskip("ipywidgets")
REPLY = (
    "<time>00:01-00:05</time> <caption>a red square moves left</caption> "
    "<think>it ends at 5 seconds</think> "
    "<time>00:06-00:10</time> <caption>a blue ring moves up</caption> "
    "<think>it starts after the square</think> The ring is last. <answer>B</answer>"
)
SAMPLE = Sample(
    problem="Which shape moves last?",
    options=["A. the red square", "B. the blue ring", "C. the green cross"],
    solution="<answer>B</answer>",
    id="q1",
    duration=12.0,
    segments=[Segment(1, 5, "a red square moves left"), Segment(6, 10, "a blue ring moves up")],
)


def drawing(box: Any) -> str:
    """What a control shows, without its style sheet."""
    return re.sub(r"<style>.*?</style>", "", box.picture.value, flags=re.DOTALL)


def static(box: Any) -> str:
    """What a saved notebook shows of a control."""
    bundle, _ = box._repr_mimebundle_()
    return re.sub(r"<style>.*?</style>", "", bundle["text/html"], flags=re.DOTALL)


def right(completions: list[str], solution: list[str], **columns: Any) -> list[float]:
    return [float(s in c) for c, s in zip(completions, solution, strict=True)]


@pytest.fixture
def frames() -> Frames:
    return Frames(np.zeros((4, 28, 28, 3), np.uint8), np.arange(4) * 3.0, 12.0)


@pytest.fixture(autouse=True)
def no_running_loop() -> Iterator[None]:
    """A browser of earlier tests leaves its loop running, and then a control waits before it draws.

    These controls are to draw at once, as in a process without a kernel.
    """
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


# The mechanism


def run_alone(task: Coroutine[Any, Any, None]) -> None:
    """Run a task in a thread of its own, where no browser's loop is running."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, task).result()


def test_a_value_is_drawn_after_a_pause_and_once() -> None:
    drawn: list[float] = []

    def draw(seconds: float) -> str:
        drawn.append(seconds)
        return f"<p>{seconds}</p>"

    async def drag() -> None:
        box = controls.control(draw, {"seconds": ipywidgets.IntSlider()}, delay=0.02)
        for value in range(1, 40):
            box.inputs["seconds"].value = value
        assert drawn == [0]  # nothing is drawn while it moves
        while len(drawn) < 2:
            await asyncio.sleep(0.01)
        assert drawn == [0, 39]
        box.inputs["seconds"].value = 5
        box.close()  # what was to be drawn is not drawn into a closed box
        await asyncio.sleep(0.1)
        assert drawn == [0, 39]

    run_alone(drag())


def test_errors_are_said_in_words_and_pass() -> None:
    def draw(text: str) -> str:
        if not text:
            raise InputError("write <something>")
        return str(int(text))

    box = controls.control(draw, {"text": ipywidgets.Text("")})
    assert "⚠ write &lt;something&gt;" in drawing(box)
    box.set(text="x")
    assert "ValueError: invalid literal" in drawing(box) and "Traceback" not in drawing(box)
    box.set(text="7")
    assert "⚠" not in drawing(box) and "7" in drawing(box)


def test_closing_leaves_no_widget_and_no_listener() -> None:
    instances = ipywidgets.widgets.widget._instances
    before = set(instances)
    boxes = [
        controls.iou_explorer(),
        controls.trace_editor(SAMPLE, REPLY, {"right": right}),
        controls.curation_browser([Verdict("q1", False, 0, "no trace", [])], [SAMPLE]),
    ]
    assert set(instances) - before
    slider = boxes[0].inputs["predicted"]
    for box in boxes:
        box.close()
        box.close()
    kinds = {type(instances[key]).__name__ for key in set(instances) - before}
    assert not {kind for kind in kinds if kind != "Layout" and "Style" not in kind}, kinds
    shown = boxes[0].picture.value
    slider.value = (0, 1)
    assert boxes[0].picture.value == shown


def test_a_missing_ipywidgets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(UserError, match=r"pip install 'videothinker\[lab\]'"):
        controls.iou_explorer()
    assert "tIoU" in controls.iou_html((1, 2), (1, 2), 3)  # drawings need none


# Edit a trace


def test_every_reward_follows_the_text() -> None:
    def brief(completion_ids: list[list[str]], **columns: Any) -> list[float | None]:
        return [None if len(ids) > 200 else 1.0 for ids in completion_ids]

    box = controls.trace_editor(SAMPLE, REPLY, {"right": right, "brief": brief})
    assert "no reward changes" in drawing(box) and "A trace as it should be" in drawing(box)
    box.edit.value = box.edit.options["another answer"]
    assert "▼ −1.00" in drawing(box)
    box.inputs["text"].value = REPLY.replace("00:06-00:10", "00:10-00:06")
    assert "does not end after it starts" in drawing(box)
    box.inputs["text"].value = "<script>alert(1)</script> <time>" + "x" * 100_000
    assert "<script>" not in drawing(box)
    box.edit.value = REPLY
    box.set(text=REPLY)
    assert "no reward changes" in drawing(box)


def test_rewards_of_the_training_are_the_same_here() -> None:
    rewards = pytest.importorskip("videothinker.training.rewards")
    functions = rewards.rewards_by_name(["correct", "format", "strict_format", "grounding"], 100)
    values = controls.reward_values(REPLY, SAMPLE, functions)
    assert values == {"correct": 1, "format": 1, "strict_format": 1, "grounding": 1}
    edited = {
        name: controls.reward_values(text, SAMPLE, functions)
        for name, text in controls.typical_edits(REPLY, SAMPLE).items()
    }
    assert edited["another answer"]["correct"] == 0
    assert edited["a tag not closed"]["format"] == 0.5
    assert edited["segments in reverse order"]["strict_format"] == 0
    assert edited["first segment: the whole clip"]["grounding"] == 0
    assert len(edited) == 9  # each edit changes the text


def test_text_and_lanes_follow_each_other(frames: Frames) -> None:
    pytest.importorskip("anywidget")
    box = controls.trace_editor(SAMPLE, REPLY, {"right": right}, frames)
    text, viewer = box.inputs["text"], box.viewer
    viewer.segments = [{**viewer.segments[0], "start": 2.5}, viewer.segments[1]]
    assert parse_trace(text.value).blocks[0].start == 2.5
    assert "it ends at 5 seconds" in text.value  # the thought stays
    assert viewer.segments[0]["start"] == 2.5  # no snap back
    viewer.segments = viewer.segments[1:]
    assert len(parse_trace(text.value).blocks) == 1
    viewer.segments = [*viewer.segments, {"start": 11, "end": 12, "caption": "a <think> dot"}]
    assert parse_trace(text.value).blocks[-1].caption == "a dot"
    box.set(text=REPLY)  # drawn at once
    assert [s["start"] for s in viewer.segments] == [1, 6]
    box.set(text="nothing")  # drawn at once
    assert viewer.segments == [] and viewer.data["lanes"][-1]["segments"] == []
    assert text.value == "nothing"
    box.close()
    assert viewer.comm is None


def test_typing_waits_and_encodes_no_picture_again(frames: Frames, monkeypatch) -> None:
    pytest.importorskip("anywidget")
    box = controls.trace_editor(SAMPLE, REPLY, {"right": right}, frames)
    text, viewer = box.inputs["text"], box.viewer
    sprite, shown = viewer.data["frames"], []
    monkeypatch.setattr("videothinker.viewer.viewer.frame_data", None)  # would raise if called
    show = viewer.show
    object.__setattr__(viewer, "show", lambda view: (shown.append(view), show(view)))

    async def type_a_caption() -> None:
        viewer.time = 3.0
        for n in range(1, 11):
            text.value = REPLY.replace("</caption>", "x" * n + "</caption>", 1)
        assert shown == []
        while not shown:
            await asyncio.sleep(0.05)

    run_alone(type_a_caption())
    assert len(shown) == 1 and viewer.segments[0]["caption"].endswith("x" * 10)
    assert viewer.data["frames"] == sprite and viewer.time == 3.0
    box.close()


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [Segment(0, 12, "")],
        [Segment(6, 10, "a blue ring moves up"), Segment(1, 5, "a red square moves left")],
        [Segment(1, 5, "x"), Segment(2, 3, "x"), Segment(6, 10, "a blue ring moves up")],
        [Segment(3599.96, 3661.2, "late")] * 3,
    ],
)
@pytest.mark.parametrize("text", [REPLY, "", "B", "<time>x</time> <time>1-2</time>", REPLY * 2])
def test_segments_come_back_out_of_the_text(text: str, segments: list[Segment]) -> None:
    found = parse_trace(controls.with_segments(text, segments)).segments
    assert [(s.start, s.end) for s in found] == [
        (round(s.start, 1), round(s.end, 1)) for s in segments
    ]
    assert controls.with_segments(text, parse_trace(text).segments) == text


# Step through an update


def update(loss: str, steps: int) -> controls.GroupStep:
    weights = [[0.25, 0.25], [-0.5, 0.0]] if loss == "dapo" else [[0.125, 0.125], [-0.25, 0.0]]
    return controls.GroupStep(
        tokens=[["red", "<answer>"], ["blue", "end"]],
        rewards={"correct": [1.0, 0.0], "format": [None, 1.0]},
        totals=[1.0, 0.0],
        advantages=[0.7, -0.7],
        weights=weights,
        before=[[0.5, 0.5], [0.5, 0.5]],
        after=[[0.6, 0.5], [0.4, 0.5]] if steps else [],
        formulas={"advantages": "A = r − 0.5"},
    )


def test_stages_build_on_each_other() -> None:
    box = controls.group_stepper(update, loss=["dapo", "grpo"], steps=[1, 2])
    assert "p 0.50" in drawing(box) and "advantage</th>" not in drawing(box)
    box.play.value = 2  # the button plays the stages
    box.redraw()
    assert "A = r − 0.5" in drawing(box) and "−0.70" in drawing(box)
    box.set(stage="weights")
    assert "▲ 0.250" in drawing(box) and "▼ 0.500" in drawing(box)
    box.set(loss="grpo")
    assert "▲ 0.125" in drawing(box)
    box.set(stage="step")
    assert "0.500 → 0.600" in drawing(box) and "0.2500" in drawing(box)
    assert "&lt;answer&gt;" in drawing(box)
    assert "loss grpo" in static(box) and "steps 2" in static(box)


def test_stages_without_numbers_are_left_out() -> None:
    box = controls.group_stepper(lambda: controls.GroupStep([["a"]], {}, [1.0], [0.0]))
    assert box.inputs["stage"].options == ("completions", "rewards", "advantages")
    box.set(stage="advantages")
    assert "advantage" in drawing(box)


# Pick frames


@pytest.fixture(scope="module")
def variable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 10 frames a second, then six at 1."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("clip") / "variable.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"threads": "1"})
        stream.width = stream.height = 56
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time in [*np.arange(20) / 10, *np.arange(2, 8)]:
            frame = av.VideoFrame.from_ndarray(np.zeros((56, 56, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_the_frames_shown_are_the_frames_read(variable: Path) -> None:
    asked: list[Sampling] = []

    def read(path: Any, sampling: Sampling) -> Frames:
        asked.append(sampling)
        return read_frames(path, sampling)

    box = controls.frame_picker(variable, [Segment(1.25, 1.28), Segment(2, 4)], read=read)
    assert "16 frames" in drawing(box) and "1 of 2 segments without a frame" in drawing(box)
    box.set(by=controls.BY_NUMBER, n_frames=4)
    assert asked[-1].n_frames == 4 and "4 frames, 8 tokens" in drawing(box)
    times = read_frames(variable, asked[-1]).times
    assert all(f"{time:.2f} s</figcaption>" in drawing(box) for time in times)
    n = len(asked)
    box.set(n_frames=6)
    box.set(n_frames=4)
    assert len(asked) == n + 1  # what was read is not read again
    box.set(by=controls.BY_RATE, fps=0.1)
    assert "frames" in drawing(box) and "⚠" not in drawing(box)
    box.set(tokens=4, spread="middle")
    assert "⚠" not in drawing(box)
    assert static(box).count("<svg class=") == len(controls.PICKS)


def test_a_reader_that_fails_is_said_in_the_box(variable: Path) -> None:
    def read(path: Any, sampling: Sampling) -> Frames:
        raise InputError("the disk is away")

    assert "⚠ the disk is away" in drawing(controls.frame_picker(variable, read=read))


def test_rule_of_index_is_wrong_where_the_rate_varies(variable: Path) -> None:
    from videothinker.video.reader import probe

    stored = controls.stored_times(variable, probe(variable))
    assert len(stored) == 26 and stored[-1] == pytest.approx(7)
    naive = controls.naive_times(np.array([0, 1.9, 7]), stored)
    assert naive == pytest.approx([0, 19 * 7 / 25, 7], abs=1e-3)
    even = np.arange(10) / 5
    assert controls.naive_times(even, even) == pytest.approx(even)


# Browse a curation


@pytest.fixture
def verdicts() -> list[Verdict]:
    reasons = ["reader: times and captions lead to A, not B", "leak: a caption says 'B'"]
    texts = ["<b>first</b> try", "second try"]
    process = REPLY.removesuffix(" <answer>B</answer>")
    planted = [{"kind": "wrong time"}, None, None]
    return [
        Verdict("q1", True, 3, "", reasons, process, planted, texts),
        Verdict("q2", False, 1, "format: no block", ["format: no block"], rejected=["no block"]),
        Verdict("gone", True, 1, "", [], process),
    ]


def rows() -> Iterator[Sample]:
    yield SAMPLE
    yield Sample(SAMPLE.problem, SAMPLE.options, SAMPLE.solution, id="q2")


def test_filters_lead_to_attempts(verdicts: list[Verdict], tmp_path: Path) -> None:
    path = tmp_path / "curation.jsonl"
    lines = [{"journal": "curation"}, *map(vars, verdicts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    box = controls.curation_browser(path, rows())
    which, sample = box.inputs["which"], box.inputs["sample"]
    labels = ["all (2)", "kept (1)", "rejected (1)", "format (1)", "leak (1)", "reader (1)"]
    assert [label for label, _ in which._options_full] == labels
    assert "q1: kept after 3 attempts" in drawing(box)
    for words in ("A, a wrong one", "&lt;b&gt;first", "planted mistake: wrong time", "✓ kept"):
        assert words in drawing(box)
    box.set(which="format")
    assert sample.options == ("q2",) and "q2: rejected after 1 attempt<" in drawing(box)
    box.set(which="leak")
    assert sample.value == "q1"
    assert "q1" in static(box) and "q2" in static(box)


def test_a_journal_of_other_rows_is_refused(verdicts: list[Verdict]) -> None:
    with pytest.raises(InputError, match="no verdict is about"):
        controls.curation_browser(verdicts, [Sample("?", [], "A", id="other")])


# What is saved


def test_saved_notebooks_hold_the_still_pictures_and_no_widget() -> None:
    with_controls = []
    for path in notebooks():
        text = path.read_text(encoding="utf-8")
        outputs = [o for cell in json.loads(text)["cells"] for o in cell.get("outputs", [])]
        bundles = [output.get("data", {}) for output in outputs]
        assert not [kind for bundle in bundles for kind in bundle if "jupyter.widget" in kind], path
        pages = ["".join(bundle.get("text/html", [])) for bundle in bundles]
        if any('class="vtc"' in page for page in pages):
            with_controls.append(path.relative_to(ROOT / "nbs").parts[0])
            assert len(text) < 200_000, path
    assert {"1_video", "3_synthesis", "5_training", "6_evaluation", "7_viewer"} <= {*with_controls}
