"""Passwords, by Argon2id with the library's defaults (RFC 9106, low-memory profile)."""

from __future__ import annotations

import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_CHARS = 10
MAX_CHARS = 200

_hasher = PasswordHasher()

# Each takes 64 MiB while it runs: as many as come at once would take the machine.
_at_once = threading.BoundedSemaphore(2)


def hash_password(password: str) -> str:
    """The hash to store."""
    with _at_once:
        return _hasher.hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Whether `password` is the one. Takes as long for a person without a password, so that nobody can tell them apart."""
    known = password_hash or _decoy()
    try:
        with _at_once:
            return _hasher.verify(known, password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


@cache
def _decoy() -> str:
    return hash_password("no one has this password")
