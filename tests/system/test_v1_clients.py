"""The vendors' own libraries and `llm`, unmodified, against the served product: one table of scenarios for all of them. And
clients that hang up."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import llm
import openai
import pytest

from tests.fakes.openai import event, text_chunk
from tests.fakes.vendor import tiny_png
from tests.system.v1_site import SlowVendor, V1Site, served

pytestmark = pytest.mark.system

NPM_OPENAI = "7.57.0"
PNG = base64.b64encode(tiny_png()).decode()
SCHEMA = {
    "type": "object",
    "properties": {"town": {"type": "string"}},
    "required": ["town"],
    "additionalProperties": False,
}
SAYS = "Hello there. This is the fake vendor speaking."
Body = dict[str, Any]


@pytest.fixture(scope="module")
def vendor() -> Iterator[SlowVendor]:
    with SlowVendor() as made:
        yield made


@pytest.fixture(scope="module")
def served_site(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, vendor: SlowVendor) -> Iterator[V1Site]:
    env = {"SWITCHHOOK_CHAT_MODEL": "openai/gpt-4.1-mini", "SWITCHHOOK_RETRIES": "0"}
    env |= {"MISTRAL_API_KEY": "for-tests-only-0123", "MISTRAL_BASE_URL": vendor.url}
    with served(tmp_path_factory.mktemp("v1"), migrated_sqlite, env) as made:
        made.spend()
        yield made


@pytest.fixture
def site(served_site: V1Site) -> V1Site:
    served_site.calm()
    return served_site


@dataclass(frozen=True)
class Said:
    """What a client made of an answer."""

    text: str = ""
    finish: str = ""
    wishes: list[tuple[str, str, str]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Scenario:
    """A call in OpenAI's format, what the vendor says, and what has to come of it."""

    name: str
    body: Mapping[str, Any]
    text: str = SAYS
    finish: str = "stop"
    vendor_finish: str = ""
    asked: Callable[[Body], bool] = lambda _: True
    """Whether the vendor was asked for what the caller wanted."""
    key: str = "token"
    error: tuple[str, ...] = ()
    """The classes of error of which the client has to raise one."""


def user(content: Any) -> Body:
    return {"role": "user", "content": content}


_IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
_JSON = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
SCENARIOS = (
    Scenario("plain", {"messages": [user("Hello?")]}, asked=lambda body: body["messages"][-1]["content"] == "Hello?"),
    Scenario("stream", {"messages": [user("Hello?")], "stream": True}),
    Scenario(
        "system prompt",
        {"messages": [{"role": "system", "content": "Be brief."}, user("Hello?")]},
        asked=lambda body: body["messages"][0]["content"] == "Be brief.",
    ),
    Scenario(
        "image",
        {"messages": [user([{"type": "text", "text": "What is it?"}, _IMAGE])]},
        asked=lambda body: any(part["type"] == "image_url" for part in body["messages"][-1]["content"]),
    ),
    Scenario(
        "JSON",
        {"messages": [user("Where?")], "response_format": _JSON},
        text='{"town": "Graz"}',
        asked=lambda body: body["response_format"]["type"] == "json_schema",
    ),
    Scenario("stop", {"messages": [user("Hello?")], "stop": ["END"]}, asked=lambda body: body["stop"] == ["END"]),
    Scenario(
        "max tokens",
        {"messages": [user("Hello?")], "max_tokens": 7},
        finish="length",
        vendor_finish="length",
        asked=lambda body: 7 in (body.get("max_tokens"), body.get("max_completion_tokens")),
    ),
    Scenario("wrong key", {"messages": [user("Hello?")]}, key="wrong", error=("AuthenticationError",)),
    Scenario("unknown model", {"messages": [user("Hello?")], "model": "nothing"}, error=("NotFoundError",)),
    Scenario("limit reached", {"messages": [user("Hello?")]}, key="poor", error=("RateLimitError",)),
    Scenario("bad request", {"messages": [user("Hello?")], "top_p": 5}, error=("BadRequestError",)),
)


def key_of(site: V1Site, scenario: Scenario) -> str:
    return {"token": site.token, "poor": site.poor, "wrong": "sh_wrong"}[scenario.key]


def prepare(site: V1Site, scenario: Scenario) -> Body:
    """Let the vendor say what the scenario wants; the body of the call."""
    site.calm()
    site.openai.text, site.openai.finish = scenario.text, scenario.vendor_finish
    return {"model": "auto"} | dict(scenario.body)


def verdict(site: V1Site, scenario: Scenario, said: Said) -> None:
    assert bool(said.error) == bool(scenario.error), (scenario.name, said)
    if scenario.error:
        assert said.error in scenario.error, (scenario.name, said)
        return
    assert said.text == scenario.text, (scenario.name, said)
    assert said.finish in ("", scenario.finish), (scenario.name, said)
    assert scenario.asked(site.openai.calls[-1]), (scenario.name, site.openai.calls[-1])


# -- openai ----------------------------------------------------------------------------------------------------------------
def of_openai(answer: Any) -> Said:
    (choice,) = answer.choices
    assert answer.usage.total_tokens > 0
    wishes = [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    return Said(choice.message.content or "", choice.finish_reason, wishes)


def with_openai(url: str, key: str, body: Body) -> Said:
    with openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0) as client:
        try:
            if not body.get("stream"):
                return of_openai(client.chat.completions.create(**body))
            chunks = list(client.chat.completions.create(**body))
        except openai.APIStatusError as exc:
            return Said(error=type(exc).__name__ if exc.request_id else "no id")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return Said(text, next(chunk.choices[0].finish_reason for chunk in reversed(chunks) if chunk.choices) or "")


def with_openai_async(url: str, key: str, body: Body) -> Said:
    async def run() -> Said:
        async with openai.AsyncOpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0) as client:
            try:
                if not body.get("stream"):
                    return of_openai(await client.chat.completions.create(**body))
                text = ""
                async for chunk in await client.chat.completions.create(**body):
                    text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                return Said(text)
            except openai.APIStatusError as exc:
                return Said(error=type(exc).__name__)

    # In a thread of its own: once a browser was driven in this one, an event loop runs here until the end.
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(asyncio.run, run()).result()


# -- anthropic ---------------------------------------------------------------------------------------------------------------
_STOP = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


def with_anthropic(url: str, key: str, body: Body) -> Said:
    with anthropic.Anthropic(api_key=key, base_url=url, max_retries=0) as client:
        try:
            if body.get("stream"):
                with client.messages.stream(**_message(body)) as stream:
                    text = "".join(stream.text_stream)
                    answer = stream.get_final_message()
                assert text == "".join(block.text for block in answer.content if block.type == "text")
            else:
                answer = client.messages.create(**_message(body))
        except anthropic.APIStatusError as exc:
            return Said(error=type(exc).__name__ if exc.request_id else "no id")
    assert answer.usage.output_tokens > 0
    text = "".join(block.text for block in answer.content if block.type == "text")
    wishes = [(block.id, block.name, json.dumps(block.input)) for block in answer.content if block.type == "tool_use"]
    return Said(text, _STOP[answer.stop_reason or ""], wishes)


def _message(body: Body) -> Body:
    """The same call in Anthropic's format."""
    made: Body = {"model": body["model"], "max_tokens": body.get("max_tokens", 100), "messages": []}
    for message in body["messages"]:
        if message["role"] == "system":
            made["system"] = message["content"]
            continue
        content = message["content"]
        if isinstance(content, list):
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            content = [part if part["type"] == "text" else {"type": "image", "source": source} for part in content]
        made["messages"].append({"role": message["role"], "content": content})
    if "stop" in body:
        made["stop_sequences"] = body["stop"]
    if "response_format" in body:
        made["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    if "top_p" in body:
        made["extra_body"] = {"top_p": body["top_p"]}
    return made


# -- llm ---------------------------------------------------------------------------------------------------------------------
def with_llm(url: str, key: str, body: Body) -> Said:
    options = {name: body[name] for name in ("max_tokens", "top_p") if name in body}
    if "stop" in body:
        options["stop"] = body["stop"][0]
    asked = body["messages"][-1]["content"]
    attachments = []
    if isinstance(asked, list):
        asked, attachments = asked[0]["text"], [llm.Attachment(type="image/png", content=base64.b64decode(PNG))]
    system = body["messages"][0]["content"] if body["messages"][0]["role"] == "system" else None
    model = llm.get_model("unknown" if body["model"] == "nothing" else "switchhook")
    try:
        response = model.prompt(
            asked,
            system=system,
            attachments=attachments,
            schema=SCHEMA if "response_format" in body else None,
            stream=bool(body.get("stream")),
            key=key,
            **options,
        )
        return Said("".join(response) if body.get("stream") else response.text())
    except openai.APIStatusError as exc:
        return Said(error=type(exc).__name__)
    except ValueError:
        # It checks its options itself.
        return Said(error="BadRequestError")


@pytest.fixture
def llm_models(site: V1Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    able = "  api_key_name: switchhook\n  vision: true\n  supports_schema: true\n  supports_tools: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(
        "".join(
            f"- model_id: {name}\n  model_name: {model}\n  api_base: {site.url}/v1\n{able}"
            for name, model in (("switchhook", "auto"), ("unknown", "nothing"))
        )
    )
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))


@pytest.mark.parametrize("client", [with_openai, with_openai_async, with_anthropic, with_llm], ids=lambda call: call.__name__)
@pytest.mark.usefixtures("llm_models")
def test_a_client_gets_what_it_asks_for(site: V1Site, client: Callable[[str, str, Body], Said]) -> None:
    for scenario in SCENARIOS:
        verdict(site, scenario, client(site.url, key_of(site, scenario), prepare(site, scenario)))
    assert site.open_holds() == 0


# -- tools, models, pictures -------------------------------------------------------------------------------------------------
TOOL = {"type": "function", "function": {"name": "weather", "description": "How it is.", "parameters": SCHEMA}}


def test_openais_library_goes_round_with_tools_and_lists_models_and_makes_pictures(site: V1Site) -> None:
    site.openai.wishes = [("weather", {"town": "Graz"})]
    with openai.OpenAI(api_key=site.token, base_url=f"{site.url}/v1", max_retries=0) as client:
        messages: list[Any] = [user("How is it?")]
        first = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])  # type: ignore[list-item]
        (call,) = first.choices[0].message.tool_calls or ()
        assert (first.choices[0].finish_reason, json.loads(call.function.arguments)) == ("tool_calls", {"town": "Graz"})  # type: ignore[union-attr]
        messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
        told = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])  # type: ignore[list-item]
        assert told.choices[0].message.content == SAYS
        assert site.openai.calls[-1]["messages"][-1]["content"] == "Rain."
        names = [model.id for model in client.models.list()]
        assert {"auto", "openai/gpt-4.1-mini"} <= set(names)
        assert client.models.retrieve("openai/gpt-4.1-mini").id == "openai/gpt-4.1-mini"
        made = client.images.generate(model=f"openai/{site.openai.images.model}", prompt="a cat", size="1024x1024")
        assert base64.b64decode((made.data or [])[0].b64_json or "").startswith(b"\x89PNG")
        assert made.usage is not None
        for call_it in (
            lambda: client.embeddings.create(model="auto", input="x"),
            lambda: client.responses.create(model="auto", input="x"),
            lambda: client.moderations.create(input="x"),
        ):
            with pytest.raises(openai.NotFoundError, match="not served here"):
                call_it()


def test_anthropics_library_goes_round_with_tools_and_counts_tokens(site: V1Site) -> None:
    site.openai.wishes, site.openai.wish_text = [("weather", {"town": "Graz"})], "I shall look."
    tool: Any = {"name": "weather", "description": "How it is.", "input_schema": SCHEMA}
    with anthropic.Anthropic(api_key=site.token, base_url=site.url, max_retries=0) as client:
        messages: list[Any] = [user("How is it?")]
        with client.messages.stream(model="auto", max_tokens=100, messages=messages, tools=[tool]) as stream:
            first = stream.get_final_message()
        assert (first.stop_reason, [block.type for block in first.content]) == ("tool_use", ["text", "tool_use"])
        wish = first.content[1]
        assert wish.type == "tool_use"
        assert wish.input == {"town": "Graz"}
        result = {"type": "tool_result", "tool_use_id": wish.id, "content": "Rain."}
        messages += [{"role": "assistant", "content": first.content}, user([result])]
        told = client.messages.create(model="auto", max_tokens=100, messages=messages, tools=[tool])
        assert told.content[0].type == "text"
        assert told.content[0].text == SAYS
        assert site.openai.calls[-1]["messages"][-1] == site.openai.calls[-1]["messages"][-1] | {"content": "Rain."}
        assert client.messages.count_tokens(model="auto", messages=messages[:1]).input_tokens > 0
        assert "auto" in [model.id for model in client.models.list(limit=2)]


@pytest.mark.usefixtures("llm_models")
def test_llm_calls_its_tools(site: V1Site) -> None:
    site.openai.wishes = [("weather", {"town": "Graz"})]
    towns: list[str] = []

    def weather(town: str) -> str:
        """How it is."""
        towns.append(town)
        return "Rain."

    said = llm.get_model("switchhook").chain("How is it?", tools=[weather], key=site.token, stream=False).text()
    assert (said, towns) == (SAYS, ["Graz"])


# -- openai for JavaScript ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def npm_openai() -> Path:
    """The folder in which the library is; it is fetched once for all runs on this machine."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = Path(tempfile.gettempdir()) / f"switchhook-npm-openai-{NPM_OPENAI}"
    if not (folder / "node_modules" / "openai" / "package.json").exists():
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"openai@{NPM_OPENAI}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
            pytest.skip(f"npm cannot fetch openai@{NPM_OPENAI} within a minute: {type(exc).__name__}")
    return folder


def test_openais_library_for_javascript_gets_what_it_asks_for(site: V1Site, npm_openai: Path) -> None:
    # All in one process, and so with one kind of answer: those with words of their own are left to the others.
    scenarios = [scenario for scenario in SCENARIOS if scenario.text == SAYS and not scenario.vendor_finish]
    given = {
        "folder": str(npm_openai),
        "url": site.url,
        "key": site.token,
        "scenarios": [{"body": prepare(site, each), "key": key_of(site, each)} for each in scenarios],
    }
    before = len(site.openai.calls)
    program = Path(__file__).with_name("v1_clients.mjs")
    done = subprocess.run(["node", program], input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    calls = iter(site.openai.calls[before:])
    for scenario, said in zip(scenarios, told["said"], strict=True):
        assert said.get("error", "") in (scenario.error or ("",)), (scenario.name, said)
        if not scenario.error:
            assert (said["text"], said["finish"]) == (scenario.text, scenario.finish), (scenario.name, said)
            assert scenario.asked(next(calls)), scenario.name
    assert "auto" in told["models"]
    site.openai.wishes = [("weather", {"town": "Graz"})]
    body = {"model": "auto", "messages": [user("How is it?")], "tools": [TOOL]}
    given["scenarios"] = [{"body": body, "key": site.token}]
    done = subprocess.run(["node", program], input=json.dumps(given), capture_output=True, text=True, timeout=60, check=True)
    (wish,) = json.loads(done.stdout)["said"]
    assert wish["finish"] == "tool_calls"
    assert (wish["wishes"][0][1], json.loads(wish["wishes"][0][2])) == ("weather", {"town": "Graz"})


# -- clients that hang up ----------------------------------------------------------------------------------------------------
def asked(site: V1Site, path: str) -> http.client.HTTPResponse:
    """The head of a streamed answer, on a connection of its own that ends with it."""
    connection = http.client.HTTPConnection("127.0.0.1", site.product.port, timeout=20)
    body = {
        "model": "mistral/slow",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Tell me more"}],
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json", "Connection": "close"}
    connection.request("POST", path, json.dumps(body), headers)
    return connection.getresponse()


@pytest.mark.parametrize(
    ("path", "pings"),
    [("/v1/chat/completions", False), ("/v1/chat/completions", True), ("/v1/messages", False)],
)
def test_who_hangs_up_ends_the_vendors_call_and_pays_for_what_there_was(
    site: V1Site, vendor: SlowVendor, path: str, pings: bool
) -> None:
    vendor.says, vendor.pings = event(text_chunk("Once upon a time")), pings
    vendor.closed.clear()
    with asked(site, path) as answer:
        while b"Once upon" not in answer.readline():
            pass
    gone = time.monotonic()
    assert vendor.closed.wait(10)
    assert time.monotonic() - gone < 2
    site.product.wait_until(lambda: site.newest().status == "cancelled", "the request is cancelled", 5)
    request = site.newest()
    (entry,) = site.ledger(request)
    assert (request.answer, request.error_code) == ("Once upon a time", "cancelled")
    assert (entry.estimated, entry.output_tokens > 0, entry.cost_microusd > 0) == (True, True, True)
    assert site.open_holds() == 0
