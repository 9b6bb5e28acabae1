"""Pictures with `generateContent`: from a call to the body, and from the answer to finished pictures."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from plugins.providers.gemini import counts, names
from plugins.providers.gemini.answer import block_reason, filtered, parts_of, reason_of, whole_body
from plugins.providers.gemini.failures import Complaint, from_error_in_answer
from plugins.providers.gemini.turns import inline
from webapp.plugin import (
    Drawn,
    Finish,
    ImageCall,
    MalformedAnswer,
    Picture,
    ProviderError,
    RefusedByPolicy,
    Rejected,
    Unavailable,
    Usage,
    vendor_words,
)

PICTURE_BYTES = 20 * 1024 * 1024
"""The largest picture that is taken."""

BODY_BYTES = 48 * 1024 * 1024
"""The largest answer that is read: base64 makes a picture a third larger."""

PICTURES_MAX = 8
RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "21:9")
SIZES = {"1K": 1024, "2K": 2048, "4K": 4096}
_FINISH = {"STOP": Finish.STOP, "MAX_TOKENS": Finish.LENGTH}
# Reasons for no picture that are the model's own doing: another try may give one.
_NO_PICTURE = {"", "STOP", "MAX_TOKENS", "NO_IMAGE"}


def aspect_ratio(width: int, height: int) -> str:
    """The ratio of `RATIOS` that is nearest to width:height, as a factor."""
    wish = math.log(max(width, 1) / max(height, 1))

    def distance(ratio: str) -> float:
        wide, _, high = ratio.partition(":")
        return abs(wish - math.log(int(wide) / int(high)))

    return min(RATIOS, key=distance)


def image_size(width: int, height: int) -> str:
    """The size of `SIZES` that is nearest to the larger side; of two that are equally near the smaller one."""
    larger = max(width, height)
    return min(SIZES, key=lambda name: abs(SIZES[name] - larger))


def to_wire(label: str, call: ImageCall, model: str, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The body of an image call. `without` are optional fields that the model refused before.

    Raises `Rejected` for what Gemini cannot do. The seed is not sent: Gemini promises nothing of it.
    """
    if call.action is not None:
        raise Rejected(f"{label} cannot change an earlier picture in this way.")
    words = [call.prompt]
    if call.style.strip():
        words.append(f"Style: {call.style.strip()}")
    if call.negative_prompt.strip():
        words.append(f"Avoid: {call.negative_prompt.strip()}")
    parts: list[dict[str, object]] = [inline(call.source)] if call.source is not None else []
    parts.append({"text": "\n".join(words)})
    shape: dict[str, object] = {"aspectRatio": aspect_ratio(call.width, call.height)}
    if names.takes_image_size(model):
        shape["imageSize"] = image_size(call.width, call.height)
    config: dict[str, object] = {"responseModalities": ["IMAGE"]}
    if shape := {name: value for name, value in shape.items() if name not in without}:
        config["imageConfig"] = shape
    return {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}


class ImageAnswer:
    """Reads one answer: feed its bytes to `read`, which yields each picture as `Drawn` and then one `Usage`."""

    def __init__(self, label: str, secret: str = "") -> None:
        self._label = label
        self._secret = secret
        self._reason = ""
        self._finish_words = ""
        self._blocked = ""
        self._said = ""
        self._meta: Mapping[str, Any] = {}
        self._model = ""
        self._response_id = ""
        self._pictures: list[Picture] = []

    def read(self, pieces: Iterable[bytes]) -> Iterator[Drawn | Usage]:
        """Raises the `ProviderError` family with what was counted; what the network raises passes through."""
        try:
            try:
                document = json.loads(whole_body(pieces, BODY_BYTES))
            except (ValueError, RecursionError) as exc:
                raise self._malformed("it is too large or not JSON") from exc
            chunks = [chunk for chunk in (document if isinstance(document, list) else [document]) if isinstance(chunk, dict)]
            if not chunks:
                raise self._malformed("it is not an object")
            for chunk in chunks:
                self._chunk(chunk)
            if not self._pictures:
                raise self._no_picture()
        except ProviderError as exc:
            exc.usage = exc.usage or self.counted()
            raise
        for picture in self._pictures:
            yield Drawn(picture)
        yield self._usage()

    def counted(self) -> Usage | None:
        """What the vendor has counted, None if it told nothing."""
        usage = self._usage()
        return None if usage.input_tokens is None and usage.output_tokens is None else usage

    def _chunk(self, chunk: Mapping[str, Any]) -> None:
        if isinstance(meta := chunk.get("usageMetadata"), dict) and meta:
            self._meta = meta
        if isinstance(model := chunk.get("modelVersion"), str):
            self._model = model
        if isinstance(response_id := chunk.get("responseId"), str):
            self._response_id = response_id
        if chunk.get("error"):
            said = Complaint.read(chunk)
            raise from_error_in_answer(self._label, said, self._words(said.words))
        self._blocked = block_reason(chunk) or self._blocked
        candidates = chunk.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, dict):
                self._candidate(candidate)

    def _candidate(self, candidate: Mapping[str, Any]) -> None:
        for part in parts_of(candidate):
            if isinstance(data := part.get("inlineData"), dict) and len(self._pictures) < PICTURES_MAX:
                self._pictures.append(self._picture(data))
            if isinstance(text := part.get("text"), str):
                self._said = (self._said + text)[:2000]
        if reason := reason_of(candidate.get("finishReason")):
            self._reason = reason
            words = candidate.get("finishMessage")
            self._finish_words = f"{reason} {words}" if isinstance(words, str) else reason

    def _picture(self, data: Mapping[str, Any]) -> Picture:
        """The picture in a part. Its bytes say what it is, whatever the vendor calls it."""
        encoded = data.get("data")
        if not isinstance(encoded, str):
            raise self._malformed("a picture has no data")
        if len(encoded) > PICTURE_BYTES * 4 // 3 + 4:
            raise self._malformed("a picture is too large")
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise self._malformed("a picture is not base64") from exc
        if len(content) > PICTURE_BYTES:
            raise self._malformed("a picture is too large")
        media_type = media_type_of(content)
        if not media_type:
            raise self._malformed(f"what it calls {data.get('mimeType')!r:.60} is no picture of a kind that can be shown")
        return Picture(media_type, content)

    def _no_picture(self) -> ProviderError:
        detail = self._words(" ".join(part for part in (self._finish_words, self._said) if part))
        if filtered(self._reason):
            return RefusedByPolicy(f"{self._label}'s content policy refuses this picture.", detail=detail)
        if self._blocked and not self._reason:
            return RefusedByPolicy(f"{self._label}'s content policy refuses this.", detail=self._words(self._blocked))
        if self._reason in _NO_PICTURE:
            return MalformedAnswer(f"{self._label} sent no picture.", detail=detail)
        return Unavailable(f"{self._label} had trouble with the picture.", detail=f"finish reason: {detail}")

    def _usage(self) -> Usage:
        finish = Finish.FILTERED if filtered(self._reason) else _FINISH.get(self._reason, Finish.UNKNOWN)
        return counts.usage(
            self._meta,
            finish=finish,
            model=self._model,
            response_id=self._response_id,
            said_nothing=not (self._pictures or self._said),
            pictures=len(self._pictures),
        )

    def _malformed(self, why: str) -> MalformedAnswer:
        return MalformedAnswer(f"What {self._label} sent is not a valid picture.", detail=self._words(why))

    def _words(self, text: str) -> str:
        return vendor_words(text, (self._secret,))


def media_type_of(content: bytes) -> str:
    """The media type of a picture by its first bytes, '' for none that is known."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return ""
