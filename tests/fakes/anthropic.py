"""A fake of Anthropic's Messages API. Runs alone as `python -m tests.fakes.anthropic`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .anthropic_checks import VERSIONS, Refused, check_body, error_body, words_in
from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeTextVendor, Reported, Trouble

SSE = "text/event-stream; charset=utf-8"
_FRAGMENT_CHARS = 7
Wishes = list[tuple[str, dict[str, Any]]]


def event(value: Mapping[str, Any], name: str | None = None) -> bytes:
    """One server-sent event, named as its JSON says."""
    data = json.dumps(value, ensure_ascii=False)
    return f"event: {name or value['type']}\ndata: {data}\n\n".encode()


def text_delta(text: str, index: int = 0) -> bytes:
    """A piece of the answer."""
    return event({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})


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
        if self.script is not None:
            return FakeReply(200, headers | {"Content-Type": "application/json"}, self.script())
        self._report(body)
        return FakeReply.json(self._document(body, self._text(body), self._wishes(body)), headers=headers)

    def _wishes(self, body: Mapping[str, Any]) -> Wishes:
        """The tools that it asks for."""
        chosen = body.get("tool_choice", {})
        choice = {"any": "required", "tool": chosen.get("name")}.get(chosen.get("type"), chosen.get("type", ""))
        last = body["messages"][-1]["content"]
        answered = not isinstance(last, str) and last[-1]["type"] == "tool_result"
        return self.asked_for([tool["name"] for tool in body.get("tools", ())], choice, answered=answered)

    def _text(self, body: Mapping[str, Any]) -> str:
        return self.wish_text if self._wishes(body) else self.text

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
        *pieces, last = self._events(body, self._text(body), self._wishes(body))
        for piece in pieces:
            yield piece
            if self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
        self._report(body)
        yield last

    def _events(self, body: Mapping[str, Any], text: str, wishes: Wishes | None = None) -> Iterator[bytes]:
        told = self._told(body, text, wishes)
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
            index += 1
        for number, (name, arguments) in enumerate(wishes or ()):
            yield from self._wish(index + number, number, name, arguments)
        ending = {"type": "message_delta", "delta": self._stop(wishes)}
        yield event(ending | ({"usage": told} if told else {}))
        yield event({"type": "message_stop"})

    def _wish(self, index: int, number: int, name: str, arguments: Mapping[str, Any]) -> Iterator[bytes]:
        """The block in which a tool is asked for. Without arguments its input is an empty object and there are no deltas."""
        block = {"type": "tool_use", "id": f"toolu_{number:04}", "name": name, "input": {}}
        yield event({"type": "content_block_start", "index": index, "content_block": block})
        written = json.dumps(arguments, ensure_ascii=False) if arguments else ""
        for start in range(0, len(written), _FRAGMENT_CHARS):
            delta = {"type": "input_json_delta", "partial_json": written[start : start + _FRAGMENT_CHARS]}
            yield event({"type": "content_block_delta", "index": index, "delta": delta})
        yield event({"type": "content_block_stop", "index": index})

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

    def _document(self, body: Mapping[str, Any], text: str, wishes: Wishes | None = None) -> dict[str, Any]:
        """A whole message."""
        content: list[dict[str, Any]] = []
        if self.reasoning_tokens:
            content.append({"type": "thinking", "thinking": "Hidden thoughts.", "signature": "EqQB"})
        if text:
            content.append({"type": "text", "text": text})
        for number, (name, arguments) in enumerate(wishes or ()):
            content.append({"type": "tool_use", "id": f"toolu_{number:04}", "name": name, "input": arguments})
        told = self._told(body, text, wishes)
        return self._message(body) | {"content": content} | self._stop(wishes) | ({"usage": told} if told else {})

    def _stop(self, wishes: Wishes | None = None) -> dict[str, Any]:
        reason = self.finish or ("tool_use" if wishes else "end_turn")
        details = {"type": "refusal", "category": "general_harms", "explanation": "This could do harm."}
        return {"stop_reason": reason, "stop_sequence": None, "stop_details": details if reason == "refusal" else None}

    # -- counts: a word is a token ---------------------------------------------------------------------------------
    def _told(self, body: Mapping[str, Any], text: str, wishes: Wishes | None = None) -> dict[str, Any]:
        """The usage in the vendor's convention: cached tokens lie beside the input."""
        if not self.with_usage:
            return {}
        asked = sum(1 + len(json.dumps(arguments).split()) for _, arguments in wishes or ())
        return {
            "input_tokens": words_in(body),
            "cache_creation_input_tokens": self.cache_write_tokens,
            "cache_read_input_tokens": self.cached_tokens,
            "cache_creation": {"ephemeral_5m_input_tokens": self.cache_write_tokens, "ephemeral_1h_input_tokens": 0},
            "output_tokens": len(text.split()) + self.reasoning_tokens + asked,
            "output_tokens_details": {"thinking_tokens": self.reasoning_tokens},
            "service_tier": "standard",
        }

    def _report(self, body: Mapping[str, Any]) -> None:
        if told := self._told(body, self._text(body), self._wishes(body)):
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
