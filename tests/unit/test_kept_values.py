"""What is made or checked the short way is what the long way gives."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.contracts.calls import Finish, Role, Tool, ToolCall, Turn, Usage
from webapp.contracts.texts import clean
from webapp.models import RequestStatus
from webapp.pipeline import charges
from webapp.pipeline.brought import Brought, tokens_of
from webapp.pipeline.endings import HOUSE, Call, Ending, Used
from webapp.routing.prices import TURN_TOKENS, estimate_tokens

ODD: Any = st.sampled_from((None, -1, 0, 3, 5000, 10**8, 10**9, True, 1.0, "7", Decimal(2)))
COUNTS: Any = st.integers(0, 5000) | ODD
NAMES: Any = st.sampled_from(("", "gpt-4.1-mini", "a\x00b", "a\nb", "\ud800", "é", "x" * 500, "x" * 501, 7, None))
USAGES = st.builds(
    Usage,
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    st.sampled_from((0, 0, 1, 100, 101, -1, True, None)),
    st.sampled_from((None, None, Decimal(1), Decimal(-1), Decimal("NaN"), 0.5)),
    st.sampled_from((None, None, Decimal(1), Decimal("Infinity"))),
    st.sampled_from((None, 0.5, 1, 0, 2, -0.1, float("nan"), True, "1")),
    st.sampled_from((Finish.STOP, Finish.UNKNOWN, "stop", None)),
    NAMES,
    NAMES,
)
PLAIN = st.builds(Usage, st.integers(90, 99), st.integers(90, 99), *[st.integers(0, 99)] * 5, finish=st.just(Finish.STOP))


@settings(deadline=None, max_examples=1000)
@given(USAGES | PLAIN)
def test_a_count_that_is_left_as_it_is_is_what_would_be_made_of_it(usage: Usage) -> None:
    found, sound = charges.plausible(usage), charges._sound(usage)
    assert charges.plausible(found) == found
    # The long way: the same count as a kind of its own.
    kind = type("Told", (Usage,), {})
    assert repr(charges.plausible(kind(*(getattr(usage, each.name) for each in fields(Usage))))) == repr(found)
    assert (found is usage) == sound


def test_a_plain_count_is_left_as_it_is() -> None:
    told = Usage(120, 30, cached_tokens=100, finish=Finish.STOP, model="gpt-4.1-mini", vendor_request_id="chatcmpl-1")
    assert charges.plausible(told) is told


@given(st.text() | st.text(st.characters(codec=None, max_codepoint=0xFFFF), max_size=9) | st.text("ab\r\n\t\x07\x85\ud800 "))
def test_a_text_is_cleaned_of_the_same_characters_whether_it_has_any_or_not(text: str) -> None:
    long = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "", text)
    long = re.sub("[\ud800-\udfff]", "\ufffd", re.sub("\r(?!\n)", "\n", long))
    assert clean(text) == long
    assert type(clean(type("Shown", (str,), {})(text))) is str


def test_an_ending_that_is_recorded_keeps_everything_else() -> None:
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    call = Call(Used("openai", "gpt-5", 10, 20, cost_microusd=7), started_at=moment)
    ending = Ending(
        RequestStatus.COMPLETED,
        answer="a",
        result={"b": 1},
        pictures=(),
        reply_text="c",
        finish="stop",
        category="old",
        complexity=0.1,
        quality=0.2,
        route={"by": "old"},
        cached=True,
        error_code="d",
        error_message="e",
        detail="f",
        troubles=(("g", "h", "i"),),
        may_pass=True,
        not_within_s=3.0,
    )
    found = ending.recorded((call,), {"by": "rule"}, (), category="coding", complexity=0.5)
    wanted = replace(ending, calls=(call,), route={"by": "rule"}, troubles=(), category="coding", complexity=0.5)
    assert found == wanted
    named = [each.name for each in fields(Ending) if each.init and each.name not in ("calls", "pictures", "troubles")]
    assert all(getattr(found, name) not in (None, "", False, 0.0) for name in named), "each field is told here"


def test_what_an_ending_used_is_the_sum_of_the_persons_calls_also_of_a_changed_one() -> None:
    mine, other = Call(Used("a", "x", 1, 2, cost_microusd=3)), Call(Used("b", "y", 10, 20, cost_microusd=30))
    houses = Call(Used("c", "z", 100, 200, cost_microusd=300), payer=HOUSE)
    ending = Ending(RequestStatus.COMPLETED, (houses, mine, other))
    assert ending.used == Used("b", "y", 11, 22, cost_microusd=33)
    assert ending.used is ending.used
    assert replace(ending, calls=(mine,)).used == Used("a", "x", 1, 2, cost_microusd=3)
    assert replace(ending, calls=(houses,)).used == Used()
    assert ending == Ending(RequestStatus.COMPLETED, (houses, mine, other))


def test_what_was_brought_has_as_many_tokens_the_second_time() -> None:
    turns = (Turn(Role.USER, "Hello there"), Turn(Role.ASSISTANT, "", tool_calls=(ToolCall("1", "look", '{"a": 1}'),)))
    brought = Brought(turns, (Tool("look", "Looks.", {"type": "object"}),))
    tool = sum(map(estimate_tokens, ("look", "Looks.", '{"type": "object"}'))) + TURN_TOKENS
    assert brought.tokens() == brought.tokens() == tokens_of(iter(turns)) + tool
    assert brought == Brought(turns, brought.tools)
    assert replace(brought, tools=()).tokens() == tokens_of(turns)
    assert hash(replace(brought, tools=())) == hash(Brought(turns))
