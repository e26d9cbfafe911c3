"""Recipes: whatever is misspelt, of the wrong type or without effect is refused by name."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore
from transformers import TrainingArguments
from trl import GRPOConfig

from videothinker.configs import config_names
from videothinker.files import InputError
from videothinker.json_files import read_json, write_json
from videothinker.schema import Sample
from videothinker.training import recipes
from videothinker.training.grpo import USED, VideoGRPOConfig
from videothinker.training.job import Recipe
from videothinker.training.ranks import Ranks
from videothinker.training.recipes import (
    OURS,
    apply_overrides,
    check_train,
    config_class,
    make_job,
    make_recipe,
    read_recipe,
    recipe_problem,
)
from videothinker.training.trainer_fields import (
    IGNORED_BY_GRPO,
    IGNORED_BY_SFT,
    IN_EFFECT,
    default_of,
    size_problem,
)

BASE = str(ROOT / "data" / "tiny-base")
ROWS = [Sample("Which?", ["A. it"], "<answer>A</answer>", path="a.mp4", process="so A")]
SFT = read_recipe("tiny/sft")
GRPO = read_recipe("tiny/grpo")
ADAPTERS = {"r": 4, "target_modules": ["q_proj"]}
# fields of the trainers that do something here, for both stages
USED_BY_BOTH = """
per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
optim_target_modules gradient_accumulation_steps max_grad_norm bf16 fp16 tf32
activation_checkpointing gradient_checkpointing torch_empty_cache_steps logging_strategy
logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level
log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
trackio_static_space_id save_strategy save_steps save_total_limit ignore_data_skip
restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu
dataloader_pin_memory ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics
""".split()
USED_BY_SFT = """
average_tokens_across_devices label_smoothing_factor activation_checkpointing_kwargs
gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode
use_liger_kernel liger_kernel_config neftune_noise_alpha include_num_input_tokens_seen
accelerator_config dataloader_drop_last dataloader_num_workers dataloader_persistent_workers
dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
train_sampling_strategy loss_type activation_offloading padding_free
""".split()
OWN = {f.name for f in fields(VideoGRPOConfig)} - {f.name for f in fields(GRPOConfig)}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_every_field_of_the_trainer_is_used_or_refused(stage: str) -> None:
    """A new release with a new field fails here: does it do something, or is it refused?"""
    names = {f.name for f in fields(config_class(stage))}
    of_transformers = {f.name for f in fields(TrainingArguments)}
    refused = set(IGNORED_BY_SFT if stage == "sft" else IGNORED_BY_GRPO)
    used = set(USED_BY_BOTH) | (set(USED_BY_SFT) if stage == "sft" else USED | OWN)
    assert not used & refused, used & refused
    others = names - used - refused - set(OURS)
    if stage == "grpo":  # TRL's own that are not in USED are refused as a whole
        others &= of_transformers
    # older and newer releases lack some
    assert not others, f"neither used nor refused: {sorted(others)}"


def other_value(field: Any, in_effect: Any) -> Any:
    """Some value of a field's kind that is not the one in effect."""
    hint = str(field.type)
    if isinstance(in_effect, bool) or "bool" in hint:
        return not in_effect
    if isinstance(in_effect, int | float):
        return in_effect + 1
    return {"x": 1} if "dict" in hint and "str" not in hint else "x"


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_field_without_effect_is_refused_by_name(stage: str) -> None:
    config = config_class(stage)
    by_name = {f.name: f for f in fields(config)}
    reasons = IGNORED_BY_SFT if stage == "sft" else IGNORED_BY_GRPO
    for name in set(reasons) & set(by_name):
        in_effect = IN_EFFECT[stage].get(name, default_of(by_name[name]))
        check_train(stage, {} if in_effect is None else {name: in_effect})
        with pytest.raises(InputError, match=rf"\b{name}\b"):
            check_train(stage, {name: other_value(by_name[name], in_effect)})


def test_the_classes_refuse_what_the_recipes_refuse() -> None:
    """Who makes a `VideoGRPOConfig` without a recipe is told as well."""
    options = {"output_dir": "x", "use_cpu": True, "bf16": False}
    for wrong in (
        {"label_smoothing_factor": 0.1},
        {"train_sampling_strategy": "group_by_length"},
        {"use_bias_correction_kl": True},
        {"top_entropy_quantile": 0.2},
        {"dataloader_num_workers": 2},
        {"loss_type": "cispo"},
        {"loss_type": "cispo", "epsilon_high": 0.2},
    ):
        with pytest.raises(InputError, match=list(wrong)[-1].split("_high")[0]):
            VideoGRPOConfig(**options, **wrong)
    assert VideoGRPOConfig(**options, loss_type="cispo", epsilon_high=5.0).clip_range[1] == 5
    assert VideoGRPOConfig(**options, use_bias_correction_kl=False).data_seed is None


@pytest.mark.parametrize(
    "steps, uses, max_steps, fits",
    [
        (0.25, 1, 8, True),
        (0.25, 1, -1, True),
        (0.25, 2, 8, True),  # every 2nd step
        (0.25, 2, 12, False),  # every 3rd
        (0.25, 2, -1, False),  # nobody knows yet
        (4, 2, -1, True),
        (3, 2, -1, False),
    ],
)
def test_checkpoints_may_come_at_a_fraction_of_the_steps(
    steps: float, uses: int, max_steps: int, fits: bool
) -> None:
    train = {"save_steps": steps, "num_iterations": uses, "max_steps": max_steps}
    options = {"output_dir": "x", "use_cpu": True, "bf16": False, "logging_steps": 0.5}
    if fits:
        assert VideoGRPOConfig(**options, **train).save_steps == steps
        return
    with pytest.raises(InputError, match="save_steps"):
        VideoGRPOConfig(**options, **train)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"lerning_rate": 1}, "'lerning_rate'"),
    "stage": ({"stage": "dpo"}, "`stage`"),
    "style": ({"style": "nice"}, "unknown prompt style 'nice'"),
    "frozen": ({"freeze_vision": "no"}, "`freeze_vision`: the text 'no'"),
    "rows": ({"rows": "ten"}, "`rows`: the text 'ten'"),
    "no rows": ({"rows": 0}, "`rows` must be at least 1"),
    "model": ({"model": 7}, "`model`"),
    "revision": ({"revision": 1.0}, "`revision`"),
    "attention": ({"attn_implementation": True}, "`attn_implementation`"),
    "sampling key": ({"sampling": {"frames": 8}}, "'frames'"),
    "size": ({"sampling": {"size": 56}}, "`sampling` sets size: 56"),
    "fps": ({"sampling": {"fps": "2"}}, "`sampling` sets fps: the text '2'"),
    "frames": ({"sampling": {"n_frames": 2.5}}, "`sampling` sets n_frames: 2.5"),
    "reward": ({"rewards": ["corect"]}, "'corect'"),
    "rewards": ({"rewards": [1]}, "`rewards`"),
    "train": ({"train": [1]}, "`train` must be a mapping"),
    "field": ({"train": {"learning_rat": 1}}, "'learning_rat'; did you mean 'learning_rate'"),
    "prompt length": ({"train": {"max_prompt_length": 9}}, "a prompt is never cut"),
    "text": ({"train": {"learning_rate": "1e-5"}}, "`train` sets learning_rate: the text '1e-5'"),
    "truth": ({"train": {"gradient_checkpointing": "no"}}, "sets gradient_checkpointing"),
    "schedule": ({"train": {"lr_scheduler_type": "cosin"}}, "did you mean 'cosine'"),
    "optimizer": ({"train": {"optim": "adamw_tourch"}}, "did you mean 'adamw_torch'"),
    "interval": ({"train": {"save_strategy": "step"}}, "did you mean 'steps'"),
    "fraction": ({"train": {"save_steps": "0.25"}}, "sets save_steps: the text"),
    "log": ({"train": {"logging_steps": "0.1"}}, "sets logging_steps: the text"),
    "half": ({"train": {"max_steps": 2.5}}, "sets max_steps: 2.5"),
    "seed": ({"train": {"data_seed": "0"}}, "sets data_seed: the text '0'"),
    "negative": ({"train": {"learning_rate": -1.0}}, "must not be negative"),
    "batch": ({"train": {"per_device_train_batch_size": 0}}, "must be above 0"),
    "beta": ({"train": {"adam_beta1": 2.0}}, "adam_beta1: 2.0 cannot be used, it must be from 0"),
    "beta of 1": ({"train": {"adam_beta2": 1.0}}, "must be from 0 to below 1"),
    "seed below 0": ({"train": {"seed": -1}}, "must be from 0 to 2³² - 1"),
    "large seed": ({"train": {"data_seed": 2**32}}, "must be from 0 to 2³² - 1"),
    "no steps": ({"train": {"max_steps": 0}}, "must be above 0, or -1 for none"),
    "steps": ({"train": {"max_steps": -2}}, "must be above 0, or -1 for none"),
    "no top": ({"stage": "grpo", "train": {"top_p": 0.0}}, "must be above 0, up to 1"),
    "top": ({"stage": "grpo", "train": {"top_p": 7.0}}, "must be above 0, up to 1"),
    "least": ({"stage": "grpo", "train": {"min_p": 1.5}}, "must be from 0 to 1"),
    "lora": ({"peft": {"lora_rank": 8}}, "unknown field in `peft`: 'lora_rank'"),
    "rank": ({"peft": {"r": "8"}}, "`peft` sets r: the text '8'"),
    "frozen adapters": ({"peft": ADAPTERS | {"inference_mode": True}}, "inference_mode"),
    "targets": ({"peft": {"target_modules": ["q_porj"]}}, "'q_porj'; did you mean 'q_proj'"),
    "one target": ({"peft": {"target_modules": ["q_proj", "k_porj"]}}, "'k_porj'"),
    "frozen tower": ({"peft": {"target_modules": ["qkv"]}}, "'qkv'"),
    "bits": ({"peft": ADAPTERS, "quantization": {"load_in_4bits": True}}, "'load_in_4bits'"),
    "bit": ({"peft": ADAPTERS, "quantization": {"load_in_4bit": "yes"}}, "load_in_4bit: the text"),
    "dtype": (
        {
            "peft": ADAPTERS,
            "quantization": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat17"},
        },
        "bfloat17",
    ),
    "nothing": (
        {"peft": ADAPTERS, "quantization": {"bnb_4bit_quant_type": "nf4"}},
        "load_in_4bit: true",
    ),
    "alone": ({"quantization": {"load_in_4bit": True}}, "needs `peft`"),
    "smooth dft": (
        {"train": {"label_smoothing_factor": 0.1, "loss_type": "dft"}},
        "label_smoothing_factor",
    ),
    "plateau": ({"train": {"lr_scheduler_type": "reduce_lr_on_plateau"}}, "eval strategy"),
    "reports": ({"train": {"report_to": "wandbb"}}, "'wandbb'; did you mean 'wandb'"),
}


IN_RANGE = {"adam_beta1": 0, "seed": 2**32 - 1, "data_seed": 0, "max_steps": -1, "top_p": 1}


def test_values_at_the_ends_of_their_ranges_are_taken() -> None:
    for name, value in (*IN_RANGE.items(), ("min_p", 0), ("min_p", 1), ("adam_beta2", 0.999)):
        assert size_problem(name, value) == ""


def test_a_rank_that_fails_at_the_start_tells_the_others_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    launch = Ranks(HashStore(), 1, 2)
    monkeypatch.setattr(recipes, "ranks", lambda: launch)
    with pytest.raises(InputError, match="no rows to train on"):
        make_job(SFT, [], tmp_path / "out", tmp_path, BASE)
    Ranks().leave()  # SIGTERM is no longer ignored
    launch.leaving.set()
    assert launch.store.get("left/1") == b"no rows to train on"


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_in_a_recipe_is_one_line_before_a_model_is_loaded(
    case: str, tmp_path: Path
) -> None:
    changes, says = WRONG[case]
    values = SFT.to_json() | {"stage": "sft"} | changes
    with pytest.raises(InputError, match=re.escape(says)) as raised:
        recipe = make_recipe(values, "recipe.yaml")
        make_job(recipe, ROWS, tmp_path / "out", tmp_path, BASE)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


SET = [
    ("freeze_vision='no'", "true or false"),
    ("rows=ten", "a whole number"),
    ("style=nice", "unknown prompt style"),
    ("sampling.size=56", "a list of 2 whole numbers"),
    ("train.lr_scheduler_type=cosin", "did you mean 'cosine'"),
    ("train.save_steps='4'", "sets save_steps"),
    ("train.max_prompt_length=512", "a prompt is never cut"),
    ("peft.lora_rank=8", "unknown field in `peft`"),
    ("quantization.load_in_4bits=true", "needs `peft`"),
    ("train.learning_rate=.nan", "nan cannot be used"),
    ("train={learning_rate: 1, learning_rate: 2}", "set twice"),
    ("modl=x", "did you mean 'model'"),
]


@pytest.mark.parametrize("override, says", SET)
def test_the_same_mistakes_on_the_command_line(override: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        apply_overrides(SFT, [override])


def test_overrides_may_come_in_any_order() -> None:
    """Four bits need adapters: what is asked is whether they are there in the end."""
    both = ["quantization={load_in_4bit: true}", "peft={r: 8}"]
    changed = apply_overrides(SFT, both)
    assert changed == apply_overrides(SFT, both[::-1])
    assert (changed.peft, changed.quantization) == ({"r": 8}, {"load_in_4bit": True})
    gone = apply_overrides(changed, ["peft=null", "quantization=null"])
    assert (gone.peft, gone.quantization) == (None, None)


# What this machine does not have


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"train": {"tf32": True}}, "tf32"),
        ({"train": {"optim": "paged_adamw_8bit"}}, "paged_adamw_8bit needs"),
        ({"train": {"fp16": True}}, "train.fp16 needs a GPU"),
        ({"train": {"optim": "galore_adamw"}}, "needs galore_torch"),
        ({"train": {"use_liger_kernel": True}}, "use_liger_kernel needs"),
        ({"train": {"report_to": "wandb"}}, "report_to=wandb, which is not installed"),
        ({"train": {"deepspeed": "zero2.json"}}, "train.deepspeed needs a launch"),
        ({"train": {"fsdp": "full_shard"}}, "train.fsdp needs a launch"),
        (
            {"train": {"model_init_kwargs": {"attn_implementation": "flash_attention_2"}}},
            "model_in",
        ),
        ({"peft": ADAPTERS, "quantization": {"load_in_4bit": True}}, "needs bitsandbytes"),
    ],
)
def test_a_recipe_for_a_gpu_says_what_is_missing_here(
    changes: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("videothinker.training.recipes.find_spec", lambda name: None)
    recipe = make_recipe(SFT.to_json() | changes, "recipe.yaml")
    with pytest.raises(InputError, match=re.escape(says)) as raised:
        make_job(recipe, ROWS, tmp_path / "out", tmp_path, BASE)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_vllm_that_is_not_there_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises((InputError, ImportError)) as raised:
        make_job(GRPO, ROWS, tmp_path / "out", tmp_path, BASE, ["train.vllm_mode=both"])
    assert "vllm_mode" in str(raised.value)


@pytest.mark.parametrize("name", config_names("recipes"))
def test_the_packaged_recipes_pass(name: str) -> None:
    recipe = read_recipe(name)
    assert apply_overrides(recipe, []) == recipe


# Jobs


@pytest.mark.parametrize("recipe", [SFT, GRPO], ids=["sft", "grpo"])
def test_no_rows_are_told_before_a_model_is_loaded(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    for data in (tmp_path / "none.jsonl", []):
        with pytest.raises(InputError, match="no rows"):
            make_job(recipe, data, tmp_path / "out", tmp_path, "nowhere/at/all")
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_as_many_processes_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a step is what all processes take together: half of them is another training."""
    out = tmp_path / "run"
    make_job(SFT, ROWS, out, tmp_path, BASE)
    begun = read_json(out / "run.json")
    assert (begun["processes"], begun["sharding"]) == (1, "")
    (out / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    write_json(out / "checkpoints" / "checkpoint-1" / "finished", {})
    make_job(SFT, ROWS, out, tmp_path, BASE)
    write_json(out / "run.json", begun | {"processes": 2})
    with pytest.raises(InputError, match="processes is 2 there and 1 here"):
        make_job(SFT, ROWS, out, tmp_path, BASE)
    write_json(out / "run.json", begun)
    with pytest.raises(InputError, match="train is"):  # another batch
        make_job(SFT, ROWS, out, tmp_path, BASE, ["train.per_device_train_batch_size=8"])
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="sharding is"):
        make_job(SFT, ROWS, out, tmp_path, BASE)


# Any content at all

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from([f.name for f in fields(Recipe)]) | st.text(max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from(["sft", "grpo"]))
def test_any_content_is_a_recipe_or_one_line(content: dict[str, Any], stage: str) -> None:
    values = {"stage": stage} | content
    try:
        recipe = make_recipe(values, "r.yaml")
        check_train(recipe.stage, recipe.train)
    except InputError as error:
        assert str(error).strip()
    else:
        assert recipe_problem(recipe.to_json()) == ""


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([f.name for f in fields(config_class("grpo"))]),
    VALUES,
    st.sampled_from(["sft", "grpo"]),
)
def test_any_value_of_any_field_is_right_or_named(name: str, value: Any, stage: str) -> None:
    try:
        check_train(stage, {name: value})
    except InputError as error:
        assert name in str(error)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.sampled_from([SFT, replace(GRPO, peft=ADAPTERS)]))
def test_any_override_is_right_or_named(text: str, recipe: Recipe) -> None:
    try:
        apply_overrides(recipe, [text])
    except InputError as error:
        assert str(error).startswith(("--set ", "`train`", "`peft`", "`quantization`"))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([f.name for f in fields(config_class("sft"))]), VALUES)
def test_overrides_read_what_yaml_writes(name: str, value: Any) -> None:
    """A value on the command line means what it means in a file."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False).removesuffix("\n...\n")
    outcomes = []
    for change in (
        lambda: apply_overrides(SFT, [f"train.{name}={text}"]).train.get(name),
        lambda: apply_overrides(
            make_recipe(SFT.to_json() | {"train": SFT.train | {name: value}}, "r"), []
        ).train.get(name),
    ):
        try:
            outcomes.append(repr(change()))
        except InputError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1]
