"""A fake of Google's Gemini API, for text and for pictures. Runs alone as `python -m tests.fakes.gemini`."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from .gemini_checks import Complaint, checked, error_body, functions_of, invalid, words_of
from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeImageVendor, FakeTextVendor, FakeVendor, Reported, Trouble, tiny_png

SSE = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json; charset=UTF-8"}
RESPONSE_ID = "fAkE-response-1"
RATINGS = [
    {"category": category, "probability": "NEGLIGIBLE"}
    for category in ("HARM_CATEGORY_HARASSMENT", "HARM_CATEGORY_DANGEROUS_CONTENT")
]
Wishes = list[tuple[str, dict[str, Any]]]


def event(value: object) -> bytes:
    """One unnamed server-sent event; a string goes as it is, anything else as JSON."""
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {data}\r\n\r\n".encode()


def chunk(*parts: Mapping[str, object], finish: str = "", usage: Mapping[str, object] | None = None) -> dict[str, Any]:
    """A piece of an answer as `streamGenerateContent` sends it."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate |= {"finishReason": finish, "safetyRatings": RATINGS}
    if not parts:
        del candidate["content"]
    whole: dict[str, Any] = {"candidates": [candidate], "modelVersion": "fake-model-001", "responseId": RESPONSE_ID}
    return whole if usage is None else whole | {"usageMetadata": dict(usage)}


def blocked(reason: str = "PROHIBITED_CONTENT") -> dict[str, Any]:
    """The answer to a prompt that is not let through: no candidate at all."""
    return {
        "promptFeedback": {"blockReason": reason, "safetyRatings": RATINGS},
        "usageMetadata": {"promptTokenCount": 6, "totalTokenCount": 6},
        "modelVersion": "fake-model-001",
        "responseId": RESPONSE_ID,
    }


def reason(word: str) -> dict[str, object]:
    """An entry of an error's details that names a reason."""
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": word, "domain": "googleapis.com"}


def quota(*quota_ids: str, delay: str = "") -> list[dict[str, object]]:
    """The details of a 429: which quotas are used up and how long to wait."""
    violations = [{"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": name} for name in quota_ids]
    found: list[dict[str, object]] = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}]
    return found + ([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}] if delay else [])


QUOTA_WORDS = "You exceeded your current quota, please check your plan and billing details."
BAD_KEY_WORDS = "API key not valid. Please pass a valid API key."
TOO_LONG_WORDS = "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."
_TROUBLES: dict[Trouble, tuple[int, str, str, list[dict[str, object]]]] = {
    Trouble.RATE_LIMITED: (429, "RESOURCE_EXHAUSTED", QUOTA_WORDS, quota("GenerateRequestsPerMinutePerProject", delay="7s")),
    Trouble.OVERLOADED: (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", []),
    Trouble.DOWN: (500, "INTERNAL", "An internal error has occurred.", []),
    Trouble.BAD_KEY: (400, "INVALID_ARGUMENT", BAD_KEY_WORDS, [reason("API_KEY_INVALID")]),
    Trouble.NO_CREDIT: (402, "FAILED_PRECONDITION", "Your prepaid credit is used up.", []),
    Trouble.NO_MODEL: (404, "NOT_FOUND", "models/gone is not found for API version v1beta.", []),
    Trouble.TOO_LONG: (400, "INVALID_ARGUMENT", TOO_LONG_WORDS, []),
    Trouble.BAD_REQUEST: (400, "INVALID_ARGUMENT", "Request contains an invalid argument.", []),
}


class _Gemini(FakeVendor):
    """Google's side of the wire: keys, the form of requests, the list of models."""

    name = "gemini"

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.models = ["fake-model", "fake-image-model", "gemini-3.5-flash-lite", "gemini-3.1-flash-image"]
        self.page_models = 2
        """How many models a page of the list has at most."""
        self.refuse: dict[str, str] = {}
        """Fields that the model does not take, each with Google's complaint about it."""
        self.calls: list[dict[str, Any]] = []
        """The parsed body of every call that was well formed, in order."""

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "GEMINI_API_KEY": self.key,
            "GEMINI_BASE_URL": f"{self.url}/v1beta",
            "GEMINI_MODEL": self.model,
            "GEMINI_IMAGE_MODEL": self.model,
        }

    def trouble(self, kind: Trouble) -> Fault | None:
        if kind is Trouble.POLICY:
            return self._blocked_prompt()
        code, status, message, details = _TROUBLES[kind]
        return Fault(status=code, headers=JSON, body=json.dumps(error_body(code, status, message, *details)).encode())

    def _blocked_prompt(self) -> Fault:
        raise NotImplementedError

    def handle(self, request: FakeRequest) -> FakeReply:
        try:
            self._check_key(request)
            if request.method == "GET" and request.path == "/v1beta/models":
                return self._list(request)
            return self._generate(request)
        except Complaint as complaint:
            return complaint.reply

    def _check_key(self, request: FakeRequest) -> None:
        if "key" in request.query:
            raise Complaint(400, "INVALID_ARGUMENT", "This fake wants no key in an address: it lands in logs.")
        given = request.header("x-goog-api-key")
        if not given:
            raise Complaint(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers.")
        if given != self.key:
            code, status, message, details = _TROUBLES[Trouble.BAD_KEY]
            raise Complaint(code, status, message, *details)

    def _list(self, request: FakeRequest) -> FakeReply:
        start = int(request.query.get("pageToken", ["0"])[0])
        size = min(int(request.query.get("pageSize", ["50"])[0]), self.page_models)
        page: dict[str, Any] = {"models": [self._entry(name) for name in self.models[start : start + size]]}
        if start + size < len(self.models):
            page["nextPageToken"] = str(start + size)
        return FakeReply.json(page, headers=JSON)

    def _entry(self, name: str) -> dict[str, Any]:
        embeds = "embed" in name
        return {
            "name": f"models/{name}",
            "version": "001",
            "displayName": name.replace("-", " ").title(),
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["embedContent"] if embeds else ["generateContent", "countTokens"],
        }

    def _generate(self, request: FakeRequest) -> FakeReply:
        model, _, method = request.path.removeprefix("/v1beta/models/").rpartition(":")
        model = unquote(model)
        if request.method != "POST" or method not in ("generateContent", "streamGenerateContent"):
            return FakeReply(404, {"Content-Type": "text/html"}, b"<html>Not Found</html>")
        if model not in self.models:
            raise Complaint(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
        body = checked(request, model)
        with self.lock:
            self.calls.append(body)
        for name, words in self.refuse.items():
            config = body.get("generationConfig", {})
            if name in body or name in config or name in config.get("imageConfig", {}):
                raise Complaint(400, "INVALID_ARGUMENT", words)
        return self._answer(body, model, request, streamed=method == "streamGenerateContent")

    def _answer(self, body: dict[str, Any], model: str, request: FakeRequest, *, streamed: bool) -> FakeReply:
        raise NotImplementedError


class FakeGemini(_Gemini, FakeTextVendor):
    """Answers `streamGenerateContent` and `generateContent` with text."""

    def __init__(self, port: int = 0, *, first_delay_s: float = 0.0, piece_delay_s: float = 0.0) -> None:
        super().__init__(port)
        self.first_delay_s = first_delay_s
        self.piece_delay_s = piece_delay_s
        self.thoughts = ""
        """What it thinks aloud before it answers."""

    def _blocked_prompt(self) -> Fault:
        return Fault(status=200, headers=SSE, body=event(blocked()))

    def good_stream(self, text: str) -> bytes:
        return b"".join(self._pieces(text, prompt=6, model=self.model))

    def good_document(self, text: str) -> bytes:
        return b"".join(self._array(text, prompt=6, model=self.model))

    def _answer(self, body: dict[str, Any], model: str, request: FakeRequest, *, streamed: bool) -> FakeReply:
        prompt = max(words_of(body), self.cached_tokens)
        wishes = self._wishes(body)
        text = self.wish_text if wishes else self.text
        if not streamed:
            self.delay()
            if self.script is not None:
                return FakeReply(200, JSON, self.script())
            size = _size(text, wishes)
            counts = self._usage(prompt, size)
            self._tell(prompt, size, model)
            parts: list[dict[str, object]] = [{"text": text}] if text or not wishes else []
            parts += _calls(wishes)
            if self.thoughts:
                parts.insert(0, {"text": self.thoughts, "thought": True})
            return FakeReply.json(chunk(*parts, finish=self.finish or "STOP", usage=counts), headers=JSON)
        if request.query.get("alt") != ["sse"]:
            return FakeReply(200, JSON, self._array(text, prompt, model))
        return FakeReply(200, SSE, self._late(text, prompt, model, wishes))

    def _wishes(self, body: Mapping[str, Any]) -> Wishes:
        """The functions that it calls."""
        config = body.get("toolConfig", {}).get("functionCallingConfig", {})
        modes = {"ANY": "required", "NONE": "none"}
        choice = (config.get("allowedFunctionNames") or [modes.get(config.get("mode"), "")])[0]
        answered = any("functionResponse" in part for part in body["contents"][-1]["parts"])
        return self.asked_for([function["name"] for function in functions_of(body)], choice, answered=answered)

    def _late(self, text: str, prompt: int, model: str, wishes: Wishes) -> Iterator[bytes]:
        self.delay()
        yield from self.script() if self.script is not None else self._pieces(text, prompt, model, wishes)

    def _array(self, text: str, prompt: int, model: str) -> Iterator[bytes]:
        for position, piece in enumerate(self._pieces(text, prompt, model)):
            yield (b",\n" if position else b"[") + piece.removeprefix(b"data: ").rstrip()
        yield b"\n]\n"

    def _pieces(self, text: str, prompt: int, model: str, wishes: Wishes | None = None) -> Iterator[bytes]:
        if self.thoughts:
            yield event(chunk({"text": self.thoughts, "thought": True}, usage=self._usage(prompt, 0)))
        words = text.split(" ") if text or not wishes else []
        for position, word in enumerate(words):
            part: dict[str, object] = {"text": f" {word}" if position else word}
            yield event(chunk(part, usage=self._usage(prompt, position + 1)))
            if self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
        size = _size(text, wishes)
        for part in _calls(wishes):
            yield event(chunk(part, usage=self._usage(prompt, size)))
        self._tell(prompt, size, model)
        last = {"text": "", "thoughtSignature": "c2lnbmF0dXJl"}
        yield event(chunk(last, finish=self.finish or "STOP", usage=self._usage(prompt, size)))

    def _usage(self, prompt: int, answer: int) -> dict[str, object] | None:
        """As Google counts: thoughts beside the candidates, cached tokens inside the prompt, zeros left out."""
        if not self.with_usage:
            return None
        counts: dict[str, object] = {"promptTokenCount": prompt, "totalTokenCount": prompt + answer + self.reasoning_tokens}
        counts["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": prompt}]
        if answer:
            counts["candidatesTokenCount"] = answer
        if self.reasoning_tokens:
            counts["thoughtsTokenCount"] = self.reasoning_tokens
        if self.cached_tokens:
            counts["cachedContentTokenCount"] = self.cached_tokens
        return counts

    def _tell(self, prompt: int, answer: int, model: str) -> None:
        if self.with_usage:
            output = answer + self.reasoning_tokens
            self.report(Reported(model, prompt, output, self.cached_tokens, self.reasoning_tokens))


def _calls(wishes: Wishes | None) -> list[dict[str, object]]:
    """The parts that call functions; the first one is signed."""
    parts: list[dict[str, object]] = [{"functionCall": {"name": name, "args": args}} for name, args in wishes or ()]
    if parts:
        parts[0]["thoughtSignature"] = "c2lnbmF0dXJl"
    return parts


def _size(text: str, wishes: Wishes | None) -> int:
    """The tokens of an answer: words, those of calls too."""
    return len(text.split()) + sum(1 + len(json.dumps(args).split()) for _, args in wishes or ())


class FakeGeminiImages(_Gemini, FakeImageVendor):
    """Answers `generateContent` with pictures."""

    model = "fake-image-model"
    tokens_per_picture = 1290

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.finish = ""
        """The finish reason; '' for STOP."""
        self.parts: list[dict[str, object]] | None = None
        """Replaces the parts of the answer; an empty list leaves out the content."""
        self.count = 1
        self.with_usage = True
        self.with_details = True
        """Whether the tokens are told apart by what they stand for."""

    def _blocked_prompt(self) -> Fault:
        return Fault(status=200, headers=JSON, body=json.dumps(blocked("IMAGE_SAFETY")).encode())

    def _answer(self, body: dict[str, Any], model: str, request: FakeRequest, *, streamed: bool) -> FakeReply:
        if "IMAGE" not in body.get("generationConfig", {}).get("responseModalities", ()):
            raise invalid("This model answers with pictures only.")
        self.delay()
        parts = self.parts
        if parts is None:
            parts = [picture_part(tiny_png())] * self.count
        pictures = sum("inlineData" in part for part in parts)
        prompt, drawn = words_of(body), pictures * self.tokens_per_picture
        usage = self._usage(prompt, drawn)
        if usage is not None:
            self.report(Reported(model, prompt, drawn, pictures=pictures))
        return FakeReply.json(chunk(*parts, finish=self.finish or "STOP", usage=usage), headers=JSON)

    def _usage(self, prompt: int, drawn: int) -> dict[str, object] | None:
        if not self.with_usage:
            return None
        counts: dict[str, object] = {"promptTokenCount": prompt, "totalTokenCount": prompt + drawn}
        if drawn:
            counts["candidatesTokenCount"] = drawn
        if drawn and self.with_details:
            counts["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": drawn}]
        return counts


def picture_part(content: bytes, media_type: str = "image/png") -> dict[str, object]:
    """A part of an answer that holds a picture."""
    return {"inlineData": {"mimeType": media_type, "data": base64.b64encode(content).decode()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first piece of an answer")
    parser.add_argument("--piece-delay", type=float, default=0.0, help="seconds between two pieces")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run_as_process(
        lambda port: FakeGemini(port, first_delay_s=mine.delay, piece_delay_s=mine.piece_delay),
        "A fake of Google's Gemini API. --delay and --piece-delay: seconds before and between the pieces of an answer.",
    )
