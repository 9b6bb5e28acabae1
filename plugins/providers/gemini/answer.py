"""Reads an answer of Gemini's: from bytes to pieces of text, tool calls and one usage record.

The stream has no end marker: an answer is whole when a finish reason came. Read here too: one JSON document, which is a whole
answer, or an array of them, which is what comes where `alt=sse` got lost on the way; and an error that Google writes into a
stream as plain lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpx

from plugins.providers.gemini import counts
from plugins.providers.gemini.failures import Complaint, from_error_in_answer
from webapp.plugin import (
    ANSWER_CHARS,
    Finish,
    MalformedAnswer,
    ProviderError,
    RefusedByPolicy,
    Text,
    TextFlow,
    ToolFlow,
    ToolPiece,
    Unavailable,
    Usage,
    lines,
    sse_events,
    vendor_words,
)

_FILTERED = {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"}
_FINISH = {"STOP": Finish.STOP, "MAX_TOKENS": Finish.LENGTH, "CONTINUATION": Finish.PAUSED}
# What protobuf calls a value that was not set: no reason at all.
_UNSET = {"", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED"}
_STRAY_BYTES = 65_536
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def filtered(reason: str) -> bool:
    """Whether a finish reason means that the vendor's policy took the answer."""
    return reason in _FILTERED or reason.startswith("IMAGE_")


def reason_of(value: object) -> str:
    """A finish or block reason, '' where there is none."""
    return value[:100] if isinstance(value, str) and value not in _UNSET else ""


def block_reason(chunk: Mapping[str, Any]) -> str:
    """Why the prompt was blocked, '' if it was not."""
    feedback = chunk.get("promptFeedback")
    return reason_of(feedback.get("blockReason")) if isinstance(feedback, dict) else ""


def parts_of(candidate: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a candidate that are for people. It may lack its content, and thoughts are not shown."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and part.get("thought") is not True:
            yield part


class Answer:
    """Reads one answer: feed its bytes to `read`, which yields `Text` and `ToolPiece`s and then one `Usage`."""

    def __init__(self, label: str, secret: str = "", *, tools: bool = False) -> None:
        """`tools`: whether any were offered."""
        self._label = label
        self._secret = secret
        self._finish = ""
        self._finish_words = ""
        self._blocked = ""
        self._tool = False
        self._tools = ToolFlow() if tools else None
        self._meta: Mapping[str, Any] = {}
        self._model = ""
        self._response_id = ""
        self._flow = TextFlow()
        self._stray = bytearray()

    def read(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece | Usage]:
        """Raises the `ProviderError` family with what was counted; what the network raises passes through."""
        source = iter(pieces)
        start = b""
        for piece in source:
            start += piece
            if start.strip() or len(start) > _STRAY_BYTES:
                break
        start = start.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        try:
            try:
                if start.lstrip()[:1] in (b"{", b"["):
                    yield from self._whole(_chain(start, source))
                else:
                    yield from self._stream(_chain(start, source))
                yield from self._text("", last=True)
            except ValueError as exc:
                raise self._malformed(str(exc), start) from exc
            yield self._end(start)
        except ProviderError as exc:
            exc.usage = exc.usage or self.counted()
            raise

    def counted(self) -> Usage | None:
        """What the vendor has counted so far, None if it told nothing."""
        usage = self._usage()
        return None if usage.input_tokens is None and usage.output_tokens is None else usage

    # -- the forms of an answer ------------------------------------------------------------------------------------
    def _stream(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece]:
        for _, data in sse_events(self._fields(lines(self._until_broken(pieces)))):
            if data.strip() == b"[DONE]":  # gateways send it; Google does not
                continue
            try:
                chunk = json.loads(data)
            except (ValueError, RecursionError) as exc:
                if self._finish:
                    continue
                raise ValueError("an event of the stream is not JSON") from exc
            yield from self._chunks(chunk)
        if self._stray and not self._finish:
            yield from self._chunks(self._error_in_lines())

    def _fields(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """The lines of events. Others are kept: an error in the middle of a stream comes as JSON without `data:`."""
        for line in stream:
            if line and not line.startswith(_FIELDS):
                if len(self._stray) + len(line) < _STRAY_BYTES:
                    self._stray += line + b"\n"
            else:
                yield line

    def _error_in_lines(self) -> object:
        try:
            return json.loads(self._stray)
        except (ValueError, RecursionError):
            return None

    def _until_broken(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The stream; a connection that breaks after the finish reason has delivered the whole answer all the same."""
        try:
            yield from pieces
        except httpx.TransportError:
            if not (self._finish or self._blocked):
                raise

    def _whole(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece]:
        try:
            document = json.loads(whole_body(pieces, 4 * ANSWER_CHARS))
        except RecursionError as exc:
            raise ValueError("the answer is nested too deeply") from exc
        yield from self._chunks(document)

    def _chunks(self, document: object) -> Iterator[Text | ToolPiece]:
        for chunk in document if isinstance(document, list) else [document]:
            if isinstance(chunk, dict):
                yield from self._chunk(chunk)

    def _chunk(self, chunk: Mapping[str, Any]) -> Iterator[Text | ToolPiece]:
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
            if isinstance(candidate, dict) and candidate.get("index") in (0, None):
                yield from self._candidate(candidate)

    def _candidate(self, candidate: Mapping[str, Any]) -> Iterator[Text | ToolPiece]:
        for part in parts_of(candidate):
            self._tool = self._tool or "functionCall" in part
            if isinstance(part.get("text"), str):
                yield from self._text(part["text"])
            if self._tools is not None and "functionCall" in part:
                wish = part["functionCall"]
                if not isinstance(wish, dict):
                    raise ValueError("a function call is not an object")
                yield from self._tools.call(wish.get("name"), wish.get("id"), wish.get("args"))
        if reason := reason_of(candidate.get("finishReason")):
            self._finish = reason
            words = candidate.get("finishMessage")
            self._finish_words = f"{reason} {words}" if isinstance(words, str) else reason

    # -- text and end ----------------------------------------------------------------------------------------------
    def _text(self, text: str, *, last: bool = False) -> Iterator[Text]:
        if ready := self._flow.feed(text, last=last):
            yield Text(ready)

    def _end(self, start: bytes) -> Usage:
        """The usage record, or the reason why what came is no answer."""
        if not (self._finish or self._blocked):
            raise self._malformed("the answer ended before its finish reason", start)
        if not self._flow.visible and not (self._tools is not None and self._tools.count):
            raise self._nothing_said()
        return self._usage()

    def _nothing_said(self) -> ProviderError:
        detail = self._words(self._finish_words)
        if filtered(self._finish):
            return RefusedByPolicy(f"{self._label}'s model refuses to answer this.", detail=detail)
        if self._blocked and not self._finish:
            return RefusedByPolicy(f"{self._label}'s content policy refuses this.", detail=self._words(self._blocked))
        if self._finish == "MAX_TOKENS":
            return MalformedAnswer(
                f"{self._label}'s model used up the cap on output tokens before it said anything: allow more tokens.",
                detail="empty text with finish reason MAX_TOKENS; thoughts count towards the cap",
            )
        if self._finish == "STOP" and self._tool:
            return MalformedAnswer(f"{self._label}'s model asked for a tool that it was not offered.", detail=detail)
        if self._finish in _FINISH:
            return MalformedAnswer(f"{self._label} sent an empty answer.", detail=f"finish reason: {detail}")
        return Unavailable(f"{self._label} had trouble with the answer.", detail=f"finish reason: {detail}")

    def _usage(self) -> Usage:
        return counts.usage(
            self._meta,
            finish=self._normalised(),
            model=self._model,
            response_id=self._response_id,
            said_nothing=not self._flow.visible and not self._tool,
        )

    def _normalised(self) -> Finish:
        if filtered(self._finish) or (self._blocked and not self._finish):
            return Finish.FILTERED
        if self._finish == "STOP" and self._tool:
            return Finish.TOOL
        return _FINISH.get(self._finish, Finish.UNKNOWN)

    def _malformed(self, why: str, start: bytes) -> MalformedAnswer:
        seen = "" if self._flow.visible else f"; it began: {start[:200].decode('utf-8', 'replace')}"
        return MalformedAnswer(f"What {self._label} sent is not a valid answer.", detail=self._words(why + seen))

    def _words(self, text: str) -> str:
        return vendor_words(text, (self._secret,))


def whole_body(pieces: Iterable[bytes], size: int) -> bytearray:
    """A whole body of at most `size` bytes; `ValueError` if it is larger."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > size:
            raise ValueError("the answer is too large")
    return found


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from rest
