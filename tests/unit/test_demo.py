"""The demo provider: honest in every answer, deterministic, and useful enough to see the pages at work."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import httpx
import pytest

from plugins.providers.demo import NOTICE, DemoProvider, answer_to, sample_of
from webapp.plugin import Capability, Finish, JsonOutput, Picture, ProviderError, Role, Text, TextCall, TimedOut, Turn, Usage

PROMPTS = ["", "hi", "How do I reverse a list in Python?", "show me a table", "list the steps", "some code", "x" * 5000]


def call(prompt: str, *, cap: int = 1000, timeout_s: float = 5.0) -> TextCall:
    turns = (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, prompt))
    return TextCall("r1", "demo", turns, max_output_tokens=cap, timeout_s=timeout_s)


def run(provider: DemoProvider, call: TextCall) -> tuple[str, Usage]:
    with httpx.Client(trust_env=False, verify=False) as http:
        *pieces, usage = provider.stream(call, http)
    assert isinstance(usage, Usage)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), usage


@pytest.fixture
def demo() -> DemoProvider:
    return DemoProvider({"SWITCHHOOK_DEMO_DELAY_MS": "0"})


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_answer_says_first_that_it_is_the_demo_and_how_to_get_a_model(demo: DemoProvider, prompt: str) -> None:
    text, _ = run(demo, call(prompt))
    assert text.startswith(NOTICE)
    first = text.split("\n", 1)[0]
    assert "demo provider" in first
    assert "OPENAI_API_KEY" in first
    assert "Ollama" in first
    assert len(text) <= 600


def test_the_answer_streams_word_by_word_and_is_the_same_each_time(demo: DemoProvider) -> None:
    with httpx.Client(trust_env=False, verify=False) as http:
        first, second = ([*demo.stream(call("hello"), http)] for _ in range(2))
    assert first == second
    assert len(first) > 20
    assert "".join(piece.text for piece in first[:-1] if isinstance(piece, Text)) == answer_to("hello")


def test_a_question_about_reversing_a_list_gets_code_that_does_it(demo: DemoProvider) -> None:
    text, _ = run(demo, call("How do I reverse a list in Python?"))
    code = text.split("```python\n")[1].split("```")[0]
    scope: dict[str, list[int]] = {}
    exec(compile(code, "answer", "exec"), {"print": lambda value: None}, scope)
    assert scope["numbers"] == [3, 2, 1]


def test_a_table_is_shown_when_asked_for(demo: DemoProvider) -> None:
    text, _ = run(demo, call("Show me a table of plans"))
    assert "|---|" in text
    assert "| tea | coffee |" in text
    assert "messages a day" not in text, "it must not look like this installation's plans"


def test_the_topic_is_echoed_on_one_short_line(demo: DemoProvider) -> None:
    text, _ = run(demo, call("tell me\nabout   rivers\x07 " + "very " * 100))
    line = next(line for line in text.splitlines() if line.startswith("You asked:"))
    assert "tell me about rivers very" in line
    assert line.endswith("…”")


def test_the_cap_on_tokens_cuts_the_answer_and_says_so(demo: DemoProvider) -> None:
    text, usage = run(demo, call("hi", cap=5))
    assert text == "This is the demo provider,"
    assert (usage.output_tokens, usage.finish) == (5, Finish.LENGTH)
    _, whole = run(demo, call("hi"))
    assert whole.finish is Finish.STOP
    assert whole.input_tokens == 3


def test_the_time_limit_of_the_call_holds() -> None:
    slow = DemoProvider({"SWITCHHOOK_DEMO_DELAY_MS": "50"})
    started = time.monotonic()
    with pytest.raises(TimedOut):
        run(slow, call("hi", timeout_s=0.12))
    assert time.monotonic() - started < 1.0


def test_words_come_with_a_pause_between_them() -> None:
    started = time.monotonic()
    run(DemoProvider({"SWITCHHOOK_DEMO_DELAY_MS": "10"}), call("hi", cap=5))
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("wrong", ["fast", "-1", "1.5", "99999", "٣"])
def test_a_wrong_delay_is_reported_and_harms_nothing(wrong: str) -> None:
    provider = DemoProvider({"SWITCHHOOK_DEMO_DELAY_MS": wrong})
    assert "SWITCHHOOK_DEMO_DELAY_MS" in provider.missing()
    try:
        run(provider, call("hi"))
    except ProviderError:
        pytest.fail("the demo answers all the same")
    assert DemoProvider({}).missing() == ""


def test_where_json_is_wanted_it_answers_in_json_of_the_schema(demo: DemoProvider) -> None:
    schema = {
        "type": "object",
        "properties": {
            "mood": {"enum": ["good", "bad"]},
            "score": {"type": "integer", "minimum": 3},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 2},
            "sure": {"type": ["boolean", "null"]},
            "deep": {"type": "object", "properties": {"kind": {"const": 7}, "none": {"type": "null"}}},
        },
    }
    text, usage = run(demo, replace(call("sort this"), output=JsonOutput("sorted", schema)))
    assert json.loads(text) == {
        "mood": "good",
        "score": 3,
        "tags": ["This", "This"],
        "sure": False,
        "deep": {"kind": 7, "none": None},
    }
    assert usage.finish is Finish.STOP
    assert json.loads(run(demo, replace(call("any"), output=JsonOutput()))[0]) == {"answer": NOTICE}


def test_a_schema_that_refers_to_itself_for_ever_has_an_end() -> None:
    schema: dict[str, object] = {"type": "object", "properties": {}}
    schema["properties"] = {"again": schema}
    assert len(json.dumps(sample_of(schema))) < 1000
    assert sample_of({"type": 5, "anyOf": "no", "enum": []}) is None


def test_pictures_are_taken_and_not_looked_at(demo: DemoProvider) -> None:
    assert demo.model_info("demo").capabilities == {Capability.VISION, Capability.JSON}
    seen = Turn(Role.USER, "what is this?", (Picture("image/png", b"1"), Picture("image/png", b"2")))
    text, _ = run(demo, replace(call(""), turns=(seen,)))
    assert "You sent 2 pictures, which the demo cannot look at." in text
