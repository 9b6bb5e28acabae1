"""What a text provider promises of tools, and of answers in one piece."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from webapp.plugin import (
    Capability,
    Finish,
    MalformedAnswer,
    Rejected,
    Role,
    TextProvider,
    TimedOut,
    Tool,
    ToolCall,
    Turn,
    Unavailable,
    Usage,
)
from webapp.routing.http import call_limits
from webapp.testkit.asking import UNICODE, answer, call, failure, run
from webapp.testkit.replay import mutations, record, replaying

WEATHER = Tool(
    "get_weather",
    "The weather of the next days in a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    strict=True,
)
CLOCK = Tool("what_time_is_it")
TOOLS = (WEATHER, CLOCK)
WISHES: list[tuple[str, dict[str, Any]]] = [("get_weather", {"city": "Zürich 👩‍🚀", "days": 3}), ("what_time_is_it", {})]
_CUTS = 50


def _needs_tools(provider: TextProvider, fake: Any) -> None:
    able = provider.model_info(fake.model).capabilities
    if able is not None and Capability.TOOLS not in able:
        pytest.skip("its models take no tools, and it says so")


def _comparable(usage: Usage | None) -> tuple[object, ...]:
    assert usage is not None
    told = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
    return (*told, usage.finish, usage.model)


class Tools:
    """Tools asked for and answered. Needs the fixtures `fake`, `provider` and `http`.

    Skipped where `model_info` says that the fake's model takes no tools; a provider that has none says so.
    """

    def test_tools_are_asked_for_whole_and_in_pieces(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        _needs_tools(provider, fake)
        fake.wishes = WISHES
        for whole in (False, True):
            for fake.wish_text in ("", "One moment."):
                outcome = run(provider, http, call(tools=TOOLS, whole=whole))
                assert outcome.error is None, outcome.error
                assert outcome.text == fake.wish_text
                assert [(wish.name, json.loads(wish.arguments)) for wish in outcome.wishes] == WISHES
                assert outcome.usage is not None
                assert outcome.usage.finish is Finish.TOOL
                told = fake.reported[-1]
                assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (told.input_tokens, told.output_tokens)
                assert b"get_weather" in fake.requests[-1].body
                assert b"what_time_is_it" in fake.requests[-1].body

    def test_what_tools_gave_goes_back_to_the_model(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        _needs_tools(provider, fake)
        fake.wishes = WISHES
        asked = run(provider, http, call(tools=TOOLS, whole=True))
        turns = (
            *call().turns,
            Turn(Role.ASSISTANT, "", tool_calls=tuple(asked.wishes)),
            *(Turn(Role.TOOL, f"result {position}", tool_call_id=w.id) for position, w in enumerate(asked.wishes)),
        )
        for whole in (False, True):
            for tools in (TOOLS, ()):
                text, usage = answer(provider, http, call(turns=turns, tools=tools, whole=whole))
                assert (text, usage.finish) == (fake.text, Finish.STOP)
                assert all(word in fake.requests[-1].body for word in (b"result 0", b"result 1", "Zürich".encode()))
        later = (*turns, Turn(Role.ASSISTANT, "It rains."), Turn(Role.USER, "And now?"))
        assert [wish.name for wish in run(provider, http, call(turns=later, tools=TOOLS)).wishes] == [n for n, _ in WISHES]

    def test_ids_and_arguments_of_another_vendors_are_taken(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        _needs_tools(provider, fake)
        for given in ("functions.get_weather:0", "x" * 150, "a/b ü\ud83d"):
            for arguments in ("", "{broken", "[1]", '{"a": NaN}', "[" * 5000):
                turns = (
                    *call().turns,
                    Turn(Role.ASSISTANT, "Let me look.", tool_calls=(ToolCall(given, "get_weather", arguments),)),
                    Turn(Role.TOOL, "", tool_call_id=given),
                )
                assert answer(provider, http, call(turns=turns, tools=TOOLS))[0] == fake.text

    def test_how_tools_are_chosen_is_passed_on(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        _needs_tools(provider, fake)
        chosen: dict[str, list[str]] = {
            "": [],
            "auto": [],
            "none": [],
            "required": ["get_weather"],
            "what_time_is_it": ["what_time_is_it"],
        }
        asked = {}
        for choice, names in chosen.items():
            for parallel in (None, False, True):
                outcome = run(provider, http, call(tools=TOOLS, tool_choice=choice, parallel_tools=parallel))
                assert outcome.error is None, (choice, parallel, outcome.error)
                if outcome.wishes:  # a format without a choice can only ask for it in words
                    assert [wish.name for wish in outcome.wishes] == names
            asked[choice] = fake.requests[-1].body
        assert len({asked[choice] for choice in ("none", "required", "what_time_is_it")}) == 3
        fake.wishes = WISHES
        assert answer(provider, http, call(tools=TOOLS, tool_choice="none"))[0] == fake.text

    def test_a_tool_that_nobody_offered_is_not_handed_on(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        _needs_tools(provider, fake)
        fake.wishes = WISHES
        kept = record(provider, http, call(tools=TOOLS))
        with replaying(kept, [kept[-1].body]) as again:
            outcome = run(provider, again, call())
        assert not outcome.wishes
        assert type(outcome.error) is MalformedAnswer

    def test_a_call_for_tools_cut_at_any_byte_is_whole_or_malformed(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        _needs_tools(provider, fake)
        fake.wishes = WISHES
        for whole in (False, True):
            made = call(tools=TOOLS, whole=whole)
            kept = record(provider, http, made)
            body = kept[-1].body
            for position in range(0, len(body), max(1, len(body) // _CUTS)):
                with replaying(kept, [body[:position]], broken=position % 2 == 0) as cut:
                    outcome = run(provider, cut, made)
                found = [(wish.name, wish.arguments) for wish in outcome.wishes]
                if outcome.error is None:
                    assert [(name, json.loads(arguments)) for name, arguments in found] == WISHES, position
                else:
                    assert isinstance(outcome.error, MalformedAnswer | Unavailable), (position, outcome.error)
            with replaying(kept, [body[at : at + 1] for at in range(len(body))]) as split:
                assert [json.loads(wish.arguments) for wish in run(provider, split, made).wishes] == [a for _, a in WISHES]

    def test_any_json_in_a_call_for_tools_is_an_answer_or_a_typed_error(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        _needs_tools(provider, fake)
        fake.wishes = WISHES[:1]
        made = call(tools=TOOLS, whole=True)
        kept = record(provider, http, made)
        for body in mutations(kept[-1].body):
            with replaying(kept, [body]) as odd:
                run(provider, odd, made)

    def test_more_wishes_than_can_be_meant_are_malformed(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        _needs_tools(provider, fake)
        fake.wishes = [("what_time_is_it", {})] * 150
        for whole in (False, True):
            assert type(failure(provider, http, call(tools=TOOLS, whole=whole))) is MalformedAnswer
        fake.wishes = [("get_weather", {"city": "x" * 2_000_000})]
        assert type(failure(provider, http, call(tools=TOOLS, whole=True))) is MalformedAnswer
        fake.wishes = [("no name\n" * 50, {})]
        assert type(failure(provider, http, call(tools=TOOLS, whole=True))) is MalformedAnswer


class WholeAnswers:
    """Answers that are asked for in one piece. Needs the fixtures `fake`, `provider`, `http` and `fault`."""

    def test_a_whole_answer_says_what_a_streamed_one_says(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        fake.text, fake.cached_tokens, fake.reasoning_tokens = UNICODE, 2, 3
        streamed, whole = run(provider, http, call()), run(provider, http, call(whole=True))
        assert whole.text == streamed.text == UNICODE
        assert _comparable(whole.usage) == _comparable(streamed.usage)
        fake.with_usage = False
        _, usage = answer(provider, http, call(whole=True))
        assert (usage.input_tokens, usage.output_tokens) == (None, None)

    def test_either_form_of_an_answer_is_taken_whichever_was_asked_for(
        self, provider: TextProvider, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        if fake.good_document(UNICODE) is None:
            pytest.skip("its vendor's format knows one form only")
        for body, kind in ((fake.good_document(UNICODE), "application/json"), (fake.good_stream(UNICODE), "text/event-stream")):
            for whole in (False, True):
                fake.faults.append(fault(status=200, headers={"Content-Type": kind}, body=body))
                assert answer(provider, http, call(whole=whole))[0] == UNICODE

    def test_a_whole_answer_cut_at_any_byte_is_malformed(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        fake.text = UNICODE
        made = call(whole=True)
        kept = record(provider, http, made)
        body = kept[-1].body
        for position in range(0, len(body), max(1, len(body) // _CUTS)):
            with replaying(kept, [body[:position]], broken=position % 2 == 0) as cut:
                outcome = run(provider, cut, made)
            assert (
                outcome.text == UNICODE if outcome.error is None else isinstance(outcome.error, MalformedAnswer | Unavailable)
            )

    def test_whatever_comes_in_place_of_a_whole_answer_is_a_typed_error(
        self, provider: TextProvider, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        made = call(whole=True)
        for body in (b"", b"null", b"<html>", b"[" * 50_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff\xfe\x00", b" " * 1000):
            fake.faults.append(fault(status=200, headers={"Content-Type": "application/json"}, body=body))
            assert type(failure(provider, http, made)) is MalformedAnswer, body[:20]
        fake.faults.append(fault(status=400, body=b"no"))
        assert type(failure(provider, http, made)) is Rejected

    def test_a_whole_answer_that_drips_is_given_up_at_the_deadline(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        def dripping() -> Iterator[bytes]:
            while not fake.stopping.wait(0.02):
                yield b" "

        fake.script = dripping
        started = time.monotonic()
        with call_limits(0.2, 5), pytest.raises(TimedOut):
            list(provider.stream(call(whole=True), http))
        assert time.monotonic() - started < 3
