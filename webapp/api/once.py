"""Calls that are repeated without a second effect: `Idempotency-Key`.

A call is the same if its person, their token (or session), the organization it works in, method, path, query and body are. What
one token was answered is not for another, weaker one: it may hold a token in clear. Then its first answer is given
again, with `Idempotent-Replayed: true`, also if it was a refusal (4xx) by the route. What ends in 429, 5xx or before the route
is not kept: the same call may be tried again with the same key.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from webapp.api import access, problems
from webapp.contracts.errors import BadInput, Refusal
from webapp.services import kept_answers
from webapp.services.kept_answers import Begun, Kept

F = TypeVar("F", bound=Callable[..., Any])

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_KEY = re.compile(rf"[\x21-\x7e]{{1,{kept_answers.KEY_CHARS}}}")
_KEPT = ("Content-Type", "Location", "Retry-After")
_RUNNING = "switchhook_begun"


def repeatable(view: F) -> F:
    """Let a route, below its decorator and above `access.opens`, be called again with the same `Idempotency-Key`."""

    @wraps(view)
    def once(*args: Any, **values: Any) -> Response:
        key = key_of_call()
        if key is None:
            return current_app.make_response(view(*args, **values))
        found = kept_answers.begin(access.caller().id, key, _digest())
        if isinstance(found, Kept):
            return replay(found)
        setattr(g, _RUNNING, found.id)
        return _first(found, view, args, values)

    once.repeatable = True  # type: ignore[attr-defined]
    return cast(F, once)


def key_of_call() -> str | None:
    """The key that came with the call, None without one. `BadInput` for one that is none."""
    key = request.headers.get(HEADER)
    if key is not None and not _KEY.fullmatch(key):
        raise BadInput(
            HEADER, f"{HEADER}: a key has 1 to {kept_answers.KEY_CHARS} visible ASCII characters, such as those of a UUID."
        )
    return key


def call_id() -> uuid.UUID | None:
    """What stays the same in all repetitions of the call that runs, None if it has no key. Whatever has an idempotency key of
    its own, such as a request, is given this: so it is not made twice even if this process dies in the middle."""
    return cast("uuid.UUID | None", g.get(_RUNNING))


def replay(kept: Kept) -> Response:
    """An answer of before."""
    response = Response(kept.body, kept.status, list(kept.headers))
    if not any(name.lower() == "content-type" for name, _ in kept.headers):
        del response.headers["Content-Type"]
    response.headers["Cache-Control"] = "no-store"
    response.headers[REPLAYED] = "true"
    return response


def keep(begun: Begun, response: Response) -> None:
    """Keep an answer for repetitions, or let the call be tried again. The body of a streamed one is kept when it has ended."""
    if response.status_code >= 500 or response.status_code == 429:
        kept_answers.abandon(begun, nothing_done=response.status_code == 429)
        return
    headers = tuple((name, response.headers[name]) for name in _KEPT if name in response.headers)
    if response.is_streamed:
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        response.response = _Gathered(app, begun, response.response, response.status_code, headers)
        return
    kept_answers.finish(begun, Kept(response.status_code, headers, response.get_data()))


def _first(begun: Begun, view: Callable[..., Any], args: Any, values: Any) -> Response:
    try:
        try:
            response = current_app.make_response(view(*args, **values))
        except Refusal as exc:
            response = problems.of_refusal(exc)
        except HTTPException as exc:
            response = problems.of_http(exc)
        keep(begun, response)
    except BaseException:
        kept_answers.abandon(begun)
        raise
    return response


def _digest() -> str:
    caller = access.caller()
    token, place = str(caller.token_id or ""), str(caller.organization_id)
    return kept_answers.digest_of(
        token, place, request.method, request.path, request.query_string, request.get_data(cache=True)
    )


class _Gathered:
    """The pieces of a streamed answer, which are kept when they have all been read. What is cut off cannot be given again."""

    def __init__(
        self, app: Flask, begun: Begun, pieces: Iterable[Any], status: int, headers: tuple[tuple[str, str], ...]
    ) -> None:
        self._app, self._begun, self._status, self._headers = app, begun, status, headers
        self._source, self._pieces = pieces, iter(pieces)
        self._body: bytearray | None = bytearray()
        self._ended = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._end(whole=True)
            raise
        except BaseException:
            self._end(whole=False)
            raise
        if self._body is not None:
            self._body += piece.encode() if isinstance(piece, str) else piece
            if len(self._body) > kept_answers.BODY_MAX:
                self._body = None
        return piece

    def close(self) -> None:
        """The server has done with it: it was read to its end, or the other side hung up."""
        try:
            if hasattr(self._source, "close"):
                self._source.close()
        finally:
            self._end(whole=False)

    def _end(self, *, whole: bool) -> None:
        if self._ended:
            return
        self._ended = True
        kept = Kept(self._status, self._headers, bytes(self._body)) if whole and self._body is not None else None
        with self._app.app_context():
            kept_answers.finish(self._begun, kept)
