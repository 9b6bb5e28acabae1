"""Markdown as a phone should show it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.pipeline.plain import plain_text


@pytest.mark.parametrize(
    ("markdown", "plain"),
    [
        ("Just text.", "Just text."),
        ("**Bold** and *italic* and `code`", "Bold and italic and code"),
        ("# Title\n\nText", "Title\n\nText"),
        ("One:\n\n- a\n- b", "One:\n\n- a\n- b"),
        ("1. first\n2. second", "1. first\n2. second"),
        ("3. third\n4. fourth", "3. third\n4. fourth"),
        ("- a\n  - b\n- c", "- a\n  - b\n- c"),
        ("```python\nx = [1]\nprint(x)\n```", "x = [1]\nprint(x)"),
        ("See [the page](https://example.com/a).", "See the page (https://example.com/a)."),
        ("<https://example.com>", "https://example.com"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a | b\n1 | 2"),
        ("2 * 3 * 4 = 24", "2 * 3 * 4 = 24"),
        ("line one\nline two", "line one\nline two"),
        ("a <b> c", "a <b> c"),
        ("---", "---"),
    ],
)
def test_marks_go_and_words_stay(markdown: str, plain: str) -> None:
    assert plain_text(markdown) == plain


@given(st.text(alphabet="ab *_`#[]()<>!|-\n1.>~", max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_text_becomes_text(markdown: str) -> None:
    plain = plain_text(markdown)
    assert "\0" not in plain
    assert bool(plain.strip()) == bool(markdown.strip())
