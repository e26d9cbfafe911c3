"""Intervals that hold what they promise, tests that are exact, and votes over samples."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from bisect import bisect
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from videothinker.evaluation.comparison import (
    SampledQuestion,
    at_k,
    best_of_excess,
    compare,
    compare_records,
    detectable_difference,
    holm,
    majority_at_k,
    mcnemar,
    pass_at_k,
    questions_needed,
    sign_flip_test,
    spread,
    video_correlation,
)
from videothinker.evaluation.statistics import (
    chance_accuracy,
    clustered_mean,
    paired_difference,
    wilson,
)

tried = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    """`scripts/check_intervals.py`."""
    spec = importlib.util.spec_from_file_location("ci", ROOT / "scripts" / "check_intervals.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# coverage

DESIGNS = [  # videos, questions per video, equally many, correlation, least and most coverage (%)
    (3, 8, True, 0.3, 93, 98),
    (5, 8, False, 0.3, 93, 98),
    (10, 3, True, 0.3, 93, 97),
    (10, 15, False, 0.5, 93, 97),
    (20, 8, True, 0.3, 93.5, 97),
    (50, 15, False, 0.3, 93.5, 97),
    (100, 8, True, 0.1, 93.5, 97),
    (300, 3, True, 0.5, 93.5, 97),
]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_accuracies_hold_what_they_promise(simulation: ModuleType, design: Any) -> None:
    *design, least, most = design
    rows = simulation.accuracies(tuple(design), 300, 7)
    ours, _, textbook = (100 * float(np.mean(row)) for row in rows)
    assert least <= ours <= most  # 3,000 evaluations: the standard error is 0.4
    assert 100 * min(rows[0]) > 86  # of 300 with one true accuracy: 1.3
    assert textbook < 88, "the simulation would not notice a naive interval"


@pytest.mark.parametrize("videos", [10, 40])
def test_differences_hold_what_they_promise(simulation: ModuleType, videos: int) -> None:
    for effect in (0.0, 0.08):
        ours, _ = simulation.paired((videos, 8, True, 0.3), effect, 300, 3)
        assert 0.91 <= ours <= 0.995


def test_other_worlds_than_the_assumed_one(simulation: ModuleType) -> None:
    for truth in (0.4, 0.8):  # videos are understood or not
        ours, _ = simulation.two_kinds((20, 8, True, 0.0), truth, 300, 1)
        assert 0.91 <= ours <= 0.99
    ours, _ = simulation.fractions((20, 3, True, 0.3), 0.3, 300, 2)
    assert 0.91 <= ours <= 0.99


def test_a_naive_interval_is_too_narrow_by_the_design_effect() -> None:
    rng = np.random.default_rng(1)
    understood = np.repeat(rng.random(103) < 0.45, 15)
    right = (rng.random(103 * 15) < np.where(understood, 0.85, 0.2)).astype(float).tolist()
    videos = np.repeat(np.arange(103), 15).tolist()
    honest, naive = clustered_mean(right, videos), wilson(int(sum(right)), len(right))
    assert 2 < (honest.high - honest.low) / (naive.high - naive.low) < 3.5


@pytest.mark.parametrize("videos", [2, 3, 5])
@pytest.mark.parametrize("per_video", [1, 15])
def test_few_videos_and_all_or_none_right_leave_doubt(videos: int, per_video: int) -> None:
    clusters = [i // per_video for i in range(videos * per_video)]
    none = clustered_mean([0] * len(clusters), clusters)
    whole = clustered_mean([1] * len(clusters), clusters)
    assert none.low == 0 and whole.high == 1
    assert none.high == pytest.approx(1 - whole.low, abs=1e-6)
    independent = wilson(0, len(clusters)).high
    assert independent - 1e-6 <= none.high <= wilson(0, videos).high + 1e-6
    same = paired_difference([1] * len(clusters), [1] * len(clusters), clusters)
    assert -1 < same.low < -0.03 and same.high == pytest.approx(-same.low, abs=1e-6)
    won = paired_difference([1] * len(clusters), [0] * len(clusters), clusters)
    assert -1 <= won.low < 1 and won.high == 1


def test_more_correlation_and_fewer_videos_widen() -> None:
    split = [1, 0] * 30
    widths = []
    for videos in ([i // 2 for i in range(60)], [(i % 2) + 2 * (i // 12) for i in range(60)]):
        estimate = clustered_mean(split, videos)
        widths.append(estimate.high - estimate.low)
    assert widths[0] < 0.27 < 0.5 < widths[1]  # each half right; each all right or all wrong
    for level in (0.5, 0.8, 0.99):
        wide, narrow = (
            clustered_mean(split, range(60), level),
            clustered_mean(split, range(60), 0.4),
        )
        assert wide.low < narrow.low and narrow.high < wide.high


# paired tests

PAIRS = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1]), st.integers(0, 5)),
    min_size=1,
    max_size=40,
)


@tried
@given(PAIRS)
def test_a_comparison_is_the_same_seen_from_the_other_side(pairs: list[tuple[int, ...]]) -> None:
    a, b, videos = (list(column) for column in zip(*pairs, strict=True))
    one, two = compare(a, b, videos), compare(b, a, videos)
    assert one.difference.mean == pytest.approx(-two.difference.mean)
    assert (one.gains, one.losses, one.exact) == (two.losses, two.gains, True)
    assert one.p == pytest.approx(two.p) and 0 < one.p <= 1
    assert one.mcnemar == two.mcnemar == mcnemar(one.gains, one.losses)
    if one.gains == one.losses:
        assert one.p == pytest.approx(1)


def test_the_sign_flip_test_keeps_its_level_where_mcnemar_does_not() -> None:
    rng = np.random.default_rng(2)
    videos = np.repeat(np.arange(12), 10).tolist()
    false = np.zeros(2)
    for _ in range(300):  # no difference, but on each video one of the models is ahead
        ahead = np.repeat(rng.choice((0.2, 0.8), 12), 10)
        d = np.where(rng.random(120) < ahead, 1, -1).tolist()
        p = sign_flip_test(d, videos).p
        false += [p < 0.05, mcnemar(d.count(1), d.count(-1)) < 0.05]
    assert false[0] / 300 < 0.08 < 0.2 < false[1] / 300


def test_a_thousand_videos_are_counted_exactly_and_fractions_with_an_error() -> None:
    rng = np.random.default_rng(3)
    d = rng.choice((-1, 0, 0, 1, 1), 8000)
    videos = np.repeat(np.arange(1000), 8).tolist()
    whole = sign_flip_test(d.tolist(), videos)
    assert whole.exact and whole.error == 0
    drawn = sign_flip_test((d[:400] * 0.25 + 1e-3).tolist(), videos[:400], draws=4000)
    assert not drawn.exact and 0 < drawn.p <= 1 and drawn.error < 0.01


@tried
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert adjusted.keys() == p_values.keys()
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1, p * len(p_values)) + 1e-12
    order = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[n] for n in order] == sorted(adjusted.values())


def test_tests_and_sizes_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.5})  # ·4, ·3, ·2, ·1
    assert mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 64)  # of 64 sequences 1 + 6 are as uneven
    assert mcnemar(27, 13) == pytest.approx(0.0385, abs=1e-4)
    # (1.95996 · √0.3 + 0.84162 · √0.29)² / 0.1² = 233.2, and 1 + 0.1 · (5 − 1) times as many
    assert questions_needed(0.1, 0.3) == (234, 234)
    assert questions_needed(0.1, 0.3, per_video=5, correlation=0.1) == (327, 66)
    assert detectable_difference(234, 0.3) == pytest.approx(0.0998, abs=2e-4)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, 2, -1, math.nan])
def test_a_level_lies_between_0_and_1(level: float) -> None:
    right, wrong, videos = [1, 0, 1], [0, 0, 1], "abc"
    for call in (
        lambda: clustered_mean(right, videos, level),
        lambda: paired_difference(right, wrong, videos, level),
        lambda: clustered_mean([1, 1], "aa", level),
        lambda: paired_difference([1, 1], [0, 1], "aa", level),
        lambda: spread([right, wrong], videos, level),
        lambda: wilson(1, 3, level),
        lambda: questions_needed(0.1, 0.3, level=level),
        lambda: detectable_difference(100, 0.3, level=level),
    ):
        with pytest.raises(ValueError):
            call()


def test_arrays_are_sequences() -> None:
    a, b, videos = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]), [0, 0, 1, 2]
    array = np.array(videos)
    assert clustered_mean(a, array) == clustered_mean(a.tolist(), videos)  # type: ignore[arg-type]
    assert paired_difference(a, b, array) == paired_difference(a.tolist(), b.tolist(), videos)  # type: ignore[arg-type]
    assert compare(a, b, array) == compare(a.tolist(), b.tolist(), videos)  # type: ignore[arg-type]
    assert sign_flip_test(a - b, array).p == 1.0  # type: ignore[arg-type]
    assert chance_accuracy(np.array([2, 0])) == 0.25  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        clustered_mean(np.array([]), np.array([]))  # type: ignore[arg-type]


def test_records_are_compared_by_question_and_sample() -> None:
    def record(i: int, index: int, right: bool, score: float | None = None) -> SimpleNamespace:
        return SimpleNamespace(
            id=f"q{i}", index=index, video_id=f"v{i // 2}", correct=right, score=score, segments={}
        )

    a = [record(i, k, True, 0.5) for i in range(6) for k in range(2)]
    b = [record(i, k, k == 0, None if i == 0 else 0.25) for i in range(6) for k in range(2)]
    compared = compare_records(a, b[::-1])
    assert (compared["n"], compared["clusters"], compared["gains"]) == (12, 3, 6)
    judged = compare_records(a, b, "score")
    assert (judged["n"], judged["left_out"], judged["difference"]) == (10, 2, 0.25)
    with pytest.raises(ValueError, match="same questions"):
        compare_records(a, b[1:])


# power


@pytest.mark.parametrize("exponent", [2, 3, 6, 14, 20])
@pytest.mark.parametrize("power", [0.3, 0.5, 0.8, 0.99])
def test_sizes_and_differences_are_inverse(exponent: int, power: float) -> None:
    seen = detectable_difference(10**exponent, 0.9, 4, 0.1, power=power)
    assert seen is not None and 0 < seen < 0.9
    needed = questions_needed(seen, 0.9, 4, 0.1, power=power).questions
    assert needed == pytest.approx(10**exponent, rel=1e-6, abs=1)


def test_fewer_than_the_least_see_nothing() -> None:
    least = questions_needed(0.2, 0.2).questions  # all disagreements are gains
    assert detectable_difference(least - 1, 0.2) is None
    assert detectable_difference(least, 0.2) == pytest.approx(0.2, abs=0.01)
    assert detectable_difference(1, 0.2) is None


@pytest.mark.parametrize(
    ("difference", "needed", "power"), [(0.15, 68, 0.7758), (0.05, 626, 0.7789)]
)
def test_the_exact_test_has_the_power_that_is_stated(
    difference: float, needed: int, power: float
) -> None:
    """Of the pairs of gains and losses, those that the exact test shows."""
    assert questions_needed(difference, 0.2).questions == needed
    gain, loss = (0.2 + difference) / 2, (0.2 - difference) / 2
    found = 0.0
    for n in range(needed + 1):
        of = stats.binom.pmf(n, needed, 0.2)
        if of < 1e-7:
            continue
        few = bisect(range(n // 2 + 1), 0.05, key=lambda k: mcnemar(k, n - k))  # noqa: B023
        shown = [*range(few), *range(n - few + 1, n + 1)]
        found += of * stats.binom.pmf(shown, n, gain / (gain + loss)).sum()
    assert found == pytest.approx(power, abs=2e-4)
    assert "0.78 for 0.80" in (questions_needed.__doc__ or "")


def test_more_questions_see_smaller_differences() -> None:
    seen = [detectable_difference(n, 0.25, 6, 0.1) for n in (200, 800, 3200)]
    assert all(x is not None for x in seen)
    assert seen == sorted(seen, reverse=True)  # type: ignore[type-var]
    needed = [questions_needed(0.03, 0.25, m, 0.2).questions for m in (1, 5, 15)]
    assert needed == sorted(needed) and needed[2] / needed[0] == pytest.approx(3.8, abs=0.01)
    assert questions_needed(0.03, 0.25, power=0.9) > questions_needed(0.03, 0.25, power=0.8)


def test_the_correlation_of_videos_is_found() -> None:
    rng = np.random.default_rng(4)
    common = np.repeat(rng.normal(size=3000), 5)
    values = math.sqrt(0.3) * common + math.sqrt(0.7) * rng.normal(size=15000)
    found = video_correlation(values.tolist(), np.repeat(np.arange(3000), 5).tolist())
    assert found == pytest.approx(0.3, abs=0.03)


# samples and seeds

VOTES = st.lists(st.sampled_from(["A", "B", "C", "D", None]), min_size=1, max_size=12)


@tried
@given(VOTES, st.data())
def test_votes_and_passes_lie_in_order(answers: list[str | None], data: Any) -> None:
    k = data.draw(st.integers(1, len(answers)))
    shares = {gold: majority_at_k(answers, gold, k) for gold in "ABCD"}
    silent = answers.count(None)
    nobody = math.comb(silent, k) / math.comb(len(answers), k)
    assert sum(shares.values()) == pytest.approx(1 - nobody)  # somebody wins whenever one votes
    for gold, share in shares.items():
        assert share <= pass_at_k(len(answers), answers.count(gold), k) + 1e-12


def test_guessing_passes_and_does_not_win() -> None:
    rng = np.random.default_rng(5)
    letters = [[str(x) for x in rng.choice(list("ABCD"), 8)] for _ in range(400)]
    asked = [SampledQuestion(row, "A", i) for i, row in enumerate(letters)]
    found = at_k(asked, 4)
    assert found["pass@4"].mean == pytest.approx(1 - 0.75**4, abs=0.03)
    assert found["maj@4"].mean == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("runs", [2, 5])
@pytest.mark.parametrize("run", [[1, 0, 1, 0], [1, 1, 1, 1], [0.1, 0.7, 0.2, 0.3]])
def test_equal_runs_say_nothing_about_their_spread(runs: int, run: list[float]) -> None:
    turned = [run[i % 4 :] + run[: i % 4] for i in range(runs)]  # equal but for rounding
    for found in (spread([run] * runs, "aabb"), spread(turned, "aabb")):
        assert found.sd == 0 and math.isnan(found.sd_low) and math.isnan(found.sd_high)
        assert "sd 0.000 [no interval]" in str(found)
        fields = found.to_dict()
        assert fields["sd_low"] is fields["sd_high"] is None
        json.dumps(fields, allow_nan=False)


def test_two_seeds_say_nearly_nothing_about_their_spread() -> None:
    runs = [[1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1]]
    found = spread(runs, "aabbcc")
    assert found.sd_high / found.sd > 30 and found.sd_low < found.sd
    assert sum(found.shares.values()) == pytest.approx(1)
    assert best_of_excess(10) == pytest.approx(1.5388, abs=1e-3)


def test_statistics_import_without_heavy_libraries() -> None:
    modules = ("statistics", "comparison", "judge")
    lines = [f"import videothinker.evaluation.{name}" for name in modules]
    lines += ["import sys", "print([m for m in ('torch', 'scipy', 'pandas') if m in sys.modules])"]
    command = [sys.executable, "-c", "\n".join(lines)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"
