"""`Idempotency-Key` under `/v1`: a call that is repeated gets the first one's answer. Without the header it costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from flask import Response, request

from webapp.api import once
from webapp.api.v1 import calls, errors
from webapp.contracts.errors import SwitchhookError
from webapp.services import kept_answers
from webapp.services.kept_answers import Begun, Kept


def repeatable(view: Callable[[], Response]) -> Callable[[], Response]:
    """Let a route, below its decorator, be called again with the same `Idempotency-Key`."""

    @wraps(view)
    def wrapped() -> Response:
        key = once.key_of_call()
        if key is None:
            return view()
        known = calls.known("chat")
        # Whether the answer is streamed is in the body, and belongs to the call.
        place = str(known.organization_id)
        digest = kept_answers.digest_of(
            str(known.token_id), place, request.method, request.path, request.query_string, request.get_data(cache=True)
        )
        found = kept_answers.begin(known.person_id, key, digest)
        return once.replay(found) if isinstance(found, Kept) else _first(found, view)

    return wrapped


def _first(begun: Begun, view: Callable[[], Response]) -> Response:
    try:
        try:
            response = view()
        except SwitchhookError as exc:
            response = errors.answer(calls.failure_of(exc))
        once.keep(begun, response)
    except BaseException:
        kept_answers.abandon(begun)
        raise
    return response
