"""The short way to chat completions and the general one through Flask say the same, whatever is asked and however it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, request_started
from werkzeug.test import TestResponse

from tests.fakes.openai import FakeOpenAI
from tests.fakes.vendor import Trouble
from tests.integration.v1_support import CHAT, HELLO, V1, WEATHER
from webapp.api.base import parse_json
from webapp.api.problems import BadJson
from webapp.api.v1.whole import Whole, response_of

OF_PAGES = {"Content-Security-Policy", "Permissions-Policy", "Vary", "X-Frame-Options"}
"""What every answer of the application says to browsers; programs have no use for it."""
OWN = {"X-Request-Id", "x-switchhook-request", "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"}
"""What is another value in every call."""
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
_OF_ONE_CALL = re.compile(r'chatcmpl-[0-9a-f]{32}|"created":\d+|call_\w+')


@pytest.fixture
def v1(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> V1:
    return V1(make_app(chat_model="openai/gpt-4.1-mini", retries=0))


@pytest.fixture
def routed(v1: V1) -> Iterator[list[int]]:
    """One entry for each call that went through the application's routing."""
    found: list[int] = []

    def note(*_: object, **__: object) -> None:
        found.append(1)

    with request_started.connected_to(note, v1.app):
        yield found


def both(v1: V1, routed: list[int], body: Any) -> tuple[TestResponse, TestResponse]:
    """The answers of the short way and of the general one, which a call with its own id takes."""
    short = v1.post(CHAT, body)
    short.get_data()
    assert routed == []
    general = v1.post(CHAT, body, X_Request_Id="one-of-mine")
    general.get_data()
    assert routed == [1]
    return short, general


def shape(answer: TestResponse) -> dict[str, str]:
    """The headers but those of pages; of what differs from call to call only that it is there."""
    names = [name for name, _ in answer.headers]
    assert len(names) == len(set(names)), names
    found = {name: "…" if name in OWN else value for name, value in answer.headers if name not in OF_PAGES}
    # A reset is some seconds away, and the calls may be in different ones.
    return {name: re.sub(r"\d+m?s$", "…", value) if "-reset-" in name else value for name, value in found.items()}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"seed": 7, "logit_bias": {"1": 2}},
        {"tools": [TOOL]},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}, "seed": 7},
        {"n": 2},
        {"model": "nobody/knows"},
        {"messages": []},
    ],
    ids=lambda more: "-".join(more) or "plain",
)
def test_both_ways_say_the_same(v1: V1, openai: FakeOpenAI, routed: list[int], more: dict[str, Any]) -> None:
    if "tools" in more:
        openai.wishes = [("weather", {"town": "Graz"})]
    short, general = both(v1, routed, {"model": "auto", "messages": HELLO} | more)
    assert short.status == general.status
    assert shape(short) == shape(general)
    assert _OF_ONE_CALL.sub("…", short.text) == _OF_ONE_CALL.sub("…", general.text)
    assert ("x-switchhook-ignored" in short.headers) == ("seed" in more)
    assert short.headers["X-Request-Id"] != "one-of-mine"


def test_both_ways_say_the_same_where_the_vendor_fails(v1: V1, openai: FakeOpenAI, routed: list[int]) -> None:
    openai.faults.extend(fault for fault in [openai.trouble(Trouble.DOWN)] * 9 if fault)
    short, general = both(v1, routed, {"model": "auto", "messages": HELLO})
    assert short.status_code >= 500
    assert short.status == general.status
    assert shape(short) == shape(general)
    assert short.get_json()["error"]["code"] == general.get_json()["error"]["code"]


def test_both_ways_say_the_same_of_a_body_that_is_no_json(v1: V1, routed: list[int]) -> None:
    short, general = both(v1, routed, b"{")
    assert (short.status, shape(short), short.text) == (general.status, shape(general), general.text)


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "é", "\x00"])
def test_the_names_of_parameters_add_no_header(v1: V1, routed: list[int], name: str) -> None:
    for answer in both(v1, routed, {"model": "auto", "messages": HELLO, "seed": 1, f"x{name}": 1}):
        assert answer.status_code == (200 if "\x00" not in name else 400)
        assert answer.headers.get("x-switchhook-ignored") == ("seed" if answer.status_code == 200 else None)
        assert "X-Evil" not in answer.headers


def sent(answer: Any) -> tuple[str, dict[str, str], bytes]:
    """Status, headers and body as a server gets them."""
    told: list[Any] = []
    pieces = answer({"REQUEST_METHOD": "POST"}, lambda status, headers: told.extend((status, headers)))
    assert all(type(part) is str for header in told[1] for part in header)
    return told[0], dict(told[1]), b"".join(pieces)


def test_a_whole_answer_is_the_same_as_wsgi_and_as_a_response() -> None:
    value = {"text": "Grüße \U0001f600", "number": 1.5, "nothing": None}
    headers = {"Cache-Control": "no-store", "x-switchhook-ignored": "seed"}
    document = json.dumps(value, ensure_ascii=False)
    assert sent(Whole(document, headers)) == sent(response_of(Whole(document, headers)))
    assert json.loads(Whole(document, headers).body) == value
    response = Whole(document, headers).response()
    assert response_of(response) is response


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_header_with_the_end_of_a_line_is_never_sent(end: str) -> None:
    answer = Whole("{}", {"Cache-Control": "no-store"})
    answer.headers["x-switchhook-ignored"] = f"seed{end}X-Evil: 1"
    told: list[Any] = []
    with pytest.raises(ValueError, match="header"):
        answer({}, lambda *given: told.append(given))
    assert told == []
    with pytest.raises(ValueError, match=r"[Hh]eader"):
        response_of(answer)


def test_the_bounds_of_a_body_are_the_same_for_small_and_large_ones() -> None:
    for spaces in (b"", b" " * 20_000):
        assert parse_json(b"[" * 64 + spaces + b"]" * 64) is not None
        for nested in (b"[" * 65 + spaces + b"]" * 65, b'{"a":' * 65 + b"1" + spaces + b"}" * 65):
            with pytest.raises(BadJson, match="nested too deeply"):
                parse_json(nested)
        assert len(parse_json(b"[" + b",".join([b"0"] * 10_000) + spaces + b"]")) == 10_000
        with pytest.raises(BadJson, match="10,000 items"):
            parse_json(b"[" + b",".join([b"0"] * 10_001) + spaces + b"]")
    assert len(parse_json(b'["[[[[{{{{"' + b",[]" * 70 + b"]")) == 71
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    for wrong in (b"\xef\xbb\xbf\xef\xbb\xbf[1]", b"[1] 2", b"NaN", b"[1e999]", b'{"a":1,"a":2}'):
        with pytest.raises(BadJson):
            parse_json(wrong)
