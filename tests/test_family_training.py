"""A family of models is trained, saved, loaded and asked; the third one is a single class."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate.utils import DynamoBackend
from conftest import ROOT, load_script
from families import SIDES, save_third, save_tiny
from transformers import PreTrainedModel

from videothinker.configs import TINY_BASES, base_model_path
from videothinker.json_files import read_json
from videothinker.model.encoder import Encoder, EncoderOptions
from videothinker.model.family import family_of
from videothinker.model.generate import Decoding, generate
from videothinker.model.loading import Settings, load_model
from videothinker.model.shared_prefix import completion_logps
from videothinker.model.vision_cache import with_features
from videothinker.schema import Sample, read_rows
from videothinker.toy.world import WorldSize, make_world
from videothinker.training.grpo import train_grpo
from videothinker.training.job import Recipe, TrainingJob
from videothinker.training.sft import TraceCollator, leaves_padding, train_sft
from videothinker.video.frames import Sampling

TRACE = (
    "<time>00:01-00:03</time>\n<caption>a red square moves left</caption>\n"
    "<think>it lasts 2 seconds</think>\n<think>so the answer is B</think>\n<answer>B</answer>"
)
COMMON = {
    "max_steps": 2,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "disable_tqdm": True,
    "seed": 3,
    "report_to": "none",
}
SFT = COMMON | {"per_device_train_batch_size": 2}
GRPO = COMMON | {
    "num_generations": 3,
    "per_device_train_batch_size": 3,
    "max_completion_length": 12,
    "beta": 0.04,
}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """A folder of clips, and four rows with traces."""
    folder = tmp_path_factory.mktemp("families")
    make_world(folder, WorldSize(train=0, val=4, test=0, ood=0, questions=1))
    return folder, [replace(row, process=TRACE) for row in read_rows(folder / "val.jsonl")]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An untrained tiny model of each family."""
    folder = tmp_path_factory.mktemp("bases")
    own = {name: save_tiny(name, folder / name) for name in ("qwen2_5_vl", "qwen3_vl")}
    return own | {"third_vl": save_third(folder / "third_vl")}


def length(completions: Any, **columns: Any) -> list[float]:
    return [float(len(set(text))) for text in completions]


def train(
    world: tuple[Path, list[Sample]], base: str, family: str, out: Path, stage: str, **options: Any
) -> dict[str, Any]:
    """Two steps of a stage; returns what the trainer says. `fields` change those of the trainer."""
    size = (SIDES[family],) * 2
    fields = options.pop("fields", {})
    recipe = Recipe(
        stage,
        style="short",
        sampling=Sampling(fps=2, max_frames=48, size=size),
        train=(SFT if stage == "sft" else GRPO) | fields,
        **options,
    )
    rewards = {"length": length} if stage == "grpo" else None
    job = TrainingJob(recipe, base, world[1], world[0], out, EncoderOptions(timeout=None), rewards)
    return (train_sft if stage == "sft" else train_grpo)(job)


def agrees_with_itself(world: tuple[Path, list[Sample]], path: Path) -> None:
    """Encode → roll out → score: the log-probabilities of draws are those of the update."""
    model, processor = load_model(path, "float32")
    settings = Settings.of(path)
    encoder = Encoder(
        processor, world[0], settings.sampling, settings.style, EncoderOptions(timeout=None)
    )
    family = family_of(model, processor)
    prompts = [encoder(row) for row in world[1][:2]]
    groups = generate(model, prompts, family, 2, Decoding(max_new_tokens=10))
    with torch.no_grad():
        pairs = [(p, [c.ids for c in g]) for p, g in zip(prompts, groups, strict=True)]
        logps, _, mask = completion_logps(model, pairs, family)
    drawn = torch.cat([torch.tensor(c.logprobs) for g in groups for c in g])
    assert float((logps[mask.bool()] - drawn).abs().max()) < 1e-4


@pytest.mark.parametrize("family", ["qwen3_vl", "third_vl"])
def test_sft_and_grpo_go_through(
    family: str, world: tuple[Path, list[Sample]], bases: dict[str, str], tmp_path: Path
) -> None:
    sft = train(world, bases[family], family, tmp_path / "sft", "sft")
    first = tmp_path / "sft" / "model"
    assert load_model(first)[0].config.model_type == family
    factor = Settings.of(first).sampling.factor  # who asks it later needs no processor to know
    assert factor == {"qwen3_vl": 32, "third_vl": 28}[family]
    grpo = train(world, str(first), family, tmp_path / "grpo", "grpo", peft=LORA)
    losses = [row["loss"] for row in sft["log"] if "loss" in row]
    assert len(losses) == 2 and losses[1] < losses[0]
    rewards = [row for row in grpo["log"] if "reward" in row]
    assert len(rewards) == 2 and all(row["kl"] < 0.5 for row in rewards)
    last = tmp_path / "grpo" / "model"
    before, after = (load_model(path)[0].state_dict() for path in (first, last))
    changed = {n for n, w in before.items() if not torch.equal(w, after[n])}
    assert changed and not any("visual" in name for name in changed)  # the tower is frozen
    assert all("q_proj" in name or "v_proj" in name for name in changed)
    agrees_with_itself(world, last)


@pytest.mark.parametrize("frozen", [True, False], ids=["features", "pixels"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_sft_learns_the_same_with_padding_and_without(
    family: str,
    frozen: bool,
    world: tuple[Path, list[Sample]],
    bases: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []
    collate_rows = TraceCollator.__call__

    def seen(collator: TraceCollator, rows: Any) -> Any:
        inputs = collate_rows(collator, rows)
        shapes.append(tuple(inputs["input_ids"].shape))
        return inputs

    monkeypatch.setattr(TraceCollator, "__call__", seen)
    ways: dict[str, dict[str, Any]] = {
        "default": {},
        "asked for": {"padding_free": True},
        "checkpointing": {"gradient_checkpointing": True},
        "padded": {"padding_free": False},
        "noise": {"neftune_noise_alpha": 5.0},  # scaled by the length of a row
    }
    losses = {}
    for name, fields in ways.items():
        shapes.clear()
        done = train(
            world,
            bases[family],
            family,
            tmp_path / name,
            "sft",
            fields=fields,
            freeze_vision=frozen,
        )
        losses[name] = [row["loss"] for row in done["log"] if "loss" in row]
        rows = 2 if name in ("padded", "noise") else 1
        assert len(shapes) >= 2 and {shape[0] for shape in shapes} == {rows}
    assert losses["default"] == losses["asked for"]
    assert losses["default"] == pytest.approx(losses["checkpointing"], abs=1e-6)
    assert losses["default"] == pytest.approx(losses["padded"], abs=1e-4)
    assert losses["default"] != losses["noise"]


@pytest.mark.parametrize(("family", "stage"), [("qwen2_5_vl", "sft"), ("qwen3_vl", "grpo")])
def test_other_attention_kernels_give_the_same_losses(
    family: str,
    stage: str,
    world: tuple[Path, list[Sample]],
    bases: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []  # of policy, and of GRPO's reference
    load = PreTrainedModel.from_pretrained.__func__

    def seen(cls: Any, *args: Any, **options: Any) -> Any:
        loaded = load(cls, *args, **options)
        asked.append(loaded[0].config.vision_config._attn_implementation)
        return loaded

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(seen))
    losses = {}
    for name in (None, "eager"):
        asked.clear()
        options = {"attn_implementation": name, "freeze_vision": False}
        done = train(world, bases[family], family, tmp_path / str(name), stage, **options)
        losses[name] = [row["loss"] for row in done["log"] if "loss" in row]
        assert set(asked) == {name or "sdpa"} and len(asked) == (1 if stage == "sft" else 2)
    assert losses["eager"] == pytest.approx(losses[None], abs=1e-4) and len(losses[None]) == 2


def test_a_model_that_is_compiled_keeps_its_padding() -> None:
    def leaves(backend: str = "NO", **fields: Any) -> bool:
        args = SimpleNamespace(**{"torch_compile": False, "neftune_noise_alpha": None} | fields)
        plugin = SimpleNamespace(backend=DynamoBackend(backend))
        state = SimpleNamespace(dynamo_plugin=plugin)
        trainer = SimpleNamespace(args=args, accelerator=SimpleNamespace(state=state))
        return leaves_padding(Recipe("sft"), trainer)

    assert leaves()
    assert not leaves(torch_compile=True)
    assert not leaves("INDUCTOR")


def test_a_tower_that_is_trained_gets_gradients_at_every_level(
    world: tuple[Path, list[Sample]], bases: dict[str, str], tmp_path: Path
) -> None:
    base = bases["qwen3_vl"]
    train(world, base, "qwen3_vl", tmp_path / "out", "grpo", freeze_vision=False)
    before, after = (load_model(p)[0].state_dict() for p in (base, tmp_path / "out" / "model"))
    mergers = [name for name in before if "deepstack_merger_list" in name and "fc2" in name]
    assert len(mergers) == 6
    assert not any(torch.equal(before[name], after[name]) for name in mergers)


def test_times_as_text_stay_with_the_model(
    world: tuple[Path, list[Sample]], bases: dict[str, str], tmp_path: Path
) -> None:
    """Trained with times as text, saved, and asked so by whoever loads it."""
    train(world, bases["qwen2_5_vl"], "qwen2_5_vl", tmp_path / "out", "sft", times="text")
    path = tmp_path / "out" / "model"
    assert Settings.of(path).times == "text"
    agrees_with_itself(world, path)
    _, processor = load_model(path)
    encoder = Encoder(processor, world[0], Settings.of(path).sampling, "short")
    prompt = encoder(world[1][0])
    assert "<0.2 seconds>" in processor.tokenizer.decode(prompt.input_ids)
    assert (prompt.grid[:, 0] == 1).all() and len(prompt.grid) > 4


def test_another_package_adds_a_family_by_an_entry_point() -> None:
    from videothinker.model import family

    loaded = []
    point = SimpleNamespace(load=lambda: loaded.append(1))
    family._import_families.cache_clear()
    with patch.object(
        family, "entry_points", lambda group: [point] if "videothinker" in group else []
    ):
        assert set(family.OWN) <= set(family.known_families())
        family.known_families()
    assert loaded == [1]
    family._import_families.cache_clear()


# == vLLM: what is sent ==


@pytest.fixture(scope="module")
def stubs() -> Any:
    """The stand-in of vLLM, where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM itself is installed")
    sys.path.insert(0, str(ROOT / "tests" / "stubs"))
    import vllm

    return vllm


@pytest.mark.parametrize("family", ["qwen3_vl", "third_vl"])
def test_vllm_is_told_of_every_run_of_placeholders(
    family: str, stubs: Any, world: tuple[Path, list[Sample]], bases: dict[str, str]
) -> None:
    from videothinker.model.vllm_input import engine_input

    model, processor = load_model(bases[family], "float32")
    settings = Settings.of(bases[family])
    encoder = Encoder(processor, world[0], settings.sampling, "short", EncoderOptions(timeout=None))
    own = family_of(model, processor)
    [prompt] = with_features(model, [encoder(world[1][0])])
    moments = int(prompt.grid[0, 0])
    assert moments > 4
    request = engine_input(prompt, own)
    items, places = (request[key]["video"] for key in ("mm_kwargs", "mm_placeholders"))
    assert len(items) == len(places) == len(set(request["mm_hashes"]["video"]))
    assert len(items) == (1 if own.whole else moments)  # else one for each pair of frames
    is_video = torch.zeros(len(prompt), dtype=torch.bool)
    for place in places:
        mask = torch.ones(place.length, dtype=torch.bool)
        is_video[place.offset : place.offset + place.length] = (
            mask if place.is_embed is None else place.is_embed
        )
    assert torch.equal(is_video, prompt.input_ids == own.video_token)
    width = model.config.text_config.hidden_size * (1 + own.levels)
    for item in items:
        t = moments if own.whole else 1
        assert item["video_grid_thw"].data.tolist() == [t, 4, 4]
        assert item["video_embeds"].data.shape == (4 * t, width)
        assert "second_per_grid_ts" not in item
    assert torch.equal(torch.cat([i["video_embeds"].data for i in items]), prompt.features)


def test_an_engine_says_what_our_own_loop_says(
    stubs: Any, world: tuple[Path, list[Sample]], bases: dict[str, str]
) -> None:
    """Greedy replies of Qwen3-VL from what the engine is sent, by plain forward passes."""
    from videothinker.evaluation.benchmarks import Protocol
    from videothinker.evaluation.questions import FrameSource, make_questions
    from videothinker.evaluation.video_engine import HFEngine
    from videothinker.evaluation.vllm_engine import VLLMEngine

    base = bases["qwen3_vl"]
    protocol = Protocol(
        name="house",
        style="short",
        sampling=Sampling(fps=1, max_frames=8, max_pixels=2 * 64 * 64),
        max_new_tokens=8,
    )
    questions = make_questions(world[1][:2], protocol)
    source = FrameSource(world[0], timeout=None)
    own = dict(HFEngine(*load_model(base, "float32"), source).answer(questions))
    engine = VLLMEngine(base, source, device="cpu", dtype="float32")
    theirs = dict(engine.answer(questions))
    assert {i: r.text for i, r in own.items()} == {i: r.text for i, r in theirs.items()}
    assert all(not r.error and r.text for r in own.values())
    shown = source.frames(questions[0])
    assert shown.pixels.shape[1] % 32 == 0  # sides of Qwen3-VL's, whatever the protocol says


@pytest.mark.parametrize("family", TINY_BASES)
def test_a_tiny_base_is_whole(family: str) -> None:
    """What comes with the package is small, is what the script makes, and can be served."""
    base = base_model_path(TINY_BASES[family])
    files = {path.name: path.stat().st_size for path in base.iterdir()}
    assert sum(files.values()) <= 15 * 2**20
    logs = {"vision_log.csv", "train_log.csv"}
    served = {"video_preprocessor_config.json", "chat_template.jinja", "README.md"}
    assert files.keys() >= logs | served | {"videothinker.json", "model.safetensors"}
    made = load_script("train_base")
    assert read_json(base / "videothinker.json") == made.settings(family)
    side = made.SIDES[family]
    assert Settings.of(base).sampling.size == (side, side)
    assert read_json(base / "config.json")["model_type"] == made.FAMILIES[family]


def test_a_shortened_demo_says_so_in_every_family() -> None:
    """Its model is too short-trained to learn the format, whatever family it is of."""
    from videothinker.toy.demo import QUICK, caution_of, make_plan

    for family in TINY_BASES:
        assert caution_of(make_plan(1, quick=True, family=family)) == QUICK
        assert caution_of(make_plan(1, family=family)) == ""


def test_the_demo_takes_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it with the tiny Qwen3-VL, as short as can be."""
    from videothinker.evaluation import evaluate
    from videothinker.toy.demo import make_plan, run_demo

    plan = make_plan(quick=True, family="qwen3-vl")
    assert plan.sft.sampling.size == plan.grpo.sampling.size == (64, 64)
    short = {"max_steps": 1, "disable_tqdm": True, "gradient_accumulation_steps": 1}
    groups = {"num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 8}
    plan = replace(
        plan,
        world=WorldSize(train=2, val=2, test=2, ood=2, questions=1),
        probe_questions=1,
        sft=replace(plan.sft, train=plan.sft.train | short | {"per_device_train_batch_size": 2}),
        grpo=replace(plan.grpo, train=plan.grpo.train | short | groups),
        n_samples=2,
        processes=1,
    )
    whole = evaluate.evaluate_stage
    monkeypatch.setattr(
        evaluate, "evaluate_stage", lambda *args, **options: whole(*args[:4], 6, **options)
    )
    summary = run_demo(tmp_path / "run", plan)
    assert set(summary["stages"]) == {"base", "sft", "grpo"}
    assert (tmp_path / "run" / "report.html").exists()
    model, _ = load_model(tmp_path / "run" / "grpo" / "model")
    assert model.config.model_type == "qwen3_vl"
    agrees_with_itself(world_of(tmp_path / "run" / "world"), tmp_path / "run" / "grpo" / "model")


def world_of(folder: Path) -> tuple[Path, list[Sample]]:
    """A toy world's folder and its validation rows."""
    return folder, read_rows(folder / "val.jsonl")
