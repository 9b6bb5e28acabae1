"""The keyword rules: what they say about requests as people write them."""

from __future__ import annotations

import time

import pytest

from plugins.categorizers.keywords import Keywords, complexity

SAMPLES = [
    ("How do I reverse a list in Python?", "coding"),
    ("Write a bash script that renames all files in a folder", "coding"),
    ("Implement a binary search function", "coding"),
    ("my python script crashes with KeyError: 'name', fix it please", "debug"),
    ("Traceback (most recent call last): File x line 3", "debug"),
    ("The login page doesn't work any more and shows an error", "debug"),
    ("Design a logo for my bakery", "design"),
    ("Propose a system design for a chat app, with a diagram", "design"),
    ("Write documentation for this Python function", "documentation"),
    ("Draft release notes and a changelog for version 2", "documentation"),
    ("Analyze the sales trends of the last year", "analysis"),
    ("Compare PostgreSQL and MySQL: pros and cons", "analysis"),
    ("What is the capital of France?", "general"),
    ("Fix me a drink", "general"),
    ("It was a terror to behold", "general"),
    ("hi", "general"),
    ("", "general"),
]


@pytest.mark.parametrize(("text", "category"), SAMPLES)
def test_a_request_is_sorted_by_its_words(text: str, category: str) -> None:
    assert Keywords().sort(text).category == category


def test_more_telling_words_make_it_surer_and_words_of_another_category_less_sure() -> None:
    vague, clear, mixed = (
        Keywords().sort(text)
        for text in (
            "debug it",
            "debug this exception: the traceback says ValueError and it crashes",
            "debug this design: the layout of the data model crashes",
        )
    )
    assert vague.confidence < clear.confidence <= 0.95
    assert mixed.confidence < clear.confidence


def test_general_is_the_least_sure_of_all() -> None:
    general = Keywords().sort("Good morning, how are you today?").confidence
    assert all(Keywords().sort(text).confidence > general for text, category in SAMPLES if category != "general")


def test_demanding_requests_are_more_complex_than_small_ones() -> None:
    small = complexity("What time is it?")
    asks_much = complexity("Compare three architectures step by step. Prove each bound? And the trade-offs? Why?")
    long = complexity("Explain this. " * 400)
    with_code = complexity("Explain:\n```\nx = 1\n```")
    everything = complexity("Compare, prove, derive, optimize?\n" * 99 + "1. a\n2. b\n3. c\n4. d\n5. e\n```x``` ? ? ? ?")
    assert small < with_code < asks_much < everything
    assert small < long < everything <= 1.0


def test_a_huge_hostile_text_is_sorted_at_once() -> None:
    for text in (
        "def " * 500_000,
        "```" * 500_000,
        "a" * 2_000_000,
        "\n- " * 400_000,
        "write " * 300_000,
        "?" * 999_999,
    ):
        started = time.perf_counter()
        Keywords().sort(text)
        assert time.perf_counter() - started < 1.0
