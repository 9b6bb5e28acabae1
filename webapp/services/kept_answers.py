"""Answers kept for repeated API calls: the same person, key and call get the same answer instead of a second effect.

    begun = begin(person_id, key, digest)       # Begun: do it; Kept: that was the answer; or a refusal is raised
    finish(begun, Kept(201, headers, body))     # when it is done, or
    abandon(begun)                              # when the call may be tried again with the same key

A call that runs holds its key by a lease of half a minute, which a thread of its process prolongs. So a process that is killed
in the middle keeps a key for no longer than that, and nobody needs to know how long a call may take. `Begun.id` stays the same
when the call is taken over after such an end, so what has an idempotency key of its own can be given this one.

Bodies are sealed with a key made of the installation's SECRET_KEY: an answer may hold what is shown only once, such as a token.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flask import Flask, current_app
from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from webapp.contracts.errors import Conflict, Refusal
from webapp.extensions import current_settings, now, reading, table_of, writing
from webapp.models import ApiAnswer
from webapp.models.columns import new_id
from webapp.models.inserting import Inserter

log = logging.getLogger(__name__)

KEY_CHARS = 255
BODY_MAX = 2 * 1024 * 1024
"""Bytes of the longest body that is kept."""
LEASE = timedelta(seconds=30)
_PROLONG_EVERY_S = LEASE.total_seconds() / 3
_BATCH = 500
_NONCE = 12
_COLUMNS = ("id", "person_id", "key", "digest", "headers", "running_until", "created_at", "expires_at")

_table = table_of(ApiAnswer)
_insert = Inserter(_table, _COLUMNS, once=("person_id", "key"))


class KeyReused(Refusal):
    """The key belongs to another call."""

    code: ClassVar[str] = "idempotency_key_reused"


class KeyInUse(Conflict):
    """The first call with this key still runs; worth another try after `retry_after_s`."""

    code: ClassVar[str] = "idempotency_key_in_use"
    retry_after_s = 1


class NotKept(Conflict):
    """The call was made, but its answer cannot be given again."""

    code: ClassVar[str] = "idempotency_not_kept"


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer: HTTP status, the headers that belong to it, and its body."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(slots=True)
class Begun:
    """The key is held for the caller, who makes the call and then says `finish` or `abandon`. `again` means that a call before
    it got stuck in the middle, or was given up: parts of it may have been done."""

    id: uuid.UUID
    running_until: datetime
    again: bool = False
    _app: Flask | None = field(default=None, repr=False)


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 of what makes a call the same call: method, path, query, body and whatever else."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def begin(person_id: uuid.UUID, key: str, digest: str) -> Begun | Kept:
    """Hold the key for a call, or give the answer that the same call got before.

    Raises `KeyReused` if the key belongs to another call, `KeyInUse` while the first one runs, `NotKept` if its answer was too
    long to be kept or was cut off.
    """
    begun: Begun | None = None
    row: Row[tuple[ApiAnswer]] | None = None
    # Between the insert that finds a row and the look at it, the row may be given up: then there is room for ours.
    while begun is None and row is None:
        with writing() as connection:
            begun = _insert_new(connection, person_id, key, digest)
            if begun is None:
                row = connection.execute(
                    select(*_table.c).where(_table.c.person_id == person_id, _table.c.key == key).with_for_update()
                ).first()
                begun = _take_over(connection, row, digest) if row is not None else None
    if begun is not None:
        begun._app = current_app._get_current_object()  # type: ignore[attr-defined]
        _leases.hold(begun)
        return begun
    assert row is not None
    return _earlier(row, digest)


def finish(begun: Begun, answer: Kept | None) -> None:
    """Keep the answer; None if there was one that cannot be kept. Nothing happens if another call took over and ended first."""
    _leases.drop(begun)
    fits = answer is not None and len(answer.body) <= BODY_MAX
    values = {
        "status": answer.status if answer is not None else 200,
        "headers": [list(pair) for pair in answer.headers] if answer is not None and fits else [],
        "body": _seal(begun.id, answer.body) if answer is not None and fits else None,
        "running_until": None,
    }
    with writing() as connection:
        connection.execute(update(_table).where(_table.c.id == begun.id, _table.c.status.is_(None)).values(**values))


def abandon(begun: Begun, *, nothing_done: bool = False) -> None:
    """Let the same call be tried again with this key. With `nothing_done` the key is free for any call."""
    _leases.drop(begun)
    mine = (_table.c.id == begun.id, _table.c.status.is_(None), _table.c.running_until == begun.running_until)
    with writing() as connection:
        if nothing_done:
            connection.execute(delete(_table).where(*mine))
        else:
            connection.execute(update(_table).where(*mine).values(running_until=None))


@dataclass(frozen=True, slots=True)
class Removed:
    """How many answers were removed. `more`: there are others."""

    removed: int
    more: bool = False


def remove_expired() -> Removed:
    """Remove answers whose time is over, a few hundred in a transaction; what runs stays."""
    total = 0
    for _ in range(20):
        moment = now()
        over = (_table.c.expires_at <= moment, (_table.c.running_until.is_(None)) | (_table.c.running_until <= moment))
        with reading() as connection:
            ids = connection.scalars(select(_table.c.id).where(*over).order_by(_table.c.expires_at).limit(_BATCH)).all()
        if ids:
            with writing() as connection:
                total += connection.execute(delete(_table).where(_table.c.id.in_(ids), *over)).rowcount
        if len(ids) < _BATCH:
            return Removed(total)
    return Removed(total, more=True)


def erase(connection: Connection, person_id: uuid.UUID) -> int:
    """Remove all that is kept for a person, in the caller's transaction; returns how many."""
    return connection.execute(delete(_table).where(_table.c.person_id == person_id)).rowcount


# -- rows --------------------------------------------------------------------------------------------------------------
def _insert_new(connection: Connection, person_id: uuid.UUID, key: str, digest: str) -> Begun | None:
    moment = now()
    begun = Begun(new_id(), moment + LEASE)
    row = {
        "id": begun.id,
        "person_id": person_id,
        "key": key,
        "digest": digest,
        "headers": [],
        "running_until": begun.running_until,
        "created_at": moment,
        "expires_at": moment + kept_for(),
    }
    return begun if _insert(connection, [row]) else None


def kept_for() -> timedelta:
    """How long answers are kept: they are content, and never outlive the retention of content."""
    settings = current_settings()
    hours = timedelta(hours=settings.api_answer_h)
    return min(hours, timedelta(days=settings.retention_days)) if settings.retention_days else hours


def _take_over(connection: Connection, row: Row[tuple[ApiAnswer]], digest: str) -> Begun | None:
    """Hold a key whose call is over for good, was given up, or got stuck; None if it is not free for this call."""
    moment = now()
    if row.running_until is not None and row.running_until > moment:
        return None
    until = moment + LEASE
    if row.expires_at <= moment:
        begun = Begun(new_id(), until)
        fresh = {"id": begun.id, "digest": digest, "status": None, "headers": [], "body": None, "created_at": moment}
        values = fresh | {"expires_at": moment + kept_for()}
    elif row.status is None and row.digest == digest:
        begun, values = Begun(row.id, until, again=True), {}
    else:
        return None
    connection.execute(update(_table).where(_table.c.id == row.id).values(running_until=until, **values))
    return begun


def _earlier(row: Row[tuple[ApiAnswer]], digest: str) -> Kept:
    if row.digest != digest:
        raise KeyReused("This Idempotency-Key came with another call before: use a new key for each call.")
    if row.status is None:
        raise KeyInUse("The first call with this Idempotency-Key is still running: repeat this one in a moment.")
    body = _open(row.id, row.body)
    if body is None:
        raise NotKept(
            "This call was made before, and its answer cannot be given again: it was cut off, or is too long to be kept. Look "
            "for what it made, or use a new key to make the call again."
        )
    return Kept(row.status, tuple((name, value) for name, value in row.headers), body)


# -- sealing -----------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=8)
def _cipher(secret: str | bytes) -> AESGCM:
    raw = secret.encode() if isinstance(secret, str) else secret
    return AESGCM(hashlib.sha256(b"switchhook kept answers:" + raw).digest())


def _seal(row_id: uuid.UUID, body: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + _cipher(current_app.config["SECRET_KEY"]).encrypt(nonce, body, row_id.bytes)


def _open(row_id: uuid.UUID, sealed: bytes | None) -> bytes | None:
    """The body; None if there is none, or SECRET_KEY was another one then."""
    if sealed is None:
        return None
    try:
        return _cipher(current_app.config["SECRET_KEY"]).decrypt(sealed[:_NONCE], sealed[_NONCE:], row_id.bytes)
    except (InvalidTag, ValueError):
        return None


# -- leases ------------------------------------------------------------------------------------------------------------
class _Leases:
    """The leases of this process, and the thread that prolongs those of calls that take long. It ends when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[uuid.UUID, Begun] = {}
        self._thread: threading.Thread | None = None

    def hold(self, begun: Begun) -> None:
        with self._lock:
            self._held[begun.id] = begun
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="kept-answers", daemon=True)
                self._thread.start()

    def drop(self, begun: Begun) -> None:
        """After this the lease is not prolonged any more; waits for a prolongation that is under way."""
        with self._lock:
            if self._held.get(begun.id) is begun:
                del self._held[begun.id]
        with _prolonging:
            pass

    def _run(self) -> None:
        while True:
            threading.Event().wait(_PROLONG_EVERY_S)
            with self._lock:
                held = list(self._held.values())
                if not held:
                    self._thread = None
                    return
            for begun in held:
                with _prolonging:
                    if self._held.get(begun.id) is begun and not prolong(begun):
                        self._held.pop(begun.id, None)


_prolonging = threading.Lock()
_leases = _Leases()


def prolong(begun: Begun) -> bool:
    """Hold the key for another lease from this moment; False if another call has taken it over."""
    assert begun._app is not None
    until = now() + LEASE
    if until - begun.running_until < LEASE / 4:
        return True
    mine = (_table.c.id == begun.id, _table.c.status.is_(None), _table.c.running_until == begun.running_until)
    try:
        with begun._app.app_context(), writing() as connection:
            done = connection.execute(update(_table).where(*mine).values(running_until=until)).rowcount == 1
    except SQLAlchemyError as exc:
        log.warning("the key of a call cannot be held for longer: %s", type(exc).__name__)
        return True
    if done:
        begun.running_until = until
    return done
