"""Pages: nothing of the data becomes markup, nothing of it is lost, and no row brings a page down."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from environments.reports import html as pages
from environments.reports.viewer import write_rollouts_html
from tests.environments.patience import grows_linearly

HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</pre></details><img src=x onerror=alert(1)>",
            "\" onmouseover='x' ><b>",
            "' --> <!-- ]]> &amp; &lt; &#60;",
            "\x00\x07\x1b[31m\r\n\t\x7f\u202e",
            "\ud800 lone",
            "</title></style></script><svg onload=alert(1)>",
        ]
    ),
)


class Page(HTMLParser):
    """What a browser would find: the elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [value for _, value in attrs if value]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment in the page: {data!r}")


def group(text: str = "x", k: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "scores": [0.25, 0.75][:k] if k <= 2 else [0.5] * k,
        "messages": [[{"role": "user", "content": text}, {"role": "assistant", "content": text}]] * k,
        "recipe": {"seed": 1, "split": "train", "task": text, "length": 4096},
        "question": text,
        "answer": {"kind": "set", "values": [text, text]},
        "needles": [
            {"text": text, "role": "answer", "depth": 0.5, "token_start": 5, "token_end": 9}
            | {"before": text, "after": text}
        ],
        "completions": [text] * k,
        "finish_reasons": ["stop"] * k,
        "details": [{"answer": 0.5, "note": text}] * k,
        "length": 4096,
    } | more


def sample(text: str) -> dict[str, Any]:
    row = group(text)
    return {key: row[key] for key in ("question", "answer", "needles", "length")} | {
        "task": text,
        "depth": 0.5,
        "seed": 3,
        "score": 0.5,
        "completion": text,
        "finish_reason": text,
        "abstained": False,
    }


def viewer(rows: Any, folder: Path, **options: Any) -> str:
    return write_rollouts_html(rows, folder / "r.html", **options).read_bytes().decode()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE)
def test_viewer_escapes_everything_and_loses_nothing(text: str, tmp_path: Path) -> None:
    page = Page(viewer([group(text)], tmp_path, title=text))
    assert page.elements == Page(viewer([group("plain")], tmp_path, title="plain")).elements
    shown = pages.visible(text)
    assert page.text.count(shown) >= 9 and shown in [*page.values, ""]


@settings(max_examples=60, deadline=None)
@given(text=HOSTILE)
def test_report_escapes_everything_and_loses_nothing(text: str) -> None:
    def page(text: str) -> Page:
        facts, pictures = (
            [pages.Fact(text, text, text)],
            [pages.Picture(name, text, b"png") for name in ("a.png", text)],
        )
        return Page(pages.ReportPage(text, facts, pictures, text, {"key": text}, [sample(text)], {text: 3}).html())

    made = page(text)
    assert made.elements == page("plain").elements
    assert made.text.count(pages.visible(text)) >= 10


@settings(max_examples=30, deadline=None)
@given(text=HOSTILE)
def test_comparison_escapes_everything_and_loses_nothing(text: str) -> None:
    def page(text: str) -> Page:
        row = pages.ComparisonRow(text, f"{text}/report.html", [pages.Fact(text, text, text)])
        return Page(pages.comparison_page(text, pages.Picture("p.png", text, b"png"), [row, row]))

    made = page(text)
    assert made.elements == page("plain").elements
    assert made.text.count(pages.visible(text)) >= 9


def test_a_link_to_a_report_is_a_path() -> None:
    row = pages.ComparisonRow("n", "javascript:alert(1)#/report.html", [])
    page = Page(pages.comparison_page("t", pages.Picture("p.png", "c", b"png"), [row]))
    assert "javascript%3Aalert%281%29%23/report.html" in page.values


def test_visible_changes_only_what_cannot_be_seen() -> None:
    assert pages.visible("a\t\r\n<é漢🧵\u202e") == "a\t\r\n<é漢🧵\u202e"
    assert pages.visible("\x00\x1b\x7f\udfff") == "␀␛␡\ufffd"


def test_policy_allows_the_pages_own_style_and_script_by_hash(tmp_path: Path) -> None:
    page = viewer([group()], tmp_path)
    policy = re.search('Content-Security-Policy" content="([^"]+)"', page)
    assert policy and page.index("Content-Security-Policy") < page.index("<style>")
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        source = re.search(f"<{tag}>(.*?)</{tag}>", page, re.S)
        assert source
        digest = base64.b64encode(hashlib.sha256(source[1].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert len(pages.source("rollouts.js").strip().splitlines()) < 30


def test_viewer_shows_a_group(tmp_path: Path) -> None:
    text = Page(viewer([group("word")], tmp_path)).text
    for part in ("4,096 tokens", "2 rollouts", "0.50", "0.25", "0.75", "finish stop", "depth 50.0 %", "tokens 5–9"):
        assert part in text
    assert "word, word (set)" in text and "… wordwordword …" in text
    assert "Prompt (1 message)" in text


def test_long_texts_are_cut_in_the_middle(tmp_path: Path) -> None:
    long = "HEAD" + "x" * 19_226 + "TAIL"
    assert pages.cut("y" * 4_000) == ("y" * 4_000, 0, "")
    page = viewer([group(long)], tmp_path)
    assert "… 15,234 characters …" in page and "HEAD" in page and "TAIL" in page
    assert len(page) < 80_000
    assert "… 1 character …" in viewer([group("x" * 4_001)], tmp_path)


def test_completions_come_from_messages_when_there_are_none(tmp_path: Path) -> None:
    row = {
        "scores": [1.0],
        "messages": [[{"role": "user", "content": "ask"}, {"role": "assistant", "content": "told"}]],
    }
    text = Page(viewer([row], tmp_path)).text
    assert "ask" in text and "told" in text and "Rows skipped0" in text


BAD = [
    None,
    3,
    [],
    {},
    {"scores": None},
    {"scores": []},
    {"scores": ["1"]},
    {"scores": [float("nan")]},
    {"scores": [10**400]},
    {"scores": [1.0]},
    {"scores": [1.0], "completions": []},
    {"scores": [1.0], "completions": [None]},
    {"scores": [1.0], "completions": "x"},
    {"scores": [1.0], "messages": [[None]]},
    {"scores": [1.0], "messages": None},
]


def test_bad_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    page = Page(viewer([*BAD, group()], tmp_path))
    assert f"Rows skipped{len(BAD)}" in page.text and "Groups1" in page.text
    assert page.text.count("Expected answer") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(group())), value=JSON)
def test_no_value_of_any_key_crashes_the_viewer(key: str, value: Any, tmp_path: Path) -> None:
    Page(viewer([group(**{key: value}), group("after")], tmp_path))


@settings(max_examples=80, deadline=None)
@given(key=st.sampled_from(sorted(sample("x"))), value=JSON)
def test_no_value_of_any_key_crashes_a_sample(key: str, value: Any) -> None:
    Page(pages.ReportPage("t", [], [], "", {}, [sample("x") | {key: value}], {}).html())


def test_empty_viewer_and_limit(tmp_path: Path) -> None:
    assert "Groups0" in Page(viewer([], tmp_path)).text
    text = Page(viewer([group() for _ in range(7)], tmp_path, limit=3)).text
    assert "Groups7" in text and "Shown here3" in text and text.count("Expected answer") == 3


def test_an_error_of_the_rows_leaves_the_old_page(tmp_path: Path) -> None:
    before = viewer([group()], tmp_path)

    def rows() -> Iterator[Any]:
        yield group()
        raise ValueError("line 2 is broken")

    with pytest.raises(ValueError, match="line 2"):
        viewer(rows(), tmp_path)
    assert (tmp_path / "r.html").read_bytes().decode() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_one_row_in_memory_at_a_time(tmp_path: Path) -> None:
    text = json.dumps(group("word " * 40_000, k=1))  # 1.6 MB a row
    tracemalloc.start()
    write_rollouts_html((json.loads(text) for _ in range(40)), tmp_path / "r.html")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def test_the_work_grows_with_the_groups(tmp_path: Path) -> None:
    row = group("word " * 300, k=8)
    assert grows_linearly(lambda groups: viewer([row] * groups, tmp_path, limit=1_000), 100)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"kind": "one", "values": ["a"]}, "a"),
        ({"kind": "list", "values": ["a", 2]}, "a, 2 (list)"),
        ({"kind": "absent", "values": []}, "not in the text: abstaining is right"),
        ({"kind": "one"}, '{"kind": "one"}'),
        (None, "–"),
    ],
)
def test_answer_text(answer: Any, text: str) -> None:
    assert pages.answer_text(answer) == text
