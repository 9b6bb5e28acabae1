"""OpenAI's chat format: pure functions from a call to a body, and from an answer's bytes to pieces of text and usage.

Servers differ in small ways, all of which are read here: comments and unknown events in the stream, missing `id` or
`usage`, content as null, a string or a list of parts, an error inside a successful answer, a stream that ends with
`[DONE]` or by closing after the finish reason, and one JSON document although a stream was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpx

from plugins.providers.openai_compatible.failures import Complaint, from_error_in_answer, vendor_words
from webapp.plugin import (
    Finish,
    MalformedAnswer,
    ProviderError,
    RefusedByPolicy,
    Text,
    TextCall,
    Unavailable,
    Usage,
    clean,
)

CAP_FIELDS = ("max_tokens", "max_completion_tokens")
LINE_BYTES = 4 * 1024 * 1024
ANSWER_CHARS = 4 * 1024 * 1024
BLANK_CHARS = 10_000
_TOKENS_MAX = 1_000_000_000
_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "content_filter": Finish.FILTERED,
    "tool_calls": Finish.TOOL,
    "function_call": Finish.TOOL,
}


def to_wire(
    call: TextCall,
    model: str,
    *,
    cap_field: str,
    person_field: str,
    extra: Mapping[str, object],
    without: frozenset[str],
) -> dict[str, object]:
    """The body of a call. `without` are fields that the model refused before; a refused cap takes its other name."""
    if cap_field in without:
        cap_field = next(name for name in CAP_FIELDS if name != cap_field)
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": turn.role.value, "content": turn.text} for turn in call.turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        cap_field: call.max_output_tokens,
        **extra,
    }
    if call.temperature is not None:
        body["temperature"] = call.temperature
    if call.stop:
        body["stop"] = list(call.stop[:4])  # more are refused everywhere
    if person_field and call.person_ref:
        body[person_field] = call.person_ref
    return {name: value for name, value in body.items() if name not in without}


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream, without their ends (LF or CRLF). The last one need not have an end."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        first, newline, rest = piece.partition(b"\n")
        parts.append(first)
        size += len(first)
        if size > LINE_BYTES:
            raise ValueError("a line of the stream is longer than 4 MiB")
        if not newline:
            continue
        yield b"".join(parts).rstrip(b"\r")
        *whole, last = rest.split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
        parts, size = [last], len(last)
    if tail := b"".join(parts).rstrip(b"\r"):
        yield tail


def events(stream: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """(name, data) of each server-sent event. Comments, ids and unknown fields are skipped; data lines join with LF."""
    name, data = "", []
    for line in stream:
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
        elif not line:
            if data:
                yield name, b"\n".join(data)
            name, data = "", []
    if data:  # some servers close without the last empty line
        yield name, b"\n".join(data)


class Answer:
    """Reads one answer: feed its bytes to `read`, which yields `Text` pieces and then one `Usage`."""

    def __init__(self, label: str, secret: str = "", header_request_id: str = "") -> None:
        self._label = label
        self._secret = secret
        self._finish = ""
        self._usage: Mapping[str, Any] = {}
        self._model = ""
        self._vendor_request_id = header_request_id
        self._refusal = ""
        self._chars = 0
        self._held = ""
        self._visible = False
        self._done = False

    def read(self, pieces: Iterable[bytes]) -> Iterator[Text | Usage]:
        """Raises the `ProviderError` family; what the network raises passes through."""
        source = iter(pieces)
        start = b""
        for piece in source:
            start += piece
            if start.strip():
                break
        start = start.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        try:
            if start.lstrip()[:1] in (b"{", b"["):
                yield from self._whole(_chain(start, source))
            else:
                yield from self._stream(_chain(start, source))
        except ValueError as exc:
            raise self._malformed(str(exc), start) from exc
        if self._held:
            yield from self._text("", last=True)
        yield self._end(start)

    # -- the two forms of an answer --------------------------------------------------------------------------------
    def _stream(self, pieces: Iterable[bytes]) -> Iterator[Text]:
        for name, data in events(lines(self._until_broken(pieces))):
            if data.strip() == b"[DONE]":
                self._done = True
                return
            try:
                chunk = json.loads(data)
            except (ValueError, RecursionError) as exc:
                if name and name != "error":
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
        if error := _error_in(chunk):
            said = Complaint.read({"error": error})
            raise from_error_in_answer(self._label, said, self._words(said.words))
        if isinstance(chunk.get("model"), str):
            self._model = chunk["model"]
        if not self._vendor_request_id and isinstance(chunk.get("id"), str):
            self._vendor_request_id = chunk["id"]
        groq = chunk.get("x_groq")
        for usage in (chunk.get("usage"), groq.get("usage") if isinstance(groq, dict) else None):
            if isinstance(usage, dict):
                self._usage = usage
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
        """Hand text on, but for a blank beginning (which may be all there is) and half a surrogate pair at its end."""
        text = self._held + text
        self._held = ""
        if not last and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = clean(text)
        if not self._visible and not text.strip():
            self._held = text + self._held if not last else ""
            if len(self._held) > BLANK_CHARS:
                raise ValueError("the answer is nothing but blanks")
            return
        self._visible = True
        self._chars += len(text)
        if self._chars > ANSWER_CHARS:
            raise ValueError("the answer is too large")
        if text:
            yield Text(text)

    def _end(self, start: bytes) -> Usage:
        """The usage record, or the reason why what came is no answer."""
        if not (self._done or self._finish):
            raise self._malformed("the answer ended before its end marker", start)
        if self._finish == "insufficient_system_resource":
            raise Unavailable(f"{self._label} ran out of resources.", detail=self._finish)
        if not self._visible:
            raise self._nothing_said()
        return Usage(
            input_tokens=_count(self._usage.get("prompt_tokens")),
            output_tokens=_count(self._usage.get("completion_tokens")),
            cached_tokens=self._cached(),
            reasoning_tokens=self._part("completion_tokens_details", "reasoning_tokens", "completion_tokens"),
            finish=_FINISH.get(self._finish, Finish.UNKNOWN),
            model=_id(self._model),
            vendor_request_id=_id(self._vendor_request_id),
        )

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
        return self._part("prompt_tokens_details", "cached_tokens", "prompt_tokens") or _part_of(
            self._usage.get("prompt_cache_hit_tokens"), self._usage.get("prompt_tokens")
        )

    def _part(self, details: str, name: str, whole: str) -> int:
        found = self._usage.get(details)
        return _part_of(found.get(name) if isinstance(found, dict) else None, self._usage.get(whole))

    def _malformed(self, why: str, start: bytes) -> MalformedAnswer:
        seen = "" if self._visible else f"; it began: {start[:200].decode('utf-8', 'replace')}"
        return MalformedAnswer(f"What {self._label} sent is not a valid answer.", detail=self._words(why + seen))

    def _words(self, text: str) -> str:
        return vendor_words(text, (self._secret,))


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from rest


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


def _count(value: object) -> int | None:
    """A token count, None where it is missing or cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _TOKENS_MAX:
        return None
    return value


def _part_of(value: object, whole: object) -> int:
    """A count that is part of another one; 0 where either cannot be believed."""
    part, total = _count(value), _count(whole)
    return part if part is not None and total is not None and part <= total else 0


def _id(text: str) -> str:
    """A name from outside, fit for a log line and a column."""
    return "".join(character for character in text[:200] if character.isprintable())
