"""Questions per second of a plain `generate` loop and of the evaluation's own engine.

    python scripts/bench_eval.py [--model data/tiny-base] [--videos 16] [--questions 4]
        [--style short] [--tokens 64] [--threads 2] [--repeats 3] [--json FILE]

Both answer the same rows of the toy benchmark about the same frames. The loop is what one would
write with transformers alone: a row at a time, its processor, its greedy `generate` (with positions
behind a video as the model's report and transformers 4 have them; 5 counts others). The engine is
`HFEngine`: batches, prompts computed once, frames read ahead. Both take turns, and the best of the
repeats counts; on a machine with other work the processor seconds are the fairer figure. The
replies have to be equal, word for word.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def plain_loop(model: Any, processor: Any, source: Any, questions: Sequence[Any]) -> list[str]:
    """Replies by transformers alone, one row after the other."""
    import torch
    from transformers.video_utils import VideoMetadata

    from videothinker.evaluation.questions import chat_messages
    from videothinker.model.family import family_of

    family = family_of(model, processor)
    replies = []
    for question in questions:
        frames = source.frames(question)
        messages = chat_messages(question, frames)
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        n = len(frames.pixels)
        metadata = VideoMetadata(
            total_num_frames=n,
            fps=frames.fps,
            frames_indices=list(range(n)),
            duration=frames.duration,
        )
        inputs = processor(
            text=[text],
            videos=[torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)],
            video_metadata=[metadata],
            do_sample_frames=False,
            do_resize=False,
            return_tensors="pt",
        )
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                max_new_tokens=question.protocol.max_new_tokens,
                do_sample=False,
                suppress_tokens=list(family.suppressed),
            )
        ids = [i for i in out[0, inputs["input_ids"].shape[1] :].tolist() if i != family.eos_token]
        replies.append(processor.tokenizer.decode(ids))
    return replies


def engine_replies(engine: Any, questions: Sequence[Any]) -> list[str]:
    """Replies by the engine, in order."""
    replies = dict(engine.answer(questions))
    return [replies[place].text for place in range(len(questions))]


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds that a call takes, those of them that processors worked for it, and its result."""
    start, worked = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - start, time.process_time() - worked, result


def main(argv: list[str] | None = None) -> int:
    """Measure, compare, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(ROOT / "data" / "tiny-base"))
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--questions", type=int, default=4, help="per video")
    parser.add_argument("--style", default="short", help="prompt style")
    parser.add_argument("--tokens", type=int, default=64, help="longest reply")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args(argv)

    import torch
    import transformers

    from videothinker.evaluation.benchmarks import Protocol
    from videothinker.evaluation.lmms_eval import use_report_positions
    from videothinker.evaluation.questions import FrameSource, make_questions
    from videothinker.evaluation.video_engine import HFEngine
    from videothinker.model.loading import load_model
    from videothinker.schema import read_rows
    from videothinker.toy.world import WorldSize, make_world
    from videothinker.video.frames import Sampling

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = Path(tempfile.mkdtemp())
    make_world(folder, WorldSize(train=0, val=args.videos, test=0, ood=0, questions=args.questions))
    protocol = Protocol(
        name="house",
        style=args.style,
        sampling=Sampling(fps=2, max_frames=48, size=(56, 56)),
        max_new_tokens=args.tokens,
    )
    questions = make_questions(read_rows(folder / "val.jsonl"), protocol)
    model, processor = load_model(args.model, "float32", "cpu")
    use_report_positions()
    source = FrameSource(folder, timeout=None)
    engine = HFEngine(model, processor, source)
    ways: dict[str, Callable[[], list[str]]] = {
        "plain generate loop": lambda: plain_loop(model, processor, source, questions),
        "HFEngine": lambda: engine_replies(engine, questions),
    }
    for way in (lambda: plain_loop(model, processor, source, questions[:2]), ways["HFEngine"]):
        way()  # warm up
    best = dict.fromkeys(ways, float("inf"))
    processor_seconds = dict(best)
    replies = {}
    for _ in range(args.repeats):
        for name, way in ways.items():
            seconds, worked, replies[name] = timed(way)
            best[name] = min(best[name], seconds)
            processor_seconds[name] = min(processor_seconds[name], worked)
    plain, ours = replies.values()
    different = [(a, b) for a, b in zip(plain, ours, strict=True) if a != b]
    if different:
        print(f"{len(different)} replies differ, the first: {different[0]}")
        return 1
    n = len(questions)
    ratio = best["plain generate loop"] / best["HFEngine"]
    words = sum(len(text.split()) for text in ours) / n
    print(f"{n} questions about {args.videos} videos, {words:.0f} words a reply, "
          f"{args.threads} threads, torch {torch.__version__}, transformers "
          f"{transformers.__version__}\n")  # fmt: skip
    print("| | questions/s | seconds | | processor seconds | |\n|---|---|---|---|---|---|")
    for name, seconds in best.items():
        factor = best["plain generate loop"] / seconds
        worked = processor_seconds[name]
        saved = processor_seconds["plain generate loop"] / worked
        print(
            f"| {name} | {n / seconds:.2f} | {seconds:.1f} | x{factor:.1f} | {worked:.1f} | "
            f"x{saved:.1f} |"
        )
    print(f"\nsame replies: {n} of {n}; ratio {ratio:.1f}")
    if args.json:
        figures = {"questions": n, "words": words, "seconds": best, "ratio": ratio}
        figures["processor_seconds"] = processor_seconds
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    from videothinker.commands.main import reader_may_leave

    with reader_may_leave():
        sys.exit(main())
