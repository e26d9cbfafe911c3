"""Draw the pictures of the pages that `videothinker view` shows, from a finished run.

    python scripts/draw_browser.py RUN [nbs/images]

RUN is the folder of a finished `videothinker demo` (RUN/grpo, RUN/eval, RUN/traces); what
of these is not there is not drawn. Needs playwright, and Chromium where CHROMIUM says
(`export CHROMIUM=$(bash scripts/chromium.sh)`).
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

from videothinker.viewer.books import open_book
from videothinker.viewer.browser import Book, write_browser_page
from videothinker.viewer.curation_page import CurationBook

WIDTH, COLOURS = 1000, 64  # pixels; colours of a picture
PICTURES = {  # name → what of a run is viewed, the row that is open, pixels that are shown
    "rollouts": ("grpo", 1, 1100),
    "evaluation": ("eval/grpo", 0, 800),
    "curation": ("traces/train.jsonl.journal", 0, 785),
}


def opened(run: Path, inside: str) -> Book:
    """What is viewed; of a curation only the kept samples whose first trace was rejected."""
    book = open_book(run / inside, videos=run / "world")
    if isinstance(book, CurationBook):
        mended = [v for v in book.verdicts if v.kept and v.history]
        book.entries = [e for v, e in zip(book.verdicts, book.entries, strict=True) if v in mended]
        book.verdicts = mended
    return book


def picture(page_file: Path, number: int, height: int) -> Image.Image:
    """The list of a page with one record open, from its charts and filters on."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": height})
        page.goto(page_file.as_uri())
        page.locator(".vb-row").nth(number).click()
        page.locator(".vb-viewer .vt-seg").first.click()
        box = page.locator("#vb-root").bounding_box()
        clip = {"x": 0, "y": box["y"] + page.evaluate("scrollY"), "width": WIDTH, "height": height}
        shot = page.screenshot(animations="disabled", full_page=True, clip=clip)
        browser.close()
    return Image.open(io.BytesIO(shot)).convert("RGB")


def main(run: Path, out: Path) -> None:
    """Write a PNG for each of `PICTURES`."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, (inside, number, height) in PICTURES.items():
            if not (run / inside).exists():
                continue
            book = opened(run, inside)
            page = write_browser_page(Path(folder) / f"{name}.html", book, [number])
            few = picture(page, number, height).quantize(COLOURS, Image.Quantize.FASTOCTREE)
            few.save(out / f"{name}.png", optimize=True)
            print(f"{out / name}.png: {(out / f'{name}.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "nbs/images"))
