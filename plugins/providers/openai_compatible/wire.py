"""OpenAI's chat format: from an answer's bytes to pieces of text and usage. Pure, no I/O of its own.

Servers differ in small ways, all of which are read here: comments and unknown events in the stream, missing `id` or
`usage`, content as null, a string or a list of parts, an error inside a successful answer, a stream that ends with
`[DONE]` or by closing after the finish reason, and one JSON document although a stream was asked for.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import httpx

from plugins.providers.openai_compatible.failures import Complaint, from_error_in_answer
from plugins.providers.openai_compatible.listing import money
from webapp.plugin import (
    ANSWER_CHARS,
    Finish,
    MalformedAnswer,
    ProviderError,
    RefusedByPolicy,
    Text,
    TextFlow,
    Unavailable,
    Usage,
    lines,
    sse_events,
    token_count,
    token_part,
    vendor_id,
    vendor_words,
)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK_BYTES = 4 * 1024 * 1024
_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "content_filter": Finish.FILTERED,
    "tool_calls": Finish.TOOL,
    "function_call": Finish.TOOL,
}


class Answer:
    """Reads one answer: feed its bytes to `read`, which yields `Text` pieces and then one `Usage`."""

    def __init__(self, label: str, secret: str = "", header_request_id: str = "", *, costs_told: bool = False) -> None:
        """`costs_told`: whether the vendor's `usage.cost` is what it charged, in dollars."""
        self._label = label
        self._costs_told = costs_told
        self._secret = secret
        self._finish = ""
        self._usage: Mapping[str, Any] = {}
        self._model = ""
        self._vendor_request_id = header_request_id
        self._refusal = ""
        self._flow = TextFlow()
        self._done = False

    def read(self, pieces: Iterable[bytes]) -> Iterator[Text | Usage]:
        """Raises the `ProviderError` family; what the network raises passes through."""
        source = iter(pieces)
        start = b""
        try:
            start = _beginning(source)
            if start[:1] in (b"{", b"["):
                yield from self._whole(itertools.chain((start,), source))
            else:
                yield from self._stream(itertools.chain((start,), source))
        except ValueError as exc:
            raise self._malformed(str(exc), start) from exc
        yield from self._text("", last=True)
        yield self._end(start)

    # -- the two forms of an answer --------------------------------------------------------------------------------
    def _stream(self, pieces: Iterable[bytes]) -> Iterator[Text]:
        for name, data in sse_events(lines(self._until_broken(pieces))):
            if data.strip() == b"[DONE]":
                self._done = True
                return
            try:
                chunk = json.loads(data)
            except (ValueError, RecursionError) as exc:
                # After the finish reason the answer is whole: what comes then may be a cut `[DONE]`.
                if self._finish or (name and name != "error"):
                    continue
                raise ValueError("an event of the stream is not JSON") from exc
            if name == "error" and isinstance(chunk, dict) and not chunk.get("error"):
                chunk = {"error": chunk}
            if isinstance(chunk, dict):
                yield from self._chunk(chunk)

    def _until_broken(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The stream; a connection that breaks after the finish reason has delivered the whole answer all the same."""
        try:
            yield from pieces
        except httpx.TransportError:
            if not self._finish:
                raise

    def _whole(self, pieces: Iterable[bytes]) -> Iterator[Text]:
        """A server that does not stream answers with one document."""
        found: list[bytes] = []
        size = 0
        for piece in pieces:
            found.append(piece)
            size += len(piece)
            if size > 4 * ANSWER_CHARS:
                raise ValueError("the answer is too large")
        try:
            document = json.loads(b"".join(found))
        except RecursionError as exc:
            raise ValueError("the answer is nested too deeply") from exc
        if not isinstance(document, dict) or not ("choices" in document or _error_in(document)):
            raise ValueError("the answer is not a chat completion")
        self._done = True
        yield from self._chunk(document)

    def _chunk(self, chunk: Mapping[str, Any]) -> Iterator[Text]:
        if isinstance(chunk.get("model"), str):
            self._model = chunk["model"]
        if not self._vendor_request_id and isinstance(chunk.get("id"), str):
            self._vendor_request_id = chunk["id"]
        groq = chunk.get("x_groq")
        for usage in (chunk.get("usage"), groq.get("usage") if isinstance(groq, dict) else None):
            if isinstance(usage, dict):
                self._usage = usage
        if error := _error_in(chunk):
            said = Complaint.read({"error": error})
            failure = from_error_in_answer(self._label, said, self._words(said.words))
            failure.usage = self._counted()
            raise failure
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                yield from self._choice(choice)

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[Text]:
        said: Mapping[str, Any] = next(
            (choice[name] for name in ("delta", "message") if isinstance(choice.get(name), dict)), {}
        )
        if text := _plain(said.get("content")):
            yield from self._text(text)
        if isinstance(said.get("refusal"), str):
            self._refusal += said["refusal"]
        if isinstance(choice.get("finish_reason"), str):
            self._finish = choice["finish_reason"]

    # -- text and end ----------------------------------------------------------------------------------------------
    def _text(self, text: str, *, last: bool = False) -> Iterator[Text]:
        if ready := self._flow.feed(text, last=last):
            yield Text(ready)

    def _end(self, start: bytes) -> Usage:
        """The usage record, or the reason why what came is no answer."""
        if not (self._done or self._finish):
            raise self._malformed("the answer ended before its end marker", start)
        if self._finish == "insufficient_system_resource":
            raise Unavailable(f"{self._label} ran out of resources.", detail=self._finish, usage=self._counted())
        if not self._flow.visible:
            failure = self._nothing_said()
            # Also without counts: the core does not repeat at once what would end the same way.
            in_vain = _FINISH.get(self._finish) in (Finish.LENGTH, Finish.FILTERED)
            failure.usage = self._told() if in_vain else self._counted()
            raise failure
        return self._told()

    def _told(self) -> Usage:
        """What the vendor counted, as far as it can be believed."""
        return Usage(
            input_tokens=token_count(self._usage.get("prompt_tokens")),
            output_tokens=token_count(self._usage.get("completion_tokens")),
            cached_tokens=self._cached(),
            cache_write_tokens=self._part("prompt_tokens_details", "cache_write_tokens", "prompt_tokens"),
            reasoning_tokens=self._part("completion_tokens_details", "reasoning_tokens", "completion_tokens"),
            cost_usd=self._cost(),
            finish=_FINISH.get(self._finish, Finish.UNKNOWN),
            model=vendor_id(self._model),
            vendor_request_id=vendor_id(self._vendor_request_id),
        )

    def _counted(self) -> Usage | None:
        """The same for an answer that failed: None where the vendor counted nothing."""
        told = self._told()
        return None if (told.input_tokens, told.output_tokens, told.cost_usd) == (None, None, None) else told

    def _cost(self) -> Decimal | None:
        """What the vendor says it charged. Nought counts only for a model that is free by its name: it is also said where
        somebody else's bill is charged."""
        cost = money(self._usage.get("cost")) if self._costs_told else None
        if cost is None or cost < 0 or (cost == 0 and not self._model.endswith(":free")):
            return None
        return cost

    def _nothing_said(self) -> ProviderError:
        if self._refusal or self._finish == "content_filter":
            return RefusedByPolicy(
                f"{self._label}'s model refuses to answer this.", detail=self._words(self._refusal or "content_filter")
            )
        if self._finish == "length":
            return MalformedAnswer(
                f"{self._label}'s model used up the cap on output tokens before it said anything: allow more tokens.",
                detail="empty text with finish reason 'length'; reasoning counts towards the cap",
            )
        if self._finish in ("tool_calls", "function_call"):
            return MalformedAnswer(f"{self._label}'s model asked for a tool that it was not offered.")
        return MalformedAnswer(f"{self._label} sent an empty answer.", detail=f"finish reason: {self._finish or 'none'}")

    def _cached(self) -> int:
        return self._part("prompt_tokens_details", "cached_tokens", "prompt_tokens") or token_part(
            self._usage.get("prompt_cache_hit_tokens"), self._usage.get("prompt_tokens")
        )

    def _part(self, details: str, name: str, whole: str) -> int:
        found = self._usage.get(details)
        return token_part(found.get(name) if isinstance(found, dict) else None, self._usage.get(whole))

    def _malformed(self, why: str, start: bytes) -> MalformedAnswer:
        seen = "" if self._flow.visible else f"; it began: {start[:200].decode('utf-8', 'replace')}"
        return MalformedAnswer(
            f"What {self._label} sent is not a valid answer.", detail=self._words(why + seen), usage=self._counted()
        )

    def _words(self, text: str) -> str:
        return vendor_words(text, (self._secret,))


def _beginning(source: Iterator[bytes]) -> bytes:
    """The first bytes that say something: no byte order mark, and none of the empty lines by which servers stay awake."""
    seen, blanks = b"", 0
    for piece in source:
        seen += piece
        if _BYTE_ORDER_MARK.startswith(seen):
            continue
        told = seen.removeprefix(_BYTE_ORDER_MARK).lstrip()
        if told:
            return told
        blanks += len(seen)
        seen = b""
        if blanks > _BLANK_BYTES:
            raise ValueError("the answer is nothing but blanks")
    return b""


def _error_in(chunk: Mapping[str, Any]) -> object:
    """A truthy `error`, whatever its type: some servers send `"error": null` with every chunk."""
    return chunk.get("error")


def _plain(content: object) -> str:
    """The text of a content field: null, a string, or a list of strings and text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))
