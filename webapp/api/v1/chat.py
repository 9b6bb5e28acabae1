"""`POST /v1/chat/completions`, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from flask import Response, request

from webapp.api.base import read_json
from webapp.api.v1 import calls, chat_request, errors, ground, once, ratelimits, seats
from webapp.api.v1.chat_request import ChatCall
from webapp.contracts.calls import Finish, ToolPiece
from webapp.extensions import now
from webapp.models import RequestStatus
from webapp.pipeline import attended
from webapp.pipeline.admit import admit
from webapp.pipeline.attended import Attended
from webapp.pipeline.endings import Ending
from webapp.pipeline.intake import Intake
from webapp.pipeline.relay import Relay
from webapp.pipeline.text_work import TextWork

blueprint = ground.group("chat")

_FINISH = {Finish.LENGTH: "length", Finish.FILTERED: "content_filter", Finish.TOOL: "tool_calls"}
_DONE = "data: [DONE]\n\n"
WORKING = ": working\n\n"
"""A comment: the server notices that its client has gone when it writes."""
FIRST_PIECE_S = 15.0
"""For how long the status of a streamed answer waits for its first piece."""


@blueprint.post("/chat/completions")
@once.repeatable
def complete() -> Response:
    """Answer a conversation."""
    may_keep = request.headers.get("x-switchhook-cache", "") == "allow"
    return serve(calls.bearer(), read_json(), may_keep=may_keep)


def serve(token: str, body: object, *, may_keep: bool = False) -> Response:
    """The answer to a body. Needs the application's context and no request's."""
    call = chat_request.read(body, may_keep=may_keep)
    response = seats.seated(token, lambda: _served(token, call))
    if call.ignored:
        response.headers["x-switchhook-ignored"] = call.ignored
    return response


def _served(token: str, call: ChatCall) -> Response:
    running = begin(token, call)
    return _streamed(running, call) if call.streamed else _whole(running, call)


def begin(token: str, call: ChatCall) -> Attended:
    """Admit a call. Raises what `admit` raises."""
    intake = Intake(
        medium="api",
        text=call.text,
        token=token,
        parameters=call.parameters,
        brought=call.brought,
        attended=True,
    )
    admission = admit(intake)
    assert admission.claimed is not None
    return Attended(admission.claimed, call.brought)


def failed(running: Attended) -> calls.Failure | None:
    """Why there is no answer, None where there is one."""
    ending = running.ending
    if ending is None:
        return calls.failure_of_ending(
            "internal", "The answer could not be written down. Please try again.", running.claimed.id
        )
    if ending.status is RequestStatus.COMPLETED:
        return None
    return calls.failure_of_ending(ending.error_code, ending.error_message or "The call was cancelled.", running.claimed.id)


# -- in one piece ------------------------------------------------------------------------------------------------------
def _whole(running: Attended, call: ChatCall) -> Response:
    for _ in running.pieces():
        pass
    if (failure := failed(running)) is not None:
        return errors.answer(failure)
    ending = running.ending
    assert ending is not None
    message: dict[str, Any] = {"role": "assistant", "content": ending.answer, "refusal": None}
    if asked := attended.tool_calls(running):
        message["tool_calls"] = [_tool_call(each) for each in asked]
    body = {
        "id": f"chatcmpl-{running.claimed.id.hex}",
        "object": "chat.completion",
        "created": int(running.claimed.started_at.timestamp()),
        "model": model_of(ending, call.model),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_of(ending)}],
        "usage": usage_of(running, ending),
    }
    response = Response(json.dumps(body, ensure_ascii=False, separators=(",", ":")), mimetype="application/json")
    response.headers.update(headers_of(running))
    return response


def headers_of(running: Attended) -> dict[str, str]:
    """What every answer says beside its body."""
    claimed = running.claimed
    said = {"Cache-Control": "no-store", "x-switchhook-request": str(claimed.id)}
    return said | dict(ratelimits.of_limits(claimed.standings, now()))


def model_of(ending: Ending, asked: str) -> str:
    """The model that answered, as provider/model."""
    used = ending.used
    return f"{used.provider}/{used.model}" if used.provider else asked


def finish_of(ending: Ending) -> str:
    """Why the answer ended, in OpenAI's words."""
    return _FINISH.get(Finish(ending.finish), "stop") if ending.finish else "stop"


def usage_of(running: Attended, ending: Ending) -> dict[str, Any]:
    """What was used, as OpenAI counts it: prompt tokens with cached ones, completion tokens with reasoning ones."""
    used = ending.used
    told = running.work.usage if isinstance(running.work, TextWork) else None
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
        "prompt_tokens_details": {"cached_tokens": told.cached_tokens if told else 0},
        "completion_tokens_details": {"reasoning_tokens": told.reasoning_tokens if told else 0},
    }


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}


# -- streamed ----------------------------------------------------------------------------------------------------------
def _streamed(running: Attended, call: ChatCall) -> Response:
    """The answer as server-sent events. The first piece is waited for, so that a failure before it has a status of its own; but
    not for long, for who hangs up meanwhile is not noticed."""
    relay = Relay(running)
    if not relay.begins(FIRST_PIECE_S) and (failure := failed(running)) is not None:
        return errors.answer(failure)
    response = Response(
        _events(running, call, relay),
        mimetype="text/event-stream",
        headers=headers_of(running) | {"X-Accel-Buffering": "no"},
    )
    response.call_on_close(relay.close)
    return response


def _events(running: Attended, call: ChatCall, relay: Relay) -> Iterator[str]:
    chunks = _Chunks(running, call)
    with closing(relay):
        yield chunks.role()
        for pieces in relay.pieces():
            yield "".join(map(chunks.of, pieces)) or WORKING
    if (failure := failed(running)) is not None:
        yield f"data: {errors.body(failure)}\n\n"
        return
    ending = running.ending
    assert ending is not None
    yield chunks.end(finish_of(ending))
    if call.usage_wanted:
        yield chunks.usage(usage_of(running, ending))
    yield _DONE


class _Chunks:
    """The events of one stream. What is the same in all of them is put together once."""

    def __init__(self, running: Attended, call: ChatCall) -> None:
        by = running.work.calls.answered_by if running.work.calls else None
        head = {
            "id": f"chatcmpl-{running.claimed.id.hex}",
            "object": "chat.completion.chunk",
            "created": int(running.claimed.started_at.timestamp()),
            "model": by.name if by else call.model,
        }
        self._head = "data: " + json.dumps(head, ensure_ascii=False, separators=(",", ":"))[:-1]
        self._usage = ',"usage":null' if call.usage_wanted else ""

    def role(self) -> str:
        return self._delta('{"role":"assistant","content":""}')

    def of(self, piece: Any) -> str:
        """A piece of text, or of a wish for a tool."""
        if isinstance(piece, ToolPiece):
            function: dict[str, str] = {"arguments": piece.arguments}
            if piece.name:
                function["name"] = piece.name
            asked: dict[str, Any] = {"index": piece.index, "function": function}
            if piece.id:
                asked |= {"id": piece.id, "type": "function"}
            return self._delta(json.dumps({"tool_calls": [asked]}, ensure_ascii=False))
        return self._delta(f'{{"content":{json.dumps(piece, ensure_ascii=False)}}}') if isinstance(piece, str) else WORKING

    def end(self, finish: str) -> str:
        return self._delta("{}", finish)

    def usage(self, usage: dict[str, Any]) -> str:
        return f'{self._head},"choices":[],"usage":{json.dumps(usage)}}}\n\n'

    def _delta(self, delta: str, finish: str | None = None) -> str:
        reason = "null" if finish is None else f'"{finish}"'
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
        return f'{self._head},"choices":[{choice}]{self._usage}}}\n\n'
