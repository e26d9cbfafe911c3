"""What `videothinker view` opens and what it says in the terminal, for a newcomer."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from videothinker.commands.main import main
from videothinker.json_files import write_json
from videothinker.schema import Sample, Segment, write_rows
from videothinker.viewer.books import also_inside, open_book
from videothinker.viewer.browser import Desk, write_browser_page
from videothinker.viewer.curation_page import VideoBook

VIEWER = "[data-testid=videothinker-viewer]"
ROW = Sample(
    "Which shape moves last?",
    ["A. the square", "B. the disc"],
    "<answer>B</answer>",
    "clip.mp4",
    id="own-1",
    duration=2.0,
    segments=[Segment(0, 1, "a square moves")],
)


def write_clip(path: Path, n: int = 20) -> Path:
    """A video of n frames at 10 frames a second; it ends with its last frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(n):
            picture = np.full((48, 64, 3), 8 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.mp4")
    write_rows(tmp_path / "rows.jsonl", [ROW])
    return tmp_path


def page_of(capsys: pytest.CaptureFixture[str], place: Path, *words: str) -> list[str]:
    """The lines that `view … --out` prints."""
    main(["view", *words, "--out", str(place / "page.html"), "--cache", "none"])
    return capsys.readouterr().out.splitlines()


# == Pictures ==


def test_a_page_with_all_its_pictures_says_nothing_of_them(place, capsys):
    [line] = page_of(capsys, place, str(place / "rows.jsonl"), "--videos", str(place))
    assert "Rows of rows.jsonl, 1 rows" in line


def test_a_page_without_pictures_says_how_many_why_and_which_flag_helps(place, capsys):
    rows = str(place / "rows.jsonl")
    _, said = page_of(capsys, place, rows)
    assert said.startswith("1 rows that were to have pictures have none: nobody said where")
    assert said.endswith("; --videos says where the clips are")
    (place / "away").mkdir()
    _, said = page_of(capsys, place, rows, "--videos", str(place / "away"))
    assert "there is no such file" in said and "clip.mp4" in said
    (place / "clip.mp4").write_bytes(b"no video")
    _, said = page_of(capsys, place, rows, "--videos", str(place))
    assert "1 rows that were to have pictures have none" in said and "clip.mp4" in said


def test_nothing_is_missing_where_nothing_was_asked_for(place, capsys):
    assert len(page_of(capsys, place, str(place / "rows.jsonl"), "--pictures", "0")) == 1


# == What else is there ==


def test_a_folder_says_what_was_opened_and_what_else_there_is(place, capsys):
    demo = place / "demo"
    write_json(demo / "eval" / "sft" / "id" / "summary.json", {"own": {"n": 1}})
    write_json(demo / "grpo" / "run.json", {"train": {"log_completions": True}})
    (demo / "grpo" / "checkpoints" / "completions").mkdir(parents=True)
    (demo / "traces").mkdir()
    write_rows(demo / "traces" / "train.jsonl", [ROW])
    (demo / "world").mkdir()
    (demo / "world" / "captions.jsonl").write_text('{"path": "a.mp4"}\n')
    for name in "abcd":
        write_rows(demo / "world" / f"{name}.jsonl", [ROW])
    found = [path.relative_to(demo).as_posix() for path in also_inside(demo)]
    assert found[:3] == ["grpo", "traces/train.jsonl", "world/a.jsonl"] and len(found) == 6
    assert also_inside(demo / "grpo") == []
    import videothinker.viewer.books as books

    book = open_book(place / "rows.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(books, "open_book", lambda *args: book)  # a whole evaluation is much
        *_, said = page_of(capsys, place, str(demo))
    assert said.startswith(f"also there to view: {demo}/grpo, {demo}/traces/train.jsonl, ")
    assert said.endswith(" and 2 more")


def test_the_served_page_says_it_too(command, place):
    (place / "more").mkdir()
    write_rows(place / "more" / "rows.jsonl", [ROW])
    with subprocess.Popen(
        [command, "view", str(place / "rows.jsonl")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert "Rows of rows.jsonl: 1 rows" in lines[0] and lines[1].startswith("http://127.0.0.1")
    assert lines[2].startswith("no pictures of its clips: nobody said where the videos are")


# == One duration ==


def test_a_clip_is_as_long_in_the_list_as_in_its_view(place):
    write_clip(place / "clip.mp4", 19)  # the file says 1.9 s, the row 2 s
    book = open_book(place / "rows.jsonl", None, str(place), None)
    view = Desk(book).record(0)["view"]
    assert (book.entries[0]["duration"], view["duration"]) == (2.0, 2.0)
    assert view["frames"]["sprite"] is not None
    write_rows(place / "rows.jsonl", [replace(ROW, duration=None)])
    book = open_book(place / "rows.jsonl", None, str(place), None)
    view = Desk(book).record(0)["view"]
    assert abs(view["duration"] - 1.9) < 0.01 and not view["guessed"]


@pytest.mark.browser
def test_list_and_viewer_write_a_duration_alike(open_page, place):
    for duration, said in ((2.0, "2 s"), (2.125, "2.125 s"), (125.0, "2:05")):
        write_rows(place / "rows.jsonl", [replace(ROW, duration=duration)])
        book = open_book(place / "rows.jsonl", None, str(place), None)
        page = open_page(write_browser_page(place / "page.html", book))
        cells = page.locator(".vb-list tbody td").all_text_contents()
        assert said in cells
        page.locator(".vb-row").click()
        head = page.locator(f"{VIEWER} .vt-head").text_content()
        assert f"{said} long" in head and "16 frames shown" in head


# == A video alone ==


@pytest.mark.browser
def test_a_video_alone_opens_to_be_annotated(open_page, place, capsys):
    line, said = page_of(capsys, place, str(place / "clip.mp4"))
    assert "clip.mp4, 1 videos" in line and said.startswith("N begins a segment, I and O")
    page = open_page(place / "page.html")
    viewer = page.locator(VIEWER)
    viewer.wait_for()  # without a click
    assert viewer.locator("video").count() == 1
    assert "2 s long" in viewer.locator(".vt-head").text_content()
    assert "none annotated" not in viewer.locator(".vt-board").text_content()
    viewer.get_by_role("slider").focus()
    page.keyboard.press("n")
    assert viewer.locator(".vt-seg.vt-true").count() == 1
    with page.expect_download() as saved:
        viewer.locator(".vt-menu summary").click()
        viewer.get_by_role("button", name="JSON").click()
    saved.value.save_as(place / "edited.json")
    from videothinker.viewer.corrections import read_segments

    assert [s.start for s in read_segments(place / "edited.json")] == [0.0]
    assert page.errors == [] and page.requested == []


def test_a_video_that_browsers_do_not_play_shows_its_frames_and_says_so(place, capsys):
    (place / "clip.mkv").write_bytes((place / "clip.mp4").read_bytes())
    _, said = page_of(capsys, place, str(place / "clip.mkv"))
    assert "The frames stand alone: " in said and "ffmpeg -i clip.mkv" in said
    book = VideoBook(place / "clip.mkv", None)
    assert book.view(0, 99)["view"]["video"] is None
    assert Desk(book).record(0)["view"]["frames"]["sprite"] is not None


def test_a_video_that_cannot_be_read_is_one_line(place, capsys):
    (place / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit) as stopped:
        main(["view", str(place / "broken.mp4")])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "broken.mp4" in said and said.count("\n") == 0
