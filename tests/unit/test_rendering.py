"""What is made of an answer's Markdown: everything useful, and nothing that runs, loads, or leads astray."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.web.rendering import MARKDOWN_MAX_CHARS, markdown, seconds


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg onload=alert(1)>",
        "[click](javascript:alert(1))",
        "[click](JaVaScRiPt:alert(1))",
        "[click](data:text/html,<script>alert(1)</script>)",
        "[click](vbscript:x)",
        '[a](https://example.com "\\" onmouseover=alert(1) x=\\"")',
        "<https://example.com/?a=<script>>",
        "![x](javascript:alert(1))",
        "```<script>alert(1)</script>\nx\n```",
        '```"><script>alert(1)</script>\nx\n```',
        "|<img src=x>|b|\n|---|---|\n|<style>*{}</style>|y|",
    ],
)
def test_nothing_in_an_answer_can_run(text: str) -> None:
    for tag in re.findall(r"<[a-z][^>]*>", markdown(text)):
        bare = re.sub(r'"[^"]*"', '""', tag)
        assert not re.match(r"<(script|style|svg|img|iframe|object|form|input)", tag)
        assert not re.search(r"\s(on\w+|style|src)=", bare)
        assert all(re.match(r"https?:|mailto:", address) for address in re.findall(r'href="([^"]*)"', tag))


@given(st.text(alphabet=st.sampled_from("<>\"'`&[]()!#*_|-~:/=\n ascripthefjv:0"), max_size=120))
def test_any_text_gives_only_allowed_tags_and_attributes(text: str) -> None:
    allowed = {
        *("p", "br", "hr", "blockquote", "strong", "em", "s", "code", "pre", "span", "a", "ul", "ol", "li", "div"),
        *("h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
    }
    attributes = {"href", "title", "target", "rel", "start", "class", "tabindex", "role", "aria-label"}
    for tag, rest in re.findall(r"<([a-z0-9]+)((?:\s+[a-z-]+=\"[^\"]*\")*)\s*/?>", markdown(text)):
        assert tag in allowed
        assert set(re.findall(r"\s([a-z-]+)=", re.sub(r'"[^"]*"', '""', rest))) <= attributes


def test_a_link_opens_elsewhere_and_tells_its_target_nothing() -> None:
    html = markdown("[a](https://example.com/x)")
    assert 'href="https://example.com/x"' in html
    assert 'target="_blank"' in html
    assert 'rel="noopener noreferrer nofollow"' in html


def test_an_image_is_a_link_and_loads_nothing() -> None:
    html = markdown("![a cat](https://example.com/cat.png)")
    assert "<img" not in html
    assert '<a href="https://example.com/cat.png"' in html
    assert ">a cat</a>" in html


def test_a_link_to_a_path_here_is_no_link() -> None:
    assert "href" not in markdown("[sign out](/logout)")


def test_code_is_coloured_by_classes_and_unknown_languages_stay_plain() -> None:
    assert '<span class="hl-k">def</span>' in markdown("```python\ndef f(): pass\n```")
    assert '<pre tabindex="0"><code class="language-nolang">a &lt; b\n</code></pre>' in markdown("```nolang\na < b\n```")


def test_headings_of_an_answer_are_below_the_page_s_own() -> None:
    html = markdown("# One\n\n###### Six")
    assert "<h1" not in html
    assert "<h2>One</h2>" in html
    assert "<h6>Six</h6>" in html


def test_a_table_scrolls_by_itself_and_aligns_without_styles() -> None:
    html = markdown("| a | b |\n|---|--:|\n| 1 | 2 |")
    assert '<div class="table" tabindex="0" role="group" aria-label="Table">' in html
    assert '<td class="right">2</td>' in html
    assert "style" not in html


def test_a_very_long_answer_is_shown_as_plain_text() -> None:
    html = markdown("**x** <b> " * (MARKDOWN_MAX_CHARS // 8))
    assert html.startswith('<div class="plain">**x** &lt;b&gt; ')


def test_what_would_take_seconds_to_parse_is_shown_as_plain_text() -> None:
    assert markdown("[" * 30_000).startswith('<div class="plain">[[[')
    assert markdown(">" * 3000 + " deep").count("<blockquote>") <= 100


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (125.9, "2 min 5 s")]
)
def test_durations_are_short(value: float | None, text: str) -> None:
    assert seconds(value) == text
