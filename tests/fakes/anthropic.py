"""A fake of Anthropic's Messages API. Runs alone as `python -m tests.fakes.anthropic`."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeTextVendor, Reported, Trouble

SSE = "text/event-stream; charset=utf-8"
VERSIONS = ("2023-06-01", "2026-10-21")
TAKE_TEMPERATURE = ("claude-haiku-4-5", "claude-sonnet-4-6")
PICTURE_TOKENS = 20
_NEEDED = frozenset({"model", "max_tokens", "messages"})
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_OTHER = frozenset({"system", "stop_sequences", "thinking", "output_config", "tools", "tool_choice", "metadata", "stream"})
_FIELDS = _NEEDED | _SAMPLING | _OTHER | {"cache_control", "service_tier", "speed"}
_MAGIC = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8", "image/webp": b"RIFF"}


def event(value: Mapping[str, Any], name: str | None = None) -> bytes:
    """One server-sent event, named as its JSON says."""
    data = json.dumps(value, ensure_ascii=False)
    return f"event: {name or value['type']}\ndata: {data}\n\n".encode()


def text_delta(text: str, index: int = 0) -> bytes:
    """A piece of the answer."""
    return event({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})


def error_body(kind: str, message: str, code: str = "", request_id: str = "req_fake") -> dict[str, Any]:
    """An error as the vendor words it; `code` is the thing to branch on, where there is one."""
    error: dict[str, Any] = {"type": kind, "message": message}
    if code:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": request_id}


class Refused(Exception):
    """The call breaks the format: 400 with these words, unless the status says otherwise."""

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.reply = FakeReply.json(error_body(kind, message), status, {"request-id": "req_fake"})


class FakeAnthropic(FakeTextVendor):
    """Answers `POST /v1/messages`, streamed or whole, and `GET /v1/models`, in pages."""

    name = "anthropic"

    def __init__(self, port: int = 0, *, first_delay_s: float = 0.0, piece_delay_s: float = 0.0) -> None:
        super().__init__(port)
        self.first_delay_s = first_delay_s
        self.piece_delay_s = piece_delay_s
        self.cache_write_tokens = 0
        self.no_schemas: set[str] = set()
        """Models that know no `output_config`."""
        self.models: list[dict[str, Any]] = [listed(name) for name in ("claude-haiku-5-5", "claude-haiku-4-5", self.model)]
        self.calls: list[dict[str, Any]] = []
        """The parsed body of every call for an answer that was handled, in order."""

    @property
    def settings(self) -> Mapping[str, str]:
        return {"ANTHROPIC_API_KEY": self.key, "ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_MODEL": self.model}

    def trouble(self, kind: Trouble) -> Fault | None:
        status, error, message, code = {
            Trouble.RATE_LIMITED: (429, "rate_limit_error", "Number of request tokens has exceeded your rate limit.", ""),
            Trouble.OVERLOADED: (529, "overloaded_error", "Overloaded", ""),
            Trouble.DOWN: (500, "api_error", "Internal server error", ""),
            Trouble.BAD_KEY: (401, "authentication_error", "invalid x-api-key", ""),
            Trouble.NO_CREDIT: (429, "rate_limit_error", "Your spend limit is reached.", "enforced_spend_limit_reached"),
            Trouble.NO_MODEL: (404, "not_found_error", "model: claude-none", ""),
            Trouble.TOO_LONG: (400, "invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum", ""),
            Trouble.POLICY: (400, "invalid_request_error", "Output blocked by content filtering policy", ""),
            Trouble.BAD_REQUEST: (400, "invalid_request_error", "messages: Input should be a valid list", ""),
        }[kind]
        headers = {"Content-Type": "application/json", "request-id": "req_trouble"}
        if kind is Trouble.RATE_LIMITED:
            headers["retry-after"] = "7"
        return Fault(status=status, headers=headers, body=json.dumps(error_body(error, message, code)).encode())

    # -- the server ------------------------------------------------------------------------------------------------
    def handle(self, request: FakeRequest) -> FakeReply:
        try:
            self._check_headers(request)
            if request.method == "GET" and request.path == "/v1/models":
                return self._list(request.query)
            if request.method == "POST" and request.path == "/v1/messages":
                return self._answer(request)
            raise Refused("Not found", 404, "not_found_error")
        except Refused as refused:
            return refused.reply

    def control(self, request: FakeRequest) -> FakeReply:
        if request.path == "/_calls":
            with self.lock:
                return FakeReply.json({"count": len(self.calls)})
        return super().control(request)

    def _check_headers(self, request: FakeRequest) -> None:
        if request.header("x-api-key") != self.key:
            raise Refused("invalid x-api-key", 401, "authentication_error")
        version = request.header("anthropic-version")
        if version not in VERSIONS:
            raise Refused(
                f'anthropic-version: "{version}" is not a valid version' if version else "anthropic-version: required"
            )

    def _list(self, query: Mapping[str, list[str]]) -> FakeReply:
        asked = query.get("limit", ["20"])[0]
        limit = int(asked) if asked.isdecimal() else 0
        if not 1 <= limit <= 1000:
            raise Refused("limit: Input should be from 1 to 1000")
        names = [model["id"] for model in self.models]
        after = query.get("after_id", [""])[0]
        if after and after not in names:
            raise Refused("after_id: not found")
        start = names.index(after) + 1 if after else 0
        page = self.models[start : start + limit]
        ids = [model["id"] for model in page] or [None]
        more = start + limit < len(names)
        return FakeReply.json({"data": page, "has_more": more, "first_id": ids[0], "last_id": ids[-1]})

    def _answer(self, request: FakeRequest) -> FakeReply:
        if not request.header("Content-Type").startswith("application/json"):
            raise Refused("Content-Type: should be application/json")
        try:
            body = request.json()
        except ValueError:
            raise Refused("The request body is not valid JSON") from None
        with self.lock:
            self.calls.append(body)
            number = len(self.calls)
        check_body(body, request.header("anthropic-version"))
        if "output_config" in body and body["model"] in self.no_schemas:
            raise Refused("output_config.format: this model does not support structured outputs")
        headers = {"request-id": f"req_{number:04}", "anthropic-organization-id": "org-fake"}
        if body.get("stream"):
            return FakeReply(200, headers | {"Content-Type": SSE, "Cache-Control": "no-cache"}, self._stream(body))
        self.delay()
        self._report(body)
        return FakeReply.json(self._document(body, self.text), headers=headers)

    # -- an answer -------------------------------------------------------------------------------------------------
    def good_stream(self, text: str) -> bytes:
        return b"".join(self._events(_asked(self.model), text))

    def good_document(self, text: str) -> bytes | None:
        return json.dumps(self._document(_asked(self.model), text), ensure_ascii=False).encode()

    def _stream(self, body: Mapping[str, Any]) -> Iterator[bytes]:
        self.delay()
        if self.script is not None:
            yield from self.script()
            return
        *pieces, last = self._events(body, self.text)
        for piece in pieces:
            yield piece
            if self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
        self._report(body)
        yield last

    def _events(self, body: Mapping[str, Any], text: str) -> Iterator[bytes]:
        told = self._told(body, text)
        start = self._message(body) | {"content": [], "stop_reason": None, "stop_sequence": None}
        if told:
            start["usage"] = told | {"output_tokens": 1, "output_tokens_details": None}
        yield event({"type": "message_start", "message": start})
        index = 0
        if self.reasoning_tokens:
            yield from self._thoughts()
            index = 1
        if text:
            yield event({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}})
            yield event({"type": "ping"})
            for position, word in enumerate(text.split(" ")):
                yield text_delta(f" {word}" if position else word, index)
            yield event({"type": "content_block_stop", "index": index})
        ending = {"type": "message_delta", "delta": self._stop()}
        yield event(ending | ({"usage": told} if told else {}))
        yield event({"type": "message_stop"})

    def _thoughts(self) -> Iterator[bytes]:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield event({"type": "content_block_start", "index": 0, "content_block": block})
        for delta in (
            {"type": "thinking_delta", "thinking": "Hidden thoughts."},
            {"type": "signature_delta", "signature": "EqQB"},
        ):
            yield event({"type": "content_block_delta", "index": 0, "delta": delta})
        yield event({"type": "content_block_stop", "index": 0})

    def _message(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "msg_fake01", "type": "message", "role": "assistant", "model": body["model"]}

    def _document(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        """A whole message."""
        content: list[dict[str, Any]] = []
        if self.reasoning_tokens:
            content.append({"type": "thinking", "thinking": "Hidden thoughts.", "signature": "EqQB"})
        if text:
            content.append({"type": "text", "text": text})
        told = self._told(body, text)
        return self._message(body) | {"content": content} | self._stop() | ({"usage": told} if told else {})

    def _stop(self) -> dict[str, Any]:
        reason = self.finish or "end_turn"
        details = {"type": "refusal", "category": "general_harms", "explanation": "This could do harm."}
        return {"stop_reason": reason, "stop_sequence": None, "stop_details": details if reason == "refusal" else None}

    # -- counts: a word is a token ---------------------------------------------------------------------------------
    def _told(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        """The usage in the vendor's convention: cached tokens lie beside the input."""
        if not self.with_usage:
            return {}
        return {
            "input_tokens": words_in(body),
            "cache_creation_input_tokens": self.cache_write_tokens,
            "cache_read_input_tokens": self.cached_tokens,
            "cache_creation": {"ephemeral_5m_input_tokens": self.cache_write_tokens, "ephemeral_1h_input_tokens": 0},
            "output_tokens": len(text.split()) + self.reasoning_tokens,
            "output_tokens_details": {"thinking_tokens": self.reasoning_tokens},
            "service_tier": "standard",
        }

    def _report(self, body: Mapping[str, Any]) -> None:
        if told := self._told(body, self.text):
            self.report(
                Reported(
                    model=body["model"],
                    input_tokens=told["input_tokens"] + self.cached_tokens + self.cache_write_tokens,
                    output_tokens=told["output_tokens"],
                    cached_tokens=self.cached_tokens,
                    reasoning_tokens=self.reasoning_tokens,
                )
            )


def _asked(model: str) -> dict[str, Any]:
    """A call for the answers that nobody asked for."""
    return {"model": model, "messages": [{"role": "user", "content": "Say hello to me"}]}


def listed(name: str, **more: object) -> dict[str, Any]:
    """A model as the list shows it."""
    abilities = {ability: {"supported": True} for ability in ("batch", "image_input", "pdf_input", "structured_outputs")}
    return {
        "id": name,
        "type": "model",
        "display_name": name.replace("-", " ").title(),
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
        "retires_at": None,
        "capabilities": abilities,
    } | more


def words_in(body: Mapping[str, Any]) -> int:
    """The input in words, and a fixed number for each picture."""
    contents = [body.get("system", " "), *(message["content"] for message in body["messages"])]
    blocks = [block for content in contents for block in _blocks(content)]
    return sum(len(b["text"].split()) if b["type"] == "text" else PICTURE_TOKENS for b in blocks)


# -- what the vendor accepts ---------------------------------------------------------------------------------------------
def check_body(body: Any, version: str) -> None:
    """Raises `Refused` where the vendor would answer 400."""
    if not isinstance(body, dict):
        raise Refused("The request body is not an object")
    for name in sorted(_NEEDED - body.keys()):
        raise Refused(f"{name}: Field required")
    for name in sorted(body.keys() - _FIELDS):
        raise Refused(f"{name}: Extra inputs are not permitted")
    if not isinstance(body["model"], str) or not body["model"]:
        raise Refused("model: String should have at least 1 character")
    cap = body["max_tokens"]
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 0:
        raise Refused("max_tokens: Input should be a valid integer")
    if not isinstance(body.get("stream", False), bool):
        raise Refused("stream: Input should be a valid boolean")
    if "system" in body:
        for block in _blocks(body["system"]):
            _check_block(block, "system", "system")
    _check_messages(body["messages"], body["model"])
    _check_options(body, version)


def _check_options(body: dict[str, Any], version: str) -> None:
    takes = body["model"].startswith(TAKE_TEMPERATURE) and version < "2026-10-21"
    for name in sorted(_SAMPLING & body.keys()):
        if not takes:
            raise Refused(f"`{name}` is not supported by this model.")
    warmth = body.get("temperature", 1)
    if isinstance(warmth, bool) or not isinstance(warmth, int | float) or not 0 <= warmth <= 1:
        raise Refused("temperature: range: 0..1")
    stops = body.get("stop_sequences", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop.strip() for stop in stops):
        raise Refused("stop_sequences: each stop sequence must contain non-whitespace")
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict) or metadata.keys() - {"user_id"}:
        raise Refused("metadata: Extra inputs are not permitted")
    if "output_config" in body:
        wanted = body["output_config"].get("format")
        if not isinstance(wanted, dict) or wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), dict):
            raise Refused("output_config.format: Input should be a json_schema")
        _check_schema(wanted["schema"])


def _check_schema(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            raise Refused("output_config.format.schema: For 'object' type, 'additionalProperties' must be set to false")
        for inner in [*schema.get("properties", {}).values(), schema.get("items")]:
            _check_schema(inner)


def _check_messages(messages: Any, model: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise Refused("messages: at least one message is required")
    for position, message in enumerate(messages):
        place = f"messages.{position}"
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise Refused(f"{place}: Input should have role and content")
        if message["role"] not in ("user", "assistant"):
            raise Refused(f'messages: Unexpected role "{message["role"]}".')
        for block in _blocks(message["content"]):
            _check_block(block, place, message["role"])
    if messages[-1]["role"] == "assistant" and not model.startswith("claude-haiku-4-5"):
        raise Refused("This model does not support assistant message prefill.")


def _blocks(content: Any) -> list[Any]:
    """The blocks of a content field, which may be a string in place of one block of text."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not blocks:
        raise Refused("content: Input should be a valid list")
    return blocks


def _check_block(block: Any, place: str, role: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        if not isinstance(block.get("text"), str) or not block["text"].strip():
            raise Refused(f"{place}: text content blocks must be non-empty")
        return
    if kind != "image" or role != "user":
        raise Refused(f"{place}: Input tag '{kind}' does not match any of the expected tags")
    source = block.get("source")
    if not isinstance(source, dict) or source.keys() != {"type", "media_type", "data"} or source["type"] != "base64":
        raise Refused(f"{place}.image.source: Input should be a base64 source")
    try:
        data = base64.b64decode(source["data"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Refused(f"{place}.image.source.base64: invalid base64 data") from None
    magic = _MAGIC.get(source["media_type"])
    if magic is None or not data.startswith(magic):
        raise Refused(f"{place}.image.source.base64: the data is not of the type {source['media_type']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first piece of an answer")
    parser.add_argument("--piece-delay", type=float, default=0.0, help="seconds between two pieces")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run_as_process(
        lambda port: FakeAnthropic(port, first_delay_s=mine.delay, piece_delay_s=mine.piece_delay),
        "A fake of Anthropic's Messages API. --delay and --piece-delay: seconds before and between the pieces of an answer.",
    )
