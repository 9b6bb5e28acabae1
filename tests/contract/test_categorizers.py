"""What every categorizer promises, held against every built-in one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.categorizers import keywords
from webapp.plugin import Categorizer, Sorting

CATEGORIZERS: list[Categorizer] = [*keywords.register_categorizers({})]


@pytest.fixture(params=CATEGORIZERS, ids=lambda c: c.name)
def categorizer(request: pytest.FixtureRequest) -> Categorizer:
    found: Categorizer = request.param
    return found


def test_it_has_a_short_stable_name(categorizer: Categorizer) -> None:
    assert categorizer.name
    assert categorizer.name == categorizer.name.lower().strip()


@pytest.mark.parametrize("categorizer", CATEGORIZERS, ids=lambda c: c.name)
@settings(deadline=None, max_examples=60)
@given(text=st.text() | st.sampled_from(["\x00", "\ud800", "a" * 50_000, "```" * 9, "?" * 500, "debug python design"]))
def test_any_text_gets_a_valid_opinion_or_none_and_always_the_same(categorizer: Categorizer, text: str) -> None:
    opinion = categorizer.sort(text)
    assert opinion is None or isinstance(opinion, Sorting)
    if opinion is not None:
        assert opinion.category == opinion.category.lower().strip() != ""
        assert 0.0 <= opinion.confidence <= 1.0
        assert 0.0 <= opinion.complexity <= 1.0
    assert categorizer.sort(text) == opinion


def test_it_has_an_opinion_about_the_plainest_requests(categorizer: Categorizer) -> None:
    assert categorizer.sort("Write a Python function that reverses a list") is not None
