"""Requests that differ from one before in their body alone: the rest was worked out once, by httpx, and is kept as bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from webapp.routing.wire import Origin

_FORBIDDEN = re.compile(rb"[\r\n\x00]")
_LENGTH = b"content-length"
# Who sets one of these says how the body is sent.
_FRAMING = (_LENGTH, b"transfer-encoding")
PROBE = b'"the body of a request whose head is kept"'
"""A body that is valid as JSON, too."""


def origin_of(url: httpx.URL) -> Origin:
    """Where a request to `url` goes. Raises `UnsupportedProtocol`."""
    if url.scheme not in ("http", "https") or not url.host:
        raise httpx.UnsupportedProtocol("only http and https addresses with a host can be called")
    secure = url.scheme == "https"
    return Origin(secure, url.raw_host.decode("ascii"), url.port or (443 if secure else 80))


def head_of(request: httpx.Request) -> bytes:
    """The request line and the headers. Raises `LocalProtocolError`, without their values: they may be keys."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii", "replace"), request.url.raw_path)]
    lines += [b"%b: %b" % pair for pair in request.headers.raw]
    for line in lines:
        if _FORBIDDEN.search(line):
            name = line.partition(b":")[0][:40].decode("latin-1")
            raise httpx.LocalProtocolError(f"a line break in the request's header: {name!r}")
    return b"\r\n".join(lines) + b"\r\n\r\n"


@dataclass(frozen=True, slots=True, repr=False)
class Template:
    """All of a request but its body. It may hold keys, so it has no form that could be shown."""

    method: str
    url: httpx.URL
    origin: Origin
    before: bytes
    """The head up to the length of the body, …"""
    after: bytes
    """… and from there on."""
    raw: tuple[tuple[bytes, bytes], ...]
    """The headers, the length among them that of the probe."""

    @classmethod
    def of(cls, probe: httpx.Request, set_names: Iterable[bytes]) -> Template | None:
        """What `probe`, a request whose body is the probe, has in common with those of other bodies; None where that is not
        certain. `set_names`: the headers that somebody set, in lower case."""
        if probe.url.userinfo or any(name in _FRAMING for name in set_names):
            return None
        raw = tuple(probe.headers.raw)
        line = next(b"\r\n%b: " % name for name, _ in raw if name.lower() == _LENGTH)
        try:
            origin, head = origin_of(probe.url), head_of(probe)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            return None  # told when it is sent
        before, line, after = head.partition(line)
        return cls(probe.method, probe.url, origin, before + line, after.removeprefix(b"%d" % len(PROBE)), raw)


class PreparedRequest(httpx.Request):
    """A request made from a template. Its headers become an object when somebody looks at them."""

    def __init__(self, template: Template, body: bytes, extensions: dict[str, Any]) -> None:
        self.method = template.method
        self.url = template.url
        self.extensions = extensions
        self._content = body
        self._template = template
        self._headers: httpx.Headers | None = None
        self._stream: httpx.SyncByteStream | httpx.AsyncByteStream | None = None

    @property
    def untouched(self) -> bool:
        """Whether nobody can have changed it since it was made."""
        template = self._template
        same = self.url is template.url and self.method is template.method
        return same and self._headers is None and self._stream is None

    def ready(self) -> tuple[Origin, bytes, bytes] | None:
        """Where it goes, its head and its body; None if it may have been changed."""
        if not self.untouched:
            return None
        template, body = self._template, self._content
        return template.origin, b"%b%d%b" % (template.before, len(body), template.after), body

    @property
    def headers(self) -> httpx.Headers:
        if self._headers is None:
            length = b"%d" % len(self._content)
            raw = [(name, length if name.lower() == _LENGTH else value) for name, value in self._template.raw]
            self._headers = httpx.Headers(raw)
        return self._headers

    @headers.setter
    def headers(self, headers: httpx.Headers) -> None:
        self._headers = headers

    @property
    def stream(self) -> httpx.SyncByteStream | httpx.AsyncByteStream:
        if self._stream is None:
            self._stream = httpx.ByteStream(self._content)
        return self._stream

    @stream.setter
    def stream(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        self._stream = stream


class NoCookies(CookieJar):
    """A jar that takes no cookie from an answer, and knows whether somebody put one in."""

    def __init__(self) -> None:
        super().__init__(DefaultCookiePolicy(allowed_domains=[]))
        self.filled = False

    def set_cookie(self, cookie: Cookie) -> None:
        self.filled = True
        super().set_cookie(cookie)
