"""Who did something, for people: what the audit trail calls `person:ID` by the name of that person."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from sqlalchemy import select

from webapp.extensions import reading
from webapp.models import Person

_PREFIX = "person:"


def names(actors: Iterable[str]) -> dict[str, str]:
    """Each actor of a page with how they are called: people by their name or e-mail, everything else as it is stored."""
    asked = {actor: _id(actor) for actor in actors}
    query = select(Person.id, Person.full_name, Person.email).where(Person.id.in_([each for each in asked.values() if each]))
    with reading() as connection:
        known = {row.id: row.full_name or row.email for row in connection.execute(query)}
    return {actor: known.get(person_id) or actor for actor, person_id in asked.items()}


def _id(actor: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(actor.removeprefix(_PREFIX)) if actor.startswith(_PREFIX) else None
    except ValueError:
        return None
