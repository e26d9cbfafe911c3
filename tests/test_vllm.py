"""GRPO with rollouts by vLLM: what engine and server are asked, and what comes of it.

vLLM is the stand-in of tests/stubs.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

TRAIN = """
import json
import os
import sys
import time
from pathlib import Path

import torch

from videothinker.model.encoder import EncoderOptions
from videothinker.schema import read_rows
from videothinker.training.grpo import train_grpo
from videothinker.training.job import Recipe, TrainingJob
from videothinker.training.setup import leave_process_group
from videothinker.video.frames import Sampling

torch.set_num_threads(1)
base, world, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
options = json.loads(sys.argv[4])
rank = int(os.environ.get("RANK", 0))
server = None
if options.get("vllm_mode") == "server":
    from trl.generation.vllm_client import VLLMClient
    from vllm_server import Server

    address = world / f"{out.name}.url"
    if rank == 0:
        server = Server(base, options.pop("logprobs_mode", "processed_logprobs"))
        address.write_text(server.url)
    while not address.exists():
        time.sleep(0.1)
    options["vllm_server_base_url"] = address.read_text()

    # the weights travel by NCCL, which needs GPUs: here the sender hands them over
    def init_communicator(client, device):
        client.communicator = server.take

    VLLMClient.init_communicator = init_communicator


def longer(prompts, completions, id, **columns):
    return [float(len(c)) * (name != dead) for c, name in zip(completions, id)]


dead = json.loads((world / "val.jsonl").read_text().splitlines()[0])["id"]
dead = dead if options.get("dynamic_sampling") else None  # one group of the four earns nothing
peft, shifts = options.pop("peft"), options.pop("shifts", [])
side = options.pop("side", 56)
freeze_vision = options.pop("freeze_vision", True)
train = {
    "max_steps": 3,
    "save_strategy": "no",
    "num_generations": 3,
    "per_device_train_batch_size": 6,
    "temperature": 2.0,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "constant",
    "max_completion_length": 16,
    "beta": 0.04,
    "use_vllm": True,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    "seed": 3,
}
recipe = Recipe(
    "grpo",
    style="short",
    sampling=Sampling(fps=2, max_frames=48, size=(side, side)),
    freeze_vision=freeze_vision,
    peft=peft,
    train=train | options,
)
rows = read_rows(world / "val.jsonl")
for shift in [0.0, *shifts]:
    if shift:
        import vllm.engine

        vllm.engine.SHIFT, out = shift, world / f"{out.name}-{shift}"
    encoder = EncoderOptions(timeout=None)
    result = train_grpo(TrainingJob(recipe, base, rows, world, out, encoder, {"longer": longer}))
    if rank == 0:
        (out / "log.json").write_text(json.dumps([row for row in result["log"] if "reward" in row]))
if server is not None:
    (out / "requests.json").write_text(json.dumps(server.requests))
leave_process_group()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with a question each, and the training script."""
    from videothinker.toy.world import WorldSize, make_world

    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=0, val=4, test=0, ood=0, questions=1))
    (folder / "train.py").write_text(TRAIN)
    return folder


def run(
    world: Path, name: str, processes: int = 1, stubs: bool = True, **options: Any
) -> subprocess.CompletedProcess:
    """Train three steps with rollouts by the engine."""
    path = [str(ROOT / "tests" / "stubs")] * stubs + list(
        filter(None, [os.environ.get("PYTHONPATH")])
    )
    launch = (
        []
        if processes == 1
        else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    given = [
        str(ROOT / "data" / "tiny-base"),
        str(world),
        str(world / name),
        json.dumps({"peft": None} | options),
    ]
    return subprocess.run(
        [sys.executable, *launch, str(world / "train.py"), *given],
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def steps_of(world: Path, name: str, **options: object) -> list[dict]:
    """What a training logged."""
    done = run(world, name, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((world / name / "log.json").read_text())


def check(steps: list[dict]) -> None:
    """Policy and engine agree on every token of every step, also after the weights have moved."""
    assert [s["step"] for s in steps] == [1, 2, 3]
    assert all(s["sampling/sampling_logp_difference/max"] < 1e-4 for s in steps)
    ratios = [
        s[f"sampling/importance_sampling_ratio/{kind}"]
        for s in steps
        for kind in ("min", "mean", "max")
    ]
    assert max(abs(ratio - 1) for ratio in ratios) < 1e-3
    assert (
        all(s["grad_norm"] > 0 for s in steps) and steps[-1]["kl"] > 1e-5 > steps[0]["kl"]
    )  # and they have moved


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tower", {"freeze_vision": False}),
        ("lora", {"peft": LORA}),
        # the stand-in fails when it is woken without having slept, or handed weights in its sleep
        # (and a dead group is drawn anew before it sleeps)
        ("asleep", {"vllm_enable_sleep_mode": True, "dynamic_sampling": 1}),
        ("two", {"vllm_enable_sleep_mode": True, "processes": 2}),
    ],
)
def test_an_engine_in_the_training_process(world: Path, name: str, options: dict) -> None:
    check(steps_of(world, name, **options))


def test_what_the_engine_drew_less_often_weighs_more(world: Path) -> None:
    options = {
        "vllm_importance_sampling_mode": "token_truncate",
        "beta": 0.0,
        "max_steps": 1,
        "shifts": [0.1],
    }
    [same] = steps_of(world, "same", **options)
    [shifted] = json.loads((world / "same-0.1" / "log.json").read_text())
    assert shifted["sampling/importance_sampling_ratio/mean"] == pytest.approx(
        math.exp(0.1), rel=1e-4
    )
    assert shifted["sampling/sampling_logp_difference/max"] == pytest.approx(0.1, abs=1e-3)
    assert (
        shifted["grad_norm"] == pytest.approx(math.exp(0.1) * same["grad_norm"], rel=1e-3)
        and same["grad_norm"] > 0
    )


def test_a_server_is_sent_tokens_features_times_and_weights_by_two_processes(world: Path) -> None:
    check(steps_of(world, "server", vllm_mode="server", processes=2))
    requests = json.loads((world / "server" / "requests.json").read_text())
    drawn = [body for path, body in requests if path == "/inference/v1/generate"]
    assert len(drawn) == 3 * 4 and all(
        body["sampling_params"]["n"] == 3 for body in drawn
    )  # one request per prompt
    assert all(len(body["features"]["mm_hashes"]["video"]) == 1 for body in drawn)
    assert len({body["sampling_params"]["seed"] for body in drawn}) == 12
    once = [
        "/start_weight_update",
        "/update_weights",
        "weights",
        "/finish_weight_update",
        "/reset_prefix_cache",
    ]
    order = [path for path, _ in requests if path != "/inference/v1/generate"]
    assert sorted(order) == sorted(once * 3)  # TRL announces and sends at the same time
    announced = next(
        body["update_info"]["names"] for path, body in requests if path == "/update_weights"
    )
    assert announced == next(names for path, names in requests if path == "weights")


def test_a_server_with_other_logprobs_is_refused(world: Path) -> None:
    done = run(world, "raw", vllm_mode="server", logprobs_mode="raw_logprobs")
    assert (
        done.returncode != 0 and "start it with --logprobs-mode processed_logprobs" in done.stderr
    )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_says_what_to_install(world: Path) -> None:
    done = run(world, "none", stubs=False)
    assert done.returncode != 0 and "pip install 'videothinker[vllm]'" in done.stderr


def adapted(dtype: torch.dtype, **options: Any) -> Any:
    """Two frozen layers with adapters that are not zero."""
    from peft import LoraConfig, get_peft_model
    from torch import nn

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 48))
    config = LoraConfig(r=4, target_modules=["0", "2"], **options)
    model = get_peft_model(layers.to(dtype), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=3e-3)
    return model


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    """The frozen weights below the adapters."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}


def test_thousands_of_transfers_leave_the_base_as_it_was() -> None:
    """2,500 steps of LoRA: the base keeps its bits, which merging in place does not leave it."""
    from videothinker.training.vllm_rollout import merged_weights

    model = adapted(torch.bfloat16)
    before = base_weights(model)
    steps = torch.Generator().manual_seed(1)
    for step in range(2500):
        sent = dict(merged_weights(model))
        if step % 500 == 0:
            check_sent(model, sent)
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter += 1e-5 * torch.randn(parameter.shape, generator=steps)
    after = base_weights(model)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())

    for _ in range(20):  # the usual way
        model.merge_adapter()
        model.unmerge_adapter()
    moved = base_weights(model)
    assert any(not torch.equal(moved[name], weight) for name, weight in before.items())


def check_sent(model: Any, sent: dict[str, torch.Tensor]) -> None:
    """Names are those without adapters; weights are the 32-bit sums, rounded once."""
    assert list(sent) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for number in (0, 2):
        layer = model.base_model.model[number]
        own = layer.base_layer.weight
        delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        delta = delta * layer.scaling["default"]
        assert delta.dtype == torch.float32
        assert torch.equal(sent[f"{number}.weight"], (own.float() + delta).to(own.dtype))
        assert not torch.equal(sent[f"{number}.weight"], own)
        assert torch.equal(sent[f"{number}.bias"], layer.base_layer.bias)


@pytest.mark.parametrize("kind", ["use_dora", "lora_bias", "use_rslora"])
def test_every_kind_of_adapter_is_sent_merged(kind: str) -> None:
    """What the engine computes is what the model with its adapters does."""
    from torch import nn

    from videothinker.training.vllm_rollout import merged_weights

    model = adapted(torch.float32, **{kind: True})
    before = base_weights(model)
    engine = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 48))
    for _ in range(2):
        engine.load_state_dict(dict(merged_weights(model)))
        x = torch.randn(5, 48)
        torch.testing.assert_close(engine(x), model(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(base_weights(model)[name], weight) for name, weight in before.items())
