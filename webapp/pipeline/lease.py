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
from typing import cast

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


def begin(claim: uuid.UUID) -> None:
    """From now on prolong the lease of the request with this claim. The first call in a process starts its thread."""
    global _thread_of_pid
    app = cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]
    with shielded(), _guard:
        if _thread_of_pid != os.getpid():
            _held.clear()
            _thread_of_pid = os.getpid()
            threading.Thread(target=_keep, name="lease", daemon=True).start()
        if app not in _held.values():
            _changed.set()
        _held[claim] = app


def end(claim: uuid.UUID) -> None:
    """Let go of a claim: the request is settled, or could not be and is to be taken over."""
    with shielded(), _guard:
        _held.pop(claim, None)
        _asked.discard(claim)


def ask_to_stop(claim: uuid.UUID) -> None:
    """Let an execution of this process, if it goes on still, stop as soon as it can: nobody wants its answer any more."""
    with shielded(), _guard:
        if claim in _held:
            _asked.add(claim)


def asked_to_stop(claim: uuid.UUID) -> bool:
    """Whether somebody wants this execution to stop: of this process, or as the last look into the database has shown."""
    return claim in _asked


def _keep() -> None:
    while True:
        with _guard:
            apps = list(dict.fromkeys(_held.values()))
        leases = [app.extensions["switchhook.settings"].lease_s for app in apps]
        # Somebody with a shorter lease may come while this waits.
        if _changed.wait(min(leases, default=30.0) / 3):
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
