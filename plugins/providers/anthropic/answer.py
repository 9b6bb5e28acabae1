"""The reading of an answer in Anthropic's Messages format: named events of a stream, or one whole message.

Unknown events, blocks and fields are passed over. An error may come as an event after the answer began, or as the whole
body under status 200. Token counts of the input come with `message_start`, those of the output with `message_delta`, which
are cumulative and may repeat the former; the vendor counts cached tokens beside the input, we count them inside.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpx

from plugins.providers.anthropic.failures import Complaint, from_error_in_answer
from webapp.plugin import (
    ANSWER_CHARS,
    ContextTooLong,
    Finish,
    MalformedAnswer,
    ProviderError,
    RefusedByPolicy,
    Text,
    TextFlow,
    ToolFlow,
    ToolPiece,
    Usage,
    lines,
    sse_events,
    token_count,
    token_part,
    vendor_id,
    vendor_words,
)

_BLANK_BYTES = 65_536
_FINISH = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "tool_use": Finish.TOOL,
    "pause_turn": Finish.PAUSED,
    "refusal": Finish.FILTERED,
}
_EVENTS = frozenset(
    ("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop")
)
_INPUT_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_OUTPUT_COUNTS = ("output_tokens", "output_tokens_details")


class Answer:
    """Reads one answer: feed its bytes to `read`, which yields `Text` and `ToolPiece`s and then one `Usage`."""

    def __init__(self, label: str, secret: str = "", request_id: str = "", *, tools: bool = False) -> None:
        """`tools`: whether any were offered."""
        self._label = label
        self._secret = secret
        self._request_id = request_id
        self._model = ""
        self._reason = ""
        self._refusal = ""
        self._counts: dict[str, object] = {}
        self._flow = TextFlow()
        self._tools = ToolFlow() if tools else None
        self._open: object = None
        """The place of the block in which a tool is being asked for, None outside of one."""
        self._given: object = None
        """Its input as far as it came with its beginning."""
        self._done = False

    def read(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece | Usage]:
        """Raises the `ProviderError` family, with what was counted; what the network raises passes through."""
        source = iter(pieces)
        start = b""
        try:
            start = _beginning(source)
            rest = itertools.chain((start,), source)
            yield from self._whole(rest) if start.lstrip()[:1] in (b"{", b"[") else self._stream(rest)
            yield from self._text("", last=True)
            usage = self._end(start)
            yield from self._end_tool()
        except ValueError as exc:
            error = self._malformed(str(exc), start)
            error.usage = self.counted
            raise error from exc
        except ProviderError as exc:
            exc.usage = self.counted
            raise
        yield usage

    @property
    def counted(self) -> Usage | None:
        """What the vendor has counted so far, None if it said nothing yet."""
        return self._usage() if self._counts else None

    # -- the two forms of an answer --------------------------------------------------------------------------------
    def _stream(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece]:
        for name, data in sse_events(lines(self._until_broken(pieces))):
            try:
                event = json.loads(data)
            except (ValueError, RecursionError) as exc:
                if self._reason:  # the answer is whole; only its end marker was cut
                    return
                if name and name != "error" and name not in _EVENTS:
                    continue
                if data.strip() == b"[DONE]":  # some gateways end every stream in OpenAI's way
                    continue
                raise ValueError("an event of the stream is not JSON") from exc
            if isinstance(event, dict):
                yield from self._event(name, event)
            if self._done:
                return

    def _until_broken(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The stream; a connection that breaks after the stop reason has delivered the whole answer all the same."""
        try:
            yield from pieces
        except httpx.TransportError:
            if not self._reason:
                raise

    def _whole(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece]:
        """A whole message."""
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
        if isinstance(document, dict) and (document.get("type") == "error" or document.get("error")):
            raise self._complaint(document)
        if not isinstance(document, dict) or not isinstance(document.get("content"), list):
            raise ValueError("the answer is not a message")
        self._about(document)
        self._count(document.get("usage"), _INPUT_COUNTS + _OUTPUT_COUNTS)
        self._stop(document)
        self._done = True
        for block in document["content"]:
            yield from self._block(block)
            yield from self._end_tool()

    # -- events ----------------------------------------------------------------------------------------------------
    def _event(self, name: str, event: Mapping[str, Any]) -> Iterator[Text | ToolPiece]:
        kind = event["type"] if isinstance(event.get("type"), str) else name
        if kind == "error" or name == "error" or event.get("error"):
            raise self._complaint(event)
        if kind == "message_start" and isinstance(message := event.get("message"), dict):
            self._about(message)
            # Its count of output is that of the first piece, so the final one may only come from `message_delta`.
            self._count(message.get("usage"), _INPUT_COUNTS)
        elif kind == "content_block_start":
            yield from self._end_tool()
            yield from self._block(event.get("content_block"), event.get("index", 0))
        elif kind == "content_block_delta" and isinstance(delta := event.get("delta"), dict):
            if delta.get("type") == "text_delta" and isinstance(delta.get("text"), str):
                yield from self._text(delta["text"])
            elif delta.get("type") == "input_json_delta":
                yield from self._argue(delta.get("partial_json"), event.get("index", 0))
        elif kind == "content_block_stop":
            yield from self._end_tool()
        elif kind == "message_delta":
            self._count(event.get("usage"), _INPUT_COUNTS + _OUTPUT_COUNTS)
            self._stop(event.get("delta"))
        elif kind == "message_stop":
            self._done = True

    def _about(self, message: Mapping[str, Any]) -> None:
        if isinstance(message.get("model"), str):
            self._model = message["model"]
        if not self._request_id and isinstance(message.get("id"), str):
            self._request_id = message["id"]

    def _count(self, told: object, names: Iterable[str]) -> None:
        """Later counts replace earlier ones; a null says nothing."""
        if isinstance(told, dict):
            self._counts |= {name: told[name] for name in names if told.get(name) is not None}

    def _stop(self, delta: object) -> None:
        if not isinstance(delta, dict):
            return
        if isinstance(delta.get("stop_reason"), str):
            self._reason = delta["stop_reason"]
        if isinstance(details := delta.get("stop_details"), dict):
            said = (details.get(name) for name in ("category", "explanation"))
            self._refusal = ": ".join(word for word in said if isinstance(word, str) and word)

    def _block(self, block: object, place: object = 0) -> Iterator[Text | ToolPiece]:
        """The text of a block, or the tool that it asks for; thoughts are not shown."""
        if not isinstance(block, dict):
            return
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            yield from self._text(block["text"])
        elif block.get("type") == "tool_use" and self._tools is not None:
            yield from self._tools.begin(block.get("name"), block.get("id"))
            self._open, self._given = (place,), block.get("input")

    def _argue(self, fragment: object, place: object) -> Iterator[ToolPiece]:
        """A fragment of a tool's input; those of the vendor's own tools are passed over."""
        if self._tools is None or self._open is None:
            return
        if self._open != (place,):
            raise ValueError("the fragments of several tool calls are mixed up")
        if fragment:
            self._given = None
            yield from self._tools.feed(fragment)

    def _end_tool(self) -> Iterator[ToolPiece]:
        """The end of the tool that is being asked for, if one is. Its input may have come with its beginning."""
        if self._tools is None or self._open is None:
            return
        if self._given:
            yield from self._tools.feed(self._given)
        self._open = self._given = None
        yield from self._tools.end(cut=self._reason in ("max_tokens", "model_context_window_exceeded"))

    def _text(self, text: str, *, last: bool = False) -> Iterator[Text]:
        if ready := self._flow.feed(text, last=last):
            yield Text(ready)

    # -- the end ---------------------------------------------------------------------------------------------------
    def _end(self, start: bytes) -> Usage:
        """The usage record, or the reason why what came is no answer."""
        if not (self._done or self._reason):
            raise self._malformed("the answer ended before its end marker", start)
        if not self._flow.visible and not (self._tools is not None and self._tools.count):
            raise self._nothing_said()
        return self._usage()

    def _nothing_said(self) -> ProviderError:
        label, reason = self._label, self._reason
        if reason == "refusal":
            return RefusedByPolicy(f"{label}'s model refuses to answer this.", detail=self._words(self._refusal or reason))
        if reason == "model_context_window_exceeded":
            return ContextTooLong(f"This is more text than the model at {label} reads.", detail=reason)
        if reason == "max_tokens":
            return MalformedAnswer(
                f"{label}'s model used up the cap on output tokens before it said anything: allow more tokens.",
                detail="empty text with stop reason 'max_tokens'; thinking counts towards the cap",
            )
        if reason == "tool_use":
            did = "asked for a tool that it was not offered" if self._tools is None else "asked for a tool and named none"
            return MalformedAnswer(f"{label}'s model {did}.", detail=reason)
        return MalformedAnswer(f"{label} sent an empty answer.", detail=self._words(f"stop reason: {reason or 'none'}"))

    def _usage(self) -> Usage:
        plain = token_count(self._counts.get("input_tokens"))
        # The counts of a cache that was not used may be missing or null.
        cached, written = (token_count(self._counts.get(name, 0)) for name in _INPUT_COUNTS[1:])
        whole = None
        if plain is not None and cached is not None and written is not None:
            whole = token_count(plain + cached + written)
        output, details = self._counts.get("output_tokens"), self._counts.get("output_tokens_details")
        return Usage(
            input_tokens=whole,
            output_tokens=token_count(output),
            cached_tokens=token_part(cached, whole),
            cache_write_tokens=token_part(written, whole),
            reasoning_tokens=token_part(details.get("thinking_tokens") if isinstance(details, dict) else None, output),
            finish=_FINISH.get(self._reason, Finish.UNKNOWN),
            model=vendor_id(self._model),
            vendor_request_id=vendor_id(self._request_id),
        )

    def _complaint(self, event: Mapping[str, Any]) -> ProviderError:
        said = Complaint.of(event)
        return from_error_in_answer(self._label, said, self._words(said.words))

    def _malformed(self, why: str, start: bytes) -> MalformedAnswer:
        seen = "" if self._flow.visible else f"; it began: {start[:200].decode('utf-8', 'replace')}"
        return MalformedAnswer(f"What {self._label} sent is not a valid answer.", detail=self._words(why + seen))

    def _words(self, text: str) -> str:
        return vendor_words(text, (self._secret,))


def _beginning(source: Iterator[bytes]) -> bytes:
    """The first bytes that are not blank, and what came with them, without a byte order mark."""
    start = b""
    for piece in source:
        start += piece
        if start.strip():
            break
        if len(start) > _BLANK_BYTES:
            raise ValueError("the answer is nothing but blanks")
    return start.removeprefix(b"\xef\xbb\xbf")
