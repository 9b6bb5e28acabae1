"""A fake of Google's Gemini API, for text and for pictures. Runs alone as `python -m tests.fakes.gemini`."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeImageVendor, FakeTextVendor, FakeVendor, Reported, Trouble, tiny_png

SSE = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json; charset=UTF-8"}
RESPONSE_ID = "fAkE-response-1"
RATINGS = [
    {"category": category, "probability": "NEGLIGIBLE"}
    for category in ("HARM_CATEGORY_HARASSMENT", "HARM_CATEGORY_DANGEROUS_CONTENT")
]
_TOP = {"contents", "systemInstruction", "generationConfig", "safetySettings", "tools", "toolConfig", "cachedContent"}
_CONFIG = {
    "temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "candidateCount", "seed", "responseMimeType",
    "responseJsonSchema", "responseSchema", "thinkingConfig", "responseModalities", "imageConfig",
}  # fmt: skip
_PICTURES = {"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"}
_RATIOS = {"1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "21:9"}


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


def error_body(code: int, status: str, message: str, *details: Mapping[str, object]) -> dict[str, Any]:
    """Google's error object."""
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return {"error": error | ({"details": list(details)} if details else {})}


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


class _Complaint(Exception):
    """A request that Google would not accept."""

    def __init__(self, code: int, status: str, message: str, *details: Mapping[str, object]) -> None:
        super().__init__(message)
        self.reply = FakeReply.json(error_body(code, status, message, *details), status=code)


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
        except _Complaint as complaint:
            return complaint.reply

    def _check_key(self, request: FakeRequest) -> None:
        if "key" in request.query:
            raise _Complaint(400, "INVALID_ARGUMENT", "This fake wants no key in an address: it lands in logs.")
        given = request.header("x-goog-api-key")
        if not given:
            raise _Complaint(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers.")
        if given != self.key:
            code, status, message, details = _TROUBLES[Trouble.BAD_KEY]
            raise _Complaint(code, status, message, *details)

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
            raise _Complaint(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
        body = self._checked(request, model)
        with self.lock:
            self.calls.append(body)
        for name, words in self.refuse.items():
            config = body.get("generationConfig", {})
            if name in body or name in config or name in config.get("imageConfig", {}):
                raise _Complaint(400, "INVALID_ARGUMENT", words)
        return self._answer(body, model, request, streamed=method == "streamGenerateContent")

    def _answer(self, body: dict[str, Any], model: str, request: FakeRequest, *, streamed: bool) -> FakeReply:
        raise NotImplementedError

    def _checked(self, request: FakeRequest, model: str) -> dict[str, Any]:
        """The body, if it is as Google wants it."""
        try:
            body = request.json()
        except ValueError:
            raise _invalid("Invalid JSON payload received.") from None
        for name in body.keys() - _TOP:
            raise _invalid(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
        contents = body.get("contents")
        if not isinstance(contents, list) or not contents:
            raise _invalid("* GenerateContentRequest.contents: contents is not specified")
        for position, content in enumerate(contents):
            if content.get("role") not in ("user", "model"):
                raise _invalid("Please use a valid role: user, model.")
            if position and contents[position - 1]["role"] == content["role"]:
                raise _invalid("Please ensure that multiturn requests alternate between user and model.")
            _check_parts(content)
        if contents[-1]["role"] != "user":
            raise _invalid("Please ensure that the last turn is the user's.")
        if "systemInstruction" in body:
            _check_parts(body["systemInstruction"])
        _check_config(body.get("generationConfig", {}), model)
        return body


def _invalid(message: str) -> _Complaint:
    return _Complaint(400, "INVALID_ARGUMENT", message)


def _check_parts(content: Mapping[str, Any]) -> None:
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise _invalid("* GenerateContentRequest.contents[0].parts: contents.parts must not be empty.")
    for part in parts:
        if set(part) == {"text"} and isinstance(part["text"], str) and part["text"]:
            continue
        inline = part.get("inlineData")
        # Google takes a field's name in either spelling, and its own SDK sends this one in the other.
        kind = inline.get("mimeType", inline.get("mime_type")) if isinstance(inline, dict) else None
        if set(part) != {"inlineData"} or kind is None or set(inline) - {"mimeType", "mime_type"} != {"data"}:
            raise _invalid("* contents.parts.data: required oneof field 'data' must have one initialized field")
        if kind not in _PICTURES:
            raise _invalid(f"Unsupported MIME type: {kind}")
        base64.b64decode(inline["data"], validate=True)


def _check_config(config: Mapping[str, Any], model: str) -> None:
    for name in config.keys() - _CONFIG:
        raise _invalid(f"Invalid JSON payload received. Unknown name \"{name}\" at 'generation_config': Cannot find field.")
    if len(config.get("stopSequences", ())) > 5:
        raise _invalid("The number of stop sequences must not exceed 5.")
    if "responseJsonSchema" in config and config.get("responseMimeType") != "application/json":
        raise _invalid("Response schema is only supported with response mime type application/json.")
    if not 0 <= config.get("temperature", 1) <= 2:
        raise _invalid("temperature must be in the range [0.0, 2.0].")
    if config.get("maxOutputTokens", 1) < 1:
        raise _invalid("max_output_tokens must be positive.")
    thinking = config.get("thinkingConfig", {})
    if "thinkingLevel" in thinking and ("2.5" in model or not model.startswith("gemini-")):
        raise _invalid("Thinking level is not supported for this model.")
    if "thinkingBudget" in thinking and "2.5" not in model:
        raise _invalid("Thinking budget is not supported for this model.")
    shape = config.get("imageConfig", {})
    if not set(shape) <= {"aspectRatio", "imageSize"} or shape.get("aspectRatio", "1:1") not in _RATIOS:
        raise _invalid("Invalid aspect_ratio.")
    if shape.get("imageSize", "1K") not in ("1K", "2K", "4K"):
        raise _invalid("Invalid image_size.")
    if "IMAGE" in config.get("responseModalities", ()) and "image" not in model:
        raise _invalid("Model does not support the requested response modalities: image")


def words_of(body: Mapping[str, Any]) -> int:
    """The tokens of a request: a word is one, a picture is 258."""
    contents = [*body["contents"], *([body["systemInstruction"]] if "systemInstruction" in body else [])]
    parts = [part for content in contents for part in content["parts"]]
    return sum(len(part["text"].split()) if "text" in part else 258 for part in parts)


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
        if not streamed:
            self.delay()
            counts = self._usage(prompt, len(self.text.split()))
            self._tell(prompt, len(self.text.split()), model)
            return FakeReply.json(chunk({"text": self.text}, finish=self.finish or "STOP", usage=counts), headers=JSON)
        if request.query.get("alt") != ["sse"]:
            return FakeReply(200, JSON, self._array(self.text, prompt, model))
        return FakeReply(200, SSE, self._late(self.text, prompt, model))

    def _late(self, text: str, prompt: int, model: str) -> Iterator[bytes]:
        self.delay()
        yield from self.script() if self.script is not None else self._pieces(text, prompt, model)

    def _array(self, text: str, prompt: int, model: str) -> Iterator[bytes]:
        for position, piece in enumerate(self._pieces(text, prompt, model)):
            yield (b",\n" if position else b"[") + piece.removeprefix(b"data: ").rstrip()
        yield b"\n]\n"

    def _pieces(self, text: str, prompt: int, model: str) -> Iterator[bytes]:
        if self.thoughts:
            yield event(chunk({"text": self.thoughts, "thought": True}, usage=self._usage(prompt, 0)))
        words = text.split(" ")
        for position, word in enumerate(words):
            part: dict[str, object] = {"text": f" {word}" if position else word}
            yield event(chunk(part, usage=self._usage(prompt, position + 1)))
            if self.piece_delay_s:
                self.stopping.wait(self.piece_delay_s)
        self._tell(prompt, len(text.split()), model)
        last = {"text": "", "thoughtSignature": "c2lnbmF0dXJl"}
        yield event(chunk(last, finish=self.finish or "STOP", usage=self._usage(prompt, len(text.split()))))

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
            raise _invalid("This model answers with pictures only.")
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
