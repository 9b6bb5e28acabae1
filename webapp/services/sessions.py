"""Sign-ins that are under way. A sign-in is a signed cookie that names a person and their session key; nothing is stored per
device, so sessions end together: by a new key."""

from __future__ import annotations

import uuid

from sqlalchemy import update

from webapp.extensions import writing_session
from webapp.models import AuditEntry, Person


def end_all(person_id: uuid.UUID, actor: str) -> str:
    """End every session of a person; returns the new session key, with which one of them may go on."""
    key = uuid.uuid4().hex
    with writing_session() as session:
        session.execute(update(Person).where(Person.id == person_id).values(session_key=key))
        session.add(AuditEntry(actor=actor, action="person.sessions", subject=f"person:{person_id}"))
    return key
