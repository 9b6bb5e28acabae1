"""A fake of OpenAI's chat API and of the servers that speak it. Runs alone as `python -m tests.fakes.openai`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.server import FakeReply, FakeRequest, FakeServer, run_as_process

SSE = "text/event-stream; charset=utf-8"


def event(value: object) -> bytes:
    """One unnamed server-sent event; a string goes as it is, anything else as JSON."""
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {data}\n\n".encode()


def text_chunk(content: object, **choice: object) -> dict[str, Any]:
    """A chunk of a streamed completion."""
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "fake-model-2026",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None} | choice],
        "usage": None,
    }


class FakeOpenAI(FakeServer):
    """Answers `POST …/chat/completions`, streamed or whole, and `GET …/models`, under any base path.

    `text` is what it answers: a string, or a function of the request's body. `script` replaces the stream: its pieces
    of bytes are sent as they are. `refuse` names fields that give the 400 of a model that does not take them. With
    `key`, calls need it as their bearer token.
    """

    def __init__(self, port: int = 0, *, first_delay_s: float = 0.0, piece_delay_s: float = 0.0) -> None:
        super().__init__(port)
        self.text: str | Callable[[dict[str, Any]], str] = "Hello there. This is the fake vendor speaking."
        self.models = ["fake-embed-1", "fake-model", "fake-model-large"]
        self.first_delay_s = first_delay_s
        self.piece_delay_s = piece_delay_s
        self.script: Callable[[], Iterator[bytes]] | None = None
        self.finish = "stop"
        self.with_usage = True
        self.refuse: set[str] = set()
        self.key = ""
        self.calls: list[dict[str, Any]] = []
        """The parsed body of every chat call that was handled, in order."""

    def handle(self, request: FakeRequest) -> FakeReply:
        if self.key and request.header("Authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided.", code="invalid_api_key")
        if request.path.endswith("/models"):
            return FakeReply.json({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            return self._complete(request.json())
        return _error(404, f"There is no {request.path}.", code="not_found")

    def control(self, request: FakeRequest) -> FakeReply:
        if request.path == "/_calls":
            with self.lock:
                return FakeReply.json({"count": len(self.calls)})
        return super().control(request)

    def _complete(self, body: dict[str, Any]) -> FakeReply:
        with self.lock:
            self.calls.append(body)
        for name in sorted(self.refuse & body.keys()):
            return _error(400, f"Unsupported parameter: '{name}'.", code="unsupported_parameter", param=name)
        text = self.text if isinstance(self.text, str) else self.text(body)
        headers = {"x-request-id": f"req-{len(self.calls)}"}
        if body.get("stream"):
            return FakeReply(200, headers | {"Content-Type": SSE}, self._stream(body, text))
        self.stopping.wait(self.first_delay_s)
        message = {"role": "assistant", "content": text, "refusal": None}
        return FakeReply.json(
            {
                "id": "chatcmpl-fake",
                "object": "chat.completion",
                "model": "fake-model-2026",
                "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
                "usage": self.usage(body, text),
            },
            headers=headers,
        )

    def _stream(self, body: dict[str, Any], text: str) -> Iterator[bytes]:
        if self.first_delay_s:
            self.stopping.wait(self.first_delay_s)
        if self.script is not None:
            yield from self.script()
            return
        start = text_chunk("")
        start["choices"][0]["delta"]["role"] = "assistant"
        yield event(start)
        for position, word in enumerate(text.split(" ")):
            yield event(text_chunk(f" {word}" if position else word))
            if self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
        yield event(text_chunk(None, delta={}, finish_reason=self.finish))
        if self.with_usage and (body.get("stream_options") or {}).get("include_usage"):
            yield event(text_chunk(None) | {"choices": [], "usage": self.usage(body, text)})
        yield event("[DONE]")

    def usage(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        """Words stand for tokens: deterministic, and easy to reckon with in a test."""
        prompt = sum(len(str(message["content"]).split()) for message in body["messages"])
        answer = len(text.split())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


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
