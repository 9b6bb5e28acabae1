"""`POST /v1/chat/completions`, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from json.encoder import encode_basestring
from typing import Any

from flask import Response, request

from webapp.api.base import read_json
from webapp.api.v1 import calls, chat_request, errors, ground, once, ratelimits, seats
from webapp.api.v1.chat_request import ChatCall
from webapp.api.v1.whole import Whole, response_of
from webapp.contracts.calls import Finish, ToolPiece
from webapp.extensions import now
from webapp.models import RequestStatus
from webapp.pipeline import attended
from webapp.pipeline.admit import admit
from webapp.pipeline.attended import Attended
from webapp.pipeline.endings import Ending, Used
from webapp.pipeline.intake import Intake
from webapp.pipeline.relay import Relay
from webapp.pipeline.text_work import TextWork

blueprint = ground.group("chat")

_FINISH: Mapping[str, str] = {Finish.LENGTH: "length", Finish.FILTERED: "content_filter", Finish.TOOL: "tool_calls"}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Documents are put together of what is the same in all of them and what is not: an encoder takes five times as long.
_DOCUMENT = (
    '{"id":"chatcmpl-%s","object":"chat.completion","created":%d,"model":%s,"choices":[{"index":0,"message":'
    '{"role":"assistant","content":%s,"refusal":null%s},"logprobs":null,"finish_reason":"%s"}],"usage":%s}'
)
_USAGE = (
    '{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d},'
    '"completion_tokens_details":{"reasoning_tokens":%d}}'
)
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
    return response_of(serve(calls.bearer(), read_json(), may_keep=may_keep))


def serve(token: str, body: object, *, may_keep: bool = False) -> Whole | Response:
    """The answer to a body. Needs the application's context and no request's."""
    call = chat_request.read(body, may_keep=may_keep)
    answer = seats.seated(token, lambda: _served(token, call))
    if call.ignored:
        answer.headers["x-switchhook-ignored"] = call.ignored
    return answer


def _served(token: str, call: ChatCall) -> Whole | Response:
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
def _whole(running: Attended, call: ChatCall) -> Whole | Response:
    for _ in running.pieces():
        pass
    if (failure := failed(running)) is not None:
        return errors.answer(failure)
    ending = running.ending
    assert ending is not None
    used, claimed = ending.used, running.claimed
    asked = attended.tool_calls(running)
    document = _DOCUMENT % (
        claimed.id.hex,
        claimed.started_at.timestamp(),
        encode_basestring(model_of(used, call.model)),
        "null" if ending.answer is None else encode_basestring(ending.answer),
        ',"tool_calls":' + _encode([_tool_call(each) for each in asked]) if asked else "",
        finish_of(ending),
        usage_of(running, used),
    )
    return Whole(document, headers_of(running))


def headers_of(running: Attended) -> dict[str, str]:
    """What every answer says beside its body."""
    claimed = running.claimed
    limits = ratelimits.of_limits(claimed.standings, now())
    return {"Cache-Control": "no-store", "x-switchhook-request": str(claimed.id), **limits}


def model_of(used: Used, asked: str) -> str:
    """The model that answered, as provider/model."""
    return f"{used.provider}/{used.model}" if used.provider else asked


def finish_of(ending: Ending) -> str:
    """Why the answer ended, in OpenAI's words."""
    return _FINISH.get(ending.finish, "stop")


def usage_of(running: Attended, used: Used) -> str:
    """What was used, in JSON, as OpenAI counts it: prompt tokens with cached ones, completion tokens with reasoning ones."""
    told = running.work.usage if isinstance(running.work, TextWork) else None
    asked, answered = used.input_tokens, used.output_tokens
    cached, reasoning = (told.cached_tokens, told.reasoning_tokens) if told else (0, 0)
    return _USAGE % (asked, answered, asked + answered, cached, reasoning)


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
        yield chunks.usage(usage_of(running, ending.used))
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

    def usage(self, usage: str) -> str:
        return f'{self._head},"choices":[],"usage":{usage}}}\n\n'

    def _delta(self, delta: str, finish: str | None = None) -> str:
        reason = "null" if finish is None else f'"{finish}"'
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
        return f'{self._head},"choices":[{choice}]{self._usage}}}\n\n'
