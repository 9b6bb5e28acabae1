"""Who is on which plan, and what becomes of the month's counts when that changes.

Each change is one short transaction, in which the right to it is checked and the reason is kept; listeners hear of it after the
commit. A person has their own plan or that of the organization they work in, whichever ranks higher: where that rises, the
month starts afresh. What requests under way hold stays held, and is counted when they end.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from webapp.contracts.errors import BadInput, NotFound
from webapp.contracts.events import PlanEvent
from webapp.contracts.texts import clean
from webapp.extensions import now, reading, writing_session
from webapp.models import AuditEntry, Organization, Person, Plan, PlanChange
from webapp.registry import current_registry
from webapp.services import fresh_months, organizations, people
from webapp.services.organizations import Actor

REASON_CHARS = 500
CHUNK = 200
"""How many people's months are started afresh in one transaction."""


class SamePlan(BadInput):
    """They are on the plan already."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A plan after it was changed. `person_id` is None for an organization's; `plan` and `before` are '' for none. `restarted`
    is how many people's months have started afresh."""

    person_id: uuid.UUID | None
    organization_id: uuid.UUID
    before: str
    plan: str
    restarted: int

    def event(self, reason: str) -> PlanEvent:
        """What listeners are told."""
        return PlanEvent(str(self.person_id or ""), str(self.organization_id), self.before, self.plan, reason)


def checked_reason(text: str) -> str:
    """A reason as it is kept. `BadInput`."""
    reason = clean(text).strip()
    if not 0 < len(reason) <= REASON_CHARS:
        raise BadInput("reason", f"Say why, in 1 to {REASON_CHARS} characters: the reason is kept.")
    return reason


def change_person(person_id: uuid.UUID, plan: str, reason: str, actor: Actor) -> Changed:
    """Put a person on another plan, for administrators of the installation. `BadInput` for a plan that there is not, or that
    they are on already; `NotFound`."""
    reason = checked_reason(reason)
    try:
        with writing_session() as session:
            changed = person_within(session, person_id, plan, reason, actor)
    except IntegrityError as exc:
        raise BadInput("plan", f"The plan {plan} was deleted meanwhile: choose another.") from exc
    current_registry().emit("plan_changed", changed.event(reason))
    return changed


def person_within(session: Session, person_id: uuid.UUID, code: str, reason: str, actor: Actor) -> Changed:
    """`change_person` in the caller's transaction; the event is for the caller. The reason has been checked."""
    organizations.for_house(session, actor)
    person = fresh_months.locked(session, person_id)
    organization = session.get_one(Organization, person.organization_id)
    before, after = session.get_one(Plan, person.plan_code), named(session, code)
    if before.code == after.code:
        raise SamePlan("plan", f"This person is on the plan {after.code} already.")
    shared = session.get(Plan, organization.plan_code) if organization.plan_code else None
    was, becomes = higher(before, shared), higher(after, shared)
    restarted = becomes.rank > was.rank
    if restarted:
        fresh_months.restart(session.connection(), [person_id], (was, becomes), reason, actor.name, now())
    person.plan_code = after.code
    change = _record(person_id, organization.id, before.code, after.code, reason, actor, restarted)
    session.add_all(change)
    session.flush()
    return Changed(person_id, organization.id, before.code, after.code, int(restarted))


def change_organization(
    organization_id: uuid.UUID, plan: str, reason: str, actor: Actor, progress: Callable[[int], None] | None = None
) -> Changed:
    """Give an organization's people a plan, or none ('') beyond their own. For administrators of the installation.

    Where somebody who works there rises by it, their month starts afresh: a few hundred people in one transaction, each time
    telling `progress` how many there were so far. A process that dies in between leaves the others with their counts; starting
    the month afresh for the organization's people mends it.
    """
    reason = checked_reason(reason)
    try:
        with writing_session() as session:
            organizations.for_house(session, actor)
            organization = organizations.lock(session, organization_id)
            before = session.get(Plan, organization.plan_code) if organization.plan_code else None
            after = named(session, plan) if plan else None
            if before is after:
                raise SamePlan("plan", f"This organization has {'the plan ' + plan if plan else 'no plan'} already.")
            risen = after is not None and (before is None or after.rank > before.rank)
            organization.plan_code = after.code if after else None
            organization.version += 1
            was = before.code if before else ""
            session.add_all(_record(None, organization_id, was, plan, reason, actor, risen))
            session.flush()
    except IntegrityError as exc:
        raise BadInput("plan", f"The plan {plan} was deleted meanwhile: choose another.") from exc
    restarted = 0
    if risen and after is not None:
        restarted = _restart_risen(organization_id, before, after, reason, actor, progress)
    changed = Changed(None, organization_id, was, plan, restarted)
    current_registry().emit("plan_changed", changed.event(reason))
    return changed


def _restart_risen(
    organization_id: uuid.UUID,
    before: Plan | None,
    after: Plan,
    reason: str,
    actor: Actor,
    progress: Callable[[int], None] | None,
) -> int:
    """Start the month afresh for those who work in the organization and whose own plan ranks below what they have by it."""
    query = (
        select(Person.id)
        .join(Plan, Plan.code == Person.plan_code)
        .where(Person.organization_id == organization_id, Plan.rank < after.rank)
        .order_by(Person.id)
        .limit(CHUNK)
    )
    done = 0
    for ids in _chunks(query):
        with writing_session() as session:
            # Somebody may have got another plan, or gone elsewhere, since.
            own = aliased(Plan)
            rising = session.execute(
                select(Person.id, own)
                .join(own, own.code == Person.plan_code)
                .where(Person.id.in_(ids), Person.organization_id == organization_id, own.rank < after.rank)
                .order_by(Person.id)
                .with_for_update(of=Person, key_share=True)
            ).all()
            plans = {plan.code: plan for plan in (after, before, *(plan for _, plan in rising)) if plan is not None}
            there = [person_id for person_id, _ in rising]
            fresh_months.restart(session.connection(), there, tuple(plans.values()), reason, actor.name, now())
            done += len(there)
        if progress is not None:
            progress(done)
    return done


def _chunks(query: Select[uuid.UUID]) -> Iterable[Sequence[uuid.UUID]]:
    last: uuid.UUID | None = None
    while True:
        with reading() as connection:
            ids = connection.scalars(query if last is None else query.where(Person.id > last)).all()
        if not ids:
            return
        yield ids
        last = ids[-1]


def start_afresh(person_id: uuid.UUID, reason: str, actor: Actor) -> int:
    """Start a person's month afresh on the plan they have, for administrators of the installation; returns how many counts were
    set back."""
    reason = checked_reason(reason)
    with writing_session() as session:
        organizations.for_house(session, actor)
        person = fresh_months.locked(session, person_id)
        plans = [person.plan_code]
        organization = session.get_one(Organization, person.organization_id)
        plans += [organization.plan_code] if organization.plan_code else []
        found = session.scalars(select(Plan).where(Plan.code.in_(plans))).all()
        count = fresh_months.restart(session.connection(), [person_id], found, reason, actor.name, now())
        detail = {"reason": reason, "counts": count}
        organizations.audit(session, actor, "person.month", f"person:{person_id}", organization.id, detail)
        return count


def named(session: Session, code: str) -> Plan:
    """The plan that has this code. `BadInput`."""
    found = session.get(Plan, code)
    if found is None:
        raise BadInput("plan", f"There is no plan {clean(code)[:40]!r}: {', '.join(people.plan_codes(session))}.")
    return found


def higher(own: Plan, shared: Plan | None) -> Plan:
    """The plan that holds for somebody: their own, unless the organization's ranks higher."""
    return shared if shared is not None and shared.rank > own.rank else own


@dataclass(frozen=True, slots=True)
class PastChange:
    """A line of the history of a person's or an organization's plan."""

    id: uuid.UUID
    before: str
    plan: str
    reason: str
    actor: str
    restarted: bool
    of_organization: bool
    at: datetime


def history(
    connection: Connection | Session,
    *,
    person_id: uuid.UUID | None = None,
    organization_id: uuid.UUID | None = None,
    before: uuid.UUID | None = None,
    size: int = 20,
) -> list[PastChange]:
    """Changes of a person's plan, and of an organization's as a whole, the latest first; `before` is the last id of the page
    before."""
    mine = []
    if person_id is not None:
        mine.append(PlanChange.person_id == person_id)
    if organization_id is not None:
        mine.append((PlanChange.organization_id == organization_id) & PlanChange.person_id.is_(None))
    if not mine:
        raise NotFound("There is no such history.")
    query = select(PlanChange.__table__).where(or_(*mine)).order_by(PlanChange.id.desc()).limit(size)
    if before is not None:
        query = query.where(PlanChange.id < before)
    return [
        PastChange(row.id, row.before, row.after, row.reason, row.actor, row.restarted, row.person_id is None, row.created_at)
        for row in connection.execute(query)
    ]


def _record(
    person_id: uuid.UUID | None,
    organization_id: uuid.UUID,
    before: str,
    after: str,
    reason: str,
    actor: Actor,
    restarted: bool,
) -> list[PlanChange | AuditEntry]:
    change = PlanChange(
        person_id=person_id,
        organization_id=organization_id,
        before=before,
        after=after,
        reason=reason,
        actor=actor.name[:255],
        restarted=restarted,
    )
    audit = AuditEntry(
        actor=actor.name[:255],
        actor_id=actor.person_id,
        action="person.plan" if person_id else "organization.plan",
        subject=f"person:{person_id}" if person_id else f"organization:{organization_id}",
        organization_id=organization_id,
        detail={"from": before, "to": after, "reason": reason, "restarted": restarted},
    )
    return [change, audit]
