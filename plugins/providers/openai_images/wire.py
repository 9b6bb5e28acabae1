"""OpenAI's image format: pure functions from a call to the fields of a request, and from an answer to pictures and usage."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from webapp.plugin import Drawn, Finish, ImageCall, Picture, Usage, token_count, token_part, vendor_id

PICTURE_BYTES = 20 * 1024 * 1024
ANSWER_BYTES = PICTURE_BYTES * 4 // 3 + 1024 * 1024
PICTURES_MAX = 10
PERSON_CHARS = 128
SOURCE_TYPES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
# Models from before gpt-image-2 draw in three sizes only.
_OLDER = ("gpt-image-1", "chatgpt-image", "dall-e")
_OLDER_SIZES = ((1024, 1024), (1536, 1024), (1024, 1536))
_STEP = 16
_EDGE_MAX = 3840
_RATIO_MAX = 3.0
_PIXELS_MIN = 655_360
_PIXELS_MAX = 3840 * 2160


def fields(call: ImageCall, model: str, without: frozenset[str]) -> dict[str, object]:
    """The fields of a request, for JSON and multipart alike. `without` are those that the model refused before.

    `response_format` is never sent: these models refuse it and always answer in base64.
    """
    width, height = nearest_size(model, call.width, call.height)
    found: dict[str, object] = {
        "model": sendable(model),
        "prompt": sendable(in_words(call)),
        "n": 1,
        "size": f"{width}x{height}",
        "quality": "auto",
        "moderation": "auto",
    }
    if call.person_ref:
        found["safety_identifier"] = call.person_ref[:PERSON_CHARS]
    return {name: value for name, value in found.items() if name not in without}


def in_words(call: ImageCall) -> str:
    """The prompt, with what the API has no field for: style, and what is not wanted."""
    parts = [call.prompt]
    if call.style:
        parts.append(f"Style: {call.style}.")
    if call.negative_prompt:
        parts.append(f"Leave out: {call.negative_prompt}.")
    return "\n\n".join(parts)


def sendable(text: str) -> str:
    """The text with a question mark for each character that UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode()


# -- sizes -----------------------------------------------------------------------------------------------------------
def nearest_size(model: str, width: int, height: int) -> tuple[int, int]:
    """The size nearest to the wish that the model draws, in pixels.

    Newer models take sides that divide by 16, up to 3840, at most 3 times as long as wide, 655,360 to 8,294,400 pixels in
    all; the bounds on the pixels are other clients' knowledge, not the vendor's page. A model that refuses the size is
    asked again without one.
    """
    width, height = max(1, width), max(1, height)
    if model.startswith(_OLDER):
        return min(_OLDER_SIZES, key=lambda size: abs(math.log(size[0] / size[1]) - math.log(width / height)))
    ratio = min(max(width / height, 1 / _RATIO_MAX), _RATIO_MAX)
    pixels = min(max(width * height, _PIXELS_MIN), _PIXELS_MAX)
    wish_w, wish_h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
    shrink = min(1.0, _EDGE_MAX / max(wish_w, wish_h))
    around = [[_STEP * (int(side * shrink) // _STEP + step) for step in range(-1, 3)] for side in (wish_w, wish_h)]
    allowed = [(w, h) for w, h in product(*around) if is_allowed(w, h)]
    return min(allowed, key=lambda size: _distance(size, wish_w, wish_h))


def is_allowed(width: int, height: int) -> bool:
    """Whether newer models draw this size."""
    sides = sorted((width, height))
    return (
        sides[0] > 0
        and width % _STEP == height % _STEP == 0
        and sides[1] <= min(_EDGE_MAX, _RATIO_MAX * sides[0])
        and _PIXELS_MIN <= width * height <= _PIXELS_MAX
    )


def _distance(size: tuple[int, int], width: float, height: float) -> float:
    """How far the sides of a size are from a wish, as factors."""
    return abs(math.log(size[0] / width)) + abs(math.log(size[1] / height))


# -- answers ---------------------------------------------------------------------------------------------------------
def picture_from(data: bytes) -> Picture:
    """The picture that the bytes are, by their first ones. `ValueError` where they are none."""
    if len(data) > PICTURE_BYTES:
        raise ValueError("the picture is larger than 20 MB")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Picture("image/png", data)
    if data.startswith(b"\xff\xd8\xff"):
        return Picture("image/jpeg", data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Picture("image/gif", data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Picture("image/webp", data)
    raise ValueError("what came is no picture")


def document(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. `ValueError` where it is none."""
    try:
        found = json.loads(body)
    except RecursionError as exc:
        raise ValueError("the answer is nested too deeply") from exc
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object")
    return found


def drawn(answer: Mapping[str, Any]) -> list[Drawn]:
    """The pictures of an answer. `ValueError` where one cannot be read or there is none."""
    data = answer.get("data")
    if not isinstance(data, list) or not data:
        raise ValueError("the answer holds no picture")
    return [Drawn(_decoded(entry)) for entry in data[:PICTURES_MAX]]


def _decoded(entry: object) -> Picture:
    text = entry.get("b64_json") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text:
        raise ValueError("the answer holds no picture in base64")
    if len(text) > ANSWER_BYTES:
        raise ValueError("the picture is larger than 20 MB")
    return picture_from(base64.b64decode(text, validate=True))


def usage(answer: Mapping[str, Any], model: str, pictures: int, request_id: str) -> Usage:
    """What the vendor counted. All output is the picture, unless the vendor tells it apart."""
    told = answer.get("usage")
    counts: Mapping[str, Any] = told if isinstance(told, dict) else {}
    given, made = counts.get("input_tokens"), counts.get("output_tokens")
    details_in, details_out = (_object(counts.get(name)) for name in ("input_tokens_details", "output_tokens_details"))
    return Usage(
        input_tokens=token_count(given),
        output_tokens=token_count(made),
        cached_tokens=token_part(details_in.get("cached_tokens"), given),
        picture_input_tokens=token_part(details_in.get("image_tokens"), given),
        picture_output_tokens=token_part(details_out.get("image_tokens", made), made),
        pictures=pictures,
        finish=Finish.STOP,
        model=vendor_id(model),
        vendor_request_id=vendor_id(request_id),
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
