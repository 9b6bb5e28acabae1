"""What PRSM answers: one document, or a stream of events. Pure functions and a reader, no I/O.

The contracts name the same things differently, and one of them in two spellings; each is taken from the first place that
holds something believable. What no place holds stays unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from plugins.providers.prsm.config import amount
from plugins.providers.prsm.failures import from_words, malformed, plain_words
from webapp.plugin import (
    ANSWER_CHARS,
    Finish,
    MalformedAnswer,
    ProviderError,
    RefusedByPolicy,
    Text,
    TextFlow,
    Usage,
    lines,
    sse_events,
    token_count,
    vendor_id,
    vendor_words,
)

WHOLE_BYTES = 4 * ANSWER_CHARS
_BLANK_BYTES = 65_536
_TEXT = ("final_answer", "output", "response", "content", "summary")
_CHARGED = (
    "ftns_charged",
    "cost_ftns",
    "receipt.cost_ftns",
    "ftns_cost",
    "ftnsCost",
    "cost_actual.ftns_tokens",
    "costActual.ftnsTokens",
)
_QUALITY = ("quality_score", "confidence_score", "confidenceScore")
_MODEL = ("model_id", "modelId", "receipt.model_id")
_ID = ("job_id", "request_id", "requestId", "session_id", "sessionId")
_INPUT = ("token_usage.prompt_tokens", "tokenUsage.promptTokens")
_OUTPUT = ("token_usage.completion_tokens", "tokenUsage.completionTokens")
_FINISH_AT = ("finish_reason", "receipt.partial_completion.finish_reason")
_FINISH = {
    "stop": Finish.STOP,
    "eos": Finish.STOP,
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "content_filter": Finish.FILTERED,
}
_INSIDE = ("results", "result", "response")


class Reader:
    """Reads one answer, whole or streamed. `dollars` is what one FTNS is worth, None if unknown."""

    def __init__(self, model: str, secret: str = "", dollars: Decimal | None = None) -> None:
        self._model = model
        self._secret = secret
        self._dollars = dollars
        self._flow = TextFlow()
        self._shown: list[str] = []
        self._finish = ""

    # -- one document ----------------------------------------------------------------------------------------------
    def whole(self, body: bytes) -> Iterator[Text | Usage]:
        """From a document. Raises the `ProviderError` family."""
        yield from self.document(self.parse(body))

    def parse(self, body: bytes) -> Mapping[str, Any]:
        """The document in `body`."""
        if len(body) > WHOLE_BYTES:
            raise malformed("the answer is too large")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise malformed(f"the answer is not JSON; it begins: {self._excerpt(body)}") from exc
        if not isinstance(document, dict):
            raise malformed("the answer is not an object")
        return document

    def document(self, document: Mapping[str, Any]) -> Iterator[Text | Usage]:
        """Text and usage of a parsed document, which may also be an error under status 200."""
        if failed(document):
            raise self.error(document)
        try:
            yield from self._text(self._rest(answer_text(document)), last=True)
        except ValueError as exc:
            raise malformed(self.words(str(exc)), self.usage(document)) from exc
        usage = self.usage(document)
        if not self._flow.visible:
            raise self._nothing_said(usage)
        yield usage

    # -- a stream of events ----------------------------------------------------------------------------------------
    def stream(self, pieces: Iterable[bytes]) -> Iterator[Text | Usage]:
        """From the stream's bytes; a node that answers with a document is understood too. What the network raises passes
        through."""
        source = iter(pieces)
        start = self._start(source)
        if start.lstrip()[:1] in (b"{", b"["):
            yield from self.whole(_joined(start, source))
            return
        try:
            for name, data in sse_events(lines(_chain(start, source))):
                event = self._event(name, data)
                kind = _kind(name, event)
                if kind == "token":
                    yield from self._token(event)
                elif kind:
                    yield from self._last(kind, event)
                    return
        except ValueError as exc:
            raise malformed(self.words(str(exc))) from exc
        seen = "" if self._flow.visible else f"; it began: {self._excerpt(start)}"
        raise malformed(f"the answer ended before its end marker{seen}")

    def _start(self, source: Iterator[bytes]) -> bytes:
        """The first bytes that are not all blank: they tell a document from a stream."""
        start = b""
        for piece in source:
            start += piece
            if start.strip():
                break
            if len(start) > _BLANK_BYTES:
                raise malformed("the answer is nothing but blanks")
        return start.removeprefix(b"\xef\xbb\xbf")  # a byte order mark

    def _event(self, name: str, data: bytes) -> Mapping[str, Any]:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as exc:
            if name not in ("token", "result", "error"):
                return {}
            raise ValueError(f"the data of an event `{name}` is not JSON") from exc
        if isinstance(event, dict):
            return event
        return {"error": event} if name == "error" else {}

    def _token(self, event: Mapping[str, Any]) -> Iterator[Text]:
        delta = event.get("text_delta")
        if isinstance(delta, str):
            self._shown.append(delta)
            yield from self._text(delta)
        if isinstance(event.get("finish_reason"), str):
            self._finish = event["finish_reason"]

    def _last(self, kind: str, event: Mapping[str, Any]) -> Iterator[Text | Usage]:
        if kind == "result" and not failed(event):
            yield from self.document(event)
            return
        error = self.error(event)
        if not (isinstance(error, RefusedByPolicy) and self._flow.visible):
            raise error
        # What was said before the filter stepped in has been read: the answer ends there.
        self._finish = "content_filter"
        yield from self._text("", last=True)
        yield self.usage(event)

    # -- parts -----------------------------------------------------------------------------------------------------
    def _rest(self, text: str) -> str:
        """What of the whole text has not been shown as tokens."""
        shown = "".join(self._shown)
        if not shown.strip():
            return text
        return text[len(shown) :] if text.startswith(shown) else ""

    def _text(self, text: str, *, last: bool = False) -> Iterator[Text]:
        if ready := self._flow.feed(text, last=last):
            yield Text(ready)

    def usage(self, document: Mapping[str, Any]) -> Usage:
        """What the document says was counted and charged."""
        charged = next((found for value in _values(document, _CHARGED) if (found := amount(value)) is not None), None)
        finish = self._finish or next((v for v in _values(document, _FINISH_AT) if isinstance(v, str)), "")
        return Usage(
            input_tokens=next((n for v in _values(document, _INPUT) if (n := token_count(v)) is not None), None),
            output_tokens=next((n for v in _values(document, _OUTPUT) if (n := token_count(v)) is not None), None),
            cost_usd=None if charged is None or self._dollars is None else charged * self._dollars,
            credits=charged,
            quality=next((q for v in _values(document, _QUALITY) if (q := quality(v)) is not None), None),
            finish=_FINISH.get(finish, Finish.UNKNOWN),
            model=vendor_id(_first_text(document, _MODEL) or self._model),
            vendor_request_id=vendor_id(_first_text(document, _ID)),
        )

    def error(self, document: Mapping[str, Any]) -> ProviderError:
        """The error that a document tells, with what was charged for it all the same."""
        words = " ".join(text for place in _places(document) if (text := plain_words(place)))
        usage = self.usage(document)
        return from_words(words, self.words(words), usage if usage.credits is not None else None)

    def _nothing_said(self, usage: Usage) -> ProviderError:
        if usage.finish is Finish.FILTERED:
            return RefusedByPolicy("PRSM's content policy refuses this.", detail="empty text, content_filter", usage=usage)
        if usage.finish is Finish.LENGTH:
            message = "PRSM's model used up the cap on output tokens before it said anything: allow more tokens."
            return MalformedAnswer(message, detail="empty text with finish reason 'length'", usage=usage)
        return MalformedAnswer("PRSM sent an empty answer.", detail=f"finish reason: {usage.finish}", usage=usage)

    def words(self, text: str) -> str:
        """PRSM's words, fit for an error log."""
        return vendor_words(text, (self._secret,))

    def _excerpt(self, body: bytes) -> str:
        """The beginning of a body. The key is taken out first: a cut through it would leave a part."""
        return self.words(body[:2000].decode("utf-8", "replace"))[:200]


def failed(document: Mapping[str, Any]) -> bool:
    """Whether a document under status 200 is an error: it says so, or has an error and no answer."""
    if document.get("success") is False:
        return True
    return bool(document.get("error")) and not answer_text(document)


def answer_text(document: Mapping[str, Any]) -> str:
    """The answer in a document, '' if it has none."""
    return _first_text(document, _TEXT)


def quality(value: object) -> float | None:
    """A score in 0-1; one of 1-100 is a percentage. None where it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    found = float(value)
    if not math.isfinite(found):
        return None
    return found if found <= 1 else found / 100


def _kind(name: str, event: Mapping[str, Any]) -> str:
    """token, result, error, or '' for an event that means nothing here."""
    if name in ("token", "result", "error"):
        return name
    if name not in ("", "message"):
        return ""
    if "text_delta" in event:
        return "token"
    if "output" in event or "success" in event:
        return "result"
    return "error" if event.get("error") else ""


def _places(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where an answer's fields may be: at the top, or in what a finished session calls its results."""
    return [document, *(inner for name in _INSIDE if isinstance(inner := document.get(name), dict))]


def _values(document: Mapping[str, Any], paths: Iterable[str]) -> Iterator[object]:
    for place in _places(document):
        for path in paths:
            value: object = place
            for step in path.split("."):
                value = value.get(step) if isinstance(value, dict) else None
            if value is not None:
                yield value


def _first_text(document: Mapping[str, Any], paths: Iterable[str]) -> str:
    return next((value for value in _values(document, paths) if isinstance(value, str) and value), "")


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from rest


def _joined(start: bytes, rest: Iterator[bytes]) -> bytes:
    found = [start]
    size = len(start)
    for piece in rest:
        found.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            break
    return b"".join(found)
