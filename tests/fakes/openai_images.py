"""A fake of OpenAI's image API. Runs alone as `python -m tests.fakes.openai_images`."""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeImageVendor, Reported, Trouble, tiny_png

_KNOWN = {
    "model",
    "prompt",
    "n",
    "size",
    "quality",
    "background",
    "output_format",
    "output_compression",
    "moderation",
    "safety_identifier",
    "stream",
    "partial_images",
    "user",
}
_OLDER_SIZES = {"auto", "1024x1024", "1536x1024", "1024x1536"}
_PICTURE_TOKENS = 272


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of a multipart body. `filename` is None where the part is a plain field."""

    name: str
    filename: str | None
    media_type: str
    data: bytes


def multipart(request: FakeRequest) -> list[FilePart]:
    """The parts of a multipart/form-data body. `ValueError` if it is none or malformed."""
    found = re.fullmatch(r"multipart/form-data; boundary=([\w'()+,./:=?-]{1,70})", request.header("Content-Type"))
    if found is None:
        raise ValueError("the content type is not multipart/form-data")
    edge = b"--" + found[1].encode()
    before, *pieces, end = request.body.split(edge)
    if before or end.strip() != b"--":
        raise ValueError("the body does not begin and end with its boundary")
    parts = []
    for piece in pieces:
        head, separator, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        named = re.search(rb'Content-Disposition: form-data; name="([^"]+)"(?:; filename="([^"]*)")?', head)
        if not separator or named is None or not data.endswith(b"\r\n"):
            raise ValueError("a part has no name or no end")
        kind = re.search(rb"Content-Type: ([^\r\n]+)", head)
        filename = None if named[2] is None else named[2].decode()
        parts.append(FilePart(named[1].decode(), filename, kind[1].decode() if kind else "", data.removesuffix(b"\r\n")))
    return parts


class FakeOpenAIImages(FakeImageVendor):
    """Answers `POST /v1/images/generations`, `POST /v1/images/edits` and `GET /v1/models`.

    `refuse` names fields that give the 400 of a model that does not take them. `usage` replaces what it counts; None leaves
    it out. `pictures` are what it draws instead of one PNG of the wished shape.
    """

    name = "openai"
    model = "gpt-image-2"

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.models = ["gpt-4.1-mini", "gpt-image-1.5", "gpt-image-2", "gpt-image-2.5-flare"]
        self.refuse: set[str] = set()
        self.with_usage = True
        self.usage: object = None
        self.pictures: list[bytes] = []
        self.calls: list[dict[str, Any]] = []
        """The fields of every image call that was accepted; those of multipart calls are strings."""
        self.sources: list[FilePart] = []

    @property
    def settings(self) -> Mapping[str, str]:
        return {"OPENAI_API_KEY": self.key, "OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_IMAGE_MODEL": self.model}

    def trouble(self, kind: Trouble) -> Fault | None:
        wait = {"Retry-After": "3"}
        said: dict[Trouble, tuple[int, str, str]] = {
            Trouble.RATE_LIMITED: (429, "rate_limit_exceeded", "Rate limit reached for images per minute."),
            Trouble.OVERLOADED: (503, "server_is_overloaded", "The server is currently overloaded."),
            Trouble.DOWN: (500, "server_error", "The server had an error while processing your request."),
            Trouble.BAD_KEY: (401, "invalid_api_key", f"Incorrect API key provided: {self.key}."),
            Trouble.NO_CREDIT: (400, "billing_hard_limit_reached", "Billing hard limit has been reached."),
            Trouble.NO_MODEL: (404, "model_not_found", "The model does not exist or you do not have access to it."),
            Trouble.TOO_LONG: (400, "string_above_max_length", "Invalid 'prompt': string too long."),
            Trouble.POLICY: (400, "moderation_blocked", "Your request was rejected by the safety system."),
            Trouble.BAD_REQUEST: (400, "invalid_type", "Invalid type for 'prompt': expected a string."),
        }
        status, code, message = said[kind]
        reply = _error(status, message, code=code)
        assert isinstance(reply.body, bytes)
        more = wait if kind is Trouble.RATE_LIMITED else {}
        return Fault(status=status, headers=reply.headers | more, body=reply.body)

    def handle(self, request: FakeRequest) -> FakeReply:
        if request.header("Authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided.", code="invalid_api_key")
        if request.method == "GET" and request.path == "/v1/models":
            listed = [{"id": name, "object": "model", "created": 1_790_000_000, "owned_by": "openai"} for name in self.models]
            return FakeReply.json({"object": "list", "data": listed})
        if request.method == "POST" and request.path == "/v1/images/generations":
            if request.header("Content-Type") != "application/json":
                return _error(400, "The body must be JSON.", code="invalid_request_error")
            return self._draw(request.json(), [])
        if request.method == "POST" and request.path == "/v1/images/edits":
            try:
                parts = multipart(request)
            except ValueError as exc:
                return _error(400, f"Could not parse the multipart form: {exc}.", code="invalid_request_error")
            files = [part for part in parts if part.filename is not None]
            return self._edit({part.name: part.data.decode() for part in parts if part.filename is None}, files)
        return _error(404, f"Invalid URL ({request.method} {request.path})", code="unknown_url")

    def _edit(self, fields: dict[str, Any], files: list[FilePart]) -> FakeReply:
        if not files or any(part.name not in ("image", "image[]", "mask") for part in files):
            return _error(400, "Missing required parameter: 'image'.", code="missing_required_parameter", param="image")
        for part in files:
            if part.media_type not in ("image/png", "image/jpeg", "image/webp"):
                message = f"Invalid file 'image': unsupported mimetype ('{part.media_type}')."
                return _error(400, message, code="unsupported_file_mimetype", param="image")
        return self._draw(fields | {"n": int(fields.get("n", 1))}, files)

    def _draw(self, fields: dict[str, Any], files: list[FilePart]) -> FakeReply:
        if refused := self._refused(fields):
            return refused
        with self.lock:
            self.calls.append(fields)
            self.sources += files
            request_id = f"req_{len(self.calls)}"
        self.delay()
        pictures = self.pictures or [tiny_png(*self._shape(fields))] * int(fields.get("n", 1))
        answer: dict[str, Any] = {
            "created": 1_790_000_000,
            "background": "opaque",
            "data": [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures],
            "output_format": "png",
            "quality": "medium",
            "size": fields.get("size", "1024x1024"),
        }
        words, seen = len(fields["prompt"].split()), 100 * len(files)
        made = _PICTURE_TOKENS * len(pictures)
        if self.with_usage:
            answer["usage"] = self.usage or {
                "input_tokens": words + seen,
                "input_tokens_details": {"text_tokens": words, "image_tokens": seen},
                "output_tokens": made,
                "total_tokens": words + seen + made,
            }
        self.report(Reported(fields["model"], words + seen, made, pictures=len(pictures)))
        return FakeReply.json(answer, headers={"x-request-id": request_id})

    def _refused(self, fields: dict[str, Any]) -> FakeReply | None:
        for name in sorted(fields.keys() - _KNOWN | fields.keys() & self.refuse):
            return _error(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)
        for name in ("model", "prompt"):
            if not isinstance(fields.get(name), str) or not fields[name]:
                return _error(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
        if fields["model"] not in self.models:
            return _error(404, f"The model '{fields['model']}' does not exist.", code="model_not_found")
        if len(fields["prompt"]) > 32_000:
            return _error(400, "Invalid 'prompt': string too long.", code="string_above_max_length", param="prompt")
        if not _good_size(fields["model"], fields.get("size", "auto")):
            return _error(400, f"Invalid size '{fields['size']}'.", code="invalid_value", param="size")
        if fields.get("quality", "auto") not in ("auto", "low", "medium", "high", "xhigh", "max"):
            return _error(400, "Invalid value for 'quality'.", code="invalid_value", param="quality")
        if fields.get("moderation", "auto") not in ("auto", "low"):
            return _error(400, "Invalid value for 'moderation'.", code="invalid_value", param="moderation")
        if len(fields.get("safety_identifier", "")) > 128:
            return _error(400, "Invalid 'safety_identifier': string too long.", code="string_above_max_length")
        return None

    def _shape(self, fields: dict[str, Any]) -> tuple[int, int]:
        """A tiny picture of the shape that was asked for."""
        width, _, height = str(fields.get("size", "1024x1024")).partition("x")
        return (int(width) // 64, int(height) // 64) if height else (16, 16)


def _good_size(model: str, size: str) -> bool:
    if model.startswith("gpt-image-1"):
        return size in _OLDER_SIZES
    if size == "auto":
        return True
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if found is None:
        return False
    short, long = sorted((int(found[1]), int(found[2])))
    return short % 16 == long % 16 == 0 and long <= min(3840, 3 * short) and 655_360 <= short * long <= 3840 * 2160


def _error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> FakeReply:
    kind = "image_generation_user_error" if code == "moderation_blocked" else "invalid_request_error"
    error = {"message": message, "type": kind, "code": code, "param": param}
    return FakeReply.json({"error": error}, status=status, headers={"x-request-id": "req_failed"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest

    def make(port: int) -> FakeOpenAIImages:
        fake = FakeOpenAIImages(port)
        fake.first_delay_s = mine.delay
        return fake

    run_as_process(make, "A fake of OpenAI's image API. --delay: seconds before an answer.")
