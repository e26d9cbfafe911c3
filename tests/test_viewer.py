"""Any text stays text in the viewer's pages, and long clips stay small."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videothinker.schema import Sample, Segment
from videothinker.video.frames import Frames
from videothinker.viewer.page import PICTURES, page_html, script_json
from videothinker.viewer.viewer import View, placeholder, trace_viewer, view_html

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
FRAMES = Frames(np.full((2, 8, 8, 3), 99, np.uint8), np.arange(2.0), 2.0)


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


@settings(derandomize=True, max_examples=200, deadline=None)
@given(JSON)
def test_script_json_is_inert_and_whole(data):
    text = script_json(data)
    assert text.isascii() and not set(text) & set("<>&")
    assert json.loads(text) == data


@settings(derandomize=True, max_examples=100, deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_texts_of_a_view_are_never_markup(title, question, option, trace):
    sample = Sample(problem=question, solution="A", path="x.mp4", options=[option, "b"])
    view = View.of(sample, FRAMES, trace, title=title or "t", **{"fact": trace})
    view.true_segments = [Segment(0, 1, trace)]
    inert = Page(placeholder(view))
    assert set(inert.tags) <= {"div", "p"} and inert.attributes == {"class"}
    fragment = Page(view_html(view, standalone=False))
    assert sorted(set(fragment.tags)) == ["div", "p", "script", "style"]
    assert fragment.tags.count("script") == 1
    assert fragment.attributes == {"class", "data-view"}
    title_only = Page(page_html(title, "", ""))
    assert title_only.tags.count("script") == 0 and title_only.attributes.isdisjoint({"onerror"})


def many_frames(n: int) -> Frames:
    """Frames 448 pixels wide, about as busy as a film's."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:252, :448]
    coarse = rng.integers(0, 255, (32, 56, 3)).repeat(8, 0).repeat(8, 1)[:252, :448]
    picture = (0.6 * coarse + 0.4 * np.stack([x / 2, y, (x + y) / 3], -1)).astype(np.uint8)
    rolled = [np.roll(picture, (k, 2 * k), (0, 1)) for k in range(32)]
    return Frames(np.stack(rolled)[np.arange(n) % 32], np.arange(n) / 2, n / 2)  # [T, H, W, 3]


def test_a_view_of_a_long_clip_stays_small():
    view = View("long", "Which?", ["A. x", "B. y"], many_frames(768))
    html = view_html(view, standalone=False)
    assert html.count("data:image/jpeg") == PICTURES
    assert html.count('"count":1') == 768  # every time is there
    assert len(html) < 1_500_000
    pytest.importorskip("anywidget")
    data = trace_viewer(view).data
    assert len(json.dumps(data)) < 1_500_000
