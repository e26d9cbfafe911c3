"""Views as data and pages: texts stay texts, sizes stay small, traits and edits are checked."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.files import FormatError, InputError
from videothinker.schema import Sample, Segment, read_rows, write_rows
from videothinker.video.frames import Frames, MissingVideo
from videothinker.viewer.corrections import (
    ORIGINAL,
    checked_segments,
    edited_rows,
    edited_sample,
    read_segments,
)
from videothinker.viewer.page import (
    PICTURES,
    check_playable,
    frame_data,
    page_html,
    script_json,
    segment_rows,
    video_data,
)
from videothinker.viewer.report import report_html
from videothinker.viewer.viewer import (
    EVENTS,
    Lane,
    View,
    trace_viewer,
    view_data,
    view_html,
    words_html,
)

# markup that ends elements, comments and scripts, beside any other text
MARKUP = st.sampled_from(
    ["</script>", "<script>", "<!--", "-->", "]]>", '"', "'", "&lt;", "\u2028", "<img onerror=1>"]
)
TEXT = st.lists(MARKUP | st.text(max_size=8), max_size=6).map("".join)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
TIME = st.floats(-5, 40) | st.sampled_from([0.0, 12.0])
SEGMENTS = st.lists(st.builds(Segment, TIME, TIME, TEXT), max_size=5)
FRAMES = Frames(np.full((2, 8, 8, 3), 99, np.uint8), np.arange(2.0), 2.0)
SAMPLE = Sample(
    "Which?",
    ["A. x", "B. y"],
    "<answer>B</answer>",
    id="row-1",
    segments=[Segment(1, 5, "a"), Segment(6, 10, "b")],
)


class Page(HTMLParser):
    """Tags, attributes' names and texts of a page, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)


# Texts


@settings(derandomize=True, max_examples=200, deadline=None)
@given(JSON)
def test_script_json_is_inert_and_whole(data):
    text = script_json(data)
    assert text.isascii() and not set(text) & set("<>&")
    assert json.loads(text) == data


@settings(derandomize=True, max_examples=60, deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_texts_of_a_view_are_never_markup(title, question, option, trace):
    sample = Sample(problem=question, solution="A", path="x.mp4", options=[option, "b"])
    view = View.of(sample, FRAMES, trace, title=title or "t", **{"fact": trace})
    view.lanes[0].segments = [Segment(0, 1, trace)]
    inert = Page(words_html(view))
    assert set(inert.tags) <= {"p"} and not inert.attributes
    cell = Page(view_html(view, standalone=False))
    assert sorted(set(cell.tags)) == ["div", "p", "script"] and cell.tags.count("script") == 1
    assert cell.attributes == {"class", "data-view"}
    title_only = Page(page_html(title, "", ""))
    assert title_only.tags.count("script") == 0 and title_only.attributes.isdisjoint({"onerror"})


def test_a_page_allows_the_hash_of_its_script_and_nothing_else():
    page = view_html(View.of(SAMPLE, FRAMES, "B"))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'content="(default-src[^"]*)"', page)[1]
    directives = dict(part.split(None, 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'" and directives["base-uri"] == "'none'"
    assert directives["script-src"] == f"'sha256-{digest}'"
    assert "http" not in policy and "*" not in policy
    assert "script-src 'none'" in page_html("t", "", "<p>no script</p>")


def test_texts_that_utf8_cannot_say_are_written_all_the_same(tmp_path):
    view = View.of(Sample("\udc80?", [], "x"), FRAMES, "\ud800", title="\udcff")
    assert "<title>\ufffd</title>" in view.save(tmp_path / "deep" / "x.html").read_text("utf-8")


# Sizes


def many_frames(n: int) -> Frames:
    """Frames 448 pixels wide, about as busy as a film's."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:252, :448]
    coarse = rng.integers(0, 255, (32, 56, 3)).repeat(8, 0).repeat(8, 1)[:252, :448]
    picture = (0.6 * coarse + 0.4 * np.stack([x / 2, y, (x + y) / 3], -1)).astype(np.uint8)
    rolled = [np.roll(picture, (k, 2 * k), (0, 1)) for k in range(32)]
    return Frames(np.stack(rolled)[np.arange(n) % 32], np.arange(n) / 2, n / 2)  # [T, H, W, 3]


def test_views_of_768_frames_and_a_report_of_40_stay_small():
    view = View("long", "Which?", ["A. x", "B. y"], many_frames(768), [Lane("true", "true")])
    data = view_data(view)
    assert len(data["frames"]["times"]) == 768  # every time is there
    assert len(data["frames"]["sprite"]["pictures"]) == PICTURES
    assert len(json.dumps(data)) < 400_000
    page = view_html(view)
    assert page.count("data:image/jpeg;") == 1 and len(page) < 500_000
    sizes = [len(report_html({}, {}, [view] * n)) for n in (0, 1)]
    assert sizes[0] + 40 * (sizes[1] - sizes[0]) < 20_000_000


def test_noise_is_saved_more_coarsely():
    noise = np.random.default_rng(0).integers(0, 255, (64, 90, 160, 3), np.uint8)
    sprite = frame_data(Frames(noise, np.arange(64.0), 64.0))["sprite"]
    assert len(sprite["src"]) < 1_500_000


# Traits


@pytest.fixture
def viewer():
    pytest.importorskip("anywidget")
    frames = Frames(FRAMES.pixels, FRAMES.times, 12.0)
    return trace_viewer(View.of(SAMPLE, frames, "<answer>A</answer>", editable="true"))


def test_traits_are_checked_where_they_arrive(viewer):
    from traitlets import TraitError

    wrong = {
        "time": [math.nan, "x", None],
        "selected": ["true 3", "true 0", "true", "other 1", "predicted 1", "true -1", "true 1.0"],
        "segments": [
            [1],
            ["x"],
            [{"start": 1}],
            [{"start": "1", "end": 2}],
            [{"start": 1, "end": math.inf}],
            [{"start": 1, "end": 2, "caption": 3}],
            [{"start": True, "end": 2}],
            "x",
        ],
        "playing": ["yes"],
    }
    before = viewer.get_state()
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(TraitError):
                setattr(viewer, name, value)
    assert viewer.get_state() == before
    viewer.time = -3
    assert viewer.time == 0.0


def test_edits_and_selection_of_one_message_are_taken_together(viewer):
    three = [*viewer.segments, {"start": 11, "end": 12, "caption": "new"}]
    viewer.set_state({"selected": "true 3", "segments": three})
    assert viewer.selected == "true 3" and viewer.segments[2]["start"] == 11.0
    viewer.segments = three[:1]  # Python takes two away: what was selected is gone
    assert viewer.selected == ""


def test_events_reach_every_callback_and_unknown_messages_none(viewer):
    heard: list = []
    viewer.on_event(heard.append)
    for kind in EVENTS:
        viewer._handle_custom_msg({"type": kind, "time": 1}, [])
    for message in ({"type": "x"}, {}, {"type": ["seek"]}):
        viewer._handle_custom_msg(message, [])
    assert [event["type"] for event in heard] == list(EVENTS)


def test_another_view_in_the_same_widget_starts_anew(viewer):
    viewer.time, viewer.selected, viewer.playing = 9.0, "true 2", True
    viewer.show(View("short", "?", [], FRAMES, [Lane("SFT", "predicted", [Segment(0, 1)])]))
    assert (viewer.time, viewer.selected, viewer.playing) == (0.0, "", False)
    assert viewer.segments == [] and viewer.data["duration"] == 2.0
    viewer.selected = "SFT 1"


def test_a_cell_that_is_run_again_closes_its_earlier_viewers(viewer, monkeypatch):
    run = {"metadata": {"cellId": "c1"}, "header": {"msg_id": "1"}}
    shell = SimpleNamespace(get_parent=lambda: run)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    first, second = (trace_viewer(viewer.view) for _ in range(2))
    assert first.comm is not None and second.comm is not None  # one run may make several
    run = {"metadata": {"cellId": "c2"}, "header": {"msg_id": "2"}}
    elsewhere = trace_viewer(viewer.view)
    run = {"metadata": {"cellId": "c1"}, "header": {"msg_id": "3"}}
    again = trace_viewer(viewer.view)
    assert first.comm is None and second.comm is None
    assert elsewhere.comm is not None and again.comm is not None


# Corrections


def test_corrected_rows_are_written_and_keep_what_was_there(tmp_path, viewer):
    viewer.segments = [{"start": 6, "end": 10.5, "caption": " later "}, Segment(1, 4, "a")]
    rows = edited_rows([SAMPLE, SAMPLE], [viewer.segments, None])
    write_rows(tmp_path / "rows.jsonl", rows)
    edited, same = read_rows(tmp_path / "rows.jsonl")
    assert edited.segments == [Segment(1, 4, "a"), Segment(6, 10.5, "later")]
    assert edited.provenance[ORIGINAL] == [vars(segment) for segment in SAMPLE.segments]
    assert same.to_row() == SAMPLE.to_row()
    assert viewer.edited(edited).provenance == edited.provenance
    assert SAMPLE.provenance == {} and len(SAMPLE.segments) == 2


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([Segment(3, 3)], "segment 1, 3 to 3 s"),
        ([Segment(0, 1), Segment(5, 4)], "segment 2, 5 to 4 s"),
        ([Segment(-1, 4)], "starts at 0 or later"),
        ([Segment(0, 13)], "the clip ends at 12 s"),
        ([Segment(0, 1, "<|im_end|>")], "control token"),
        ([Segment(0, math.nan)], "not finite"),
        ([{"end": 1}], "segment 1 is no Segment"),
    ],
)
def test_an_edit_that_is_no_annotation_is_refused(segments, says):
    with pytest.raises(InputError, match=re.escape(says)):
        edited_sample(SAMPLE, segments, 12.0)
    with pytest.raises(InputError, match=r"row 1 \(row-1\): segment [12]"):
        edited_rows([replace(SAMPLE, duration=12.0)], [segments])


@settings(derandomize=True, max_examples=100, deadline=None)
@given(SEGMENTS)
def test_checked_segments_are_what_a_row_takes(segments):
    try:
        checked = checked_segments(segments, 12.0)
    except InputError:
        assert any(not 0 <= s.start < s.end <= 12.5 or "<|" in s.caption for s in segments)
        return
    assert len(checked) == len(segments) and checked == sorted(checked, key=lambda s: s.start)
    row = Sample("?", [], "x", segments=checked).to_row()
    assert Sample.from_row(json.loads(json.dumps(row))).segments == checked


# Exports

CUE = re.compile(
    r"(?P<name>[^\n]+)\n(?P<start>\d\d+:\d\d:\d\d\.\d{3}) --> (?P<end>\d\d+:\d\d:\d\d\.\d{3})\n"
    r"<v (?P<voice>[^<>\n]+)>(?P<text>[^<>\n]*)\n"
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(SEGMENTS, SEGMENTS)
def test_exports_are_whole_whatever_a_caption_says(truth, predicted):
    frames = Frames(FRAMES.pixels, FRAMES.times, 12.0)
    lanes = [Lane("true", "true", truth), Lane('=1+"2"\n', "predicted", predicted)]
    view = View("t", "q", [], frames, lanes)
    subtitles = view.to_webvtt()
    head, *cues = subtitles.split("\n\n")
    assert head.strip() == "WEBVTT" and "-->" not in re.sub(r"\d --> \d", "", subtitles)
    matches = [CUE.fullmatch(cue.rstrip("\n") + "\n") for cue in cues]
    assert all(matches)
    starts = [match["start"] for match in matches]
    assert starts == sorted(starts) and all(match["start"] <= match["end"] for match in matches)
    inside = [s for s in truth + predicted if min(s.end, 12) > max(s.start, 0)]
    assert len(cues) == len(inside)

    rows = list(csv.reader(io.StringIO(view.to_csv(), newline="")))[1:]
    assert [row[:3] for row in rows] == [
        [lane.name, lane.kind, str(n + 1)] for lane in lanes for n in range(len(lane.segments))
    ]
    assert [row[5] for row in rows] == [s.caption for s in truth + predicted]

    data = json.loads(view.to_json())
    assert [Segment(**row) for row in segment_rows(data["lanes"][0]["segments"])] == truth


def test_json_comes_back_and_what_is_no_export_is_told(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(View.of(SAMPLE, FRAMES, "B").to_json(), encoding="utf-8")
    assert read_segments(path) == SAMPLE.segments and read_segments(path, "predicted") == []
    for text in ("[]", "{}", '{"lanes": 1}', '{"lanes": [1]}', '{"lanes": []}', "{", ""):
        path.write_text(text)
        with pytest.raises(FormatError, match=re.escape(str(path))):
            read_segments(path)


# Video


def test_a_video_that_browsers_do_not_play_says_how_to_convert_it(tmp_path, monkeypatch):
    info = SimpleNamespace(codec="hevc", start_time=0.0)
    monkeypatch.setattr("videothinker.viewer.page.probe", lambda path: info)
    (tmp_path / "a b.mp4").write_bytes(b"x" * 50)
    with pytest.raises(InputError, match=r"do not play hevc in a \.mp4 file.*ffmpeg -i 'a b.mp4'"):
        check_playable(tmp_path / "a b.mp4")
    for codec, name, kind in (("h264", "a.MP4", "mp4"), ("libdav1d", "a.webm", "webm")):
        info.codec = codec
        assert check_playable(name) == {"type": f"video/{kind}", "start": 0.0}
    with pytest.raises(InputError, match="in a .avi file"):
        check_playable("a.avi")
    data = video_data(tmp_path / "a b.mp4", tmp_path / "pages" / "x.html", limit=10)
    assert data == {"src": "../a%20b.mp4", "start": 0.0, "type": "video/mp4"}
    assert video_data(tmp_path / "a b.mp4", limit=10) is None


def test_a_clip_begins_where_its_file_says(tmp_path):
    """A player counts from the file's zero, and a part that was cut out seldom begins there."""
    av = pytest.importorskip("av")
    path = tmp_path / "cut.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for k in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = 20 + k, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert video_data(path)["start"] == pytest.approx(2.0, abs=0.01)
    viewer = trace_viewer(View("t", "q", [], FRAMES, video=path))
    assert viewer.data["video"]["start"] == pytest.approx(2.0, abs=0.01)


def test_a_live_widget_gets_the_bytes_and_refuses_too_many(tmp_path, monkeypatch):
    pytest.importorskip("anywidget")
    facts = {"type": "video/mp4", "start": 0.0}
    monkeypatch.setattr("videothinker.viewer.viewer.check_playable", lambda path: facts)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a film")
    view = View("t", "q", [], FRAMES, video=clip)
    viewer = trace_viewer(view)
    assert viewer.video_bytes == b"a film" and viewer.data["video"]["src"] == ""
    monkeypatch.setattr("videothinker.viewer.viewer.WIDGET_VIDEO", 3)
    with pytest.raises(InputError, match="too many for a live widget"):
        trace_viewer(view)


def test_a_video_that_is_not_there_is_an_error_of_its_own(tmp_path):
    view = View("t", "q", [], FRAMES, video=tmp_path / "none.mp4")
    with pytest.raises(MissingVideo):
        view.save(tmp_path / "x.html")
    assert not Path(tmp_path / "x.html").exists()
