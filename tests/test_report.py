"""The report of a run whose replies were sampled: what was learned, and old runs beside it."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from videothinker.evaluation.gain_parts import gain_parts, split_gain
from videothinker.json_files import read_json
from videothinker.toy.looking import Look, looking_summary
from videothinker.viewer.charts import percent
from videothinker.viewer.report import (
    CAUSES,
    gain_table,
    key_numbers,
    learned,
    report_html,
    story,
    write_report,
)

RESULTS = sorted((ROOT / "data" / "results").glob("seed-*.json"))
FAMILIES = ("order", "after", "before", "count", "comparison")
NEW_COLUMNS = set(CAUSES) - {"reward_correct"}


def old_summary(path: Path = RESULTS[0]) -> dict[str, Any]:
    """The summary of a demo run as it was before replies were sampled."""
    summary = read_json(path)
    for splits in summary["stages"].values():
        for scores in splits.values():
            scores.pop("sampled", None)
            scores.pop("looking", None)
    summary.pop("planted", None)
    summary["paired"] = [p for p in summary["paired"] if "sampled" not in p["metric"]]
    for row in summary["curves"]["grpo"]:
        for column in NEW_COLUMNS:
            row.pop(column, None)
    return summary


def looking(
    recall: float,
    precision: float | None,
    checked: float | None,
    rates: tuple[float | None, float | None],
) -> dict[str, Any]:
    """How replies looked and concluded, as the demo counts it."""
    families = {
        family: {"n": 400, "recall": recall * (1 - 0.02 * k), "precision": precision}
        for k, family in enumerate(FAMILIES)
    }
    return {
        "recall": recall,
        "precision": precision,
        "checked": checked,
        "right_checked": rates[0],
        "right_direct": rates[1],
        "families": families,
    }


NOTHING = looking(0.0, None, 0.0, (None, 0.21))
BEFORE = looking(0.663, 0.95, 0.115, (0.52, 0.206))
AFTER = looking(0.887, 0.93, 0.738, (0.6, 0.226))
PLANTED = [
    "The teacher is careless: in 40 % of its traces it stops looking after a random part of the "
    "events and goes straight to the letter.",
    "It concludes in two ways: 35 % of the traces go through the options one by one.",
]


def accuracy_of(found: dict[str, Any]) -> float:
    """Share times rate, over both ways to conclude."""
    checked = found["checked"]
    return checked * (found["right_checked"] or 0) + (1 - checked) * found["right_direct"]


def new_summary(before: dict = BEFORE, after: dict = AFTER) -> dict[str, Any]:
    """The summary of a demo run with sampled replies; figures are made up."""
    summary = old_summary()
    for stage, found in {"base": NOTHING, "sft": before, "grpo": after}.items():
        for split, scores in summary["stages"][stage].items():
            here = copy.deepcopy(found)
            if split == "ood":
                here["recall"] *= 0.85
            right = accuracy_of(here)
            scores["looking"] = copy.deepcopy(here)
            scores["sampled"] = {
                "n_samples": 4,
                "accuracy": right,
                "ci_low": right - 0.035,
                "ci_high": right + 0.035,
                "pass@4": min(1.0, right + 0.3),
                "maj@4": right + 0.06,
                "looking": here,
            }
    gains = {
        "sampled accuracy": accuracy_of(after) - accuracy_of(before),
        "needed recall, sampled": after["recall"] - before["recall"],
    }
    for split in ("id", "ood"):
        for metric, gain in gains.items():
            bounds = {"ci_low": gain - 0.05, "ci_high": gain + 0.05}
            row = {"a": "grpo", "b": "sft", "split": split, "metric": metric, "difference": gain}
            summary["paired"].append(row | bounds | {"n": 500, "clusters": 250})
    summary["planted"] = PLANTED
    summary["curves"]["grpo"] = make_log(before, after)
    return summary


def make_log(before: dict, after: dict) -> list[dict[str, Any]]:
    """A noisy log of forty steps of GRPO that begin and end like two sets of replies."""
    rng = np.random.default_rng(0)
    columns = {"needed_recall": "recall", "checked": "checked"}
    columns |= {"right_checked": "right_checked", "right_direct": "right_direct"}
    log = []
    for step in range(1, 41):
        done = 1 / (1 + np.exp(-(step - 18) / 5))
        means = {
            new: before[old] + done * (after[old] - before[old]) for new, old in columns.items()
        }
        row = {key: float(np.clip(m + 0.04 * rng.normal(), 0, 1)) for key, m in means.items()}
        rates = {"checked": row["checked"], "right_checked": row["right_checked"]}
        right = accuracy_of(rates | {"right_direct": row["right_direct"]})
        form = float(np.clip(0.97 + 0.02 * rng.normal(), 0, 1))
        row |= {"reward_correct": right, "reward_format": form, "reward": right + form}
        length = float(60 + 45 * done + 2 * rng.normal())
        idle = float(np.clip(0.25 + 0.08 * rng.normal(), 0, 1))
        log.append({"step": step, "completion_length": length, "frac_reward_zero_std": idle} | row)
    return log


@pytest.fixture(scope="module")
def page() -> str:
    """The page of a run with sampled replies."""
    summary = new_summary()
    return report_html(summary, summary["curves"], [])


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts out, which take a second per page."""
    for name in ("line_chart", "interval_chart", "small_multiples"):
        monkeypatch.setattr(f"videothinker.viewer.report.{name}", lambda *args, **options: "")


def page_text(page: str) -> str:
    """The words of a page, without its markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_first_picture_is_the_sampled_reward_and_its_causes(page: str) -> None:
    first = page.index("<figure ")
    section = page.rindex("<section>", 0, first)
    assert "The sampled reward, and what it is made of" in page[section:first]
    causes = page[section : page.index("</section>", section)]
    assert causes.count("<figure ") == 3 and "not run" not in causes
    assert causes.count("<title>") == 5 * 40  # each step of each line says its value
    for name in ("all", "if checked", "if not"):
        assert f">{name}</text>" in causes


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("no_charts")
def test_runs_without_sampled_replies_have_their_page(path: Path) -> None:
    summary = old_summary(path)
    page = report_html(summary, summary["curves"], [])
    greedy = percent(summary["stages"]["grpo"]["id"]["accuracy"])
    assert f"{greedy} % after GRPO; guessing" in page
    assert "sampled ×" not in page and "pass@" not in page and 'class="learned"' not in page
    assert learned(summary) == [] and "Planted" not in page


def test_a_run_on_disk_has_its_page(tmp_path: Path) -> None:
    summary = read_json(RESULTS[0])
    page = write_report(tmp_path / "report.html", summary, summary["curves"], []).read_text("utf-8")
    assert page.count("<figure ") == 3 + 7
    assert "nan" not in page_text(page).lower().split()


def test_every_stage_and_split_has_its_sampled_figures(page: str) -> None:
    answers = page[page.index("<h2>Answers") :].partition("</section>")[0]
    for name in ("sampled × 4 [95 %]", "pass@4", "maj@4", "no video", "other video", "guessing"):
        assert f">{name}</th>" in answers
    rows = answers.split("<tr>")[2:]
    assert len(rows) == 6 and all(row.count("<small>[") == 4 for row in rows)
    looked = page[page.index("<h2>Looking") :].partition("</section>")[0]
    assert looked.count("<td>greedy</td>") == looked.count("<td>sampled</td>") == 6
    for family in FAMILIES:
        assert looked.count(f"<td>{family}</td>") == 2  # a row on each split
    paired = page[page.index("<h2>Differences") :].partition("</section>")[0]
    assert paired.count("sampled accuracy") == paired.count("needed recall, sampled") == 2


def test_what_was_learned_is_said_in_numbers(page: str) -> None:
    summary = new_summary()
    answers, looks, parts, outside = learned(summary)
    assert "24.2 % after SFT and 50.2 % after GRPO, +26.0 points [21.0, 31.0]" in answers
    assert "+22.4 points [17.4, 27.4]" in looks and "It learned to look further." in looks
    assert "11.5 → 73.8 %" in parts and "what more looking is worth is in both" in parts
    split = [float(number) for number in re.findall(r"([+-]\d+\.\d) (?:go )?with", parts)]
    assert sum(split) == pytest.approx(26.0, abs=0.11)
    assert outside.startswith("Out of domain, right: 24.2 %")
    keys = dict((meaning, value) for value, meaning in key_numbers(summary))
    assert keys["% needed segments found, sampled, after SFT → after GRPO"] == "66.3 → 88.7"
    assert "(greedy)" in story(summary)
    text = page_text(page)
    assert "Planted on purpose: The teacher is careless" in text and "two ways" in text


def test_a_flip_of_the_likeliest_way_is_not_called_learning() -> None:
    summary = new_summary(BEFORE, BEFORE)  # greedy accuracy of the run: far up
    answers, looks, *more = learned(summary)
    assert "cannot be told apart from nothing learned" in answers
    assert "became the likeliest, and none became better" in answers
    assert "Nothing says that it learned where to look" in looks
    assert len(more) == 1 and more[0].startswith("Out of domain")  # no gain to be split


def test_a_gain_of_style_alone_is_called_so() -> None:
    often = BEFORE | {"checked": 0.9}
    _, looks, parts, _ = learned(new_summary(BEFORE, often))
    assert "Nothing says" in looks and "what was learned is a style" in parts
    assert "+0.0 with being right more often in the same way" in parts


def test_worse_is_called_worse() -> None:
    answers, looks, *_ = learned(new_summary(AFTER, BEFORE))
    assert "GRPO made sampled answers worse" in answers and "It learned to look less" in looks


def test_parts_of_a_gain_add_up_whatever_the_numbers() -> None:
    rng = np.random.default_rng(0)

    def value(factors: dict[str, tuple[float, ...]]) -> float:
        return factors["a"][0] * factors["b"][0] + factors["c"][0] ** 2 * factors["b"][1]

    for _ in range(20):
        sides = [{"a": (a,), "b": (b, c), "c": (d,)} for a, b, c, d in rng.random((2, 4)).tolist()]
        parts = gain_parts(*sides, value)
        assert sum(parts.values()) == pytest.approx(value(sides[1]) - value(sides[0]))
    still = gain_parts(sides[0], sides[0] | {"c": (0.1,)}, value)
    assert still["a"] == still["b"] == 0 and still["c"] != 0


def test_looking_has_a_part_of_its_own_where_it_is_counted() -> None:
    rates = {"found checked": 0.8, "found direct": 0.4, "missed checked": 0.4, "missed direct": 0.2}

    def ways(found: float, checked: float) -> dict[str, Any]:
        shares = (found * checked, found * (1 - checked), 0.0, 1 - found)
        return {
            name: {"share": share, "right": right if share else None}
            for (name, right), share in zip(rates.items(), shares, strict=True)
        }

    before = BEFORE | {"ways": ways(0.3, 0.4)}
    after = AFTER | {"ways": ways(0.7, 0.4)}
    parts = split_gain(before, after, 0.4 * (0.56 - 0.2))
    assert parts["looking"] == pytest.approx(0.144)
    assert [parts[key] for key in ("concluding", "right", "rest")] == pytest.approx([0, 0, 0])
    summary = new_summary(before, after)
    assert "go with finding all it needs more often" in learned(summary)[2]
    assert page_text(gain_table(summary, {})).count("–") == 0


def test_counts_of_replies_explain_the_whole_gain() -> None:
    rng = np.random.default_rng(0)

    def replies(found: float, checked: float, right: float) -> list[Look]:
        """Replies to questions that need two segments."""
        looks = []
        for f, c, r in rng.random((300, 3)) < (found, checked, right):
            n_found = 2 if f else 1
            looks.append(Look("after", 2, n_found, n_found, n_found, bool(c), bool(r)))
        return looks

    sides = replies(0.3, 0.2, 0.3), replies(0.8, 0.7, 0.5)
    gain = np.subtract(*(np.mean([look.correct for look in side]) for side in sides[::-1]))
    before, after = map(looking_summary, sides)
    parts = split_gain(before, after, float(gain))
    assert parts["looking"] and parts["rest"] == pytest.approx(0)
    del before["ways"]
    parts = split_gain(before, after, float(gain))
    assert set(parts) == {"concluding", "right", "rest"} and parts["rest"] == pytest.approx(0)


@pytest.mark.usefixtures("no_charts")
def test_half_of_the_figures_make_a_page_too() -> None:
    for drop in ("looking", "ci_low", "accuracy", "n_samples", "pass@4"):
        summary = new_summary()
        for splits in summary["stages"].values():
            for scores in splits.values():
                scores["sampled"].pop(drop)
        assert "after GRPO" in report_html(summary, summary["curves"], [])
    unknown = looking(0.5, 0.5, None, (None, None))
    summary = new_summary()
    summary["stages"]["grpo"]["id"]["sampled"]["looking"] = unknown
    assert "None" not in page_text(report_html(summary, {}, []))
