"""Draw the README's animated picture: the viewer, stepped through the frames of a held-out clip.

    python scripts/draw_viewer.py RUN [nbs/images/viewer.gif]

RUN is the folder of a finished `videothinker demo`. The clip is the first whose reply after GRPO is
right and names three segments or more. Needs playwright, and Chromium where CHROMIUM says
(`export CHROMIUM=$(bash scripts/chromium.sh)`).
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

from videothinker.evaluation.records import read_records
from videothinker.model.loading import Settings
from videothinker.schema import read_rows
from videothinker.toy.demo import frames_of, make_encoder
from videothinker.viewer.viewer import View, view_html

WIDTH, COLOURS = 960, 64  # pixels; colours of the picture
STEP, PAUSE = 450, 1800  # milliseconds that a frame is shown, and the last one


def chosen_view(run: Path) -> View:
    """The view of the first right reply that names three segments or more."""
    records = read_records(run / "eval" / "grpo" / "id" / "own.jsonl")
    model = run / "grpo" / "model"
    encoder = make_encoder(model, Settings.of(model), run / "world", frames_of(run))
    for row in read_rows(run / "world" / "eval_id.jsonl"):
        record = records[row.id]
        if record.correct and record.text.count("<time>") >= 3:
            return View.of(row, encoder.frames(row), record.text, title=row.id)
    sys.exit(f"{run}: no reply is right and names three segments; let the demo run at full size")


def pictures(page_html: str, n_frames: int) -> list[Image.Image]:
    """Screenshots of the viewer at every frame of its clip, stepped by the keyboard."""
    from playwright.sync_api import sync_playwright

    shots = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "view.html"
        path.write_text(page_html, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 800})
        page.goto(path.as_uri())
        page.get_by_role("slider").first.focus()
        for step in range(n_frames):
            if step:
                page.keyboard.press("ArrowRight")
            shot = page.locator(".vt-host").screenshot(animations="disabled")
            shots.append(Image.open(io.BytesIO(shot)).convert("RGB"))
        browser.close()
    return shots


def main() -> None:
    """Write the picture."""
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "nbs/images/viewer.gif")
    view = chosen_view(Path(sys.argv[1]))
    shots = pictures(view_html(view), len(view.frames.times))
    palette = shots[0].quantize(COLOURS)  # one for all, so that nothing flickers
    frames = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot in shots]
    durations = [STEP] * (len(frames) - 1) + [PAUSE]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    print(f"{out}: {len(frames)} frames, {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
