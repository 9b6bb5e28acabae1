"""STOP, START and HELP, in the ways people write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.contracts.channels import Consent
from webapp.contracts.consent import consent_of

STOP = ["STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"]
START = ["START", "UNSTOP"]
HELP = ["HELP", "INFO"]
WORDS = [(w, Consent.STOP) for w in STOP] + [(w, Consent.START) for w in START] + [(w, Consent.HELP) for w in HELP]


@pytest.mark.parametrize(("word", "meaning"), WORDS)
@pytest.mark.parametrize("opted_out", [False, True])
def test_every_word_of_the_carriers_is_understood(word: str, meaning: Consent, opted_out: bool) -> None:
    assert consent_of(word, opted_out=opted_out) is meaning


@pytest.mark.parametrize(
    "text",
    [
        "stop",
        "Stop.",
        "STOP!",
        " sToP \r\n",
        '"STOP"',
        "“Stop”",
        "Stop…",
        "STOP ALL",
        "stop  all",
        "opt out",
        "Opt-Out",
        "(stop)",
        "\u200eSTOP\u200f",
        "\ufeffstop",
        "\u2067stop\u2069",
        "stop\u00a0",
    ],
)
def test_case_blanks_quotes_and_punctuation_do_not_matter(text: str) -> None:
    assert consent_of(text, opted_out=False) is Consent.STOP


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "...",
        "please stop",
        "stop it",
        "How do I stop a job in Linux?",
        "stops",
        "non-stop",
        "end the loop",
        "info about x",
        "help me with my essay",
        "cancel my order",
        "yes",
        "Yes!",
        "start the engine",
        "🛑",
        "\x00",
    ],
)
def test_an_ordinary_message_is_not_taken_for_a_word(text: str) -> None:
    assert consent_of(text, opted_out=False) is None


def test_yes_opts_in_only_who_has_opted_out() -> None:
    assert consent_of("Yes.", opted_out=True) is Consent.START
    assert consent_of("Yes.", opted_out=False) is None
    assert consent_of("yes please", opted_out=True) is None


@given(
    st.sampled_from(WORDS),
    st.text(" \t\n.!?'\"\u200b", max_size=40),
    st.text(" \t\n.!?'\"\u200b", max_size=40),
    st.randoms(use_true_random=False),
)
def test_any_case_between_any_blanks_is_the_same_word(word, before, after, random) -> None:
    text = "".join(random.choice((c.lower(), c.upper())) for c in word[0])
    assert consent_of(before + text + after, opted_out=False) is word[1]


@given(st.text(), st.booleans())
def test_no_text_breaks_it(text: str, opted_out: bool) -> None:
    assert consent_of(text, opted_out=opted_out) in (None, *Consent)


def test_it_costs_next_to_nothing_for_every_message() -> None:
    text = "Could you explain how a B-tree splits its pages? " * 30
    begin = time.process_time()
    for _ in range(2000):
        consent_of(text, opted_out=False)
    assert time.process_time() - begin < 0.2  # 100 µs each would be 50 times what it takes
