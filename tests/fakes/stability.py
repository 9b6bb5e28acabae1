"""A fake of Stability AI's v2beta API. Runs alone as `python -m tests.fakes.stability`."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from .openai_images import FilePart, multipart
from .server import FakeReply, FakeRequest, Fault, run_as_process
from .vendor import FakeImageVendor, Reported, Trouble, tiny_png

_RATIOS = {"16:9", "1:1", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21"}
_STYLES = {
    "3d-model",
    "analog-film",
    "anime",
    "cinematic",
    "comic-book",
    "digital-art",
    "enhance",
    "fantasy-art",
    "isometric",
    "line-art",
    "low-poly",
    "modeling-compound",
    "neon-punk",
    "origami",
    "photographic",
    "pixel-art",
    "tile-texture",
}
_COMMON = {"prompt", "negative_prompt", "aspect_ratio", "seed", "output_format", "style_preset"}
_FIELDS = {
    "core": _COMMON,
    "ultra": _COMMON | {"image", "strength"},
    "sd3": _COMMON | {"image", "strength", "model", "mode", "cfg_scale"},
}
_SD3 = {"sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium"}
_PATH = "/v2beta/stable-image/generate/"
_SEED_MAX = 4_294_967_294


class FakeStability(FakeImageVendor):
    """Answers the three generate endpoints and the balance.

    With `filtered` the picture comes back grey with the finish reason for that. `seed` is the one it draws with where none
    is asked for. `picture` is drawn in place of a tiny PNG.
    """

    name = "stability"
    model = "core"

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.filtered = False
        self.seed = 343_940_597
        self.picture: bytes | None = None
        self.credits: object = 123.45
        self.calls: list[dict[str, str]] = []
        """The fields of every call that was accepted, with `endpoint`."""
        self.sources: list[FilePart] = []

    @property
    def settings(self) -> Mapping[str, str]:
        return {"STABILITY_API_KEY": self.key, "STABILITY_BASE_URL": self.url, "STABILITY_MODEL": self.model}

    def trouble(self, kind: Trouble) -> Fault | None:
        said = {
            Trouble.RATE_LIMITED: (429, "rate_limit_exceeded", "You have exceeded the rate limit."),
            Trouble.DOWN: (500, "internal_error", "An unexpected server error has occurred."),
            Trouble.BAD_KEY: (401, "unauthorized", f"authorization: invalid or missing header value: {self.key}"),
            Trouble.NO_CREDIT: (402, "payment_required", "You lack sufficient credits to make this request."),
            Trouble.NO_MODEL: (404, "not_found", "The requested resource was not found."),
            Trouble.TOO_LONG: (400, "bad_request", "prompt: cannot be longer than 10000 characters"),
            Trouble.POLICY: (403, "content_moderation", "Your request was flagged by our content moderation system."),
            Trouble.BAD_REQUEST: (400, "bad_request", "aspect_ratio: must be one of 16:9, 1:1"),
        }
        if kind not in said:
            return None
        reply = _error(*said[kind])
        assert isinstance(reply.body, bytes)
        return Fault(status=reply.status, headers=reply.headers, body=reply.body)

    def handle(self, request: FakeRequest) -> FakeReply:
        if request.header("Authorization") != f"Bearer {self.key}":
            return _error(401, "unauthorized", "authorization: invalid or missing header value")
        if request.method == "GET" and request.path == "/v1/user/balance":
            return FakeReply.json({"credits": self.credits})
        endpoint = request.path.removeprefix(_PATH)
        if request.method != "POST" or endpoint not in _FIELDS or not request.path.startswith(_PATH):
            return _error(404, "not_found", "The requested resource was not found.")
        try:
            parts = multipart(request)
        except ValueError as exc:
            return _error(400, "bad_request", f"content-type: must be multipart/form-data ({exc})")
        if request.header("Accept") not in ("application/json", "image/*"):
            return _error(400, "bad_request", "accept: must be either 'application/json' or 'image/*'")
        fields = {part.name: part.data.decode() for part in parts if part.filename is None and part.data}
        files = [part for part in parts if part.filename is not None]
        if complaint := _complaint(endpoint, fields, files):
            return _error(400, "bad_request", complaint)
        return self._draw(request, endpoint, fields, files)

    def _draw(self, request: FakeRequest, endpoint: str, fields: dict[str, str], files: list[FilePart]) -> FakeReply:
        with self.lock:
            self.calls.append(fields | {"endpoint": endpoint})
            self.sources += files
        self.delay()
        picture = tiny_png(16, 16, "grey") if self.filtered else (tiny_png(16, 16) if self.picture is None else self.picture)
        seed = int(fields.get("seed", 0)) or self.seed
        finish = "CONTENT_FILTERED" if self.filtered else "SUCCESS"
        self.report(Reported(fields.get("model", endpoint), 0, 0, pictures=0 if self.filtered else 1))
        if request.header("Accept") == "image/*":
            return FakeReply(200, {"Content-Type": "image/png", "finish-reason": finish, "seed": str(seed)}, picture)
        answer: dict[str, Any] = {"image": base64.b64encode(picture).decode(), "finish_reason": finish, "seed": seed}
        return FakeReply.json(answer, headers={"x-request-id": f"stab-{len(self.calls)}"})


def _complaint(endpoint: str, fields: dict[str, str], files: list[FilePart]) -> str:
    """What the vendor would not accept, '' if nothing."""
    names = fields.keys() | {part.name for part in files}
    if unknown := sorted(names - _FIELDS[endpoint]):
        return f"{unknown[0]}: is not allowed"
    if not 1 <= len(fields.get("prompt", "")) <= 10_000:
        return "prompt: must be between 1 and 10000 characters"
    if fields.get("aspect_ratio", "1:1") not in _RATIOS:
        return "aspect_ratio: must be one of 16:9, 1:1, 21:9, 2:3, 3:2, 4:5, 5:4, 9:16, 9:21"
    if not fields.get("seed", "0").isdigit() or int(fields.get("seed", "0")) > _SEED_MAX:
        return f"seed: must be between 0 and {_SEED_MAX}"
    if fields.get("output_format", "png") not in ("png", "jpeg", "webp"):
        return "output_format: must be one of png, jpeg, webp"
    if fields.get("style_preset", "anime") not in _STYLES:
        return "style_preset: is not a known preset"
    if any(part.media_type not in ("image/png", "image/jpeg", "image/webp") for part in files):
        return "image: must be a PNG, JPEG or WebP"
    if endpoint == "sd3":
        return _sd3_complaint(fields, files)
    if files and not _is_strength(fields):
        return "strength: is required with an image"
    return ""


def _sd3_complaint(fields: dict[str, str], files: list[FilePart]) -> str:
    if fields.get("model", "sd3.5-large") not in _SD3:
        return "model: must be one of sd3.5-large, sd3.5-large-turbo, sd3.5-medium"
    if "negative_prompt" in fields and fields.get("model") == "sd3.5-large-turbo":
        return "negative_prompt: is not allowed with sd3.5-large-turbo"
    mode = fields.get("mode", "text-to-image")
    if mode not in ("text-to-image", "image-to-image"):
        return "mode: must be text-to-image or image-to-image"
    if (mode == "image-to-image") != bool(files):
        return "image: belongs to mode image-to-image"
    if files and ("aspect_ratio" in fields or not _is_strength(fields)):
        return "strength: is required, aspect_ratio not allowed, with an image"
    return ""


def _is_strength(fields: dict[str, str]) -> bool:
    try:
        return 0 <= Decimal(fields["strength"]) <= 1
    except (KeyError, ArithmeticError):
        return False


def _error(status: int, name: str, message: str) -> FakeReply:
    body = {"id": "ed14db44362126aab3cbd25cca51ffe3", "name": name, "errors": [message]}
    return FakeReply(status, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(body).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer")
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest

    def make(port: int) -> FakeStability:
        fake = FakeStability(port)
        fake.first_delay_s = mine.delay
        return fake

    run_as_process(make, "A fake of Stability AI's API. --delay: seconds before an answer.")
