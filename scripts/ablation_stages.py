"""The stages of an ablation arm of the toy: clips, traces, trainings, evaluations; each done once.

What arms have in common is kept under a digest of what decides it, and computed by the first that
needs it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from videothinker.claims import claim_folder, weights_digest
from videothinker.files import InputError
from videothinker.json_files import read_json, write_json
from videothinker.yaml_files import read_yaml

CURVES = {  # name → in the trainer's log, one value per step of GRPO
    "correct": "rewards/correct/mean",
    "format": "rewards/format/mean",
    "needed_recall": "rewards/needed_recall/mean",
    "checked": "rewards/checked/mean",
    "right_checked": "rewards/right_checked/mean",
    "right_direct": "rewards/right_direct/mean",
    "named": "segments/named",
    "length": "completions/mean_length",
    "kl": "kl",
    "flat": "frac_reward_zero_std",
}


@dataclass(frozen=True)
class Setting:
    """How an arm differs from the main job.

    Attributes
    ----------
    plan : fields of the demo's plan.
    sft, grpo : changes of the two recipes, as `--set` takes them.
    start : "sft", or "base" for GRPO without SFT.
    curated : of the traces for SFT. False takes them as the teacher wrote them, mistakes and all;
        "checked" those among these that curation accepts, with no second try; "random" as many as
        that, whichever they are.
    instead : SFT goes on for the seconds of GRPO, in its place.
    long : the clips of five events are among the rows of "both" trainings, "sft", "grpo" or "none".
    order : "length" gives GRPO its rows from short clips to long ones.
    frames : per clip when the main job's models are asked; 0 for as in training.
    """

    plan: dict[str, Any] = field(default_factory=dict)
    sft: tuple[str, ...] = ()
    grpo: tuple[str, ...] = ()
    start: str = "sft"
    curated: bool | str = True
    instead: bool = False
    long: str = "both"
    order: str = ""
    frames: int = 0

    def __post_init__(self) -> None:
        known = {"start": ("sft", "base"), "long": ("both", "sft", "grpo", "none")}
        known |= {"order": ("", "length"), "instead": (True, False)}
        known |= {"curated": (True, False, "checked", "random")}
        for name, values in known.items():
            if (value := getattr(self, name)) not in values:
                raise InputError(f"{name}={value}: known values are {', '.join(map(str, values))}")
        if type(self.frames) is not int or self.frames < 0:
            raise InputError(f"frames={self.frames}: write a number of frames")
        if self.instead and self.start == "base":
            raise InputError("instead=true: SFT can go on only where there is one; no start=base")

    @classmethod
    def of(cls, text: str) -> Setting:
        """The setting that a text of KEY=VALUE words describes; InputError for an unknown key."""
        found: dict[str, Any] = {"plan": {}, "sft": (), "grpo": ()}
        own = {f.name for f in fields(cls)} - set(found)
        for word in text.split():
            key, equals, value = word.partition("=")
            part, dot, name = key.partition(".")
            if equals and dot and part in ("sft", "grpo"):
                found[part] += (f"{name}={value}",)
            elif equals and dot and part == "plan":
                found["plan"][name] = read_yaml(value)
            elif equals and key in own:
                found[key] = read_yaml(value)
            else:
                known = f"plan.FIELD, sft.KEY, grpo.KEY, {', '.join(sorted(own))}"
                raise InputError(f"{word}: write KEY=VALUE; known keys: {known}")
        return cls(**found)


@dataclass(frozen=True)
class Size:
    """How much is asked of every model."""

    quick: bool = False
    questions: tuple[int, int] = (150, 100)  # in and out of the domain
    samples: int = 4


QUICK = Size(quick=True, questions=(8, 6), samples=2)


# What is computed once


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold a lock; where another process has it, wait for it, or raise TimeoutError."""
    from videothinker.journal import hold_lock

    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            lock = hold_lock(path)
            break
        except TimeoutError:
            if not wait:
                raise
            time.sleep(1)
    try:
        yield
    finally:
        lock.release()


def digest(decides: Mapping[str, Any]) -> str:
    """Eight letters that stand for JSON values."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Store:
    """A folder of stages that are computed once; processes that want the same one wait for it."""

    out: Path

    def stage(self, kind: str, decides: dict[str, Any], work: Callable[[Path], Any]) -> Path:
        """The folder in which `work(folder)` was done; its JSON result is in `done.json`."""
        folder = self.out / "stages" / f"{kind}-{digest(decides)}"
        with locked(self.out / "locks" / f"{folder.name}.lock", wait=True):
            if not (folder / "done.json").exists():
                print(f"  {folder.name} …", flush=True)
                folder.mkdir(parents=True, exist_ok=True)
                result = work(folder)
                write_json(folder / "done.json", {"decides": decides, "result": result})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a finished training
        return folder


def result_of(folder: Path) -> Any:
    """The result of a finished stage."""
    return read_json(folder / "done.json")["result"]


# The stages


def plan_of(setting: Setting, seed: int, size: Size) -> Any:
    """The demo's plan with a setting's changes in it."""
    from videothinker.toy.demo import make_plan, with_measures
    from videothinker.training.recipes import apply_overrides

    plan = make_plan(seed, size.quick)
    known = {f.name for f in fields(plan)}
    if unknown := set(setting.plan) - known:
        raise InputError(f"the plan has no {min(unknown)!r}; it has {', '.join(sorted(known))}")
    seeds = [f"train.seed={seed}", f"train.data_seed={seed}"]
    sft = apply_overrides(plan.sft, [*setting.sft, *seeds])
    grpo = apply_overrides(plan.grpo, [*setting.grpo, *seeds, "train.log_completions=false"])
    return replace(plan, **setting.plan, sft=sft, grpo=with_measures(grpo))


@dataclass(frozen=True)
class Rows:
    """The rows of GRPO, and those of SFT, a share of whose traces stops looking too early."""

    grpo: list[Any]
    sft: list[Any]


def traces(store: Store, world: Path, plan: Any, curated: bool | str) -> Rows:
    """The rows of both trainings."""
    from videothinker.schema import read_rows
    from videothinker.toy.demo import make_traces

    later = {"sft", "grpo", "base", "n_samples", "processes", "probe_questions"}  # than traces
    later |= {"sft_probe", "grpo_probe"}
    decides = {key: value for key, value in asdict(plan).items() if key not in later}
    make = make_traces if curated is True else partial(first_traces, chosen=curated)
    folder = store.stage(
        "traces",
        decides | {"world": world.name, "curated": curated},
        lambda folder: make(world, plan, folder),
    )
    return Rows(*(read_rows(folder / f"{name}.jsonl") for name in ("train", "sft")))


def without_long(rows: Sequence[Any]) -> list[Any]:
    """The rows that are not about the toy world's `long` clips."""
    return [row for row in rows if not row.video_id.startswith("long-")]


def first_traces(world: Path, plan: Any, out: Path, chosen: bool | str = False) -> None:
    """`make_traces` with the first traces that the teacher wrote: all of them, or chosen ones."""
    from videothinker.schema import read_captions, read_rows, write_rows
    from videothinker.synthesis.synthesize import synthesize
    from videothinker.toy.teacher import ScriptedTeacher, careless_traces

    out.mkdir(parents=True, exist_ok=True)
    truth = {clip.video_id: clip.segments for clip in read_captions(world / "truth.jsonl")}
    teacher = ScriptedTeacher(plan.seed, plan.mistake_rate, plan.check_share, truth)
    clips, questions = read_captions(world / "captions.jsonl"), read_rows(world / "qa.jsonl")
    rows = synthesize(clips, questions, teacher, plan.questions_per_clip, plan.seed)
    if chosen:
        rows = accepted_traces(rows, plan.seed, at_random=chosen == "random")
    write_rows(out / "train.jsonl", rows)
    write_rows(out / "sft.jsonl", careless_traces(rows, plan.stop_rate, plan.seed))


def accepted_traces(rows: Sequence[Any], seed: int, at_random: bool) -> list[Any]:
    """The rows whose trace curation accepts; or as many of all rows, drawn at random."""
    from videothinker.synthesis.hindsight_curation import curate
    from videothinker.toy.teacher import SymbolicReader
    from videothinker.toy.world import named_rng

    accepted, _ = curate(rows, None, SymbolicReader(), progress=False)
    if not at_random:
        return accepted
    chosen = named_rng(seed, "random rows").permutation(len(rows))[: len(accepted)]
    return [rows[i] for i in sorted(chosen)]


@dataclass(frozen=True)
class DemoRun:
    """A finished run of `videothinker demo`, whose trainings need not be made again.

    There the processes of a launch make each step together; that is the only difference.

    Attributes
    ----------
    folder : of the run.
    sft, grpo : the main job's recipes, as an arm has them.
    processes : of the launch.
    """

    folder: Path
    sft: Any
    grpo: Any
    processes: int

    @classmethod
    def of(cls, out: Path, seed: int, size: Size) -> DemoRun | None:
        """The run in `OUT/demo-SEED`; None where there is none, or not of the main job."""
        from videothinker.toy.demo import make_plan

        folder, plan = out / f"demo-{seed}", make_plan(seed, size.quick)
        if not (folder / "summary.json").exists():
            return None
        planned = read_json(folder / "plan.json")
        if {key: planned.get(key) for key in asdict(plan)} != json.loads(json.dumps(asdict(plan))):
            return None
        main = plan_of(Setting(), seed, size)
        return cls(folder, main.sft, main.grpo, plan.processes)

    def has(self, recipe: Any, rows: Sequence[Any], model: Path) -> bool:
        """Whether this very training was made in the run."""
        from videothinker.training.recipes import rows_digest

        made = read_json(self.folder / recipe.stage / "run.json")
        same = made["data"] == rows_digest(rows) and made["model"] == weights_digest(model)
        return bool(same and recipe == getattr(self, recipe.stage))

    def copy(self, stage: str, folder: Path) -> dict[str, Any]:
        """Copy a training's model; its result, in seconds of all processes, probes included."""
        shutil.copytree(self.folder / stage / "model", folder / "model", dirs_exist_ok=True)
        done = read_json(self.folder / "steps" / f"{stage}.json")
        return {"seconds": done["seconds"] * self.processes, "log": done["result"]["log"]}


def train(
    store: Store, recipe: Any, rows: Sequence[Any], world: Path, model: Path, demo: DemoRun | None
) -> Path:
    """The folder of a training: `model/`, and seconds (of processor time) and log as its result."""
    from videothinker.toy.demo import frames_of
    from videothinker.training.recipes import make_job, rows_digest, run_job

    decides = {"recipe": recipe.to_json(), "world": world.name}
    decides |= {"weights": weights_digest(model), "rows": rows_digest(rows)}

    def work(folder: Path) -> dict[str, Any]:
        if demo and demo.has(recipe, rows, model):
            return demo.copy(recipe.stage, folder)
        finished = (folder / "checkpoints").glob("checkpoint-*/finished")
        before = max((int(p.parent.name.split("-")[1]) for p in finished), default=0)
        begin = time.process_time()
        job = make_job(recipe, rows, folder, world, model, encoder=frames_of(world))
        log = run_job(job)["log"]
        share = 1 - before / recipe.train["max_steps"]  # of the steps that were done just now
        seconds = (time.process_time() - begin) / share if share else None
        return {"seconds": seconds, "log": log}

    return store.stage(recipe.stage, decides, work)


def from_short_to_long(rows: Sequence[Any], n: int, seed: int) -> list[Any]:
    """`n` rows evenly from all, placed so that the trainer draws those of short clips first.

    It draws rows in an order that is a function of their number and the seed (`PromptOrder`).
    """
    from videothinker.training.samplers import PromptOrder

    ordered = sorted(rows, key=lambda row: (len(row.segments), row.duration))
    chosen = [ordered[i * len(ordered) // n] for i in range(n)]
    by_place = dict(zip(PromptOrder(n, seed), chosen, strict=True))
    return [by_place[place] for place in range(n)]


@dataclass(frozen=True)
class Trained:
    """What an arm trained: the models before and after its last training, seconds and log."""

    world: Path
    before: Path
    after: Path
    seconds: dict[str, float | None]
    log: list[dict[str, Any]]


def train_arm(store: Store, setting: Setting, seed: int, size: Size) -> Trained:
    """All of an arm but its evaluation."""
    from videothinker.configs import model_path
    from videothinker.toy.world import make_world
    from videothinker.training.recipes import apply_overrides

    plan = plan_of(setting, seed, size)
    base = Path(model_path(plan.base))
    drawn = {"seed": seed, "size": asdict(plan.world)}
    world = store.stage("world", drawn, lambda folder: make_world(folder, plan.world, plan.seed))
    kept = traces(store, world, plan, curated=True)
    rows = kept.grpo
    taught = kept if setting.curated is True else traces(store, world, plan, setting.curated)
    sft_rows = taught.sft
    if setting.long in ("sft", "none"):
        rows = without_long(rows)
    if setting.long in ("grpo", "none"):
        sft_rows = without_long(sft_rows)
    if setting.order == "length":
        arguments = plan.grpo.train
        step = arguments["per_device_train_batch_size"] // arguments["num_generations"]
        step *= arguments.get("gradient_accumulation_steps", 1)
        rows = from_short_to_long(rows, step * arguments["max_steps"], seed)
    demo = DemoRun.of(store.out, seed, size)
    before, seconds = base, dict[str, float | None](sft=0.0)
    if setting.start == "sft":
        sft = train(store, plan.sft, sft_rows, world, base, demo)
        before, seconds = sft / "model", {"sft": result_of(sft)["seconds"]}
    grpo = train(store, plan.grpo, rows, world, before, demo)
    seconds["grpo"] = result_of(grpo)["seconds"]
    if not setting.instead:
        return Trained(world, before, grpo / "model", seconds, result_of(grpo)["log"])
    if not seconds["sft"] or not seconds["grpo"]:
        lost = grpo if seconds["sft"] else sft
        raise InputError(
            f"the seconds of {lost} are not known: it was killed at its end; remove it"
        )
    steps = round(plan.sft.train["max_steps"] * (1 + seconds["grpo"] / seconds["sft"]))
    longer = apply_overrides(plan.sft, [f"train.max_steps={steps}"])
    after = train(store, longer, sft_rows, world, base, demo)
    return Trained(world, before, after / "model", {"sft": result_of(after)["seconds"]}, [])


def evaluated(store: Store, model: Path, world: Path, frames: int, size: Size) -> dict[str, Any]:
    """Scores of a model: split → "greedy" and "sampled" → figure → mean and interval."""
    from videothinker.evaluation.evaluate import evaluate_stage
    from videothinker.model.loading import Settings, load_model
    from videothinker.schema import read_rows
    from videothinker.toy.demo import frames_of, looks_of, make_encoder

    settings = Settings.of(model)
    if frames:
        sampling = replace(settings.sampling, fps=None, n_frames=frames)
        settings = replace(settings, sampling=sampling)

    def work(folder: Path) -> dict[str, Any]:
        encoder = make_encoder(model, settings, world, frames_of(world))
        splits = {
            split: read_rows(world / f"eval_{split}.jsonl")[:n]
            for split, n in zip(("id", "ood"), size.questions, strict=True)
        }
        loaded, _ = load_model(model)
        stage = evaluate_stage(loaded, encoder, splits, folder, 240, ("own",), size.samples)
        found: dict[str, Any] = {}
        for split, rows in splits.items():
            files = {"greedy": "own.jsonl", "sampled": "sampled.jsonl"}
            found[split] = {
                mode: scores(looks_of(folder / split / name, rows), rows)
                for mode, name in files.items()
            }
            for name in ("pass", "maj"):
                key = f"{name}@{size.samples}"
                drawn = stage[split]["sampled"]
                found[split]["sampled"][name] = [drawn[key], *drawn[f"{key}_ci"]]
        return found

    # a training that moved no weight has the base's, but asks in its own way
    decides = {"weights": weights_digest(model), "settings": asdict(settings), "size": asdict(size)}
    return result_of(store.stage("eval", decides | {"world": world.name}, work))


def scores(
    replies: Sequence[tuple[Any, Any]], rows: Sequence[Any]
) -> dict[str, list[float | None]]:
    """Means over replies with intervals clustered by video: figure → [mean, low, high].

    Parameters
    ----------
    replies : the record and the `Look` of each, several to a row where they were sampled.
    rows : with annotated segments.
    """
    from videothinker.schema import sample_id

    records, looks = zip(*replies, strict=True)
    values: dict[str, list[float | None]] = {
        "accuracy": [record.correct for record in records],
        "format": [record.formatted for record in records],
        "miou": [record.segments.get("miou") for record in records],
        "recall": [look.recall for look in looks],
        "precision": [look.precision for look in looks],
        "checked": [look.checked for look in looks],
        "right_checked": [look.correct if look.checked else None for look in looks],
        "right_direct": [None if look.checked else look.correct for look in looks],
    }
    videos = [record.video_id for record in records]
    found = {name: interval(column, videos) for name, column in values.items()}
    by_id = {sample_id(row): len(row.segments) for row in rows}
    annotated = sum(by_id[record.id] for record in records)
    found["named"] = [sum(look.named for look in looks) / annotated, None, None]
    return found


def interval(values: Sequence[float | None], videos: Sequence[str]) -> list[float | None]:
    """Mean of the values that apply, with its interval clustered by video."""
    from videothinker.evaluation.statistics import clustered_mean

    applies = [(float(v), video) for v, video in zip(values, videos, strict=True) if v is not None]
    if not applies:
        return [None, None, None]
    estimate = clustered_mean([v for v, _ in applies], [video for _, video in applies])
    return [estimate.mean, *estimate.bounds]


# One arm


def result_path(out: Path, name: str, seed: int) -> Path:
    """Where the result of an arm is kept."""
    return out / "results" / f"{name}-{seed}.json"


def run_arm(out: Path, name: str, text: str, seed: int, size: Size) -> dict[str, Any]:
    """Train and evaluate an arm under one seed, and write its result, whole or not at all."""
    from videothinker.toy.demo import versions

    claim_folder(out, asdict(size), "size.json")
    store, setting = Store(out), Setting.of(text)
    trained = train_arm(store, setting, seed, size)
    before, after = (
        evaluated(store, model, trained.world, setting.frames, size)
        for model in (trained.before, trained.after)
    )
    steps = [entry for entry in trained.log if "reward" in entry]
    result = {
        "arm": name,
        "setting": text,
        "seed": seed,
        "seconds": trained.seconds,
        "versions": versions(),
        "before": before,
        "after": after,
        "curves": {key: [e.get(column) for e in steps] for key, column in CURVES.items()},
    }
    write_json(result_path(out, name, seed), result)
    return result
