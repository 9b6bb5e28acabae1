"""The body of an answer, read as it arrives, and the response that hands it on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import httpx

if TYPE_CHECKING:
    import socket
    from io import BufferedReader

    from webapp.routing.http_head import Head
    from webapp.routing.wire import Connection, Raw

PIECE = 65_536
# How long closing a response waits for the end of a body that may just be arriving. Readers of event streams stop at
# `[DONE]`, a few microseconds before the empty chunk that ends the body; without it the connection could not be kept.
# A server with Nagle's algorithm on holds that chunk back until our kernel has acknowledged the piece before, for 40 ms.
_END_GRACE_S = 0.05

_NO_HEADERS = httpx.Headers()


class _Begun(NamedTuple):
    """An answer whose head was read already. `HTTPResponse` only asks its socket for a file."""

    reader: BufferedReader[Raw]

    def makefile(self, _mode: str) -> BinaryIO:
        return cast("BinaryIO", self.reader)


class _Chunks(HTTPResponse):
    """A body in chunks: that format is the work of `http.client`."""

    def __init__(self, reader: BufferedReader[Raw]) -> None:
        super().__init__(cast("socket.socket", _Begun(reader)))
        self.chunked = True
        self.chunk_left = None
        self.length = None
        self.will_close = False


class Body(httpx.SyncByteStream):
    """The body of an answer: read once, as it arrives."""

    def __init__(
        self,
        connection: Connection,
        head: Head,
        begun: bytes,
        reader: BufferedReader[Raw] | None,
        give_back: Callable[[Connection], None],
    ) -> None:
        """`begun` is what of the body came with its head; everything of it comes from `reader` where there is one.
        `give_back` takes the connection when it can carry another call."""
        self._connection = connection
        self._give_back = give_back
        self._left = left = head.length
        self._finished = left == 0
        self._closed = self._broken = False
        self._will_close = head.will_close
        self._chunks: _Chunks | None = None
        self.encoded = head.encoded
        most = connection.clock.max_bytes
        # Compressed data may grow a thousandfold, and was not asked for.
        self._room = most // 100 if head.encoded else most
        if reader is not None:
            self._read: Callable[[int], bytes] = reader.read1
            if head.chunked:
                self._chunks = _Chunks(reader)
                self._read = self._chunks.read1
        else:
            self._read = connection.receive
            if left is not None and len(begun) > left:
                begun = begun[:left]
                self._will_close = True  # a server that says more than it announced may say it at any time
        self._begun = begun

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.next():
            yield piece

    def next(self) -> bytes:
        """The next bytes, b'' at the end. Truncation is an error, never an end."""
        if self._finished:
            return b""
        try:
            piece = self._next()
        except httpx.HTTPError:
            self._broken = True
            raise
        self._finished = self._left == 0 or not piece
        return piece

    def _next(self) -> bytes:
        left = self._left
        if self._begun:
            piece, self._begun = self._begun, b""
        else:
            try:
                piece = self._read(PIECE if left is None or left > PIECE else left)
            except TimeoutError as exc:
                raise httpx.ReadTimeout(f"no further byte in time: {exc}") from exc
            except OSError as exc:
                raise httpx.ReadError(f"the connection broke: {exc}") from exc
            except (HTTPException, ValueError) as exc:
                raise httpx.RemoteProtocolError(f"the answer broke off or is malformed: {exc!r}") from exc
        size = len(piece)
        self._room -= size
        if self._room < 0:
            raise httpx.RemoteProtocolError("the answer is larger than the limit of the call (max_bytes)")
        if left is not None:
            self._left = left = left - size
            if left and not size:
                raise httpx.RemoteProtocolError(f"the answer ended {left} bytes before its announced length")
        return piece

    def close(self) -> None:
        """Give the connection back if the whole answer was read, else hang up."""
        if self._closed:
            return
        self._closed = True
        if self._chunks is not None:
            self._close_chunks()
        if self._finished and not (self._broken or self._will_close):
            self._give_back(self._connection)
        else:
            self._connection.close()

    def _close_chunks(self) -> None:
        if not (self._finished or self._broken):
            clock = self._connection.clock
            clock.deadline = min(clock.deadline, time.monotonic() + _END_GRACE_S)
            with contextlib.suppress(httpx.HTTPError):
                self.next()
        with contextlib.suppress(OSError, ValueError):
            cast("_Chunks", self._chunks).close()


class PooledResponse(httpx.Response):
    """A response that hands on the pieces of its body without detours, where nothing has to be decoded or cut.

    httpx puts a stream of its own around the body where it follows redirects or signs in; then httpx reads it, too.
    """

    def __init__(self, head: Head, body: Body, request: httpx.Request) -> None:
        super().__init__(head.status, headers=_NO_HEADERS, stream=body, request=request)
        # As they came. Putting them in by name would encode, decode and compare each several times over.
        self.headers._list = head.fields
        if head.ascii:
            self.headers.encoding = "ascii"  # else it is found by decoding them all

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        body = self.stream
        if type(body) is not Body or body.encoded or chunk_size is not None or hasattr(self, "_content"):
            return super().iter_bytes(chunk_size)
        return self._pieces(body)

    def _pieces(self, body: Body) -> Iterator[bytes]:
        if self.is_stream_consumed:
            raise httpx.StreamConsumed
        if self.is_closed:
            raise httpx.StreamClosed
        self.is_stream_consumed = True
        try:
            while piece := body.next():
                self._num_bytes_downloaded += len(piece)
                yield piece
        except httpx.RequestError as exc:
            exc.request = self.request
            raise
        self.close()

    def close(self) -> None:
        """Close the response and give its connection back, if the body was read to its end."""
        body = self.stream
        if type(body) is not Body:
            super().close()
        elif not self.is_closed:
            self.is_closed = True
            body.close()
