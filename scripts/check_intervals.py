"""How often nominal 95 % intervals hold the truth: simulated evaluations of known accuracy.

    check_intervals.py [--draws N] [--quick]

Prints Markdown tables: accuracies by number of videos, questions per video, sizes and correlation
inside videos; paired differences; fractions; videos of two kinds. Of accuracies each line is the
mean over the true values named in the header, with the least and the most. Beside ours stands what
the plain clustered interval (CR1 and Student's t) and the textbook interval do with the same draws.

An interval that reaches as far as a test does not reject holds the truth if the test does not
reject the truth, which is quicker to find out; on some draws of each design the interval itself is
formed, and how often it says otherwise is printed. Seeds are fixed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import special, stats

from videothinker.evaluation.statistics import (
    CORRELATIONS,
    _accuracy_test,
    _difference_test,
    clustered_mean,
    paired_difference,
)

TRUTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
ALPHA = 0.025
INTERVALS_FORMED = 3  # per design and truth
FORMED: list[bool] = []  # whether interval and test said the same


def video_sizes(videos: int, mean: int, equal: bool) -> np.ndarray:
    """Questions per video: all `mean`, or from 1 to twice as many in even steps."""
    steps = np.linspace(1, 2 * mean - 1, videos).round().astype(int)
    return np.full(videos, mean) if equal or mean == 1 else steps


def rates(rng: np.random.Generator, mean: float, rho: float, shape: tuple[int, ...]) -> np.ndarray:
    """Chances of a right answer, one per video, whose answers correlate by `rho`."""
    if rho == 0:
        return np.full(shape, mean)
    precision = (1 - rho) / rho
    return rng.beta(mean * precision, (1 - mean) * precision, shape)


def expand(right: Sequence[int], sizes: Sequence[int]) -> tuple[list[float], list[int]]:
    """Answers and their videos from counts by video."""
    values = [float(i < k) for k, m in zip(right, sizes, strict=True) for i in range(m)]
    return values, [g for g, m in enumerate(sizes) for _ in range(m)]


def not_rejected(right: np.ndarray, sizes: np.ndarray, truth: float) -> np.ndarray:
    """Our test of `truth` on many draws at once; `right` [draws, videos]."""
    precision = (1 - CORRELATIONS) / CORRELATIONS
    a, b = truth * precision, (1 - truth) * precision
    likelihood = np.zeros((len(right), len(precision)))
    for size in np.unique(sizes):
        k = np.arange(size + 1)[:, None]
        table = special.betaln(k + a, size - k + b) - special.betaln(a, b)
        chosen = right[:, sizes == size]
        counts = np.stack([(chosen == i).sum(1) for i in range(size + 1)], 1)
        likelihood += counts @ table
    n = sizes.sum()
    scale = truth * (1 - truth) * sizes[:, None] * (1 + (sizes[:, None] - 1) * CORRELATIONS)
    between = (right - sizes * truth) ** 2 @ (1 / scale) + np.log(scale).sum(0)
    within = (right - right**2 / sizes).sum(1, keepdims=True) / (truth * (1 - truth))
    rest = 1 - CORRELATIONS
    normal = -0.5 * (between + (n - len(sizes)) * np.log(rest) + within / rest)
    effect = 1 + CORRELATIONS * ((sizes**2).sum() / n - 1)
    z = np.abs(right.sum(1) / n - truth) / np.sqrt(truth * (1 - truth) / n)
    chances = special.ndtr(-z[:, None] / np.sqrt(effect))
    weights = [special.softmax(values, 1) for values in (likelihood, normal)]
    return ((weights[0] + weights[1]) / 2 * chances).sum(1) >= ALPHA


def others(right: np.ndarray, sizes: np.ndarray, truth: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether the plain clustered and the textbook interval hold the truth."""
    n, g = sizes.sum(), len(sizes)
    mean = right.sum(1) / n
    residuals = right - mean[:, None] * sizes
    clustered = np.sqrt(g / (g - 1) * (residuals**2).sum(1)) / n
    textbook = np.sqrt(mean * (1 - mean) / n)
    off = np.abs(mean - truth)
    return off <= stats.t.ppf(1 - ALPHA, g - 1) * clustered, off <= 1.959964 * textbook


Design = tuple[int, int, bool, float]


def designs(quick: bool) -> Iterator[Design]:
    """Videos, questions per video, whether equally many, correlation inside videos."""
    for videos in (2, 3, 5, 10, 20, 50, 100, 300) if not quick else (5, 50):
        for mean in (1, 3, 8, 15) if not quick else (1, 8):
            for equal in (True, False) if mean > 1 else (True,):
                for rho in (0.0, 0.1, 0.3, 0.5) if mean > 1 else (0.0,):
                    yield videos, mean, equal, rho


def accuracies(design: Design, draws: int, seed: int) -> list[list[float]]:
    """Coverage of ours, plain clustered and textbook intervals, each for all `TRUTHS`."""
    videos, mean, equal, rho = design
    rng = np.random.default_rng(seed)
    sizes = video_sizes(videos, mean, equal)
    coverage: list[list[float]] = [[], [], []]
    for truth in TRUTHS:
        right = rng.binomial(sizes, rates(rng, truth, rho, (draws, videos)))
        ours = not_rejected(right, sizes, truth)
        for i in range(INTERVALS_FORMED):
            interval = clustered_mean(*expand(right[i].tolist(), sizes.tolist()))
            FORMED.append((interval.low <= truth <= interval.high) == ours[i])
        for row, holds in zip(coverage, (ours, *others(right, sizes, truth)), strict=True):
            row.append(float(holds.mean()))
    return coverage


def paired(design: Design, effect: float, draws: int, seed: int) -> tuple[float, float]:
    """Coverage of ours and of the plain clustered interval for a difference of two models.

    Both models find the same videos easy; a fifth of the questions is answered differently, and
    how many of these the first model wins varies by video.
    """
    videos, mean, equal, rho = design
    rng = np.random.default_rng(seed)
    sizes = video_sizes(videos, mean, equal)
    clusters = np.repeat(np.arange(videos), sizes)
    n, hits = len(clusters), np.zeros(2)
    for i in range(draws):
        differ = rng.random(n) < 0.2
        won = rng.random(n) < np.repeat(rates(rng, 0.5 + effect / 0.4, rho, (videos,)), sizes)
        d = np.where(differ, np.where(won, 1.0, -1.0), 0.0)
        holds = _difference_test(d.tolist(), clusters.tolist())(effect) >= ALPHA
        if i < INTERVALS_FORMED:
            a, b = np.maximum(d, 0).tolist(), np.maximum(-d, 0).tolist()
            interval = paired_difference(a, b, clusters.tolist())
            FORMED.append((interval.low <= effect <= interval.high) == holds)
        sums = np.bincount(clusters, d - d.mean())
        error = np.sqrt(videos / (videos - 1) * (sums**2).sum()) / n
        plain = abs(d.mean() - effect) <= stats.t.ppf(1 - ALPHA, videos - 1) * error
        hits += [holds, plain]
    return float(hits[0] / draws), float(hits[1] / draws)


def fractions(design: Design, truth: float, draws: int, seed: int) -> tuple[float, float]:
    """Coverage of ours and of the plain clustered interval for overlaps (IoU)."""
    videos, mean, equal, rho = design
    rng = np.random.default_rng(seed)
    sizes = video_sizes(videos, mean, equal)
    clusters = np.repeat(np.arange(videos), sizes)
    n, hits = len(clusters), np.zeros(2)
    for _ in range(draws):
        middle = np.repeat(rates(rng, truth, 0.3 * rho, (videos,)), sizes)
        values = rng.beta(2 * middle + 1e-9, 2 * (1 - middle) + 1e-9)
        holds = _accuracy_test(values.tolist(), clusters.tolist())(truth) >= ALPHA
        sums = np.bincount(clusters, values - values.mean())
        error = np.sqrt(videos / (videos - 1) * (sums**2).sum()) / n
        plain = abs(values.mean() - truth) <= stats.t.ppf(1 - ALPHA, videos - 1) * error
        hits += [holds, plain]
    return float(hits[0] / draws), float(hits[1] / draws)


def two_kinds(design: Design, truth: float, draws: int, seed: int) -> tuple[float, float]:
    """Coverage where videos are understood (95 % right) or not (25 %): no beta distribution."""
    videos, mean, equal, _ = design
    rng = np.random.default_rng(seed)
    sizes = video_sizes(videos, mean, equal)
    clusters = np.repeat(np.arange(videos), sizes).tolist()
    hits = np.zeros(2)
    for _ in range(draws):
        understood = rng.random(videos) < (truth - 0.25) / 0.7
        right = rng.binomial(sizes, np.where(understood, 0.95, 0.25))
        values, _ = expand(right.tolist(), sizes.tolist())
        plain = others(right[None], sizes, truth)[0][0]
        hits += [_accuracy_test(values, clusters)(truth) >= ALPHA, plain]
    return float(hits[0] / draws), float(hits[1] / draws)


def named(design: Design) -> str:
    """The first cells of a line."""
    videos, mean, equal, rho = design
    return f"{videos} | {mean if equal else f'1–{2 * mean - 1}'} | {rho}"


def print_accuracies(quick: bool, draws: int) -> None:
    """The table of accuracies, and how many designs lie where."""
    print(f"Accuracy, mean over true accuracies {', '.join(map(str, TRUTHS))} (least–most)\n")
    print("| videos | questions per video | correlation | ours | clustered, t | textbook |")
    print("|---|---|---|---|---|---|")
    means = {}
    for seed, design in enumerate(designs(quick)):
        rows = accuracies(design, draws, seed)
        cells = (f"{100 * np.mean(r):.1f} ({100 * min(r):.0f}–{100 * max(r):.0f})" for r in rows)
        print(f"| {named(design)} | {' | '.join(cells)} |", flush=True)
        means[design] = [100 * float(np.mean(row)) for row in rows]
    for i, name in enumerate(("ours", "clustered, t", "textbook")):
        several = [m[i] for d, m in means.items() if d[0] >= 5]
        inside = sum(94 <= m <= 96 for m in several)
        print(
            f"{'' if i else chr(10)}{name}: 5 and more videos {min(several):.1f} to "
            f"{max(several):.1f} %, {inside} of {len(several)} designs inside 94 to 96 %"
        )


def print_others(
    title: str, values: Sequence[float], quick: bool, draws: int, measure: Callable[..., tuple]
) -> None:
    """A table of differences or fractions."""
    print(f"\n{title}\n\n| videos | questions per video | correlation | true | ours | plain |")
    print("|---|---|---|---|---|---|")
    chosen = [d for d in designs(quick) if d[1] in (1, 3, 8) and d[3] in (0.0, 0.3) and d[0] < 300]
    for seed, design in enumerate(chosen):
        for value in values:
            ours, plain = measure(design, value, draws, seed)
            print(
                f"| {named(design)} | {value} | {100 * ours:.1f} | {100 * plain:.1f} |", flush=True
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="evaluations per design")
    parser.add_argument("--quick", action="store_true", help="a few designs only")
    args = parser.parse_args()
    print_accuracies(args.quick, args.draws)
    few = max(1, args.draws // 4)
    print_others("Paired differences", (0.0, 0.08), args.quick, few, paired)
    print_others("Fractions", (0.3, 0.8), args.quick, few, fractions)
    title = "Videos of two kinds (their correlation is what that makes it)"
    print_others(title, (0.4, 0.6, 0.8), args.quick, few, two_kinds)
    print(f"\ninterval and test disagree in {FORMED.count(False)} of {len(FORMED)} draws")


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        main()
