"""What tests about plans and limits do: providers whose use is known, people in organizations, counters as they stand."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import insert, select, update

from tests.balance import counters_off
from webapp.extensions import db, now, reading, writing
from webapp.models import (
    CounterChange,
    LimitCounter,
    Membership,
    Organization,
    Person,
    PersonRole,
    Plan,
    Request,
    RequestStatus,
)
from webapp.models.columns import new_id
from webapp.plugin import Text, TextCall, TextProvider, Usage
from webapp.services.organizations import Actor

OPERATOR = Actor.operator("command line (test)")


class Vendor(TextProvider):
    """A provider that answers every call with the same use: 100 tokens in, 50 out."""

    label, default_model = "Vendor", "m"

    def __init__(self, name: str, **values: Any) -> None:
        self.name = name
        self.calls: list[TextCall] = []
        for attribute, value in values.items():
            setattr(self, attribute, value)

    def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
        self.calls.append(call)
        return iter([Text(f"An answer from {self.name}."), Usage(100, 50)])


def organization_id() -> uuid.UUID:
    """The default organization."""
    with reading() as connection:
        return connection.execute(select(Organization.id).order_by(Organization.id).limit(1)).scalar_one()


def person_of(email: str) -> uuid.UUID:
    """The person with this e-mail."""
    with reading() as connection:
        return connection.execute(select(Person.id).where(Person.email == email)).scalar_one()


def set_plan_limits(code: str, **limits: int | None) -> None:
    """Change a plan's numbers."""
    with writing() as connection:
        connection.execute(update(Plan).where(Plan.code == code).values(limits=limits))


def add_organization(name: str, time_zone: str = "UTC") -> uuid.UUID:
    """An organization without people."""
    found = new_id()
    with writing() as connection:
        connection.execute(insert(Organization), {"id": found, "name": name, "time_zone": time_zone, "created_at": now()})
    return found


def set_role(person_id: uuid.UUID, place: uuid.UUID, role: PersonRole) -> None:
    """What a member is."""
    with writing() as connection:
        mine = (Membership.person_id == person_id, Membership.organization_id == place)
        connection.execute(update(Membership).where(*mine).values(role=role))


def counters(subject: str = "") -> dict[str, tuple[int, int]]:
    """Name -> (used, held), of a subject or of all."""
    with reading() as connection:
        query = select(LimitCounter.name, LimitCounter.used, LimitCounter.held)
        found = connection.execute(query.where(LimitCounter.subject == subject) if subject else query)
        return {row.name: (row.used, row.held) for row in found}


def changes() -> list[tuple[str, str, int, str]]:
    """Subject, name, amount and reason of everything that was done to counters by other than requests."""
    db.session.rollback()
    with reading() as connection:
        change = CounterChange
        query = select(change.subject, change.name, change.amount, change.reason).order_by(
            change.subject, change.name, change.id
        )
        return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]


def assert_receipts_agree() -> None:
    """Every counter is the sum of its receipts and changes."""
    with reading() as connection:
        assert counters_off(connection) == []


def begin(person_id: uuid.UUID, **values: Any) -> uuid.UUID:
    """A request's row, which holds refer to."""
    request_id = new_id()
    with writing() as connection:
        place = connection.execute(select(Person.organization_id).where(Person.id == person_id)).scalar_one()
        row = {
            "id": request_id,
            "person_id": person_id,
            "organization_id": place,
            "channel": "sms",
            "operation": "chat",
            "prompt": "x",
            "status": RequestStatus.QUEUED,
            "max_input_tokens": 1,
            "max_output_tokens": 1,
            "queue": "low",
            "priority": 20,
            "created_at": now(),
        }
        connection.execute(insert(Request), row | values)
    return request_id
