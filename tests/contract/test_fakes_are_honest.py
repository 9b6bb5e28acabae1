"""The fakes against the vendors' own SDKs: what these clients understand as the vendor is what our plugins are tested on."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as google_errors
from google.genai import types as google_types

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.gemini import FakeGemini, FakeGeminiImages
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.vendor import FakeVendor, Trouble, tiny_png
from webapp.testkit.asking import PIXEL, UNICODE
from webapp.testkit.tools import WISHES

ANY_OBJECT: Any = {"type": "object", "properties": {}}
SAY_HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello to me"}]


@pytest.fixture(autouse=True)
def only_what_is_said_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs read keys, addresses and proxies from the environment; these tests go to 127.0.0.1 and nowhere else."""
    for name in list(os.environ):
        if name.upper().startswith(("OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)


def said(fake: FakeVendor, trouble: Trouble) -> int:
    """Have the fake fail so; gives the status."""
    fault = fake.trouble(trouble)
    assert fault is not None
    assert fault.status is not None
    fake.faults.append(fault)
    return fault.status


# -- OpenAI ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def openai_fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        fake.key = "sk-one"
        fake.text, fake.cached_tokens, fake.reasoning_tokens = UNICODE, 2, 3
        yield fake


@pytest.fixture
def openai_client(openai_fake: FakeOpenAI) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-one", base_url=f"{openai_fake.url}/v1", max_retries=0) as client:
        yield client


def test_openais_sdk_reads_a_whole_answer(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(model="fake-model", messages=SAY_HELLO)
    [choice] = answer.choices
    assert (choice.message.content, choice.message.refusal, choice.finish_reason) == (UNICODE, None, "stop")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert answer._request_id == "req-1"


def test_openais_sdk_reads_a_streamed_answer(openai_client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = openai_client.chat.completions.create(model="fake-model", messages=SAY_HELLO, stream=True, stream_options=options)
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == UNICODE
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(c.usage is None for c in chunks[:-1])


def test_openais_sdk_reads_the_list_of_models(openai_client: openai.OpenAI, openai_fake: FakeOpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == openai_fake.models
    assert openai_client.models.retrieve("fake-model").id == "fake-model"
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("gone")


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.RATE_LIMITED, openai.RateLimitError),
        (Trouble.OVERLOADED, openai.InternalServerError),
        (Trouble.DOWN, openai.InternalServerError),
        (Trouble.BAD_KEY, openai.AuthenticationError),
        (Trouble.NO_CREDIT, openai.RateLimitError),
        (Trouble.NO_MODEL, openai.NotFoundError),
        (Trouble.TOO_LONG, openai.BadRequestError),
        (Trouble.POLICY, openai.BadRequestError),
        (Trouble.BAD_REQUEST, openai.BadRequestError),
    ],
)
def test_openais_sdk_tells_every_trouble_apart(
    openai_client: openai.OpenAI, openai_fake: FakeOpenAI, trouble: Trouble, kind: type[openai.APIStatusError]
) -> None:
    status = said(openai_fake, trouble)
    with pytest.raises(kind) as raised:
        openai_client.chat.completions.create(model="fake-model", messages=SAY_HELLO)
    assert raised.value.status_code == status
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["message"]
    if trouble in (Trouble.TOO_LONG, Trouble.NO_CREDIT):
        assert raised.value.code in ("context_length_exceeded", "insufficient_quota")


def test_what_openais_sdk_sends_is_what_the_fake_takes(openai_client: openai.OpenAI, openai_fake: FakeOpenAI) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    turns: Any = [{"role": "user", "content": parts}]
    answer = openai_client.chat.completions.create(model="fake-model", messages=turns)
    assert answer.choices[0].message.content == UNICODE
    broken: Any = [{"role": "narrator", "content": "Once"}]
    with pytest.raises(openai.BadRequestError):
        openai_client.chat.completions.create(model="fake-model", messages=broken)
    with pytest.raises(openai.BadRequestError, match="json"):
        openai_client.chat.completions.create(model="fake-model", messages=SAY_HELLO, response_format={"type": "json_object"})
    with pytest.raises(openai.AuthenticationError):
        openai_client.with_options(api_key="sk-two").models.list()


def test_openais_sdk_reads_and_answers_tool_calls(openai_client: openai.OpenAI, openai_fake: FakeOpenAI) -> None:
    openai_fake.wishes = WISHES
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": ANY_OBJECT}} for name, _ in WISHES]
    [choice] = openai_client.chat.completions.create(model="fake-model", messages=SAY_HELLO, tools=tools).choices
    assert choice.finish_reason == "tool_calls"
    wishes: Any = choice.message.tool_calls
    assert [(w.function.name, json.loads(w.function.arguments)) for w in wishes] == WISHES
    streamed = openai_client.chat.completions.create(model="fake-model", messages=SAY_HELLO, tools=tools, stream=True)
    found: dict[int, list[str]] = {}
    for chunk in streamed:
        for piece in chunk.choices[0].delta.tool_calls or []:
            assert piece.function is not None
            start = found.setdefault(piece.index, [piece.function.name or "", ""])
            start[1] += piece.function.arguments or ""
    assert [(name, json.loads(arguments)) for name, arguments in found.values()] == WISHES
    gave: Any = [{"role": "tool", "tool_call_id": wish.id, "content": "done"} for wish in wishes]
    turns: Any = [*SAY_HELLO, choice.message, *gave]
    answer = openai_client.chat.completions.create(model="fake-model", messages=turns, tools=tools)
    assert answer.choices[0].message.content == UNICODE
    broken: Any
    for broken in (turns[:-1], [*SAY_HELLO, gave[0]], [*turns, gave[0]]):
        with pytest.raises(openai.BadRequestError, match="tool"):
            openai_client.chat.completions.create(model="fake-model", messages=broken, tools=tools)
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        openai_client.chat.completions.create(model="fake-model", messages=SAY_HELLO, tool_choice="required")


def test_openais_sdk_reads_a_picture() -> None:
    with (
        FakeOpenAIImages() as fake,
        openai.OpenAI(api_key=fake.key, base_url=f"{fake.url}/v1", max_retries=0) as client,
    ):
        drawn = client.images.generate(model="gpt-image-2", prompt="a teal square", size="1024x1024", quality="low")
        assert drawn.data
        assert base64.b64decode(drawn.data[0].b64_json or "").startswith(b"\x89PNG")
        assert drawn.usage is not None
        assert drawn.usage.total_tokens == drawn.usage.input_tokens + drawn.usage.output_tokens
        edited = client.images.edit(model="gpt-image-2", image=("a.png", tiny_png(), "image/png"), prompt="make it red")
        assert edited.data
        assert edited.data[0].b64_json
        status = said(fake, Trouble.POLICY)
        with pytest.raises(openai.BadRequestError) as raised:
            client.images.generate(model="gpt-image-2", prompt="no")
        assert raised.value.status_code == status


# -- Anthropic -------------------------------------------------------------------------------------------------------
@pytest.fixture
def anthropic_fake() -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as fake:
        fake.text, fake.cached_tokens = UNICODE, 2
        yield fake


@pytest.fixture
def anthropic_client(anthropic_fake: FakeAnthropic) -> Iterator[anthropic.Anthropic]:
    # SDK 2.12 sends the key as a bearer token; the fake wants the documented header, which is what our plugin sends.
    headers = {"x-api-key": anthropic_fake.key}
    with anthropic.Anthropic(
        api_key=anthropic_fake.key, base_url=anthropic_fake.url, max_retries=0, default_headers=headers
    ) as client:
        yield client


ASKED: Any = {
    "model": "fake-model",
    "max_tokens": 99,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "Say hello to me"}],
}


def test_anthropics_sdk_reads_a_whole_answer(anthropic_client: anthropic.Anthropic, anthropic_fake: FakeAnthropic) -> None:
    answer = anthropic_client.messages.create(**ASKED)
    assert "".join(block.text for block in answer.content if block.type == "text") == UNICODE
    assert (answer.role, answer.stop_reason, answer.type) == ("assistant", "end_turn", "message")
    told = anthropic_fake.reported[-1]
    cached = answer.usage.cache_read_input_tokens or 0
    assert answer.usage.input_tokens + cached + (answer.usage.cache_creation_input_tokens or 0) == told.input_tokens
    assert (cached, answer.usage.output_tokens) == (2, told.output_tokens)


def test_anthropics_sdk_reads_a_streamed_answer(anthropic_client: anthropic.Anthropic, anthropic_fake: FakeAnthropic) -> None:
    anthropic_fake.reasoning_tokens = 3
    with anthropic_client.messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == UNICODE
        answer = stream.get_final_message()
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == anthropic_fake.reported[-1].output_tokens


def test_anthropics_sdk_reads_the_list_of_models_in_pages(
    anthropic_client: anthropic.Anthropic, anthropic_fake: FakeAnthropic
) -> None:
    listed = list(anthropic_client.models.list(limit=1))
    assert [model.id for model in listed] == [model["id"] for model in anthropic_fake.models]
    assert all(model.display_name and model.created_at for model in listed)


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.RATE_LIMITED, anthropic.RateLimitError),
        (Trouble.OVERLOADED, anthropic.InternalServerError),
        (Trouble.DOWN, anthropic.InternalServerError),
        (Trouble.BAD_KEY, anthropic.AuthenticationError),
        (Trouble.NO_MODEL, anthropic.NotFoundError),
        (Trouble.TOO_LONG, anthropic.BadRequestError),
        (Trouble.POLICY, anthropic.BadRequestError),
        (Trouble.BAD_REQUEST, anthropic.BadRequestError),
    ],
)
def test_anthropics_sdk_tells_every_trouble_apart(
    anthropic_client: anthropic.Anthropic,
    anthropic_fake: FakeAnthropic,
    trouble: Trouble,
    kind: type[anthropic.APIStatusError],
) -> None:
    status = said(anthropic_fake, trouble)
    with pytest.raises(kind) as raised:
        anthropic_client.messages.create(**ASKED)
    assert raised.value.status_code == status
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["message"]
    assert raised.value.request_id


def test_what_anthropics_sdk_sends_is_what_the_fake_takes(anthropic_client: anthropic.Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PIXEL).decode()}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    seen: Any = ASKED | {"messages": [{"role": "user", "content": parts}]}
    assert anthropic_client.messages.create(**seen).stop_reason == "end_turn"
    broken: Any = ASKED | {"messages": [{"role": "narrator", "content": "Once"}]}
    with pytest.raises(anthropic.BadRequestError):
        anthropic_client.messages.create(**broken)
    with pytest.raises(anthropic.AuthenticationError):
        anthropic_client.with_options(default_headers={"x-api-key": "another"}).models.list()


def test_anthropics_sdk_reads_and_answers_tool_calls(
    anthropic_client: anthropic.Anthropic, anthropic_fake: FakeAnthropic
) -> None:
    anthropic_fake.wishes, anthropic_fake.wish_text = WISHES, "One moment."
    asked: Any = ASKED | {"tools": [{"name": name, "input_schema": ANY_OBJECT} for name, _ in WISHES]}
    message = anthropic_client.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    assert [(block.name, block.input) for block in message.content if block.type == "tool_use"] == WISHES
    with anthropic_client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert [(block.name, block.input) for block in streamed.content if block.type == "tool_use"] == WISHES
    assert [block.text for block in streamed.content if block.type == "text"] == ["One moment."]
    uses = [block for block in message.content if block.type == "tool_use"]
    gave = [{"type": "tool_result", "tool_use_id": use.id, "content": "done"} for use in uses]
    said: Any = {"role": "assistant", "content": message.content}
    turns: Any = [*asked["messages"], said, {"role": "user", "content": gave}]
    assert anthropic_client.messages.create(**(asked | {"messages": turns})).stop_reason == "end_turn"
    late = [{"type": "text", "text": "Here:"}, *gave]
    for results in (gave[:1], late, [*gave, gave[0]]):
        broken: Any = [*turns[:-1], {"role": "user", "content": results}]
        with pytest.raises(anthropic.BadRequestError, match="tool_result"):
            anthropic_client.messages.create(**(asked | {"messages": broken}))
    with pytest.raises(anthropic.BadRequestError, match="must define tools"):
        anthropic_client.messages.create(**(ASKED | {"messages": turns}))


# -- Gemini ----------------------------------------------------------------------------------------------------------
def gemini_client(fake: FakeVendor) -> genai.Client:
    once = google_types.HttpRetryOptions(attempts=1)
    options = google_types.HttpOptions(base_url=fake.url, api_version="v1beta", retry_options=once)
    return genai.Client(api_key=fake.key, http_options=options)


@pytest.fixture
def gemini_fake() -> Iterator[FakeGemini]:
    with FakeGemini() as fake:
        fake.text, fake.cached_tokens, fake.reasoning_tokens = UNICODE, 2, 3
        yield fake


@pytest.fixture
def gemini(gemini_fake: FakeGemini) -> Iterator[genai.Client]:
    with gemini_client(gemini_fake) as client:
        yield client


def test_googles_sdk_reads_a_whole_answer(gemini: genai.Client, gemini_fake: FakeGemini) -> None:
    answer = gemini.models.generate_content(
        model="fake-model",
        contents="Say hello to me",
        config=google_types.GenerateContentConfig(system_instruction="Be brief.", max_output_tokens=99),
    )
    assert answer.text == UNICODE
    assert answer.candidates
    assert answer.candidates[0].finish_reason is google_types.FinishReason.STOP
    told, counted = gemini_fake.reported[-1], answer.usage_metadata
    assert counted is not None
    assert (counted.prompt_token_count, counted.cached_content_token_count) == (told.input_tokens, 2)
    assert (counted.candidates_token_count or 0) + (counted.thoughts_token_count or 0) == told.output_tokens
    assert counted.thoughts_token_count == 3


def test_googles_sdk_reads_a_streamed_answer(gemini: genai.Client, gemini_fake: FakeGemini) -> None:
    chunks = list(gemini.models.generate_content_stream(model="fake-model", contents="Say hello to me"))
    assert len(chunks) > 2
    assert "".join(chunk.text or "" for chunk in chunks) == UNICODE
    last = chunks[-1]
    assert last.candidates
    assert last.candidates[0].finish_reason is google_types.FinishReason.STOP
    assert last.usage_metadata is not None
    assert last.usage_metadata.prompt_token_count == gemini_fake.reported[-1].input_tokens


def test_googles_sdk_reads_the_list_of_models_in_pages(gemini: genai.Client, gemini_fake: FakeGemini) -> None:
    listed = list(gemini.models.list())
    assert [model.name for model in listed] == [f"models/{name}" for name in gemini_fake.models]
    assert all(model.input_token_limit and model.supported_actions for model in listed)


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.RATE_LIMITED, google_errors.ClientError),
        (Trouble.OVERLOADED, google_errors.ServerError),
        (Trouble.DOWN, google_errors.ServerError),
        (Trouble.BAD_KEY, google_errors.ClientError),
        (Trouble.NO_CREDIT, google_errors.ClientError),
        (Trouble.NO_MODEL, google_errors.ClientError),
        (Trouble.TOO_LONG, google_errors.ClientError),
        (Trouble.BAD_REQUEST, google_errors.ClientError),
    ],
)
def test_googles_sdk_tells_every_trouble_apart(
    gemini: genai.Client, gemini_fake: FakeGemini, trouble: Trouble, kind: type[google_errors.APIError]
) -> None:
    status = said(gemini_fake, trouble)
    with pytest.raises(kind) as raised:
        gemini.models.generate_content(model="fake-model", contents="Say hello to me")
    assert raised.value.code == status
    assert raised.value.message
    assert raised.value.status


def test_googles_sdk_reads_a_prompt_that_was_blocked(gemini: genai.Client, gemini_fake: FakeGemini) -> None:
    fault = gemini_fake.trouble(Trouble.POLICY)
    assert fault is not None
    gemini_fake.faults.append(fault)
    [answer] = list(gemini.models.generate_content_stream(model="fake-model", contents="no"))
    assert not answer.candidates
    assert answer.prompt_feedback is not None
    assert answer.prompt_feedback.block_reason


def test_what_googles_sdk_sends_is_what_the_fake_takes(gemini: genai.Client) -> None:
    picture = google_types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    contents: Any = [picture, "What is this?"]
    answer = gemini.models.generate_content(model="fake-model", contents=contents)
    assert answer.text == UNICODE
    with pytest.raises(google_errors.ClientError) as raised:
        gemini.models.generate_content(model="gone", contents="hi")
    assert raised.value.code == 404


def test_googles_sdk_reads_and_answers_function_calls(gemini: genai.Client, gemini_fake: FakeGemini) -> None:
    gemini_fake.wishes = WISHES
    functions: Any = [{"name": name, "parameters_json_schema": ANY_OBJECT} for name, _ in WISHES]
    config = google_types.GenerateContentConfig(
        tools=[google_types.Tool(function_declarations=functions)],
        automatic_function_calling=google_types.AutomaticFunctionCallingConfig(disable=True),
    )
    answer = gemini.models.generate_content(model="fake-model", contents="What now?", config=config)
    assert [(call.name, call.args) for call in answer.function_calls or []] == WISHES
    chunks = list(gemini.models.generate_content_stream(model="fake-model", contents="What now?", config=config))
    assert [(call.name, call.args) for chunk in chunks for call in chunk.function_calls or []] == WISHES
    assert answer.candidates
    said: Any = answer.candidates[0].content
    gave = [google_types.Part.from_function_response(name=name, response={"result": "done"}) for name, _ in WISHES]
    asked = google_types.Content(role="user", parts=[google_types.Part.from_text(text="What now?")])
    contents: Any = [asked, said, google_types.Content(role="user", parts=gave)]
    assert gemini.models.generate_content(model="fake-model", contents=contents, config=config).text == UNICODE
    for parts in (gave[:1], gave[::-1]):
        broken: Any = [asked, said, google_types.Content(role="user", parts=parts)]
        with pytest.raises(google_errors.ClientError, match="unction response"):
            gemini.models.generate_content(model="fake-model", contents=broken, config=config)
    unsigned: Any = google_types.Part(function_call=google_types.FunctionCall(name="get_weather", args={}))
    contents = [asked, google_types.Content(role="model", parts=[unsigned]), google_types.Content(role="user", parts=gave[:1])]
    with pytest.raises(google_errors.ClientError, match="thought_signature"):
        gemini.models.generate_content(model="gemini-3.5-flash-lite", contents=contents, config=config)


def test_googles_sdk_reads_a_picture() -> None:
    with FakeGeminiImages() as fake, gemini_client(fake) as client:
        answer = client.models.generate_content(
            model=fake.model,
            contents="a teal square",
            config=google_types.GenerateContentConfig(response_modalities=["IMAGE"]),
        )
        assert answer.candidates
        content = answer.candidates[0].content
        assert content is not None
        pictures = [part.inline_data for part in content.parts or [] if part.inline_data]
        assert pictures[0].mime_type == "image/png"
        assert (pictures[0].data or b"").startswith(b"\x89PNG")


# -- all of them -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [FakeOpenAI, FakeAnthropic, FakeGemini, FakeOpenAIImages, FakeGeminiImages])
def test_every_trouble_of_a_fake_says_something(make: Callable[[], FakeVendor]) -> None:
    fake = make()
    found = [fake.trouble(kind) for kind in Trouble]
    fake.stop()
    assert all(fault is None or fault.body for fault in found)
    assert sum(fault is not None for fault in found) >= 7
