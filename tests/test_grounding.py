"""Grounding: golden values of the public scripts, properties, window reading, TimeLens-Bench."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.data.sources import import_annotations
from videothinker.evaluation import window_reading
from videothinker.evaluation.temporal_iou import (
    THRESHOLDS,
    clue_scores,
    empty_score,
    first_window,
    frame_windows,
    grounding,
    grounding_scores,
    matched_ious,
    matching,
    sliding_windows,
    tiou,
    trivial_predictions,
    trivial_scores,
    union,
    union_iou,
)
from videothinker.evaluation.window_reading import read_windows, timelens_window
from videothinker.schema import Segment, read_rows
from videothinker.toy.world import WorldSize, make_world

# Golden values

OMTG = [  # predictions, segments, what VLMEvalKit@e8e78f0 vlmeval/dataset/omtgbench.py returned
    (
        [(0, 16), (27, 28), (38, 40)],
        [(0, 16), (21, 25), (26, 27), (37, 40)],
        [0.666667, 0.5, 0.571429, 0.571429, 0.285714, 0, 0, 0.72],
    ),
    (
        [(0, 7), (38, 44), (74, 79)],
        [(0, 8), (38, 42), (75, 77)],
        [1, 1, 1, 0.666667, 0.333333, 1, 0.666667, 0.684211],
    ),
    (
        [(3, 7), (43, 55), (59, 64), (82, 84), (95, 99)],
        [(4, 7), (18, 32), (44, 53), (58, 63), (81, 83)],
        [0.8, 0.8, 0.8, 0.6, 0.4, 1, 0.6, 0.395349],
    ),
    (
        [(20, 34), (39, 40), (59, 61), (62, 63), (68, 91), (95, 99)],
        [(21, 35), (37, 40), (58, 60), (61, 62), (66, 88)],
        [0.666667, 0.8, 0.727273, 0.363636, 0.363636, 0, 0, 0.673077],
    ),
    (
        [(35, 37), (41, 61), (63, 87)],
        [(35, 36), (41, 59), (64, 85)],
        [1, 1, 1, 1, 0.666667, 1, 0.888889, 0.869565],
    ),
    (
        [(37, 38), (45, 50), (64, 69), (72, 80)],
        [(4, 12), (37, 38), (43, 47), (65, 69), (70, 78)],
        [0.75, 0.6, 0.666667, 0.666667, 0.444444, 0, 0, 0.419355],
    ),
]


@pytest.mark.parametrize(("pred", "true", "golden"), OMTG)
def test_matching_is_that_of_omtg_bench(
    pred: list[tuple[float, float]], true: list[tuple[float, float]], golden: list[float]
) -> None:
    scores = matching(pred, true)
    names = ["tP@0.3", "tR@0.3", "tF1@0.3", "tF1@0.5", "tF1@0.7", "count_accuracy", "EtF1"]
    values = [*(scores[name] for name in names), union_iou(pred, true)]
    assert values == pytest.approx(golden, abs=1e-6)


def test_matching_leaves_overlapping_windows_as_they_are() -> None:
    pred = [[0.0, 5.0], [4.0, 10.0]]  # omtgbench.py makes [0, 10] of the first: its tF1@0.7 is 0.5
    assert matching(pred, [[0.0, 4.0], [5.0, 10.0]])["EtF1"] == 1
    assert pred == [[0.0, 5.0], [4.0, 10.0]]


@pytest.mark.parametrize(
    ("pred", "true", "iou", "reached"),
    [  # CG-Bench@f826608, run/utils.py: calculate_intervals_iou
        ([(3, 9), (5, 12), (20, 21)], [(4, 10), (18, 25)], 0.4375, 0.8),
        ([(0, 100)], [(10, 20), (15, 30)], 0.2, 0.4),
        ([(1, 2), (2, 4)], [(3, 9)], 0.125, 0.2),
    ],
)
def test_clue_scores_are_those_of_cg_bench(
    pred: list[tuple[float, float]], true: list[tuple[float, float]], iou: float, reached: float
) -> None:
    right = clue_scores(pred, true, is_correct=True)
    wrong = clue_scores(pred, true, is_correct=False)
    assert right["clue_iou"] == pytest.approx(iou)
    assert right["rec@iou"] == right["acc@iou"] == wrong["rec@iou"] == pytest.approx(reached)
    assert wrong["acc@iou"] == 0 and "acc@iou" not in clue_scores(pred, true)


TIMELENS = [  # reply, annotated span, IoU that TimeLens@5d90c06 evaluation/compute_metrics.py gave
    ("The event happens in 24.3 - 30.4 seconds.", (24, 30), 0.890625),
    ("From 00:12 to 00:20", (10, 20), 0.8),
    ("30.0 - 24.0 seconds", (24, 30), 0),
    ("It starts at 3 and ends at 9.", (4, 9), 0.833333),
    ("no idea", (1, 2), 0),
    ("12 to 18, then 2 boxes", (12, 17.5), 0.916667),
    ("0:05-0:09 or 0:20-0:30", (20, 30), 0),
    ("There are 3 to 4 cups.", (0, 8), 0.125),
    ("5 - 15", (6, 14), 0.8),
]


def test_the_official_rule_of_timelens_bench() -> None:
    scores = []
    for reply, span, iou in TIMELENS:
        window = timelens_window(reply)
        score = first_window([window] if window else [], [span])
        assert score["iou@1"] == pytest.approx(iou, abs=1e-6), reply
        scores.append(score)
    assert 100 * sum(s["iou@1"] for s in scores) / 9 == pytest.approx(48.506944)
    assert 100 * sum(s["r1@0.7"] for s in scores) / 9 == pytest.approx(55.555556)


@pytest.mark.parametrize(
    ("pred", "true", "recall"),
    [  # densevid_eval@9d4045a, evaluate.py: evaluate_detection
        (
            [(50, 68), (17, 26), (1, 23), (60, 83), (6, 30), (0, 90)],
            [(47, 60), (17, 27), (0, 15), (64, 83), (10, 25)],
            [1.0, 0.8, 0.4],
        ),
        (
            [(4, 12), (14, 42), (0, 90)],
            [(25, 40), (1, 8), (17, 39)],
            [1.0, 0.666667, 0.333333],
        ),
        (
            [(11, 29), (59, 78), (19, 47), (43, 73), (0, 90)],
            [(15, 22), (53, 72), (18, 45), (49, 72)],
            [1.0, 0.75, 0.5],
        ),
    ],
)
def test_recall_is_that_of_activitynet_captions(
    pred: list[tuple[float, float]], true: list[tuple[float, float]], recall: list[float]
) -> None:
    scores = grounding(pred, true)
    assert [scores[f"r@{k}"] for k in THRESHOLDS] == pytest.approx(recall, abs=1e-6)


def test_all_scores_and_their_means_over_blind_predictors() -> None:
    clips = [(80.0, [Segment(20, 30)]), (40.0, [Segment(0, 10), Segment(30, 40)])]
    means = trivial_scores(clips, n_frames=4)
    for name, mean in means.items():
        each = []
        for duration, true in clips:
            frames = [duration * (i + 0.5) / 4 for i in range(4)]
            each.append(grounding_scores(trivial_predictions(duration, frames)[name], true))
        assert mean == pytest.approx({k: (each[0][k] + each[1][k]) / 2 for k in each[0]})
    assert {"miou", "precision@0.5", "tF1@0.7", "EtF1", "iou@1"} <= set(means["whole video"])


# Properties

times = st.integers(0, 60)
windows = st.tuples(times, st.integers(1, 30)).map(lambda w: (float(w[0]), float(w[0] + w[1])))
several = st.lists(windows, max_size=6)
some = st.lists(windows, min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(several, several)
def test_scores_are_fractions_and_swap(
    a: list[tuple[float, float]], b: list[tuple[float, float]]
) -> None:
    there, back = matching(a, b), matching(b, a)
    scores = [*there.values(), *clue_scores(a, b, True).values(), *first_window(a, b).values()]
    scores += grounding(a, b).values() if b else []
    assert all(0 <= score <= 1 for score in scores)
    assert union_iou(a, b) == pytest.approx(union_iou(b, a))
    assert all(tiou(x, y) == tiou(y, x) for x in a for y in b)
    assert sum(matched_ious(a, b)) == pytest.approx(sum(matched_ious(b, a)))
    assert there["count_accuracy"] == back["count_accuracy"]
    if not a or not b:
        assert set(there.values()) <= {empty_score(a, b), there["count_accuracy"]}


@settings(deadline=None, max_examples=40)
@given(st.lists(windows, min_size=1, max_size=5), st.lists(windows, min_size=1, max_size=5))
def test_matching_has_the_largest_sum(
    a: list[tuple[float, float]], b: list[tuple[float, float]]
) -> None:
    few, many = sorted((a, b), key=len)
    best = max(
        sum(tiou(x, y) for x, y in zip(few, order, strict=True))
        for order in permutations(many, len(few))
    )
    hits = matched_ious(a, b)
    assert sum(hits) == pytest.approx(best) and len(hits) == len(few)
    for k in THRESHOLDS:  # one segment for each prediction: never more than recall would allow
        assert matching(a, b)[f"tR@{k}"] <= grounding(a, b)[f"r@{k}"] + 1e-12


@settings(deadline=None, max_examples=60)
@given(some, some, windows, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_more_windows_never_lower_recall(
    pred: list[tuple[float, float]],
    true: list[tuple[float, float]],
    more: tuple[float, float],
    rng: random.Random,
) -> None:
    scores = grounding(pred, true)
    mixed = grounding(rng.sample(pred, len(pred)), rng.sample(true, len(true)))
    assert mixed["miou"] == pytest.approx(scores["miou"])
    assert mixed["union_iou"] == pytest.approx(scores["union_iou"])
    shuffled = matched_ious(rng.sample(pred, len(pred)), true)
    assert sum(shuffled) == pytest.approx(sum(matched_ious(pred, true)))
    richer = grounding([*pred, more], true)
    assert all(richer[k] >= scores[k] for k in ("miou", "r@0.3", "r@0.5", "r@0.7"))
    covered = sum(end - start for start, end in union(pred))
    assert sum(end - start for start, end in union([*pred, more])) >= covered


@settings(deadline=None, max_examples=40)
@given(st.floats(0.5, 5000), st.lists(st.floats(0, 6000), max_size=20))
def test_trivial_predictions_stay_in_the_video(duration: float, frames: list[float]) -> None:
    for name, windows in trivial_predictions(duration, frames).items():
        assert all(0 <= w.start <= w.end <= duration * (1 + 1e-9) for w in windows), name
    of_frames = frame_windows(duration, frames)
    inside = sorted({time for time in frames if time <= duration})
    assert len(of_frames) == len(inside)
    assert all(w.start <= t <= w.end for w, t in zip(of_frames, inside, strict=True))
    for k in (4, 8):
        parts = trivial_predictions(duration)[f"{k} equal windows"]
        assert sum(w.end - w.start for w in parts) == pytest.approx(duration)
    assert len(sliding_windows(duration)) == 26


def test_a_single_query_gives_the_grid_away() -> None:
    true = [Segment(20, 30)]
    scores = {
        name: grounding(windows, true) | matching(windows, true)
        for name, windows in trivial_predictions(80.0, [5.0 * i for i in range(16)]).items()
    }
    assert scores["sliding windows"]["r@0.7"] == 1
    assert scores["sliding windows"]["tF1@0.7"] == pytest.approx(2 / 27)
    assert scores["whole video"]["miou"] == pytest.approx(1 / 8)


def test_importing_costs_nothing() -> None:
    code = (
        "import sys; import videothinker.evaluation.temporal_iou, "
        "videothinker.evaluation.window_reading, videothinker.evaluation.trace_statistics; "
        "print([m for m in ('scipy', 'torch', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Window reading

REPLIES: list[tuple[str, list[tuple[float, float]]]] = [
    ("The event happens in 24.3 - 30.4 seconds.", [(24.3, 30.4)]),
    ("The event happens in 24.3 - 30.4", [(24.3, 30.4)]),
    ("The event happens in 24.3-30.4s.", [(24.3, 30.4)]),
    ("12.5 - 20.0", [(12.5, 20)]),
    ("12.5 to 20.0 seconds", [(12.5, 20)]),
    ("From 00:12 to 00:20", [(12, 20)]),
    ("from 00:00:12 to 00:00:20, a man opens the door", [(12, 20)]),
    ("1:02:03 - 1:02:10", [(3723, 3730)]),
    ("00:12.50 - 00:20.25", [(12.5, 20.25)]),
    ("00:00:12,500 --> 00:00:20,000", [(12.5, 20)]),
    ("[12.5, 20.0]", [(12.5, 20)]),
    ("[[12, 20], [30, 40]]", [(12, 20), (30, 40)]),
    ('```json\n{"result": [[12, 20], [30.5, 40]]}\n```', [(12, 20), (30.5, 40)]),
    ('{"start": 12.5, "end": 20.0}', [(12.5, 20)]),
    ('[{"start_time": "00:12", "end_time": "00:20"}]', [(12, 20)]),
    ("Starting time: 0.8 seconds. Ending time: 1.1 seconds", [(0.8, 1.1)]),
    ("Start: 12.5\nEnd: 20", [(12.5, 20)]),
    ("The start time for this event is 0 seconds, and the end time is 12 seconds.", [(0, 12)]),
    ("The event 'person turns to the door' starts at 00:00:18 and ends at 00:00:23.", [(18, 23)]),
    ("It begins at 3.5 seconds and lasts until 9 seconds.", [(3.5, 9)]),
    ("between 12.5 and 20.0 seconds", [(12.5, 20)]),
    ("It takes place between 00:12 and 00:20.", [(12, 20)]),
    ("The man picks up the book between 5 and 10 seconds", [(5, 10)]),
    ("from second 12 to second 20", [(12, 20)]),
    ("from 12s to 20s", [(12, 20)]),
    ("from 12 s until 20 s", [(12, 20)]),
    ("1 minute 20 seconds to 1 minute 35 seconds", [(80, 95)]),
    ("1m20s - 1m35s", [(80, 95)]),
    ("from 1 minute and 20 seconds to 2 minutes", [(80, 120)]),
    ("2 - 3 minutes", [(120, 180)]),
    ("1.5 hours to 2 hours", [(5400, 7200)]),
    (
        "<time>00:12-00:20</time> <caption>x</caption> <think>y</think> <answer>A</answer>",
        [(12, 20)],
    ),
    (
        "<time>0.0-5.0 seconds</time> <caption>c</caption> <time>00:10-00:15</time>",
        [(0, 5), (10, 15)],
    ),
    (
        "<time>00:01-00:03</time> <think>t</think> <answer>12.5 - 20 seconds</answer>",
        [(12.5, 20)],
    ),
    ("<answer>12.5 - 20 seconds</answer>", [(12.5, 20)]),
    ("<answer>[12.5, 20]</answer>", [(12.5, 20)]),
    ("<think>First 3 - 5 seconds, no.</think>The event happens in 12 - 20 seconds.", [(12, 20)]),
    ("At first 3 - 5 seconds looks right. Final answer: 12 - 20 seconds", [(12, 20)]),
    ("**12.5 – 20.0 seconds**", [(12.5, 20)]),
    ("00:12–00:20", [(12, 20)]),
    ("００：１２－００：２０", [(12, 20)]),
    ("事件发生在12.5秒到20秒之间", [(12.5, 20)]),
    ("从 00:12 至 00:20", [(12, 20)]),
    ("The event happens in 3 - 5 seconds and again in 9 - 11 seconds.", [(3, 5), (9, 11)]),
    ("From 00:03 to 00:05 and from 00:09 to 00:11.", [(3, 5), (9, 11)]),
    ("12 - 20 seconds. Yes, 12 - 20 seconds.", [(12, 20)]),
    ("30.4 - 24.3 seconds", [(30.4, 24.3)]),
    ("\\boxed{12.5 - 20.0}", [(12.5, 20)]),
    ("Answer: 12.5 - 20.0", [(12.5, 20)]),
    ("(12.5, 20.0)", [(12.5, 20)]),
    ("(00:12, 00:20)", [(12, 20)]),
    ("12.5~20.0 seconds", [(12.5, 20)]),
    ("The relevant segment is 12.5 to 20.0.", [(12.5, 20)]),
    ("Timestamps: 00:12 - 00:20", [(12, 20)]),
    ("", []),
    ("The event does not occur.", []),
    ("at 12.5 seconds", []),
    ("The man carries 2 to 3 boxes.", []),
    ("2 to 3 people walk to 4 tables", []),
    ("In frames 12 - 20 the man sits.", []),
    ("frame 12 to frame 20", []),
    ("He was born between 1980 and 1990.", []),
    ("from 2019 to 2020", []),
    ("on 2024-05-06", []),
    ("The final score is 3-2 in favour of them", []),
    ("A tomato and 5 tools stop 7 photos", []),
    ("bounding box [12, 20, 200, 300]", []),
    ("in -5 - 10 seconds", []),
    ("He runs 5 m to 10 m", []),
    ("80% - 90%", []),
    ("open 24/7", []),
    ("It costs $5 - $10", []),
    ("The video starts with 3 people and ends with 5 people.", []),
    ("1:12 - 20", []),
    ("A", []),
    ("<answer>B</answer>", []),
    ("The described event occurs from 15.2 seconds to 22.8 seconds in the video.", [(15.2, 22.8)]),
    ("The event happens in the 24.3 - 30.4 seconds", [(24.3, 30.4)]),
    (
        "The event 'a person opens a door to the kitchen' happens in 2.1 - 7.9 seconds.",
        [(2.1, 7.9)],
    ),
    ("The given query happens in 0.0 - 6 seconds", [(0, 6)]),
    (
        "The person starts putting on shoes at 4.0 seconds and finishes at 11.5 seconds.",
        [(4, 11.5)],
    ),
    ("Based on the frames, the event starts around 00:35 and ends around 00:48.", [(35, 48)]),
    ("Start time: 00:01:15\nEnd time: 00:01:32", [(75, 92)]),
    ("start time = 12.0, end time = 18.0", [(12, 18)]),
    ("- **Start**: 12.0s\n- **End**: 18.0s", [(12, 18)]),
    ('{"time_range": ["00:12", "00:20"]}', [(12, 20)]),
    ('{"timestamps": [12.0, 18.0], "reason": "2 men talk"}', [(12, 18)]),
    ("The clip of interest lies between the 10 second mark and the 20 second mark.", [(10, 20)]),
    ("It is visible from about 5 seconds to about 9 seconds.", [(5, 9)]),
    ("The event lasts from 0:05 until 0:09.", [(5, 9)]),
    ("The dog runs to the tree. The event happens in 7 - 9.5 seconds.", [(7, 9.5)]),
    (
        "In this video, 2 people talk to each other; the second one leaves at 00:40-00:44.",
        [(40, 44)],
    ),
    ("Segment: 00:40 → 00:44", [(40, 44)]),
    ("The action spans 12.4s–15.9s.", [(12.4, 15.9)]),
    ("[00:12 - 00:20]", [(12, 20)]),
    ("[0:12, 0:20], [0:30, 0:36]", [(12, 20), (30, 36)]),
    ("12s-20s, 30s-36s", [(12, 20), (30, 36)]),
    ("1) 0:12-0:20\n2) 0:30-0:36", [(12, 20), (30, 36)]),
    ("1. 12.0 - 20.0 seconds\n2. 30.0 - 36.0 seconds", [(12, 20), (30, 36)]),
    ("From 1 min 5 sec to 1 min 20 sec.", [(65, 80)]),
    ("from 1:05 to 1:20 (that is, 65 to 80 seconds)", [(65, 80)]),
    ("The event happens in <12.0> - <18.0> seconds.", [(12, 18)]),
    (
        "The event happens in <start time>12.0</start time> - <end time>18.0</end time> seconds",
        [(12, 18)],
    ),
    ("<time>12.0 - 18.0 seconds</time>", [(12, 18)]),
    ("12.0 seconds - 18.0 seconds", [(12, 18)]),
    ("The event occurs during 12.0–18.0 sec", [(12, 18)]),
    ("t = 12.0 to t = 18.0", [(12, 18)]),
    ("He arrives at 12 seconds and leaves at 18 seconds.", [(12, 18)]),
    ("Around 0:12", []),
    ("I cannot determine when this happens.", []),
    ("There are 3 to 4 cups on the table to the left.", []),
    ("The video is 30 seconds long and has 12 frames.", []),
    ("She is 20 to 25 years old.", []),
    ("He lifts 50 - 60 kg.", []),
    ("Option 2 - 3 of them are wrong", []),
    ("The score changes from 3 to 4.", []),
    (
        "The total length of the video is 120 seconds. The event happens in 12 - 18 seconds.",
        [(12, 18)],
    ),
    ("Version 1.2 - 1.4", []),
    ("The relevant part is at 00:12 and 00:20.", []),
    ("Sure! The moment you describe takes place from 1:05 to 1:12.", [(65, 72)]),
    ("The event occurs within the time range of 12.0 to 18.5 seconds.", [(12, 18.5)]),
    ("Time: 12.0s ~ 18.5s", [(12, 18.5)]),
    ("The query matches the part starting from 12 seconds and ending at 18 seconds.", [(12, 18)]),
    ("start: 00:12, end: 00:18", [(12, 18)]),
    ("The event happens in 0 - 4.9 seconds, when the 2 men walk to the 3 cars.", [(0, 4.9)]),
    ("It happens three times: 0:03-0:05, 0:10-0:12 and 0:20-0:25.", [(3, 5), (10, 12), (20, 25)]),
    ("The event happens in 12 seconds - 18 seconds.", [(12, 18)]),
    ("The event happens in 12 - 18 seconds (i.e., 00:12 - 00:18).", [(12, 18)]),
    (
        "She opens the fridge at 4.0s and closes it at 9.0s, so the event is 4.0 - 9.0 seconds.",
        [(4, 9)],
    ),
    ('{"start": "1:05", "end": "1:12", "confidence": 0.9}', [(65, 72)]),
    ("[{'start': 3.0, 'end': 5.0}, {'start': 9.0, 'end': 11.0}]", [(3, 5), (9, 11)]),
    ("Answer: [3.0, 5.0]", [(3, 5)]),
    (
        "The start time is about 3.0 seconds, and the end time is approximately 5.0 seconds.",
        [(3, 5)],
    ),
    ("My answer is 3.0 to 5.0.", [(3, 5)]),
    ("00:03:00 - 00:05:00", [(180, 300)]),
    ("from minute 1 to minute 2", []),
    ("The 3 men move 2 to 4 chairs in the first 10 seconds.", []),
    ("I see 16 frames, from frame 0 to frame 15.", []),
    ("There is no such event in this 30 second video.", []),
    ("The video has a resolution of 640 - 480.", []),
    ("Chapter 3 - 4", []),
    ("He throws the ball 3 to 5 times to the left.", []),
    ("At 3 p.m. to 5 p.m.", []),
    ("Room 101 - 105 is shown.", []),
    ("Between 5 and 10 people are in the room.", []),
]
UNREAD = {"He arrives at 12 seconds and leaves at 18 seconds."}  # neither is called start or end


@pytest.mark.parametrize(("reply", "right"), REPLIES)
def test_windows_of_a_reply(reply: str, right: list[tuple[float, float]]) -> None:
    read = [(window.start, window.end) for window in read_windows(reply)]
    assert read == ([] if reply in UNREAD else right)


# replies whose ranges say how long or when not, and notations beyond those of `REPLIES`
KINDS: list[tuple[str, list[tuple[float, float]]]] = [
    ("It takes 3 to 5 minutes", []),
    ("The video is 20-30 seconds long.", []),
    ("He runs for 3 to 5 seconds.", []),
    ("It lasts 3-5 seconds.", []),
    ("It happens every 3 to 5 minutes", []),
    ("The event does not occur between 3 and 7 seconds.", []),
    ("He is not visible from 3s to 5s, only from 12s to 20s.", [(12, 20)]),
    ("Wait 10 to 15 seconds, then press the button.", []),
    ("You need about 2 - 3 minutes for this.", []),
    ("After 3 to 5 seconds the light goes out.", []),
    ("The cuts are 4 to 6 seconds apart.", []),
    ("The duration is 3 - 5 seconds.", []),
    ("It is a 20 to 30 second clip of a kitchen.", []),
    ("The man isn't seen between 0:03 and 0:07.", []),
    ("She never enters from 3s to 5s.", []),
    ("There is no such event from 00:03 to 00:07.", []),
    ("Neither from 3s to 5s nor from 9s to 11s does it happen.", []),
    ("3 - 5 seconds is not the answer. It happens in 12 - 20 seconds.", [(12, 20)]),
    ("It happens not only from 3s to 5s but also from 9s to 11s.", [(3, 5), (9, 11)]),
    ("The man who does not wear a hat runs from 3s to 5s.", [(3, 5)]),
    ("It lasts for 8 seconds, from 12s to 20s.", [(12, 20)]),
    ("I am not sure, but I think it is from 12 to 20 seconds.", [(12, 20)]),
    ("12.0 - 20.0, 30.0 - 36.0", [(12, 20), (30, 36)]),
    ("12 - 20\n30 - 36", [(12, 20), (30, 36)]),
    ("[12,20]", [(12, 20)]),
    ("t=12s to t=20s", [(12, 20)]),
    ("12秒から20秒まで", [(12, 20)]),
    ("12초부터 20초까지", [(12, 20)]),
    ("de 12 s à 20 s", [(12, 20)]),
    ("desde 12 segundos hasta 20 segundos", [(12, 20)]),
    ("von 12 bis 20 Sekunden", [(12, 20)]),
    ("from the 12-second mark to the 20-second mark", [(12, 20)]),
    ("0:12 to 20", [(12, 20)]),
    ("12,5 s - 20,5 s", [(12.5, 20.5)]),
    ('The event "a person doesn\'t close the door" happens in 3.0 - 9.0 seconds.', [(3, 9)]),
    ("He is not in the frame at first and enters the room from 12s to 20s.", [(12, 20)]),
    ("It is not true that it happens from 3s to 5s.", []),
    ("It should take you 5-10 minutes.", []),
]


@pytest.mark.parametrize(("reply", "right"), KINDS)
def test_lengths_and_denials_are_no_windows_and_more_notations_are(
    reply: str, right: list[tuple[float, float]]
) -> None:
    assert [(window.start, window.end) for window in read_windows(reply)] == right


def test_a_pair_of_times_looks_no_farther_than_the_words_around_it() -> None:
    """Else the time to read a reply of many pairs grows with the square of its length."""
    longest = 0

    class Watched(str):
        def __getitem__(self, key: Any) -> str:
            nonlocal longest
            cut = str(self)[key]
            longest = max(longest, len(cut))
            return cut

    text = Watched("1-2 " * 2000)
    times = list(window_reading._times(text))
    for first, second in pairwise(times):
        window_reading._window(text, first, second, is_list=True)
    assert len(times) == 4000 and 0 < longest <= 80
    assert read_windows(text) == [Segment(1, 2)]


def test_at_least_97_percent_are_read_and_none_is_made_up() -> None:
    read = [([(w.start, w.end) for w in read_windows(reply)], right) for reply, right in REPLIES]
    assert sum(got == right for got, right in read) >= 0.97 * len(REPLIES)
    assert not [got for got, right in read if got and got != right]
    assert len(REPLIES) >= 140 and sum(not right for _, right in REPLIES) >= 40


pieces = st.sampled_from(
    [
        "12",
        "3.5",
        " ",
        "-",
        " to ",
        ":",
        "00:12",
        "[",
        "]",
        ",",
        "s",
        " seconds",
        "<time>",
        "</time>",
    ]
    + [
        "start",
        "end",
        "and",
        "between",
        "<answer>",
        "</answer>",
        "</think>",
        "frame",
        "\n",
        "½",
        "٣",
    ]
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(max_size=60), st.lists(pieces, max_size=25).map("".join)))
def test_any_text_can_be_read(reply: str) -> None:
    for window in read_windows(reply):
        assert math.isfinite(window.start) and math.isfinite(window.end) and window.start >= 0
    read = [(window.start, window.end) for window in read_windows(reply)]
    assert len(set(read)) == len(read)


@pytest.mark.parametrize("seconds", [(0, 1), (12.5, 20.25), (59, 61), (3599, 3723)])
def test_what_is_written_is_read_in_every_notation(seconds: tuple[float, float]) -> None:
    start, end = seconds

    def clock(time: float) -> str:
        return f"{int(time // 3600)}:{int(time // 60 % 60):02}:{time % 60:05.2f}"

    forms = [
        f"{start} - {end} seconds",
        f"from {start}s to {end}s",
        f"between {start} and {end} seconds",
        f"[{start}, {end}]",
        json.dumps({"start": start, "end": end}),
        f"{clock(start)} --> {clock(end)}",
        f"starts at {clock(start)} and ends at {clock(end)}",
        f"<answer>{start}-{end}</answer>",
        f"<time>{start}-{end} seconds</time>",
    ]
    for form in forms:
        assert read_windows(form) == [Segment(start, end)], form


# TimeLens-Bench

NAMES = {
    "activitynet": "v_BrgYIg6UXhU",
    "charades": "3MSZA",
    "qvhighlights": "NUsG9BgSes0_210.0_360.0",
}


def annotations(folder: Path, duration: float = 30.0) -> Path:
    """The three files of TimeLens-Bench, with two queries about one video each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, video in NAMES.items():
        queries = ["A man  opens a door.", "He leaves"]
        entry = {"duration": duration, "spans": [[0.0, 1.5], [0.5, duration]], "queries": queries}
        (folder / f"{name}-timelens.json").write_text(json.dumps({video: entry}))
    return folder


def test_timelens_rows_are_grounding_rows(tmp_path: Path) -> None:
    found = import_annotations("TimeLens-Bench", annotations(tmp_path))
    assert found.counts["samples"] == 6 and not found.problems and not found.missing
    subsets = {"ActivityNet-TimeLens", "Charades-TimeLens", "QVHighlights-TimeLens"}
    assert {s.provenance["subset"] for s in found.samples} == subsets
    first = found.samples[0]
    assert (first.problem, first.options) == ("A man opens a door", [])
    assert (first.problem_type, first.split) == ("temporal grounding", "test")
    assert first.path == "videos/activitynet/v_BrgYIg6UXhU.mp4" and first.video_id == "BrgYIg6UXhU"
    for sample in found.samples:  # the answer says what the segments say
        assert read_windows(sample.solution) == sample.segments
        assert timelens_window(sample.answer) == sample.segments[0]


def test_spans_and_queries_of_unequal_number_are_a_problem_and_no_row(tmp_path: Path) -> None:
    entry = {"duration": 9, "spans": [[0, 1], [1, 2]], "queries": ["One"]}
    good = {"duration": 9, "spans": [[0, 1], [3, 2]], "queries": ["One", "Two"]}
    file = tmp_path / "charades-timelens.json"
    file.write_text(json.dumps({"a": entry, "b": good, "c": {"duration": 9}}))
    found = import_annotations("timelens", file)
    assert [s.id for s in found.samples] == ["TimeLens-Bench-charades-b-1"]
    assert [p.row for p in found.problems] == ["a", "b, query 2", "c"]
    assert "2 spans but 1 queries" in found.problems[0].reason


def test_prepare_makes_rows_of_timelens_bench(command: str, tmp_path: Path) -> None:
    make_world(tmp_path / "world", WorldSize(train=1, val=0, test=0, ood=0))
    clip = next((tmp_path / "world").rglob("*.mp4"))
    duration = read_rows(next((tmp_path / "world").rglob("qa.jsonl")))[0].duration
    assert duration
    root = annotations(tmp_path / "TimeLens-Bench", duration)
    for name, video in NAMES.items():
        (root / "videos" / name).mkdir(parents=True)
        shutil.copy(clip, root / "videos" / name / f"{video}.mp4")
    out = tmp_path / "data"
    argv = [command, "prepare", "TimeLens-Bench", "--annotations", root, "--videos", root]
    argv += ["--out", out, "--min-frames", "0"]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = read_rows(out / "eval/ood/TimeLens-Bench.jsonl")
    assert len(rows) == 6 and all(row.segments and not row.options for row in rows)
