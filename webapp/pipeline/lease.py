"""Signs of life: while this process lives, the requests it executes stay its own.

A thread prolongs the lease of all of them by one statement every third of the lease. When the process dies nobody does, and
the sweeper hands them to others. This needs the database alone, so it works while Redis is away.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from datetime import timedelta

from flask import Flask, current_app
from sqlalchemy import update

from webapp.extensions import current_settings, now, writing
from webapp.interrupts import shielded
from webapp.models import Request, RequestStatus, unfinished

log = logging.getLogger(__name__)

_guard = threading.Lock()
_held: dict[uuid.UUID, Flask] = {}
_asked: set[uuid.UUID] = set()
_changed = threading.Event()
_thread_of_pid = 0
_IDLE_S = 10.0
_wait_s = _IDLE_S
"""For how long the thread waits now: it is woken for a lease that wants to be prolonged sooner, and for no other."""


def begin(claim: uuid.UUID) -> None:
    """From now on prolong the lease of the request with this claim. The first call in a process starts its thread."""
    global _thread_of_pid
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    with shielded(), _guard:
        if _thread_of_pid != os.getpid():
            _held.clear()
            _thread_of_pid = os.getpid()
            threading.Thread(target=_keep, name="lease", daemon=True).start()
        _held[claim] = app
        if app.extensions["switchhook.settings"].lease_s / 3 < _wait_s:
            _changed.set()


def end(claim: uuid.UUID) -> None:
    """Let go of a claim: the request is settled, or could not be and is to be taken over."""
    with shielded(), _guard:
        _held.pop(claim, None)
        if _asked:
            _asked.discard(claim)


def ask_to_stop(claim: uuid.UUID) -> None:
    """Let an execution of this process, if it goes on still, stop as soon as it can: nobody wants its answer any more."""
    with shielded(), _guard:
        if claim in _held:
            _asked.add(claim)


def asked_to_stop(claim: uuid.UUID) -> bool:
    """Whether somebody wants this execution to stop: of this process, or as the last look into the database has shown."""
    # Nearly always nobody has asked, and looking for a claim would make its hash.
    return bool(_asked) and claim in _asked


def _keep() -> None:
    global _wait_s
    while True:
        with _guard:
            apps = list(dict.fromkeys(_held.values()))
            if apps:
                _wait_s = min(_IDLE_S, *(app.extensions["switchhook.settings"].lease_s / 3 for app in apps))
        if _changed.wait(_wait_s):
            _changed.clear()
            continue
        for app in apps:
            with app.app_context():
                try:
                    prolong()
                except Exception as exc:
                    # Whatever it is: without this thread all work here would be taken for dead.
                    log.warning("could not prolong leases: %s", type(exc).__name__)


def held() -> list[uuid.UUID]:
    """The claims that this process holds for the current application."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    with shielded(), _guard:
        return [claim for claim, holder in _held.items() if holder is app]


def prolong() -> int:
    """Prolong the leases of what this process executes for the current application; returns how many there are."""
    claims = held()
    if not claims:
        return 0
    with writing() as connection:
        rows = connection.execute(
            update(Request)
            .where(Request.claim.in_(claims), Request.status == RequestStatus.PROCESSING, unfinished())
            .values(lease_until=now() + timedelta(seconds=current_settings().lease_s))
            .returning(Request.claim, Request.cancel_asked_at)
        ).all()
    with shielded(), _guard:
        _asked.update(row.claim for row in rows if row.cancel_asked_at is not None and row.claim in _held)
    return len(rows)
