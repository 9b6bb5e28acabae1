"""Stability AI's format: the models and what they cost, from a call to the parts of a form, from an answer to a picture."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from webapp.plugin import ContextTooLong, Drawn, ImageCall, MalformedAnswer, Picture, Rejected

PICTURE_BYTES = 20 * 1024 * 1024
ANSWER_BYTES = PICTURE_BYTES * 4 // 3 + 1024 * 1024
PROMPT_CHARS = 10_000
CREDITS_MAX = 10**12
SEED_MAX = 4_294_967_294
SOURCE_TYPES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
# How far a picture may leave the one it starts from: 0 gives that one back, 1 does not look at it.
STRENGTH = "0.65"
RATIOS = ("16:9", "1:1", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
STYLES = frozenset(
    {
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
)

PRICES_AS_OF = "2026-06"
"""The month of the price list that the credits below are from. A credit is 0.01 US dollars."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model: where it is called, what it takes, and its price in credits for each picture that was made."""

    id: str
    label: str
    endpoint: str
    credits: Decimal
    takes_source: bool = True
    takes_negative: bool = True


MODELS = {
    model.id: model
    for model in (
        Model("core", "Stable Image Core", "core", Decimal(3), takes_source=False),
        Model("ultra", "Stable Image Ultra", "ultra", Decimal(8)),
        Model("sd3.5-large", "Stable Diffusion 3.5 Large", "sd3", Decimal("6.5")),
        Model("sd3.5-large-turbo", "Stable Diffusion 3.5 Large Turbo", "sd3", Decimal(4), takes_negative=False),
        Model("sd3.5-medium", "Stable Diffusion 3.5 Medium", "sd3", Decimal("3.5")),
    )
}


class Filtered(ValueError):
    """The answer is a blurred picture, because of what it would show."""


def form(call: ImageCall, model: Model, label: str) -> tuple[dict[str, str], tuple[str, bytes, str] | None]:
    """The fields of a call, and the file (name, bytes, media type) of the picture to start from."""
    style = "-".join(call.style.lower().split())
    prompt = [call.prompt]
    if call.style and style not in STYLES:
        prompt.append(f"Style: {call.style}.")
    if call.negative_prompt and not model.takes_negative:
        prompt.append(f"Leave out: {call.negative_prompt}.")
    fields = {"prompt": _sendable("\n\n".join(prompt)), "output_format": "png"}
    if len(fields["prompt"]) > PROMPT_CHARS:
        raise ContextTooLong(f"{label} reads at most {PROMPT_CHARS} characters.")
    if call.negative_prompt and model.takes_negative:
        fields["negative_prompt"] = _sendable(call.negative_prompt)[:PROMPT_CHARS]
    if style in STYLES:
        fields["style_preset"] = style
    if call.seed is not None:
        fields["seed"] = str(call.seed % (SEED_MAX + 1))
    if model.endpoint == "sd3":
        fields["model"] = model.id
        fields["mode"] = "image-to-image" if call.source else "text-to-image"
    if not (call.source and model.endpoint == "sd3"):
        fields["aspect_ratio"] = nearest_ratio(call.width, call.height)
    if call.source is None:
        return fields, None
    if not model.takes_source:
        raise Rejected(f"{label}'s {model.id} starts from no picture: use {_with_source()}.")
    if call.source.media_type not in SOURCE_TYPES:
        raise Rejected(f"{label} starts from PNG, JPEG or WebP pictures only.")
    fields["strength"] = STRENGTH
    return fields, (f"source.{SOURCE_TYPES[call.source.media_type]}", call.source.data, call.source.media_type)


def _with_source() -> str:
    return ", ".join(model.id for model in MODELS.values() if model.takes_source)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def nearest_ratio(width: int, height: int) -> str:
    """The shape nearest to the wish, of those that there are."""
    wish = math.log(max(1, width) / max(1, height))
    return min(RATIOS, key=lambda ratio: abs(_log(ratio) - wish))


def _log(ratio: str) -> float:
    width, _, height = ratio.partition(":")
    return math.log(int(width) / int(height))


# -- answers ---------------------------------------------------------------------------------------------------------
def document(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. `ValueError` where it is none."""
    try:
        found = json.loads(body)
    except RecursionError as exc:
        raise ValueError("the answer is nested too deeply") from exc
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object")
    return found


def drawn(body: bytes) -> Drawn:
    """The picture of an answer, with the seed that was used. `ValueError` where it cannot be read, `Filtered` where the
    vendor made it unrecognizable."""
    answer = document(body)
    reason = answer.get("finish_reason", "SUCCESS")
    if reason == "CONTENT_FILTERED":
        raise Filtered("finish_reason: CONTENT_FILTERED")
    if reason != "SUCCESS":
        raise ValueError(f"the finish reason is {reason[:100]!r}" if isinstance(reason, str) else "no known finish reason")
    text, seed = answer.get("image"), answer.get("seed")
    if not isinstance(text, str) or not text:
        raise ValueError("the answer holds no picture in base64")
    known = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= SEED_MAX
    return Drawn(picture_from(base64.b64decode(text, validate=True)), seed=seed if known else None)


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


def balance(body: bytes, label: str) -> Decimal:
    """The credits that are left, to two places. Raises `MalformedAnswer`."""
    try:
        found = json.loads(body, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError) as exc:
        raise MalformedAnswer(f"{label} does not tell its balance.", detail="the answer is not JSON") from exc
    left = found.get("credits") if isinstance(found, dict) else None
    if not isinstance(left, Decimal) or not left.is_finite() or not -CREDITS_MAX < left < CREDITS_MAX:
        raise MalformedAnswer(f"{label} does not tell its balance.", detail="the answer has no `credits`")
    return left.quantize(Decimal("0.01"))


def complaint(body: bytes) -> str:
    """Everything that an error body says: `{"id", "name", "errors"}`, or whatever else came."""
    text = body.decode("utf-8", "replace")
    try:
        said = document(body)
    except ValueError:
        return text
    errors = said.get("errors")
    words = [said.get("name"), *(errors if isinstance(errors, list) else [errors, said.get("message")])]
    found = "; ".join(word for word in words if isinstance(word, str) and word)
    number = said.get("id")
    return (f"{found} (id {number})" if isinstance(number, str) else found) or text
