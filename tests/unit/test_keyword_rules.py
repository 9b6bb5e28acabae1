"""The keyword rules are searched only where a word calls for them: what they say is what all of them say."""

from __future__ import annotations

import re
import sys
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.categorizers import keywords
from plugins.categorizers.keywords import HARD, READ_CHARS, RULES, Keywords, Rule
from webapp.plugin import Sorting

ALL = [rule for rules in RULES.values() for rule in rules]
EVERY = [*ALL, HARD]
ITEM = re.compile(r"^\s*(?:[-*]|\d+[.)])\s", re.MULTILINE)


@lru_cache
def compiled(rule: Rule) -> re.Pattern[str]:
    return re.compile(rule.pattern, re.IGNORECASE)


def score(rule: Rule, text: str) -> float:
    return rule.weight * min(3, len({match.group().lower() for match in compiled(rule).finditer(text)}))


def demands(text: str) -> float:
    read = text[:READ_CHARS]
    parts = (
        0.35 * min(1.0, len(text) / 2000),
        0.05 * min(3, max(0, read.count("?") - 1)),
        0.15 * min(1, read.count("```")),
        score(HARD, read),
        0.02 * min(5, len(ITEM.findall(read))),
    )
    return round(min(1.0, sum(parts)), 3)


def opinion(text: str) -> Sorting:
    """By all rules, each searched in the whole text."""
    read = text[:READ_CHARS]
    scores = [(sum(score(rule, read) for rule in rules), name) for name, rules in RULES.items()]
    (best, category), (second, _) = sorted(scores, key=lambda s: (-s[0], s[1]))[:2]
    if best < 1.0:
        return Sorting("general", 0.3, demands(text))
    strength, margin = 1 - 0.5**best, (best - second) / best
    return Sorting(category, round(0.3 + 0.65 * strength * (0.4 + 0.6 * margin), 3), demands(text))


def literal(rule: Rule) -> str:
    """The pattern without what looks beyond the match: what it matches is a text that may match the rule."""
    bare = rule.pattern.replace(r"\b", "").replace(r"(?!\w)", "").replace("(?-i:", "(?:")
    return re.sub(r"\(\?=.*\)$", "", bare)


WORDS = sorted({word for rule in EVERY for word in rule.words.split()})
BESIDE = [
    "user",
    "the",
    "in",
    "by",
    "how-to",
    "does",
    "not",
    "n't",
    "stopped",
    "null",
    "data",
    "trace",
    "KeyError",
    "FooException",
]
GLUE = [
    " ",
    " ",
    " ",
    "-",
    "_",
    "'",
    ".",
    "?",
    "??",
    "\n",
    "\n- ",
    "1. ",
    "\u0130",
    "\u017f",
    "\u212a",
    "\u0301",
    "é",
    "#",
    "++",
    "(",
]
MATCHES = st.one_of([st.from_regex(literal(rule), fullmatch=True) for rule in EVERY])
PIECES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS).map(str.upper),
    st.sampled_from(WORDS).map(lambda word: word.replace("s", "\u017f").replace("i", "\u0131").replace("k", "\u212a")),
    st.sampled_from(WORDS).map(lambda word: word.replace("i", "\u0130")),
    st.sampled_from(BESIDE),
    st.sampled_from(GLUE),
    MATCHES,
    st.text(max_size=3),
)


@settings(deadline=None, max_examples=500)
@given(text=st.lists(PIECES, max_size=14).map("".join))
def test_an_opinion_is_that_of_all_rules_together(text: str) -> None:
    assert Keywords().sort(text) == opinion(text)
    assert keywords.complexity(text) == demands(text)


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.pattern[:24])
def test_no_match_of_a_rule_is_without_one_of_its_words(rule: Rule) -> None:
    @settings(deadline=None, max_examples=100)
    @given(match=st.from_regex(literal(rule), fullmatch=True), before=st.sampled_from(GLUE), after=st.sampled_from(GLUE))
    def holds(match: str, before: str, after: str) -> None:
        text = f"{before}{match}{after} test"
        if compiled(rule).search(text):
            assert set(rule.words.split()) & keywords._telling(text)

    holds()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Write C++ or c# code",
        "my script ſtopped working",
        "a \u212aeyError in \u212aotlin, and a deſign",
        "Traceback: KeyError",
        "keyerror",
        "- one item",
        "  2) one item",
        "one\n- two\n* three",
        "? ?? ```",
        "fix " * 3000 + "python",
        "Compare " + "x " * 4000 + "prove",
    ],
)
def test_an_opinion_about_these_is_that_of_all_rules_together(text: str) -> None:
    assert Keywords().sort(text) == opinion(text)


def test_the_letters_that_are_taken_for_those_of_ascii_are_all_known() -> None:
    letters = re.compile("[a-z]", re.IGNORECASE)
    beyond = {chr(code) for code in range(128, sys.maxunicode + 1) if letters.match(chr(code))}
    assert {ord(letter) for letter in beyond} == set(keywords._SAME_LETTERS)
    for letter in beyond:
        assert re.fullmatch(re.escape(letter.translate(keywords._SAME_LETTERS)), letter, re.IGNORECASE)


def test_a_letter_and_its_small_form_are_both_part_of_a_word_or_neither() -> None:
    part = re.compile(r"\w")
    odd = [
        code
        for code in range(sys.maxunicode + 1)
        if len({part.match(char) is None for char in chr(code) + chr(code).translate(keywords._SAME_LETTERS).lower()}) > 1
    ]
    assert odd == []
