"""OpenAI's chat format: from an answer's bytes to pieces of text, tool calls and usage. Pure, no I/O of its own.

Servers differ in small ways, all of which are read here: comments and unknown events in the stream, missing `id` or
`usage`, content as null, a string or a list of parts, an error inside a successful answer, a stream that ends with
`[DONE]` or by closing after the finish reason, and either form of an answer whichever was asked for.
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
from plugins.providers.openai_compatible.wishes import ToolPieces
from webapp.plugin import (
    ANSWER_CHARS,
    Finish,
    MalformedAnswer,
    ProviderError,
    RefusedByPolicy,
    Text,
    TextFlow,
    ToolPiece,
    Unavailable,
    Usage,
    lines,
    sse_events,
    token_count,
    token_part,
    vendor_id,
    vendor_words,
)

_decoder = json.JSONDecoder()
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
    """Reads one answer: feed its bytes to `read`, which yields `Text` and `ToolPiece`s and then one `Usage`."""

    def __init__(
        self, label: str, secret: str = "", header_request_id: str = "", *, costs_told: bool = False, tools: bool = False
    ) -> None:
        """`costs_told`: whether the vendor's `usage.cost` is what it charged, in dollars. `tools`: whether any were offered."""
        self._label = label
        self._costs_told = costs_told
        self._secret = secret
        self._finish = ""
        self._usage: Mapping[str, Any] = {}
        self._model = ""
        self._vendor_request_id = header_request_id
        self._refusal = ""
        self._flow = TextFlow()
        self._tools = ToolPieces() if tools else None
        self._done = False

    def read(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece | Usage]:
        """Raises the `ProviderError` family; what the network raises passes through."""
        source = iter(pieces)
        start = b""
        try:
            start = _beginning(source)
            if start[:1] in (b"{", b"["):
                yield from self._whole(start, source)
            else:
                yield from self._stream(itertools.chain((start,), source))
            if rest := self._flow.feed("", last=True):
                yield Text(rest)
            usage = self._end(start)
            if self._tools is not None:
                yield from self._tools.end(cut=self._finish == "length")
        except ValueError as exc:
            raise self._malformed(str(exc), start) from exc
        yield usage

    # -- the two forms of an answer --------------------------------------------------------------------------------
    def _stream(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece]:
        for name, data in sse_events(lines(self._until_broken(pieces))):
            data = data.strip()
            if data == b"[DONE]":
                self._done = True
                return
            try:
                chunk = _document(data)
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

    def _whole(self, start: bytes, rest: Iterator[bytes]) -> list[Text | ToolPiece]:
        """One document: a whole answer."""
        found = [start]
        size = len(start)
        for piece in rest:
            found.append(piece)
            size += len(piece)
            if size > 4 * ANSWER_CHARS:
                raise ValueError("the answer is too large")
        try:
            document = _document(b"".join(found) if len(found) > 1 else start)
        except RecursionError as exc:
            raise ValueError("the answer is nested too deeply") from exc
        if not isinstance(document, dict) or not ("choices" in document or _error_in(document)):
            raise ValueError("the answer is not a chat completion")
        self._done = True
        return self._chunk(document)

    def _chunk(self, chunk: Mapping[str, Any]) -> list[Text | ToolPiece]:
        """What a chunk or a whole answer says. Lists, not generators: this runs for every piece of every answer."""
        get = chunk.get
        if isinstance(model := get("model"), str):
            self._model = model
        if not self._vendor_request_id and isinstance(chunk_id := get("id"), str):
            self._vendor_request_id = chunk_id
        if isinstance(usage := get("usage"), dict):
            self._usage = usage
        if "x_groq" in chunk and isinstance(groq := chunk["x_groq"], dict) and isinstance(usage := groq.get("usage"), dict):
            self._usage = usage
        if error := _error_in(chunk):
            said = Complaint.read({"error": error})
            failure = from_error_in_answer(self._label, said, self._words(said.words))
            failure.usage = self._counted()
            raise failure
        found: list[Text | ToolPiece] = []
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._choice(choice, found)
        return found

    def _choice(self, choice: Mapping[str, Any], found: list[Text | ToolPiece]) -> None:
        """Appends to `found` what a choice says."""
        said, complete = choice.get("delta"), False
        if not isinstance(said, dict):
            said, complete = choice.get("message"), True
        if isinstance(said, dict):
            if (text := _plain(said.get("content"))) and (ready := self._flow.feed(text)):
                found.append(Text(ready))
            if isinstance(refusal := said.get("refusal"), str):
                self._refusal += refusal
            if self._tools is not None and (wishes := said.get("tool_calls")):
                found.extend(self._tools.read(wishes, complete=complete))
        if isinstance(reason := choice.get("finish_reason"), str):
            self._finish = reason

    # -- the end ---------------------------------------------------------------------------------------------------
    def _end(self, start: bytes) -> Usage:
        """The usage record, or the reason why what came is no answer."""
        if not (self._done or self._finish):
            raise self._malformed("the answer ended before its end marker", start)
        if self._finish == "insufficient_system_resource":
            raise Unavailable(f"{self._label} ran out of resources.", detail=self._finish, usage=self._counted())
        if not self._flow.visible and not self._asks_for_tools:
            failure = self._nothing_said()
            # Also without counts: the core does not repeat at once what would end the same way.
            in_vain = _FINISH.get(self._finish) in (Finish.LENGTH, Finish.FILTERED)
            failure.usage = self._told() if in_vain else self._counted()
            raise failure
        return self._told()

    def _told(self) -> Usage:
        """What the vendor counted, as far as it can be believed."""
        told = self._usage
        taken, given = told.get("prompt_tokens"), told.get("completion_tokens")
        cached = written = reasoned = 0
        if isinstance(parts := told.get("prompt_tokens_details"), dict):
            cached, written = token_part(parts.get("cached_tokens"), taken), token_part(parts.get("cache_write_tokens"), taken)
        if isinstance(parts := told.get("completion_tokens_details"), dict):
            reasoned = token_part(parts.get("reasoning_tokens"), given)
        return Usage(
            input_tokens=token_count(taken),
            output_tokens=token_count(given),
            cached_tokens=cached or token_part(told.get("prompt_cache_hit_tokens"), taken),
            cache_write_tokens=written,
            reasoning_tokens=reasoned,
            cost_usd=self._cost(),
            finish=self._ending(),
            model=vendor_id(self._model),
            vendor_request_id=vendor_id(self._vendor_request_id),
        )

    @property
    def _asks_for_tools(self) -> bool:
        return self._tools is not None and self._tools.count > 0

    def _ending(self) -> Finish:
        """The finish reason in the core's words. Some servers say `stop` where tools are asked for."""
        finish = _FINISH.get(self._finish, Finish.UNKNOWN)
        return Finish.TOOL if self._asks_for_tools and finish in (Finish.STOP, Finish.UNKNOWN) else finish

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
            offered = (
                "said that it asks for a tool and named none" if self._tools else "asked for a tool that it was not offered"
            )
            return MalformedAnswer(f"{self._label}'s model {offered}.")
        return MalformedAnswer(f"{self._label} sent an empty answer.", detail=f"finish reason: {self._finish or 'none'}")

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
        if not seen and b" " < piece[:1] < b"\x80":
            return piece
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


def _document(data: bytes) -> object:
    """The value that JSON without blanks around it stands for. What may not be plain UTF-8 is left to `json`."""
    if data[:1] == b"\xef" or b"\0" in data:
        return json.loads(data)
    text = data.decode("utf-8", "surrogatepass")
    value, end = _decoder.raw_decode(text)
    if text[end:].strip(" \t\n\r"):
        raise ValueError("something follows the answer")
    return value


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
