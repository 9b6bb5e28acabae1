"""A fake of Ollama's own API. Runs alone as `python -m tests.fakes.ollama`."""

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

NDJSON = "application/x-ndjson"
CREATED = "2026-11-21T10:00:00.123456789Z"
Wishes = list[tuple[str, dict[str, Any]]]
_OPTIONS = {
    "num_predict": int,
    "num_ctx": int,
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": int,
    "min_p": (int, float),
    "seed": int,
    "stop": list,
    "repeat_penalty": (int, float),
}
_FIELDS = {"model", "messages", "stream", "format", "options", "keep_alive", "think", "truncate", "shift", "tools"}


def line(value: object) -> bytes:
    """One line of a stream."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def text_line(content: object, model: str = "fake-model", **message: object) -> dict[str, Any]:
    """A line of a streamed answer."""
    told = {"role": "assistant", "content": content} | message
    return {"model": model, "created_at": CREATED, "message": told, "done": False}


def last_line(model: str = "fake-model", *, reason: str = "stop", **counts: object) -> dict[str, Any]:
    """The line that ends an answer."""
    return text_line("", model) | {
        "done": True,
        "done_reason": reason,
        "total_duration": 4_883_583_458,
        "load_duration": 1_334_875,
        **counts,
    }


def whole_stream(text: str) -> bytes:
    """The body of an answer that says `text` word by word, with counts."""
    pieces = [line(text_line(piece)) for piece in _pieces(text)]
    return b"".join(pieces) + line(last_line(prompt_eval_count=26, eval_count=len(text.split())))


class FakeOllama(FakeTextVendor):
    """Answers `/`, `/api/version`, `/api/tags`, `/api/show` and `/api/chat`, under any base path.

    With `key`, calls need it as their bearer token, as at ollama.com. `models` are names and what each can do; where
    `lists_capabilities` is off, only `/api/show` tells it, as on older servers. `refuse` names fields of a call
    (`think`, `format`) that the model does not take.
    """

    name = "ollama"

    def __init__(self, port: int = 0, *, first_delay_s: float = 0.0, piece_delay_s: float = 0.0) -> None:
        super().__init__(port)
        self.first_delay_s = first_delay_s
        self.piece_delay_s = piece_delay_s
        self.models: dict[str, list[str]] = {
            "fake-embed-1:latest": ["embedding"],
            "fake-model:latest": ["completion", "tools"],
            "fake-vision:7b": ["completion", "vision"],
        }
        self.context_length = 8192
        self.lists_capabilities = True
        self.streams = True
        """Off: it answers with one document although a stream was asked for."""
        self.refuse: set[str] = set()
        self.calls: list[dict[str, Any]] = []
        """The parsed body of every chat call that was handled, in order."""

    @property
    def settings(self) -> Mapping[str, str]:
        return {"OLLAMA_HOST": self.url, "OLLAMA_API_KEY": self.key, "OLLAMA_MODEL": self.model}

    def trouble(self, kind: Trouble) -> Fault | None:
        wait = {"Retry-After": "7"}
        said: dict[Trouble, tuple[int, str, dict[str, str]]] = {
            Trouble.RATE_LIMITED: (429, "you have sent too many requests", wait),
            Trouble.OVERLOADED: (503, "server busy, please try again.  maximum pending requests exceeded", wait),
            Trouble.DOWN: (500, "llama runner process has terminated: exit status 2", {}),
            Trouble.BAD_KEY: (401, "unauthorized", {}),
            Trouble.NO_MODEL: (404, f"model '{self.model}' not found", {}),
            Trouble.TOO_LONG: (400, "the input length exceeds the context length", {}),
            Trouble.BAD_REQUEST: (400, "json: cannot unmarshal string into Go struct field ChatRequest.messages", {}),
        }
        if kind not in said:
            return None
        status, words, headers = said[kind]
        return Fault(status=status, headers=headers, body=json.dumps({"error": words}).encode())

    def good_stream(self, text: str) -> bytes:
        return whole_stream(text)

    def good_document(self, text: str) -> bytes | None:
        said = {"message": {"role": "assistant", "content": text}}
        return json.dumps(last_line(prompt_eval_count=26, eval_count=len(text.split())) | said).encode()

    def handle(self, request: FakeRequest) -> FakeReply:
        path = request.path
        if request.method == "GET" and path == "/":
            return FakeReply(200, {"Content-Type": "text/plain"}, b"Ollama is running")
        if self.key and request.header("Authorization") != f"Bearer {self.key}":
            return _error(401, "unauthorized")
        if request.method == "GET" and path.endswith("/api/version"):
            return FakeReply.json({"version": "0.23.1"})
        if request.method == "GET" and path.endswith("/api/tags"):
            return FakeReply.json({"models": [self._entry(name) for name in self.models]})
        if request.method == "POST" and path.endswith(("/api/show", "/api/chat")):
            try:
                body = request.json()
            except ValueError:
                return _error(400, "invalid character in the body")
            if not isinstance(body, dict):
                return _error(400, "json: cannot unmarshal the body")
            return self._show(body) if path.endswith("/api/show") else self._chat(body)
        return FakeReply(404, {"Content-Type": "text/plain"}, b"404 page not found")

    def control(self, request: FakeRequest) -> FakeReply:
        if request.path == "/_calls":
            with self.lock:
                return FakeReply.json({"count": len(self.calls)})
        return super().control(request)

    # -- what it has -----------------------------------------------------------------------------------------------
    def _entry(self, name: str) -> dict[str, Any]:
        details: dict[str, Any] = {"format": "gguf", "family": "fake", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"}
        entry = {"name": name, "model": name, "modified_at": CREATED, "size": 2_019_393_189, "digest": f"a80c4f17{name}"}
        if self.lists_capabilities:
            details["context_length"] = self.context_length
            entry["capabilities"] = self.models[name]
        return entry | {"details": details}

    def _installed(self, name: object) -> str:
        """The full name of an installed model, '' if it is none."""
        full = str(name) if ":" in str(name) else f"{name}:latest"
        return full if full in self.models else ""

    def _show(self, body: dict[str, Any]) -> FakeReply:
        name = self._installed(body.get("model"))
        if not name:
            return _error(404, f"model '{body.get('model')}' not found")
        about = {"general.architecture": "fake", "fake.context_length": self.context_length}
        return FakeReply.json({"details": {"family": "fake"}, "model_info": about, "capabilities": self.models[name]})

    # -- chat ------------------------------------------------------------------------------------------------------
    def _chat(self, body: dict[str, Any]) -> FakeReply:
        if fault := self._complaint(body):
            return _error(*fault)
        with self.lock:
            self.calls.append(body)
        if self.streams and body.get("stream", True):
            return FakeReply(200, {"Content-Type": NDJSON}, self._stream(body))
        self.delay()
        if self.script is not None:
            return FakeReply(200, {"Content-Type": "application/json"}, self.script())
        self.report(self._counts(body))
        message: dict[str, Any] = {"role": "assistant", "content": self._text(body)}
        if wishes := _calls(self._wishes(body)):
            message["tool_calls"] = wishes
        if self.reasoning_tokens:
            message["thinking"] = "hm " * self.reasoning_tokens
        return FakeReply.json(self._end(body) | {"message": message})

    def _wishes(self, body: dict[str, Any]) -> Wishes:
        """The tools that it asks for. Its format knows no choice."""
        offered = [tool["function"]["name"] for tool in body.get("tools") or ()]
        return self.asked_for(offered, "", answered=body["messages"][-1]["role"] == "tool")

    def _text(self, body: dict[str, Any]) -> str:
        return self.wish_text if self._wishes(body) else self.text

    def _complaint(self, body: dict[str, Any]) -> tuple[int, str] | None:
        """The status and words of the server for a body that it does not take."""
        if unknown := body.keys() - _FIELDS:
            return 400, f"unknown fields {sorted(unknown)}"
        if not isinstance(body.get("model"), str) or not body["model"]:
            return 400, "model is required"
        name = self._installed(body["model"])
        if not name:
            return 404, f"model '{body['model']}' not found"
        if "completion" not in self.models[name]:
            return 400, f'"{body["model"]}" does not support chat'
        for field in ("stream", "think", "truncate"):
            if not isinstance(body.get(field, False), bool):
                return 400, f"json: cannot unmarshal into Go struct field ChatRequest.{field} of type bool"
        if "think" in self.refuse & body.keys():
            return 400, f'"{body["model"]}" does not support thinking'
        if "format" in self.refuse & body.keys():
            return 400, "invalid JSON schema in format"
        if "format" in body and body["format"] != "json" and not isinstance(body["format"], dict):
            return 400, 'invalid format: expected "json" or a JSON schema'
        if body.get("tools") and "tools" not in self.models[name]:
            return 400, f'"{body["model"]}" does not support tools'
        for tool in body.get("tools") or ():
            if tool.get("type") != "function" or tool["function"].get("parameters", {}).get("type") != "object":
                return 400, "json: cannot unmarshal into Go struct field ChatRequest.tools"
        return _bad_options(body.get("options", {})) or self._bad_messages(body, vision="vision" in self.models[name])

    def _bad_messages(self, body: dict[str, Any], *, vision: bool) -> tuple[int, str] | None:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return 400, "messages are required"
        for message in messages:
            if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant", "tool"):
                return 400, "invalid message role"
            if not isinstance(message.get("content"), str):
                return 400, "json: cannot unmarshal into Go struct field Message.messages.content of type string"
            for wish in message.get("tool_calls", ()):
                if not isinstance(wish["function"]["arguments"], dict):
                    return 400, "json: cannot unmarshal string into Go struct field ToolCallFunction.arguments"
            for image in message.get("images", []):
                try:
                    base64.b64decode(image, validate=True)
                except (binascii.Error, TypeError, ValueError):
                    return 400, "illegal base64 data at input byte 0"
                if not vision:
                    return 400, "this model is missing data required for image input"
        size = body.get("options", {}).get("num_ctx", 4096)
        if body.get("truncate") is False and self._prompt_tokens(body) > size:
            return 400, "the input length exceeds the context length"
        return None

    def _stream(self, body: dict[str, Any]) -> Iterator[bytes]:
        self.delay()
        if self.script is not None:
            yield from self.script()
            return
        model = body["model"]
        for _ in range(self.reasoning_tokens):
            yield line(text_line("", model, thinking="hm "))
        text, wishes = self._text(body), _calls(self._wishes(body))
        for piece in _pieces(text) if text or not wishes else ():
            yield line(text_line(piece, model))
            if self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
        for wish in wishes:
            yield line(text_line("", model, tool_calls=[wish]))
        self.report(self._counts(body))
        yield line(self._end(body))

    def _end(self, body: dict[str, Any]) -> dict[str, Any]:
        counts = self._counts(body)
        told: dict[str, object] = {}
        if self.with_usage:
            told = {"prompt_eval_count": counts.input_tokens, "prompt_eval_duration": 342_546_000}
            told |= {"eval_count": counts.output_tokens, "eval_duration": 4_535_599_000}
        return last_line(body["model"], reason=self.finish or "stop", **told)

    def _counts(self, body: dict[str, Any]) -> Reported:
        # Ollama tells neither cached nor reasoning tokens apart; the latter are in its count of the answer.
        answer = len(self._text(body).split()) + self.reasoning_tokens
        answer += sum(1 + len(json.dumps(arguments).split()) for _, arguments in self._wishes(body))
        return Reported(model=body["model"], input_tokens=self._prompt_tokens(body), output_tokens=answer)

    def _prompt_tokens(self, body: dict[str, Any]) -> int:
        """Words stand for tokens."""
        return sum(len(message["content"].split()) for message in body["messages"])


def _calls(wishes: Wishes) -> list[dict[str, Any]]:
    return [
        {"function": {"index": index, "name": name, "arguments": arguments}} for index, (name, arguments) in enumerate(wishes)
    ]


def _bad_options(options: object) -> tuple[int, str] | None:
    if not isinstance(options, dict):
        return 400, "json: cannot unmarshal into Go struct field ChatRequest.options"
    for name, value in options.items():
        if name not in _OPTIONS:
            return 400, f'invalid option provided: "{name}"'
        if isinstance(value, bool) or not isinstance(value, _OPTIONS[name]):
            return 400, f'option "{name}" must be of type {_OPTIONS[name]}'
    return None


def _pieces(text: str) -> list[str]:
    return [f" {word}" if position else word for position, word in enumerate(text.split(" "))]


def _error(status: int, words: str) -> FakeReply:
    return FakeReply.json({"error": words}, status=status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first piece of an answer")
    parser.add_argument("--piece-delay", type=float, default=0.0, help="seconds between two pieces")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run_as_process(
        lambda port: FakeOllama(port, first_delay_s=mine.delay, piece_delay_s=mine.piece_delay),
        "A fake of Ollama's API. --delay and --piece-delay: seconds before and between the pieces of an answer.",
    )
