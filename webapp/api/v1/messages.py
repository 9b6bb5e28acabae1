"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's format, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from flask import Response, request

from webapp.api.base import read_json
from webapp.api.v1 import calls, chat, errors, ground, messages_request, once, seats
from webapp.api.v1.chat_request import ChatCall
from webapp.contracts.calls import Finish, ToolPiece
from webapp.contracts.toolflow import arguments_object
from webapp.pipeline import attended
from webapp.pipeline.attended import Attended
from webapp.pipeline.endings import Ending
from webapp.pipeline.relay import Piece, Relay
from webapp.pipeline.text_work import TextWork

blueprint = ground.group("messages")

_STOP = {
    Finish.LENGTH: "max_tokens",
    Finish.FILTERED: "refusal",
    Finish.TOOL: "tool_use",
    Finish.PAUSED: "pause_turn",
}


@blueprint.post("/messages")
@once.repeatable
def create_message() -> Response:
    """Answer a conversation."""
    token = calls.bearer()
    call = messages_request.read(read_json(), may_keep=request.headers.get("x-switchhook-cache", "") == "allow")
    response = seats.seated(token, lambda: _served(token, call))
    if call.ignored:
        response.headers["x-switchhook-ignored"] = call.ignored
    return response


def _served(token: str, call: ChatCall) -> Response:
    running = chat.begin(token, call)
    return _streamed(running, call) if call.streamed else _whole(running, call)


@blueprint.post("/messages/count_tokens")
def count_tokens() -> Response:
    """About how many tokens a prompt has, by the estimate with which its limits are held: rather too many than too few."""
    calls.known("chat", "read")
    return ground.answer({"input_tokens": messages_request.count(read_json())})


# -- in one piece ------------------------------------------------------------------------------------------------------
def _whole(running: Attended, call: ChatCall) -> Response:
    for _ in running.pieces():
        pass
    if (failure := chat.failed(running)) is not None:
        return errors.answer(failure)
    ending = running.ending
    assert ending is not None
    content: list[Mapping[str, Any]] = [{"type": "text", "text": ending.answer}] if ending.answer else []
    for asked in attended.tool_calls(running):
        given = arguments_object(asked["arguments"])
        content.append({"type": "tool_use", "id": asked["id"], "name": asked["name"], "input": given})
    message = _message(running, chat.model_of(ending.used, call.model), content)
    message |= {"stop_reason": _stop_reason(running, ending), "usage": _usage(running, ending)}
    response = ground.answer(message)
    response.headers.update(chat.headers_of(running))
    return response


def _message(running: Attended, model: str, content: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{running.claimed.id.hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop_reason(running: Attended, ending: Ending) -> str:
    """Why the answer ended. Which of the stop sequences ended it, vendors do not say: it is `end_turn` then."""
    finish = Finish(ending.finish) if ending.finish else Finish.STOP
    if finish in (Finish.STOP, Finish.UNKNOWN) and attended.tool_calls(running):
        finish = Finish.TOOL
    return _STOP.get(finish, "end_turn")


def _usage(running: Attended, ending: Ending) -> Mapping[str, Any]:
    """What was used, as Anthropic counts it: cached tokens lie beside the input."""
    told = running.work.usage if isinstance(running.work, TextWork) else None
    cached, written = (told.cached_tokens, told.cache_write_tokens) if told else (0, 0)
    return {
        "input_tokens": max(0, ending.used.input_tokens - cached - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": ending.used.output_tokens,
    }


# -- streamed ----------------------------------------------------------------------------------------------------------
def _streamed(running: Attended, call: ChatCall) -> Response:
    """The answer as server-sent events. The first piece is waited for, so that a failure before it has a status of its own."""
    relay = Relay(running)
    if not relay.begins(chat.FIRST_PIECE_S) and (failure := chat.failed(running)) is not None:
        return errors.answer(failure)
    response = Response(
        _events(running, call, relay),
        mimetype="text/event-stream",
        headers=chat.headers_of(running) | {"X-Accel-Buffering": "no"},
    )
    response.call_on_close(relay.close)
    return response


def _events(running: Attended, call: ChatCall, relay: Relay) -> Iterator[str]:
    by = running.work.calls.answered_by if running.work.calls else None
    usage = {"input_tokens": call.brought.tokens(), "output_tokens": 0}
    message = _message(running, by.name if by else call.model, []) | {"usage": usage}
    blocks = _Blocks()
    with closing(relay):
        yield _event("message_start", message=message) + _event("ping")
        for pieces in relay.pieces():
            yield "".join(map(blocks.of, pieces)) or _event("ping")
    if (failure := chat.failed(running)) is not None:
        yield f"event: error\ndata: {errors.anthropic_body(failure)}\n\n"
        return
    ending = running.ending
    assert ending is not None
    delta = {"stop_reason": _stop_reason(running, ending), "stop_sequence": None}
    yield blocks.end() + _event("message_delta", delta=delta, usage=_usage(running, ending)) + _event("message_stop")


class _Blocks:
    """The content of a streamed message: blocks one after the other, each with its beginning and its end."""

    def __init__(self) -> None:
        self._index = -1
        self._open: int | str | None = None
        """What the open block is: 'text', or the number of a wish for a tool."""

    def of(self, piece: Piece) -> str:
        """The events for a piece of text, or of a wish for a tool."""
        if isinstance(piece, ToolPiece):
            block = {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}
            begun = self._begin(piece.index, block)
            if not piece.arguments:
                return begun
            return begun + self._delta({"type": "input_json_delta", "partial_json": piece.arguments})
        if isinstance(piece, str):
            return self._begin("text", {"type": "text", "text": ""}) + self._delta({"type": "text_delta", "text": piece})
        return ""

    def end(self) -> str:
        """The end of the block that is open."""
        if self._open is None:
            return ""
        self._open = None
        return _event("content_block_stop", index=self._index)

    def _begin(self, what: int | str, block: Mapping[str, Any]) -> str:
        if self._open == what:
            return ""
        ended = self.end()
        self._open = what
        self._index += 1
        return ended + _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: Mapping[str, Any]) -> str:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **members: Any) -> str:
    data = json.dumps({"type": kind} | members, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n"
