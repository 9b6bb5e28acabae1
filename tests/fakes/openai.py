"""A fake of OpenAI's chat API and of the servers that speak it. Runs alone as `python -m tests.fakes.openai`."""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import KEY, FakeTextVendor, Reported, Trouble

SSE = "text/event-stream; charset=utf-8"
ANSWERED_AT = 1_790_000_000
PICTURE_TOKENS = 85

_ROLES = ("developer", "system", "user", "assistant", "tool")
_DATA_URL = re.compile(r"data:image/(png|jpeg|gif|webp);base64,([A-Za-z0-9+/]+=*)\Z")
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_FRAGMENT_CHARS = 7
Wishes = list[tuple[str, dict[str, Any]]]


def event(value: object) -> bytes:
    """One unnamed server-sent event; a string goes as it is, anything else as JSON."""
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {data}\n\n".encode()


def text_chunk(content: object, **choice: object) -> dict[str, Any]:
    """A chunk of a streamed completion."""
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": ANSWERED_AT,
        "model": "fake-model-2026",
        "service_tier": "default",
        "choices": [{"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": None} | choice],
        "usage": None,
        "obfuscation": "q7Rt",
    }


def tool_chunk(index: int, arguments: str, *, id: str = "", name: str = "") -> dict[str, Any]:
    """A chunk with a fragment of a tool call; the first one has its id and name."""
    wish: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if id:
        wish |= {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return text_chunk(None, delta={"tool_calls": [wish]})


class FakeOpenAI(FakeTextVendor):
    """Answers `POST …/chat/completions`, streamed or whole, `GET …/models` and what vendors tell of the account.

    It does so under any base path. `text` may also be a function of the request's body. `refuse` names fields that give
    the 400 of a model that does not take them. Any bearer token will do, unless `key` is set to the one that is wanted.
    """

    name = "openai"

    def __init__(self, port: int = 0, *, first_delay_s: float = 0.0, piece_delay_s: float = 0.0) -> None:
        super().__init__(port)
        self.text: str | Callable[[dict[str, Any]], str] = self.text  # type: ignore[assignment]
        self.models = ["fake-embed-1", "fake-model", "fake-model-large"]
        self.first_delay_s = first_delay_s
        self.piece_delay_s = piece_delay_s
        self.refuse: set[str] = set()
        self.key = ""
        self.cache_write_tokens = 0
        """How many of the input tokens it says were written to its cache."""
        self.cost: object = None
        """`usage.cost`, where a test sets one: OpenRouter tells what it charged."""
        self.balance: Mapping[str, Any] = {
            "is_available": True,
            "balance_infos": [{"currency": "USD", "total_balance": "110.00", "granted_balance": "10.00"}],
        }
        """What DeepSeek says of the account."""
        self.credits: Mapping[str, Any] = {"total_credits": 50.0, "total_usage": 37.5}
        """What OpenRouter says of the account."""
        self.calls: list[dict[str, Any]] = []
        """The parsed body of every chat call that was handled, in order."""

    @property
    def settings(self) -> Mapping[str, str]:
        return {"OPENAI_API_KEY": self.key or KEY, "OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_MODEL": self.model}

    def handle(self, request: FakeRequest) -> FakeReply:
        if self.key and request.header("Authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided.", code="invalid_api_key")
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            try:
                return self._complete(request.json())
            except _Refused as exc:
                return exc.reply
        if request.method == "GET" and (found := self._look(request.path)) is not None:
            return found
        return _error(404, f"Invalid URL ({request.method} {request.path})", code=None)

    def control(self, request: FakeRequest) -> FakeReply:
        if request.path == "/_calls":
            with self.lock:
                return FakeReply.json({"count": len(self.calls)})
        return super().control(request)

    def trouble(self, kind: Trouble) -> Fault | None:
        key = self.key or KEY
        status, message, more = {
            Trouble.RATE_LIMITED: (
                429,
                "Rate limit reached for requests.",
                {"code": "rate_limit_exceeded", "type": "requests"},
            ),
            Trouble.OVERLOADED: (503, "The server is overloaded.", {"code": "server_is_overloaded", "type": "server_error"}),
            Trouble.DOWN: (500, "The server had an error.", {"type": "server_error"}),
            Trouble.BAD_KEY: (401, f"Incorrect API key provided: {key}.", {"code": "invalid_api_key"}),
            Trouble.NO_CREDIT: (429, "You exceeded your quota.", {"code": "insufficient_quota", "type": "insufficient_quota"}),
            Trouble.NO_MODEL: (404, "The model does not exist.", {"code": "model_not_found", "param": "model"}),
            Trouble.TOO_LONG: (400, "Maximum context length is 8.", {"code": "context_length_exceeded", "param": "messages"}),
            Trouble.POLICY: (400, "Your request was refused.", {"code": "content_policy_violation"}),
            Trouble.BAD_REQUEST: (400, "Invalid type for 'messages'.", {"code": "invalid_type", "param": "messages"}),
        }[kind]
        headers = {"Retry-After": "7"} if kind is Trouble.RATE_LIMITED else {}
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None} | more
        return Fault(
            status=status, headers={"Content-Type": "application/json"} | headers, body=json.dumps({"error": error}).encode()
        )

    def good_stream(self, text: str) -> bytes:
        return b"".join(self._events({"messages": [], "stream_options": {"include_usage": True}}, text))

    def good_document(self, text: str) -> bytes | None:
        return json.dumps(self._document({"messages": []}, text), ensure_ascii=False).encode()

    # -- answers ---------------------------------------------------------------------------------------------------
    def _look(self, path: str) -> FakeReply | None:
        """What a GET gives, None for an address that is not there."""
        if path.endswith("/models"):
            return FakeReply.json({"object": "list", "data": [_listed(name) for name in self.models]})
        if "/models/" in path:
            name = path.partition("/models/")[2]
            if name in self.models:
                return FakeReply.json(_listed(name))
            return _error(404, f"The model '{name}' does not exist", code="model_not_found", param="model")
        if path.endswith("/user/balance"):
            return FakeReply.json(dict(self.balance))
        if path.endswith("/credits"):
            return FakeReply.json({"data": dict(self.credits)})
        if path.endswith("/key"):
            return FakeReply.json({"data": {"label": "sk-or-v1-…", "limit": None, "usage": 37.5}})
        return None

    def _complete(self, body: dict[str, Any]) -> FakeReply:
        with self.lock:
            self.calls.append(body)
            number = len(self.calls)
        for name in sorted(self.refuse & body.keys()):
            raise _Refused(f"Unsupported parameter: '{name}'.", "unsupported_parameter", name)
        _check(body)
        text = self.text if isinstance(self.text, str) else self.text(body)
        wishes = self._wishes(body)
        text = self.wish_text if wishes else text
        headers = {"x-request-id": f"req-{number}", "openai-processing-ms": "12", "x-ratelimit-remaining-requests": "499"}
        if body.get("stream"):
            return FakeReply(200, headers | {"Content-Type": SSE}, self._stream(body, text, wishes))
        self.stopping.wait(self.first_delay_s)
        if self.script is not None:
            return FakeReply(200, headers | {"Content-Type": "application/json"}, self.script())
        document = self._document(body, text, wishes)
        self.report(self._reported(self.usage(body, text, wishes)))
        return FakeReply.json(document, headers=headers)

    def _wishes(self, body: dict[str, Any]) -> Wishes:
        """The tools that it asks for."""
        choice = body.get("tool_choice") or ""
        named = choice if isinstance(choice, str) else choice["function"]["name"]
        offered = [tool["function"]["name"] for tool in body.get("tools") or ()]
        return self.asked_for(offered, named, answered=body["messages"][-1]["role"] == "tool")

    def _stream(self, body: dict[str, Any], text: str, wishes: Wishes) -> Iterator[bytes]:
        if self.first_delay_s:
            self.stopping.wait(self.first_delay_s)
        if self.script is not None:
            yield from self.script()
            return
        held = b""
        for position, piece in enumerate(self._events(body, text, wishes)):
            if held:
                yield held
            if position > 1 and self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
            held = piece
        self.report(self._reported(self.usage(body, text, wishes)))
        yield held

    def _events(self, body: dict[str, Any], text: str, wishes: Wishes | None = None) -> Iterator[bytes]:
        start = text_chunk("")
        start["choices"][0]["delta"] |= {"role": "assistant", "refusal": None}
        yield event(start)
        for position, word in enumerate(text.split(" ") if text or not wishes else ()):
            yield event(text_chunk(f" {word}" if position else word))
        for index, (name, arguments) in enumerate(wishes or ()):
            yield event(tool_chunk(index, "", id=f"call_{index:04}", name=name))
            written = json.dumps(arguments, ensure_ascii=False)
            for start_at in range(0, len(written), _FRAGMENT_CHARS):
                yield event(tool_chunk(index, written[start_at : start_at + _FRAGMENT_CHARS]))
        yield event(text_chunk(None, delta={}, finish_reason=self._reason(wishes)))
        if self.with_usage and (body.get("stream_options") or {}).get("include_usage"):
            yield event(text_chunk(None) | {"choices": [], "usage": self.usage(body, text, wishes)})
        yield event("[DONE]")

    def _reason(self, wishes: Wishes | None) -> str:
        return self.finish or ("tool_calls" if wishes else "stop")

    def _document(self, body: dict[str, Any], text: str, wishes: Wishes | None = None) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if wishes:
            message["content"] = text or None
            message["tool_calls"] = [
                {"id": f"call_{index:04}", "type": "function"}
                | {"function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}
                for index, (name, arguments) in enumerate(wishes)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(wishes)}
        whole = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": ANSWERED_AT,
            "model": "fake-model-2026",
            "choices": [choice],
            "usage": self.usage(body, text, wishes),
            "service_tier": "default",
        }
        if not self.with_usage:
            del whole["usage"]
        return whole

    def usage(self, body: dict[str, Any], text: str, wishes: Wishes | None = None) -> dict[str, Any]:
        """Words stand for tokens: deterministic, and easy to reckon with in a test."""
        prompt = sum(_tokens(message["content"]) for message in body["messages"])
        answer = len(text.split()) + self.reasoning_tokens
        answer += sum(1 + len(json.dumps(arguments).split()) for _, arguments in wishes or ())
        told = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "cache_write_tokens": self.cache_write_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }
        return told if self.cost is None else told | {"cost": self.cost}

    def _reported(self, usage: Mapping[str, Any]) -> Reported:
        return Reported(
            model="fake-model-2026",
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            cached_tokens=self.cached_tokens,
            reasoning_tokens=self.reasoning_tokens,
        )


# -- what the vendor does not take -----------------------------------------------------------------------------------
class _Refused(Exception):
    """A body that breaks the format."""

    def __init__(self, message: str, code: str | None, param: str) -> None:
        self.reply = _error(400, message, code=code, param=param)


def _check(body: Mapping[str, Any]) -> None:
    """Raise what the vendor would answer to a body that breaks its format."""
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _Refused("you must provide a model parameter", None, "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Refused("Invalid 'messages': empty array or no array.", "empty_array", "messages")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _Refused("Invalid value for 'role'.", "invalid_value", "messages")
        if message.get("content") is not None or not message.get("tool_calls"):
            _check_content(message.get("content"))
    _check_tool_turns(messages)
    _check_tools(body)
    if not 0 <= body.get("top_p", 1) <= 1:
        raise _Refused("Invalid 'top_p': must be between 0 and 1.", "invalid_value", "top_p")
    if len(body.get("stop") or []) > 4:
        raise _Refused("Invalid 'stop': array too long.", "array_above_max_length", "stop")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise _Refused("The 'stream_options' parameter is only allowed when 'stream' is enabled.", None, "stream_options")
    if body.get("response_format") is not None:
        _check_format(body["response_format"], json.dumps(messages))


def _check_tool_turns(messages: list[dict[str, Any]]) -> None:
    """Tools' answers follow at once to the turn that asked for them, and none is missing."""
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                words = "messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
                raise _Refused(f"Invalid parameter: {words}", None, "messages")
            if not isinstance(message["content"], str):
                raise _Refused("Invalid content of a 'tool' message.", "invalid_value", "messages")
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            raise _Refused(f"An assistant message with 'tool_calls' must be followed by answers: {waiting}", None, "messages")
        for wish in message.get("tool_calls") or ():
            function = wish.get("function") or {}
            if wish.get("type") != "function" or not isinstance(function.get("arguments"), str):
                raise _Refused("Invalid 'tool_calls'.", "invalid_value", "messages")
            if not _SCHEMA_NAME.match(str(function.get("name"))) or not 0 < len(str(wish.get("id"))) <= 40:
                raise _Refused("Invalid 'tool_calls': a name or an id.", "string_above_max_length", "messages")
            waiting.add(wish["id"])
    if waiting:
        raise _Refused(f"An assistant message with 'tool_calls' must be followed by answers: {waiting}", None, "messages")


def _check_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body:
                raise _Refused(f"'{name}' is only allowed when 'tools' are specified.", "invalid_value", name)
        return
    if not isinstance(tools, list) or not 0 < len(tools) <= 128:
        raise _Refused("Invalid 'tools': 1 to 128 of them.", "invalid_value", "tools")
    names = set()
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not _SCHEMA_NAME.match(str(function.get("name"))):
            raise _Refused("Invalid 'tools[0].function.name'.", "invalid_value", "tools[0].function.name")
        schema = function.get("parameters", {"type": "object", "properties": {}})
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise _Refused("schema must be a JSON Schema of 'type: \"object\"'", "invalid_function_parameters", "tools")
        if function.get("strict") and schema.get("additionalProperties") is not False:
            words = "'additionalProperties' is required to be supplied and to be false."
            raise _Refused(words, "invalid_function_parameters", "tools[0].function.parameters")
        names.add(function["name"])
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict) and choice.get("type") == "function" and choice["function"]["name"] in names:
        return
    if choice not in ("auto", "none", "required"):
        raise _Refused("Invalid value for 'tool_choice'.", "invalid_value", "tool_choice")


def _check_content(content: object) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise _Refused("Invalid type for 'messages[0].content'.", "invalid_type", "messages")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            continue
        found = _DATA_URL.match(str(part.get("image_url", {}).get("url"))) if kind == "image_url" else None
        if found is None or not base64.b64decode(found[2], validate=True):
            raise _Refused("Invalid content part.", "invalid_value", "messages")


def _check_format(form: Any, prompt: str) -> None:
    kind = form.get("type")
    if kind == "json_object" and "json" not in prompt.lower():
        raise _Refused("'messages' must contain the word 'json' in some form.", None, "messages")
    if kind == "json_schema":
        named = form.get("json_schema") or {}
        if not _SCHEMA_NAME.match(str(named.get("name"))) or not isinstance(named.get("schema"), dict):
            raise _Refused("Invalid 'response_format.json_schema'.", "invalid_value", "response_format")
        schema = named["schema"]
        if named.get("strict") and (
            schema.get("additionalProperties") is not False or set(schema.get("required", [])) != set(schema["properties"])
        ):
            raise _Refused("Invalid schema for response_format.", "invalid_json_schema", "response_format")
    elif kind not in ("text", "json_object"):
        raise _Refused("Invalid 'response_format.type'.", "invalid_value", "response_format")


def _tokens(content: str | list[dict[str, Any]] | None) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return len(content.split())
    return sum(len(part["text"].split()) if part["type"] == "text" else PICTURE_TOKENS for part in content)


def _listed(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": ANSWERED_AT, "owned_by": "fake"}


def _error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> FakeReply:
    error = {"message": message, "type": "invalid_request_error", "code": code, "param": param}
    return FakeReply.json({"error": error}, status=status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first piece of an answer")
    parser.add_argument("--piece-delay", type=float, default=0.0, help="seconds between two pieces")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run_as_process(
        lambda port: FakeOpenAI(port, first_delay_s=mine.delay, piece_delay_s=mine.piece_delay),
        "A fake of OpenAI's chat API. --delay and --piece-delay: seconds before and between the pieces of an answer.",
    )
