"""Train the tiny base from scratch and put it into data/tiny-base. Usage: train_base.py [OUT] [--threads N] [--to DIR]

OUT (default runs/tiny-base) keeps the checkpoint: killed and started again, the training goes on. Its recipe and seed
are `videothinker.tiny.BasePlan`; nbs/08b_tiny.ipynb explains them. About 85 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("*.safetensors", "*.json", "*.jinja", "*_log.csv")
SETTINGS = {"style": "letter", "sampling": {"fps": 2, "max_frames": 48, "size": [56, 56]}}


def publish(out: Path, to: Path) -> list[str]:
    """Copy model, processor and logs (not the checkpoint), say how the model is asked; return the names."""
    to.mkdir(parents=True, exist_ok=True)
    files = sorted(path for pattern in FILES for path in out.glob(pattern))
    for path in files:
        shutil.copyfile(path, to / path.name)
    (to / "videothinker.json").write_text(json.dumps(SETTINGS) + "\n")
    return [path.name for path in files] + ["videothinker.json"]


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, train, publish."""
    parser = argparse.ArgumentParser(description="Train the tiny base from scratch; killed and run again, it goes on.")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "runs" / "tiny-base", help="default runs/tiny-base")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of the training (default 2)")
    parser.add_argument("--to", type=Path, default=ROOT / "data" / "tiny-base", help="default data/tiny-base")
    args = parser.parse_args(argv)

    import torch

    from videothinker.tiny import train_base

    torch.set_num_threads(args.threads)
    train_base(args.out)
    print("\n".join(publish(args.out, args.to)))


if __name__ == "__main__":
    main()
