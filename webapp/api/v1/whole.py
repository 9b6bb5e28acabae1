"""An answer in one piece: JSON and its headers, as the body of a `Response` of Flask or, for less, as WSGI by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_TYPE = "application/json"


class Whole:
    """A good answer: `document` is JSON. `headers` may be added to until it is sent; their names are ours, each written in
    one way."""

    __slots__ = ("body", "headers")

    def __init__(self, document: str, headers: dict[str, str]) -> None:
        self.body = document.encode()
        self.headers = headers

    def response(self) -> Response:
        """The same for Flask."""
        return Response(self.body, mimetype=_TYPE, headers=self.headers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:  # noqa: ARG002
        """Send it. `ValueError` for a header with the end of a line in it, which would begin another one."""
        said = "".join(self.headers.values())
        if "\n" in said or "\r" in said:
            raise ValueError("A header has the end of a line in it.")
        length = str(len(self.body))
        start_response("200 OK", [("Content-Type", _TYPE), ("Content-Length", length), *self.headers.items()])
        return [self.body]


def response_of(answer: Whole | Response) -> Response:
    """An answer for Flask, whichever it is."""
    return answer.response() if isinstance(answer, Whole) else answer
