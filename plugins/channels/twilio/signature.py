"""Twilio's proof of origin: the X-Twilio-Signature header. Pure functions on values.

Source: https://www.twilio.com/docs/usage/security#validating-requests and Twilio's own Python library 9.13.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl

HEADER = "X-Twilio-Signature"
_MAX_FIELDS = 512
_DEFAULT_PORTS = {"http": "80", "https": "443"}

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that Twilio signs with: an auth token (SHA-1) or the secret of a shared key (SHA-256)."""

    secret: str = field(repr=False)
    digest: Literal["sha1", "sha256"] = "sha1"


def form_pairs(raw: bytes) -> Pairs:
    """The pairs of a form body, decoded, in their order, blank values kept; ValueError if it is not UTF-8 throughout.

    Lenient decoding would turn different bytes into the same replacement character, and so into the same signed text.
    """
    return parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)


def sign(url: str, pairs: Iterable[tuple[str, str]], key: Key) -> str:
    """The signature of a request to `url` with these form pairs (none for GET and JSON), in base64."""
    return _sign(url + _joined(pairs), key)


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    # A name that comes twice is signed with its distinct values in order: what sorting the distinct pairs gives.
    return "".join(name + value for name, value in sorted(set(pairs)))


def _sign(text: str, key: Key) -> str:
    # surrogatepass: a caller's strings may hold anything, and what cannot be sent as UTF-8 only has to be different.
    return base64.b64encode(hmac.digest(key.secret.encode(), text.encode("utf-8", "surrogatepass"), key.digest)).decode()


def variants(url: str) -> tuple[str, ...]:
    """The ways in which Twilio may have written `url`: as it is, without a port, with the scheme's default port.

    Twilio is inconsistent about the port. User names and IPv6 hosts stay as they are.
    """
    scheme, separator, rest = url.partition("://")
    end = next((i for i, char in enumerate(rest) if char in "/?#"), len(rest))
    authority, tail = rest[:end], rest[end:]
    user, at, host = authority.rpartition("@")
    bare, colon, port = host.rpartition(":")
    if not colon or not (port.isdecimal() and port.isascii()):
        bare, port = host, ""
    written = [url, f"{scheme}{separator}{user}{at}{bare}{tail}"]
    default = _DEFAULT_PORTS.get(scheme.lower(), "")
    if default and port in ("", default):
        written.append(f"{scheme}{separator}{user}{at}{bare}:{default}{tail}")
    return tuple(dict.fromkeys(written))


def verify(url: str, pairs: Iterable[tuple[str, str]], signature: str, keys: Iterable[Key]) -> bool:
    """Whether one of `keys` signed a form with `pairs` for `url` in any of its variants. Compares in constant time."""
    given = signature.encode("utf-8", "surrogatepass")
    keys, fields = tuple(keys), _joined(pairs)
    signed = (_sign(written + fields, key) for written in variants(url) for key in keys)
    return any(hmac.compare_digest(expected.encode(), given) for expected in signed)


def verify_json(url: str, body: bytes, body_sha256: str, signature: str, keys: Iterable[Key]) -> bool:
    """Whether a JSON body is Twilio's: the URL is signed alone and names the body's hash in its `bodySHA256` parameter.

    Without that parameter nothing protects the body, so such a request is nobody's.
    """
    if not hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), body_sha256.encode("utf-8", "surrogatepass")):
        return False
    return verify(url, [], signature, keys)
