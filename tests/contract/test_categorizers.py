"""What every categorizer promises, held against every built-in one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.categorizers import keywords, model
from webapp.plugin import AskingCategorizer, Categorizer, Question, Sorting

CATEGORIZERS: list[Categorizer] = [*keywords.register_categorizers({}), *model.register_categorizers({})]
ASKING = [c for c in CATEGORIZERS if isinstance(c, AskingCategorizer)]
TEXTS = st.text() | st.sampled_from(["\x00", "\ud800", "a" * 50_000, "```" * 9, "?" * 500, "debug python design"])


def check(opinion: Sorting | None) -> None:
    assert opinion is None or isinstance(opinion, Sorting)
    if opinion is not None:
        assert opinion.category == opinion.category.lower().strip() != ""
        assert len(opinion.category) <= 40
        assert 0.0 <= opinion.confidence <= 1.0
        assert 0.0 <= opinion.complexity <= 1.0


def test_names_are_short_stable_and_taken_once() -> None:
    names = [c.name for c in CATEGORIZERS]
    assert all(name and name == name.lower().strip() for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("categorizer", CATEGORIZERS, ids=lambda c: c.name)
@settings(deadline=None, max_examples=60)
@given(text=TEXTS)
def test_any_text_gets_a_valid_opinion_or_none_and_always_the_same(categorizer: Categorizer, text: str) -> None:
    opinion = categorizer.sort(text)
    check(opinion)
    assert categorizer.sort(text) == opinion


@pytest.mark.parametrize("categorizer", [c for c in CATEGORIZERS if c not in ASKING], ids=lambda c: c.name)
def test_it_has_an_opinion_about_the_plainest_requests(categorizer: Categorizer) -> None:
    assert categorizer.sort("Write a Python function that reverses a list") is not None


@pytest.mark.parametrize("categorizer", ASKING, ids=lambda c: c.name)
@settings(deadline=None, max_examples=60)
@given(text=TEXTS, answer=TEXTS)
def test_one_that_asks_a_model_has_a_short_question_or_none_and_reads_any_answer(
    categorizer: AskingCategorizer, text: str, answer: str
) -> None:
    question = categorizer.question(text)
    assert question is None or isinstance(question, Question)
    if question is not None:
        assert question.instruction
        assert len(question.instruction) + len(question.text) < 8_000
        assert 0 < question.max_output_tokens <= 500
    # The core keeps opinions under the question: it has to be the same each time.
    assert categorizer.question(text) == question
    opinion = categorizer.read(answer)
    check(opinion)
    assert categorizer.read(answer) == opinion


@pytest.mark.parametrize("categorizer", ASKING, ids=lambda c: c.name)
def test_one_that_asks_a_model_makes_no_opinion_up(categorizer: AskingCategorizer) -> None:
    assert categorizer.sort("Write a Python function that reverses a list") is None
    assert categorizer.read("") is None
