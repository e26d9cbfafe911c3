"""Tables of the ablations: `ablate_toy.py table` and `ablate_toy.py collect`.

An interval over seeds is Student's t of the seeds' figures (95 %), a difference is taken seed by
seed before. Inside a seed, intervals are clustered by video; they are in the file of `collect`.
Runs that the file has already stay in it, so that arms may be run in several folders.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videothinker.files import InputError, atomic_write
from videothinker.json_files import read_json

GROUPS = {  # question of the chapter → its arms; differences are to the one marked with *
    "sft": "no-sft main*",
    "seconds": "sft-longer main*",
    "curation": "no-curation random-kept checked main*",
    "rewards": "correct main* strict-format paper-format grounding",
    "weak": "weak-correct weak-format* weak-paper weak-strict",
    "kl": "beta-0 beta-0.01 main*",
    "groups": "group-4 main* group-16",
    "steps": "lr-7e-6 lr-2e-5 main* lr-1e-4",
    "frames": "frames-8 frames-16 frames-32 main*",
    "stop": "stop-0 stop-0.2 main* stop-0.5",
    "long": "main* long-none long-grounding long-grpo long-sft long-order",
}
ACCURACY = {  # column → figure
    "sampled": "id.sampled.accuracy",
    "− ref.": "id.sampled.accuracy −",
    "gain": "id.gain",
    "greedy": "id.greedy.accuracy",
    "pass@n": "id.sampled.pass",
    "rise": "rise",
    "ood": "ood.sampled.accuracy",
    "ood − ref.": "ood.sampled.accuracy −",
    "ood greedy": "ood.greedy.accuracy",
}
LOOKING = {
    "recall": "id.sampled.recall",
    "recall − ref.": "id.sampled.recall −",
    "precision": "id.sampled.precision",
    "checked": "id.sampled.checked",
    "if checked": "id.sampled.right_checked",
    "if direct": "id.sampled.right_direct",
    "mIoU": "id.greedy.miou",
    "format": "id.greedy.format",
    "ood recall": "ood.sampled.recall",
}


def over_seeds(values: Sequence[float]) -> list[float | None]:
    """Mean over seeds, half of its 95 % interval by Student's t (None for one seed), number."""
    from videothinker.evaluation.statistics import t_quantile

    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return [mean, None, 1]
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return [mean, t_quantile(0.95, n - 1) * math.sqrt(variance / n), n]


def rise(curve: Sequence[float | None]) -> float | None:
    """Mean of the last ten steps less that of the first ten; of short curves, of their halves.

    Parameters
    ----------
    curve : with one value for two steps, see `in_pairs`.
    """
    values = [value for value in curve if value is not None]
    n = min(5, len(values) // 2)
    return (math.fsum(values[-n:]) - math.fsum(values[:n])) / n if n else None


def figures_of(run: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one run: `rise`, and for each split `id.gain`, `id.sampled.accuracy`, …

    `rise` is that of the sampled reward for being right in training, `gain` that of the held-out
    sampled accuracy from the model that GRPO began with.

    Parameters
    ----------
    run : as `collected` keeps it.
    """
    found: dict[str, float | None] = {"rise": rise(run["curves"]["correct"])}
    for split, modes in run["after"].items():
        for mode, figures in modes.items():
            found |= {f"{split}.{mode}.{name}": value[0] for name, value in figures.items()}
        start = run["before"][split]["sampled"]["accuracy"][0]
        found[f"{split}.gain"] = modes["sampled"]["accuracy"][0] - start
    return {name: value for name, value in found.items() if value is not None}


def reference_of(arm: str) -> str:
    """The arm that an arm is held against: that with the star in its group; "" for the main job."""
    if arm == "main":
        return ""
    for group in GROUPS.values():
        names = group.replace("*", "").split()
        star = next(name[:-1] for name in group.split() if name.endswith("*"))
        if arm in names and arm != star:
            return star
    return "main"


def means_of(
    runs: Mapping[int, Mapping[str, float]], reference: Mapping[int, Mapping[str, float]]
) -> dict[str, list[float | None]]:
    """Figures of the tables over seeds; `… −` are differences to the reference, seed by seed.

    Parameters
    ----------
    runs : seed → figures.
    reference : the same of the arm that it is held against.
    """
    means = {}
    for figure in (ACCURACY | LOOKING).values():
        name, _, compared = figure.partition(" ")
        values = [
            own[name] - (reference.get(seed, {}).get(name, math.nan) if compared else 0)
            for seed, own in runs.items()
            if name in own
        ]
        if known := [value for value in values if not math.isnan(value)]:
            means[figure] = over_seeds(known)
    return means


def collected(
    out: Path, known: Mapping[str, str], earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All results of a folder, by arm.

    Parameters
    ----------
    out : of `ablate_toy.py run`.
    known : arm → setting, also of those that were not run.
    earlier : what this returned for another folder; runs of it stay where `out` has none.

    Returns
    -------
    `size`, `versions`, `groups` (name → arms), and `arms`: name → `setting`, `reference`, `means`
    (see `means_of`), and `runs`: seed → `seconds`, scores `after` it and accuracies `before` it
    with intervals clustered by video, and `curves` (means of two steps each).

    Raises
    ------
    InputError : the earlier runs are of another size, or of an arm that was another setting.
    """
    results = [read_json(path) for path in sorted((out / "results").glob("*.json"))]
    arms: dict[str, dict[str, Any]]
    arms = {name: {"setting": setting, "runs": {}} for name, setting in known.items()}
    size, versions = out / "size.json", results[0]["versions"] if results else {}
    found = {"size": read_json(size) if size.exists() else {}, "versions": versions}
    if earlier:
        add_earlier(arms, found, earlier)
    for result in results:
        kept = {"seconds": result["seconds"], "after": result["after"]}
        kept["before"] = {
            split: {mode: {"accuracy": found["accuracy"]} for mode, found in modes.items()}
            for split, modes in result["before"].items()
        }
        kept["curves"] = {key: in_pairs(curve) for key, curve in result["curves"].items()}
        arm = arms.setdefault(result["arm"], {"setting": result["setting"], "runs": {}})
        arm["runs"] |= {str(result["seed"]): kept}
    for arm in arms.values():
        arm["runs"] = dict(sorted(arm["runs"].items()))
    figures = {
        name: {int(seed): figures_of(run) for seed, run in arm["runs"].items()}
        for name, arm in arms.items()
    }
    for name, arm in arms.items():
        arm["reference"] = reference_of(name)
        arm["means"] = means_of(figures[name], figures.get(arm["reference"], {}))
    groups = {name: group.replace("*", "").split() for name, group in GROUPS.items()}
    return {**found, "groups": groups, "arms": arms}


def add_earlier(
    arms: dict[str, dict[str, Any]], found: dict[str, Any], earlier: Mapping[str, Any]
) -> None:
    """Put the runs of an earlier collection into `arms`, its size and versions into `found`.

    Parameters
    ----------
    arms : name → `setting` and `runs`; changed in place.
    found : `size` and `versions` of the folder that is collected now; changed in place.
    earlier : what `collected` returned.

    Raises
    ------
    InputError : see `collected`.
    """
    for name, arm in earlier["arms"].items():
        if not arm["runs"]:
            continue
        mine = arms.setdefault(name, {"setting": arm["setting"], "runs": {}})
        if mine["setting"] != arm["setting"]:
            was, now = arm["setting"] or "the main job", mine["setting"] or "the main job"
            raise InputError(f"the earlier runs of {name} are of {was!r}, not of {now!r}")
        if found["size"] not in ({}, earlier["size"]):
            raise InputError(f"the earlier runs are of {earlier['size']}, these of {found['size']}")
        mine["runs"] |= arm["runs"]
        found["size"] = earlier["size"]
        found["versions"] = found["versions"] or earlier["versions"]


def in_pairs(curve: Sequence[float | None]) -> list[float | None]:
    """Means of two steps each, so that the file of all curves stays small."""
    pairs = [[v for v in curve[i : i + 2] if v is not None] for i in range(0, len(curve), 2)]
    return [sum(pair) / len(pair) if pair else None for pair in pairs]


def rounded(value: Any) -> Any:
    """JSON values with at most four decimals."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write what `collected` found as JSON, one line per arm."""
    rest = {key: value for key, value in found.items() if key != "arms"}
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(rounded(arm))}" for name, arm in found["arms"].items()
    )
    atomic_write(path, f'{json.dumps(rest)[:-1]},\n "arms": {{\n{lines}\n}}}}\n')


def cell(mean: Sequence[float | None] | None) -> str:
    """A figure in per cent with half of its interval: `52.1 ±3.0`."""
    if mean is None or mean[0] is None:
        return "–"
    half = "" if mean[1] is None else f" ±{100 * mean[1]:.1f}"
    return f"{100 * mean[0]:.1f}{half}"


def table(found: Mapping[str, Any], arms: Sequence[str], columns: Mapping[str, str]) -> str:
    """One line for each arm, "not run" for those without a result."""
    lines = [f"{'':16}{'seeds':>6}" + "".join(f"{title:>14}" for title in columns)]
    for name in arms:
        arm = found["arms"][name]
        if not arm["runs"]:
            lines.append(f"{name:16}{'not run':>8}")
            continue
        cells = [cell(arm["means"].get(figure)) for figure in columns.values()]
        lines.append(f"{name:16}{len(arm['runs']):>6}" + "".join(f"{text:>14}" for text in cells))
    return "\n".join(lines)


def all_tables(found: Mapping[str, Any]) -> str:
    """Two tables for every question: being right, and looking."""
    parts = []
    for name, arms in found["groups"].items():
        parts.append(f"{name}\n{'=' * len(name)}")
        parts += [table(found, arms, columns) + "\n" for columns in (ACCURACY, LOOKING)]
    return "\n".join(parts)
