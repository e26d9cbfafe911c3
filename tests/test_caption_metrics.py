"""Caption metrics: equal to the reference programs, and sound where these are not."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from videothinker.evaluation.caption_metrics import (
    CaptionPair,
    DenseCaptions,
    best_story,
    caption_pairs,
    caption_scores,
    cider,
    cider_d,
    dense_meteor,
    document_frequencies,
    soda_c,
)
from videothinker.evaluation.caption_overlap import (
    bleu,
    bleu_counts,
    common_subsequence,
    meteor,
    meteor_counts,
    meteor_exact_stem,
    rouge_l,
    rouge_l_f1,
    rouge_words,
    stem,
    wordnet_synonyms,
)
from videothinker.evaluation.caption_words import caption_words
from videothinker.files import UserError
from videothinker.schema import Segment

NEAR = 1e-8  # golden values are rounded to nine decimals
WORDS = st.sampled_from("the a man men door doors opened opens open well half-eaten u.s.".split())
CAPTIONS = st.lists(WORDS, max_size=9)
tried = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """Captions of our own, and what the reference programs say about them."""
    path = ROOT / "tests" / "caption_golden.json"
    assert path.stat().st_size < 150_000
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def groups(golden: dict[str, Any]) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Words of each caption, and of its references."""
    captions = [caption_words(caption) for caption, _ in golden["groups"]]
    references = [[caption_words(text) for text in texts] for _, texts in golden["groups"]]
    assert len(captions) >= 300
    return captions, references


def off(ours: Any, theirs: Any) -> float:
    """Largest difference of two lists of numbers."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def test_words_are_those_of_the_stanford_tokenizer(golden: dict[str, Any]) -> None:
    assert len(golden["words"]) >= 80
    for text, words in golden["words"]:
        assert caption_words(text) == words.split(), text


def test_bleu_equals_the_references(golden: dict[str, Any], groups: Any) -> None:
    counts = [bleu_counts(words, references) for words, references in zip(*groups, strict=True)]
    each = [value for count in counts for value in bleu(count)]
    assert off(each, [value for values in golden["bleu"] for value in values]) < NEAR
    assert off(bleu(reduce(add, counts)), golden["corpus_bleu"]) < NEAR
    first = [bleu_counts(c, r[:1]) for c, r in zip(*groups, strict=True)]
    assert abs(100 * bleu(reduce(add, first))[3] - golden["sacrebleu"]) < 1e-6


def test_rouge_l_equals_both_references(golden: dict[str, Any], groups: Any) -> None:
    ours = [rouge_l(words, references) for words, references in zip(*groups, strict=True)]
    assert off(ours, golden["rouge_l"]) < NEAR
    for (caption, texts), values in zip(golden["groups"], golden["rouge_l_f1"], strict=True):
        words = rouge_words(caption)
        assert off([rouge_l_f1(words, [rouge_words(text)]) for text in texts], values) < NEAR
        best = rouge_l_f1(words, [rouge_words(text) for text in texts])
        assert abs(best - max(values)) < NEAR


def test_meteor_equals_the_program(golden: dict[str, Any], groups: Any) -> None:
    counts = [meteor_counts(words, references) for words, references in zip(*groups, strict=True)]
    assert off([meteor(count) for count in counts], golden["meteor_exact_stem"]) < NEAR
    assert abs(meteor(reduce(add, counts)) - golden["corpus_meteor_exact_stem"]) < NEAR
    left = reduce(add, counts) - reduce(add, counts[1:])
    assert abs(meteor(left) - golden["meteor_exact_stem"][0]) < NEAR


def test_cider_equals_the_references(golden: dict[str, Any], groups: Any) -> None:
    captions, references = groups
    assert off(cider_d(captions, references), golden["cider_d"]) < NEAR
    assert off(cider(captions, references), golden["cider"]) < NEAR
    frequencies = document_frequencies(references)
    part = cider_d(captions[:9], references[:9], frequencies)
    assert off(part, golden["cider_d"][:9]) < NEAR  # a part, scored with the corpus of all
    assert off(cider_d(captions[:9], references[:9]), golden["cider_d"][:9]) > 0.1


def videos(golden: dict[str, Any]) -> list[tuple[list[Segment], list[list[Segment]]]]:
    """Predicted segments and each annotator's."""
    return [
        ([Segment(*s) for s in predicted], [[Segment(*s) for s in own] for own in annotators])
        for predicted, annotators in golden["videos"]
    ]


def test_soda_c_equals_the_public_script(golden: dict[str, Any]) -> None:
    scores = [soda_c(predicted, annotators) for predicted, annotators in videos(golden)]
    for ours, theirs in zip(scores, golden["soda_c"], strict=True):
        assert off(ours, theirs) < NEAR
    means = [sum(values) / len(scores) for values in zip(*scores, strict=True)]
    assert off(means, golden["mean_soda_c"]) < NEAR
    straight = [soda_c(p, annotators, swapped=False) for p, annotators in videos(golden)]
    assert abs(sum(score.f1 for score in straight) / len(scores) - means[2]) > 0.01


def test_dense_meteor_equals_densevid_eval(golden: dict[str, Any]) -> None:
    together = [(p, [s for own in annotators for s in own]) for p, annotators in videos(golden)]
    thresholds = (0.3, 0.5, 0.7, 0.9)
    ours = [dense_meteor(together, [threshold]) for threshold in thresholds]
    assert off(ours, golden["dense_meteor"]) < NEAR
    assert abs(dense_meteor(together) - sum(ours) / 4) < NEAR


@tried
@given(st.text(max_size=60))
@example("1 1/2 (555) 123-4567 no. 9 ' ‘ ’s 'n' <a b> a.b. .,")
@example("\r\u2028\x85\x00\ud800")
def test_any_text_has_words_without_spaces(text: str) -> None:
    words = caption_words(text)
    assert all(word and not any(c.isspace() for c in word) for word in words)
    assert caption_words(f"\r{text}\n") == words
    assert all(isinstance(stem(word), str) for word in words)
    assert 0 <= meteor_exact_stem(words, [words]) <= 1


@tried
@given(CAPTIONS, st.lists(CAPTIONS, min_size=1, max_size=3))
def test_scores_stay_in_their_bounds(words: list[str], references: list[list[str]]) -> None:
    scores = [
        *bleu(bleu_counts(words, references)),
        rouge_l(words, references),
        rouge_l_f1(words, references),
        meteor_exact_stem(words, references),
        *(score / 10 for score in cider_d([words, []], [references, [["other"]]])),
    ]
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)
    if words:
        whole = [*references, words]
        assert meteor_exact_stem(words, whole) == pytest.approx(1)
        assert rouge_l(words, whole) == rouge_l_f1(words, whole) == pytest.approx(1)
        assert bleu(bleu_counts(words, whole))[0] == pytest.approx(1)


@tried
@given(CAPTIONS, CAPTIONS)
def test_common_subsequence_by_brute_force(first: list[str], second: list[str]) -> None:
    def is_part(words: tuple[str, ...]) -> bool:
        rest = iter(second)
        return all(word in rest for word in words)

    choices = (c for n in range(len(first) + 1) for c in itertools.combinations(first, n))
    assert common_subsequence(first, second) == max(len(c) for c in choices if is_part(c))


@tried
@given(st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_best_story_by_brute_force(n: int, m: int, rng: random.Random) -> None:
    scores = [[rng.random() for _ in range(m)] for _ in range(n)]
    best = 0.0
    for k in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), k):
            for columns in itertools.combinations(range(m), k):
                pairs = zip(rows, columns, strict=True)
                best = max(best, sum(scores[i][j] for i, j in pairs))
    assert best_story(scores) == pytest.approx(best)


def test_a_long_story_needs_no_recursion() -> None:
    story = [Segment(i, i + 1, f"step {i}") for i in range(600)]
    assert soda_c(story, [story]).f1 == pytest.approx(1)


def test_each_annotated_segment_meets_the_caption_that_overlaps_it_most() -> None:
    predicted = [Segment(0, 10, "far"), Segment(4, 10, "near"), Segment(90, 99, "elsewhere")]
    annotated = [Segment(5, 10, "a"), Segment(20, 30, "b"), Segment(40, 50, " !")]
    assert caption_pairs([DenseCaptions("v", predicted, annotated)]) == [
        CaptionPair("v", "near", "a", 5 / 6),
        CaptionPair("v", "", "b", 0.0),
    ]


def test_inverted_and_endless_segments_describe_nothing() -> None:
    made_up = [Segment(9, 1, "a man"), Segment(0, math.inf, "a man"), Segment(3, 3, "a man")]
    video = DenseCaptions("v", made_up, [Segment(0, 10, "a man")])
    scores = caption_scores([video])
    assert scores["described"].mean == scores["meteor_exact_stem"].mean == 0
    assert scores["soda_c"].mean == 0


def described(seed: int, skill: float) -> list[DenseCaptions]:
    """Thirty videos whose describer gets a word right with this chance."""
    rng = random.Random(seed)
    vocabulary = "man woman dog door table opens closes runs slowly twice outside".split()
    made = []
    for i in range(30):
        annotated, predicted = [], []
        for start in (0, 10, 20):
            words = rng.sample(vocabulary, 5)
            told = [word if rng.random() < skill else rng.choice(vocabulary) for word in words]
            annotated.append(Segment(start, start + 10, " ".join(words)))
            predicted.append(Segment(start, start + 9, " ".join(told)))
        made.append(DenseCaptions(f"v{i}", predicted, annotated))
    return made


def test_every_score_prefers_the_better_describer() -> None:
    good, bad = (caption_scores(described(1, skill)) for skill in (0.9, 0.3))
    for name in good.keys() - {"described"}:
        assert good[name].low > bad[name].high, name
        assert good[name].low < good[name].mean < good[name].high, name
        assert good[name].clusters == 30, name


def test_estimates_rest_on_segments_and_videos() -> None:
    rows = described(2, 0.7)
    scores = caption_scores(rows)
    assert {name: (e.n, e.clusters) for name, e in scores.items()} == {
        name: (30 if name.startswith("soda_c") else 90, 30) for name in scores
    }
    twice = caption_scores(rows + rows)  # two questions on each video: no new evidence
    for name in ("rouge_l", "bleu_2", "meteor_exact_stem_corpus", "soda_c"):
        width = scores[name].high - scores[name].low
        assert twice[name].mean == pytest.approx(scores[name].mean)
        assert twice[name].high - twice[name].low > 0.95 * width, name


def ciders(rows: list[DenseCaptions]) -> list[float]:
    """CIDEr-D of each pair, with the pairs themselves as reference corpus."""
    pairs = caption_pairs(rows)
    captions = [caption_words(pair.caption) for pair in pairs]
    return cider_d(captions, [[caption_words(pair.reference)] for pair in pairs])


def test_rare_words_stay_rare_when_a_video_has_many_questions() -> None:
    rows = described(3, 0.7)
    repeated = rows + [rows[0]] * 9
    once = ciders(rows)
    often = caption_scores(repeated)["cider_d"]
    assert often.n == 90 + 27
    assert often.mean == pytest.approx((sum(once) + 9 * sum(once[:3])) / often.n)
    assert abs(often.mean - sum(ciders(repeated)) / often.n) > 1e-3


class Synset(NamedTuple):
    """As nltk's."""

    name: str

    def pos(self) -> str:
        return "n"

    def offset(self) -> int:
        return len(self.name)


def test_synonyms_come_from_wordnet_or_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(UserError, match="pip install nltk"):
        wordnet_synonyms()
    sets = {"man": [Synset("adult"), Synset("male")], "guy": [Synset("male")]}
    wordnet = SimpleNamespace(synsets=lambda word: sets.get(word, []))
    monkeypatch.setitem(sys.modules, "nltk", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "nltk.corpus", SimpleNamespace(wordnet=wordnet))
    synonyms = wordnet_synonyms()
    words, reference = "a guy sings".split(), "a man sings".split()
    with_synonyms = meteor(meteor_counts(words, [reference], synonyms))
    assert with_synonyms > meteor_exact_stem(words, [reference])
    assert meteor_counts(["guy"], [["dog"]], synonyms).matches == 0


@pytest.mark.parametrize("n_videos", [2, 3, 20])
@pytest.mark.parametrize("caption", ["a man opens the old door", "quite other words"])
def test_all_or_nothing_leaves_doubt(n_videos: int, caption: str) -> None:
    """Captions that are all perfect, or all without a match, have an interval with a width."""
    true = [Segment(0, 9, "a man opens the old door"), Segment(9, 12, "a man opens the old door")]
    told = [Segment(s.start, s.end, caption) for s in true]
    scores = caption_scores([DenseCaptions(f"v{i}", told, true) for i in range(n_videos)])
    for name in ("bleu_1", "bleu_4", "meteor_exact_stem_corpus"):
        score = scores[name]
        assert (score.n, score.clusters) == (2 * n_videos, n_videos)
        assert 0 <= score.low <= score.mean + 1e-9 and score.mean - 1e-9 <= score.high <= 1, name
        assert score.high - score.low > 0.5 / n_videos, name
    few = caption_scores([DenseCaptions(f"v{i}", told, true) for i in range(2)])["bleu_1"]
    assert few.high - few.low >= scores["bleu_1"].high - scores["bleu_1"].low


def test_nothing_to_score_and_one_video() -> None:
    assert caption_scores([]) == {}
    assert caption_scores([DenseCaptions("v", [Segment(0, 1, "a")], [Segment(0, 1)])]) == {}
    one = caption_scores([DenseCaptions("v", [], [Segment(0, 1, "a b")] * 2)])
    assert {estimate.mean for estimate in one.values()} <= {0.0} | {
        one[f"bleu_{n}"].mean for n in range(1, 5)
    }
    assert all(math.isnan(estimate.low) for estimate in one.values())
    assert max(one[f"bleu_{n}"].mean for n in range(1, 5)) < 1e-9
